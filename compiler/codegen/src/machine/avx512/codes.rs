//! Codes of 4 bits in AVX-512: both halves of bytes are looked up in a table that every 128-bit part has.

use iced_x86::code_asm::{AsmRegister64, zmmword_ptr};

use super::registers::{Avx512, Zmm};
use crate::machine::bytes::ByteMachine;
use crate::machine::code::{emit, memory};
use crate::machine::vector_machine::At;

/// A code in every byte.
const MASK: u8 = 0x0F;

/// See [`crate::machine::Machine::begin_codes`].
pub(super) fn begin(m: &mut Avx512, table: At<AsmRegister64>) {
    m.codes = Some([m.load_part(table), m.splat_byte(MASK)]);
}

/// See [`crate::machine::Machine::end_codes`].
pub(super) fn end(m: &mut Avx512) {
    m.codes.take().into_iter().flatten().for_each(|register| m.code.release(register.number()));
}

/// See [`crate::machine::Machine::decoded_bytes`].
pub(super) fn decode(m: &mut Avx512, at: At<AsmRegister64>) -> [Zmm; 2] {
    let [table, mask] = m.codes.expect("decoding has begun");
    let (low, high) = (m.take(), m.take());
    emit!(m, vmovdqu32, high.zmm(), zmmword_ptr(memory(at)));
    emit!(m, vpandd, low.zmm(), high.zmm(), mask.zmm());
    // What comes from the neighbouring byte is masked away.
    emit!(m, vpsrlw, high.zmm(), high.zmm(), 4);
    emit!(m, vpandd, high.zmm(), high.zmm(), mask.zmm());
    for code in [low, high] {
        emit!(m, vpshufb, code.zmm(), table.zmm(), code.zmm());
    }
    [low, high]
}
