//! The scale of a result, and the parameters of its requantization, from the extrema of accumulators: equations (8) to (11).

use cranelift_codegen::ir::{InstBuilder, Value, condcodes::IntCC};
use cranelift_frontend::Variable;
use qcc_ir::Attrs;
use qcc_ir::attr;
use qcc_num::dynamic::{HEADER, Rule};

use super::number::{I32_BYTES, bits, leading, load_i32, number, raise, round_shift, scale, store_i32, variable};
use crate::plan::BufferView;
use crate::program::task::Task;

/// `int.dynamic_scale`, in one unit.
pub fn dynamic_scale(t: &mut Task<'_>, attrs: &Attrs, operands: &[BufferView], result: &BufferView) {
    let [parts, _, channels] = operands[0].dims[..] else { unreachable!("extrema are [parts, 2, C]") };
    let addresses: Vec<Value> = operands.iter().map(|p| t.address(p)).collect();
    let out = t.address(result);
    t.units(&mut |t, _| {
        let biases_out = t.plus(out, HEADER * I32_BYTES);
        let exponent = |key| attrs.get(key) as i32;
        let layer = DynamicLayer {
            rule: Rule {
                weight_exponent: exponent(attr::WEIGHT_EXPONENT),
                bias_exponent: exponent(attr::BIAS_EXPONENT),
                rectify: attrs.get(attr::RECTIFY),
                ceiling_exponent: exponent(attr::CEILING_EXPONENT),
            },
            channels,
            weights: addresses[2],
            biases: addresses[3],
            ceilings: addresses.get(4).copied(),
            header: out,
            biases_out,
            multipliers_out: t.plus(biases_out, channels * I32_BYTES),
        };
        let greatest = layer.merge(t, addresses[0], parts);
        let input = scale(t, addresses[1]);
        let shifts = layer.shifts(t, input, greatest);
        let (product, value) = layer.reach(t, &shifts);
        let ratio = layer.result_scale(t, input, &shifts, (product, value));
        layer.multipliers(t, &ratio);
    });
}

/// A layer's constants, and where its parameters go. The extrema of a channel wait in the places of its bias and its
/// multiplier.
struct DynamicLayer {
    rule: Rule,
    channels: usize,
    /// `W`.
    weights: Value,
    /// `B`.
    biases: Value,
    /// `T`, if there are any.
    ceilings: Option<Value>,
    header: Value,
    biases_out: Value,
    multipliers_out: Value,
}

/// How accumulators, biases and ceilings come to the same unit: equation (8).
struct Shifts {
    /// `r`.
    inverse: Value,
    /// `d`.
    dropped: Value,
    /// `k + d`.
    bias: Value,
    /// `k' + d`.
    ceiling: Value,
    /// `-d` where that is positive, else 0.
    left: Value,
    /// `d` where that is positive, else 0.
    right: Value,
}

/// What the multipliers follow from: equation (11).
struct Ratio {
    /// `R`.
    ratio: Value,
    /// `a + bits(U) - 17`.
    down: Value,
}

impl DynamicLayer {
    /// The extrema of each channel over all parts; returns the greatest magnitude of any.
    fn merge(&self, t: &mut Task<'_>, extrema: Value, parts: usize) -> Variable {
        let greatest = variable(t, 0);
        t.count(self.channels, &mut |t, c| {
            let from = t.at(extrema, c, I32_BYTES);
            let (least, most) = (variable(t, i64::from(i32::MAX)), variable(t, i64::from(i32::MIN)));
            t.count(parts, &mut |t, part| {
                let at = t.at(from, part, 2 * self.channels * I32_BYTES);
                let (lo, hi) = (load_i32(t, at, 0), load_i32(t, at, self.channels));
                let old = t.b.use_var(least);
                let lo = t.b.ins().smin(old, lo);
                t.b.def_var(least, lo);
                raise(t, most, hi);
            });
            for (var, base) in [(least, self.biases_out), (most, self.multipliers_out)] {
                let (x, to) = (t.b.use_var(var), t.at(base, c, I32_BYTES));
                store_i32(t, x, to, 0);
                let size = t.b.ins().iabs(x);
                raise(t, greatest, size);
            }
        });
        greatest
    }

    /// `d = max(33 - k, bits - 30)` with `k = 61 + e - eb`, and what follows from it.
    fn shifts(&self, t: &mut Task<'_>, (mantissa, exponent): (Value, Value), greatest: Variable) -> Shifts {
        let one = number(t, 1 << 61);
        let inverse = t.b.ins().udiv(one, mantissa);
        let k = t.b.ins().iadd_imm_s(exponent, 61 - i64::from(self.rule.bias_exponent));
        let most = number(t, 33);
        let for_bias = t.b.ins().isub(most, k);
        let size = t.b.use_var(greatest);
        let size = bits(t, size);
        let for_sums = t.b.ins().iadd_imm_s(size, -30);
        let dropped = t.b.ins().smax(for_bias, for_sums);
        let bias = t.b.ins().iadd(k, dropped);
        let last = number(t, 63);
        let bias = t.b.ins().smin(bias, last);
        let (none, limit) = (number(t, 0), number(t, 31));
        let negated = t.b.ins().ineg(dropped);
        let left = t.b.ins().smax(negated, none);
        let right = t.b.ins().smax(dropped, none);
        let right = t.b.ins().smin(right, limit);
        let ceiling = t.b.ins().iadd_imm_s(exponent, 61 - i64::from(self.rule.ceiling_exponent));
        let ceiling = t.b.ins().iadd(ceiling, dropped);
        Shifts { inverse, dropped, bias, ceiling, left, right }
    }

