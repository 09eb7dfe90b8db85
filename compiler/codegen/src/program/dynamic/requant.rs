//! Accumulators to codes by the parameters of [`super::parameters`]: equations (8) and (12), as loops and as calls of kernels.

use cranelift_codegen::ir::{InstBuilder, Value, types};
use cranelift_module::{FuncId, Linkage};
use qcc_ir::Diags;
use qcc_ir::attr;
use qcc_num::dynamic::{HEADER, epilogue};

use super::number::I32_BYTES;
use crate::clif::{self, memory};
use crate::kernel::dynamic::{BLOCK, DynamicSpec, emit_avx512, signature};
use crate::plan::BufferView;
use crate::program::builder::{Builder, Operation, TaskCost, bug};
use crate::program::collapse::{Level, Loops};
use crate::program::elementwise::{loops, operand};
use crate::program::task::Task;
use crate::target::Backend;

impl Builder<'_> {
    /// Emits an `int.dynamic_requant`.
    pub(in crate::program) fn dynamic_requant(&mut self, o: &Operation<'_>) -> Result<(), Diags> {
        let rectify = o.attrs.get(attr::RECTIFY);
        if let Some(wide) = self.vector_requant(rectify, o.operands, o.result)? {
            return self
                .task_of(o, wide.units(), TaskCost::of("dynamic_requant"), |t| wide.emit(t, o.operands, o.result));
        }
        self.each(o, &requant_operands(o.operands, o.result), "dynamic_requant", |t| {
            emit(t, rectify, o.operands, o.result);
        })
    }

    /// The kernels of `int.dynamic_requant`, if the target has them.
    fn vector_requant(
        &mut self,
        rectify: bool,
        operands: &[BufferView],
        result: &BufferView,
    ) -> Result<Option<VectorRequant>, Diags> {
        let Some((&all, outer)) = result.dims.split_last() else { return Ok(None) };
        let (acc, rows) = (&operands[0], outer.len());
        let dense = [acc, result].iter().all(|p| p.strides[rows] == p.element);
        if self.options.target.backend() != Backend::Avx512 || !dense {
            return Ok(None);
        }
        let mut loops = Loops::new(outer, &[&acc.strides[..rows], &result.strides[..rows]]);
        loops.outer.push(Level { extent: loops.run, strides: loops.inner.clone() });
        let steps = loops.inner.clone();
        let mut kernels = Vec::new();
        for first in (0..all).step_by(BLOCK) {
            let channels = BLOCK.min(all - first);
            let ceiling = has_ceilings(operands, result).then_some(2 * I32_BYTES * all);
            let spec = DynamicSpec { channels, acc_step: steps[0], out_step: steps[1], rectify, ceiling };
            let id = match self.dynamic_kernels.get(&spec) {
                Some(&id) => id,
                None => {
                    let name = format!("dynamic_{:03}", self.dynamic_kernels.len());
                    let id = self.declare(&name, Linkage::Local, &signature(self.module.target_config()))?;
                    self.define_bytes(id, &name, &emit_avx512(&spec).map_err(bug)?)?;
                    self.dynamic_kernels.insert(spec, id);
                    id
                }
            };
            kernels.push((id, first));
        }
        Ok(Some(VectorRequant { kernels, loops, rows: (UNIT / all).max(1) }))
    }
}

/// Whether parameters hold ceilings.
fn has_ceilings(operands: &[BufferView], result: &BufferView) -> bool {
    let channels = result.dims.last().copied().unwrap_or(1);
    operands[1].elements() == HEADER + 3 * channels
}

/// The vectors of one constant for each channel behind the header of the parameters, and the accumulators.
fn requant_operands(operands: &[BufferView], result: &BufferView) -> Vec<BufferView> {
    let channels = result.dims.last().copied().unwrap_or(1);
    let vector = |first: usize| BufferView {
        offset: operands[1].offset + (HEADER + first) * I32_BYTES,
        dims: vec![channels],
        strides: vec![I32_BYTES],
        ..operands[1].clone()
    };
    let mut views = vec![operands[0].clone(), vector(0), vector(channels)];
    if has_ceilings(operands, result) {
        views.push(vector(2 * channels));
    }
    views.iter().map(|p| p.broadcast(&result.dims)).collect()
}

