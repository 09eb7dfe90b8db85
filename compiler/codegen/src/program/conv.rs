//! Steps that multiply by constant weights: convolutions and matrix products, as calls of leaf kernels.
//!
//! The output channels of each group are cut into blocks of at most 64; a leaf computes some strips of one block. A unit is one
//! leaf call: image, block and chunk of strips. Which of block and chunk is the outer one depends on what is the greater burden
//! on the caches, the layer's weights or its activations.

use cranelift_codegen::ir::{InstBuilder, Value, condcodes::IntCC};
use qcc_ir::window::Window;
use qcc_num::requant::Epilogue;

use super::task::Task;
use super::tuning::{Choice, Outer};
use crate::kernel::conv::{ConvSpec, MAX_CHANNELS, Output, Residual};
use crate::kernel::tiling;
use crate::machine::Shape;
use crate::plan::{PART_EXTREMA, Place};

/// Weights that stay in the second-level cache, together with some rows of activations, while all blocks pass.
const CACHED_WEIGHTS: usize = 384 << 10;

/// Weights of the block that is computed and of the next, as far as these are prefetched: the second-level cache holds both.
const PREFETCHED_WEIGHTS: usize = 896 << 10;

/// Activation bytes of a chunk of strips where the chunk is the outer loop: half of a first-level cache.
const CHUNK_BYTES: usize = 24 << 10;

/// Least number of units to aim at, so that a few threads have something to share.
const UNITS: usize = 16;

/// A product with constant weights.
pub struct Product<'a> {
    /// NHWC activations, with halo. A matrix product [M, K] is one row of M pixels with K channels.
    pub x: Place,
    /// NHWC result.
    pub result: Place,
    /// The window.
    pub window: Window,
    /// Number of groups.
    pub groups: usize,
    /// `[O, KH, KW, C / groups]`.
    pub weights: &'a [i8],
    /// `[O]`.
    pub bias: &'a [i32],
    /// `[O]` multipliers and the rule, or nothing where the accumulators are the result.
    pub requant: Option<(Vec<i32>, Epilogue)>,
    /// Where the extrema of accumulators go, if they are the result and their extrema are wanted: [`PART_EXTREMA`] bytes for
    /// each chunk of each image, those of a block behind each other.
    pub extrema: Option<Place>,
    /// Added before the last rounding, with its multiplier.
    pub residual: Option<(Place, u16)>,
    /// Greatest magnitude of any accumulator.
    pub acc_bound: u32,
    /// Rows of a strip, a divisor of the result's rows: see [`ConvSpec::strip`].
    pub strip: usize,
    /// Bytes that the next product of the network reads first. Constants lie in the order in which they are read, so these
    /// lie behind those of this product.
    pub next_bytes: usize,
    /// Bytes of a packed weight: see [`tiling::Panel::stored_weight`].
    pub weight_bytes: usize,
    /// What is chosen otherwise than estimated.
    pub choice: Choice,
}

/// Blocks that share one leaf.
pub struct Section {
    /// The leaf.
    pub spec: ConvSpec,
    /// Number of blocks.
    pub blocks: usize,
    /// Blocks of one group.
    per_group: usize,
    /// First channel, in its group, of a group's first block.
    first: usize,
}

/// How the units of a product are laid out.
pub struct Schedule {
    /// Strips of a leaf call.
    chunk: usize,
    /// Leaf calls for the strips of an image.
    chunks: usize,
    /// Whether all blocks of a chunk come before the next chunk.
    chunks_outside: bool,
    images: usize,
}

