//! The code of a product's task: which microkernels a unit calls, and with which addresses.

use cranelift_codegen::ir::{InstBuilder, Value, condcodes::IntCC};

use super::pack::Layout;
use super::plan::{ProductPlan, Schedule, Section};
use super::product::{GroupChannels, Product};
use crate::kernel::microkernel::MAX_CHANNELS;
use crate::plan::{BufferView, PART_EXTREMA};
use crate::program::task::Task;

/// The code and the constants of a section.
pub struct Kernels {
    /// The microkernel of each range of rows.
    pub functions: Vec<cranelift_module::FuncId>,
    /// Packed weights, biases and multipliers of all its blocks, in one data object.
    pub data: cranelift_module::DataId,
    /// Bytes of each of the three for one block, and where biases and multipliers start.
    pub layout: Layout,
}

/// Emits the task.
pub fn emit(t: &mut Task<'_>, p: &Product<'_>, plan: &ProductPlan, kernels: &[Kernels]) {
    let calls = Calls::new(t, p, plan);
    let (schedule, sections) = (&plan.schedule, &plan.sections);
    if p.groups == 1 && sections.len() > 1 {
        // Blocks of all sections take part in one order, so that each thread gets its share of the smaller ones.
        t.units(&mut |t, unit| {
            let position = position(t, schedule, schedule.blocks, unit);
            let mut first = 0;
            for (section, kernels) in sections.iter().zip(kernels) {
                let block = t.b.ins().iadd_imm_s(position.block, -(first as i64));
                let blocks = t.iconst_ptr(section.blocks());
                let is_here = t.b.ins().icmp(IntCC::UnsignedLessThan, block, blocks);
                let at = Position { block, ..position };
                t.when(is_here, &mut |t| calls.call(t, (section, first), kernels, &at));
                first += section.blocks();
            }
        });
        return;
    }
    let (mut first_unit, mut first_block) = (0, 0);
    for (section, kernels) in sections.iter().zip(kernels) {
        let units = section.blocks() * schedule.chunks * schedule.images;
        t.units_in(first_unit, first_unit + units, &mut |t, unit| {
            let position = position(t, schedule, section.blocks(), unit);
            calls.call(t, (section, first_block), kernels, &position);
        });
        first_unit += units;
        first_block += section.blocks();
    }
}

/// What is common to all calls of a task.
struct Calls<'p> {
    p: &'p Product<'p>,
    plan: &'p ProductPlan,
    /// The corner of the halo.
    input: Value,
    output: Value,
    residual: Option<(Value, &'p BufferView)>,
    extrema: Option<Value>,
}

