//! What AVX-512 does with finished accumulators: requantize, narrow, store.
//!
//! Four vectors of accumulators narrow to one vector of bytes: the four vectors of one pixel, the two of two pixels, or
//! the one of four pixels (three make a group with an empty quarter). `vpackssdw` and `vpackuswb` leave in each
//! 128-bit part the four channels of every vector in turn; with four vectors that is natural order, by the order of the
//! weight columns ([`VectorShape::channel`](crate::machine::VectorShape::channel)), and with fewer one `vpermd` sorts the pixels apart.
//! Costs: 4 operations a vector of accumulators for the high half of the products, 2.5 for the rest.

use iced_x86::code_asm::registers::{gpr32::eax, gpr64::rax, k::k1, k::k2, k::k3};
use iced_x86::code_asm::{AsmRegister64, AsmRegisterZmm, xmmword_ptr, ymmword_ptr, zmmword_ptr};
use qcc_num::requant::Epilogue;

use super::registers::{Avx512, Zmm};
use super::requant_f32;
use crate::machine::code::{emit, memory};
use crate::machine::vector_machine::{At, Machine, Pixels, Requantize};

/// Bytes of a vector.
const BYTES: usize = 64;
/// Lanes of a vector.
const LANES: usize = 16;
/// Selects the even 32-bit lanes.
pub(super) const EVEN: i32 = 0x5555;

/// Constants of one tile, each in a register from its first use on.
///
/// A full tile leaves four registers, of which the products want two. The constants come into those that the first group
/// sets free: four accumulators become one vector of bytes, six constants at most remain, and one register is left for
/// stores in parts. There is no room for a seventh, so zero is made where it is used.
#[derive(Default)]
struct Constants {
    /// Offset `C`, in 16-bit lanes.
    offset: Option<Zmm>,
    /// Residual multiplier `R`, in 16-bit lanes.
    residual: Option<Zmm>,
    lo: Option<Zmm>,
    hi: Option<Zmm>,
    /// `vpermd` indices from the order of narrowed bytes to the order in memory, and back.
    sort: Option<Zmm>,
    unsort: Option<Zmm>,
}

impl Constants {
    fn release(self, machine: &mut Avx512) {
        let all = [self.offset, self.residual, self.lo, self.hi, self.sort, self.unsort];
        all.into_iter().flatten().for_each(|vector| machine.release(vector));
    }
}

/// The register in `slot`, made by `make` when it is wanted first.
fn constant(machine: &mut Avx512, slot: &mut Option<Zmm>, make: impl FnOnce(&mut Avx512) -> Zmm) -> AsmRegisterZmm {
    slot.get_or_insert_with(|| make(machine)).zmm()
}

/// See [`Machine::requantize`].
pub(super) fn requantize(m: &mut Avx512, tile: &[Vec<Zmm>], operands: &Requantize<'_, AsmRegister64>) {
    let vectors = tile[0].len();
    let group = if vectors == 3 { 1 } else { 4 / vectors };
    let mut constants = Constants::default();
    emit!(m, mov, eax, EVEN);
    emit!(m, kmovw, k1, eax);
    if partial(vectors, operands.channels) {
        emit!(m, mov, rax, ((1u64 << operands.channels) - 1) as i64);
        emit!(m, kmovq, k2, rax);
    }
    let f32_fraction_bits = operands.epilogue.f32_fraction_bits;
    if f32_fraction_bits > 0 {
        requant_f32::begin(m, f32_fraction_bits);
    }
    for (index, pixels) in tile.chunks(group).enumerate() {
        let narrow = Narrow { operands, vectors, first: index * group, pixels: pixels.len() };
        let i16s = narrow.i16s(m, pixels);
        let bytes = narrow.bytes(m, &mut constants, i16s);
        narrow.store(m, bytes);
        m.release(bytes);
    }
    constants.release(m);
    if f32_fraction_bits > 0 {
        requant_f32::end(m);
    }
}

/// One group of a tile.
struct Narrow<'a> {
    operands: &'a Requantize<'a, AsmRegister64>,
    /// Vectors of one pixel.
    vectors: usize,
    /// Number of the group's first pixel in its tile.
    first: usize,
    pixels: usize,
}

