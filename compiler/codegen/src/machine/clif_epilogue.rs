//! What CLIF does with finished accumulators: requantize, narrow, store.
//!
//! Up to four vectors of one pixel narrow to 16 bytes in natural order. A pixel with fewer channels is stored in powers
//! of two, and its residual is loaded so.

use cranelift_codegen::ir::{InstBuilder, Type, Value, condcodes::IntCC, types};
use cranelift_frontend::Variable;
use qcc_num::requant::{Epilogue, FRACTION_BITS};

use super::{At, Clif, Pixels, Requantize};

/// Lanes of a vector.
const LANES: usize = 4;

/// See [`super::Machine::requantize`].
pub(super) fn requantize(m: &mut Clif<'_>, tile: &[Vec<Variable>], operands: &Requantize<Variable>) {
    for (index, pixel) in tile.iter().enumerate() {
        let mut highs = Vec::new();
        for (vector, &acc) in pixel.iter().enumerate() {
            let acc = m.consume(acc);
            let acc = shift_left(m, acc, &operands.epilogue, operands.fits_shift);
            let mult = m.load_constant(types::I32X4, operands.mult.plus(4 * LANES * vector));
            highs.push(mul_high(m, acc, mult));
        }
        let pairs = highs.chunks(2).map(|pair| m.b.ins().snarrow(pair[0], pair[pair.len() - 1]));
        let mut words: Vec<Value> = pairs.collect();
        if let Some((residual, mult)) = operands.residual {
            let bytes = load_bytes(m, residual.at(index), operands.channels);
            for (part, word) in words.iter_mut().enumerate() {
                let term = residual_term(m, bytes, part, mult);
                *word = m.b.ins().sadd_sat(*word, term);
            }
        }
        let bytes = narrow(m, &words, &operands.epilogue);
        store_bytes(m, bytes, operands.output.at(index), operands.channels);
    }
}

/// `shl_sat(acc, shl)`: the saturated value where shifting back does not give the accumulator again.
fn shift_left(m: &mut Clif<'_>, acc: Value, epilogue: &Epilogue, fits: bool) -> Value {
    let shl = i64::from(epilogue.shl);
    if shl == 0 {
        return acc;
    }
    let shifted = m.b.ins().ishl_imm_u(acc, shl);
    if fits {
        return shifted;
    }
    let back = m.b.ins().sshr_imm_u(shifted, shl);
    let same = m.b.ins().icmp(IntCC::Equal, back, acc);
    let sign = m.b.ins().sshr_imm_u(acc, 31);
    let max = m.splat_as(types::I32X4, i64::from(i32::MAX));
    let saturated = m.b.ins().bxor(sign, max);
    m.b.ins().bitselect(same, shifted, saturated)
}

/// Equation (1) after the shift: the high halves of the 64-bit products.
fn mul_high(m: &mut Clif<'_>, acc: Value, mult: Value) -> Value {
    let (a, b) = (m.b.ins().swiden_low(acc), m.b.ins().swiden_low(mult));
    let low = m.b.ins().imul(a, b);
    let (a, b) = (m.b.ins().swiden_high(acc), m.b.ins().swiden_high(mult));
    let high = m.b.ins().imul(a, b);
    let (low, high) = (m.cast(types::I8X16, low), m.cast(types::I8X16, high));
    let odd_quads = [4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31];
    let mask = m.b.func.dfg.immediates.push(odd_quads.as_slice().into());
    let shuffled = m.b.ins().shuffle(low, high, mask);
    m.cast(types::I32X4, shuffled)
}

/// The terms `r` of (2) for eight bytes: `residual * (R / 2^8) + (residual * (R mod 2^8)) / 2^8`, both products in 16 bits.
fn residual_term(m: &mut Clif<'_>, bytes: Value, part: usize, mult: u16) -> Value {
    let bytes = if part == 0 { m.b.ins().uwiden_low(bytes) } else { m.b.ins().uwiden_high(bytes) };
    let (high, low) = (i64::from(mult >> 8), i64::from(mult & 0xFF));
    let (high, low) = (m.splat_as(types::I16X8, high), m.splat_as(types::I16X8, low));
    let (high, low) = (m.b.ins().imul(bytes, high), m.b.ins().imul(bytes, low));
    let low = m.b.ins().ushr_imm_u(low, 8);
    m.b.ins().iadd(high, low)
}

/// Equations (3) and (4): bytes.
fn narrow(m: &mut Clif<'_>, words: &[Value], epilogue: &Epilogue) -> Value {
    let offset = m.splat_as(types::I16X8, i64::from(epilogue.offset));
    let shifted = words.iter().map(|&word| {
        let sum = m.b.ins().sadd_sat(word, offset);
        m.b.ins().sshr_imm_u(sum, i64::from(FRACTION_BITS))
    });
    let shifted: Vec<Value> = shifted.collect();
    let mut bytes = m.b.ins().unarrow(shifted[0], shifted[shifted.len() - 1]);
    if epilogue.lo > 0 {
        let lo = m.splat_as(types::I8X16, i64::from(epilogue.lo));
        bytes = m.b.ins().umax(bytes, lo);
    }
    if epilogue.hi < u8::MAX {
        let hi = m.splat_as(types::I8X16, i64::from(epilogue.hi));
        bytes = m.b.ins().umin(bytes, hi);
    }
    bytes
}

/// `count` bytes of 16 as pieces that a lane can hold: the type of vector, the lane, the first byte.
fn pieces(count: usize) -> impl Iterator<Item = (Type, u8, usize)> {
    let kinds = [(types::I64X2, 8), (types::I32X4, 4), (types::I16X8, 2), (types::I8X16, 1)];
    let mut first = 0;
    kinds.into_iter().filter_map(move |(kind, bytes)| {
        let fits = count - first >= bytes;
        let piece = (kind, (first / bytes) as u8, first);
        first += if fits { bytes } else { 0 };
        fits.then_some(piece)
    })
}

/// 16 bytes of which `count` come from memory.
fn load_bytes(m: &mut Clif<'_>, at: At<Variable>, count: usize) -> Value {
    if count == 16 {
        return m.load_as(types::I8X16, at);
    }
    let mut bytes = m.splat_as(types::I8X16, 0);
    for (kind, lane, first) in pieces(count) {
        let piece = m.load_as(kind.lane_type(), at.plus(first));
        let vector = m.cast(kind, bytes);
        bytes = m.b.ins().insertlane(vector, piece, lane);
    }
    m.cast(types::I8X16, bytes)
}

/// Stores the first `count` of 16 bytes.
fn store_bytes(m: &mut Clif<'_>, bytes: Value, at: At<Variable>, count: usize) {
    if count == 16 {
        return m.store(bytes, at);
    }
    for (kind, lane, first) in pieces(count) {
        let vector = m.cast(kind, bytes);
        let piece = m.b.ins().extractlane(vector, lane);
        m.store(piece, at.plus(first));
    }
}

/// See [`super::Machine::store_raw`].
pub(super) fn store_raw(m: &mut Clif<'_>, tile: &[Vec<Variable>], output: Pixels<Variable>, channels: usize) {
    for (index, pixel) in tile.iter().enumerate() {
        for (vector, &acc) in pixel.iter().enumerate() {
            let value = m.consume(acc);
            let count = (channels - LANES * vector).min(LANES);
            store_bytes(m, value, output.at(index).plus(4 * LANES * vector), 4 * count);
        }
    }
}
