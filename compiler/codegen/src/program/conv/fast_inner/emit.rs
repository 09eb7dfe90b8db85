//! The tasks that widen activations and sum up their terms.

use cranelift_codegen::ir::{InstBuilder, types};
use cranelift_module::{FuncId, Linkage};
use qcc_ir::Diags;

use super::{TERM, WIDE, Widened};
use crate::clif;
use crate::kernel::widen::{self, CHANNELS, WidenSpec};
use crate::plan::{BufferId, BufferView};
use crate::program::builder::{Builder, Operation, TaskCost, bug};
use crate::program::conv::product::Product;
use crate::program::task::Task;

/// Pixels of a unit, at most.
const UNIT_PIXELS: usize = 64;

impl Builder<'_> {
    /// Emits the tasks in front of the product of widened activations.
    pub fn widen(
        &mut self,
        o: &Operation<'_>,
        p: &Product<'_>,
        widened: &Widened,
        buffer: BufferId,
    ) -> Result<(), Diags> {
        let spec = WidenSpec { vectors: widened.channels / CHANNELS, from_step: widened.every[1] * p.x.strides[2] };
        let function = self.widen_kernel(spec)?;
        let (name, bytes) = (format!("{}_widen", o.name), widened.terms_at()[1]);
        let read = widened.all_pixels() * widened.channels;
        let cost = TaskCost { input_bytes: read as u64, ..TaskCost::of("widen activations") };
        self.task(&name, o.value, widened.units(), bytes, cost, |t| widened.emit_widening(t, p, buffer, function))?;
        if widened.is_point() {
            return Ok(());
        }
        let (name, units) = (format!("{}_terms", o.name), widened.images * widened.result[0]);
        let bytes = widened.bytes() - widened.terms_at()[1];
        let cost = TaskCost { input_bytes: (TERM * widened.all_pixels()) as u64, ..TaskCost::of("sum up terms") };
        self.task(&name, o.value, units, bytes, cost, |t| widened.emit_window_terms(t, buffer))
    }

    fn widen_kernel(&mut self, spec: WidenSpec) -> Result<FuncId, Diags> {
        if let Some(&id) = self.widen_kernels.get(&spec) {
            return Ok(id);
        }
        let name = format!("widen_{:03}", self.widen_kernels.len());
        let id = self.declare(&name, Linkage::Local, &widen::signature(self.module.target_config()))?;
        let code = widen::machine_code(&spec, self.options.target.backend()).map_err(bug)?;
        let code = code.ok_or_else(|| bug(format!("{name}: no fast inner products on this target")))?;
        self.define_bytes(id, &name, &code)?;
        self.widen_kernels.insert(spec, id);
        Ok(id)
    }
}

impl Widened {
    /// Parts of a row of pixels.
    fn parts(&self) -> usize {
        self.pixels[1].div_ceil(UNIT_PIXELS)
    }

    fn units(&self) -> usize {
        self.images * self.pixels[0] * self.parts()
    }

    /// A unit is a part of a row of pixels.
    fn emit_widening(&self, t: &mut Task<'_>, p: &Product<'_>, buffer: BufferId, function: FuncId) {
        let [top, left, ..] = p.window.pads;
        let corner = p.x.offset - top * p.x.strides[1] - left * p.x.strides[2];
        let from = t.address(&BufferView { offset: corner, ..p.x.clone() });
        let to = t.address(&self.view(buffer, 0, self.pixels, (self.channels, WIDE)));
        let terms = t.address(&self.view(buffer, self.terms_at()[0], self.pixels, (1, TERM)));
        t.units(&mut |t, unit| {
            let (row, part) = t.divide(unit, self.parts());
            let (image, in_image) = t.divide(row, self.pixels[0]);
            let first = t.b.ins().imul_imm_s(part, UNIT_PIXELS as i64);
            let from = t.at(from, image, p.x.strides[0]);
            let from = t.at(from, in_image, self.every[0] * p.x.strides[1]);
            let from = t.at(from, first, self.every[1] * p.x.strides[2]);
            let pixel = t.at(first, row, self.pixels[1]);
            let (to, terms) = (t.at(to, pixel, self.channels * WIDE), t.at(terms, pixel, TERM));
            let all = t.iconst_ptr(self.pixels[1]);
            let left = t.b.ins().isub(all, first);
            let most = t.iconst_ptr(UNIT_PIXELS);
            let pixels = t.b.ins().umin(left, most);
            t.call(function, &[from, to, terms, pixels]);
        });
    }

    /// A unit is a row of results.
    fn emit_window_terms(&self, t: &mut Task<'_>, buffer: BufferId) {
        let of_pixels = self.view(buffer, self.terms_at()[0], self.pixels, (1, TERM));
        let of_windows = self.view(buffer, self.terms_at()[1], self.result, (1, TERM));
        let (from, to) = (t.address(&of_pixels), t.address(&of_windows));
        let w = &self.window;
        t.units(&mut |t, unit| {
            let (image, row) = t.divide(unit, self.result[0]);
            let from = t.at(from, image, of_pixels.strides[0]);
            let from = t.at(from, row, w.strides[0] * of_pixels.strides[1]);
            let to = t.at(to, unit, of_windows.strides[1]);
            t.count(self.result[1], &mut |t, column| {
                let from = t.at(from, column, w.strides[1] * TERM);
                let mut sum = t.b.ins().iconst(types::I32, 0);
                for y in 0..w.kernel[0] {
                    for x in 0..w.kernel[1] {
                        let tap = y * w.dilations[0] * of_pixels.strides[1] + x * w.dilations[1] * TERM;
                        let term = t.b.ins().load(types::I32, clif::memory(), from, tap as i32);
                        sum = t.b.ins().iadd(sum, term);
                    }
                }
                let to = t.at(to, column, TERM);
                t.b.ins().store(clif::memory(), sum, to, 0);
            });
        });
    }
}
