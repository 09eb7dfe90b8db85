//! `int.dynamic_curve`, in one unit: equations (29) and (30).

use cranelift_codegen::ir::{InstBuilder, StackSlotData, StackSlotKind, Value, condcodes::IntCC, types};
use qcc_ir::{Attrs, attr};
use qcc_num::dynamic::{OCTAVES, PART_ROW, PARTS, PER_PART, SIDE};

use super::number::{I32_BYTES, bits, leading, load_i32, number, raise, scale, variable};
use super::tables::store_table;
use crate::clif::memory;
use crate::plan::BufferView;
use crate::program::collapse::Loops;
use crate::program::task::Task;

/// Bytes of a 64-bit number.
const I64_BYTES: usize = 8;

/// Bits of a mantissa behind those that tell the sample.
const REST: i64 = 23;

/// What is constant in `int.dynamic_curve`.
struct Curve {
    samples: Value,
    mantissa: Value,
    exponent: Value,
    zero: i64,
    /// Numbers of all sides.
    length: usize,
    half: bool,
}

/// Emits the task.
pub fn table(t: &mut Task<'_>, attrs: &Attrs, operands: &[BufferView], result: &BufferView) {
    let (from, samples, out) = (t.address(&operands[0]), t.address(&operands[1]), t.address(result));
    let slot = StackSlotData::new(StackSlotKind::ExplicitSlot, 2 * 256 * I64_BYTES as u32, 8);
    let slot = t.b.create_sized_stack_slot(slot);
    let values = t.b.ins().stack_addr(t.pointer, slot, 0);
    let exponents = t.plus(values, 256 * I64_BYTES);
    t.units(&mut |t, _| {
        let (mantissa, exponent) = scale(t, from);
        let (zero, length) = (attrs.get(attr::ZERO), operands[1].elements() - 2);
        let curve = Curve { samples, mantissa, exponent, zero, length, half: attrs.get(attr::HALF) };
        let used = occurring(t, &operands[2]);
        let top = variable(t, i64::from(i32::MIN));
        t.count(256, &mut |t, code| {
            let (y, e) = curve.at(t, code);
            let (none, low) = (number(t, 0), number(t, i64::from(i32::MIN)));
            let above = t.b.ins().icmp(IntCC::SignedGreaterThanOrEqual, code, used[0]);
            let below = t.b.ins().icmp(IntCC::SignedLessThanOrEqual, code, used[1]);
            let occurs = t.b.ins().band(above, below);
            let y = t.b.ins().select(occurs, y, none);
            let magnitude = t.b.ins().iabs(y);
            let length = bits(t, magnitude);
            let reach = t.b.ins().iadd(e, length);
            let counts = t.b.ins().icmp_imm_s(IntCC::NotEqual, y, 0);
            let reach = t.b.ins().select(counts, reach, low);
            raise(t, top, reach);
            let (to, beside) = (t.at(values, code, I64_BYTES), t.at(exponents, code, I64_BYTES));
            t.b.ins().store(memory(), y, to, 0);
            t.b.ins().store(memory(), e, beside, 0);
        });
        let top = t.b.use_var(top);
        let (none, least) = (number(t, 0), number(t, i64::from(i32::MIN)));
        let nothing = t.b.ins().icmp(IntCC::Equal, top, least);
        let top = t.b.ins().select(nothing, none, top);
        let unit = t.b.ins().iadd_imm_s(top, -40);
        t.count(256, &mut |t, code| {
            let (at, beside) = (t.at(values, code, I64_BYTES), t.at(exponents, code, I64_BYTES));
            let (y, e) = (t.b.ins().load(types::I64, memory(), at, 0), t.b.ins().load(types::I64, memory(), beside, 0));
            let shift = t.b.ins().isub(e, unit);
            let (none, most_left, most_right) = (number(t, 0), number(t, 40), number(t, 63));
            let left = t.b.ins().smax(shift, none);
            let left = t.b.ins().smin(left, most_left);
            let negated = t.b.ins().ineg(shift);
            let right = t.b.ins().smax(negated, none);
            let right = t.b.ins().smin(right, most_right);
            let y = t.b.ins().ishl(y, left);
            let y = t.b.ins().sshr(y, right);
            t.b.ins().store(memory(), y, at, 0);
        });
        let value = |t: &mut Task<'_>, code: Value| {
            let at = t.at(values, code, I64_BYTES);
            t.b.ins().load(types::I64, memory(), at, 0)
        };
        store_table(t, &value, unit, attrs.get(attr::RESULT_ZERO), out);
    });
}