    /// Stores biases and ceilings; returns `U` and `V` of equation (9).
    fn reach(&self, t: &mut Task<'_>, shifts: &Shifts) -> (Variable, Variable) {
        let (product, value) = (variable(t, 1), variable(t, 0));
        t.count(self.channels, &mut |t, c| {
            let (low, high) = (t.at(self.biases_out, c, I32_BYTES), t.at(self.multipliers_out, c, I32_BYTES));
            let (w, bias) = (t.at(self.weights, c, I32_BYTES), t.at(self.biases, c, I32_BYTES));
            let (w, bias) = (load_i32(t, w, 0), load_i32(t, bias, 0));
            let bias = t.b.ins().imul(bias, shifts.inverse);
            let bias = round_shift(t, bias, shifts.bias);
            let ceiling = self.ceiling(t, shifts, c);
            for end in [low, high] {
                let acc = load_i32(t, end, 0);
                let acc = t.b.ins().ishl(acc, shifts.left);
                let acc = t.b.ins().sshr(acc, shifts.right);
                let v = t.b.ins().iadd(acc, bias);
                let v = ceiling.map_or(v, |top| t.b.ins().smin(v, top));
                let v = if self.rule.rectify {
                    let none = number(t, 0);
                    t.b.ins().smax(v, none)
                } else {
                    t.b.ins().iabs(v)
                };
                raise(t, value, v);
                let real = t.b.ins().imul(v, w);
                raise(t, product, real);
            }
            store_i32(t, bias, low, 0);
        });
        (product, value)
    }

    /// Stores the ceiling of a channel, if there are any; a shift below 1 means that it is beyond all values.
    fn ceiling(&self, t: &mut Task<'_>, shifts: &Shifts, c: Value) -> Option<Value> {
        let from = t.at(self.ceilings?, c, I32_BYTES);
        let top = load_i32(t, from, 0);
        let top = t.b.ins().imul(top, shifts.inverse);
        let (one, last, most) = (number(t, 1), number(t, 63), number(t, i64::from(i32::MAX)));
        let counts = t.b.ins().icmp(IntCC::SignedGreaterThanOrEqual, shifts.ceiling, one);
        let down = t.b.ins().smax(shifts.ceiling, one);
        let down = t.b.ins().smin(down, last);
        let top = round_shift(t, top, down);
        let top = t.b.ins().smin(top, most);
        let top = t.b.ins().select(counts, top, most);
        let to = t.at(self.multipliers_out, c, I32_BYTES);
        store_i32(t, top, to, self.channels);
        Some(top)
    }

    /// Stores the header: the scale (10), the shifts of accumulators, and `a` of (11).
    fn result_scale(
        &self,
        t: &mut Task<'_>,
        (mantissa, exponent): (Value, Value),
        shifts: &Shifts,
        (product, value): (Variable, Variable),
    ) -> Ratio {
        let levels = number(t, if self.rule.rectify { 255 } else { 127 });
        let product = t.b.use_var(product);
        let (length, head) = (bits(t, product), leading(t, product));
        let scaled = t.b.ins().imul(mantissa, head);
        let quotient = t.b.ins().udiv(scaled, levels);
        let quotient_bits = bits(t, quotient);
        let new_mantissa = leading(t, quotient);
        let new_exponent = t.b.ins().iadd(exponent, shifts.dropped);
        let new_exponent = t.b.ins().iadd(new_exponent, length);
        let new_exponent = t.b.ins().iadd(new_exponent, quotient_bits);
        let new_exponent = t.b.ins().iadd_imm_s(new_exponent, i64::from(self.rule.weight_exponent) - 62);
        let value = t.b.use_var(value);
        let value_bits = bits(t, value);
        let limit = number(t, 31);
        let shl = t.b.ins().isub(limit, value_bits);
        let most = number(t, 30);
        let shl = t.b.ins().smin(shl, most);
        for (i, x) in [new_mantissa, new_exponent, shifts.left, shifts.right, shl].into_iter().enumerate() {
            store_i32(t, x, self.header, i);
        }
        let numerator = t.b.ins().ishl_imm_s(levels, 52);
        let ratio = t.b.ins().udiv(numerator, head);
        let down = t.b.ins().iadd(shl, length);
        Ratio { ratio, down: t.b.ins().iadd_imm_s(down, -17) }
    }

    /// Stores `M` of equation (11).
    fn multipliers(&self, t: &mut Task<'_>, r: &Ratio) {
        let most = number(t, i64::from(i32::MAX));
        t.count(self.channels, &mut |t, c| {
            let w = t.at(self.weights, c, I32_BYTES);
            let w = load_i32(t, w, 0);
            let mult = t.b.ins().imul(w, r.ratio);
            let mult = round_shift(t, mult, r.down);
            let mult = t.b.ins().smin(mult, most);
            let to = t.at(self.multipliers_out, c, I32_BYTES);
            store_i32(t, mult, to, 0);
        });
    }
}
