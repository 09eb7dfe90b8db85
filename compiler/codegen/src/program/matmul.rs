//! Product of two computed matrices. See `int.qmatmul` and `int.matmul` in the operator table.
//!
//! [`packed`] does it at the speed of convolutions. What that refuses, a few rows or scattered columns, is done here: two rows by
//! sixteen columns at a time, products of two neighbours in depth added in pairs (`pmaddwd`), requantized in registers if they are to be.

mod packed;

use cranelift_codegen::ir::{InstBuilder, Value, types};
use qcc_ir::ops::IntOp;
use qcc_ir::{Attrs, Diags, attr};
use qcc_num::requant::Epilogue;

use super::Builder;
use super::step::{Cost, Operation};
use super::task::Task;
use crate::clif::{self, VECTOR};
use crate::kernel::conv::{ConvSpec, Output};
use crate::plan::Place;
use packed::Packed;

/// Rows that a unit computes.
const ROWS: usize = 2;

/// A product with its operands broadcast to the result's outer dimensions.
struct MatMul {
    a: Place,
    b: Place,
    result: Place,
    zeros: [i64; 2],
    /// Multiplier and rule of the requantization; without them the result is accumulators.
    requant: Option<(i64, Epilogue)>,
}

impl Builder<'_> {
    pub(super) fn matmul(&mut self, o: &Operation<'_>, op: IntOp) -> Result<(), Diags> {
        let product = MatMul::new(op, o.attrs, o.operands, o.result);
        let cost = Cost { macs: product.macs(), ..Cost::of(product.describe()) };
        let scratch = self.plan.scratch.get(&o.node);
        match scratch.and_then(|&scratch| Packed::new(&product, self.shape(), scratch)) {
            Some(packed) => self.packed_matmul(o, &packed, cost),
            None => self.task_of(o, product.units(), cost, |t| product.emit(t)),
        }
    }
}

/// Addresses of a unit: its rows of `a`, the matrix `b`, its rows of the result.
struct Unit {
    a: [Value; ROWS],
    b: Value,
    result: [Value; ROWS],
}

impl MatMul {
    /// The product that a node stands for.
    fn new(op: IntOp, attrs: &Attrs, operands: &[Place], result: &Place) -> MatMul {
        let rank = result.dims.len();
        let widened = |p: &Place| {
            let matrix = p.dims.len() - 2;
            let dims = [&result.dims[..rank - 2], &p.dims[matrix..]].concat();
            p.broadcast(&dims)
        };
        let zeros = attrs.get(attr::ZEROS);
        MatMul {
            a: widened(&operands[0]),
            b: widened(&operands[1]),
            result: result.clone(),
            zeros: [zeros[0], zeros[1]],
            requant: (op == IntOp::QMatMul).then(|| (attrs.get(attr::MULT), super::elementwise::epilogue_of(attrs))),
        }
    }

    /// Multiply-accumulates.
    fn macs(&self) -> u64 {
        (self.result.elements() * self.depth()) as u64
    }

    /// `m x k x n`.
    fn describe(&self) -> String {
        let [m, n] = self.matrix();
        format!("{} {m}x{}x{n}", if self.requant.is_some() { "qmatmul" } else { "matmul" }, self.depth())
    }

    fn rank(&self) -> usize {
        self.result.dims.len()
    }

    fn matrix(&self) -> [usize; 2] {
        [self.result.dims[self.rank() - 2], self.result.dims[self.rank() - 1]]
    }

    fn depth(&self) -> usize {
        self.a.dims[self.rank() - 1]
    }

    /// Matrices of the result.
    fn outer(&self) -> usize {
        self.result.dims[..self.rank() - 2].iter().product()
    }

    /// `c` of [`packed`].
    fn row_factor(&self) -> i64 {
        128 - self.zeros[1]
    }

    /// Whether rows have terms of their own in [`packed`].
    fn has_terms(&self) -> bool {
        self.row_factor() != 0
    }

