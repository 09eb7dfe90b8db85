//! Functions of codes with dynamic scales: tables of 256 entries from samples, equations (17) to (19).

use cranelift_codegen::ir::{InstBuilder, Value, condcodes::IntCC, types};
use qcc_ir::Attrs;
use qcc_ir::attr;
use qcc_num::dynamic::{FINER, GRID, GRIDS, INTERVALS, LEAST, LOG2_E, ROW};

use super::number::{I32_BYTES, bits, leading, load_i32, number, raise, scale, store_i32, variable};
use crate::clif::memory;
use crate::plan::BufferView;
use crate::program::collapse::Loops;
use crate::program::elementwise::{self, loops};
use crate::program::task::Task;

/// What is constant in `int.dynamic_table`.
struct Function {
    /// Samples of the grid.
    row: Value,
    mantissa: Value,
    /// Shifts to the left and then to the right, one of which is 0.
    shifts: [Value; 2],
    zero: i64,
}

impl Function {
    /// Equation (17) for a code.
    fn at(&self, t: &mut Task<'_>, code: Value) -> Value {
        let half = INTERVALS as i64 / 2;
        let centred = t.b.ins().iadd_imm_s(code, -self.zero);
        let product = t.b.ins().imul(centred, self.mantissa);
        let x = t.b.ins().ishl(product, self.shifts[0]);
        let x = t.b.ins().sshr(x, self.shifts[1]);
        let (least, most) = (number(t, -(1 << 36)), number(t, 1 << 36));
        let x = t.b.ins().smax(x, least);
        let x = t.b.ins().smin(x, most);
        let interval = t.b.ins().sshr_imm_s(x, 16);
        let interval = t.b.ins().iadd_imm_s(interval, half);
        let (none, last) = (number(t, 0), number(t, INTERVALS as i64 - 1));
        let interval = t.b.ins().smax(interval, none);
        let interval = t.b.ins().smin(interval, last);
        let from = t.at(self.row, interval, I32_BYTES);
        let (first, next) = (load_i32(t, from, 0), load_i32(t, from, 1));
        let begin = t.b.ins().iadd_imm_s(interval, -half);
        let begin = t.b.ins().ishl_imm_s(begin, 16);
        let beyond = t.b.ins().isub(x, begin);
        let rise = t.b.ins().isub(next, first);
        let rise = t.b.ins().imul(rise, beyond);
        let rise = t.b.ins().sshr_imm_s(rise, 16);
        t.b.ins().iadd(first, rise)
    }
}

/// `int.dynamic_table`, in one unit: equations (17) and (18).
pub fn table(t: &mut Task<'_>, attrs: &Attrs, operands: &[BufferView], result: &BufferView) {
    let (from, samples, out) = (t.address(&operands[0]), t.address(&operands[1]), t.address(result));
    let new_zero = attrs.get(attr::RESULT_ZERO);
    t.units(&mut |t, _| {
        let (mantissa, own_exponent) = scale(t, from);
        let (none, most_left, most_right) = (number(t, 0), number(t, 20), number(t, 63));
        let (coarsest, finest) = (number(t, i64::from(GRID) - 30), number(t, GRIDS as i64 - 1));
        let grid = t.b.ins().isub(coarsest, own_exponent);
        let grid = t.b.ins().sshr_imm_s(grid, i64::from(FINER.ilog2()));
        let grid = t.b.ins().smax(grid, none);
        let grid = t.b.ins().smin(grid, finest);
        let row = t.at(samples, grid, ROW * I32_BYTES);
        let middle = load_i32(t, row, INTERVALS / 2);
        let least = number(t, LEAST.into());
        let raised = t.b.ins().smax(own_exponent, least);
        let is_none = t.b.ins().icmp_imm_s(IntCC::Equal, middle, 0);
        let exponent = t.b.ins().select(is_none, raised, own_exponent);
        let lifted = t.b.ins().isub(exponent, own_exponent);
        let finer = t.b.ins().imul_imm_s(grid, i64::from(FINER));
        let shift = t.b.ins().iadd(exponent, finer);
        let shift = t.b.ins().iadd_imm_s(shift, 16 - i64::from(GRID));
        let left = t.b.ins().smax(shift, none);
        let left = t.b.ins().smin(left, most_left);
        let negated = t.b.ins().ineg(shift);
        let right = t.b.ins().smax(negated, none);
        let right = t.b.ins().smin(right, most_right);
        let f = Function { row, mantissa, shifts: [left, right], zero: attrs.get(attr::ZERO) };
        let unit = load_i32(t, row, ROW - 1);
        let unit = t.b.ins().isub(unit, lifted);
        store_table(t, &|t, code| f.at(t, code), unit, new_zero, out);
    });
}

