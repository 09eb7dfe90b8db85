//! The code of a product's task: which leaf a unit calls, and with which addresses.

use cranelift_codegen::ir::{InstBuilder, Value, condcodes::IntCC};

use super::{Product, Schedule, Section};
use crate::kernel::conv::MAX_CHANNELS;
use crate::plan::{PART_EXTREMA, Place};
use crate::program::task::Task;

/// What a section's leaf is called with.
pub struct Leaf {
    /// The function.
    pub function: cranelift_module::FuncId,
    /// Packed weights, biases and multipliers of all its blocks, in one data object.
    pub data: cranelift_module::DataId,
    /// Bytes of each of the three for one block, and where biases and multipliers start.
    pub layout: Layout,
}

/// Where the packed parts of a section lie in its data object.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// Bytes of weights of one block.
    pub weights: usize,
    /// Bytes of biases of one block.
    pub bias: usize,
    /// Bytes of multipliers of one block.
    pub mult: usize,
    /// Offset of the biases.
    pub bias_start: usize,
    /// Offset of the multipliers.
    pub mult_start: usize,
    /// Bytes of it all.
    pub bytes: usize,
}

/// Emits the task.
pub fn emit(t: &mut Task<'_>, p: &Product<'_>, leaves: &[Leaf]) {
    let calls = Calls::new(t, p);
    let (schedule, sections) = (&calls.schedule, p.sections());
    if p.groups == 1 && sections.len() > 1 {
        // Blocks of all sections take part in one order, so that each thread gets its share of the smaller ones.
        t.units(&mut |t, unit| {
            let position = position(t, schedule, p.blocks(), p.strips(), unit);
            let mut first = 0;
            for (section, leaf) in sections.iter().zip(leaves) {
                let block = t.b.ins().iadd_imm_s(position.block, -(first as i64));
                let blocks = t.word(section.blocks);
                let is_here = t.b.ins().icmp(IntCC::UnsignedLessThan, block, blocks);
                let at = Position { block, ..position };
                t.when(is_here, &mut |t| calls.call(t, (section, first), leaf, &at));
                first += section.blocks;
            }
        });
        return;
    }
    let (mut first_unit, mut first_block) = (0, 0);
    for (section, leaf) in sections.iter().zip(leaves) {
        let units = section.blocks * schedule.chunks * schedule.images;
        t.units_in(first_unit, first_unit + units, &mut |t, unit| {
            let position = position(t, schedule, section.blocks, p.strips(), unit);
            calls.call(t, (section, first_block), leaf, &position);
        });
        first_unit += units;
        first_block += section.blocks;
    }
}

/// What is common to all calls of a task.
struct Calls<'p> {
    p: &'p Product<'p>,
    schedule: Schedule,
    /// The corner of the halo.
    input: Value,
    output: Value,
    residual: Option<(Value, &'p Place)>,
    extrema: Option<Value>,
}

