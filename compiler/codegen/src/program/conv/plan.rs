//! How a product is computed on a machine: chosen once, then only read by those who pack its constants and emit its task.
//!
//! The output channels of each group are cut into blocks of at most [`MAX_CHANNELS`], the rows of an image into border rows and the
//! interior, and the interior into row blocks. A unit is one call of a microkernel: image, block of channels and chunk of row blocks; with
//! the first and the last chunk go the border rows beside them. Which of block and chunk is the outer loop depends on what is the
//! greater burden on the caches, the layer's weights or its activations.
//!
//! Weights that are codes are decoded inside of the microkernel, or into scratch. Where each block passes once, the first unit of a call that
//! multiplies with it decodes it, into the slot of the call: the number of the call's first unit is that of no other call, so that threads do not
//! meet, and a thread finds its slot in its cache. Else a step of its own decodes them all.

use std::ops::Range;

use super::border_rows::RowRange;
use super::product::Product;
use super::shapes::Shapes;
use super::units::{CACHED_WEIGHTS, UNITS, unit_blocks};
use crate::kernel::decode::PAIRS;
use crate::kernel::microkernel::{MAX_CHANNELS, Microkernel, MicrokernelSpec, codes, i16_sums};
use crate::machine::VectorShape;
use crate::plan::{ALIGN, Decoding};
use crate::program::tuning::{Choice, Outer, Storage};

/// Weights of the block that is computed and of the next, as far as these are prefetched: the second-level cache holds both.
const PREFETCHED_WEIGHTS: usize = 896 << 10;

/// Activation bytes of a chunk of row blocks where the chunk is the outer loop: half of a first-level cache.
const CHUNK_BYTES: usize = 24 << 10;

/// Time is estimated in parts of a cycle: eighths of a slot of `tiling`, which is thirds of a cycle.
pub const CYCLE: usize = 24;
/// Bytes a cycle from memory (29 GB/s at 3.65 GHz, a core of Zen 4), and from a last-level cache.
const FAR_BYTES: usize = 8;
pub const NEAR_BYTES: usize = 16;
/// Weights of a model that a last-level cache keeps from call to call.
const NEAR_WEIGHTS: usize = 8 << 20;

/// Row blocks beside the chosen one that may be worth measuring.
const OTHER_ROW_BLOCKS: usize = 3;

/// A product with constant weights on a machine.
pub struct ProductPlan {
    /// Rows of the result, from the top.
    pub rows: Vec<RowRange>,
    /// Which of them is the interior: the one with the most rows, the only one in row blocks.
    pub interior: usize,
    /// Rows of a row block, a divisor of those of the interior.
    pub row_block: usize,
    /// Full blocks of channels, then the remainder of each group.
    pub sections: Vec<Section>,
    /// The units.
    pub schedule: Schedule,
    /// Where weights are decoded.
    pub decoded: Decoded,
    /// The machine that decodes them.
    pub decoder: &'static VectorShape,
    /// The estimate for an image, in eighths of a slot of `tiling` times [`VectorShape::dot_time`].
    pub cost: usize,
    /// What may be worth measuring in place of the present choice: one thing changed in each.
    pub alternatives: Vec<Choice>,
}

/// Where a product's weights are decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decoded {
    /// Nowhere: they are stored as they are multiplied.
    Never,
    /// In the microkernel.
    Inside,
    /// All in a step of their own.
    Ahead,
    /// Each block by a unit that multiplies with it, into slots of so many bytes.
    ByUnit(usize),
}

/// Blocks of as many channels, which share microkernels.
pub struct Section {
    /// The microkernel of each range of rows. All read the same packed weights.
    pub kernels: Vec<Microkernel>,
    /// The output channels of each block.
    pub channels: Vec<Range<usize>>,
    /// Blocks of one group.
    pub per_group: usize,
    /// First channel, in its group, of a group's first block.
    pub first: usize,
}

