//! The dynamic scale of an input: from its greatest magnitude.

use cranelift_codegen::ir::{InstBuilder, Value, types};
use cranelift_frontend::Variable;
use cranelift_module::FuncId;

use super::inner_loop::whole;
use super::scale::store_scale;
use super::values::FLOAT;
use crate::clif::memory;
use crate::program::task::{Task, frame};

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
    pub fn emit(&self, t: &mut Task<'_>, kernel: Option<(FuncId, usize)>) {
        let floats = t.pointer_in(frame::REAL_INPUTS, self.index);
        let partial = t.scratch(self.partial);
        let length = self.elements;
        t.units(&mut |t, unit| {
            let to = t.at(partial, unit, FLOAT);
            let zero = t.b.ins().iconst(types::I32, 0);
            t.b.ins().store(memory(), zero, to, 0);
            let start = t.b.ins().imul_imm_s(unit, MEASURED as i64);
            let Some((kernel, block)) = kernel else {
                let (all, most) = (t.iconst_ptr(length), t.iconst_ptr(MEASURED));
                let end = t.b.ins().iadd(start, most);
                let end = t.b.ins().umin(end, all);
                return measure(t, floats, (start, end), to);
            };
            let mut piece = |t: &mut Task<'_>, start: Value, blocks: usize| {
                let (from, blocks) = (t.at(floats, start, FLOAT), t.iconst_ptr(blocks));
                t.call(kernel, &[from, to, from, blocks, from]);
            };
            if length < MEASURED {
                return whole(t, length, MEASURED, block, &mut piece);
            }
            let last = t.iconst_ptr(length - MEASURED);
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
