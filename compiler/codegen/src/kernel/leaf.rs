//! The loop nest of [`super::conv`] on the vector machine.
//!
//! ```text
//! rows { panels { tiles { bias; kernel rows { segments { run { dots } } }; requantize and store } } }
//! ```
//! Each loop moves the pointers on and takes back what its inner loops moved, by constants, so that the six arguments are
//! the only pointers.

use super::conv::{ConvSpec, Output};
use super::tiling::{Panel, Tiles};
use crate::machine::{At, Machine, Pixels, Requantize};

/// Bytes of a 32-bit lane.
const LANE: usize = 4;

/// Emits the leaf.
pub(crate) fn emit<M: Machine>(m: &mut M, spec: &ConvSpec, panels: &[Panel]) {
    let pointers = Pointers {
        input: m.argument(0),
        weights: m.argument(1),
        bias: m.argument(2),
        mult: m.argument(3),
        output: m.argument(4),
        residual: m.argument(5),
    };
    let leaf = Leaf { spec, pointers };
    m.repeat_argument(6, &mut |m| leaf.row(m, panels));
}

struct Pointers<P> {
    input: P,
    weights: P,
    bias: P,
    mult: P,
    output: P,
    residual: P,
}

struct Leaf<'a, P> {
    spec: &'a ConvSpec,
    pointers: Pointers<P>,
}

