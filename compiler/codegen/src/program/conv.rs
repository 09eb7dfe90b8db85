//! Steps that multiply by constant weights: convolutions and matrix products, as calls of leaf kernels.
//!
//! The output channels of each group are cut into blocks of at most 64; a leaf computes some strips of one block. A unit is one
//! leaf call: image, block and chunk of strips, and with the first and the last chunk the bands around ([`bands`]). Which of block and chunk is the outer one depends on what is the greater burden
//! on the caches, the layer's weights or its activations.

pub mod bands;
mod emit;

use qcc_ir::window::Window;
use qcc_num::requant::Epilogue;

use super::tuning::{Choice, Outer};
use crate::kernel::conv::{ConvSpec, MAX_CHANNELS, Output, Residual};
use crate::kernel::tiling;
use crate::machine::Shape;
use crate::plan::Place;
use bands::Band;
pub use emit::{Layout, Leaf, emit};

/// Weights that stay in the second-level cache, together with some rows of activations, while all blocks pass.
const CACHED_WEIGHTS: usize = 384 << 10;

/// Weights of the block that is computed and of the next, as far as these are prefetched: the second-level cache holds both.
const PREFETCHED_WEIGHTS: usize = 896 << 10;

/// Activation bytes of a chunk of strips where the chunk is the outer loop: half of a first-level cache.
const CHUNK_BYTES: usize = 24 << 10;

/// Least number of units to aim at, so that a few threads have something to share.
const UNITS: usize = 16;

