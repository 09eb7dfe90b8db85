//! Vectors of bytes in memory of which fewer than all exist: each 128-bit part's bytes from its beginning on, stored and
//! loaded in pieces of 8, 4, 2 and 1 bytes.

use iced_x86::code_asm::{AsmRegister64, byte_ptr, dword_ptr, qword_ptr, word_ptr, xmmword_ptr, ymmword_ptr};

use super::registers::{Avx2, Ymm};
use crate::machine::code::{emit, memory};
use crate::machine::vector_machine::At;

/// Bytes of a part.
pub(super) const PART: usize = 16;

/// Bytes of the two parts of a vector, side by side in memory.
pub(super) type Parts = (usize, usize);

/// A vector from memory, with zeros for what does not exist.
pub(super) fn load(m: &mut Avx2, from: At<AsmRegister64>, (first, second): Parts) -> Ymm {
    let to = m.take();
    if (first, second) == (PART, PART) {
        emit!(m, vmovdqu, to.ymm(), ymmword_ptr(memory(from)));
        return to;
    }
    load_part(m, to, from, first);
    if second > 0 {
        let part = m.take();
        load_part(m, part, from.plus(first), second);
        emit!(m, vinserti128, to.ymm(), to.ymm(), part.xmm(), 1);
        m.give(part);
    }
    to
}

/// Pieces of `count` bytes, fewer than 16: where they begin and how long they are, each a power of two and aligned to
/// itself.
fn pieces(count: usize) -> impl Iterator<Item = (usize, usize)> {
    [8, 4, 2, 1].into_iter().filter(move |size| count & size != 0).map(move |size| (count & !(2 * size - 1), size))
}

/// The first `count` bytes of a part.
fn load_part(m: &mut Avx2, to: Ymm, from: At<AsmRegister64>, count: usize) {
    if count == PART {
        return emit!(m, vmovdqu, to.xmm(), xmmword_ptr(memory(from)));
    }
    if count & 8 != 0 {
        emit!(m, vmovq, to.xmm(), qword_ptr(memory(from)));
    } else {
        emit!(m, vpxor, to.xmm(), to.xmm(), to.xmm());
    }
    for (at, size) in pieces(count) {
        let (address, index) = (memory(from.plus(at)), (at / size) as i32);
        match size {
            8 => {}
            4 => emit!(m, vpinsrd, to.xmm(), to.xmm(), dword_ptr(address), index),
            2 => emit!(m, vpinsrw, to.xmm(), to.xmm(), word_ptr(address), index),
            _ => emit!(m, vpinsrb, to.xmm(), to.xmm(), byte_ptr(address), index),
        }
    }
}

/// Stores the first `count` bytes of a part.
pub(super) fn store_part(m: &mut Avx2, from: Ymm, to: At<AsmRegister64>, count: usize) {
    if count == PART {
        return emit!(m, vmovdqu, xmmword_ptr(memory(to)), from.xmm());
    }
    for (at, size) in pieces(count) {
        let (address, index) = (memory(to.plus(at)), (at / size) as i32);
        match size {
            8 => emit!(m, vmovq, qword_ptr(address), from.xmm()),
            4 => emit!(m, vpextrd, dword_ptr(address), from.xmm(), index),
            2 => emit!(m, vpextrw, word_ptr(address), from.xmm(), index),
            _ => emit!(m, vpextrb, byte_ptr(address), from.xmm(), index),
        }
    }
}

/// Stores a vector, which changes.
pub(super) fn store(m: &mut Avx2, bytes: Ymm, to: At<AsmRegister64>, (first, second): Parts) {
    if (first, second) == (PART, PART) {
        return emit!(m, vmovdqu, ymmword_ptr(memory(to)), bytes.ymm());
    }
    store_part(m, bytes, to, first);
    if second > 0 {
        emit!(m, vextracti128, bytes.xmm(), bytes.ymm(), 1);
        store_part(m, bytes, to.plus(first), second);
    }
}
