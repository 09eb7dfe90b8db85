//! Equation (15) of [`qcc_num::requant_f32`] in AVX-512, before its clamp and zero point.
//!
//! Only next to a tie do its two roundings differ from one: at most `2^-17` units from it, for results below 256. So a vector of
//! accumulators is rounded once, half up, and where a lane is that near, a routine behind the function computes the
//! vector again by the whole equation: one lane in some ten thousand, if products have [`FRACTION`] fraction bits in their high
//! halves. Where they have too few, the whole equation is what is emitted: 18 operations a vector instead of 10.
//!
//! ```text
//! t = floor(p / 2^32), F = n - 32 of whose bits are fraction bits;  y = t + 2^(F-1) + 1
//! a tie within [t - 1, t + 1) (units of t)  if  y mod 2^F < 2;      r = floor(y / 2^F) elsewhere
//! ```

use iced_x86::code_asm::registers::{gpr64::rax, gpr64::rsp, k::k3, zmm::zmm0, zmm::zmm1, zmm::zmm2, zmm::zmm3};
use iced_x86::code_asm::{
    AsmRegister64, AsmRegisterZmm, CodeLabel, dword_bcst, dword_ptr, qword_bcst, qword_ptr, zmmword_ptr,
};

use super::registers::{Avx512, Routine, Zmm};
use crate::machine::code::{emit, memory};
use crate::machine::vector_machine::{At, Machine};

/// Bytes of a vector.
const BYTES: usize = 64;
/// Greatest number of fraction bits for which `2^-17` is at most half a unit of `t`; and least number for which a tie is rare.
const FRACTION: std::ops::RangeInclusive<u32> = 9..=16;
/// Inverts a register that is all three operands of `vpternlogq`.
const NOT: i32 = 0x55;

/// The stack while a tile is requantized: a vector that is passed to the routine and back, constants of 64 and of 32 bits, and what
/// the routine saves.
const VECTOR: i32 = 0;
const UNIT: i32 = 64;
const TOP: i32 = 72;
const HALF: i32 = 80;
const ROUND: i32 = 84;
const MASK: i32 = 88;
const SAVED: i32 = 128;
const FRAME: i32 = SAVED + 4 * BYTES as i32;
/// Bytes that a call puts on the stack.
const CALL: i32 = 8;

/// Begins a tile: makes the frame and its constants.
pub(super) fn begin(m: &mut Avx512, point: u32) {
    emit!(m, sub, rsp, FRAME);
    emit!(m, mov, rax, 1i64 << point);
    emit!(m, mov, qword_ptr(rsp + UNIT), rax);
    // Shifted down by the leading zeros of |p| it is d.
    emit!(m, mov, rax, 1i64 << 39);
    emit!(m, mov, qword_ptr(rsp + TOP), rax);
    let half = 1i32 << (point - 33);
    emit!(m, mov, dword_ptr(rsp + HALF), half);
    emit!(m, mov, dword_ptr(rsp + ROUND), half + 1);
    emit!(m, mov, dword_ptr(rsp + MASK), 2 * half - 2);
}

/// Ends a tile.
pub(super) fn end(m: &mut Avx512) {
    emit!(m, add, rsp, FRAME);
}

/// The integers `r` of shifted accumulators into a register of its own; releases the accumulators. `k1` selects the even lanes.
/// At `mult` lie the multipliers and after them those of the odd lanes in even lanes.
pub(super) fn round(m: &mut Avx512, acc: Zmm, mult: At<AsmRegister64>, point: u32) -> Zmm {
    let (high, other) = (m.take(), m.take());
    if FRACTION.contains(&(point - 32)) {
        once(m, [acc, high, other], mult, point);
    } else {
        let top = m.take();
        emit!(m, vpbroadcastq, top.zmm(), qword_ptr(rsp + TOP));
        whole(m, [acc, high, other, top].map(Zmm::zmm), mult, (point, 0));
        m.release(top);
    }
    [acc, other].into_iter().for_each(|register| m.release(register));
    high
}

