//! Arithmetic with single numbers in the code of a task: 64 bits in registers, 32 in memory.

use cranelift_codegen::ir::{InstBuilder, Value, types};
use cranelift_frontend::Variable;

use crate::clif::memory;
use crate::program::task::Task;

/// Bytes of a 32-bit number.
pub const I32_BYTES: usize = 4;

/// A 32-bit number in memory, as 64 bits.
pub fn load_i32(t: &mut Task<'_>, base: Value, index: usize) -> Value {
    let x = t.b.ins().load(types::I32, memory(), base, (index * I32_BYTES) as i32);
    t.b.ins().sextend(types::I64, x)
}

/// Stores the low 32 bits.
pub fn store_i32(t: &mut Task<'_>, x: Value, base: Value, index: usize) {
    let x = t.b.ins().ireduce(types::I32, x);
    t.b.ins().store(memory(), x, base, (index * I32_BYTES) as i32);
}

/// A constant.
pub fn number(t: &mut Task<'_>, x: i64) -> Value {
    t.b.ins().iconst(types::I64, x)
}

/// Mantissa and exponent as [`qcc_num::dynamic::Scale::of`] reads them.
pub fn scale(t: &mut Task<'_>, base: Value) -> (Value, Value) {
    let (mantissa, exponent) = (load_i32(t, base, 0), load_i32(t, base, 1));
    let least = number(t, 1 << 30);
    let (low, high) = (number(t, -(1 << 24)), number(t, 1 << 24));
    let exponent = t.b.ins().smax(exponent, low);
    (t.b.ins().smax(mantissa, least), t.b.ins().smin(exponent, high))
}

/// Number of bits of a number that is not negative.
pub fn bits(t: &mut Task<'_>, x: Value) -> Value {
    let zeros = t.b.ins().clz(x);
    let all = number(t, 64);
    t.b.ins().isub(all, zeros)
}

/// The first 31 bits of a positive number.
pub fn leading(t: &mut Task<'_>, x: Value) -> Value {
    let zeros = t.b.ins().clz(x);
    let normal = t.b.ins().ishl(x, zeros);
    t.b.ins().ushr_imm_s(normal, 33)
}

/// `round(x / 2^shift)` for a shift of at least 1.
pub fn round_shift(t: &mut Task<'_>, x: Value, shift: Value) -> Value {
    let before = t.b.ins().iadd_imm_s(shift, -1);
    let one = number(t, 1);
    let half = t.b.ins().ishl(one, before);
    let sum = t.b.ins().iadd(x, half);
    t.b.ins().sshr(sum, shift)
}

/// A running maximum.
pub fn raise(t: &mut Task<'_>, var: Variable, x: Value) {
    let old = t.b.use_var(var);
    let new = t.b.ins().smax(old, x);
    t.b.def_var(var, new);
}

/// A variable that begins with a constant.
pub fn variable(t: &mut Task<'_>, x: i64) -> Variable {
    let var = t.b.declare_var(types::I64);
    let x = number(t, x);
    t.b.def_var(var, x);
    var
}
