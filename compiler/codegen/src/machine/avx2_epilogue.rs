//! What AVX2 does with finished accumulators: requantize, narrow, store.
//!
//! The vectors of a pixel narrow to one vector of bytes, each 128-bit part of which begins with four channels of every
//! vector: natural order, by the order of the weight columns ([`Shape::channel`](super::Shape::channel)). Parts that are
//! not full are stored and loaded in pieces of 8, 4, 2 and 1 bytes.

use iced_x86::code_asm::registers::gpr32::eax;
use iced_x86::code_asm::{AsmRegister64, byte_ptr, dword_ptr, qword_ptr, word_ptr, xmmword_ptr, ymmword_ptr};
use qcc_num::requant::Epilogue;

use super::avx2::{Avx2, Vector, Ymm};
use super::code::{emit, memory};
use super::{At, Machine, Pixels, Requantize};

/// Bytes of a vector and of its two parts.
const BYTES: usize = 32;
const PART: usize = 16;
/// Bytes of a lane.
const LANE: usize = 4;

/// Constants of one tile, each in a register from its first use on: there is room for them when the first pixel's
/// accumulators have become one vector of bytes.
#[derive(Default)]
struct Constants {
    /// Offset `C`, in 16-bit lanes.
    offset: Option<Ymm>,
    /// Residual multiplier `R`, in 16-bit lanes.
    residual: Option<Ymm>,
    lo: Option<Ymm>,
    hi: Option<Ymm>,
}

/// The register in `slot`, made by `make` when it is wanted first.
fn constant(m: &mut Avx2, slot: &mut Option<Ymm>, make: impl FnOnce(&mut Avx2) -> Ymm) -> Ymm {
    *slot.get_or_insert_with(|| make(m))
}

/// See [`Machine::requantize`].
pub(super) fn requantize(m: &mut Avx2, tile: &[Vec<Vector>], operands: &Requantize<'_, AsmRegister64>) {
    let mut constants = Constants::default();
    for (index, pixel) in tile.iter().enumerate() {
        let words = words(m, pixel, operands);
        if let Some((residual, mult)) = operands.residual {
            add_residual(m, &mut constants, &words, (residual.at(index), mult), (pixel.len(), operands.channels));
        }
        let bytes = bytes(m, &mut constants, words, &operands.epilogue);
        store(m, bytes, operands.output.at(index), (pixel.len(), operands.channels));
        m.give(bytes);
    }
    let Constants { offset, residual, lo, hi } = constants;
    [offset, residual, lo, hi].into_iter().flatten().for_each(|register| m.give(register));
}

/// Equation (1) and the first saturation of (2): one vector of 16-bit lanes for every two of accumulators.
fn words(m: &mut Avx2, pixel: &[Vector], operands: &Requantize<'_, AsmRegister64>) -> Vec<Ymm> {
    let mut highs = Vec::new();
    for (vector, acc) in pixel.iter().enumerate() {
        let acc = acc.lanes();
        shift_left(m, acc, &operands.epilogue, operands.fits_shift);
        highs.push(mul_high(m, acc, operands.mult.plus(2 * BYTES * vector)));
    }
    let pack = |pair: &[Ymm]| {
        let (low, high) = (pair[0], pair[pair.len() - 1]);
        emit!(m, vpackssdw, low.ymm(), low.ymm(), high.ymm());
        if high != low {
            m.give(high);
        }
        low
    };
    highs.chunks(2).map(pack).collect()
}

/// Equations (2) to (4): one vector of bytes.
fn bytes(m: &mut Avx2, constants: &mut Constants, words: Vec<Ymm>, epilogue: &Epilogue) -> Ymm {
    let Epilogue { offset, lo, hi, .. } = *epilogue;
    let offset = constant(m, &mut constants.offset, |m| splat_words(m, offset as u16));
    for word in &words {
        emit!(m, vpaddsw, word.ymm(), word.ymm(), offset.ymm());
        emit!(m, vpsraw, word.ymm(), word.ymm(), qcc_num::requant::FRACTION_BITS as i32);
    }
    let (bytes, last) = (words[0], words[words.len() - 1]);
    emit!(m, vpackuswb, bytes.ymm(), bytes.ymm(), last.ymm());
    if last != bytes {
        m.give(last);
    }
    if lo > 0 {
        let lo = constant(m, &mut constants.lo, |m| splat_bytes(m, lo));
        emit!(m, vpmaxub, bytes.ymm(), bytes.ymm(), lo.ymm());
    }
    if hi < u8::MAX {
        let hi = constant(m, &mut constants.hi, |m| splat_bytes(m, hi));
        emit!(m, vpminub, bytes.ymm(), bytes.ymm(), hi.ymm());
    }
    bytes
}