/// The result of a function for a code.
type Result<'f> = &'f dyn Fn(&mut Task<'_>, Value) -> Value;

/// Equation (18): stores the scale of results in units of `2^unit`, and the code of each.
pub(super) fn store_table(t: &mut Task<'_>, f: Result<'_>, unit: Value, new_zero: i64, out: Value) {
    let reach = reach(t, f, new_zero);
    let length = bits(t, reach.greatest);
    let first = leading(t, reach.greatest);
    let shifted = t.b.ins().ishl_imm_s(first, 31);
    let quotient = t.b.ins().udiv(shifted, reach.levels);
    let (quotient_length, mantissa) = (bits(t, quotient), leading(t, quotient));
    let exponent = t.b.ins().iadd(length, quotient_length);
    let exponent = t.b.ins().iadd(exponent, unit);
    let exponent = t.b.ins().iadd_imm_s(exponent, -93);
    store_i32(t, mantissa, out, 0);
    store_i32(t, exponent, out, 1);
    codes(t, f, &reach, new_zero, out);
}

/// What the results of a function fill: equation (18).
struct Reach {
    /// `Y`.
    greatest: Value,
    /// `n`.
    levels: Value,
    /// Bits that are more than codes can show.
    dropped: Value,
}

/// The side, of the results above zero and those below, that decides on the scale.
fn reach(t: &mut Task<'_>, f: Result<'_>, new_zero: i64) -> Reach {
    let (up, down) = (255 - new_zero, new_zero);
    let (above, below) = (variable(t, 1), variable(t, 0));
    t.count(256, &mut |t, code| {
        let y = f(t, code);
        raise(t, above, y);
        let y = t.b.ins().ineg(y);
        raise(t, below, y);
    });
    let (above, below) = (t.b.use_var(above), t.b.use_var(below));
    let both = t.b.ins().smax(above, below);
    let length = bits(t, both);
    let dropped = t.b.ins().iadd_imm_s(length, -40);
    let none = number(t, 0);
    let dropped = t.b.ins().smax(dropped, none);
    let (greatest, levels) = match down {
        0 => (above, number(t, up)),
        _ => {
            let [a, b] = [above, below].map(|y| t.b.ins().sshr(y, dropped));
            let (a, b) = (t.b.ins().imul_imm_s(a, down), t.b.ins().imul_imm_s(b, up));
            let fits = t.b.ins().icmp(IntCC::SignedGreaterThanOrEqual, a, b);
            let (up, down) = (number(t, up), number(t, down));
            (t.b.ins().select(fits, above, below), t.b.ins().select(fits, up, down))
        }
    };
    Reach { greatest, levels, dropped }
}

/// Stores the code of each result behind the scale.
fn codes(t: &mut Task<'_>, f: Result<'_>, reach: &Reach, new_zero: i64, out: Value) {
    let &Reach { greatest, levels, dropped } = reach;
    let divisor = t.b.ins().sshr(greatest, dropped);
    let one = number(t, 1);
    let divisor = t.b.ins().smax(divisor, one);
    let most = t.b.ins().ishl_imm_s(divisor, 3);
    let least = t.b.ins().ineg(most);
    let shifted_zero = t.b.ins().imul_imm_s(levels, -8);
    let shifted_zero = t.b.ins().iadd_imm_s(shifted_zero, new_zero);
    let twice_levels = t.b.ins().ishl_imm_s(levels, 1);
    let twice = t.b.ins().ishl_imm_s(divisor, 1);
    let codes = t.plus(out, 2 * I32_BYTES);
    t.count(256, &mut |t, code| {
        let y = f(t, code);
        let y = t.b.ins().sshr(y, dropped);
        let y = t.b.ins().smax(y, least);
        let y = t.b.ins().smin(y, most);
        let y = t.b.ins().iadd(y, most);
        let y = t.b.ins().imul(y, twice_levels);
        let y = t.b.ins().iadd(y, divisor);
        let y = t.b.ins().udiv(y, twice);
        let y = t.b.ins().iadd(y, shifted_zero);
        let (lo, hi) = (number(t, 0), number(t, 255));
        let y = t.b.ins().smax(y, lo);
        let y = t.b.ins().smin(y, hi);
        let y = t.b.ins().ireduce(types::I8, y);
        let to = t.b.ins().iadd(codes, code);
        t.b.ins().store(memory(), y, to, 0);
    });
}

/// `int.exp_table`, in one unit: equation (19).
pub fn exponentials(t: &mut Task<'_>, operands: &[BufferView], result: &BufferView) {
    let (from, samples, out) = (t.address(&operands[0]), t.address(&operands[1]), t.address(result));
    t.units(&mut |t, _| {
        let (mantissa, exponent) = scale(t, from);
        let unit = t.b.ins().imul_imm_s(mantissa, LOG2_E);
        let shift = t.b.ins().iadd_imm_s(exponent, 6);
        let (none, most_right) = (number(t, 0), number(t, 63));
        let negated = t.b.ins().ineg(shift);
        let right = t.b.ins().smax(negated, none);
        let right = t.b.ins().smin(right, most_right);
        let is_small = t.b.ins().icmp(IntCC::SignedLessThan, shift, none);
        t.count(256, &mut |t, d| {
            let product = t.b.ins().imul(unit, d);
            let is_none = t.b.ins().icmp_imm_s(IntCC::Equal, d, 0);
            let shifted = t.b.ins().sshr(product, right);
            let endless = number(t, i64::MAX);
            let (none, last) = (number(t, 0), number(t, 31));
            let beyond = t.b.ins().select(is_none, none, endless);
            let y = t.b.ins().select(is_small, shifted, beyond);
            let n = t.b.ins().sshr_imm_s(y, 26);
            let n = t.b.ins().smin(n, last);
            let j = t.b.ins().sshr_imm_s(y, 16);
            let j = t.b.ins().band_imm_s(j, INTERVALS as i64 - 1);
            let rest = t.b.ins().band_imm_s(y, 0xffff);
            let at = t.at(samples, j, I32_BYTES);
            let (first, next) = (load_i32(t, at, 0), load_i32(t, at, 1));
            let rise = t.b.ins().isub(next, first);
            let rise = t.b.ins().imul(rise, rest);
            let rise = t.b.ins().sshr_imm_s(rise, 16);
            let power = t.b.ins().iadd(first, rise);
            let power = t.b.ins().sshr(power, n);
            let to = t.at(out, d, I32_BYTES);
            store_i32(t, power, to, 0);
        });
    });
}

/// `int.dynamic_lut`.
pub fn look_up(t: &mut Task<'_>, operands: &[BufferView], result: &BufferView) {
    let codes = BufferView { offset: operands[1].offset + 2 * I32_BYTES, ..operands[1].clone() };
    let loops = look_up_loops(operands, result);
    let bases = [t.address(&operands[0]), t.address(&codes), t.address(result)];
    elementwise::lut(t, &loops, &bases);
}

/// Iteration space of `int.dynamic_lut`.
pub fn look_up_loops(operands: &[BufferView], result: &BufferView) -> Loops {
    let table = BufferView { dims: Vec::new(), strides: Vec::new(), element: 1, ..operands[1].clone() };
    loops(&[operands[0].clone(), table], result)
}
