//! Equation (22): what a normalization adds to the squares of codes whose scale a run finds.

use cranelift_codegen::ir::{InstBuilder, Value, condcodes::IntCC};
use qcc_ir::Attrs;
use qcc_ir::attr;
use qcc_num::dynamic::DROPPED_BITS;
use qcc_num::norm::GREATEST_EPSILON;

use super::number::{bits, number, scale};
use crate::program::task::Task;

/// `E` for the attributes of `int.dynamic_norm` and the scale at an address.
pub fn epsilon(t: &mut Task<'_>, attrs: &Attrs, at: Value) -> Value {
    let (mantissa, exponent) = scale(t, at);
    let one = number(t, 1 << 61);
    let inverse = t.b.ins().udiv(one, mantissa);
    let product = t.b.ins().imul_imm_s(inverse, attrs.get(attr::INT_EPSILON));
    let product = t.b.ins().sshr_imm_s(product, 31);
    let product = t.b.ins().imul(product, inverse);
    let twice = t.b.ins().ishl_imm_s(exponent, 1);
    let all = number(t, attrs.get(attr::EXPONENT) - i64::from(DROPPED_BITS));
    let shift = t.b.ins().isub(all, twice);
    let (none, last, greatest) = (number(t, 0), number(t, 63), number(t, GREATEST_EPSILON));
    let size = bits(t, product);
    let size = t.b.ins().iadd(size, shift);
    let limit = number(t, i64::from(GREATEST_EPSILON.ilog2()));
    let is_beyond = t.b.ins().icmp(IntCC::SignedGreaterThan, size, limit);
    let is_positive = t.b.ins().icmp(IntCC::SignedGreaterThan, product, none);
    let is_beyond = t.b.ins().band(is_beyond, is_positive);
    let left = t.b.ins().smax(shift, none);
    let negated = t.b.ins().ineg(shift);
    let right = t.b.ins().smax(negated, none);
    let right = t.b.ins().smin(right, last);
    let shifted = t.b.ins().ishl(product, left);
    let shifted = t.b.ins().sshr(shifted, right);
    t.b.ins().select(is_beyond, greatest, shifted)
}
