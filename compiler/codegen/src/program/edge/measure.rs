//! The scale of an input that is found at run time, and scales as mantissa and exponent.

use cranelift_codegen::ir::{InstBuilder, MemFlagsData, Value, types};
use cranelift_frontend::Variable;
use cranelift_module::FuncId;

use super::super::task::{Task, frame};
use super::FLOAT;
use super::conversion::whole;
use crate::clif::memory;

/// Floats of which one unit takes the greatest magnitude.
const MEASURED: usize = 1 << 16;

/// The measurement of an input.
pub(super) struct Measure {
    pub index: usize,
    pub elements: usize,
    /// Offset of the greatest magnitudes, one a unit.
    pub partial: usize,
    /// Offset of mantissa and exponent.
    pub scale: usize,
}

impl Measure {
    pub fn units(&self) -> usize {
        self.elements.div_ceil(MEASURED).max(1)
    }

    /// The greatest magnitude, as bits, of each unit.
    pub fn emit(&self, t: &mut Task<'_>, leaf: Option<(FuncId, usize)>) {
        let floats = t.pointer_in(frame::REAL_INPUTS, self.index);
        let partial = t.scratch(self.partial);
        let length = self.elements;
        t.units(&mut |t, unit| {
            let to = t.at(partial, unit, FLOAT);
            let zero = t.b.ins().iconst(types::I32, 0);
            t.b.ins().store(memory(), zero, to, 0);
            let start = t.b.ins().imul_imm_s(unit, MEASURED as i64);
            let Some((leaf, block)) = leaf else {
                let (all, most) = (t.word(length), t.word(MEASURED));
                let end = t.b.ins().iadd(start, most);
                let end = t.b.ins().umin(end, all);
                return measure(t, floats, (start, end), to);
            };
            let mut piece = |t: &mut Task<'_>, start: Value, blocks: usize| {
                let (from, blocks) = (t.at(floats, start, FLOAT), t.word(blocks));
                t.call(leaf, &[from, to, from, blocks, from]);
            };
            if length < MEASURED {
                return whole(t, length, MEASURED, block, &mut piece);
            }
            let last = t.word(length - MEASURED);
            let start = t.b.ins().umin(start, last);
            piece(t, start, MEASURED / block);
        });
    }

    /// Equation (14) from the greatest of the units' magnitudes.
    pub fn emit_scale(&self, t: &mut Task<'_>) {
        let (partial, to, units) = (t.scratch(self.partial), t.scratch(self.scale), self.units());
        t.units(&mut |t, _| {
            let greatest = t.b.declare_var(types::I32);
            let zero = t.b.ins().iconst(types::I32, 0);
            t.b.def_var(greatest, zero);
            t.count(units, &mut |t, unit| {
                let from = t.at(partial, unit, FLOAT);
                let x = t.b.ins().load(types::I32, memory(), from, 0);
                raise(t, greatest, x);
            });
            let bits = t.b.use_var(greatest);
            let most = t.b.ins().iconst(types::I32, i64::from(f32::MAX.to_bits()));
            let bits = t.b.ins().umin(bits, most);
            store_scale(t, bits, to);
        });
    }
}

fn raise(t: &mut Task<'_>, greatest: Variable, x: Value) {
    let old = t.b.use_var(greatest);
    let new = t.b.ins().umax(old, x);
    t.b.def_var(greatest, new);
}

/// The greatest magnitude of some floats, as bits, to `to`: one after the other.
fn measure(t: &mut Task<'_>, floats: Value, (start, end): (Value, Value), to: Value) {
    let greatest = t.b.declare_var(types::I32);
    let zero = t.b.ins().iconst(types::I32, 0);
    t.b.def_var(greatest, zero);
    t.range(start, end, &mut |t, i| {
        let from = t.at(floats, i, FLOAT);
        let x = t.b.ins().load(types::I32, memory(), from, 0);
        let x = t.b.ins().band_imm_s(x, 0x7fff_ffff);
        raise(t, greatest, x);
    });
    let bits = t.b.use_var(greatest);
    t.b.ins().store(memory(), bits, to, 0);
}

/// The scale of equation (14) for the bits of a magnitude: mantissa and exponent.
fn store_scale(t: &mut Task<'_>, bits: Value, to: Value) {
    let b = &mut t.b;
    let real = b.ins().bitcast(types::F32, MemFlagsData::new(), bits);
    let levels = b.ins().f32const(127.0);
    let scale = b.ins().fdiv(real, levels);
    let bits = b.ins().bitcast(types::I32, MemFlagsData::new(), scale);
    let least = b.ins().iconst(types::I32, i64::from(qcc_num::edge::LEAST_SCALE));
    let bits = b.ins().smax(bits, least);
    let significand = b.ins().band_imm_s(bits, 0x7f_ffff);
    let significand = b.ins().bor_imm_s(significand, 0x80_0000);
    let mantissa = b.ins().ishl_imm_s(significand, 7);
    let exponent = b.ins().ushr_imm_s(bits, 23);
    let exponent = b.ins().iadd_imm_s(exponent, -157);
    b.ins().store(memory(), mantissa, to, 0);
    b.ins().store(memory(), exponent, to, 4);
}

/// Mantissa and exponent at `from` as an f32.
pub(super) fn real_scale(t: &mut Task<'_>, from: Value) -> Value {
    let b = &mut t.b;
    let mantissa = b.ins().load(types::I32, memory(), from, 0);
    let exponent = b.ins().load(types::I32, memory(), from, 4);
    let (least, most) = (b.ins().iconst(types::I32, -1000), b.ins().iconst(types::I32, 900));
    let exponent = b.ins().smax(exponent, least);
    let exponent = b.ins().smin(exponent, most);
    let biased = b.ins().iadd_imm_s(exponent, 1023);
    let biased = b.ins().uextend(types::I64, biased);
    let power = b.ins().ishl_imm_s(biased, 52);
    let power = b.ins().bitcast(types::F64, MemFlagsData::new(), power);
    let mantissa = b.ins().fcvt_from_sint(types::F64, mantissa);
    let real = b.ins().fmul(mantissa, power);
    b.ins().fdemote(types::F32, real)
}