impl Section {
    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        self.channels.len()
    }

    /// How a machine decodes codes into what all microkernels read; nothing where panels disagree on that.
    pub fn decoding(&self, shape: &VectorShape) -> Option<BlockDecoding> {
        let kernel = self.kernels.first()?;
        let weight_bytes = kernel.weight_bytes()?;
        let as_factors = weight_bytes == shape.weight_bytes;
        let unit = codes::unit(shape, if as_factors { weight_bytes } else { 1 });
        let pairs = (kernel.packed_bytes() / weight_bytes).div_ceil(2 * unit).next_multiple_of(PAIRS);
        let bytes = (2 * pairs * unit * weight_bytes).next_multiple_of(ALIGN);
        Some(BlockDecoding { as_factors, unit, pairs, bytes })
    }
}

/// How the weights of a block are decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockDecoding {
    /// Whether to factors of a dot; else to bytes, where these are something else.
    pub as_factors: bool,
    /// Weights of a decoded vector.
    pub unit: usize,
    /// Pairs of vectors, whole rounds of the kernel that decodes.
    pub pairs: usize,
    /// Bytes of the decoded block.
    pub bytes: usize,
}

/// How the units of a product are laid out.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    /// Images.
    pub images: usize,
    /// Blocks of channels, of all groups.
    pub blocks: usize,
    /// Row blocks of an image's interior.
    pub row_blocks: usize,
    /// Row blocks of a call.
    pub chunk: usize,
    /// Calls for the row blocks of an image.
    pub chunks: usize,
    /// Blocks of a unit, one after another: more than one where memory for decoded blocks is spared.
    pub unit_blocks: usize,
    /// Whether all blocks of a chunk come before the next chunk: the weights stay in the second-level cache. Else each block's weights
    /// come from further away and pass once.
    pub chunks_outside: bool,
}

impl Schedule {
    fn new(p: &Product<'_>, choice: Choice, row_blocks: usize, block_rows: usize) -> Schedule {
        let (images, blocks) = (p.result.dims[0], blocks(p));
        let chunks_outside = match choice.outer {
            Some(outer) => blocks > 1 && outer == Outer::Chunks,
            None => blocks > 1 && p.weights.len() <= CACHED_WEIGHTS,
        };
        let block_bytes = block_rows * p.window.strides[0] * p.x.strides[1];
        let by_cache = if chunks_outside { (CHUNK_BYTES / block_bytes.max(1)).max(1) } else { row_blocks };
        let by_threads = row_blocks.div_ceil(UNITS.div_ceil(blocks * images));
        let chunk = by_cache.min(by_threads).clamp(1, row_blocks);
        Schedule {
            images,
            blocks,
            row_blocks,
            chunk,
            chunks: row_blocks.div_ceil(chunk),
            unit_blocks: 1,
            chunks_outside,
        }
    }

    /// Units of the task.
    pub fn units(&self) -> usize {
        (self.blocks * self.chunks * self.images).div_ceil(self.unit_blocks)
    }

    /// Has at most so many units, if they are as many as blocks: one of an image, each of which passes once. Fewer where several blocks will do for
    /// one unit.
    fn fit_slots(&mut self, slots: usize) {
        self.chunk = self.row_blocks.div_ceil((slots / self.blocks).clamp(1, self.chunks));
        self.chunks = self.row_blocks.div_ceil(self.chunk);
        if self.chunks == 1 {
            self.unit_blocks = unit_blocks(self.blocks);
        }
    }

    /// Bytes that a call prefetches in a row block: a share of the next block's weights, which are `block_bytes`, or behind the only
    /// block of the `next_bytes` that the next product reads first.
    fn prefetch_bytes(&self, block_bytes: usize, next_bytes: usize) -> usize {
        match (self.blocks, self.chunks_outside) {
            (1, _) => next_bytes.div_ceil(self.row_blocks * self.images),
            (_, false) => {
                let fitting = PREFETCHED_WEIGHTS.saturating_sub(block_bytes);
                block_bytes.min(fitting).div_ceil(self.row_blocks)
            }
            // Each thread has its own second-level cache, into which its first chunk brings all blocks.
            (_, true) => block_bytes.div_ceil(self.chunk),
        }
    }
}