/// A product with constant weights.
#[derive(Clone)]
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
    /// Where the extrema of accumulators go, if they are the result and their extrema are wanted: [`crate::plan::PART_EXTREMA`] bytes for
    /// each chunk of each image, those of a block behind each other.
    pub extrema: Option<Place>,
    /// Added before the last rounding, with its multiplier.
    pub residual: Option<(Place, u16)>,
    /// Greatest magnitude of any accumulator.
    pub acc_bound: u32,
    /// Rows of the result, each computed.
    pub bands: Vec<Band>,
    /// Rows of a strip, a divisor of the main band's rows: see [`ConvSpec::strip`].
    pub strip: usize,
    /// What the padding holds.
    pub pad_value: i32,
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
    /// The leaf of the main band.
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
    /// Chooses bands and the rows of a strip for the kernels of a machine. Fails where the tuning asks for what cannot be.
    pub fn choose_strip(&mut self, shape: &Shape) -> Result<(), String> {
        if let Some(panel) = self.choice.panel.filter(|panel| !(1..=shape.vectors).contains(panel)) {
            return Err(format!("a panel of {panel} vectors, expected 1 to {}", shape.vectors));
        }
        let (mut best, mut known) = (None::<(usize, Vec<Band>, usize)>, Vec::new());
        for bands in self.possible_bands() {
            (self.bands, self.strip) = (bands, 1);
            let strips = self.strips_by_cost(shape);
            let strip = match self.choice.strip {
                Some(wanted) => strips.iter().copied().find(|&strip| strip == wanted),
                None => Some(strips.first().copied().unwrap_or(1)),
            };
            known.extend(strips);
            let Some(strip) = strip else { continue };
            self.strip = strip;
            let Some(cost) = self.cost(shape) else { continue };
            if best.as_ref().is_none_or(|(least, ..)| cost < *least) {
                best = Some((cost, self.bands.clone(), strip));
            }
        }
        let unknown = || format!("a strip of {} rows, expected one of {known:?}", self.choice.strip.unwrap_or(0));
        (_, self.bands, self.strip) = best.ok_or_else(unknown)?;
        Ok(())
    }

    /// All rows alike, and bands if there are several.
    fn possible_bands(&self) -> Vec<Vec<Band>> {
        let rows = self.result.dims[1];
        let several = bands::of(&self.window, self.x.dims[1], rows).filter(|_| self.extrema.is_none());
        std::iter::once(vec![Band::whole(rows)]).chain(several).collect()
    }

    /// The estimate for an image, if the leaves of all bands agree on how weights are packed.
    fn cost(&self, shape: &Shape) -> Option<usize> {
        let mut sum = 0;
        for section in self.sections() {
            let specs = self.band_specs(&section, shape);
            let stored = |spec| tiling::choose(spec, shape).iter().map(|p| p.stored_weight(shape)).collect::<Vec<_>>();
            if specs.iter().any(|spec| stored(spec) != stored(&section.spec)) {
                return None;
            }
            let rows = specs
                .iter()
                .zip(&self.bands)
                .map(|(spec, band)| band.rows / spec.strip * tiling::estimate(spec, shape));
            sum += section.blocks * rows.sum::<usize>();
        }
        Some(sum)
    }

    /// The band with the most rows.
    fn main(&self) -> usize {
        (0..self.bands.len()).max_by_key(|&band| self.bands[band].rows).unwrap_or(0)
    }

    /// The leaf of each band: that of the main one, and others that go row by row.
    pub fn band_specs(&self, section: &Section, shape: &Shape) -> Vec<ConvSpec> {
        let main = self.main();
        let vectors = tiling::choose(&section.spec, shape).first().map_or(0, |panel| panel.vectors);
        let spec = |(i, band): (usize, &Band)| {
            if i == main {
                return section.spec.clone();
            }
            ConvSpec { panel: vectors, strip: 1, ahead: 0, ..self.spec(section.spec.channels, band) }
        };
        self.bands.iter().enumerate().map(spec).collect()
    }

    fn strips_by_cost(&self, shape: &Shape) -> Vec<usize> {
        let (images, rows) = (self.result.dims[0], self.bands[self.main()].rows);
        let strips = |section: &Section| tiling::strips(&section.spec, shape, rows, self.blocks() * images);
        self.sections().first().map(strips).unwrap_or_default()
    }

    /// What may be worth measuring beside the present choice: one thing changed in each.
    pub fn choices(&self, shape: &Shape) -> Vec<Choice> {
        let now = self.choice;
        let outer = if self.chunks_outside() { Outer::Blocks } else { Outer::Chunks };
        let outer = (self.blocks() > 1).then_some(Choice { outer: Some(outer), ..now });
        let can_be = |&strip: &usize| strip != self.strip && Product { strip, ..self.clone() }.cost(shape).is_some();
        let other_strips = self.strips_by_cost(shape).into_iter().filter(can_be).take(3);
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
            spec: self.spec(channels, &self.bands[self.main()]),
            blocks: self.groups * count,
            per_group: count,
            first,
        };
        let sections =
            [section(MAX_CHANNELS, full, 0), section(rest.max(1), usize::from(rest > 0), full * MAX_CHANNELS)];
        sections.into_iter().filter(|s| s.blocks > 0).collect()
    }

    /// The leaf of a block in a band.
    fn spec(&self, channels: usize, band: &Band) -> ConvSpec {
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
            k_rows: w.kernel[0] - band.left_out[0] - band.left_out[1],
            left_out: band.left_out,
            k_row_step: w.dilations[0] * row,
            segments: if dense { 1 } else { w.kernel[1] },
            segment_step: if dense { 0 } else { w.dilations[1] * pixel },
            run: if dense { w.kernel[1] * inputs } else { inputs },
            pixel_step: w.strides[1] * pixel,
            in_row_step: w.strides[0] * row,
            out_pixel_step: self.result.strides[2],
            out_row_step: self.result.strides[1],
            pixel_terms: false,
            output,
        }
    }

    /// The output channels of each block of a section, in the order of the blocks.
    pub fn block_channels(&self, s: &Section) -> Vec<std::ops::Range<usize>> {
        let (per_group, _) = self.channels();
        let start = |b: usize| b / s.per_group * per_group + s.first + b % s.per_group * MAX_CHANNELS;
        (0..s.blocks).map(|b| start(b)..start(b) + s.spec.channels).collect()
    }

    /// The biases in a band: with what the kernel rows add that meet only padding.
    pub fn biases(&self, band: &Band) -> Vec<i32> {
        let row = self.weights.len() / self.bias.len() / self.window.kernel[0];
        let [first, last] = band.left_out;
        let padding = |weights: &[i8]| {
            let rows = weights[..first * row].iter().chain(&weights[weights.len() - last * row..]);
            self.pad_value.wrapping_mul(rows.map(|&w| i32::from(w)).sum())
        };
        let channels = self.weights.chunks(row * self.window.kernel[0]);
        self.bias.iter().zip(channels).map(|(bias, weights)| bias.wrapping_add(padding(weights))).collect()
    }

    /// Strips of an image's main band.
    fn strips(&self) -> usize {
        self.bands[self.main()].rows / self.strip
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
