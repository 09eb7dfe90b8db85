//! The code of a microkernel: its loop nest on the vector machine.
//!
//! ```text
//! row blocks { panels { tiles { bias; kernel rows { segments { run { dots } } }; requantize and store } } }
//! ```
//! Each loop moves the pointers on and takes back what its inner loops moved, by constants, so that the arguments are the
//! only pointers.

use cranelift_codegen::ir::{AbiParam, Function, Signature};
use cranelift_codegen::isa::TargetFrontendConfig;
use cranelift_frontend::FunctionBuilderContext;

use super::plan::Microkernel;
use super::spec::{MEASURED_STEP, MicrokernelSpec, Output, fits_shift};
use super::tiling::{Panel, Tiles};
use crate::kernel::assemble::{self, Emit, KernelError};
use crate::machine::bytes::ByteMachine;
use crate::machine::{At, Clif, Machine, Pixels, Requantize, VectorShape};
use crate::target::Backend;

/// Bytes of a 32-bit lane.
pub(super) const LANE: usize = 4;
/// Bytes that a prefetch brings.
const LINE: usize = 64;
/// Arguments of a microkernel.
const ARGUMENTS: usize = 9;

/// The microkernel as machine code, position-independent and without relocations or data; nothing where Cranelift makes it.
pub fn machine_code(kernel: &Microkernel, backend: Backend) -> Result<Option<Vec<u8>>, KernelError> {
    kernel.spec().validate()?;
    assemble::machine_code(kernel, backend)
}

/// The microkernel as CLIF, for any target.
pub fn emit_clif(
    kernel: &Microkernel,
    config: TargetFrontendConfig,
    context: &mut FunctionBuilderContext,
) -> Result<Function, KernelError> {
    kernel.spec().validate()?;
    let mut function = Function::with_name_signature(Default::default(), signature(config));
    let mut machine = Clif::new(&mut function, context, config);
    kernel.emit_loops(&mut machine);
    machine.finish();
    Ok(function)
}

/// The signature of every microkernel.
pub fn signature(config: TargetFrontendConfig) -> Signature {
    let mut signature = Signature::new(config.default_call_conv);
    signature.params = vec![AbiParam::new(config.pointer_type()); ARGUMENTS];
    signature
}

impl Emit for Microkernel {
    fn emit<M: ByteMachine>(&self, m: &mut M) {
        self.emit_loops(m);
    }
}

impl Microkernel {
    fn emit_loops<M: Machine>(&self, m: &mut M) {
        let spec = self.spec();
        let pointers = Pointers {
            input: m.argument(0),
            weights: m.argument(1),
            bias: m.argument(2),
            mult: m.argument(3),
            output: m.argument(4),
            residual: m.argument(5),
            terms: spec.pixel_terms.then(|| m.argument(8)),
        };
        let prefetched = (spec.prefetch_bytes > 0).then(|| m.argument(7));
        if let Output::Requant { epilogue, residual, .. } = &spec.output {
            m.prepare(epilogue, residual.map(|r| r.mult));
        }
        let prefetch = prefetched.map(|pointer| Prefetch::new(pointer, self));
        let nest = LoopNest { kernel: self, spec, shape: self.shape(), pointers, prefetch };
        if spec.output == Output::Measured {
            nest.begin_extrema(m);
        }
        m.repeat_argument(6, &mut |m| nest.row_block(m));
    }
}

pub(super) struct Pointers<P> {
    pub(super) input: P,
    pub(super) weights: P,
    pub(super) bias: P,
    mult: P,
    output: P,
    residual: P,
    terms: Option<P>,
}

/// What is prefetched, and how many lines of it in each tile.
struct Prefetch<P> {
    pointer: P,
    lines: usize,
}

impl<P> Prefetch<P> {
    fn new(pointer: P, kernel: &Microkernel) -> Prefetch<P> {
        let tiles: usize =
            kernel.panels().iter().map(|p| p.count * p.tiles.iter().map(|t| t.count).sum::<usize>()).sum();
        Prefetch { pointer, lines: kernel.spec().prefetch_bytes.div_ceil(LINE).div_ceil(tiles) }
    }
}

/// The loops of a microkernel, with its arguments in registers.
pub(super) struct LoopNest<'a, P> {
    pub(super) kernel: &'a Microkernel,
    pub(super) spec: &'a MicrokernelSpec,
    pub(super) shape: &'static VectorShape,
    pub(super) pointers: Pointers<P>,
    prefetch: Option<Prefetch<P>>,
}

/// Strides from pixel to pixel and from row to row in one of the tensors, in bytes.
#[derive(Clone, Copy)]
struct Strides {
    pixel: usize,
    row: usize,
}