    /// Some rows times some columns as a convolution: rows are its pixels.
    fn spec(&self, columns: usize, rows: usize) -> ConvSpec {
        let [a_row, result_row] = [&self.a, &self.result].map(|p| p.strides[self.rank() - 2]);
        let [za, zb] = self.zeros.map(|zero| zero.max(255 - zero) as u64);
        let greatest = u32::try_from(self.depth() as u64 * za * zb).unwrap_or(u32::MAX);
        ConvSpec {
            width: rows,
            panel: 0,
            strip: 1,
            channels: columns,
            k_rows: 1,
            left_out: [0; 2],
            k_row_step: 0,
            segments: 1,
            segment_step: 0,
            run: self.depth(),
            pixel_step: a_row,
            in_row_step: rows * a_row,
            out_pixel_step: result_row,
            out_row_step: rows * result_row,
            ahead: 0,
            pixel_terms: self.has_terms(),
            output: self.requant.map_or(Output::Raw, |(_, epilogue)| Output::Requant {
                epilogue,
                residual: None,
                acc_bound: Some(greatest),
            }),
        }
    }

    /// Units: a pair of rows of a matrix.
    fn units(&self) -> usize {
        self.outer() * self.matrix()[0].div_ceil(ROWS)
    }

    /// Emits the task.
    fn emit(&self, t: &mut Task<'_>) {
        let (rank, [m, n]) = (self.rank(), self.matrix());
        let (a, b, result) = (t.address(&self.a), t.address(&self.b), t.address(&self.result));
        t.units(&mut |t, unit| {
            let (matrix, pair) = t.divide(unit, m.div_ceil(ROWS));
            let strides = [&self.a, &self.b, &self.result].map(|p| &p.strides[..]);
            let [a, b, result] = t.element(matrix, &self.result.dims[..rank - 2], [a, b, result], strides);
            // The last pair of an odd number of rows is one row twice.
            let first = t.b.ins().imul_imm_s(pair, ROWS as i64);
            let last = t.word(m - 1);
            let second = t.b.ins().iadd_imm_s(first, 1);
            let second = t.b.ins().umin(second, last);
            let rows = [first, second];
            let unit = Unit {
                a: rows.map(|r| t.at(a, r, self.a.strides[rank - 2])),
                b,
                result: rows.map(|r| t.at(result, r, self.result.strides[rank - 2])),
            };
            t.count(n / VECTOR, &mut |t, block| {
                let column = t.b.ins().imul_imm_s(block, VECTOR as i64);
                self.block(t, &unit, column, VECTOR);
            });
            if !n.is_multiple_of(VECTOR) {
                let column = t.word(n - n % VECTOR);
                self.block(t, &unit, column, n % VECTOR);
            }
        });
    }