impl<'p> Calls<'p> {
    fn new(t: &mut Task<'_>, p: &'p Product<'p>, plan: &'p ProductPlan) -> Calls<'p> {
        let pads = p.window.pads;
        let corner = p.x.offset - pads[0] * p.x.strides[1] - pads[1] * p.x.strides[2];
        Calls {
            p,
            plan,
            input: t.address(&BufferView { offset: corner, ..p.x.clone() }),
            output: t.address(&p.result),
            residual: p.residual.as_ref().map(|(view, _)| (t.address(view), view)),
            extrema: p.extrema.as_ref().map(|view| t.address(view)),
        }
    }

    /// Calls a section's microkernels for a unit; `first_block` is the number of the section's first block.
    fn call(&self, t: &mut Task<'_>, (section, first_block): (&Section, usize), kernels: &Kernels, at: &Position) {
        let (p, plan) = (self.p, self.plan);
        let GroupChannels { inputs, outputs } = p.group_channels();
        let base = t.data(kernels.data);
        let (group, in_group) = t.divide(at.block, section.per_group);
        let x = t.at(self.input, at.image, p.x.strides[0]);
        let x = t.at(x, group, if p.groups == 1 { 0 } else { inputs });
        let channel = |t: &mut Task<'_>, base: Value, view: &BufferView| {
            let image = t.at(base, at.image, view.strides[0]);
            let at = t.at(image, group, if p.groups == 1 { 0 } else { outputs * view.element });
            let at = t.at(at, in_group, MAX_CHANNELS * view.element);
            t.plus(at, section.first * view.element)
        };
        let y = channel(t, self.output, &p.result);
        let residual = self.residual.map(|(base, view)| (channel(t, base, view), view));
        let weights = t.at(base, at.block, kernels.layout.weights);
        let mult = match self.extrema {
            Some(extrema) => self.part_of_extrema(t, extrema, first_block, at),
            None => {
                let mult = t.plus(base, kernels.layout.mult_start);
                t.at(mult, at.block, kernels.layout.mult)
            }
        };
        let interior = plan.interior_kernel(section).spec();
        for (i, range) in plan.rows.iter().enumerate() {
            let mut call = |t: &mut Task<'_>| {
                let (first, row_blocks, rows_of_block) = match i == plan.interior {
                    true => (at.first_row_block, at.row_blocks, plan.row_block),
                    false => (t.iconst_ptr(0), t.iconst_ptr(range.rows), 1),
                };
                let rows = |t: &mut Task<'_>, base: Value, step: usize| {
                    let base = t.plus(base, range.first * step);
                    t.at(base, first, rows_of_block * step)
                };
                let x = t.plus(x, range.left_out[0] * interior.k_row_step);
                let x = rows(t, x, interior.in_row_step);
                let y = rows(t, y, interior.out_row_step);
                let r = residual.map_or(y, |(base, view)| rows(t, base, view.strides[1]));
                let bias = t.plus(base, kernels.layout.bias_start + i * kernels.layout.range_biases);
                let bias = t.at(bias, at.block, kernels.layout.bias);
                let prefetch = self.prefetch(t, section, kernels, (base, weights), at);
                t.call(kernels.functions[i], &[x, weights, bias, mult, y, r, row_blocks, prefetch]);
            };
            if i == plan.interior || plan.schedule.chunks == 1 {
                call(t);
                continue;
            }
            let chunk = if i < plan.interior { 0 } else { plan.schedule.chunks - 1 };
            let is_beside = t.b.ins().icmp_imm_s(IntCC::Equal, at.chunk, chunk as i64);
            t.when(is_beside, &mut call);
        }
    }

    /// Where the extrema of a unit go.
    fn part_of_extrema(&self, t: &mut Task<'_>, extrema: Value, first_block: usize, at: &Position) -> Value {
        let part_of_block = self.plan.schedule.images * self.plan.schedule.chunks * PART_EXTREMA;
        let part = t.plus(extrema, first_block * part_of_block);
        let part = t.at(part, at.block, part_of_block);
        let part = t.at(part, at.image, self.plan.schedule.chunks * PART_EXTREMA);
        t.at(part, at.chunk, PART_EXTREMA)
    }

    /// What to prefetch: the next block's weights; behind the last block those of what comes next, as constants lie in the order
    /// of their use.
    fn prefetch(
        &self,
        t: &mut Task<'_>,
        section: &Section,
        kernels: &Kernels,
        (base, weights): (Value, Value),
        at: &Position,
    ) -> Value {
        let behind = t.plus(base, kernels.layout.bytes);
        let next = t.plus(weights, kernels.layout.weights);
        let is_last = t.b.ins().icmp_imm_s(IntCC::Equal, at.block, section.blocks() as i64 - 1);
        let next = t.b.ins().select(is_last, behind, next);
        let schedule = &self.plan.schedule;
        let bytes = self.plan.interior_kernel(section).spec().prefetch_bytes;
        match (schedule.blocks, schedule.chunks_outside) {
            (1, _) => t.at(next, at.unit, schedule.chunk * bytes),
            (_, false) => t.at(next, at.first_row_block, bytes),
            (_, true) => next,
        }
    }
}

/// Which part of the product a unit is.
#[derive(Clone, Copy)]
struct Position {
    unit: Value,
    image: Value,
    block: Value,
    chunk: Value,
    first_row_block: Value,
    row_blocks: Value,
}

/// The part that a unit is, of units of so many blocks.
fn position(t: &mut Task<'_>, schedule: &Schedule, blocks: usize, unit: Value) -> Position {
    let (image, in_image) = t.divide(unit, blocks * schedule.chunks);
    let image = if schedule.images == 1 { t.iconst_ptr(0) } else { image };
    let (block, chunk) = if schedule.chunks_outside {
        let (chunk, block) = t.divide(in_image, blocks);
        (block, chunk)
    } else {
        t.divide(in_image, schedule.chunks)
    };
    let first_row_block = t.b.ins().imul_imm_s(chunk, schedule.chunk as i64);
    let end = t.iconst_ptr(schedule.row_blocks);
    let left = t.b.ins().isub(end, first_row_block);
    let most = t.iconst_ptr(schedule.chunk);
    let row_blocks = t.b.ins().umin(left, most);
    Position { unit, image, block, chunk, first_row_block, row_blocks }
}