/// Adds the terms `r` of (2) to the words of a pixel: `floor(residual * 2^8 * R / 2^16)`.
fn add_residual(
    m: &mut Avx2,
    constants: &mut Constants,
    words: &[Ymm],
    (from, mult): (At<AsmRegister64>, u16),
    (vectors, channels): (usize, usize),
) {
    let bytes = load(m, from, (vectors, channels));
    let mult = constant(m, &mut constants.residual, |m| splat_words(m, mult));
    let term = m.take();
    for (half, word) in words.iter().enumerate() {
        emit!(m, vpxor, term.ymm(), term.ymm(), term.ymm());
        match half {
            0 => emit!(m, vpunpcklbw, term.ymm(), term.ymm(), bytes.ymm()),
            _ => emit!(m, vpunpckhbw, term.ymm(), term.ymm(), bytes.ymm()),
        }
        emit!(m, vpmulhuw, term.ymm(), term.ymm(), mult.ymm());
        emit!(m, vpaddsw, word.ymm(), word.ymm(), term.ymm());
    }
    [bytes, term].into_iter().for_each(|register| m.give(register));
}

/// Bytes of the two parts of a pixel.
fn parts((vectors, channels): (usize, usize)) -> (usize, usize) {
    let first = channels.min(4 * vectors);
    (first, channels - first)
}

/// A pixel's bytes, each part's from its beginning on.
fn load(m: &mut Avx2, from: At<AsmRegister64>, pixel: (usize, usize)) -> Ymm {
    let to = m.take();
    if parts(pixel) == (PART, PART) {
        emit!(m, vmovdqu, to.ymm(), ymmword_ptr(memory(from)));
        return to;
    }
    let (first, second) = parts(pixel);
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
    emit!(m, vpxor, to.xmm(), to.xmm(), to.xmm());
    for (at, size) in pieces(count) {
        let (place, index) = (memory(from.plus(at)), (at / size) as i32);
        match size {
            8 => emit!(m, vpinsrq, to.xmm(), to.xmm(), qword_ptr(place), index),
            4 => emit!(m, vpinsrd, to.xmm(), to.xmm(), dword_ptr(place), index),
            2 => emit!(m, vpinsrw, to.xmm(), to.xmm(), word_ptr(place), index),
            _ => emit!(m, vpinsrb, to.xmm(), to.xmm(), byte_ptr(place), index),
        }
    }
}

/// Stores the first `count` bytes of a part.
fn store_part(m: &mut Avx2, from: Ymm, to: At<AsmRegister64>, count: usize) {
    if count == PART {
        return emit!(m, vmovdqu, xmmword_ptr(memory(to)), from.xmm());
    }
    for (at, size) in pieces(count) {
        let (place, index) = (memory(to.plus(at)), (at / size) as i32);
        match size {
            8 => emit!(m, vpextrq, qword_ptr(place), from.xmm(), index),
            4 => emit!(m, vpextrd, dword_ptr(place), from.xmm(), index),
            2 => emit!(m, vpextrw, word_ptr(place), from.xmm(), index),
            _ => emit!(m, vpextrb, byte_ptr(place), from.xmm(), index),
        }
    }
}

/// Stores a pixel's bytes.
fn store(m: &mut Avx2, bytes: Ymm, to: At<AsmRegister64>, pixel: (usize, usize)) {
    let (first, second) = parts(pixel);
    if (first, second) == (PART, PART) {
        return emit!(m, vmovdqu, ymmword_ptr(memory(to)), bytes.ymm());
    }
    store_part(m, bytes, to, first);
    if second > 0 {
        emit!(m, vextracti128, bytes.xmm(), bytes.ymm(), 1);
        store_part(m, bytes, to.plus(first), second);
    }
}