    /// The unit's rows of `lanes` columns.
    fn block(&self, t: &mut Task<'_>, unit: &Unit, column: Value, lanes: usize) {
        let (rank, k) = (self.rank(), self.depth());
        let b = t.at(unit.b, column, self.b.strides[rank - 1]);
        let zero = clif::splat(&mut t.b, types::I32X4, 0);
        let sums: Vec<_> = (0..4 * ROWS)
            .map(|_| {
                let sum = t.b.declare_var(types::I32X4);
                t.b.def_var(sum, zero);
                sum
            })
            .collect();
        let step = |t: &mut Task<'_>, depth: Value, taps: usize| {
            let b0 = t.at(b, depth, self.b.strides[rank - 2]);
            let words = self.words(t, b0, lanes, taps);
            for (row, sums) in sums.chunks(4).enumerate() {
                let at = t.at(unit.a[row], depth, self.a.strides[rank - 1]);
                let pair = self.pair(t, at, taps);
                for (sum, words) in sums.iter().zip(words) {
                    let products = clif::dot_pairs(&mut t.b, words, pair);
                    let old = t.b.use_var(*sum);
                    let new = t.b.ins().iadd(old, products);
                    t.b.def_var(*sum, new);
                }
            }
        };
        t.count(k / 2, &mut |t, i| {
            let depth = t.b.ins().imul_imm_s(i, 2);
            step(t, depth, 2);
        });
        if k % 2 == 1 {
            let depth = t.word(k - 1);
            step(t, depth, 1);
        }
        for (row, sums) in sums.chunks(4).enumerate() {
            let acc = [0, 1, 2, 3].map(|i| t.b.use_var(sums[i]));
            let column = t.at(unit.result[row], column, self.result.strides[rank - 1]);
            self.store(t, acc, column, lanes);
        }
    }

    fn store(&self, t: &mut Task<'_>, acc: [Value; 4], at: Value, lanes: usize) {
        let step = self.result.strides[self.rank() - 1];
        let is_dense = step == self.result.element || lanes == 1;
        let Some((mult, epilogue)) = &self.requant else {
            if is_dense {
                return clif::store_lanes(&mut t.b, types::I32, &acc, at, lanes);
            }
            for i in 0..lanes {
                let sum = t.b.ins().extractlane(acc[i / 4], (i % 4) as u8);
                t.b.ins().store(clif::memory(), sum, at, (i * step) as i32);
            }
            return;
        };
        let mult = clif::splat(&mut t.b, types::I32X4, *mult);
        let bytes = clif::requantize(&mut t.b, acc, [mult; 4], epilogue);
        if is_dense {
            return clif::store_bytes(&mut t.b, bytes, at, 0, lanes);
        }
        for i in 0..lanes {
            let byte = t.b.ins().extractlane(bytes, i as u8);
            t.b.ins().store(clif::memory(), byte, at, (i * step) as i32);
        }
    }

    fn load(&self, t: &mut Task<'_>, at: Value, lanes: usize) -> Value {
        let step = self.b.strides[self.rank() - 1];
        if step == 1 || lanes == 1 {
            return clif::load_bytes(&mut t.b, at, 0, lanes);
        }
        let mut bytes = clif::splat(&mut t.b, types::I8X16, 0);
        for i in 0..lanes {
            let byte = t.b.ins().load(types::I8, clif::memory(), at, (i * step) as i32);
            bytes = t.b.ins().insertlane(bytes, byte, i as u8);
        }
        bytes
    }

    /// Sixteen columns of one or two neighbours in depth, less their zero point, each pair side by side in 16-bit lanes.
    fn words(&self, t: &mut Task<'_>, at: Value, lanes: usize, taps: usize) -> [Value; 4] {
        let first = self.load(t, at, lanes);
        let second = if taps == 2 {
            let at = t.plus(at, self.b.strides[self.rank() - 2]);
            self.load(t, at, lanes)
        } else {
            first
        };
        let zero = clif::splat(&mut t.b, types::I16X8, self.zeros[1]);
        let [low, high] = clif::interleave_bytes(&mut t.b, first, second);
        let halves = [
            t.b.ins().uwiden_low(low),
            t.b.ins().uwiden_high(low),
            t.b.ins().uwiden_low(high),
            t.b.ins().uwiden_high(high),
        ];
        halves.map(|h| t.b.ins().isub(h, zero))
    }

    /// One or two neighbours of a row, less their zero point, in every pair of 16-bit lanes; an absent one is 0.
    fn pair(&self, t: &mut Task<'_>, at: Value, taps: usize) -> Value {
        let step = self.a.strides[self.rank() - 1];
        let mut word = |i: usize| {
            let byte = t.b.ins().load(types::I8, clif::memory(), at, (i * step) as i32);
            let wide = t.b.ins().uextend(types::I32, byte);
            t.b.ins().iadd_imm_s(wide, -self.zeros[0])
        };
        let first = word(0);
        let second = (taps == 2).then(|| word(1));
        let low = t.b.ins().band_imm_s(first, 0xFFFF);
        let both = match second {
            Some(second) => {
                let high = t.b.ins().ishl_imm_s(second, 16);
                t.b.ins().bor(low, high)
            }
            None => low,
        };
        let splat = t.b.ins().splat(types::I32X4, both);
        clif::cast(&mut t.b, types::I16X8, splat)
    }
}
