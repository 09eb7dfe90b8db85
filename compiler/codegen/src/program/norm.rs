//! Normalization of rows by `qcc_num::norm`; a unit is one row.

use cranelift_codegen::ir::{InstBuilder, Value, condcodes::IntCC, types};
use cranelift_frontend::Variable;
use qcc_ir::Attrs;
use qcc_ir::attr;
use qcc_ir::ops::IntOp;
use qcc_num::norm::{FINE_ENDS, FINE_MEAN_BITS, MEAN_BITS, WIDE_MEAN_BITS};
use qcc_num::requant::FRACTION_BITS;

use super::collapse::Loops;
use super::dynamic::norm::epsilon;
use super::task::Task;
use crate::clif;
use crate::plan::BufferView;

/// Bytes whose squares add up to less than 2^32.
const CHUNK: usize = 1 << 15;

/// A normalization over the dimensions from `axis` on; multipliers and offsets are broadcast to the operand.
pub struct LayerNorm {
    x: BufferView,
    mult: BufferView,
    offset: BufferView,
    result: BufferView,
    axis: usize,
    attrs: Attrs,
    output: Output,
}

/// What is made of normal values.
enum Output {
    /// Codes of 8 bits within bounds.
    Codes([u8; 2]),
    /// Codes of 16 bits.
    WideCodes,
    /// 32 bits before the rounding, of an operand with a dynamic scale.
    Raw { scale: BufferView },
}

impl LayerNorm {
    /// The normalization that a node stands for.
    pub fn new(op: IntOp, attrs: &Attrs, operands: &[BufferView], result: &BufferView) -> LayerNorm {
        let (output, parameters) = match op {
            IntOp::DynamicNorm => (Output::Raw { scale: operands[1].clone() }, &operands[2..]),
            _ if result.element == 2 => (Output::WideCodes, &operands[1..]),
            _ => (Output::Codes([attrs.get(attr::LO) as u8, attrs.get(attr::HI) as u8]), &operands[1..]),
        };
        LayerNorm {
            x: operands[0].clone(),
            mult: parameters[0].broadcast(&result.dims),
            offset: parameters[1].broadcast(&result.dims),
            result: result.clone(),
            axis: attrs.get(attr::AXIS) as usize,
            attrs: attrs.clone(),
            output,
        }
    }

    /// Units: rows.
    pub fn units(&self) -> usize {
        self.x.dims[..self.axis].iter().product()
    }

    /// Emits the task.
    pub fn emit(&self, t: &mut Task<'_>) {
        let views = [&self.x, &self.mult, &self.offset, &self.result];
        let bases = views.map(|p| t.address(p));
        let epsilon = match &self.output {
            Output::Codes(_) | Output::WideCodes => t.b.ins().iconst(types::I64, self.attrs.get(attr::INT_EPSILON)),
            Output::Raw { scale } => {
                let scale = t.address(scale);
                epsilon(t, &self.attrs, scale)
            }
        };
        t.units(&mut |t, unit| {
            let strides = [&self.x, &self.mult, &self.offset, &self.result].map(|p| &p.strides[..]);
            let at = t.element(unit, &self.x.dims[..self.axis], bases, strides);
            self.row(t, at, epsilon);
        });
    }

    /// Loops over a row.
    fn loops(&self) -> Loops {
        let strides = [&self.x, &self.mult, &self.offset, &self.result].map(|p| &p.strides[self.axis..]);
        Loops::new(&self.x.dims[self.axis..], &strides).dense(&[self.x.element, 4, 4, self.result.element])
    }

    fn row(&self, t: &mut Task<'_>, at: [Value; 4], epsilon: Value) {
        let loops = self.loops();
        let row = self.statistics(t, &loops, at, epsilon);
        let mean = t.b.ins().ireduce(types::I32, row.mean);
        let mean = t.b.ins().splat(types::I32X4, mean);
        // `g - 2^32` fits 32 signed bits, `g` does not.
        let reciprocal = t.b.ins().ireduce(types::I32, row.reciprocal);
        let reciprocal = clif::spread(&mut t.b, reciprocal);
        t.nest(&loops.outer, &at, &mut |t, at| {
            t.vectors(loops.run, at, &loops.inner, &mut |t, at, lanes| {
                let [mults, offsets] = [1, 2].map(|i| factors(t, at[i], loops.inner[i], lanes));
                let mut i32s = self.codes(t, at[0], lanes);
                for (i, x) in i32s.iter_mut().enumerate() {
                    let scaled = t.b.ins().ishl_imm_s(*x, self.mean_bits());
                    let distance = t.b.ins().isub(scaled, mean);
                    let normal = normalized(t, distance, reciprocal, row.shift);
                    let high = clif::mul_high(&mut t.b, normal, mults[i]);
                    *x = t.b.ins().iadd(high, offsets[i]);
                }
                self.store(t, i32s, at[3], lanes);
            });
        });
    }

