//! What CLIF does with finished accumulators: requantize, narrow, store.
//!
//! Up to four vectors of one pixel narrow to 16 bytes in natural order. A pixel with fewer channels is stored in powers
//! of two, and its residual is loaded so.

use cranelift_codegen::ir::{InstBuilder, Value, types};
use cranelift_frontend::Variable;

use super::function::Clif;
use crate::clif;
use crate::machine::vector_machine::{At, Pixels, Requantize};

/// Lanes of a vector.
const LANES: usize = 4;

/// See [`crate::machine::Machine::requantize`].
pub(super) fn requantize(m: &mut Clif<'_>, tile: &[Vec<Variable>], operands: &Requantize<'_, Variable>) {
    for (index, pixel) in tile.iter().enumerate() {
        let mut highs = Vec::new();
        for (vector, &acc) in pixel.iter().enumerate() {
            let acc = m.consume(acc);
            let mult = m.load_constant(types::I32X4, operands.mult.plus(4 * LANES * vector));
            highs.push(clif::scaled(&mut m.b, acc, mult, &operands.epilogue, operands.fits_shift));
        }
        let pairs = highs.chunks(2).map(|pair| m.b.ins().snarrow(pair[0], pair[pair.len() - 1]));
        let mut i16s: Vec<Value> = pairs.collect();
        if let Some((residual, mult)) = operands.residual {
            let at = residual.at(index);
            let base = m.b.use_var(at.base);
            let bytes = clif::load_bytes(&mut m.b, base, at.disp, operands.channels);
            for (part, vector) in i16s.iter_mut().enumerate() {
                let half = if part == 0 { m.b.ins().uwiden_low(bytes) } else { m.b.ins().uwiden_high(bytes) };
                let term = clif::residual_term(&mut m.b, half, mult);
                *vector = m.b.ins().sadd_sat(*vector, term);
            }
        }
        let bytes = clif::narrow(&mut m.b, &i16s, &operands.epilogue);
        store_bytes(m, bytes, operands.output.at(index), operands.channels);
    }
}

/// See [`crate::machine::Machine::extrema`].
pub(super) fn extrema(m: &mut Clif<'_>, tile: &[Vec<Variable>], least: At<Variable>, greatest: At<Variable>) {
    for vector in 0..tile[0].len() {
        for (at, is_least) in [(least, true), (greatest, false)] {
            let (base, disp) = (m.b.use_var(at.base), at.plus(4 * LANES * vector).disp);
            let mut extreme = m.b.ins().load(types::I32X4, clif::memory(), base, disp);
            for pixel in tile {
                let acc = m.b.use_var(pixel[vector]);
                extreme = if is_least { m.b.ins().smin(extreme, acc) } else { m.b.ins().smax(extreme, acc) };
            }
            m.b.ins().store(clif::memory(), extreme, base, disp);
        }
    }
}

/// See [`crate::machine::Machine::store_raw`].
pub(super) fn store_raw(m: &mut Clif<'_>, tile: &[Vec<Variable>], output: Pixels<'_, Variable>, channels: usize) {
    for (index, pixel) in tile.iter().enumerate() {
        for (vector, &acc) in pixel.iter().enumerate() {
            let value = m.consume(acc);
            let count = (channels - LANES * vector).min(LANES);
            store_bytes(m, value, output.at(index).plus(4 * LANES * vector), 4 * count);
        }
    }
}

/// Stores the first `count` of 16 bytes.
fn store_bytes(m: &mut Clif<'_>, bytes: Value, at: At<Variable>, count: usize) {
    let base = m.b.use_var(at.base);
    clif::store_bytes(&mut m.b, bytes, base, at.disp, count);
}
