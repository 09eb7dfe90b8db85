//! Values with scales of their own brought together: equations (13) and (16), sums, products, changes of scale.

use cranelift_codegen::ir::{InstBuilder, Value, condcodes::IntCC, types};
use qcc_ir::Attrs;
use qcc_ir::attr;
use qcc_num::dynamic::ALIGN_BITS;

use super::number::{I32_BYTES, bits, leading, number, round_shift, scale, store_i32};
use crate::clif::{self, memory};
use crate::plan::BufferView;
use crate::program::elementwise::{loops, operand};
use crate::program::task::Task;

/// `int.align_scales`, in one unit: equation (13).
pub fn align_scales(t: &mut Task<'_>, operands: &[BufferView], result: &BufferView) {
    let (a, b, out) = (t.address(&operands[0]), t.address(&operands[1]), t.address(result));
    t.units(&mut |t, _| {
        let ((ma, ea), (mb, eb)) = (scale(t, a), scale(t, b));
        let higher = t.b.ins().icmp(IntCC::SignedGreaterThan, eb, ea);
        let level = t.b.ins().icmp(IntCC::Equal, eb, ea);
        let greater = t.b.ins().icmp(IntCC::SignedGreaterThan, mb, ma);
        let both = t.b.ins().band(level, greater);
        let swapped = t.b.ins().bor(higher, both);
        let mut pick = |x: Value, y: Value| t.b.ins().select(swapped, x, y);
        let (great, great_exponent) = (pick(mb, ma), pick(eb, ea));
        let (small, small_exponent) = (pick(ma, mb), pick(ea, eb));
        let scaled = t.b.ins().ishl_imm_s(small, 16);
        let ratio = t.b.ins().udiv(scaled, great);
        let apart = t.b.ins().isub(great_exponent, small_exponent);
        let shift = t.b.ins().iadd_imm_s(apart, 2);
        let most = number(t, 31);
        let shift = t.b.ins().smin(shift, most);
        let factor = round_shift(t, ratio, shift);
        let one = number(t, 1 << ALIGN_BITS);
        let (ka, kb) = (t.b.ins().select(swapped, factor, one), t.b.ins().select(swapped, one, factor));
        let exponent = t.b.ins().iadd_imm_s(great_exponent, -i64::from(ALIGN_BITS));
        for (i, x) in [great, exponent, ka, kb].into_iter().enumerate() {
            store_i32(t, x, out, i);
        }
    });
}

/// `int.dynamic_add`: `(a - Za) * ka + (b - Zb) * kb`.
pub fn add(t: &mut Task<'_>, zeros: &[i64], operands: &[BufferView], result: &BufferView) {
    let loops = loops(&operands[..2], result);
    let factors = t.address(&operands[2]);
    let factor = |t: &mut Task<'_>, i: usize| {
        let k = t.b.ins().load(types::I32, memory(), factors, ((2 + i) * I32_BYTES) as i32);
        t.b.ins().splat(types::I32X4, k)
    };
    let factors = [factor(t, 0), factor(t, 1)];
    let mut bases: Vec<Value> = operands[..2].iter().map(|p| t.address(p)).collect();
    bases.push(t.address(result));
    let splats: Vec<bool> = loops.inner.iter().map(|&s| s == 0).collect();
    t.lanes(&loops, &bases, &mut |t, at, lanes| {
        let mut term = |i: usize| centred(t, at[i], splats[i], zeros[i], lanes).map(|x| t.b.ins().imul(x, factors[i]));
        let (a, b) = (term(0), term(1));
        let sums: Vec<Value> = a.into_iter().zip(b).map(|(a, b)| t.b.ins().iadd(a, b)).collect();
        clif::store_lanes(&mut t.b, types::I32, &sums, at[2], lanes);
    });
}

/// `int.common_scale`, in one unit: equation (16).
pub fn common_scale(t: &mut Task<'_>, levels: &[i64], operands: &[BufferView], result: &BufferView) {
    let addresses: Vec<Value> = operands.iter().map(|p| t.address(p)).collect();
    let out = t.address(result);
    let result_levels = levels.last().copied().unwrap_or(1);
    t.units(&mut |t, _| {
        let scales: Vec<(Value, Value)> = addresses.iter().map(|&at| scale(t, at)).collect();
        let mut greatest: Option<(Value, Value)> = None;
        for (&(mantissa, exponent), &levels) in scales.iter().zip(levels) {
            let product = t.b.ins().imul_imm_s(mantissa, levels);
            let length = bits(t, product);
            let exponent = t.b.ins().iadd(exponent, length);
            let exponent = t.b.ins().iadd_imm_s(exponent, -31);
            let mantissa = leading(t, product);
            greatest = Some(match greatest {
                None => (exponent, mantissa),
                Some((e, m)) => {
                    let higher = t.b.ins().icmp(IntCC::SignedGreaterThan, exponent, e);
                    let level = t.b.ins().icmp(IntCC::Equal, exponent, e);
                    let more = t.b.ins().icmp(IntCC::SignedGreaterThan, mantissa, m);
                    let both = t.b.ins().band(level, more);
                    let other = t.b.ins().bor(higher, both);
                    (t.b.ins().select(other, exponent, e), t.b.ins().select(other, mantissa, m))
                }
            });
        }
        let (exponent, mantissa) = greatest.expect("a scale at least");
        let shifted = t.b.ins().ishl_imm_s(mantissa, 31);
        let divisor = number(t, result_levels);
        let quotient = t.b.ins().udiv(shifted, divisor);
        let length = bits(t, quotient);
        let mantissa = leading(t, quotient);
        let exponent = t.b.ins().iadd(exponent, length);
        let exponent = t.b.ins().iadd_imm_s(exponent, -62);
        store_i32(t, mantissa, out, 0);
        store_i32(t, exponent, out, 1);
        for (i, &(m, e)) in scales.iter().enumerate() {
            let scaled = t.b.ins().ishl_imm_s(m, 16);
            let ratio = t.b.ins().udiv(scaled, mantissa);
            let apart = t.b.ins().isub(exponent, e);
            let shift = t.b.ins().iadd_imm_s(apart, 2);
            let (least, one, most) = (number(t, -8), number(t, 1), number(t, 31));
            let shift = t.b.ins().smax(shift, least);
            let shift = t.b.ins().smin(shift, most);
            let right = t.b.ins().smax(shift, one);
            let rounded = round_shift(t, ratio, right);
            let left = t.b.ins().ineg(shift);
            let raised = t.b.ins().ishl(ratio, left);
            let to_the_right = t.b.ins().icmp_imm_s(IntCC::SignedGreaterThan, shift, 0);
            let factor = t.b.ins().select(to_the_right, rounded, raised);
            store_i32(t, factor, out, 2 + i);
        }
    });
}

