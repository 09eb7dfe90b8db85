//! Codes of 4 bits in AVX2: both halves of bytes are looked up in a table that both 128-bit parts have.

use iced_x86::code_asm::registers::gpr32::eax;
use iced_x86::code_asm::{AsmRegister64, xmmword_ptr, ymmword_ptr};

use super::registers::{Avx2, Vector};
use crate::machine::code::{emit, memory};
use crate::machine::vector_machine::At;

/// A code in every byte.
const MASK: i32 = 0x0F0F_0F0F;

/// See [`crate::machine::Machine::begin_codes`].
pub(super) fn begin(m: &mut Avx2, table: At<AsmRegister64>) {
    let (values, mask) = (m.take(), m.take());
    emit!(m, vbroadcasti128, values.ymm(), xmmword_ptr(memory(table)));
    emit!(m, mov, eax, MASK);
    emit!(m, vmovd, mask.xmm(), eax);
    emit!(m, vpbroadcastd, mask.ymm(), mask.xmm());
    m.codes = Some([values, mask]);
}

/// See [`crate::machine::Machine::end_codes`].
pub(super) fn end(m: &mut Avx2) {
    m.codes.take().into_iter().flatten().for_each(|register| m.give(register));
}

/// See [`crate::machine::Machine::decoded_bytes`].
pub(super) fn decode(m: &mut Avx2, at: At<AsmRegister64>) -> [Vector; 2] {
    let [table, mask] = m.codes.expect("decoding has begun");
    let (low, high) = (m.take(), m.take());
    emit!(m, vmovdqu, high.ymm(), ymmword_ptr(memory(at)));
    emit!(m, vpand, low.ymm(), high.ymm(), mask.ymm());
    // What comes from the neighbouring byte is masked away.
    emit!(m, vpsrlw, high.ymm(), high.ymm(), 4);
    emit!(m, vpand, high.ymm(), high.ymm(), mask.ymm());
    for code in [low, high] {
        emit!(m, vpshufb, code.ymm(), table.ymm(), code.ymm());
    }
    [low, high].map(|register| register.vector())
}

/// The same of half as many codes, as 16-bit numbers.
pub(super) fn decode_i16s(m: &mut Avx2, at: At<AsmRegister64>) -> [Vector; 2] {
    let [table, mask] = m.codes.expect("decoding has begun");
    let (low, high) = (m.take(), m.take());
    emit!(m, vmovdqu, high.xmm(), xmmword_ptr(memory(at)));
    emit!(m, vpand, low.xmm(), high.xmm(), mask.xmm());
    emit!(m, vpsrlw, high.xmm(), high.xmm(), 4);
    emit!(m, vpand, high.xmm(), high.xmm(), mask.xmm());
    for code in [low, high] {
        emit!(m, vpshufb, code.xmm(), table.xmm(), code.xmm());
        emit!(m, vpmovsxbw, code.ymm(), code.xmm());
    }
    [low, high].map(|register| register.vector())
}