/// `acc := shl_sat(acc, shl)`. The saturated value where shifting back does not give the accumulator again.
fn shift_left(m: &mut Avx2, acc: Ymm, epilogue: &Epilogue, fits: bool) {
    let shl = epilogue.shl as i32;
    if shl == 0 {
        return;
    }
    if fits {
        return emit!(m, vpslld, acc.ymm(), acc.ymm(), shl);
    }
    let (shifted, same, limit) = (m.take(), m.take(), m.take());
    emit!(m, vpslld, shifted.ymm(), acc.ymm(), shl);
    emit!(m, vpsrad, same.ymm(), shifted.ymm(), shl);
    emit!(m, vpcmpeqd, same.ymm(), same.ymm(), acc.ymm());
    // i32::MAX for positive accumulators, its complement for negative ones.
    emit!(m, vpcmpeqd, limit.ymm(), limit.ymm(), limit.ymm());
    emit!(m, vpsrld, limit.ymm(), limit.ymm(), 1);
    emit!(m, vpsrad, acc.ymm(), acc.ymm(), 31);
    emit!(m, vpxor, acc.ymm(), acc.ymm(), limit.ymm());
    emit!(m, vpblendvb, acc.ymm(), acc.ymm(), shifted.ymm(), same.ymm());
    [shifted, same, limit].into_iter().for_each(|register| m.give(register));
}

/// Equation (1) after the shift, into a register of its own; releases the accumulator. At `mult` lie the multipliers and
/// after them those of the odd lanes in the places of the even ones.
fn mul_high(m: &mut Avx2, acc: Ymm, mult: At<AsmRegister64>) -> Ymm {
    let high = m.take();
    emit!(m, vpsrlq, high.ymm(), acc.ymm(), 32);
    emit!(m, vpmuldq, acc.ymm(), acc.ymm(), ymmword_ptr(memory(mult)));
    emit!(m, vpmuldq, high.ymm(), high.ymm(), ymmword_ptr(memory(mult.plus(BYTES))));
    // The high halves of the even products come down; those of the odd ones are where they belong.
    emit!(m, vpshufd, acc.ymm(), acc.ymm(), 0xF5);
    emit!(m, vpblendd, high.ymm(), acc.ymm(), high.ymm(), 0xAA);
    m.give(acc);
    high
}

fn splat_words(m: &mut Avx2, value: u16) -> Ymm {
    let to = m.take();
    emit!(m, mov, eax, i32::from(value));
    emit!(m, vmovd, to.xmm(), eax);
    emit!(m, vpbroadcastw, to.ymm(), to.xmm());
    to
}

fn splat_bytes(m: &mut Avx2, value: u8) -> Ymm {
    let to = m.take();
    emit!(m, mov, eax, i32::from(value));
    emit!(m, vmovd, to.xmm(), eax);
    emit!(m, vpbroadcastb, to.ymm(), to.xmm());
    to
}

/// See [`Machine::extrema`].
pub(super) fn extrema(m: &mut Avx2, tile: &[Vec<Vector>], least: At<AsmRegister64>, greatest: At<AsmRegister64>) {
    for vector in 0..tile[0].len() {
        let places = [least, greatest].map(|at| at.plus(BYTES * vector));
        let (lo, hi) = (m.load(places[0]), m.load(places[1]));
        for pixel in tile {
            let acc = pixel[vector].lanes();
            emit!(m, vpminsd, lo.lanes().ymm(), lo.lanes().ymm(), acc.ymm());
            emit!(m, vpmaxsd, hi.lanes().ymm(), hi.lanes().ymm(), acc.ymm());
        }
        for (extreme, at) in [lo, hi].into_iter().zip(places) {
            m.store(extreme, at);
            m.release(extreme);
        }
    }
}

/// See [`Machine::store_raw`].
pub(super) fn store_raw(m: &mut Avx2, tile: &[Vec<Vector>], output: Pixels<'_, AsmRegister64>, channels: usize) {
    for (index, pixel) in tile.iter().enumerate() {
        for (vector, acc) in pixel.iter().enumerate() {
            let (acc, done) = (acc.lanes(), BYTES * vector);
            let bytes = (LANE * channels - done).min(BYTES);
            let to = output.at(index).plus(done);
            if bytes == BYTES {
                emit!(m, vmovdqu, ymmword_ptr(memory(to)), acc.ymm());
            } else {
                store_part(m, acc, to, bytes.min(PART));
                if bytes > PART {
                    emit!(m, vextracti128, acc.xmm(), acc.ymm(), 1);
                    store_part(m, acc, to.plus(PART), bytes - PART);
                }
            }
            m.give(acc);
        }
    }
}