    /// Fraction bits of the mean.
    fn mean_bits(&self) -> i64 {
        i64::from(match self.x.element {
            1 => MEAN_BITS,
            2 => WIDE_MEAN_BITS,
            _ => FINE_MEAN_BITS,
        })
    }

    /// The least code.
    fn least(&self) -> i64 {
        match self.x.element {
            1 => 0,
            2 => i64::from(i16::MIN),
            _ => FINE_ENDS[0],
        }
    }

    /// Up to 16 codes.
    fn codes(&self, t: &mut Task<'_>, at: Value, lanes: usize) -> [Value; 4] {
        match self.x.element {
            1 => {
                let bytes = clif::load_bytes(&mut t.b, at, 0, lanes);
                clif::widen_bytes(&mut t.b, bytes)
            }
            2 => {
                let x = clif::load_lanes(&mut t.b, types::I16, at, lanes);
                let b = &mut t.b;
                let (low, high) = (x[0], x[1]);
                [b.ins().swiden_low(low), b.ins().swiden_high(low), b.ins().swiden_low(high), b.ins().swiden_high(high)]
            }
            _ => fine_codes(t, at, lanes),
        }
    }

    /// Stores up to 16 values, before their rounding.
    fn store(&self, t: &mut Task<'_>, i32s: [Value; 4], at: Value, lanes: usize) {
        if let Output::Raw { .. } = self.output {
            return clif::store_lanes(&mut t.b, types::I32, &i32s, at, lanes);
        }
        let i32s = i32s.map(|v| t.b.ins().sshr_imm_s(v, i64::from(FRACTION_BITS)));
        let halves = [t.b.ins().snarrow(i32s[0], i32s[1]), t.b.ins().snarrow(i32s[2], i32s[3])];
        let Output::Codes([lo, hi]) = self.output else {
            return clif::store_lanes(&mut t.b, types::I16, &halves, at, lanes);
        };
        let bytes = t.b.ins().unarrow(halves[0], halves[1]);
        let bytes = clif::clamp(&mut t.b, bytes, lo, hi);
        clif::store_bytes(&mut t.b, bytes, at, 0, lanes);
    }

    /// Equations (23) to (25). The sum of squares in (24) is `2^(2 f) sum(x^2) - 2^(f + 1) m sum(x) + n m^2`, in which what exceeds 64
    /// bits cancels.
    fn statistics(&self, t: &mut Task<'_>, loops: &Loops, at: [Value; 4], epsilon: Value) -> Row {
        let length: usize = self.x.dims[self.axis..].iter().product();
        let zero = t.b.ins().iconst(types::I64, 0);
        let totals = [t.b.declare_var(types::I64), t.b.declare_var(types::I64)];
        totals.iter().for_each(|&total| t.b.def_var(total, zero));
        t.nest(&loops.outer, &at, &mut |t, at| {
            let element = self.x.element;
            let add: fn(&mut Task<'_>, Value, usize, [Variable; 2]) = match element {
                1 => add_sums,
                2 => add_wide_sums,
                _ => add_fine_sums,
            };
            t.count(loops.run / CHUNK, &mut |t, chunk| {
                let x = t.at(at[0], chunk, CHUNK * element);
                add(t, x, CHUNK, totals);
            });
            if !loops.run.is_multiple_of(CHUNK) {
                let x = t.plus(at[0], (loops.run - loops.run % CHUNK) * element);
                add(t, x, loops.run % CHUNK, totals);
            }
        });
        let [sum, squares] = totals.map(|total| t.b.use_var(total));
        // (23)
        let (n, bits) = (t.b.ins().iconst(types::I64, length as i64), self.mean_bits());
        // Codes count from the least, so that what is divided is not negative.
        let least = self.least();
        let mean = match self.attrs.get(attr::CENTER) {
            -1 => {
                let from_least = t.b.ins().iadd_imm_s(sum, -least * length as i64);
                let scaled = t.b.ins().ishl_imm_s(from_least, bits);
                let rounded = t.b.ins().iadd_imm_s(scaled, length as i64 / 2);
                let mean = t.b.ins().udiv(rounded, n);
                t.b.ins().iadd_imm_s(mean, least << bits)
            }
            center => t.b.ins().iconst(types::I64, (center + least) << bits),
        };
        // (24)
        let squares = t.b.ins().ishl_imm_s(squares, 2 * bits);
        let twice = t.b.ins().ishl_imm_s(sum, bits + 1);
        let all = t.b.ins().imul(mean, n);
        let rest = t.b.ins().isub(all, twice);
        let rest = t.b.ins().imul(rest, mean);
        let squares = t.b.ins().iadd(squares, rest);
        let w = t.b.ins().iadd(squares, epsilon);
        let one = t.b.ins().iconst(types::I64, 1);
        let w = t.b.ins().umax(w, one);
        // (25)
        let zeros = t.b.ins().clz(w);
        let even = t.b.ins().band_imm_s(zeros, -2);
        let normal = t.b.ins().ishl(w, even);
        let root = square_root(t, normal);
        let most = t.b.ins().iconst(types::I64, i64::MIN);
        let reciprocal = t.b.ins().udiv(most, root);
        let half = t.b.ins().ushr_imm_s(even, 1);
        let top = t.b.ins().iconst(types::I64, 33);
        Row { mean, reciprocal, shift: t.b.ins().isub(top, half) }
    }
}

