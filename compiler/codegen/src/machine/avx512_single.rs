//! Equation (15) of [`qcc_num::single`] in AVX-512, before its clamp and zero point: 18 operations a vector of accumulators.
//!
//! Constants lie in the 128 bytes below the stack pointer, which are a function's own as long as it calls nothing: a full tile
//! leaves no registers for them.

use iced_x86::code_asm::registers::{gpr64::rax, gpr64::rsp, k::k3};
use iced_x86::code_asm::{AsmRegister64, dword_bcst, dword_ptr, qword_bcst, qword_ptr, zmmword_ptr};

use super::avx512::{Avx512, Zmm};
use super::code::{emit, memory};
use super::{At, Machine};

/// Bytes of a vector.
const BYTES: usize = 64;
/// Where `2^n` lies, 64 bits, and `2^(n-33)`, 32 bits, from the stack pointer.
const UNIT: i32 = -8;
const HALF: i32 = -16;
/// Inverts a register that is all three operands of `vpternlogq`.
const NOT: i32 = 0x55;

/// What a tile needs: stores the constants, and gives `2^39` in 64-bit lanes, of which the number of leading zeros makes `d`.
pub(super) fn prepare(m: &mut Avx512, point: u32) -> Zmm {
    emit!(m, mov, rax, 1i64 << point);
    emit!(m, mov, qword_ptr(rsp + UNIT), rax);
    emit!(m, mov, dword_ptr(rsp + HALF), 1i32 << (point - 33));
    let top = m.take();
    emit!(m, mov, rax, 1i64 << 39);
    emit!(m, vpbroadcastq, top.zmm(), rax);
    top
}

/// The integers `r` of shifted accumulators into a register of its own; releases the accumulators. `k1` selects the even lanes.
/// At `mult` lie the multipliers and after them those of the odd lanes in the places of the even ones.
pub(super) fn round(m: &mut Avx512, acc: Zmm, mult: At<AsmRegister64>, top: Zmm, point: u32) -> Zmm {
    let (high, d) = (m.take(), m.take());
    emit!(m, vpsrlq, high.zmm(), acc.zmm(), 32);
    emit!(m, vpmuldq, acc.zmm(), acc.zmm(), zmmword_ptr(memory(mult)));
    emit!(m, vpmuldq, high.zmm(), high.zmm(), zmmword_ptr(memory(mult.plus(BYTES))));
    for product in [acc, high] {
        emit!(m, vpabsq, d.zmm(), product.zmm());
        emit!(m, vplzcntq, d.zmm(), d.zmm());
        emit!(m, vpsrlvq, d.zmm(), top.zmm(), d.zmm());
        emit!(m, vptestnmq, k3, product.zmm(), qword_bcst(rsp + UNIT));
        emit!(m, vpternlogq, d.zmm().k3(), d.zmm(), d.zmm(), NOT);
        emit!(m, vpaddq, product.zmm(), product.zmm(), d.zmm());
    }
    // The high halves of the even products come down over the low halves of the odd ones.
    emit!(m, vpshufd, high.zmm().k1(), acc.zmm(), 0xF5);
    emit!(m, vpaddd, high.zmm(), high.zmm(), dword_bcst(rsp + HALF));
    emit!(m, vpsrad, high.zmm(), high.zmm(), point as i32 - 32);
    [acc, d].into_iter().for_each(|register| m.release(register));
    high
}