impl Product<'_> {
    /// Chooses the rows of a strip for the kernels of a machine. Fails where the tuning asks for what cannot be.
    pub fn choose_strip(&mut self, shape: &Shape) -> Result<(), String> {
        if let Some(panel) = self.choice.panel.filter(|panel| !(1..=shape.vectors).contains(panel)) {
            return Err(format!("a panel of {panel} vectors, expected 1 to {}", shape.vectors));
        }
        let strips = self.strips_by_cost(shape);
        self.strip = match self.choice.strip {
            Some(strip) if strips.contains(&strip) => strip,
            Some(strip) => return Err(format!("a strip of {strip} rows, expected one of {strips:?}")),
            None => strips.first().copied().unwrap_or(1),
        };
        Ok(())
    }

    fn strips_by_cost(&self, shape: &Shape) -> Vec<usize> {
        match (&self.result.dims[..], self.sections().first()) {
            ([images, rows, ..], Some(section)) => tiling::strips(&section.spec, shape, *rows, self.blocks() * images),
            _ => Vec::new(),
        }
    }

    /// What may be worth measuring beside the present choice: one thing changed in each.
    pub fn choices(&self, shape: &Shape) -> Vec<Choice> {
        let now = self.choice;
        let outer = if self.chunks_outside() { Outer::Blocks } else { Outer::Chunks };
        let outer = (self.blocks() > 1).then_some(Choice { outer: Some(outer), ..now });
        let other_strips = self.strips_by_cost(shape).into_iter().filter(|&strip| strip != self.strip).take(3);
        let strips = other_strips.map(|strip| Choice { strip: Some(strip), ..now });
        let panels = (1..=shape.vectors).rev().map(|panel| Choice { panel: Some(panel), ..now });
        outer.into_iter().chain(strips).chain(panels).filter(|&choice| choice != now).collect()
    }

    fn channels(&self) -> (usize, usize) {
        let outputs = self.result.dims[3];
        (outputs / self.groups, self.x.dims[3] / self.groups)
    }

    /// Multiply-accumulates.
    pub fn macs(&self) -> u64 {
        let [n, h, w, o] = self.result.dims[..] else { return 0 };
        let taps = self.window.kernel[0] * self.window.kernel[1] * self.channels().1;
        (n * h * w * o) as u64 * taps as u64
    }

    /// True if each group has one channel in and out: the `window` module does that.
    pub fn is_depthwise(&self) -> bool {
        self.groups > 1 && self.channels() == (1, 1)
    }

    /// The blocks: full ones, then the remainder of each group.
    pub fn sections(&self) -> Vec<Section> {
        let (per_group, _) = self.channels();
        let (full, rest) = (per_group / MAX_CHANNELS, per_group % MAX_CHANNELS);
        let section = |channels, count, first| Section {
            spec: self.spec(channels),
            blocks: self.groups * count,
            per_group: count,
            first,
        };
        let sections =
            [section(MAX_CHANNELS, full, 0), section(rest.max(1), usize::from(rest > 0), full * MAX_CHANNELS)];
        sections.into_iter().filter(|s| s.blocks > 0).collect()
    }

    fn spec(&self, channels: usize) -> ConvSpec {
        let (_, inputs) = self.channels();
        let [_, row, pixel, _] = self.x.strides[..] else { unreachable!("activations are NHWC") };
        let w = &self.window;
        let dense = self.groups == 1 && w.dilations[1] == 1 && pixel == inputs;
        let output = match &self.requant {
            None if self.extrema.is_some() => Output::Measured,
            None => Output::Raw,
            Some((_, epilogue)) => Output::Requant {
                epilogue: *epilogue,
                residual: self.residual.as_ref().map(|(place, mult)| Residual {
                    mult: *mult,
                    pixel_step: place.strides[2],
                    row_step: place.strides[1],
                }),
                acc_bound: Some(self.acc_bound),
            },
        };
        let block_bytes = channels * w.kernel[0] * w.kernel[1] * inputs * self.weight_bytes;
        let ahead = match (self.blocks(), self.chunks_outside()) {
            (1, _) => self.next_bytes.div_ceil(self.strips() * self.result.dims[0]),
            (_, false) => {
                let fitting = PREFETCHED_WEIGHTS.saturating_sub(block_bytes);
                block_bytes.min(fitting).div_ceil(self.strips())
            }
            // Each thread has its own second-level cache, into which its first chunk brings all blocks.
            (_, true) => block_bytes.div_ceil(self.schedule().chunk),
        };
        ConvSpec {
            ahead,
            width: self.result.dims[2],
            panel: self.choice.panel.unwrap_or(0),
            strip: self.strip,
            channels,
            k_rows: w.kernel[0],
            k_row_step: w.dilations[0] * row,
            segments: if dense { 1 } else { w.kernel[1] },
            segment_step: if dense { 0 } else { w.dilations[1] * pixel },
            run: if dense { w.kernel[1] * inputs } else { inputs },
            pixel_step: w.strides[1] * pixel,
            in_row_step: w.strides[0] * row,
            out_pixel_step: self.result.strides[2],
            out_row_step: self.result.strides[1],
            output,
        }
    }

    /// The output channels of each block of a section, in the order of the blocks.
    pub fn block_channels(&self, s: &Section) -> Vec<std::ops::Range<usize>> {
        let (per_group, _) = self.channels();
        let start = |b: usize| b / s.per_group * per_group + s.first + b % s.per_group * MAX_CHANNELS;
        (0..s.blocks).map(|b| start(b)..start(b) + s.spec.channels).collect()
    }

    /// Strips of an image.
    fn strips(&self) -> usize {
        self.result.dims[1] / self.strip
    }

    /// Blocks of all groups.
    fn blocks(&self) -> usize {
        self.groups * self.channels().0.div_ceil(MAX_CHANNELS)
    }

    /// Whether all blocks of a chunk come before the next chunk: the weights stay in the second-level cache. Else each
    /// block's weights come from further away and pass once.
    fn chunks_outside(&self) -> bool {
        match self.choice.outer {
            Some(outer) => self.blocks() > 1 && outer == Outer::Chunks,
            None => self.blocks() > 1 && self.weights.len() <= CACHED_WEIGHTS,
        }
    }

    /// Chooses the order of the units.
    pub fn schedule(&self) -> Schedule {
        let (images, strips, blocks) = (self.result.dims[0], self.strips(), self.blocks());
        let strip_bytes = self.strip * self.window.strides[0] * self.x.strides[1];
        let chunks_outside = self.chunks_outside();
        let by_cache = if chunks_outside { (CHUNK_BYTES / strip_bytes.max(1)).max(1) } else { strips };
        let by_threads = strips.div_ceil(UNITS.div_ceil(blocks * images));
        let chunk = by_cache.min(by_threads).clamp(1, strips);
        Schedule { chunk, chunks: strips.div_ceil(chunk), chunks_outside, images }
    }

    /// Parts of the extrema of each block, and the channels of the blocks.
    pub fn extrema_parts(&self) -> (usize, Vec<std::ops::Range<usize>>) {
        let schedule = self.schedule();
        let blocks = self.sections().iter().flat_map(|s| self.block_channels(s)).collect();
        (schedule.images * schedule.chunks, blocks)
    }

    /// Units of the task.
    pub fn units(&self) -> usize {
        let schedule = self.schedule();
        self.blocks() * schedule.chunks * schedule.images
    }
}

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
    let schedule = p.schedule();
    let w = &p.window;
    let corner = p.x.offset - w.pads[0] * p.x.strides[1] - w.pads[1] * p.x.strides[2];
    let input = t.address(&Place { offset: corner, ..p.x.clone() });
    let output = t.address(&p.result);
    let residual = p.residual.as_ref().map(|(place, _)| (t.address(place), place.clone()));
    let (sections, (per_group, inputs)) = (p.sections(), p.channels());
    let extrema = p.extrema.as_ref().map(|place| t.address(place));
    let call = |t: &mut Task<'_>, (section, first_block): (&Section, usize), leaf: &Leaf, unit, position: &Position| {
        let Position { image, block, chunk, first_strip, strips } = *position;
        let base = t.data(leaf.data);
        let (group, in_group) = divide(t, block, section.per_group);
        let row_of = |t: &mut Task<'_>, base: Value, place: &Place, step: usize| {
            let at = t.at(base, image, place.strides[0]);
            t.at(at, first_strip, p.strip * step)
        };
        let x = row_of(t, input, &p.x, section.spec.in_row_step);
        let x = t.at(x, group, if p.groups == 1 { 0 } else { inputs });
        let channel = |t: &mut Task<'_>, base: Value, element: usize| {
            let at = t.at(base, group, if p.groups == 1 { 0 } else { per_group * element });
            let at = t.at(at, in_group, MAX_CHANNELS * element);
            t.plus(at, section.first * element)
        };
        let y = row_of(t, output, &p.result, section.spec.out_row_step);
        let y = channel(t, y, p.result.element);
        let r = match &residual {
            None => y,
            Some((base, place)) => {
                let r = row_of(t, *base, place, place.strides[1]);
                channel(t, r, place.element)
            }
        };
        let weights = t.at(base, block, leaf.layout.weights);
        let bias = t.plus(base, leaf.layout.bias_start);
        let bias = t.at(bias, block, leaf.layout.bias);
        let mult = match extrema {
            Some(extrema) => {
                let part_of_block = schedule.images * schedule.chunks * PART_EXTREMA;
                let at = t.plus(extrema, first_block * part_of_block);
                let at = t.at(at, block, part_of_block);
                let at = t.at(at, image, schedule.chunks * PART_EXTREMA);
                t.at(at, chunk, PART_EXTREMA)
            }
            None => {
                let mult = t.plus(base, leaf.layout.mult_start);
                t.at(mult, block, leaf.layout.mult)
            }
        };
        // The next block's weights; behind the last block those of what comes next, as constants lie in the order of their use.
        let behind = t.plus(base, leaf.layout.bytes);
        let next = t.plus(weights, leaf.layout.weights);
        let is_last = t.b.ins().icmp_imm_s(IntCC::Equal, block, section.blocks as i64 - 1);
        let next = t.b.ins().select(is_last, behind, next);
        let ahead = match (p.blocks(), schedule.chunks_outside) {
            (1, _) => t.at(next, unit, schedule.chunk * section.spec.ahead),
            (_, false) => t.at(next, first_strip, section.spec.ahead),
            (_, true) => next,
        };
        t.call(leaf.function, &[x, weights, bias, mult, y, r, strips, ahead]);
    };
    if p.groups == 1 && sections.len() > 1 {
        // Blocks of all sections take part in one order, so that each thread gets its share of the smaller ones.
        t.units(&mut |t, unit| {
            let position = position(t, &schedule, p.blocks(), p.strips(), unit);
            let mut first = 0;
            for (section, leaf) in sections.iter().zip(leaves) {
                let block = t.b.ins().iadd_imm_s(position.block, -(first as i64));
                let blocks = t.word(section.blocks);
                let is_here = t.b.ins().icmp(IntCC::UnsignedLessThan, block, blocks);
                t.when(is_here, &mut |t| call(t, (section, first), leaf, unit, &Position { block, ..position }));
                first += section.blocks;
            }
        });
        return;
    }
    let (mut first_unit, mut first_block) = (0, 0);
    for (section, leaf) in sections.iter().zip(leaves) {
        let units = section.blocks * schedule.chunks * schedule.images;
        t.units_in(first_unit, first_unit + units, &mut |t, unit| {
            let position = position(t, &schedule, section.blocks, p.strips(), unit);
            call(t, (section, first_block), leaf, unit, &position);
        });
        first_unit += units;
        first_block += section.blocks;
    }
}