/// The estimate for reading weights for the first time, of so many bytes of the model, in parts of a cycle.
pub fn weight_cost(bytes: usize, of_model: usize) -> usize {
    bytes * CYCLE / if of_model <= NEAR_WEIGHTS { NEAR_BYTES } else { FAR_BYTES }
}

/// Blocks of all groups.
fn blocks(p: &Product<'_>) -> usize {
    p.groups * p.group_channels().outputs.div_ceil(MAX_CHANNELS)
}

impl ProductPlan {
    /// Plans a product, behind whose constants lie `next_bytes` that the next product of the network reads first: constants lie in the order in
    /// which they are read. Its weights may be codes if there is a `decoding`. Fails where the tuning asks for what cannot be.
    pub fn new(
        product: &Product<'_>,
        shapes: Shapes,
        choice: Choice,
        next_bytes: usize,
        decoding: Option<Decoding>,
    ) -> Result<ProductPlan, String> {
        if decoding == Some(Decoding::Inside) {
            let plan = ProductPlan::with(product, shapes, choice, next_bytes, decoding)?;
            if plan.sections.iter().flat_map(|section| &section.kernels).all(Microkernel::pairs_up) {
                return Ok(plan);
            }
        }
        let scratch = decoding.filter(|decoding| matches!(decoding, Decoding::Scratch(_)));
        ProductPlan::with(product, shapes, choice, next_bytes, scratch)
    }

    fn with(
        product: &Product<'_>,
        shapes: Shapes,
        choice: Choice,
        next_bytes: usize,
        decoding: Option<Decoding>,
    ) -> Result<ProductPlan, String> {
        let shapes = shapes.for_product(product);
        if let Some(panel) = choice.panel.filter(|panel| !(1..=shapes.dots.max_vectors).contains(panel)) {
            return Err(format!("a panel of {panel} vectors, expected 1 to {}", shapes.dots.max_vectors));
        }
        let planner = Planner::new(product, shapes, choice, decoding);
        let (mut best, mut known) = (None::<(Candidate, Vec<usize>)>, Vec::new());
        for rows in product.row_ranges() {
            if decoding == Some(Decoding::Inside) && rows.len() > 1 {
                continue;
            }
            let row_blocks = planner.row_blocks(&rows);
            known.extend(row_blocks.iter().copied());
            let row_block = match choice.row_block {
                Some(wanted) => row_blocks.contains(&wanted).then_some(wanted),
                None => Some(row_blocks.first().copied().unwrap_or(1)),
            };
            let Some(candidate) = row_block.and_then(|row_block| planner.candidate(&rows, row_block)) else { continue };
            if best.as_ref().is_none_or(|(least, _)| candidate.cost < least.cost) {
                best = Some((candidate, row_blocks));
            }
        }
        let unknown = || {
            let wanted = choice.row_block.unwrap_or(0);
            format!("a row block of {wanted} rows, expected one of {known:?}")
        };
        let (best, row_blocks) = best.ok_or_else(unknown)?;
        Ok(planner.finish(best, &row_blocks, next_bytes))
    }

    /// Multiplications of all images: without those of kernel rows that meet only padding.
    pub fn products(&self) -> u64 {
        let of_kernel = |(kernel, range): (&Microkernel, &RowRange)| {
            (range.rows / kernel.spec().block_rows) as u64 * kernel.spec().macs_per_row_block()
        };
        let of_section = |section: &Section| {
            section.blocks() as u64 * section.kernels.iter().zip(&self.rows).map(of_kernel).sum::<u64>()
        };
        self.schedule.images as u64 * self.sections.iter().map(of_section).sum::<u64>()
    }

    /// The estimate for all images, in units of `cost`, if weights are stored in so many bytes of so many of the model.
    pub fn estimate(&self, stored: usize, of_model: usize) -> usize {
        self.cost * self.schedule.images + weight_cost(stored, of_model)
    }

    /// Bits of a stored weight: of the widest, where panels differ.
    pub fn weight_bits(&self) -> usize {
        let panels = self.sections.iter().flat_map(|section| self.interior_kernel(section).panels());
        match self.decoded {
            Decoded::Never => 8 * panels.map(|panel| panel.weight_bytes).max().unwrap_or(1),
            Decoded::Inside | Decoded::Ahead | Decoded::ByUnit(_) => codes::BITS,
        }
    }

