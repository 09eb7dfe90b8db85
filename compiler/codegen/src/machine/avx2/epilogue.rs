//! What AVX2 does with finished accumulators: requantize, narrow, store.
//!
//! The vectors of a pixel narrow to one vector of bytes, each 128-bit part of which begins with four channels of every
//! vector: natural order, by the order of the weight columns ([`VectorShape::channel`](crate::machine::VectorShape::channel)). The constants of
//! the rule are in the frame: a tile of twelve accumulators leaves four registers, which a saturating shift wants.

use iced_x86::code_asm::registers::gpr32::eax;
use iced_x86::code_asm::{AsmRegister64, ymmword_ptr};
use qcc_num::requant::Epilogue;

use super::parts::{PART, Parts, load, store, store_part};
use super::registers::{Avx2, BYTES, CONSTANTS, Vector, Ymm, frame};
use crate::machine::code::{emit, memory};
use crate::machine::vector_machine::{At, Machine, Pixels, Requantize};

/// Bytes of a lane.
const LANE: usize = 4;

/// Vectors of the frame: offset `C` and residual multiplier `R` in 16-bit lanes, the limits in bytes.
const OFFSET: usize = 0;
const RESIDUAL: usize = 1;
const LO: usize = 2;
const HI: usize = 3;
const _: () = assert!(HI < CONSTANTS);

/// See [`Machine::prepare`].
pub(super) fn prepare(m: &mut Avx2, rule: &Epilogue, residual: Option<u16>) {
    let constant = |m: &mut Avx2, index: usize, value: u16| {
        let all = splat_i16(m, value);
        emit!(m, vmovdqa, ymmword_ptr(frame(index, 0)), all.ymm());
        m.give(all);
    };
    let pair = |byte: u8| u16::from_le_bytes([byte, byte]);
    constant(m, OFFSET, rule.offset as u16);
    constant(m, LO, pair(rule.lo));
    constant(m, HI, pair(rule.hi));
    if let Some(mult) = residual {
        constant(m, RESIDUAL, mult);
    }
}

/// See [`Machine::requantize`].
pub(super) fn requantize(m: &mut Avx2, tile: &[Vec<Vector>], operands: &Requantize<'_, AsmRegister64>) {
    let rule = (operands.epilogue, operands.residual.map(|(_, mult)| mult));
    assert!(m.prepared == Some(rule), "the rule of a function is prepared before its loops");
    for (index, pixel) in tile.iter().enumerate() {
        let i16s = i16s(m, pixel, operands);
        let first = operands.channels.min(4 * pixel.len());
        let parts = (first, operands.channels - first);
        if let Some((residual, _)) = operands.residual {
            add_residual(m, &i16s, residual.at(index), parts);
        }
        let bytes = bytes(m, i16s, &operands.epilogue);
        store(m, bytes, operands.output.at(index), parts);
        m.give(bytes);
    }
}

/// Equation (1) and the first saturation of (2): one vector of 16-bit lanes for every two of accumulators.
fn i16s(m: &mut Avx2, pixel: &[Vector], operands: &Requantize<'_, AsmRegister64>) -> Vec<Ymm> {
    let mut highs = Vec::new();
    for (vector, acc) in pixel.iter().enumerate() {
        let acc = acc.register();
        shift_left(m, acc, &operands.epilogue, operands.fits_shift);
        let mult = operands.mult.plus(2 * BYTES * vector);
        highs.push(match operands.epilogue.f32_fraction_bits {
            0 => mul_high(m, acc, mult),
            point => super::requant_f32::round(m, acc, mult, point as i32),
        });
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
fn bytes(m: &mut Avx2, i16s: Vec<Ymm>, rule: &Epilogue) -> Ymm {
    for vector in &i16s {
        emit!(m, vpaddsw, vector.ymm(), vector.ymm(), ymmword_ptr(frame(OFFSET, 0)));
        if rule.f32_fraction_bits == 0 {
            emit!(m, vpsraw, vector.ymm(), vector.ymm(), qcc_num::requant::FRACTION_BITS as i32);
        }
    }
    let (bytes, last) = (i16s[0], i16s[i16s.len() - 1]);
    emit!(m, vpackuswb, bytes.ymm(), bytes.ymm(), last.ymm());
    if last != bytes {
        m.give(last);
    }
    if rule.lo > 0 {
        emit!(m, vpmaxub, bytes.ymm(), bytes.ymm(), ymmword_ptr(frame(LO, 0)));
    }
    if rule.hi < u8::MAX {
        emit!(m, vpminub, bytes.ymm(), bytes.ymm(), ymmword_ptr(frame(HI, 0)));
    }
    bytes
}

/// Adds the terms `r` of (2) to the 16-bit lanes of a pixel: `floor(residual * 2^8 * R / 2^16)`.
fn add_residual(m: &mut Avx2, i16s: &[Ymm], from: At<AsmRegister64>, parts: Parts) {
    let bytes = load(m, from, parts);
    let term = m.take();
    for (half, vector) in i16s.iter().enumerate() {
        emit!(m, vpxor, term.ymm(), term.ymm(), term.ymm());
        match half {
            0 => emit!(m, vpunpcklbw, term.ymm(), term.ymm(), bytes.ymm()),
            _ => emit!(m, vpunpckhbw, term.ymm(), term.ymm(), bytes.ymm()),
        }
        emit!(m, vpmulhuw, term.ymm(), term.ymm(), ymmword_ptr(frame(RESIDUAL, 0)));
        emit!(m, vpaddsw, vector.ymm(), vector.ymm(), term.ymm());
    }
    [bytes, term].into_iter().for_each(|register| m.give(register));
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
/// after them those of the odd lanes in even lanes.
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

fn splat_i16(m: &mut Avx2, value: u16) -> Ymm {
    let to = m.take();
    emit!(m, mov, eax, i32::from(value));
    emit!(m, vmovd, to.xmm(), eax);
    emit!(m, vpbroadcastw, to.ymm(), to.xmm());
    to
}

/// See [`Machine::extrema`].
pub(super) fn extrema(m: &mut Avx2, tile: &[Vec<Vector>], least: At<AsmRegister64>, greatest: At<AsmRegister64>) {
    for vector in 0..tile[0].len() {
        let bounds = [least, greatest].map(|at| at.plus(BYTES * vector));
        let (lo, hi) = (m.load(bounds[0]), m.load(bounds[1]));
        for pixel in tile {
            let acc = pixel[vector].register();
            emit!(m, vpminsd, lo.register().ymm(), lo.register().ymm(), acc.ymm());
            emit!(m, vpmaxsd, hi.register().ymm(), hi.register().ymm(), acc.ymm());
        }
        for (extreme, at) in [lo, hi].into_iter().zip(bounds) {
            m.store(extreme, at);
            m.release(extreme);
        }
    }
}

/// See [`Machine::store_raw`].
pub(super) fn store_raw(m: &mut Avx2, tile: &[Vec<Vector>], output: Pixels<'_, AsmRegister64>, channels: usize) {
    for (index, pixel) in tile.iter().enumerate() {
        for (vector, acc) in pixel.iter().enumerate() {
            let (acc, done) = (acc.register(), BYTES * vector);
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
