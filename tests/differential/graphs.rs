//! Random integer graphs, each from a seed.

mod elementwise;
mod low_bits;
mod matrices;
mod sixteen_bits;

use std::sync::Arc;

use qcc_ir::{Attrs, Builder, Data, Dialect, Elem, Graph, Int, Opcode, Tensor, Type, Uniform, ValueId, attr};
use qcc_num::random::Random;

pub use low_bits::random_low_bits;
pub use matrices::random_matrices;

/// A graph in the making: its present value is u8 [N, H, W, C].
struct Maker<'g> {
    builder: Builder<'g>,
    random: Random,
    now: ValueId,
    /// Values of earlier steps, for residuals and concatenation.
    earlier: Vec<ValueId>,
}

impl Maker<'_> {
    fn dims(&self) -> [usize; 4] {
        self.builder.graph().ty(self.now).dims.clone().try_into().expect("rank 4")
    }

    fn add(&mut self, op: Opcode, operands: &[ValueId], attrs: Attrs) -> ValueId {
        self.builder.add_inferred(op, operands, attrs, "v", None).expect("the generator makes legal operations")
    }

    fn step(&mut self, op: Opcode, operands: &[ValueId], attrs: Attrs) {
        self.earlier.push(self.now);
        self.now = self.add(op, operands, attrs);
    }

    /// As [`Maker::step`], unless the window may lie in the padding alone, which the operator refuses.
    fn pool_step(&mut self, op: Opcode, operands: &[ValueId], attrs: Attrs) {
        if let Ok(v) = self.builder.add_inferred(op, operands, attrs, "v", None) {
            self.earlier.push(std::mem::replace(&mut self.now, v));
        }
    }

    fn i8s(&mut self, dims: &[usize]) -> ValueId {
        let n = dims.iter().product();
        if self.random.below(4) == 0 {
            // A table of 16 values.
            let values: Vec<i8> = (0..16).map(|_| self.random.within(-127, 127) as i8).collect();
            let data = (0..n).map(|_| self.random.pick(&values)).collect();
            return self.builder.add_const("w", Tensor::new(dims, Data::I8(data)));
        }
        // Of each width that a format has; of one sign now and then, so that sums reach the ends of their range.
        let greatest = self.random.pick(&[127, 127, 63, 31, 15, 7, 3]);
        let least = -self.random.pick(&[greatest, greatest, 0, -greatest]);
        let data = (0..n).map(|_| self.random.within(least, greatest) as i8).collect();
        self.builder.add_const("w", Tensor::new(dims, Data::I8(data)))
    }

    fn i32s(&mut self, n: usize, lo: i64, hi: i64) -> ValueId {
        let data = (0..n).map(|_| self.random.within(lo, hi) as i32).collect();
        self.builder.add_const("c", Tensor::new(&[n], Data::I32(data)))
    }

    fn clamps(&mut self, attrs: Attrs) -> Attrs {
        let (lo, hi) = self.random.pick(&[(0, 255), (0, 255), (3, 250), (128, 255), (0, 15)]);
        attrs.with(attr::LO, lo).with(attr::HI, hi)
    }

    /// Constants of equations (1) to (4), or (15), that neither vanish nor saturate on sums of `terms` products.
    fn epilogue(&mut self, op: Attrs, terms: usize) -> (Attrs, i64) {
        let shl = self.random.pick(&[0, 0, 0, 1, 3]);
        let as_f32 = op.has(attr::F32_FRACTION_BITS) && self.random.below(3) == 0;
        let point = if as_f32 { self.random.within(33, 46) } else { 38 };
        let mult = ((1u64 << point >> shl) as f64 / (terms as f64).sqrt() / 120.0).min(f64::from(i32::MAX)) as i64;
        let zero = self.random.within(0, 255);
        let attrs = op.with(attr::SHL, shl).with(attr::OFFSET, if as_f32 { zero } else { 32 + 64 * zero });
        let attrs = if as_f32 { attrs.with(attr::F32_FRACTION_BITS, point) } else { attrs };
        (self.clamps(attrs), mult)
    }

    fn window(&mut self, op: Attrs, dilate: bool) -> (Attrs, [usize; 2]) {
        let [_, h, w, _] = self.dims();
        let kernel = [1 + self.random.below(3.min(h)), 1 + self.random.below(3.min(w))];
        let dilation = if dilate { self.random.pick(&[1, 1, 2]) } else { 1 };
        let pads: Vec<i64> = (0..4).map(|i| self.random.within(0, kernel[i % 2] as i64 - 1)).collect();
        let fits = |size: usize, k: usize, p: i64| (k - 1) * dilation < size + p as usize;
        let dilation =
            if fits(h, kernel[0], pads[0] + pads[2]) && fits(w, kernel[1], pads[1] + pads[3]) { dilation } else { 1 };
        let strides = vec![self.random.within(1, 2), self.random.within(1, 2)];
        let attrs = op.with(attr::STRIDES, strides).with(attr::PADS, pads);
        let attrs = if dilate { attrs.with(attr::DILATIONS, vec![dilation as i64; 2]) } else { attrs };
        (attrs, kernel)
    }

    fn conv(&mut self) {
        let [_, _, _, c] = self.dims();
        let groups = match self.random.below(4) {
            0 => c,
            1 if c % 2 == 0 => 2,
            _ => 1,
        };
        let outputs = groups * (1 + self.random.below(if groups == 1 { 70 } else { 3 }));
        let (attrs, kernel) = self.window(Attrs::new(Opcode::QConv2d), true);
        let terms = kernel[0] * kernel[1] * c / groups;
        let (attrs, mult) = self.epilogue(attrs, terms);
        let attrs = attrs.with(attr::GROUPS, groups as i64).with(attr::PAD_VALUE, self.random.within(0, 255));
        let w = self.i8s(&[outputs, kernel[0], kernel[1], c / groups]);
        let bias = self.i32s(outputs, -20000, 20000);
        let mult = self.i32s(outputs, mult / 2, mult);
        let plain = self
            .builder
            .add_inferred(Opcode::QConv2d, &[self.now, w, bias, mult], attrs.clone(), "v", None)
            .expect("legal");
        let ty = self.builder.graph().ty(plain).clone();
        let partner = self.earlier.iter().copied().find(|&v| *self.builder.graph().ty(v) == ty);
        match partner.filter(|_| self.random.below(2) == 0) {
            Some(r) => {
                let attrs =
                    attrs.with(attr::RESIDUAL_MULT, self.random.within(1000, 32767)).with(attr::F32_FRACTION_BITS, 0);
                self.step(Opcode::QConv2d, &[self.now, w, bias, mult, r], attrs);
            }
            None => {
                self.earlier.push(self.now);
                self.now = plain;
            }
        }
    }

    fn raw_conv(&mut self) {
        let [_, _, _, c] = self.dims();
        let (attrs, kernel) = self.window(Attrs::new(Opcode::IConv2d), true);
        let outputs = 1 + self.random.below(40);
        let w = self.i8s(&[outputs, kernel[0], kernel[1], c]);
        let bias = self.i32s(outputs, -20000, 20000);
        let acc = self.add(Opcode::IConv2d, &[self.now, w, bias], attrs);
        let (attrs, mult) = self.epilogue(Attrs::new(Opcode::Requant), kernel[0] * kernel[1] * c);
        let n = self.random.pick(&[1, outputs]);
        let mult = self.i32s(n, mult / 2, mult);
        self.step(Opcode::Requant, &[acc, mult], attrs);
    }

    fn pool(&mut self) {
        match self.random.below(3) {
            0 => {
                let (attrs, kernel) = self.window(Attrs::new(Opcode::IMaxPool), true);
                self.pool_step(Opcode::IMaxPool, &[self.now], attrs.with(attr::KERNEL, kernel.as_slice()));
            }
            1 => {
                let (mut attrs, mut kernel) = self.window(Attrs::new(Opcode::IAveragePool), false);
                if self.random.below(4) == 0 {
                    let [_, h, w, _] = self.dims();
                    (attrs, kernel) = (attrs.with(attr::PADS, vec![0; 4]), [h, w]);
                }
                let (attrs, _) = self.epilogue(attrs, 1);
                let attrs = attrs
                    .with(attr::KERNEL, kernel.as_slice())
                    .with(attr::ZERO, self.random.within(0, 255))
                    .with(attr::SHL, 7);
                let mult = self.i32s(1, 1 << 28, (1 << 31) - 1);
                self.pool_step(Opcode::IAveragePool, &[self.now, mult], attrs);
            }
            _ => {
                let [_, h, w, _] = self.dims();
                let (attrs, _) = self.epilogue(Attrs::new(Opcode::IMean), 1);
                let axes = self.random.pick(&[[1, 2], [2, 3], [1, 3]]);
                let mult = ((1u64 << 31) / (h * w) as u64) as i64;
                let attrs = attrs
                    .with(attr::AXES, axes.to_vec())
                    .with(attr::ZERO, 100)
                    .with(attr::MULT, mult.min(i64::from(i32::MAX)))
                    .with(attr::SHL, 7);
                self.step(Opcode::IMean, &[self.now], attrs);
            }
        }
    }

    /// A dense block: every step sees all that came before it.
    fn dense_block(&mut self) {
        for _ in 0..1 + self.random.below(3) {
            let before = self.now;
            if self.dims()[3] > 70 {
                return;
            }
            let around = self.dims();
            self.elementwise();
            if self.dims()[..3] != around[..3] {
                return;
            }
            let attrs = Attrs::new(Opcode::Concat).with(attr::AXIS, 3i64);
            self.step(Opcode::Concat, &[before, self.now], attrs);
        }
    }

    /// A matrix product of every pixel's channels: its rows may lie in the halo of a window, in a part of a concatenation.
    fn of_pixels(&mut self) {
        let [n, h, w, c] = self.dims();
        let outputs = if self.random.below(2) == 0 { c } else { 1 + self.random.below(70) };
        let (attrs, mult) = self.epilogue(Attrs::new(Opcode::QLinear), c);
        let (weights, bias) = (self.i8s(&[outputs, c]), self.i32s(outputs, -20000, 20000));
        let mut operands = vec![self.now, weights, bias, self.i32s(outputs, mult / 2, mult)];
        let same = |&v: &ValueId| self.builder.graph().ty(v).dims == [n, h, w, outputs];
        let partner = self.earlier.iter().copied().find(same).filter(|_| attrs.get(attr::F32_FRACTION_BITS) == 0);
        let attrs = match partner {
            Some(residual) if self.builder.graph().ty(residual).elem == self.builder.graph().ty(self.now).elem => {
                operands.push(residual);
                attrs.with(attr::RESIDUAL_MULT, self.random.within(1000, 32767))
            }
            _ => attrs,
        };
        self.step(Opcode::QLinear, &operands, attrs);
    }

    fn movement(&mut self) {
        let dims = self.dims();
        match self.random.below(7) {
            0 => {
                let perm = self.random.pick(&[[0, 3, 1, 2], [0, 2, 1, 3], [0, 2, 3, 1], [0, 1, 3, 2]]);
                self.step(
                    Opcode::Transpose,
                    &[self.now],
                    Attrs::new(Opcode::Transpose).with(attr::PERM, perm.to_vec()),
                );
            }
            1 => {
                let shape = vec![dims[0] as i64, dims[2] as i64, dims[1] as i64, dims[3] as i64];
                self.step(Opcode::Reshape, &[self.now], Attrs::new(Opcode::Reshape).with(attr::SHAPE, shape));
            }
            2 => {
                let steps: Vec<i64> = dims.iter().map(|_| self.random.within(1, 2)).collect();
                let starts: Vec<i64> = dims.iter().map(|&d| self.random.below(d.min(2)) as i64).collect();
                let ends: Vec<i64> = dims.iter().map(|&d| d as i64).collect();
                let attrs = Attrs::new(Opcode::Slice)
                    .with(attr::STARTS, starts)
                    .with(attr::ENDS, ends)
                    .with(attr::STEPS, steps);
                self.step(Opcode::Slice, &[self.now], attrs);
            }
            3 => {
                let pads: Vec<i64> = (0..8).map(|i| if i % 4 == 0 { 0 } else { self.random.within(0, 2) }).collect();
                let value = self.random.below(256) as f32;
                self.step(
                    Opcode::Pad,
                    &[self.now],
                    Attrs::new(Opcode::Pad).with(attr::PADS, pads).with(attr::VALUE, value),
                );
            }
            4 => {
                let other = self.partner();
                let ty = self.builder.graph().ty(other).clone();
                if ty.dims == dims {
                    let attrs = Attrs::new(Opcode::Concat).with(attr::AXIS, self.random.pick(&[1i64, 2, 3, 3, 3]));
                    self.step(Opcode::Concat, &[self.now, other, self.now], attrs);
                }
            }
            5 => self.look_up(),
            _ => {
                let axis = 1 + self.random.below(3);
                let indices = (0..3).map(|_| self.random.within(-(dims[axis] as i64), dims[axis] as i64 - 1)).collect();
                let indices = self.builder.add_const("i", Tensor::new(&[3], Data::I64(indices)));
                let attrs = Attrs::new(Opcode::Gather).with(attr::AXIS, axis as i64);
                self.step(Opcode::Gather, &[self.now, indices], attrs);
            }
        }
    }

    /// Slices at computed positions, which may lie outside.
    fn look_up(&mut self) {
        let dims = self.dims();
        let k = 1 + self.random.below(dims[3].min(5));
        let attrs = Attrs::new(Opcode::TopKIndex).with(attr::AXIS, 3i64).with(attr::K, k as i64);
        let all = self.add(Opcode::TopKIndex, &[self.now], attrs);
        let attrs = Attrs::new(Opcode::Slice).with(attr::STARTS, vec![0; 4]).with(attr::STEPS, vec![1; 4]);
        let row = self.add(Opcode::Slice, &[all], attrs.with(attr::ENDS, vec![1, 1, 1, k as i64]));
        let row = self.add(Opcode::Reshape, &[row], Attrs::new(Opcode::Reshape).with(attr::SHAPE, vec![k as i64]));
        let attrs = Attrs::new(Opcode::Gather).with(attr::AXIS, 1 + self.random.below(3) as i64);
        let attrs = attrs.with(attr::WRAP, self.random.below(2) == 0);
        self.step(Opcode::Gather, &[self.now, row], attrs);
    }

    /// A matrix product at the end, of all elements or of the channels of each pixel.
    fn linear(&mut self) {
        let dims = self.dims();
        let rows = self.random.pick(&[dims[0], dims[0] * dims[1] * dims[2]]);
        let k = dims.iter().product::<usize>() / rows;
        let shape = vec![rows as i64, k as i64];
        self.step(Opcode::Reshape, &[self.now], Attrs::new(Opcode::Reshape).with(attr::SHAPE, shape));
        let outputs = 1 + self.random.below(150);
        let (w, bias) = (self.i8s(&[outputs, k]), self.i32s(outputs, -20000, 20000));
        let (attrs, mult) = self.epilogue(Attrs::new(Opcode::QLinear), k);
        let mult = self.i32s(outputs, mult / 2, mult);
        self.step(Opcode::QLinear, &[self.now, w, bias, mult], attrs);
    }
}