impl Narrow<'_> {
    /// Equation (1) and the first saturation of (2): two vectors of 16-bit lanes, or one where that is all there is.
    fn i16s(&self, m: &mut Avx512, pixels: &[Vec<Zmm>]) -> Vec<Zmm> {
        let mut highs = Vec::new();
        for pixel in pixels {
            for (vector, &acc) in pixel.iter().enumerate() {
                shift_left(m, acc, &self.operands.epilogue, self.operands.fits_shift);
                let mult = self.operands.mult.plus(2 * BYTES * vector);
                highs.push(match self.operands.epilogue.f32_fraction_bits {
                    0 => mul_high(m, acc, mult),
                    point => requant_f32::round(m, acc, mult, point),
                });
            }
        }
        let mut i16s = Vec::new();
        for pair in highs.chunks(2) {
            let (low, high) = (pair[0], pair[pair.len() - 1]);
            emit!(m, vpackssdw, low.zmm(), low.zmm(), high.zmm());
            if high != low {
                m.release(high);
            }
            i16s.push(low);
        }
        i16s
    }

    /// Equations (2) to (4) on the 16-bit lanes of a group: one vector of bytes in memory order.
    fn bytes(&self, m: &mut Avx512, constants: &mut Constants, i16s: Vec<Zmm>) -> Zmm {
        let Epilogue { offset, f32_fraction_bits, lo, hi, .. } = self.operands.epilogue;
        if let Some((residual, mult)) = self.operands.residual {
            let terms = self.residual_terms(m, constants, residual, mult, i16s.len());
            for (&vector, &term) in i16s.iter().zip(&terms) {
                emit!(m, vpaddsw, vector.zmm(), vector.zmm(), term.zmm());
                m.release(term);
            }
        }
        let offset = constant(m, &mut constants.offset, |m| splat_i16(m, offset as u16));
        for &vector in &i16s {
            emit!(m, vpaddsw, vector.zmm(), vector.zmm(), offset);
            if f32_fraction_bits == 0 {
                emit!(m, vpsraw, vector.zmm(), vector.zmm(), qcc_num::requant::FRACTION_BITS as i32);
            }
        }
        let (bytes, last) = (i16s[0], i16s[i16s.len() - 1]);
        emit!(m, vpackuswb, bytes.zmm(), bytes.zmm(), last.zmm());
        if last != bytes {
            m.release(last);
        }
        if lo > 0 {
            let lo = constant(m, &mut constants.lo, |m| splat_bytes(m, lo));
            emit!(m, vpmaxub, bytes.zmm(), bytes.zmm(), lo);
        }
        if hi < u8::MAX {
            let hi = constant(m, &mut constants.hi, |m| splat_bytes(m, hi));
            emit!(m, vpminub, bytes.zmm(), bytes.zmm(), hi);
        }
        if self.vectors < 4 {
            let sort = constant(m, &mut constants.sort, |m| indices(m, sort_indices(self.vectors)));
            emit!(m, vpermd, bytes.zmm(), sort, bytes.zmm());
        }
        bytes
    }

    /// The terms `r` of (2) in the order of the 16-bit lanes: `floor(residual * 2^8 * R / 2^16)`.
    fn residual_terms(
        &self,
        m: &mut Avx512,
        constants: &mut Constants,
        residual: Pixels<'_, AsmRegister64>,
        mult: u16,
        count: usize,
    ) -> Vec<Zmm> {
        let bytes = self.load_residual(m, residual);
        if self.vectors < 4 {
            let unsort = constant(m, &mut constants.unsort, |m| indices(m, unsort_indices(self.vectors)));
            emit!(m, vpermd, bytes.zmm(), unsort, bytes.zmm());
        }
        let zero = m.splat(0);
        let mut terms = vec![bytes];
        if count == 2 {
            let high = m.take();
            emit!(m, vpunpckhbw, high.zmm(), zero.zmm(), bytes.zmm());
            terms.push(high);
        }
        emit!(m, vpunpcklbw, bytes.zmm(), zero.zmm(), bytes.zmm());
        m.release(zero);
        let mult = constant(m, &mut constants.residual, |m| splat_i16(m, mult));
        for &term in &terms {
            emit!(m, vpmulhuw, term.zmm(), term.zmm(), mult);
        }
        terms
    }

    /// The residual bytes of the group's pixels, side by side as they will be stored.
    fn load_residual(&self, m: &mut Avx512, residual: Pixels<'_, AsmRegister64>) -> Zmm {
        let to = m.take();
        for pixel in 0..self.pixels {
            let (from, position) = (memory(residual.at(self.first + pixel)), pixel as i32);
            if !partial(self.vectors, self.operands.channels) {
                match (self.vectors, pixel) {
                    (4, _) => emit!(m, vmovdqu32, to.zmm(), zmmword_ptr(from)),
                    (2, 0) => emit!(m, vmovdqu32, to.ymm(), ymmword_ptr(from)),
                    (2, _) => emit!(m, vinserti64x4, to.zmm(), to.zmm(), ymmword_ptr(from), position),
                    (_, 0) => emit!(m, vmovdqu32, to.xmm(), xmmword_ptr(from)),
                    (_, _) => emit!(m, vinserti32x4, to.zmm(), to.zmm(), xmmword_ptr(from), position),
                }
                continue;
            }
            let part = if pixel > 0 { m.take() } else { to };
            match self.vectors {
                1 => emit!(m, vmovdqu8, part.xmm().k2().z(), xmmword_ptr(from)),
                2 => emit!(m, vmovdqu8, part.ymm().k2().z(), ymmword_ptr(from)),
                _ => emit!(m, vmovdqu8, part.zmm().k2().z(), zmmword_ptr(from)),
            }
            if pixel > 0 {
                match self.vectors {
                    1 => emit!(m, vinserti32x4, to.zmm(), to.zmm(), part.xmm(), position),
                    _ => emit!(m, vinserti64x4, to.zmm(), to.zmm(), part.ymm(), position),
                }
                m.release(part);
            }
        }
        to
    }

    /// Stores the bytes of the group's pixels.
    fn store(&self, m: &mut Avx512, bytes: Zmm) {
        for pixel in 0..self.pixels {
            let (to, position) = (memory(self.operands.output.at(self.first + pixel)), pixel as i32);
            if !partial(self.vectors, self.operands.channels) {
                match (self.vectors, pixel) {
                    (4, _) => emit!(m, vmovdqu32, zmmword_ptr(to), bytes.zmm()),
                    (2, 0) => emit!(m, vmovdqu32, ymmword_ptr(to), bytes.ymm()),
                    (2, _) => emit!(m, vextracti64x4, ymmword_ptr(to), bytes.zmm(), position),
                    (_, 0) => emit!(m, vmovdqu32, xmmword_ptr(to), bytes.xmm()),
                    (_, _) => emit!(m, vextracti32x4, xmmword_ptr(to), bytes.zmm(), position),
                }
                continue;
            }
            let part = if pixel > 0 { m.take() } else { bytes };
            match self.vectors {
                1 => {
                    if pixel > 0 {
                        emit!(m, vextracti32x4, part.xmm(), bytes.zmm(), position);
                    }
                    emit!(m, vmovdqu8, xmmword_ptr(to).k2(), part.xmm());
                }
                2 => {
                    if pixel > 0 {
                        emit!(m, vextracti64x4, part.ymm(), bytes.zmm(), position);
                    }
                    emit!(m, vmovdqu8, ymmword_ptr(to).k2(), part.ymm());
                }
                _ => emit!(m, vmovdqu8, zmmword_ptr(to).k2(), part.zmm()),
            }
            if pixel > 0 {
                m.release(part);
            }
        }
    }
}

