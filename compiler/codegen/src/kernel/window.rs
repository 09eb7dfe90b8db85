//! The kernel of every step in which a window slides over channels that stay offsets: depthwise convolution, maximum, average.
//!
//! ```text
//! for row in 0..rows, p in 0..positions, j in 0..bytes:          (and a last position of `rest` bytes)
//!     from = row * in_row_step + p * in_step + j
//!     Max:  output[..] = max over (k, t) of input[from + k * run_step + taps[t].offset]
//!     Dot:  output[..] = requantize(bias[j] + sum over (k, t) of input[from + k * run_step + taps[t].offset] * w[k][t][j])
//! ```
//! A *position* is one pixel. Where pixels lie side by side on both sides and the window moves by one of them, a row is
//! one sequence of bytes, and a position is as many of them as bring the channels back to the start of a vector: no lane is
//! lost to a number of channels that does not fill vectors. An average is a dot with ones.
//!
//! As many taps as a dot multiplies ([`VectorShape::dot_depth`]), a *group*, are interleaved so that one dot adds all their products to
//! a lane. Where neighbouring positions see the
//! same column of the window's elements, a group is a column and is interleaved once for all of them. The bytes come out of that in the order of
//! [`crate::machine::bytes`], in which the constants are packed:
//! ```text
//! [block of bytes of a vector] { biases [vector][lane] i32, multipliers [vector][copy][lane] i32,
//!                                weights [run][group][vector][lane][4] i8, or [2] i16 }
//! ```
//!
//! The function, in the System V convention: `fn(input, data, output, residual, rows)`. Nothing outside the window's
//! bytes is read, nothing outside the row's bytes written.

use std::collections::BTreeMap;

use cranelift_codegen::ir::{AbiParam, Signature};
use cranelift_codegen::isa::TargetFrontendConfig;
use qcc_num::requant::Epilogue;

use super::assemble::{self, Emit, KernelError};
use super::microkernel::Residual;
use crate::machine::bytes::{ByteMachine, Span};
use crate::machine::{At, Pixels, Requantize, VectorShape};
use crate::target::Backend;

/// Registers that interleaving wants beside the accumulators.
const SCRATCH_REGISTERS: usize = 6;
/// Positions whose maxima are in registers at once.
const MAX_HEIGHT: usize = 8;
/// Most positions of any tile.
pub const MAX_POSITIONS: usize = MAX_HEIGHT;
/// Most taps of a run: they are unrolled.
pub const MAX_TAPS: usize = 64;

/// One element under the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tap {
    /// Which weight it meets, counted in one run.
    pub weight: usize,
    /// Distance from the first element under the window.
    pub offset: usize,
}

/// A kernel. Equal descriptions give equal code.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WindowSpec {
    /// Bytes of a position.
    pub bytes: usize,
    /// Whole positions of a row.
    pub positions: usize,
    /// Bytes of a last, incomplete position.
    pub rest: usize,
    /// In the input, from position to position.
    pub in_step: usize,
    /// In the input, from one output row's window to the next's.
    pub in_row_step: usize,
    /// In the output, from position to position.
    pub out_step: usize,
    /// In the output, from row to row.
    pub out_row_step: usize,
    /// How often the taps are repeated.
    pub runs: usize,
    /// From one repetition of the taps to the next.
    pub run_step: usize,
    /// The taps of a run, at most [`VectorShape::dot_depth`] in a group.
    pub groups: Vec<Vec<Tap>>,
    /// What is done with the elements under the window.
    pub reduction: Reduction,
}

/// What is done with the elements under the window.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Reduction {
    /// The greatest.
    Max,
    /// Products with weights, summed and requantized.
    Dot {
        /// The rule.
        epilogue: Epilogue,
        /// A tensor added before the last rounding; steps from position to position and from row to row.
        residual: Option<Residual>,
        /// Greatest magnitude of an accumulator.
        acc_bound: u32,
        /// Whether all blocks read the data of the first.
        uniform: bool,
    },
}

impl WindowSpec {
    /// Blocks whose constants differ.
    pub fn blocks(&self, shape: &VectorShape) -> usize {
        match self.reduction {
            Reduction::Dot { uniform: false, .. } => self.bytes.div_ceil(4 * shape.lanes),
            _ => 1,
        }
    }

