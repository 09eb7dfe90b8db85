//! The code of a product's task: which leaf a unit calls, and with which addresses.

use cranelift_codegen::ir::{InstBuilder, Value, condcodes::IntCC};

use super::{Product, Schedule, Section};
use crate::kernel::conv::MAX_CHANNELS;
use crate::plan::{PART_EXTREMA, Place};
use crate::program::task::Task;

/// What a section's leaf is called with.
pub struct Leaf {
    /// The function for each band.
    pub functions: Vec<cranelift_module::FuncId>,
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
    /// Offset of the first band's biases.
    pub bias_start: usize,
    /// Bytes of the biases of a band.
    pub band_biases: usize,
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

    /// Calls a section's leaves for a unit; `first_block` is the number of the section's first block.
    fn call(&self, t: &mut Task<'_>, (section, first_block): (&Section, usize), leaf: &Leaf, at: &Position) {
        let p = self.p;
        let (per_group, inputs) = p.channels();
        let base = t.data(leaf.data);
        let (group, in_group) = t.divide(at.block, section.per_group);
        let x = t.at(self.input, at.image, p.x.strides[0]);
        let x = t.at(x, group, if p.groups == 1 { 0 } else { inputs });
        let channel = |t: &mut Task<'_>, base: Value, place: &Place| {
            let image = t.at(base, at.image, place.strides[0]);
            let at = t.at(image, group, if p.groups == 1 { 0 } else { per_group * place.element });
            let at = t.at(at, in_group, MAX_CHANNELS * place.element);
            t.plus(at, section.first * place.element)
        };
        let y = channel(t, self.output, &p.result);
        let residual = self.residual.map(|(base, place)| (channel(t, base, place), place));
        let weights = t.at(base, at.block, leaf.layout.weights);
        let mult = match self.extrema {
            Some(extrema) => self.part_of_extrema(t, extrema, first_block, at),
            None => {
                let mult = t.plus(base, leaf.layout.mult_start);
                t.at(mult, at.block, leaf.layout.mult)
            }
        };
        let main = p.main();
        for (i, band) in p.bands.iter().enumerate() {
            let mut call = |t: &mut Task<'_>| {
                let (first, strips, strip) = match i == main {
                    true => (at.first_strip, at.strips, p.strip),
                    false => (t.word(0), t.word(band.rows), 1),
                };
                let rows = |t: &mut Task<'_>, base: Value, step: usize| {
                    let base = t.plus(base, band.first * step);
                    t.at(base, first, strip * step)
                };
                let x = t.plus(x, band.left_out[0] * section.spec.k_row_step);
                let x = rows(t, x, section.spec.in_row_step);
                let y = rows(t, y, section.spec.out_row_step);
                let r = residual.map_or(y, |(base, place)| rows(t, base, place.strides[1]));
                let bias = t.plus(base, leaf.layout.bias_start + i * leaf.layout.band_biases);
                let bias = t.at(bias, at.block, leaf.layout.bias);
                let ahead = self.weights_ahead(t, section, leaf, (base, weights), at);
                t.call(leaf.functions[i], &[x, weights, bias, mult, y, r, strips, ahead]);
            };
            if i == main || self.schedule.chunks == 1 {
                call(t);
                continue;
            }
            let chunk = if i < main { 0 } else { self.schedule.chunks - 1 };
            let is_beside = t.b.ins().icmp_imm_s(IntCC::Equal, at.chunk, chunk as i64);
            t.when(is_beside, &mut call);
        }
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