    /// The microkernel of a section's interior.
    pub fn interior_kernel<'s>(&self, section: &'s Section) -> &'s Microkernel {
        &section.kernels[self.interior]
    }

    /// Steps whose products each section sums in 16 bits, see [`MicrokernelSpec::i16_steps`]; those that differ, in order.
    pub fn i16_steps(&self) -> Vec<usize> {
        let mut steps: Vec<usize> = self.sections.iter().map(|s| self.interior_kernel(s).spec().i16_steps).collect();
        steps.dedup();
        steps
    }
}

/// A choice of ranges and row block with its microkernels.
struct Candidate {
    rows: Vec<RowRange>,
    interior: usize,
    row_block: usize,
    sections: Vec<Section>,
    /// The estimate for an image.
    cost: usize,
}

/// One way of computing a section.
#[derive(Clone, Copy)]
struct Leaf {
    shape: &'static VectorShape,
    i16_steps: usize,
}

impl Leaf {
    /// The estimate of a microkernel, in a unit common to all machines of a target.
    fn cost(&self, kernel: &Microkernel) -> usize {
        kernel.cost() * self.shape.dot_time
    }
}

/// Blocks of channels that will be a section.
struct Blocks {
    /// Blocks of one group.
    per_group: usize,
    /// Channels of each.
    channels: usize,
    /// First channel of a group's first block.
    first: usize,
    /// What can compute them.
    leaves: Vec<Leaf>,
}

struct Planner<'p> {
    product: &'p Product<'p>,
    choice: Choice,
    decoding: Option<Decoding>,
    /// Full blocks, then the remainder.
    blocks: Vec<Blocks>,
    max_vectors: usize,
    /// The machine that decodes.
    decoder: &'static VectorShape,
}

/// The range with the most rows.
fn interior(rows: &[RowRange]) -> usize {
    (0..rows.len()).max_by_key(|&range| rows[range].rows).unwrap_or(0)
}

