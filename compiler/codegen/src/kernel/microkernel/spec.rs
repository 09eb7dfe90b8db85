//! What a microkernel computes: one block of output channels over some rows of pixels, the inner part of every convolution and
//! matrix product.
//!
//! ```text
//! for row in 0..rows, x in 0..width, c in 0..channels:
//!     acc = bias[c] + term[row][x] + sum over (k, s, i) of
//!           input[row * in_row_step + x * pixel_step + k * k_row_step + s * segment_step + i] * w[c][k][s][i]
//!     output[row * out_row_step + x * out_pixel_step + c] = requantize(acc)            (or acc itself, 32 bits)
//! with 0 <= k < k_rows, 0 <= s < segments, 0 <= i < run; terms are 0 without [`MicrokernelSpec::pixel_terms`]
//! ```
//!
//! Activations are u8 in NHWC, already padded. For a dense kernel row the (kernel column, channel) pairs lie side by
//! side in memory: `segments = 1`, `run = kw * ic`. With dilation or groups each kernel column is a segment of its own.
//! A matrix product is a microkernel with one kernel row, `pixel_step` being the length of a row of the left matrix.
//! A 1x1 convolution may see its image as one long row, which leaves no remainder at the end of each image row.
//!
//! The function, in the System V convention (the platform's default in CLIF):
//! ```text
//! fn(input: *const u8, weights: *const u8, bias: *const i32, mult: *const i32, output: *mut u8, residual: *const u8,
//!    row_blocks: usize, prefetch: *const u8, terms: *const i32)
//! ```
//! `weights`, `bias` and `mult` are as [`super::pack`] gives them and best start at a multiple of 64. A row block is
//! [`MicrokernelSpec::block_rows`] rows; the number of row blocks may be 0. `residual` is not touched without [`Residual`], `terms` not without
//! [`MicrokernelSpec::pixel_terms`], nor `mult` with [`Output::Raw`]; with [`Output::Measured`] the extrema go there. From `prefetch` on, where nothing need be,
//! [`MicrokernelSpec::prefetch_bytes`] bytes a row block are hinted to the cache.
//!
//! In a **fast inner product** ([`super::fast_inner`]) activations are 16-bit numbers, of which `run` is the number.
//!
//! **Slack**: where `run` is not a multiple of 4, up to 3 bytes after the last run are read (and multiplied by zero).
//! Nothing is written beyond the `channels` of a pixel.

use qcc_num::requant::Epilogue;

use crate::kernel::assemble::KernelError;
use crate::machine::VectorShape;

/// Most channels of one block.
pub const MAX_CHANNELS: usize = 64;

/// A microkernel. Equal descriptions give equal code, so layers of one shape share it. All steps are in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MicrokernelSpec {
    /// Output pixels of a row.
    pub width: usize,
    /// Vectors of a panel; 0 for what the estimate says.
    pub panel_vectors: usize,
    /// Rows of a row block, whose pixels are cut into register tiles as if they were one row.
    pub block_rows: usize,
    /// Output channels of this block, 1 to [`MAX_CHANNELS`].
    pub channels: usize,
    /// Kernel rows.
    pub k_rows: usize,
    /// Rows that the packed weights have before and behind these: where they would meet nothing but padding, a microkernel leaves them out.
    pub left_out: [usize; 2],
    /// From one kernel row's activations to the next's.
    pub k_row_step: usize,
    /// Contiguous runs of a kernel row.
    pub segments: usize,
    /// From run to run.
    pub segment_step: usize,
    /// Activations of a run.
    pub run: usize,
    /// In the input, from one output pixel's activations to its neighbour's.
    pub pixel_step: usize,
    /// In the input, from one output row's activations to the next's.
    pub in_row_step: usize,
    /// In the output, from pixel to pixel.
    pub out_pixel_step: usize,
    /// In the output, from row to row.
    pub out_row_step: usize,
    /// Bytes to prefetch while a row block is computed: a share of the weights that are wanted next.
    pub prefetch_bytes: usize,
    /// Whether weights are codes ([`super::codes`]), decoded where they are multiplied: then a header is in front of each panel's, no rows are
    /// left out, and runs are whole pairs of vectors unless there is but one.
    pub coded: bool,
    /// Whether each pixel has a term of its own, i32, that is added to all its accumulators: at `terms`, densely in the order of the pixels.
    pub pixel_terms: bool,
    /// Whether it is a fast inner product ([`super::fast_inner`]): runs are whole steps, activations 16-bit numbers, and every pixel has a term.
    pub fast_inner: bool,
    /// Steps of a run whose products are summed in 16 bits before they are widened: the weights must be such that no sum leaves
    /// them (`super::i16_sums`). 0 where every dot sums in 32 bits.
    pub i16_steps: usize,
    /// What becomes of the accumulators.
    pub output: Output,
}