/// Whether a pixel's bytes need a mask: it has lanes that do not exist, or its three vectors are no power of two.
fn partial(vectors: usize, channels: usize) -> bool {
    vectors == 3 || channels < vectors * LANES
}

/// `acc := shl_sat(acc, shl)`. The saturated value where shifting back does not give the accumulator again.
fn shift_left(m: &mut Avx512, acc: Zmm, epilogue: &Epilogue, fits: bool) {
    let shl = epilogue.shl as i32;
    if shl == 0 {
        return;
    }
    if fits {
        return emit!(m, vpslld, acc.zmm(), acc.zmm(), shl);
    }
    let (shifted, back) = (m.take(), m.take());
    emit!(m, vpslld, shifted.zmm(), acc.zmm(), shl);
    emit!(m, vpsrad, back.zmm(), shifted.zmm(), shl);
    emit!(m, vpcmpneqd, k3, back.zmm(), acc.zmm());
    // i32::MAX for positive accumulators, its complement for negative ones.
    emit!(m, mov, eax, i32::MAX);
    emit!(m, vpbroadcastd, back.zmm(), eax);
    emit!(m, vpsrad, acc.zmm(), acc.zmm(), 31);
    emit!(m, vpxord, shifted.zmm().k3(), acc.zmm(), back.zmm());
    emit!(m, vmovdqa32, acc.zmm(), shifted.zmm());
    m.release(shifted);
    m.release(back);
}

