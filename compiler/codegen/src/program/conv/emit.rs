//! The code of a product's task: which microkernels a unit calls, and with which addresses.

use cranelift_codegen::ir::{InstBuilder, Value, condcodes::IntCC};
use cranelift_module::FuncId;

use super::pack::Layout;
use super::plan::{Decoded, ProductPlan, Schedule, Section};
use super::product::{GroupChannels, Product};
use crate::kernel::microkernel::MAX_CHANNELS;
use crate::plan::{BufferId, BufferView, PART_EXTREMA};
use crate::program::task::Task;

/// The code and the constants of a section.
pub struct Kernels {
    /// The microkernel of each range of rows.
    pub functions: Vec<FuncId>,
    /// Packed weights, biases and multipliers of all its blocks, in one data object.
    pub data: cranelift_module::DataId,
    /// Bytes of each of the three for one block, and where biases and multipliers start.
    pub layout: Layout,
    /// How a block's weights are decoded into scratch, if they are.
    pub decode: Option<Decode>,
}

/// How a block's weights are decoded.
#[derive(Debug, Clone, Copy)]
pub struct Decode {
    /// The kernel.
    pub function: FuncId,
    /// Rounds of it.
    pub rounds: usize,
    /// Bytes of a decoded block.
    pub bytes: usize,
    /// Where the first block is, if all are decoded ahead.
    pub first: usize,
}

impl Decode {
    fn call(&self, t: &mut Task<'_>, codes: Value, decoded: Value) {
        let rounds = t.iconst_ptr(self.rounds);
        t.call(self.function, &[codes, decoded, rounds]);
    }
}

/// Emits the task that decodes all blocks, each a unit.
pub fn decode_all(t: &mut Task<'_>, memory: Option<BufferId>, plan: &ProductPlan, kernels: &[Kernels]) {
    let scratch = scratch(t, memory);
    let mut first_unit = 0;
    for (section, kernels) in plan.sections.iter().zip(kernels) {
        let (Some(scratch), Some(decode)) = (scratch, kernels.decode) else { continue };
        t.units_in(first_unit, first_unit + section.blocks(), &mut |t, block| {
            let base = t.data(kernels.data);
            let codes = t.at(base, block, kernels.layout.weights);
            let decoded = t.plus(scratch, decode.first);
            let decoded = t.at(decoded, block, decode.bytes);
            decode.call(t, codes, decoded);
        });
        first_unit += section.blocks();
    }
}

/// Address of the memory that a step has for itself.
fn scratch(t: &mut Task<'_>, memory: Option<BufferId>) -> Option<Value> {
    let view = |buffer| BufferView { buffer, offset: 0, dims: Vec::new(), strides: Vec::new(), element: 1 };
    memory.map(|buffer| t.address(&view(buffer)))
}

/// Does `body` for every image, chunk and block, by their number.
fn calls_of_units(t: &mut Task<'_>, schedule: &Schedule, body: &mut dyn FnMut(&mut Task<'_>, Value)) {
    if schedule.unit_blocks == 1 {
        return t.units(&mut |t, unit| body(t, unit));
    }
    t.units(&mut |t, unit| {
        let first = t.b.ins().imul_imm_s(unit, schedule.unit_blocks as i64);
        let end = t.b.ins().iadd_imm_s(first, schedule.unit_blocks as i64);
        let all = t.iconst_ptr(schedule.blocks);
        let end = t.b.ins().umin(end, all);
        t.range(first, end, &mut |t, block| body(t, block));
    });
}

