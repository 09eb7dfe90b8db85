//! A product of two computed matrices as loops: two rows by sixteen columns at a time, products of two neighbours in depth added in pairs
//! (`pmaddwd`), requantized in registers if they are to be.

use cranelift_codegen::ir::{InstBuilder, Value, types};

use super::product::MatMul;
use crate::clif::{self, VECTOR};
use crate::program::task::Task;

/// Rows that a unit computes.
const ROWS: usize = 2;

/// Addresses of a unit: its rows of `a`, the matrix `b`, its rows of the result.
struct Unit {
    a: [Value; ROWS],
    b: Value,
    result: [Value; ROWS],
}

impl MatMul {
    /// Units: a pair of rows of a matrix.
    pub fn loop_units(&self) -> usize {
        self.outer() * self.matrix()[0].div_ceil(ROWS)
    }

    /// Emits the task.
    pub fn emit_loops(&self, t: &mut Task<'_>) {
        let (rank, [m, n]) = (self.rank(), self.matrix());
        let (a, b, result) = (t.address(&self.a), t.address(&self.b), t.address(&self.result));
        t.units(&mut |t, unit| {
            let (matrix, pair) = t.divide(unit, m.div_ceil(ROWS));
            let strides = [&self.a, &self.b, &self.result].map(|p| &p.strides[..]);
            let [a, b, result] = t.element(matrix, &self.result.dims[..rank - 2], [a, b, result], strides);
            // The last pair of an odd number of rows is one row twice.
            let first = t.b.ins().imul_imm_s(pair, ROWS as i64);
            let last = t.iconst_ptr(m - 1);
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
                let column = t.iconst_ptr(n - n % VECTOR);
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
            let pairs = self.column_pairs(t, b0, lanes, taps);
            for (row, sums) in sums.chunks(4).enumerate() {
                let at = t.at(unit.a[row], depth, self.a.strides[rank - 1]);
                let pair = self.pair(t, at, taps);
                for (sum, pairs) in sums.iter().zip(pairs) {
                    let products = clif::dot_pairs(&mut t.b, pairs, pair);
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
            let depth = t.iconst_ptr(k - 1);
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
    fn column_pairs(&self, t: &mut Task<'_>, at: Value, lanes: usize, taps: usize) -> [Value; 4] {
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
        let mut centred = |i: usize| {
            let byte = t.b.ins().load(types::I8, clif::memory(), at, (i * step) as i32);
            let x = t.b.ins().uextend(types::I32, byte);
            t.b.ins().iadd_imm_s(x, -self.zeros[0])
        };
        let first = centred(0);
        let second = (taps == 2).then(|| centred(1));
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
