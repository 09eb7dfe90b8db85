//! The code of a tile whose products are summed in 16 bits: accumulators hold the sums of a group of steps, partial sums of 32 bits lie
//! in memory.
//!
//! ```text
//! partial sums := biases; kernel rows { segments { bodies { groups { products; widen; add to partial sums } }; rest } }
//! ```
//! The last group of the only run leaves its sums in registers, and where that is the only group nothing goes to memory.

use super::emit::{LANE, LoopNest};
use super::tiling::{Panel, Tiles};
use crate::machine::{At, Machine};

/// How the steps of a run are looped over.
pub(super) struct Bodies {
    /// Steps of a body: whole groups.
    pub steps: usize,
    /// How often it runs.
    pub loops: usize,
    /// Steps behind it.
    pub rest: usize,
}

impl Bodies {
    /// Bodies of a run of `all` steps in groups of `group`, each of at most `most` steps if that is a group. Something remains behind the last
    /// body of an `only` run.
    pub fn new(all: usize, group: usize, most: usize, only: bool) -> Bodies {
        let most = (most / group).max(1);
        let divides = |groups: &usize| all.is_multiple_of(groups * group);
        let groups = (most.div_ceil(2)..=most).rev().find(divides).unwrap_or(most);
        let steps = groups * group;
        let loops = (all - usize::from(only)) / steps;
        Bodies { steps, loops, rest: all - loops * steps }
    }
}

impl<P: Copy> LoopNest<'_, P> {
    /// See `LoopNest::accumulate`.
    pub(super) fn accumulate_i16_sums<M: Machine<Pointer = P>>(
        &self,
        m: &mut M,
        panel: &Panel,
        tiles: &Tiles,
        offsets: &[usize],
    ) -> Vec<Vec<M::Vector>> {
        let spec = self.spec;
        let only = spec.k_rows * spec.segments == 1;
        let bodies = Bodies::new(self.kernel.run_steps(), spec.i16_steps, self.shape.unroll, only);
        let lines = self.prefetch_lines();
        let runs = spec.k_rows * spec.segments * bodies.loops;
        let in_body = if 2 * lines > runs && runs > 0 { lines.div_ceil(runs) } else { 0 };
        if in_body == 0 {
            self.prefetch(m, lines);
        }
        let group = Group { nest: self, panel, offsets: &offsets[..tiles.height] };
        let in_memory = !only || self.kernel.run_steps() > spec.i16_steps;
        if in_memory {
            group.begin(m);
        }
        let mut tile = None;
        m.repeat(spec.k_rows, &mut |m| {
            m.repeat(spec.segments, &mut |m| {
                tile = self.run_i16_sums(m, &group, &bodies, (only, in_memory), in_body);
                m.advance(self.pointers.input, spec.segment_step as i64);
            });
            m.advance(self.pointers.input, spec.k_row_step as i64 - (spec.segments * spec.segment_step) as i64);
        });
        m.advance(self.pointers.input, -((spec.k_rows * spec.k_row_step) as i64));
        m.advance(self.pointers.weights, -(self.kernel.panel_bytes(panel, spec.k_rows) as i64));
        tile.unwrap_or_else(|| group.load(m))
    }

    /// One run. What is left in registers is the tile, if this is the `only` run.
    fn run_i16_sums<M: Machine<Pointer = P>>(
        &self,
        m: &mut M,
        group: &Group<'_, '_, P>,
        bodies: &Bodies,
        (only, in_memory): (bool, bool),
        lines: usize,
    ) -> Option<Vec<Vec<M::Vector>>> {
        let (length, taken) = (self.spec.i16_steps, self.shape.dot_depth());
        let step_bytes = group.panel.vectors * group.panel.vector_bytes;
        let groups = |steps: usize| (0..steps).step_by(length).map(move |first| first..steps.min(first + length));
        if bodies.loops > 0 {
            m.repeat(bodies.loops, &mut |m| {
                for steps in groups(bodies.steps) {
                    let sums = group.products(m, steps);
                    group.add_to_memory(m, sums);
                }
                m.advance(self.pointers.input, (taken * bodies.steps) as i64);
                m.advance(self.pointers.weights, (bodies.steps * step_bytes) as i64);
                self.prefetch(m, lines);
            });
        }
        let mut tile = None;
        for steps in groups(bodies.rest) {
            let is_last = steps.end == bodies.rest;
            let sums = group.products(m, steps);
            if only && is_last {
                group.widen(m, &sums, in_memory);
                tile = Some(sums);
            } else {
                group.add_to_memory(m, sums);
            }
        }
        m.advance(self.pointers.weights, (bodies.rest * step_bytes) as i64);
        m.advance(self.pointers.input, -((taken * bodies.loops * bodies.steps) as i64));
        tile
    }
}