/// Emits the task; `memory` is the step's own.
pub fn emit(t: &mut Task<'_>, p: &Product<'_>, memory: Option<BufferId>, plan: &ProductPlan, kernels: &[Kernels]) {
    let calls = Calls::new(t, p, memory, plan);
    let (schedule, sections) = (&plan.schedule, &plan.sections);
    if p.groups == 1 && (sections.len() > 1 || matches!(plan.decoded, Decoded::ByUnit(_))) {
        // Blocks of all sections take part in one order, so that each thread gets its share of the smaller ones.
        calls_of_units(t, schedule, &mut |t, unit| {
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
    terms: Option<(Value, &'p BufferView)>,
    extrema: Option<Value>,
    /// Memory for decoded weights.
    scratch: Option<Value>,
}

impl<'p> Calls<'p> {
    fn new(t: &mut Task<'_>, p: &'p Product<'p>, memory: Option<BufferId>, plan: &'p ProductPlan) -> Calls<'p> {
        let pads = p.window.pads;
        let corner = p.x.offset - pads[0] * p.x.strides[1] - pads[1] * p.x.strides[2];
        Calls {
            p,
            plan,
            input: t.address(&BufferView { offset: corner, ..p.x.clone() }),
            output: t.address(&p.result),
            residual: p.residual.as_ref().map(|(view, _)| (t.address(view), view)),
            terms: p.terms.as_ref().map(|view| (t.address(view), view)),
            extrema: p.extrema.as_ref().map(|view| t.address(view)),
            scratch: scratch(t, memory),
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
        let stored = t.at(base, at.block, kernels.layout.weights);
        let weights = self.weights(t, kernels, stored, at);
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
                let terms = self.terms.map_or(r, |(base, view)| {
                    let base = t.at(base, at.image, view.strides[0]);
                    rows(t, base, view.strides[1])
                });
                let bias = t.plus(base, kernels.layout.bias_start + i * kernels.layout.range_biases);
                let bias = t.at(bias, at.block, kernels.layout.bias);
                let next = match (plan.decoded, kernels.decode) {
                    (Decoded::Ahead, Some(decode)) => t.plus(weights, decode.bytes),
                    _ => t.plus(stored, kernels.layout.weights),
                };
                let prefetch = self.prefetch(t, section, kernels, (base, next), at);
                t.call(kernels.functions[i], &[x, weights, bias, mult, y, r, row_blocks, prefetch, terms]);
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

    /// The weights of a block as its microkernels read them, which the unit may have to decode before.
    fn weights(&self, t: &mut Task<'_>, kernels: &Kernels, stored: Value, at: &Position) -> Value {
        let (Some(scratch), Some(decode)) = (self.scratch, kernels.decode) else { return stored };
        let Decoded::ByUnit(bytes) = self.plan.decoded else {
            let first = t.plus(scratch, decode.first);
            return t.at(first, at.block, decode.bytes);
        };
        let (first_unit, _) = t.share();
        let slot = t.at(scratch, first_unit, bytes);
        if self.plan.schedule.chunks == 1 {
            decode.call(t, stored, slot);
            return slot;
        }
        let begins_call = t.b.ins().icmp(IntCC::Equal, at.unit, first_unit);
        let begins_block = t.b.ins().icmp_imm_s(IntCC::Equal, at.chunk, 0);
        let is_new = t.b.ins().bor(begins_call, begins_block);
        t.when(is_new, &mut |t| decode.call(t, stored, slot));
        slot
    }

    /// Where the extrema of a unit go.
    fn part_of_extrema(&self, t: &mut Task<'_>, extrema: Value, first_block: usize, at: &Position) -> Value {
        let part_of_block = self.plan.schedule.images * self.plan.schedule.chunks * PART_EXTREMA;
        let part = t.plus(extrema, first_block * part_of_block);
        let part = t.at(part, at.block, part_of_block);
        let part = t.at(part, at.image, self.plan.schedule.chunks * PART_EXTREMA);
        t.at(part, at.chunk, PART_EXTREMA)
    }

    /// What to prefetch: the next block's weights, at `next`; behind the last block those of what comes next, as constants lie in the order
    /// of their use.
    fn prefetch(
        &self,
        t: &mut Task<'_>,
        section: &Section,
        kernels: &Kernels,
        (base, next): (Value, Value),
        at: &Position,
    ) -> Value {
        let behind = t.plus(base, kernels.layout.bytes);
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