/// Up to 16 codes of 24 bits; behind the last there are zeros.
fn fine_codes(t: &mut Task<'_>, at: Value, lanes: usize) -> [Value; 4] {
    let x = clif::load_lanes(&mut t.b, types::I32, at, lanes);
    let [least, greatest] = FINE_ENDS.map(|end| clif::splat(&mut t.b, types::I32X4, end));
    [x[0], x[1], x[2], x[3]].map(|x| {
        let x = t.b.ins().smax(x, least);
        t.b.ins().smin(x, greatest)
    })
}

/// Adds the sum and the sum of squares of codes of 24 bits.
fn add_fine_sums(t: &mut Task<'_>, x: Value, count: usize, totals: [Variable; 2]) {
    let sums = [t.b.declare_var(types::I64X2), t.b.declare_var(types::I64X2)];
    let zero = clif::splat(&mut t.b, types::I64X2, 0);
    sums.iter().for_each(|&sum| t.b.def_var(sum, zero));
    t.vectors(count, &[x], &[4], &mut |t, at, lanes| {
        for codes in fine_codes(t, at[0], lanes) {
            for half in [t.b.ins().swiden_low(codes), t.b.ins().swiden_high(codes)] {
                let square = t.b.ins().imul(half, half);
                for (sum, term) in sums.into_iter().zip([half, square]) {
                    let old = t.b.use_var(sum);
                    let new = t.b.ins().iadd(old, term);
                    t.b.def_var(sum, new);
                }
            }
        }
    });
    for (sum, total) in sums.into_iter().zip(totals) {
        let lanes = t.b.use_var(sum);
        for lane in [0, 1] {
            let (part, old) = (t.b.ins().extractlane(lanes, lane), t.b.use_var(total));
            let new = t.b.ins().iadd(old, part);
            t.b.def_var(total, new);
        }
    }
}

/// Adds the sum and the sum of squares of up to [`CHUNK`] numbers of 16 bits.
fn add_wide_sums(t: &mut Task<'_>, x: Value, count: usize, [total, total_squares]: [Variable; 2]) {
    let ones = clif::splat(&mut t.b, types::I16X8, 1);
    let (sums, squares) = (t.b.declare_var(types::I32X4), t.b.declare_var(types::I64X2));
    let zeros = [types::I32X4, types::I64X2].map(|kind| clif::splat(&mut t.b, kind, 0));
    t.b.def_var(sums, zeros[0]);
    t.b.def_var(squares, zeros[1]);
    t.vectors(count, &[x], &[2], &mut |t, at, lanes| {
        for i16s in clif::load_lanes(&mut t.b, types::I16, at[0], lanes) {
            let terms = clif::dot_pairs(&mut t.b, i16s, ones);
            let old = t.b.use_var(sums);
            let new = t.b.ins().iadd(old, terms);
            t.b.def_var(sums, new);
            // Two squares are at most 2^31: a number without sign.
            let terms = clif::dot_pairs(&mut t.b, i16s, i16s);
            for half in [t.b.ins().uwiden_low(terms), t.b.ins().uwiden_high(terms)] {
                let old = t.b.use_var(squares);
                let new = t.b.ins().iadd(old, half);
                t.b.def_var(squares, new);
            }
        }
    });
    let lanes = t.b.use_var(sums);
    let sum = clif::sum_lanes(&mut t.b, lanes);
    let (sum, old) = (t.b.ins().sextend(types::I64, sum), t.b.use_var(total));
    let new = t.b.ins().iadd(old, sum);
    t.b.def_var(total, new);
    let lanes = t.b.use_var(squares);
    for lane in [0, 1] {
        let (part, old) = (t.b.ins().extractlane(lanes, lane), t.b.use_var(total_squares));
        let new = t.b.ins().iadd(old, part);
        t.b.def_var(total_squares, new);
    }
}