impl Strides {
    /// From the first pixel of a tile to its pixel `index`.
    fn pixel_offset(self, width: usize, tiles: &Tiles, index: usize) -> usize {
        match tiles.column {
            None => index * self.pixel,
            Some(column) => {
                let at = column + index;
                at / width * self.row + at % width * self.pixel - column * self.pixel
            }
        }
    }

    /// From the end of a row to the next.
    fn gap(self, width: usize) -> i64 {
        self.row as i64 - (width * self.pixel) as i64
    }
}

impl<P: Copy> LoopNest<'_, P> {
    fn input_strides(&self) -> Strides {
        Strides { pixel: self.spec.pixel_step, row: self.spec.in_row_step }
    }

    /// What moves with the pixels: input, output, residual, and last terms; each with the bytes of a channel.
    fn pixel_pointers(&self) -> Vec<(P, Strides, usize)> {
        let output = Strides { pixel: self.spec.out_pixel_step, row: self.spec.out_row_step };
        let mut pointers = vec![
            (self.pointers.input, self.input_strides(), 0),
            (self.pointers.output, output, self.spec.stored_bytes()),
        ];
        if let Output::Requant { residual: Some(r), .. } = &self.spec.output {
            pointers.push((self.pointers.residual, Strides { pixel: r.pixel_step, row: r.row_step }, 1));
        }
        let terms = Strides { pixel: LANE, row: LANE * self.spec.width };
        pointers.extend(self.pointers.terms.map(|pointer| (pointer, terms, 0)));
        pointers
    }

    /// Where the extrema of a panel are, and how far behind each other.
    fn extrema(&self) -> [At<P>; 2] {
        [At::new(self.pointers.mult), At::new(self.pointers.mult).plus(MEASURED_STEP)]
    }

    /// Extrema of no accumulators.
    fn begin_extrema<M: Machine<Pointer = P>>(&self, m: &mut M) {
        for (at, bound) in self.extrema().into_iter().zip([i32::MAX, i32::MIN]) {
            let bound = m.splat(bound);
            (0..self.kernel.vectors()).for_each(|v| m.store(bound, at.plus(v * LANE * self.shape.lanes)));
            m.release(bound);
        }
    }

    /// Bytes from one panel's operands at `mult` to the next's.
    fn mult_step(&self, lanes: usize) -> i64 {
        let copies = match self.spec.output {
            Output::Requant { .. } => self.shape.multiplier_copies(),
            Output::Measured => 1,
            Output::Raw => 0,
        };
        (LANE * lanes * copies) as i64
    }

    /// One row block, all panels; then on to the next row block.
    fn row_block<M: Machine<Pointer = P>>(&self, m: &mut M) {
        let spec = self.spec;
        let mut passed = 0;
        let (mut lanes, mut weights) = (0, 0);
        for panel in self.kernel.panels() {
            m.repeat(panel.count, &mut |m| self.panel(m, panel));
            passed += panel.count * panel.channels;
            lanes += panel.count * panel.vectors * self.shape.lanes;
            weights += panel.count * (self.kernel.header_bytes() + self.kernel.panel_bytes(panel, spec.packed_rows()));
        }
        m.advance(self.pointers.weights, -(weights as i64));
        m.advance(self.pointers.bias, -((LANE * lanes) as i64));
        m.advance(self.pointers.mult, -self.mult_step(lanes));
        for (pointer, strides, of_channel) in self.pixel_pointers() {
            m.advance(pointer, (spec.block_rows * strides.row) as i64 - (of_channel * passed) as i64);
        }
    }

    /// One panel over a row block; then back to the row block's first pixel and on to the next panel's channels.
    fn panel<M: Machine<Pointer = P>>(&self, m: &mut M, panel: &Panel) {
        let spec = self.spec;
        let left_out = self.kernel.panel_bytes(panel, spec.left_out[0]);
        m.advance(self.pointers.weights, left_out as i64);
        for tiles in &panel.tiles {
            m.repeat(tiles.count, &mut |m| self.tile(m, panel, tiles));
            if tiles.ends_row && tiles.column.is_none() {
                self.pixel_pointers()
                    .into_iter()
                    .for_each(|(pointer, strides, _)| m.advance(pointer, strides.gap(spec.width)));
            }
        }
        let lanes = panel.vectors * self.shape.lanes;
        let all = self.kernel.header_bytes() + self.kernel.panel_bytes(panel, spec.packed_rows());
        m.advance(self.pointers.weights, (all - left_out) as i64);
        m.advance(self.pointers.bias, (LANE * lanes) as i64);
        m.advance(self.pointers.mult, self.mult_step(lanes));
        for (pointer, strides, of_channel) in self.pixel_pointers() {
            m.advance(pointer, (of_channel * panel.channels) as i64 - (spec.block_rows * strides.row) as i64);
        }
    }

    /// One register tile; then on to its right neighbour.
    fn tile<M: Machine<Pointer = P>>(&self, m: &mut M, panel: &Panel, tiles: &Tiles) {
        let spec = self.spec;
        let offsets: Vec<Vec<usize>> = self
            .pixel_pointers()
            .iter()
            .map(|(_, strides, _)| {
                (0..=tiles.height).map(|pixel| strides.pixel_offset(spec.width, tiles, pixel)).collect()
            })
            .collect();
        let tile = self.accumulate(m, panel, tiles, &offsets);
        let output = Pixels { first: At::new(self.pointers.output), offsets: &offsets[1] };
        match &spec.output {
            Output::Raw => m.store_raw(&tile, output, panel.channels),
            Output::Measured => {
                let [least, greatest] = self.extrema();
                m.extrema(&tile, least, greatest);
                m.store_raw(&tile, output, panel.channels);
            }
            Output::Requant { epilogue, residual, acc_bound } => {
                let pixels = |offsets| Pixels { first: At::new(self.pointers.residual), offsets };
                let operands = Requantize {
                    epilogue: *epilogue,
                    fits_shift: fits_shift(epilogue, *acc_bound),
                    mult: At::new(self.pointers.mult),
                    output,
                    residual: residual.as_ref().map(|r| (pixels(&offsets[2]), r.mult)),
                    channels: panel.channels,
                };
                m.requantize(&tile, &operands);
            }
        }
        for ((pointer, ..), offsets) in self.pixel_pointers().into_iter().zip(&offsets) {
            m.advance(pointer, offsets[tiles.height] as i64);
        }
    }

    /// The accumulators of a tile, `[pixel][vector]`; `all_offsets` tells how far its pixels are from the first in each of [`LoopNest::pixel_pointers`].
    /// Input and weights end where they began.
    fn accumulate<M: Machine<Pointer = P>>(
        &self,
        m: &mut M,
        panel: &Panel,
        tiles: &Tiles,
        all_offsets: &[Vec<usize>],
    ) -> Vec<Vec<M::Vector>> {
        let (spec, offsets) = (self.spec, &all_offsets[0]);
        if spec.i16_steps > 1 {
            return self.accumulate_i16_sums(m, panel, tiles, offsets);
        }
        let bodies = spec.k_rows * spec.segments * self.bodies(panel).1;
        let lines = self.prefetch_lines();
        let in_body = if 2 * lines > bodies { lines.div_ceil(bodies) } else { 0 };
        if in_body == 0 {
            self.prefetch(m, lines);
        }
        let vector = LANE * self.shape.lanes;
        let mut chains: Vec<Vec<Vec<M::Vector>>> = Vec::new();
        for chain in 0..tiles.chains {
            let start = |m: &mut M, v: usize| match chain {
                0 => m.load(At::new(self.pointers.bias).plus(v * vector)),
                _ => m.splat(0),
            };
            chains.push((0..tiles.height).map(|_| (0..panel.vectors).map(|v| start(m, v)).collect()).collect());
        }
        if let (Some(terms), Some(offsets)) = (self.pointers.terms, all_offsets.last()) {
            for (pixel, &offset) in chains[0].iter().zip(offsets) {
                let term = m.splat_at(At::new(terms).plus(offset));
                pixel.iter().for_each(|&acc| m.add(acc, term));
                m.release(term);
            }
        }
        if spec.coded {
            m.begin_codes(At::new(self.pointers.weights));
        }
        m.repeat(spec.k_rows, &mut |m| {
            m.repeat(spec.segments, &mut |m| {
                self.run(m, panel, &chains, offsets, in_body);
                m.advance(self.pointers.input, spec.segment_step as i64);
            });
            m.advance(self.pointers.input, spec.k_row_step as i64 - (spec.segments * spec.segment_step) as i64);
        });
        m.advance(self.pointers.input, -((spec.k_rows * spec.k_row_step) as i64));
        m.advance(self.pointers.weights, -(self.kernel.panel_bytes(panel, spec.k_rows) as i64));
        if spec.coded {
            m.end_codes();
        }
        let mut chains = chains.into_iter();
        let tile = chains.next().expect("at least one chain");
        for extra in chains {
            for (&acc, &term) in tile.iter().flatten().zip(extra.iter().flatten()) {
                m.add(acc, term);
                m.release(term);
            }
        }
        tile
    }

    /// The dots of one run. The weights pointer moves on behind the run, the input pointer ends where it began.
    fn run<M: Machine<Pointer = P>>(
        &self,
        m: &mut M,
        panel: &Panel,
        chains: &[Vec<Vec<M::Vector>>],
        offsets: &[usize],
        lines: usize,
    ) {
        let (spec, steps) = (self.spec, self.kernel.run_steps());
        let (unroll, loops) = self.bodies(panel);
        let rest = steps - loops * unroll;
        let taken = self.shape.dot_depth() * self.shape.activation_bytes();
        let body = |m: &mut M, steps: usize| {
            if spec.fast_inner {
                self.fast_steps(m, panel, chains, steps, offsets);
            } else {
                let pixels: Vec<_> =
                    offsets[..chains[0].len()].iter().map(|&a| At::new(self.pointers.input).plus(a)).collect();
                m.stage(&pixels, taken * steps);
                self.steps(m, panel, chains, steps, offsets);
            }
            let vectors = steps * panel.vectors;
            let stored = if spec.coded { vectors.div_ceil(2) } else { vectors };
            m.advance(self.pointers.weights, (stored * panel.vector_bytes) as i64);
        };
        m.repeat(loops, &mut |m| {
            body(m, unroll);
            m.advance(self.pointers.input, (taken * unroll) as i64);
            self.prefetch(m, lines);
        });
        if rest > 0 {
            body(m, rest);
        }
        m.advance(self.pointers.input, -((taken * loops * unroll) as i64));
    }

    /// Steps of a loop body, and how often it runs in a run. A body of a loop ends behind a pair of vectors of codes.
    fn bodies(&self, panel: &Panel) -> (usize, usize) {
        let steps = self.kernel.run_steps();
        let multiple = if self.spec.coded && panel.vectors % 2 == 1 { 2 } else { 1 };
        let unroll = unroll(steps, self.shape.unroll, multiple);
        (unroll, steps / unroll)
    }

    /// Lines that a tile prefetches.
    pub(super) fn prefetch_lines(&self) -> usize {
        self.prefetch.as_ref().map_or(0, |prefetch| prefetch.lines)
    }

    /// Hints at the next `lines` lines of what is wanted next.
    pub(super) fn prefetch<M: Machine<Pointer = P>>(&self, m: &mut M, lines: usize) {
        if let Some(prefetch) = &self.prefetch {
            (0..lines).for_each(|line| m.prefetch(At::new(prefetch.pointer).plus(line * LINE)));
            m.advance(prefetch.pointer, (lines * LINE) as i64);
        }
    }

    /// So many steps: the activations of each pixel against all vectors of weights, which are read once.
    fn steps<M: Machine<Pointer = P>>(
        &self,
        m: &mut M,
        panel: &Panel,
        chains: &[Vec<Vec<M::Vector>>],
        steps: usize,
        offsets: &[usize],
    ) {
        let (bytes, taken) = (panel.vector_bytes, self.shape.dot_depth());
        let first = At::new(self.pointers.weights).plus(self.kernel.header_bytes());
        let (mut read, mut ready) = (0, Vec::new());
        for step in 0..steps {
            while ready.len() < panel.vectors {
                let at = first.plus(read * bytes);
                match (self.spec.coded, panel.weight_bytes) {
                    (true, _) => ready.extend(m.decoded_weights(at)),
                    (false, 1) => ready.push(m.weights_of_bytes(at)),
                    (false, _) => ready.push(m.weights(at)),
                }
                read += 1;
            }
            let weights: Vec<M::Vector> = ready.drain(..panel.vectors).collect();
            for (pixel, offset) in chains[step % chains.len()].iter().zip(offsets) {
                let activations = m.broadcast(At::new(self.pointers.input).plus(offset + taken * step));
                pixel.iter().zip(&weights).for_each(|(&acc, &weights)| m.dot(acc, activations, weights));
                m.release(activations);
            }
            weights.into_iter().for_each(|weights| m.release(weights));
        }
        ready.into_iter().for_each(|left| m.release(left));
    }
}

/// Steps of a loop body: all of a short run, else as many as divide it, from half of `most` up; a multiple of `multiple` if it may run twice.
fn unroll(steps: usize, most: usize, multiple: usize) -> usize {
    let most = most.max(multiple);
    if steps <= most {
        return steps;
    }
    let divides = |unroll: &usize| steps.is_multiple_of(*unroll) && unroll.is_multiple_of(multiple);
    (most.div_ceil(2)..=most).rev().find(divides).unwrap_or(most)
}