/// One rounding, and the call where it might not do.
fn once(m: &mut Avx512, [acc, high, even]: [Zmm; 3], mult: At<AsmRegister64>, point: u32) {
    emit!(m, vpsrlq, high.zmm(), acc.zmm(), 32);
    emit!(m, vpmuldq, even.zmm(), acc.zmm(), zmmword_ptr(memory(mult)));
    emit!(m, vpmuldq, high.zmm(), high.zmm(), zmmword_ptr(memory(mult.plus(BYTES))));
    merge(m, high.zmm(), even.zmm());
    emit!(m, vpaddd, high.zmm(), high.zmm(), dword_bcst(rsp + ROUND));
    emit!(m, vptestnmd, k3, high.zmm(), dword_bcst(rsp + MASK));
    emit!(m, vpsrad, high.zmm(), high.zmm(), point as i32 - 32);
    emit!(m, kortestw, k3, k3);
    let mut done = m.code.asm.create_label();
    emit!(m, je, done);
    emit!(m, vmovdqu32, zmmword_ptr(rsp + VECTOR), acc.zmm());
    emit!(m, lea, rax, memory(mult));
    let entry = routine(m, point);
    emit!(m, call, entry);
    emit!(m, vmovdqu32, high.zmm(), zmmword_ptr(rsp + VECTOR));
    emit!(m, set_label, &mut done);
}

/// High halves of the even products come down over the low halves of the odd ones.
fn merge(m: &mut Avx512, odd: AsmRegisterZmm, even: AsmRegisterZmm) {
    emit!(m, vpshufd, odd.k1(), even, 0xF5);
}

/// The whole equation: `acc` is used up, the result is in `high`. `frame` is the distance of the frame from the stack pointer.
fn whole(
    m: &mut Avx512,
    [acc, high, d, top]: [AsmRegisterZmm; 4],
    mult: At<AsmRegister64>,
    (point, frame): (u32, i32),
) {
    emit!(m, vpsrlq, high, acc, 32);
    emit!(m, vpmuldq, acc, acc, zmmword_ptr(memory(mult)));
    emit!(m, vpmuldq, high, high, zmmword_ptr(memory(mult.plus(BYTES))));
    for product in [acc, high] {
        emit!(m, vpabsq, d, product);
        emit!(m, vplzcntq, d, d);
        emit!(m, vpsrlvq, d, top, d);
        emit!(m, vptestnmq, k3, product, qword_bcst(rsp + (UNIT + frame)));
        emit!(m, vpternlogq, d.k3(), d, d, NOT);
        emit!(m, vpaddq, product, product, d);
    }
    merge(m, high, acc);
    emit!(m, vpaddd, high, high, dword_bcst(rsp + (HALF + frame)));
    emit!(m, vpsrad, high, high, point as i32 - 32);
}

/// The entry of the function's routine. All tiles of a function have one rule.
fn routine(m: &mut Avx512, point: u32) -> CodeLabel {
    if let Some(routine) = &m.routine {
        assert_eq!(routine.point, point, "a kernel has one rule");
        return routine.entry;
    }
    let entry = m.code.asm.create_label();
    m.routine = Some(Routine { entry, point });
    entry
}

/// The routine: the vector in the frame, with the multipliers at `rax`, by the whole equation. Changes no register but `k3`.
pub(super) fn finish(m: &mut Avx512) {
    let Some(Routine { mut entry, point }) = m.routine.take() else { return };
    let mut behind = m.code.asm.create_label();
    emit!(m, jmp, behind);
    let registers = [zmm0, zmm1, zmm2, zmm3];
    let saved = |i: usize| zmmword_ptr(rsp + (SAVED + CALL + (i * BYTES) as i32));
    emit!(m, set_label, &mut entry);
    for (i, register) in registers.into_iter().enumerate() {
        emit!(m, vmovdqu32, saved(i), register);
    }
    emit!(m, vmovdqu32, zmm0, zmmword_ptr(rsp + (VECTOR + CALL)));
    emit!(m, vpbroadcastq, zmm3, qword_ptr(rsp + (TOP + CALL)));
    whole(m, registers, At::new(rax), (point, CALL));
    emit!(m, vmovdqu32, zmmword_ptr(rsp + (VECTOR + CALL)), zmm1);
    for (i, register) in registers.into_iter().enumerate() {
        emit!(m, vmovdqu32, register, saved(i));
    }
    emit!(m, ret);
    emit!(m, set_label, &mut behind);
}