/// Adds the sum and the sum of squares of up to [`CHUNK`] bytes.
fn add_sums(t: &mut Task<'_>, x: Value, count: usize, totals: [Variable; 2]) {
    let zero = clif::splat(&mut t.b, types::I32X4, 0);
    let ones = clif::splat(&mut t.b, types::I16X8, 1);
    let sums = [t.b.declare_var(types::I32X4), t.b.declare_var(types::I32X4)];
    sums.iter().for_each(|&sum| t.b.def_var(sum, zero));
    t.vectors(count, &[x], &[1], &mut |t, at, lanes| {
        let bytes = clif::load_bytes(&mut t.b, at[0], 0, lanes);
        for i16s in [t.b.ins().uwiden_low(bytes), t.b.ins().uwiden_high(bytes)] {
            for (sum, factor) in sums.into_iter().zip([ones, i16s]) {
                let terms = clif::dot_pairs(&mut t.b, i16s, factor);
                let old = t.b.use_var(sum);
                let new = t.b.ins().iadd(old, terms);
                t.b.def_var(sum, new);
            }
        }
    });
    for (sum, total) in sums.into_iter().zip(totals) {
        let lanes = t.b.use_var(sum);
        let sum = clif::sum_lanes(&mut t.b, lanes);
        let (sum, old) = (t.b.ins().uextend(types::I64, sum), t.b.use_var(total));
        let new = t.b.ins().iadd(old, sum);
        t.b.def_var(total, new);
    }
}

/// 32-bit factors of 16 elements; one that serves all where the stride is 0.
fn factors(t: &mut Task<'_>, at: Value, stride: usize, lanes: usize) -> Vec<Value> {
    if stride > 0 {
        return clif::load_lanes(&mut t.b, types::I32, at, lanes);
    }
    let one = t.b.ins().load(types::I32, clif::memory(), at, 0);
    vec![t.b.ins().splat(types::I32X4, one); 4]
}

/// Equation (26) for four distances; of the reciprocal its low 32 bits.
fn normalized(t: &mut Task<'_>, distance: Value, reciprocal: Value, shift: Value) -> Value {
    let b = &mut t.b;
    let (d, g) = (b.ins().swiden_low(distance), b.ins().swiden_low(reciprocal));
    let low = (d, b.ins().imul(d, g));
    let (d, g) = (b.ins().swiden_high(distance), b.ins().swiden_high(reciprocal));
    let high = (d, b.ins().imul(d, g));
    let shifted = [low, high].map(|(d, product)| {
        let missing = b.ins().ishl_imm_s(d, 32);
        let product = b.ins().iadd(product, missing);
        let u = b.ins().sshr(product, shift);
        clif::cast(b, types::I8X16, u)
    });
    clif::low_halves(b, shifted)
}

/// What equations (23) to (25) find out about a row: 64 bits each.
struct Row {
    mean: Value,
    reciprocal: Value,
    shift: Value,
}

/// The floor of the square root of an unsigned number, bit by bit from the highest.
fn square_root(t: &mut Task<'_>, w: Value) -> Value {
    let root = t.b.declare_var(types::I64);
    let bit = t.b.declare_var(types::I64);
    let zero = t.b.ins().iconst(types::I64, 0);
    let highest = t.b.ins().iconst(types::I64, 1 << 31);
    t.b.def_var(root, zero);
    t.b.def_var(bit, highest);
    t.count(32, &mut |t, _| {
        let (r, b) = (t.b.use_var(root), t.b.use_var(bit));
        let candidate = t.b.ins().bor(r, b);
        let square = t.b.ins().imul(candidate, candidate);
        let fits = t.b.ins().icmp(IntCC::UnsignedLessThanOrEqual, square, w);
        let r = t.b.ins().select(fits, candidate, r);
        t.b.def_var(root, r);
        let b = t.b.ins().ushr_imm_s(b, 1);
        t.b.def_var(bit, b);
    });
    t.b.use_var(root)
}