/// `int.dynamic_requant` by loops.
fn emit(t: &mut Task<'_>, rectify: bool, operands: &[BufferView], result: &BufferView) {
    let params = t.address(&operands[1]);
    let header = |t: &mut Task<'_>, i: usize| t.b.ins().load(types::I32, memory(), params, (i * I32_BYTES) as i32);
    let (left, right, shl) = (header(t, 2), header(t, 3), header(t, 4));
    let views = requant_operands(operands, result);
    let loops = loops(&views, result);
    let mut bases: Vec<Value> = views.iter().map(|p| t.address(p)).collect();
    bases.push(t.address(result));
    let splats: Vec<bool> = loops.inner.iter().map(|&s| s == 0).collect();
    t.lanes(&loops, &bases, &mut |t, at, lanes| {
        let mut load = |i: usize| operand(t, at[i], I32_BYTES, splats[i], lanes);
        let (acc, bias, mult) = (load(0), load(1), load(2));
        let ceilings = has_ceilings(operands, result).then(|| load(3));
        let values = [0, 1, 2, 3].map(|i| {
            let x = t.b.ins().ishl(acc[i], left);
            let x = t.b.ins().sshr(x, right);
            let mut v = t.b.ins().iadd(x, bias[i]);
            if rectify {
                let zero = clif::splat(&mut t.b, types::I32X4, 0);
                v = t.b.ins().smax(v, zero);
            }
            if let Some(ceilings) = &ceilings {
                v = t.b.ins().smin(v, ceilings[i]);
            }
            t.b.ins().ishl(v, shl)
        });
        let bytes = clif::requantize(&mut t.b, values, [mult[0], mult[1], mult[2], mult[3]], &epilogue(rectify));
        clif::store_bytes(&mut t.b, bytes, at[at.len() - 1], 0, lanes);
    });
}

/// `int.dynamic_requant` by kernels, each of which does a block of channels of every row.
struct VectorRequant {
    /// The kernels, and the channel that each begins with.
    kernels: Vec<(FuncId, usize)>,
    loops: Loops,
    /// Rows of a unit where rows are all there is.
    rows: usize,
}

/// Accumulators of a unit of a single run of rows.
const UNIT: usize = 1 << 14;

impl VectorRequant {
    /// Units of the task.
    pub fn units(&self) -> usize {
        match &self.loops.outer[..] {
            [only] => only.extent.div_ceil(self.rows),
            outer => outer[0].extent,
        }
    }

    /// Emits the task.
    pub fn emit(&self, t: &mut Task<'_>, operands: &[BufferView], result: &BufferView) {
        let (acc, params, to) = (t.address(&operands[0]), t.address(&operands[1]), t.address(result));
        let channels = result.dims.last().copied().unwrap_or(1);
        let (last, levels) = self.loops.outer.split_last().expect("a loop over rows");
        let call = |t: &mut Task<'_>, at: &[Value], rows: Value| {
            for &(kernel, first) in &self.kernels {
                let (acc, to) = (t.plus(at[0], first * I32_BYTES), t.plus(at[1], first));
                let bias = t.plus(params, (HEADER + first) * I32_BYTES);
                let mult = t.plus(bias, channels * I32_BYTES);
                t.call(kernel, &[acc, params, bias, mult, to, rows]);
            }
        };
        let Some((first, rest)) = levels.split_first() else {
            return t.units(&mut |t, unit| {
                let start = t.b.ins().imul_imm_s(unit, self.rows as i64);
                let (all, most) = (t.iconst_ptr(last.extent), t.iconst_ptr(self.rows));
                let left = t.b.ins().isub(all, start);
                let rows = t.b.ins().umin(left, most);
                let at = t.moved(&[acc, to], start, &last.strides);
                call(t, &at, rows);
            });
        };
        t.units(&mut |t, unit| {
            let at = t.moved(&[acc, to], unit, &first.strides);
            t.nest(rest, &at, &mut |t, at| {
                let rows = t.iconst_ptr(last.extent);
                call(t, at, rows);
            });
        });
    }
}