/// `int.dynamic_rescale`.
pub fn rescale(t: &mut Task<'_>, attrs: &Attrs, operands: &[BufferView], result: &BufferView) {
    let loops = loops(&operands[..1], result);
    let (scales, index) = (t.address(&operands[1]), attrs.get(attr::INDEX) as i32);
    let factor = t.b.ins().load(types::I32, memory(), scales, (2 + index) * I32_BYTES as i32);
    let factor = t.b.ins().splat(types::I32X4, factor);
    let bases = [t.address(&operands[0]), t.address(result)];
    let is_splat = loops.inner[0] == 0;
    t.lanes(&loops, &bases, &mut |t, at, lanes| {
        let terms = match operands[0].element {
            1 => centred(t, at[0], is_splat, attrs.get(attr::ZERO), lanes),
            _ => wide_centred(t, at[0], is_splat, attrs.get(attr::ZERO), lanes),
        };
        let (half, zero) = (1 << (ALIGN_BITS - 1), attrs.get(attr::RESULT_ZERO));
        let offset = clif::splat(&mut t.b, types::I32X4, half + (zero << ALIGN_BITS));
        let codes = terms.map(|x| {
            let x = t.b.ins().imul(x, factor);
            let x = t.b.ins().iadd(x, offset);
            t.b.ins().sshr_imm_s(x, i64::from(ALIGN_BITS))
        });
        let (low, high) = (t.b.ins().snarrow(codes[0], codes[1]), t.b.ins().snarrow(codes[2], codes[3]));
        if result.element == 2 {
            return clif::store_lanes(&mut t.b, types::I16, &[low, high], at[1], lanes);
        }
        let bytes = t.b.ins().unarrow(low, high);
        clif::store_bytes(&mut t.b, bytes, at[1], 0, lanes);
    });
}

/// Up to 16 codes less their zero point, in 32 bits.
fn centred(t: &mut Task<'_>, at: Value, is_splat: bool, zero: i64, lanes: usize) -> [Value; 4] {
    let codes = operand(t, at, 1, is_splat, lanes)[0];
    let zero = clif::splat(&mut t.b, types::I32X4, zero);
    clif::widen_bytes(&mut t.b, codes).map(|x| t.b.ins().isub(x, zero))
}

/// The same of codes of 16 bits.
fn wide_centred(t: &mut Task<'_>, at: Value, is_splat: bool, zero: i64, lanes: usize) -> [Value; 4] {
    let x = operand(t, at, 2, is_splat, lanes);
    let zero = clif::splat(&mut t.b, types::I32X4, zero);
    let (low, high) = (x[0], x[1]);
    let b = &mut t.b;
    let wide = [b.ins().swiden_low(low), b.ins().swiden_high(low), b.ins().swiden_low(high), b.ins().swiden_high(high)];
    wide.map(|x| t.b.ins().isub(x, zero))
}

/// `int.product_scale`, in one unit.
pub fn product_scale(t: &mut Task<'_>, operands: &[BufferView], result: &BufferView) {
    let (a, b, out) = (t.address(&operands[0]), t.address(&operands[1]), t.address(result));
    t.units(&mut |t, _| {
        let ((ma, ea), (mb, eb)) = (scale(t, a), scale(t, b));
        let product = t.b.ins().imul(ma, mb);
        let (length, mantissa) = (bits(t, product), leading(t, product));
        let exponent = t.b.ins().iadd(ea, eb);
        let exponent = t.b.ins().iadd(exponent, length);
        let exponent = t.b.ins().iadd_imm_s(exponent, -31);
        store_i32(t, mantissa, out, 0);
        store_i32(t, exponent, out, 1);
    });
}

/// `int.dynamic_mul`.
pub fn multiply(t: &mut Task<'_>, zeros: &[i64], operands: &[BufferView], result: &BufferView) {
    let loops = loops(operands, result);
    let mut bases: Vec<Value> = operands.iter().map(|p| t.address(p)).collect();
    bases.push(t.address(result));
    let splats: Vec<bool> = loops.inner.iter().map(|&s| s == 0).collect();
    t.lanes(&loops, &bases, &mut |t, at, lanes| {
        let (a, b) = (centred(t, at[0], splats[0], zeros[0], lanes), centred(t, at[1], splats[1], zeros[1], lanes));
        let products: Vec<Value> = a.into_iter().zip(b).map(|(a, b)| t.b.ins().imul(a, b)).collect();
        clif::store_lanes(&mut t.b, types::I32, &products, at[2], lanes);
    });
}