fn uniform(random: &mut Random) -> Elem {
    Elem::Uniform(Arc::new(Uniform::per_tensor(
        Int::U8,
        0.01 + random.below(100) as f32 / 300.0,
        random.within(0, 255),
    )))
}

pub fn random_graph(seed: u64) -> Graph {
    let mut graph = Graph::new("random");
    let mut random = Random::new(seed);
    let mut builder = Builder::new(&mut graph);
    let channels = random.pick(&[1, 3, 4, 5, 8, 16, 17, 32, 40, 64, 65, 96, 130]);
    let dims = [1 + random.below(2), 1 + random.below(9), 1 + random.below(20), channels];
    let elem = uniform(&mut random);
    let now = builder.add_input("input", Type { dims: dims.to_vec(), elem });
    let steps = 1 + random.below(7);
    let mut m = Maker { builder, random, now, earlier: Vec::new() };
    for _ in 0..steps {
        match m.random.below(11) {
            0..=2 => m.conv(),
            8 => m.dense_block(),
            9 => m.sixteen_bits(),
            10 => m.curve(),
            3 => m.raw_conv(),
            4 => m.pool(),
            5 => m.movement(),
            6 => m.of_pixels(),
            _ => m.elementwise(),
        }
    }
    if m.random.below(3) == 0 {
        m.linear();
    }
    let mut outputs = vec![m.now];
    if let Some(&other) = m.earlier.last().filter(|_| m.random.below(4) == 0) {
        outputs.push(other);
    }
    for &v in &outputs {
        let elem = uniform(&mut m.random);
        let producer = m.builder.graph().producer(v).map(|n| m.builder.graph().op(n).info().dialect());
        if producer == Some(Dialect::Int) {
            m.builder.set_elem(v, elem);
        }
    }
    m.builder.set_outputs(outputs);
    m.builder.remove_dead();
    graph
}
