//! Random products of two matrices, and what transformers put around them: rows of all lengths.

use qcc_ir::{Attrs, Builder, Data, Graph, Opcode, Tensor, Type, ValueId, attr};
use qcc_num::random::Random;

use super::{Maker, uniform};

impl Maker<'_> {
    /// A product with a matrix, or with several of which some serve for more than one of the present value.
    fn product(&mut self) {
        let [n, h, rows, depth] = self.dims();
        let most = self.random.pick(&[20, 150]);
        let columns = 1 + self.random.below(most);
        let outer = self.random.pick(&[[n, h], [1, h], [n, 1], [1, 1]]);
        let on_the_left = self.random.below(4) == 0;
        let dims = if on_the_left { [outer[0], outer[1], columns, rows] } else { [outer[0], outer[1], depth, columns] };
        let data = (0..dims.iter().product()).map(|_| self.random.below(256) as u8).collect();
        let other = self.builder.add_const("matrix", Tensor::new(&dims, Data::U8(data)));
        let terms = if on_the_left { rows } else { depth };
        let zero = |r: &mut Random| r.pick(&[0, 128, 1, 77, 254, 255]);
        let zeros = vec![zero(&mut self.random), zero(&mut self.random)];
        let operands = if on_the_left { [other, self.now] } else { [self.now, other] };
        if self.random.below(3) == 0 {
            let acc = self.add(Opcode::IMatMul, &operands, Attrs::new(Opcode::IMatMul).with(attr::ZEROS, zeros));
            return self.requant(acc, terms * 4);
        }
        let (attrs, mult) = self.epilogue(Attrs::new(Opcode::QMatMul), terms * 4);
        let attrs = attrs.with(attr::ZEROS, zeros).with(attr::MULT, mult / 2);
        self.step(Opcode::QMatMul, &operands, attrs);
    }

    /// Codes of accumulators that are sums of so many products.
    fn requant(&mut self, acc: ValueId, terms: usize) {
        let (attrs, mult) = self.epilogue(Attrs::new(Opcode::Requant), terms);
        let mult = self.i32s(1, mult / 2, mult);
        self.step(Opcode::Requant, &[acc, mult], attrs);
    }

    fn softmax(&mut self) {
        let table = self.exponentials();
        let length = self.dims()[3] as i64;
        let attrs = Attrs::new(Opcode::ISoftmax)
            .with(attr::MULT, self.random.within(256, 256 + 1000 * length))
            .with(attr::MASKED, self.random.below(2) == 0);
        self.step(Opcode::ISoftmax, &[self.now, table], attrs);
    }

    fn exponentials(&mut self) -> ValueId {
        let decay = self.random.pick(&[1.0, 20.0, 1000.0]);
        let data = (0..256).map(|i| (8_000_000.0 * (-f64::from(i) / decay).exp()) as i32).collect();
        self.builder.add_const("exp", Tensor::new(&[256], Data::I32(data)))
    }

    fn layer_norm(&mut self) {
        let c = self.dims()[3];
        let (m, n) = (self.random.pick(&[1, c]), self.random.pick(&[1, c]));
        let most = self.random.pick(&[40_000, i64::from(i32::MAX)]);
        let (mult, offset) = (self.i32s(m, -most, most), self.i32s(n, -2000, 18000));
        let epsilon = self.random.pick(&[0, 1, 1 << 30]);
        let axis = self.random.pick(&[3i64, 3, 3, 2]);
        if self.random.below(3) == 0 {
            let scale =
                vec![self.random.within(1 << 30, i64::from(i32::MAX)) as i32, self.random.within(-50, 0) as i32];
            let scale = self.builder.add_const("scale", Tensor::new(&[2], Data::I32(scale)));
            let attrs = Attrs::new(Opcode::DynamicNorm).with(attr::AXIS, axis).with(attr::INT_EPSILON, epsilon);
            let attrs = attrs.with(attr::EXPONENT, self.random.within(-60, 30));
            let acc = self.add(Opcode::DynamicNorm, &[self.now, scale, mult, offset], attrs);
            return self.requant(acc, 1 + (most as usize >> 16));
        }
        let attrs = Attrs::new(Opcode::ILayerNorm).with(attr::AXIS, axis);
        let attrs = self.clamps(attrs.with(attr::INT_EPSILON, epsilon));
        self.step(Opcode::ILayerNorm, &[self.now, mult, offset], attrs);
    }
}

/// A few steps on matrices [N, H, M, K].
pub fn random_matrices(seed: u64) -> Graph {
    let mut graph = Graph::new("matrices");
    let mut random = Random::new(seed);
    let mut builder = Builder::new(&mut graph);
    let longest = random.pick(&[8, 40, 300]);
    let dims = [1 + random.below(2), 1 + random.below(3), 1 + random.below(40), 1 + random.below(longest)];
    let elem = uniform(&mut random);
    let now = builder.add_input("input", Type { dims: dims.to_vec(), elem });
    let steps = 1 + random.below(3);
    let mut m = Maker { builder, random, now, earlier: Vec::new() };
    for _ in 0..steps {
        match m.random.below(4) {
            0 => m.softmax(),
            1 => m.layer_norm(),
            _ => m.product(),
        }
    }
    let elem = uniform(&mut m.random);
    if m.now != now {
        m.builder.set_elem(m.now, elem);
    }
    m.builder.set_outputs(vec![m.now]);
    m.builder.remove_dead();
    graph
}