/// Equation (1) after the shift, into a register of its own; releases the accumulator. At `mult` lie the multipliers and
/// after them those of the odd lanes in even lanes.
fn mul_high(m: &mut Avx512, acc: Zmm, mult: At<AsmRegister64>) -> Zmm {
    let high = m.take();
    emit!(m, vpsrlq, high.zmm(), acc.zmm(), 32);
    emit!(m, vpmuldq, acc.zmm(), acc.zmm(), zmmword_ptr(memory(mult)));
    emit!(m, vpmuldq, high.zmm(), high.zmm(), zmmword_ptr(memory(mult.plus(BYTES))));
    // The high halves of the even products come down over the low halves of the odd ones.
    emit!(m, vpshufd, high.zmm().k1(), acc.zmm(), 0xF5);
    m.release(acc);
    high
}

pub(super) fn splat_i16(m: &mut Avx512, value: u16) -> Zmm {
    let to = m.take();
    emit!(m, mov, eax, i32::from(value));
    emit!(m, vpbroadcastw, to.zmm(), eax);
    to
}

fn splat_bytes(m: &mut Avx512, value: u8) -> Zmm {
    let to = m.take();
    emit!(m, mov, eax, i32::from(value));
    emit!(m, vpbroadcastb, to.zmm(), eax);
    to
}

/// Index vector for `vpermd`, built from general registers because no data may stand in the text.
pub(super) fn indices(m: &mut Avx512, lanes: [u8; LANES]) -> Zmm {
    let halves = u128::from_le_bytes(lanes);
    let to = m.take();
    emit!(m, mov, rax, halves as u64 as i64);
    emit!(m, vmovq, to.xmm(), rax);
    emit!(m, mov, rax, (halves >> 64) as u64 as i64);
    emit!(m, vpinsrq, to.xmm(), to.xmm(), rax, 1);
    emit!(m, vpmovzxbd, to.zmm(), to.xmm());
    to
}

/// For every four narrowed bytes (four in each 128-bit part), where they belong in memory order, in units of four bytes.
fn memory_order(vectors: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..LANES).filter(move |quad| quad % 4 < vectors * (4 / vectors)).map(move |quad| {
        let (part, slot) = (quad / 4, quad % 4);
        (quad, slot / vectors * 4 * vectors + vectors * part + slot % vectors)
    })
}

fn sort_indices(vectors: usize) -> [u8; LANES] {
    let mut from = [0; LANES];
    memory_order(vectors).for_each(|(narrowed, position)| from[position] = narrowed as u8);
    from
}

fn unsort_indices(vectors: usize) -> [u8; LANES] {
    let mut from = [0; LANES];
    memory_order(vectors).for_each(|(narrowed, position)| from[narrowed] = position as u8);
    from
}

/// See [`Machine::extrema`].
pub(super) fn extrema(m: &mut Avx512, tile: &[Vec<Zmm>], least: At<AsmRegister64>, greatest: At<AsmRegister64>) {
    for vector in 0..tile[0].len() {
        let bounds = [least, greatest].map(|at| at.plus(BYTES * vector));
        let (lo, hi) = (m.load(bounds[0]), m.load(bounds[1]));
        for pixel in tile {
            emit!(m, vpminsd, lo.zmm(), lo.zmm(), pixel[vector].zmm());
            emit!(m, vpmaxsd, hi.zmm(), hi.zmm(), pixel[vector].zmm());
        }
        for (extreme, at) in [lo, hi].into_iter().zip(bounds) {
            m.store(extreme, at);
            m.release(extreme);
        }
    }
}

/// See [`Machine::store_raw`].
pub(super) fn store_raw(m: &mut Avx512, tile: &[Vec<Zmm>], output: Pixels<'_, AsmRegister64>, channels: usize) {
    for (index, pixel) in tile.iter().enumerate() {
        for (vector, &acc) in pixel.iter().enumerate() {
            let to = zmmword_ptr(memory(output.at(index).plus(BYTES * vector)));
            let lanes = channels - LANES * vector;
            if lanes >= LANES {
                emit!(m, vmovdqu32, to, acc.zmm());
            } else {
                emit!(m, mov, eax, (1i32 << lanes) - 1);
                emit!(m, kmovw, k2, eax);
                emit!(m, vmovdqu32, to.k2(), acc.zmm());
            }
            m.release(acc);
        }
    }
}