impl<P: Copy> Leaf<'_, P> {
    /// One output row, all panels; then on to the next row.
    fn row<M: Machine<Pointer = P>>(&self, m: &mut M, panels: &[Panel]) {
        let spec = self.spec;
        let mut passed = 0;
        let mut lanes = 0;
        for panel in panels {
            m.repeat(panel.count, &mut |m| self.panel(m, panel));
            passed += panel.count * panel.channels;
            lanes += panel.count * panel.vectors * m.shape().lanes;
        }
        let weights = 4 * spec.k_rows * spec.segments * spec.run_steps() * lanes;
        m.step(self.pointers.weights, -(weights as i64));
        m.step(self.pointers.bias, -((LANE * lanes) as i64));
        m.step(self.pointers.input, spec.in_row_step as i64);
        m.step(self.pointers.output, spec.out_row_step as i64 - (passed * spec.stored_bytes()) as i64);
        if let Output::Requant { residual, .. } = &spec.output {
            m.step(self.pointers.mult, -((LANE * lanes * m.shape().multiplier_copies()) as i64));
            if let Some(residual) = residual {
                m.step(self.pointers.residual, residual.row_step as i64 - passed as i64);
            }
        }
    }

    /// One panel over a row; then back to the row's first pixel and on to the next panel's channels.
    fn panel<M: Machine<Pointer = P>>(&self, m: &mut M, panel: &Panel) {
        let spec = self.spec;
        for tiles in &panel.tiles {
            m.repeat(tiles.count, &mut |m| self.tile(m, panel, tiles));
        }
        let lanes = panel.vectors * m.shape().lanes;
        let back = |step: usize| -((spec.width * step) as i64);
        m.step(self.pointers.weights, (4 * spec.k_rows * spec.segments * spec.run_steps() * lanes) as i64);
        m.step(self.pointers.bias, (LANE * lanes) as i64);
        m.step(self.pointers.input, back(spec.pixel_step));
        m.step(self.pointers.output, back(spec.out_pixel_step) + (panel.channels * spec.stored_bytes()) as i64);
        if let Output::Requant { residual, .. } = &spec.output {
            m.step(self.pointers.mult, (LANE * lanes * m.shape().multiplier_copies()) as i64);
            if let Some(residual) = residual {
                m.step(self.pointers.residual, back(residual.pixel_step) + panel.channels as i64);
            }
        }
    }

    /// One register tile; then on to its right neighbour.
    fn tile<M: Machine<Pointer = P>>(&self, m: &mut M, panel: &Panel, tiles: &Tiles) {
        let spec = self.spec;
        let tile = self.accumulate(m, panel, tiles);
        let step = |step: usize| (tiles.height * step) as i64;
        let output = Pixels { first: At::new(self.pointers.output), step: spec.out_pixel_step };
        match &spec.output {
            Output::Raw => m.store_raw(&tile, output, panel.channels),
            Output::Requant { epilogue, residual, acc_bound } => {
                let bound =
                    |r: &super::conv::Residual| Pixels { first: At::new(self.pointers.residual), step: r.pixel_step };
                let operands = Requantize {
                    epilogue: *epilogue,
                    fits_shift: acc_bound.is_some_and(|bound| u64::from(bound) << epilogue.shl <= i32::MAX as u64),
                    mult: At::new(self.pointers.mult),
                    output,
                    residual: residual.as_ref().map(|r| (bound(r), r.mult)),
                    channels: panel.channels,
                };
                m.requantize(&tile, &operands);
                if let Some(residual) = residual {
                    m.step(self.pointers.residual, step(residual.pixel_step));
                }
            }
        }
        m.step(self.pointers.input, step(spec.pixel_step));
        m.step(self.pointers.output, step(spec.out_pixel_step));
    }

    /// The accumulators of a tile, `[pixel][vector]`. Input and weights end where they began.
    fn accumulate<M: Machine<Pointer = P>>(&self, m: &mut M, panel: &Panel, tiles: &Tiles) -> Vec<Vec<M::Vector>> {
        let spec = self.spec;
        let vector = LANE * m.shape().lanes;
        let mut chains: Vec<Vec<Vec<M::Vector>>> = Vec::new();
        for chain in 0..tiles.chains {
            let start = |m: &mut M, v: usize| match chain {
                0 => m.load(At::new(self.pointers.bias).plus(v * vector)),
                _ => m.splat(0),
            };
            chains.push((0..tiles.height).map(|_| (0..panel.vectors).map(|v| start(m, v)).collect()).collect());
        }
        let weights = spec.run_steps() * panel.vectors * vector;
        m.repeat(spec.k_rows, &mut |m| {
            m.repeat(spec.segments, &mut |m| {
                self.run(m, panel, &chains);
                m.step(self.pointers.input, spec.segment_step as i64);
            });
            m.step(self.pointers.input, spec.k_row_step as i64 - (spec.segments * spec.segment_step) as i64);
        });
        m.step(self.pointers.input, -((spec.k_rows * spec.k_row_step) as i64));
        m.step(self.pointers.weights, -((spec.k_rows * spec.segments * weights) as i64));
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
    fn run<M: Machine<Pointer = P>>(&self, m: &mut M, panel: &Panel, chains: &[Vec<Vec<M::Vector>>]) {
        let steps = self.spec.run_steps();
        let step_bytes = panel.vectors * LANE * m.shape().lanes;
        let unroll = unroll(steps, m.shape().unroll);
        let (loops, rest) = (steps / unroll, steps % unroll);
        m.repeat(loops, &mut |m| {
            (0..unroll).for_each(|step| self.step(m, panel, &chains[step % chains.len()], step));
            m.step(self.pointers.input, 4 * unroll as i64);
            m.step(self.pointers.weights, (unroll * step_bytes) as i64);
        });
        (0..rest).for_each(|step| self.step(m, panel, &chains[step % chains.len()], step));
        m.step(self.pointers.weights, (rest * step_bytes) as i64);
        m.step(self.pointers.input, -(4 * (loops * unroll) as i64));
    }

    /// Four bytes of each pixel against all vectors of weights, which are read once.
    fn step<M: Machine<Pointer = P>>(&self, m: &mut M, panel: &Panel, tile: &[Vec<M::Vector>], step: usize) {
        let vector = LANE * m.shape().lanes;
        let first = At::new(self.pointers.weights).plus(step * panel.vectors * vector);
        let weights: Vec<M::Vector> = (0..panel.vectors).map(|v| m.load(first.plus(v * vector))).collect();
        for (index, pixel) in tile.iter().enumerate() {
            let from = At::new(self.pointers.input).plus(index * self.spec.pixel_step + 4 * step);
            let activations = m.broadcast(from);
            pixel.iter().zip(&weights).for_each(|(&acc, &weights)| m.dot(acc, activations, weights));
            m.release(activations);
        }
        weights.into_iter().for_each(|weights| m.release(weights));
    }
}

/// Steps of a loop body: all of a short run, else as many as divide it, from half of `most` up.
fn unroll(steps: usize, most: usize) -> usize {
    if steps <= most {
        return steps;
    }
    (most.div_ceil(2)..=most).rev().find(|unroll| steps.is_multiple_of(*unroll)).unwrap_or(most)
}