/// The least and the greatest code.
fn occurring(t: &mut Task<'_>, x: &BufferView) -> [Value; 2] {
    let base = t.address(x);
    let loops = Loops::new(&x.dims, &[&x.strides]);
    let (greatest, below) = (variable(t, 0), variable(t, -255));
    t.nest(&loops.outer, &[base], &mut |t, at| {
        t.count(loops.run, &mut |t, i| {
            let at = t.at(at[0], i, loops.inner[0]);
            let code = t.b.ins().load(types::I8, memory(), at, 0);
            let code = t.b.ins().uextend(types::I64, code);
            raise(t, greatest, code);
            let negated = t.b.ins().ineg(code);
            raise(t, below, negated);
        });
    });
    let below = t.b.use_var(below);
    [t.b.ins().ineg(below), t.b.use_var(greatest)]
}

impl Curve {
    /// Equation (29) for a code: the result and its exponent.
    fn at(&self, t: &mut Task<'_>, code: Value) -> (Value, Value) {
        let centred = t.b.ins().iadd_imm_s(code, -self.zero);
        let (one, is_zero) = (number(t, 1), t.b.ins().icmp_imm_s(IntCC::Equal, centred, 0));
        let magnitude = t.b.ins().iabs(centred);
        let magnitude = t.b.ins().smax(magnitude, one);
        let u = t.b.ins().imul(magnitude, self.mantissa);
        let length = bits(t, u);
        let octave = t.b.ins().iadd(self.exponent, length);
        let halved = t.b.ins().uextend(types::I64, is_zero);
        let octave = t.b.ins().isub(octave, halved);
        let octave = t.b.ins().iadd_imm_s(octave, -1);
        let [low, high] = OCTAVES.map(i64::from);
        let (least, most) = (number(t, 1 << 30), number(t, (1 << 31) - 1));
        let (under, over) = (
            t.b.ins().icmp_imm_s(IntCC::SignedLessThan, octave, low),
            t.b.ins().icmp_imm_s(IntCC::SignedGreaterThanOrEqual, octave, high),
        );
        let w = leading(t, u);
        let w = t.b.ins().select(over, most, w);
        let w = t.b.ins().select(under, least, w);
        let (first, last) = (number(t, low), number(t, high - 1));
        let octave = t.b.ins().smax(octave, first);
        let octave = t.b.ins().smin(octave, last);
        let octave = t.b.ins().iadd_imm_s(octave, -low);
        let sample = t.b.ins().ushr_imm_s(w, REST);
        let part = t.b.ins().ushr_imm_s(sample, i64::from(PER_PART.ilog2()));
        let first = t.b.ins().imul_imm_s(octave, PARTS as i64);
        let part = t.b.ins().iadd(part, first);
        let part = t.b.ins().iadd_imm_s(part, -(PARTS as i64));
        let row = t.at(self.samples, part, PART_ROW * I32_BYTES);
        let row = match self.length > SIDE {
            true => {
                let negative = t.b.ins().icmp_imm_s(IntCC::SignedLessThan, centred, 0);
                let other = t.plus(row, SIDE * I32_BYTES);
                t.b.ins().select(negative, other, row)
            }
            false => row,
        };
        let j = t.b.ins().band_imm_s(sample, PER_PART as i64 - 1);
        let at = t.at(row, j, I32_BYTES);
        let (first, next) = (load_i32(t, at, 0), load_i32(t, at, 1));
        let rest = t.b.ins().band_imm_s(w, (1 << REST) - 1);
        let rise = t.b.ins().isub(next, first);
        let rise = t.b.ins().imul(rise, rest);
        let rise = t.b.ins().sshr_imm_s(rise, REST);
        let (y, e) = (t.b.ins().iadd(first, rise), load_i32(t, row, PART_ROW - 1));
        if self.half {
            return (y, e);
        }
        let (at_zero, unit) = (load_i32(t, self.samples, self.length), load_i32(t, self.samples, self.length + 1));
        (t.b.ins().select(is_zero, at_zero, y), t.b.ins().select(is_zero, unit, e))
    }
}
