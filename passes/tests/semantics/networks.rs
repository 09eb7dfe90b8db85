//! Random small float networks: convolutions with and without normalization, residual blocks, concatenations, pools, squeeze and excite.

use qcc_ir::{Attrs, Builder, Graph, Opcode, Tensor, Type, ValueId, attr, verify};
use qcc_num::random::Random;

/// Between 0 and 1.
fn uniform(random: &mut Random) -> f32 {
    random.bits() as f32 / u64::MAX as f32
}

/// Numbers that are nearly normal: each the sum of twelve uniforms.
fn normals(random: &mut Random, dims: &[usize], deviation: f32) -> Tensor {
    let mut normal = || (0..12).map(|_| uniform(random)).sum::<f32>() - 6.0;
    Tensor::f32(dims, (0..dims.iter().product()).map(|_| normal() * deviation).collect())
}

/// A float network in the making: its present value is f32 [N, C, H, W].
struct Maker<'g> {
    builder: Builder<'g>,
    random: Random,
    now: ValueId,
}

impl Maker<'_> {
    fn dims(&self, v: ValueId) -> Vec<usize> {
        self.builder.graph().ty(v).dims.clone()
    }

    fn add(&mut self, op: Opcode, operands: &[ValueId], attrs: Attrs) -> ValueId {
        let name = op.name().split('.').nth(1).unwrap();
        self.builder.add_inferred(op, operands, attrs, name, None).expect("the generator makes legal operations")
    }

    fn constant(&mut self, tensor: Tensor) -> ValueId {
        self.builder.add_const("c", tensor)
    }

    fn conv(&mut self, x: ValueId, outputs: usize, kernel: usize, stride: usize, groups: usize) -> ValueId {
        let inputs = self.dims(x)[1] / groups;
        let deviation = (2.0 / (inputs * kernel * kernel) as f32).sqrt();
        let w = normals(&mut self.random, &[outputs, inputs, kernel, kernel], deviation);
        let mut operands = vec![x, self.constant(w)];
        if self.random.below(2) == 0 {
            let bias = normals(&mut self.random, &[outputs], 0.3);
            operands.push(self.constant(bias));
        }
        let pad = (kernel / 2) as i64;
        let attrs = Attrs::new(Opcode::Conv2d)
            .with(attr::STRIDES, vec![stride as i64; 2])
            .with(attr::PADS, vec![pad; 4])
            .with(attr::GROUPS, groups as i64);
        self.add(Opcode::Conv2d, &operands, attrs)
    }

    fn norm(&mut self, x: ValueId) -> ValueId {
        let c = self.dims(x)[1];
        let random = &mut self.random;
        let gamma = Tensor::f32(&[c], (0..c).map(|_| 0.5 + uniform(random)).collect());
        let (beta, mean) = (normals(random, &[c], 0.2), normals(random, &[c], 0.2));
        let var = Tensor::f32(&[c], (0..c).map(|_| 0.5 + uniform(random)).collect());
        let mut operands = vec![x];
        operands.extend([gamma, beta, mean, var].map(|t| self.constant(t)));
        self.add(Opcode::BatchNorm, &operands, Attrs::new(Opcode::BatchNorm))
    }

    fn activation(&mut self, x: ValueId) -> ValueId {
        let op = self.random.pick(&[
            Opcode::Relu,
            Opcode::Relu,
            Opcode::Clip,
            Opcode::HardSwish,
            Opcode::Sigmoid,
            Opcode::LeakyRelu,
            Opcode::Swish,
        ]);
        let attrs = Attrs::new(op);
        let attrs = if op == Opcode::Clip { attrs.with(attr::MIN, 0.0f32).with(attr::MAX, 6.0f32) } else { attrs };
        self.add(op, &[x], attrs)
    }

    /// One more block.
    fn step(&mut self) {
        let x = self.now;
        let [n, c, h, w] = self.dims(x)[..] else { panic!("rank 4") };
        self.now = match self.random.below(10) {
            0..3 => {
                let outputs = self.random.pick(&[4, 8, 12]);
                let (kernel, stride) =
                    (self.random.pick(&[1, 3]), if h > 3 { self.random.pick(&[1, 1, 2]) } else { 1 });
                let y = self.conv(x, outputs, kernel, stride, 1);
                let y = if self.random.below(2) == 0 { self.norm(y) } else { y };
                self.activation(y)
            }
            3 => {
                let y = self.conv(x, c, 3, 1, c);
                let y = self.norm(y);
                self.activation(y)
            }
            4 | 5 => {
                let y = self.conv(x, c, 3, 1, 1);
                let sum = self.add(Opcode::Add, &[y, x], Attrs::new(Opcode::Add));
                if self.random.below(2) == 0 { self.activation(sum) } else { sum }
            }
            6 => {
                let y = self.norm(x);
                let y = self.activation(y);
                let y = self.conv(y, 4, 3, 1, 1);
                self.add(Opcode::Concat, &[x, y], Attrs::new(Opcode::Concat).with(attr::AXIS, 1))
            }
            7 if h > 2 => {
                let op = self.random.pick(&[Opcode::MaxPool, Opcode::AveragePool]);
                let attrs = Attrs::new(op).with(attr::KERNEL, vec![3, 3]).with(attr::STRIDES, vec![2, 2]);
                self.add(op, &[x], attrs.with(attr::PADS, vec![1, 1, 1, 1]))
            }
            8 => {
                // Squeeze and excite (Hu et al. 2018).
                let mean = Attrs::new(Opcode::ReduceMean).with(attr::AXES, vec![2, 3]);
                let y = self.add(Opcode::ReduceMean, &[x], mean);
                let y = self.conv(y, 4, 1, 1, 1);
                let y = self.add(Opcode::Relu, &[y], Attrs::new(Opcode::Relu));
                let y = self.conv(y, c, 1, 1, 1);
                let y = self.add(Opcode::Sigmoid, &[y], Attrs::new(Opcode::Sigmoid));
                self.add(Opcode::Mul, &[x, y], Attrs::new(Opcode::Mul))
            }
            _ => {
                let scale = normals(&mut self.random, &[1, c, 1, 1], 0.5);
                let scale = self.constant(scale);
                let op = self.random.pick(&[Opcode::Mul, Opcode::Add, Opcode::Sub]);
                let y = self.add(op, &[x, scale], Attrs::new(op));
                let bounds = vec![0, 0, 0, 0];
                let attrs = Attrs::new(Opcode::Slice).with(attr::STARTS, bounds).with(attr::STEPS, vec![1; 4]);
                let ends = vec![n as i64, c as i64, h as i64, (w - usize::from(w > 3)) as i64];
                self.add(Opcode::Slice, &[y], attrs.with(attr::ENDS, ends))
            }
        };
    }

    fn head(&mut self) -> Vec<ValueId> {
        let x = self.now;
        let [n, c, h, w] = self.dims(x)[..] else { panic!("rank 4") };
        let flat = if self.random.below(2) == 0 {
            let attrs = Attrs::new(Opcode::ReduceMean).with(attr::AXES, vec![2, 3]).with(attr::KEEPDIMS, false);
            self.add(Opcode::ReduceMean, &[x], attrs)
        } else {
            let attrs = Attrs::new(Opcode::Reshape).with(attr::SHAPE, vec![n as i64, (c * h * w) as i64]);
            self.add(Opcode::Reshape, &[x], attrs)
        };
        let k = self.dims(flat)[1];
        let w = normals(&mut self.random, &[10, k], (1.0 / k as f32).sqrt());
        let bias = normals(&mut self.random, &[10], 0.1);
        let operands = [flat, self.constant(w), self.constant(bias)];
        let logits = self.add(Opcode::Linear, &operands, Attrs::new(Opcode::Linear));
        match self.random.below(4) {
            0 => vec![self.add(Opcode::Softmax, &[logits], Attrs::new(Opcode::Softmax).with(attr::AXIS, 1))],
            1 => vec![logits, x],
            _ => vec![logits],
        }
    }
}

/// A network by its seed.
pub fn network(seed: u64) -> Graph {
    let mut graph = Graph::new("random");
    let mut builder = Builder::new(&mut graph);
    let x = builder.add_input("x", Type::f32(&[1, 3, 8, 8]));
    let mut maker = Maker { builder, random: Random::new(seed), now: x };
    maker.now = maker.conv(x, 8, 3, 1, 1);
    for _ in 0..2 + maker.random.below(6) {
        maker.step();
    }
    let outputs = maker.head();
    maker.builder.set_outputs(outputs);
    verify(&graph).unwrap();
    graph
}

/// Samples for it.
pub fn inputs(seed: u64, count: usize) -> Vec<Vec<Tensor>> {
    let mut random = Random::new(seed ^ 0xABCD);
    (0..count).map(|_| vec![normals(&mut random, &[1, 3, 8, 8], 1.0)]).collect()
}