    /// Taps of a run.
    fn taps(&self) -> usize {
        self.groups.iter().map(Vec::len).sum()
    }

    /// Bytes of one block's biases, or of one copy of its multipliers.
    fn lanes_bytes(shape: &VectorShape) -> usize {
        16 * shape.lanes
    }

    /// Bytes of one block's constants.
    fn block_bytes(&self, shape: &VectorShape) -> usize {
        Self::lanes_bytes(shape) * (1 + shape.multiplier_copies() + self.runs * self.groups.len())
    }

    /// Packs the constants of all blocks. `channel` gives the channel of a byte of a position, `weight` the weight of a tap,
    /// counted through all runs, and a channel.
    pub fn pack(
        &self,
        shape: &VectorShape,
        channel: impl Fn(usize) -> usize,
        bias: impl Fn(usize) -> i32,
        mult: impl Fn(usize) -> i32,
        weight: impl Fn(usize, usize) -> i8,
    ) -> Vec<u8> {
        let mut packed = Vec::new();
        for block in 0..self.blocks(shape) {
            let lanes: Vec<Option<usize>> = (0..4)
                .flat_map(|vector| (0..shape.lanes).map(move |lane| shape.channel(4, vector, lane, true)))
                .map(|byte| 4 * shape.lanes * block + byte)
                .map(|byte| (byte < self.bytes).then(|| channel(byte)))
                .collect();
            let i32s = |packed: &mut Vec<u8>, of: &dyn Fn(usize) -> i32, lanes: &[Option<usize>]| {
                packed.extend(lanes.iter().flat_map(|c| c.map_or(0, of).to_le_bytes()));
            };
            i32s(&mut packed, &bias, &lanes);
            for vector in lanes.chunks(shape.lanes) {
                i32s(&mut packed, &mult, vector);
                if shape.multiplier_copies() == 2 {
                    let odd: Vec<_> = vector.chunks(2).flat_map(|pair| [pair[1], None]).collect();
                    i32s(&mut packed, &mult, &odd);
                }
            }
            for run in 0..self.runs {
                for group in &self.groups {
                    for lane in &lanes {
                        let at = |i: usize| Some((group.get(i)?.weight + run * self.taps(), (*lane)?));
                        for weight in (0..shape.dot_depth()).map(|i| at(i).map_or(0, |(tap, c)| weight(tap, c))) {
                            match shape.weight_bytes {
                                1 => packed.push(weight as u8),
                                _ => packed.extend(i16::from(weight).to_le_bytes()),
                            }
                        }
                    }
                }
            }
        }
        packed
    }
}

/// The kernel as machine code; nothing where the target has none.
pub fn machine_code(spec: &WindowSpec, backend: Backend) -> Result<Option<Vec<u8>>, KernelError> {
    assemble::machine_code(spec, backend)
}

/// The signature of these kernels.
pub fn signature(config: TargetFrontendConfig) -> Signature {
    let mut signature = Signature::new(config.default_call_conv);
    signature.params = vec![AbiParam::new(config.pointer_type()); 5];
    signature
}

/// The elements that a tile interleaves, each with the positions and groups that meet them, in order of memory.
fn interleavings(groups: &[Vec<Tap>], in_step: usize, height: usize) -> BTreeMap<Vec<usize>, Vec<(usize, usize)>> {
    let mut all: BTreeMap<Vec<usize>, Vec<(usize, usize)>> = BTreeMap::new();
    for position in 0..height {
        for (index, group) in groups.iter().enumerate() {
            let offsets = group.iter().map(|tap| position * in_step + tap.offset).collect();
            all.entry(offsets).or_default().push((position, index));
        }
    }
    all
}

/// Positions whose accumulators are in registers at once.
const fn dot_height(shape: &VectorShape) -> usize {
    (shape.registers - SCRATCH_REGISTERS) / 4
}

