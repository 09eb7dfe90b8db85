//! Products whose weights are few values, in the sizes that tell the ways of decoding them apart.

use qcc_ir::{Attrs, Builder, Data, Graph, Opcode, Tensor, Type, ValueId, attr};
use qcc_num::random::Random;

use super::{Maker, uniform};

impl Maker<'_> {
    /// Weights of up to 16 values, a linear format's or any.
    fn few_values(&mut self, dims: &[usize]) -> ValueId {
        let values: Vec<i8> = match self.random.below(3) {
            0 => (-8..=7).collect(),
            1 => (-3..=3).collect(),
            _ => (0..15).map(|_| self.random.within(-127, 127) as i8).chain([0]).collect(),
        };
        let data = (0..dims.iter().product()).map(|_| self.random.pick(&values)).collect();
        self.builder.add_const("w", Tensor::new(dims, Data::I8(data)))
    }

    /// The operands of a product of few values, and how it is requantized.
    fn low_bits(&mut self, op: Opcode, dims: &[usize]) -> ([ValueId; 4], Attrs) {
        let (outputs, terms) = (dims[0], dims[1..].iter().product());
        let (attrs, mult) = self.epilogue(Attrs::new(op), terms);
        let weights = self.few_values(dims);
        let (bias, mult) = (self.i32s(outputs, -20000, 20000), self.i32s(outputs, mult / 2, mult));
        ([self.now, weights, bias, mult], attrs)
    }
}

/// Images, rows, columns and channels of the input; channels of the result, side of the kernel.
const CONVOLUTIONS: [([usize; 4], usize, usize); 6] = [
    // Codes of all blocks are decoded ahead: several chunks of rows, several images, a rest of channels.
    ([1, 20, 20, 16], 64, 3),
    ([2, 5, 7, 20], 100, 3),
    ([1, 9, 9, 7], 100, 1),
    // Each block by its unit: more weights than stay in a cache, border rows.
    ([1, 4, 5, 64], 700, 3),
    // Few rows: in the microkernel; in an odd number of vectors, too.
    ([1, 2, 2, 96], 72, 1),
    ([1, 2, 3, 24], 80, 2),
];

/// Rows, depth and columns.
const MATRICES: [[usize; 3]; 6] =
    // More blocks than units, the last of them not full; one row, several tiles of rows, a depth that is no whole step.
    [[9, 200, 2100], [1, 601, 130], [7, 300, 200], [3, 1030, 1000], [12, 64, 640], [1, 4097, 20]];

/// A product, or two, of few values.
pub fn random_low_bits(seed: u64) -> Graph {
    let mut graph = Graph::new("random");
    let mut random = Random::new(seed);
    let mut builder = Builder::new(&mut graph);
    let elem = uniform(&mut random);
    let case = seed as usize % (CONVOLUTIONS.len() + MATRICES.len());
    let dims = match CONVOLUTIONS.get(case) {
        Some((dims, ..)) => dims.to_vec(),
        None => MATRICES[case - CONVOLUTIONS.len()][..2].to_vec(),
    };
    let now = builder.add_input("input", Type { dims: dims.clone(), elem });
    let mut m = Maker { builder, random, now, earlier: Vec::new() };
    if let Some(&(_, outputs, side)) = CONVOLUTIONS.get(case) {
        let (operands, attrs) = m.low_bits(Opcode::QConv2d, &[outputs, side, side, dims[3]]);
        let pads = vec![(side / 2) as i64; 4];
        let attrs = attrs.with(attr::PADS, pads).with(attr::STRIDES, vec![1, 1]).with(attr::DILATIONS, vec![1, 1]);
        let attrs = attrs.with(attr::GROUPS, 1i64).with(attr::PAD_VALUE, m.random.within(0, 255));
        m.step(Opcode::QConv2d, &operands, attrs);
    } else {
        let outputs = MATRICES[case - CONVOLUTIONS.len()][2];
        let (operands, attrs) = m.low_bits(Opcode::QLinear, &[outputs, dims[1]]);
        m.step(Opcode::QLinear, &operands, attrs);
        let (operands, attrs) = m.low_bits(Opcode::QLinear, &[33, outputs]);
        m.step(Opcode::QLinear, &operands, attrs);
    }
    let (now, elem) = (m.now, uniform(&mut m.random));
    m.builder.set_elem(now, elem);
    m.builder.set_outputs(vec![now]);
    m.builder.remove_dead();
    graph
}
