//! Product of two computed matrices: two rows by sixteen columns at a time, products of two neighbours in depth added in pairs
//! (`pmaddwd`), requantized in registers. See `int.qmatmul` in the operator table.

use cranelift_codegen::ir::{InstBuilder, Value, types};
use qcc_ir::Attrs;
use qcc_num::requant::Epilogue;

use super::task::Task;
use crate::clif::{self, VECTOR};
use crate::plan::Place;

/// Rows that a unit computes.
const ROWS: usize = 2;

/// A product with its operands broadcast to the result's outer dimensions.
pub struct MatMul {
    a: Place,
    b: Place,
    result: Place,
    zeros: [i64; 2],
    mult: i64,
    epilogue: Epilogue,
}

/// Addresses of a unit: its rows of `a`, the matrix `b`, its rows of the result.
struct Unit {
    a: [Value; ROWS],
    b: Value,
    result: [Value; ROWS],
}

impl MatMul {
    /// The product that a node stands for.
    pub fn new(attrs: &Attrs, operands: &[Place], result: &Place) -> MatMul {
        let rank = result.dims.len();
        let widened = |p: &Place| {
            let matrix = p.dims.len() - 2;
            let dims = [&result.dims[..rank - 2], &p.dims[matrix..]].concat();
            p.broadcast(&dims)
        };
        let zeros = attrs.ints("zeros");
        MatMul {
            a: widened(&operands[0]),
            b: widened(&operands[1]),
            result: result.clone(),
            zeros: [zeros[0], zeros[1]],
            mult: attrs.int("mult"),
            epilogue: super::elementwise::epilogue_of(attrs),
        }
    }

    /// Multiply-accumulates.
    pub fn macs(&self) -> u64 {
        (self.result.elements() * self.depth()) as u64
    }

    /// `m x k x n`.
    pub fn describe(&self) -> String {
        let [m, n] = self.matrix();
        format!("qmatmul {m}x{}x{n}", self.depth())
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

    /// Units: a pair of rows of a matrix.
    pub fn units(&self) -> usize {
        let outer: usize = self.result.dims[..self.rank() - 2].iter().product();
        outer * self.matrix()[0].div_ceil(ROWS)
    }

    /// Emits the task.
    pub fn emit(&self, t: &mut Task<'_>) {
        let (rank, [m, n]) = (self.rank(), self.matrix());
        let (a, b, result) = (t.address(&self.a), t.address(&self.b), t.address(&self.result));
        t.units(&mut |t, unit| {
            let pairs = t.word(m.div_ceil(ROWS));
            let (mut rest, pair) = (t.b.ins().udiv(unit, pairs), t.b.ins().urem(unit, pairs));
            let (mut a, mut b, mut result) = (a, b, result);
            for d in (0..rank - 2).rev() {
                let extent = t.word(self.result.dims[d]);
                let index = t.b.ins().urem(rest, extent);
                rest = t.b.ins().udiv(rest, extent);
                a = t.at(a, index, self.a.strides[d]);
                b = t.at(b, index, self.b.strides[d]);
                result = t.at(result, index, self.result.strides[d]);
            }
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
        let mult = clif::splat(&mut t.b, types::I32X4, self.mult);
        for (row, sums) in sums.chunks(4).enumerate() {
            let acc = [0, 1, 2, 3].map(|i| t.b.use_var(sums[i]));
            let bytes = clif::requantize(&mut t.b, acc, [mult; 4], &self.epilogue);
            let column = t.at(unit.result[row], column, self.result.strides[rank - 1]);
            self.store(t, bytes, column, lanes);
        }
    }

    fn store(&self, t: &mut Task<'_>, bytes: Value, at: Value, lanes: usize) {
        let step = self.result.strides[self.rank() - 1];
        if step == 1 || lanes == 1 {
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