impl<'p> Calls<'p> {
    fn new(t: &mut Task<'_>, p: &'p Product<'p>) -> Calls<'p> {
        let pads = p.window.pads;
        let corner = p.x.offset - pads[0] * p.x.strides[1] - pads[1] * p.x.strides[2];
        Calls {
            p,
            schedule: p.schedule(),
            input: t.address(&Place { offset: corner, ..p.x.clone() }),
            output: t.address(&p.result),
            residual: p.residual.as_ref().map(|(place, _)| (t.address(place), place)),
            extrema: p.extrema.as_ref().map(|place| t.address(place)),
        }
    }

    /// Calls a section's leaf; `first_block` is the number of the section's first block.
    fn call(&self, t: &mut Task<'_>, (section, first_block): (&Section, usize), leaf: &Leaf, at: &Position) {
        let p = self.p;
        let (per_group, inputs) = p.channels();
        let base = t.data(leaf.data);
        let (group, in_group) = t.divide(at.block, section.per_group);
        let row_of = |t: &mut Task<'_>, base: Value, place: &Place, step: usize| {
            let image = t.at(base, at.image, place.strides[0]);
            t.at(image, at.first_strip, p.strip * step)
        };
        let x = row_of(t, self.input, &p.x, section.spec.in_row_step);
        let x = t.at(x, group, if p.groups == 1 { 0 } else { inputs });
        let channel = |t: &mut Task<'_>, base: Value, element: usize| {
            let at = t.at(base, group, if p.groups == 1 { 0 } else { per_group * element });
            let at = t.at(at, in_group, MAX_CHANNELS * element);
            t.plus(at, section.first * element)
        };
        let y = row_of(t, self.output, &p.result, section.spec.out_row_step);
        let y = channel(t, y, p.result.element);
        let r = match self.residual {
            None => y,
            Some((base, place)) => {
                let r = row_of(t, base, place, place.strides[1]);
                channel(t, r, place.element)
            }
        };
        let weights = t.at(base, at.block, leaf.layout.weights);
        let bias = t.plus(base, leaf.layout.bias_start);
        let bias = t.at(bias, at.block, leaf.layout.bias);
        let mult = match self.extrema {
            Some(extrema) => self.part_of_extrema(t, extrema, first_block, at),
            None => {
                let mult = t.plus(base, leaf.layout.mult_start);
                t.at(mult, at.block, leaf.layout.mult)
            }
        };
        let ahead = self.weights_ahead(t, section, leaf, (base, weights), at);
        t.call(leaf.function, &[x, weights, bias, mult, y, r, at.strips, ahead]);
    }

    /// Where the extrema of a unit go.
    fn part_of_extrema(&self, t: &mut Task<'_>, extrema: Value, first_block: usize, at: &Position) -> Value {
        let part_of_block = self.schedule.images * self.schedule.chunks * PART_EXTREMA;
        let part = t.plus(extrema, first_block * part_of_block);
        let part = t.at(part, at.block, part_of_block);
        let part = t.at(part, at.image, self.schedule.chunks * PART_EXTREMA);
        t.at(part, at.chunk, PART_EXTREMA)
    }

    /// What to prefetch: the next block's weights; behind the last block those of what comes next, as constants lie in the order
    /// of their use.
    fn weights_ahead(
        &self,
        t: &mut Task<'_>,
        section: &Section,
        leaf: &Leaf,
        (base, weights): (Value, Value),
        at: &Position,
    ) -> Value {
        let behind = t.plus(base, leaf.layout.bytes);
        let next = t.plus(weights, leaf.layout.weights);
        let is_last = t.b.ins().icmp_imm_s(IntCC::Equal, at.block, section.blocks as i64 - 1);
        let next = t.b.ins().select(is_last, behind, next);
        match (self.p.blocks(), self.schedule.chunks_outside) {
            (1, _) => t.at(next, at.unit, self.schedule.chunk * section.spec.ahead),
            (_, false) => t.at(next, at.first_strip, section.spec.ahead),
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
    first_strip: Value,
    strips: Value,
}

/// The part that a unit is, of units of so many blocks.
fn position(t: &mut Task<'_>, schedule: &Schedule, blocks: usize, strips: usize, unit: Value) -> Position {
    let (image, in_image) = t.divide(unit, blocks * schedule.chunks);
    let image = if schedule.images == 1 { t.word(0) } else { image };
    let (block, chunk) = if schedule.chunks_outside {
        let (chunk, block) = t.divide(in_image, blocks);
        (block, chunk)
    } else {
        t.divide(in_image, schedule.chunks)
    };
    let first_strip = t.b.ins().imul_imm_s(chunk, schedule.chunk as i64);
    let end = t.word(strips);
    let left = t.b.ins().isub(end, first_strip);
    let most = t.word(schedule.chunk);
    let strips = t.b.ins().umin(left, most);
    Position { unit, image, block, chunk, first_strip, strips }
}
