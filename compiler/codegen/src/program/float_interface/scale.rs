//! Dynamic scales as mantissa and exponent, and as floats.

use cranelift_codegen::ir::{InstBuilder, MemFlagsData, Value, types};

use crate::clif::memory;
use crate::program::task::Task;

/// The scale of equation (14) for the bits of a magnitude: mantissa and exponent.
pub(super) fn store_scale(t: &mut Task<'_>, bits: Value, to: Value) {
    let b = &mut t.b;
    let real = b.ins().bitcast(types::F32, MemFlagsData::new(), bits);
    let levels = b.ins().f32const(127.0);
    let scale = b.ins().fdiv(real, levels);
    let bits = b.ins().bitcast(types::I32, MemFlagsData::new(), scale);
    let least = b.ins().iconst(types::I32, i64::from(qcc_num::edge::LEAST_SCALE));
    let bits = b.ins().smax(bits, least);
    let significand = b.ins().band_imm_s(bits, 0x7f_ffff);
    let significand = b.ins().bor_imm_s(significand, 0x80_0000);
    let mantissa = b.ins().ishl_imm_s(significand, 7);
    let exponent = b.ins().ushr_imm_s(bits, 23);
    let exponent = b.ins().iadd_imm_s(exponent, -157);
    b.ins().store(memory(), mantissa, to, 0);
    b.ins().store(memory(), exponent, to, 4);
}

/// Mantissa and exponent at `from` as an f32.
pub(super) fn real_scale(t: &mut Task<'_>, from: Value) -> Value {
    let b = &mut t.b;
    let mantissa = b.ins().load(types::I32, memory(), from, 0);
    let exponent = b.ins().load(types::I32, memory(), from, 4);
    let (least, most) = (b.ins().iconst(types::I32, -1000), b.ins().iconst(types::I32, 900));
    let exponent = b.ins().smax(exponent, least);
    let exponent = b.ins().smin(exponent, most);
    let biased = b.ins().iadd_imm_s(exponent, 1023);
    let biased = b.ins().uextend(types::I64, biased);
    let power = b.ins().ishl_imm_s(biased, 52);
    let power = b.ins().bitcast(types::F64, MemFlagsData::new(), power);
    let mantissa = b.ins().fcvt_from_sint(types::F64, mantissa);
    let real = b.ins().fmul(mantissa, power);
    b.ins().fdemote(types::F32, real)
}