/// What the groups of a tile have in common.
struct Group<'a, 'n, P> {
    nest: &'a LoopNest<'n, P>,
    panel: &'a Panel,
    /// Bytes from the first pixel's input to each.
    offsets: &'a [usize],
}

impl<P: Copy> Group<'_, '_, P> {
    /// Where the partial sum of an accumulator is.
    fn partial_sum<M: Machine<Pointer = P>>(&self, m: &M, pixel: usize, vector: usize) -> At<P> {
        m.partial_sum(pixel * self.panel.vectors + vector)
    }

    fn bias(&self, vector: usize) -> At<P> {
        At::new(self.nest.pointers.bias).plus(vector * LANE * self.nest.shape.lanes)
    }

    /// The partial sums of no products.
    fn begin<M: Machine<Pointer = P>>(&self, m: &mut M) {
        for vector in 0..self.panel.vectors {
            let bias = m.load(self.bias(vector));
            for pixel in 0..self.offsets.len() {
                let to = self.partial_sum(m, pixel, vector);
                m.store(bias, to);
            }
            m.release(bias);
        }
    }

    /// The sums of the products of some steps, 16-bit lanes, `[pixel][vector]`.
    fn products<M: Machine<Pointer = P>>(&self, m: &mut M, steps: std::ops::Range<usize>) -> Vec<Vec<M::Vector>> {
        let (vectors, bytes) = (self.panel.vectors, self.panel.vector_bytes);
        let mut sums: Vec<Vec<M::Vector>> = Vec::new();
        for step in steps {
            let first = At::new(self.nest.pointers.weights).plus(step * vectors * bytes);
            let weights: Vec<M::Vector> = (0..vectors).map(|v| m.weights(first.plus(v * bytes))).collect();
            for (pixel, offset) in self.offsets.iter().enumerate() {
                let at = At::new(self.nest.pointers.input).plus(offset + self.nest.shape.dot_depth() * step);
                let activations = m.broadcast(at);
                match sums.get(pixel) {
                    None => sums.push(weights.iter().map(|&w| m.pair_products(activations, w)).collect()),
                    Some(sums) => {
                        sums.iter().zip(&weights).for_each(|(&s, &w)| m.add_pair_products(s, activations, w));
                    }
                }
                m.release(activations);
            }
            weights.into_iter().for_each(|weights| m.release(weights));
        }
        sums
    }

    /// Sums of 16 bits to sums of 32, with the partial sums in memory or, if there are none, with the biases.
    fn widen<M: Machine<Pointer = P>>(&self, m: &mut M, sums: &[Vec<M::Vector>], in_memory: bool) {
        for (pixel, sums) in sums.iter().enumerate() {
            for (vector, &sums) in sums.iter().enumerate() {
                let term = if in_memory { self.partial_sum(m, pixel, vector) } else { self.bias(vector) };
                m.widen_and_add(sums, term);
            }
        }
    }

    /// Adds sums of 16 bits to the partial sums, and releases them.
    fn add_to_memory<M: Machine<Pointer = P>>(&self, m: &mut M, sums: Vec<Vec<M::Vector>>) {
        for (pixel, sums) in sums.into_iter().enumerate() {
            for (vector, sums) in sums.into_iter().enumerate() {
                let at = self.partial_sum(m, pixel, vector);
                m.widen_and_add(sums, at);
                m.store(sums, at);
                m.release(sums);
            }
        }
    }

    /// The partial sums as a tile.
    fn load<M: Machine<Pointer = P>>(&self, m: &mut M) -> Vec<Vec<M::Vector>> {
        let load = |m: &mut M, pixel, vector| {
            let from = self.partial_sum(m, pixel, vector);
            m.load(from)
        };
        (0..self.offsets.len()).map(|pixel| (0..self.panel.vectors).map(|v| load(m, pixel, v)).collect()).collect()
    }
}