#[derive(Clone, Copy)]
struct Position {
    image: Value,
    block: Value,
    chunk: Value,
    first_strip: Value,
    strips: Value,
}

/// Which image, block and strips a unit stands for, of units of so many blocks.
fn position(t: &mut Task<'_>, schedule: &Schedule, blocks: usize, strips: usize, unit: Value) -> Position {
    let (image, in_image) = divide(t, unit, blocks * schedule.chunks);
    let image = if schedule.images == 1 { t.word(0) } else { image };
    let (block, chunk) = if schedule.chunks_outside {
        let (chunk, block) = divide(t, in_image, blocks);
        (block, chunk)
    } else {
        divide(t, in_image, schedule.chunks)
    };
    let first_strip = t.b.ins().imul_imm_s(chunk, schedule.chunk as i64);
    let end = t.word(strips);
    let left = t.b.ins().isub(end, first_strip);
    let most = t.word(schedule.chunk);
    let strips = t.b.ins().umin(left, most);
    Position { image, block, chunk, first_strip, strips }
}

/// Quotient and remainder by a constant.
fn divide(t: &mut Task<'_>, value: Value, by: usize) -> (Value, Value) {
    match by {
        1 => {
            let zero = t.word(0);
            (value, zero)
        }
        _ => {
            let by = t.word(by);
            (t.b.ins().udiv(value, by), t.b.ins().urem(value, by))
        }
    }
}