impl<'p> Planner<'p> {
    fn new(product: &'p Product<'p>, shapes: Shapes, choice: Choice, decoding: Option<Decoding>) -> Planner<'p> {
        let outputs = product.group_channels().outputs;
        let (full, rest) = (outputs / MAX_CHANNELS, outputs % MAX_CHANNELS);
        let of = |per_group, channels, first| Blocks { per_group, channels, first, leaves: Vec::new() };
        let all = [of(full, MAX_CHANNELS, 0), of(usize::from(rest > 0), rest, full * MAX_CHANNELS)];
        let max_vectors = shapes.dots.max_vectors;
        let decoder = shapes.dots;
        let mut planner = Planner { product, choice, decoding, blocks: Vec::new(), max_vectors, decoder };
        for mut blocks in all.into_iter().filter(|blocks| blocks.per_group > 0) {
            blocks.leaves = planner.leaves(&blocks, shapes);
            planner.blocks.push(blocks);
        }
        planner
    }

    /// The channels of each block.
    fn channels(&self, blocks: &Blocks) -> Vec<Range<usize>> {
        let outputs = self.product.group_channels().outputs;
        let per_group = blocks.per_group;
        let start = |block: usize| block / per_group * outputs + blocks.first + block % per_group * MAX_CHANNELS;
        (0..self.product.groups * per_group).map(|block| start(block)..start(block) + blocks.channels).collect()
    }

    /// What can compute some blocks: dots, and groups of steps in 16 bits where their weights allow it.
    fn leaves(&self, blocks: &Blocks, shapes: Shapes) -> Vec<Leaf> {
        let run = self.spec(blocks.channels, &RowRange::whole(1), 1, 0).run;
        let dots = Leaf { shape: shapes.dots, i16_steps: 0 };
        let sums = shapes.i16_sums.filter(|_| self.decoding != Some(Decoding::Inside)).and_then(|shape| {
            let weights = self.channels(blocks).into_iter().map(|channels| self.product.weights_of(&channels));
            let i16_steps = i16_sums::longest(weights, run, self.product.greatest, shape.max_i16_steps)?;
            Some(Leaf { shape, i16_steps })
        });
        std::iter::once(dots).chain(sums).collect()
    }

    /// Rows of a row block of the interior, the best first.
    fn row_blocks(&self, rows: &[RowRange]) -> Vec<usize> {
        let Some(first) = self.blocks.first() else { return Vec::new() };
        let interior = &rows[interior(rows)];
        let calls = blocks(self.product) * self.product.result.dims[0];
        let of_leaf = |leaf: &Leaf| {
            let spec = self.spec(first.channels, interior, 1, leaf.i16_steps);
            let kernels = Microkernel::row_blocks(&spec, leaf.shape, interior.rows, calls);
            let cost = kernels.first().map_or(usize::MAX, |kernel| leaf.cost(kernel) / kernel.spec().block_rows);
            (cost, kernels)
        };
        let best = first.leaves.iter().map(of_leaf).min_by_key(|(cost, _)| *cost);
        best.into_iter().flat_map(|(_, kernels)| kernels).map(|kernel| kernel.spec().block_rows).collect()
    }

    /// The microkernels of some blocks, one for each range of rows, and their estimate for an image, if they agree on how weights are packed.
    /// Those of border rows go row by row.
    fn kernels(
        &self,
        blocks: &Blocks,
        leaf: &Leaf,
        rows: &[RowRange],
        row_block: usize,
    ) -> Option<(usize, Vec<Microkernel>)> {
        let interior = interior(rows);
        let spec = |range, block_rows| self.spec(blocks.channels, range, block_rows, leaf.i16_steps);
        let kernel = Microkernel::new(spec(&rows[interior], row_block), leaf.shape);
        let panel_vectors = kernel.panels().first().map_or(0, |panel| panel.vectors);
        let of_range = |(i, range)| match i == interior {
            true => kernel.clone(),
            false => Microkernel::new(MicrokernelSpec { panel_vectors, ..spec(range, 1) }, leaf.shape),
        };
        let kernels: Vec<Microkernel> = rows.iter().enumerate().map(of_range).collect();
        let alike = kernels.iter().all(|other| other.packs_like(&kernel));
        let of_image = kernels.iter().zip(rows).map(|(k, range)| range.rows / k.spec().block_rows * leaf.cost(k)).sum();
        alike.then_some((of_image, kernels))
    }

    /// The microkernels of all sections and ranges of rows, each section's as its best leaf has them.
    fn candidate(&self, rows: &[RowRange], row_block: usize) -> Option<Candidate> {
        let (mut sections, mut cost) = (Vec::new(), 0);
        for blocks in &self.blocks {
            let of_leaves = blocks.leaves.iter().filter_map(|leaf| self.kernels(blocks, leaf, rows, row_block));
            let (of_image, kernels) = of_leaves.min_by_key(|(cost, _)| *cost)?;
            let &Blocks { per_group, first, .. } = blocks;
            cost += self.product.groups * per_group * of_image;
            sections.push(Section { kernels, channels: self.channels(blocks), per_group, first });
        }
        Some(Candidate { rows: rows.to_vec(), interior: interior(rows), row_block, sections, cost })
    }

    /// The microkernel of a block of channels in some rows, with nothing to prefetch.
    fn spec(&self, channels: usize, range: &RowRange, block_rows: usize, i16_steps: usize) -> MicrokernelSpec {
        let p = self.product;
        let inputs = p.group_channels().inputs;
        let [_, row, pixel, _] = p.x.strides[..] else { unreachable!("activations are NHWC") };
        let w = &p.window;
        let dense = p.groups == 1 && w.dilations[1] == 1 && pixel == inputs * p.x.element;
        MicrokernelSpec {
            width: p.result.dims[2],
            panel_vectors: self.choice.panel.unwrap_or(0),
            block_rows,
            channels,
            k_rows: w.kernel[0] - range.left_out[0] - range.left_out[1],
            left_out: range.left_out,
            k_row_step: w.dilations[0] * row,
            segments: if dense { 1 } else { w.kernel[1] },
            segment_step: if dense { 0 } else { w.dilations[1] * pixel },
            run: if dense { w.kernel[1] * inputs } else { inputs },
            pixel_step: w.strides[1] * pixel,
            in_row_step: w.strides[0] * row,
            out_pixel_step: p.result.strides[2],
            out_row_step: p.result.strides[1],
            prefetch_bytes: 0,
            coded: self.decoding == Some(Decoding::Inside),
            pixel_terms: p.terms.is_some(),
            fast_inner: p.terms.is_some(),
            i16_steps,
            output: p.output(),
        }
    }

    fn finish(&self, best: Candidate, row_blocks: &[usize], next_bytes: usize) -> ProductPlan {
        let Candidate { rows, interior, row_block, mut sections, cost } = best;
        let mut schedule = Schedule::new(self.product, self.choice, rows[interior].rows / row_block, row_block);
        let decoded = self.decoded(&mut schedule, &sections);
        let alternatives = self.alternatives(&schedule, &rows, row_block, row_blocks);
        let stored = sections.first().and_then(|s| s.kernels[interior].panels().first()).map_or(1, |p| p.weight_bytes);
        let [height, width] = self.product.window.kernel;
        let channel_weights = height * width * self.product.group_channels().inputs;
        let channel_bytes = match decoded {
            Decoded::Never | Decoded::Ahead => channel_weights * stored,
            Decoded::Inside | Decoded::ByUnit(_) => channel_weights.div_ceil(2),
        };
        for section in &mut sections {
            let kernel = section.kernels[interior].clone();
            let bytes = schedule.prefetch_bytes(kernel.spec().channels * channel_bytes, next_bytes);
            section.kernels[interior] = kernel.with_prefetch(bytes);
        }
        let decoder = self.decoder;
        ProductPlan { rows, interior, row_block, sections, schedule, decoded, decoder, cost, alternatives }
    }

    /// Where weights are decoded: into scratch only if it has room for them.
    fn decoded(&self, schedule: &mut Schedule, sections: &[Section]) -> Decoded {
        let most = match self.decoding {
            None | Some(Decoding::Transformed { .. } | Decoding::Widened { .. }) => return Decoded::Never,
            Some(Decoding::Inside) => return Decoded::Inside,
            Some(Decoding::Scratch(bytes)) => bytes,
        };
        let decodings: Option<Vec<BlockDecoding>> =
            sections.iter().map(|section| section.decoding(self.decoder)).collect();
        let Some(decodings) = decodings else { return Decoded::Never };
        let slot = decodings.iter().map(|decoding| decoding.bytes).max().unwrap_or(0);
        let all: usize = sections.iter().zip(&decodings).map(|(section, each)| section.blocks() * each.bytes).sum();
        if self.product.groups > 1 || schedule.images > 1 || schedule.chunks_outside {
            return if all <= most { Decoded::Ahead } else { Decoded::Never };
        }
        schedule.fit_slots(most / slot);
        if schedule.units() * slot <= most { Decoded::ByUnit(slot) } else { Decoded::Never }
    }

    fn alternatives(
        &self,
        schedule: &Schedule,
        rows: &[RowRange],
        row_block: usize,
        row_blocks: &[usize],
    ) -> Vec<Choice> {
        let now = self.choice;
        let outer = if schedule.chunks_outside { Outer::Blocks } else { Outer::Chunks };
        let outer = (schedule.blocks > 1).then_some(Choice { outer: Some(outer), ..now });
        let can_be = |&other: &usize| other != row_block && self.candidate(rows, other).is_some();
        let others = row_blocks.iter().copied().filter(can_be).take(OTHER_ROW_BLOCKS);
        let others = others.map(|other| Choice { row_block: Some(other), ..now });
        let panels = (1..=self.max_vectors).rev().map(|panel| Choice { panel: Some(panel), ..now });
        let other_storage = if self.decoding.is_some() { Storage::Bytes } else { Storage::Codes };
        let storage = self.product.can_be_codes.then_some(Choice { storage: Some(other_storage), ..now });
        outer.into_iter().chain(others).chain(panels).chain(storage).filter(|&choice| choice != now).collect()
    }
}