/// What a microkernel stores.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Output {
    /// Bytes, by the rule of [`qcc_num::requant`].
    Requant {
        /// Constants of the rule.
        epilogue: Epilogue,
        /// A tensor added before the last rounding.
        residual: Option<Residual>,
        /// Greatest magnitude of an accumulator, where it is known: it can spare the saturating shift.
        acc_bound: Option<u32>,
    },
    /// The accumulators, i32, in natural order.
    Raw,
    /// The same, and at `mult` the least and, [`MEASURED_STEP`] bytes behind, the greatest of each channel, i32. Both have
    /// room for [`MAX_CHANNELS`]; what is behind those that exist has no meaning.
    Measured,
}

/// Whether the plain shift of a rule will do, as no accumulator leaves 32 bits by it.
pub(crate) fn fits_shift(rule: &Epilogue, acc_bound: Option<u32>) -> bool {
    acc_bound.is_some_and(|bound| u64::from(bound) << rule.shl <= i32::MAX as u64)
}

/// Bytes from the least accumulators to the greatest.
pub const MEASURED_STEP: usize = 4 * MAX_CHANNELS;

/// The tensor that is added, u8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Residual {
    /// Its multiplier `R`, below 2^15.
    pub mult: u16,
    /// From pixel to pixel.
    pub pixel_step: usize,
    /// From row to row.
    pub row_step: usize,
}

impl MicrokernelSpec {
    /// Checks the description against its limits.
    pub fn validate(&self) -> Result<(), KernelError> {
        let refuse = |why: String| Err(KernelError::Spec(why));
        if !(1..=MAX_CHANNELS).contains(&self.channels) {
            return refuse(format!("{} channels, expected 1 to {MAX_CHANNELS}", self.channels));
        }
        if [self.width, self.block_rows, self.k_rows, self.segments, self.run].contains(&0) {
            return refuse("an empty row, row block, kernel or run".to_string());
        }
        if self.pixel_terms && (self.i16_steps > 0 || self.segments > 1) {
            return refuse("terms of the pixels beside sums of 16 bits, or segments".to_string());
        }
        let whole_runs = self.run.is_multiple_of(VectorShape::AVX2_FAST_INNER.dot_depth());
        if self.fast_inner && (!self.pixel_terms || self.coded || !whole_runs) {
            return refuse(
                "a fast inner product of codes, without terms, or in runs that are no whole steps".to_string(),
            );
        }
        if self.coded && (self.left_out != [0; 2] || self.i16_steps > 0) {
            return refuse("rows left out of codes, or their products summed in 16 bits".to_string());
        }
        let mut spans = vec![
            ("input row", self.width, self.pixel_step),
            ("output row", self.width, self.out_pixel_step),
            ("kernel rows", self.k_rows, self.k_row_step),
            ("kernel row", self.segments, self.segment_step),
            ("run", self.run, 2),
            ("input row block", self.block_rows, self.in_row_step),
            ("output row block", self.block_rows, self.out_row_step),
        ];
        if let Output::Requant { epilogue, residual, .. } = &self.output {
            if epilogue.lo > epilogue.hi || epilogue.shl > 31 {
                return refuse(format!("the range {}..={} or the shift {}", epilogue.lo, epilogue.hi, epilogue.shl));
            }
            if let Some(residual) = residual {
                if residual.mult >= 1 << 15 {
                    return refuse(format!("the residual multiplier {}, expected 15 bits", residual.mult));
                }
                spans.push(("residual row", self.width, residual.pixel_step));
                spans.push(("residual row block", self.block_rows, residual.row_step));
            }
        }
        match spans.iter().find(|(_, count, step)| count.saturating_mul(*step) >= 1 << 30) {
            Some((name, count, step)) => refuse(format!("{name}: {count} x {step} bytes, expected less than 2^30")),
            None => Ok(()),
        }
    }

    /// Whether the pixels of a row block are evenly spaced throughout, as if they were one row.
    pub(crate) fn is_even(&self) -> bool {
        let residual = match &self.output {
            Output::Requant { residual: Some(r), .. } => r.row_step == self.width * r.pixel_step,
            _ => true,
        };
        let input = self.in_row_step == self.width * self.pixel_step;
        input && residual && self.out_row_step == self.width * self.out_pixel_step
    }

    /// Multiplications of one row block, as the network counts them.
    pub fn macs_per_row_block(&self) -> u64 {
        (self.block_rows * self.width * self.channels * self.k_rows * self.segments * self.run) as u64
    }

    /// Kernel rows of the packed weights.
    pub(crate) fn packed_rows(&self) -> usize {
        self.left_out[0] + self.k_rows + self.left_out[1]
    }

    /// Steps in a run.
    pub(crate) fn run_steps(&self, shape: &VectorShape) -> usize {
        self.run.div_ceil(shape.dot_depth())
    }

    /// Bytes stored for a channel.
    pub(crate) fn stored_bytes(&self) -> usize {
        if self.narrowed() { 1 } else { 4 }
    }

    /// Whether the stored channels pass through the narrowing instructions.
    pub(crate) fn narrowed(&self) -> bool {
        matches!(self.output, Output::Requant { .. })
    }
}