/// The cheaper of two ways to group taps, `columns` being those of each column of the window: as they come in order, or by
/// column, so that neighbours share. Shuffles and dots count alike.
pub fn group(columns: &[Vec<Tap>], in_step: usize, shape: &VectorShape) -> Vec<Vec<Tap>> {
    let mut taps: Vec<Tap> = columns.iter().flatten().copied().collect();
    taps.sort_by_key(|tap| tap.weight);
    let in_order: Vec<Vec<Tap>> = taps.chunks(shape.dot_depth()).map(<[Tap]>::to_vec).collect();
    let by_column: Vec<Vec<Tap>> =
        columns.iter().flat_map(|column| column.chunks(shape.dot_depth())).map(<[Tap]>::to_vec).collect();
    let cost = |groups: &[Vec<Tap>]| {
        let shuffles = |offsets: &Vec<usize>| if offsets.len() > 2 { 8 } else { 6 };
        let interleaved: usize = interleavings(groups, in_step, dot_height(shape)).keys().map(shuffles).sum();
        interleaved + 4 * dot_height(shape) * groups.len()
    };
    if cost(&by_column) < cost(&in_order) { by_column } else { in_order }
}

struct Kernel<'a, P> {
    spec: &'a WindowSpec,
    input: P,
    data: P,
    output: P,
    residual: P,
}

impl Emit for WindowSpec {
    fn emit<M: ByteMachine>(&self, m: &mut M) {
        let kernel = Kernel {
            spec: self,
            input: m.argument(0),
            data: m.argument(1),
            output: m.argument(2),
            residual: m.argument(3),
        };
        if let Reduction::Dot { epilogue, residual, .. } = &self.reduction {
            m.prepare(epilogue, residual.map(|r| r.mult));
        }
        m.repeat_argument(4, &mut |m| kernel.row(m));
    }
}

impl<P: Copy> Kernel<'_, P> {
    fn row<M: ByteMachine<Pointer = P>>(&self, m: &mut M) {
        let spec = self.spec;
        if spec.positions > 0 {
            self.positions(m, spec.positions, spec.bytes);
        }
        if spec.rest > 0 {
            self.positions(m, 1, spec.rest);
        }
        let wide = spec.positions + usize::from(spec.rest > 0);
        let back = |row_step: usize, step: usize| row_step as i64 - (wide * step) as i64;
        m.advance(self.input, back(spec.in_row_step, spec.in_step));
        m.advance(self.output, back(spec.out_row_step, spec.out_step));
        if let Some(residual) = self.residual() {
            m.advance(self.residual, back(residual.row_step, residual.pixel_step));
        }
    }

    fn residual(&self) -> Option<Residual> {
        match self.spec.reduction {
            Reduction::Dot { residual, .. } => residual,
            Reduction::Max => None,
        }
    }

    /// All blocks of some positions, then on behind these positions.
    fn positions<M: ByteMachine<Pointer = P>>(&self, m: &mut M, count: usize, bytes: usize) {
        let vector = 4 * m.shape().lanes;
        let (full, tail) = (bytes / vector, bytes % vector);
        if full > 0 {
            m.repeat(full, &mut |m| self.block(m, count, vector));
        }
        if tail > 0 {
            m.set_tail(tail);
            self.block(m, count, tail);
        }
        let blocks = full + usize::from(tail > 0);
        if self.data_step(m) > 0 {
            m.advance(self.data, -((blocks * self.data_step(m)) as i64));
        }
        self.all_step(m, count as i64, -((blocks * vector) as i64));
    }

    fn data_step<M: ByteMachine<Pointer = P>>(&self, m: &M) -> usize {
        match self.spec.reduction {
            Reduction::Dot { uniform: false, .. } => self.spec.block_bytes(&m.shape()),
            _ => 0,
        }
    }

    /// Moves input, output and residual by positions and bytes.
    fn all_step<M: ByteMachine<Pointer = P>>(&self, m: &mut M, positions: i64, bytes: i64) {
        m.advance(self.input, positions * self.spec.in_step as i64 + bytes);
        m.advance(self.output, positions * self.spec.out_step as i64 + bytes);
        if let Some(residual) = self.residual() {
            m.advance(self.residual, positions * residual.pixel_step as i64 + bytes);
        }
    }

    /// One block of all positions, in tiles of two heights that differ by one; then on to the next block.
    fn block<M: ByteMachine<Pointer = P>>(&self, m: &mut M, positions: usize, bytes: usize) {
        let highest = if matches!(self.spec.reduction, Reduction::Max) { MAX_HEIGHT } else { dot_height(&m.shape()) };
        let tiles = positions.div_ceil(highest);
        let (height, higher) = (positions / tiles, positions % tiles);
        for (count, height) in [(higher, height + 1), (tiles - higher, height)] {
            if count > 0 {
                m.repeat(count, &mut |m| {
                    match &self.spec.reduction {
                        Reduction::Max => self.maxima(m, height, bytes),
                        Reduction::Dot { .. } => self.dots(m, height, bytes),
                    }
                    self.all_step(m, height as i64, 0);
                });
            }
        }
        let vector = 4 * m.shape().lanes;
        m.advance(self.data, self.data_step(m) as i64);
        self.all_step(m, -(positions as i64), vector as i64);
    }

    fn span(bytes: usize, vector: usize) -> Span {
        if bytes == vector { Span::Full } else { Span::Tail }
    }

    /// The greatest bytes of a block at `height` positions.
    fn maxima<M: ByteMachine<Pointer = P>>(&self, m: &mut M, height: usize, bytes: usize) {
        let spec = self.spec;
        let span = Self::span(bytes, 4 * m.shape().lanes);
        let address = |p: usize, tap: &Tap| At::new(self.input).plus(p * spec.in_step + tap.offset);
        let first = &spec.groups[0][0];
        let greatest: Vec<M::Vector> = (0..height).map(|p| m.load_bytes(address(p, first), span)).collect();
        m.repeat(spec.runs, &mut |m| {
            for (p, &greatest) in greatest.iter().enumerate() {
                for tap in spec.groups.iter().flatten() {
                    let term = m.load_bytes(address(p, tap), span);
                    m.max_bytes(greatest, term);
                    m.release(term);
                }
            }
            m.advance(self.input, spec.run_step as i64);
        });
        m.advance(self.input, -((spec.runs * spec.run_step) as i64));
        for (p, greatest) in greatest.into_iter().enumerate() {
            m.store_bytes(greatest, At::new(self.output).plus(p * spec.out_step), span);
        }
    }

    /// The requantized sums of a block at `height` positions.
    fn dots<M: ByteMachine<Pointer = P>>(&self, m: &mut M, height: usize, bytes: usize) {
        let spec = self.spec;
        let Reduction::Dot { epilogue, residual, acc_bound, .. } = &spec.reduction else { return };
        let shape = m.shape();
        let (vector, lanes) = (4 * shape.lanes, WindowSpec::lanes_bytes(&shape));
        let span = Self::span(bytes, vector);
        let data = |part: usize| At::new(self.data).plus(part * vector);
        let tile: Vec<Vec<M::Vector>> = (0..height).map(|_| (0..4).map(|v| m.load(data(v))).collect()).collect();
        let first = 4 * (1 + shape.multiplier_copies());
        m.repeat(spec.runs, &mut |m| {
            for (offsets, users) in interleavings(&spec.groups, spec.in_step, height) {
                let load = |offset: usize| At::new(self.input).plus(offset);
                let operands: Vec<M::Vector> = offsets.iter().map(|&at| m.load_bytes(load(at), span)).collect();
                for (v, activations) in m.interleave(&operands).into_iter().enumerate() {
                    for &(p, group) in &users {
                        m.dot_at(tile[p][v], activations, data(first + 4 * group + v));
                    }
                    m.release(activations);
                }
            }
            m.advance(self.input, spec.run_step as i64);
            m.advance(self.data, (spec.groups.len() * lanes) as i64);
        });
        m.advance(self.input, -((spec.runs * spec.run_step) as i64));
        m.advance(self.data, -((spec.runs * spec.groups.len() * lanes) as i64));
        let offsets = |step: usize| (0..height).map(|pixel| pixel * step).collect::<Vec<_>>();
        let (output, added) = (offsets(spec.out_step), residual.map_or(Vec::new(), |r| offsets(r.pixel_step)));
        let operands = Requantize {
            epilogue: *epilogue,
            fits_shift: u64::from(*acc_bound) << epilogue.shl <= i32::MAX as u64,
            mult: data(4),
            output: Pixels { first: At::new(self.output), offsets: &output },
            residual: residual.map(|r| (Pixels { first: At::new(self.residual), offsets: &added }, r.mult)),
            channels: bytes,
        };
        m.requantize(&tile, &operands);
    }
}
