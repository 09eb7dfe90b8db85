//! The kernel that multiplies transformed tiles with transformed weights, each position for itself.
//!
//! ```text
//! to[position][tile][channel] = sum over c of from[position][tile][c] * weights[position][c][channel]     modulo 2^32
//! ```
//! The function, in the System V convention: `fn(from: *const i16, weights: *const i16, to: *mut i32)`. A panel of up to four vectors of output
//! channels is cut into parts, the tiles into register tiles of heights that differ by one.

use crate::kernel::assemble::Emit;
use crate::machine::bytes::ByteMachine;
use crate::machine::tiles::{LANE, TileMachine};
use crate::machine::{At, VectorShape};

/// A kernel.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ProductSpec {
    /// Positions of a tile.
    pub positions: usize,
    /// Tiles.
    pub tiles: usize,
    /// Pairs of input channels, a multiple of the lanes of a vector.
    pub pairs: usize,
    /// Vectors of output channels.
    pub vectors: usize,
    /// From position to position of the transformed activations; tiles lie side by side.
    pub from_step: usize,
    /// From position to position of the products; tiles lie side by side.
    pub to_step: usize,
}

/// Registers beside accumulators and weights: a broadcast, and products where there is no sum with them.
const SCRATCH: usize = 2;

/// Most tiles of a register tile with so many vectors.
fn highest(shape: &VectorShape, vectors: usize) -> usize {
    ((shape.registers - SCRATCH - vectors) / vectors).max(1)
}

/// The parts of a panel of so many vectors: as wide as gives the most products for a load.
pub fn parts(shape: &VectorShape, vectors: usize) -> Vec<usize> {
    let products_a_load = |&width: &usize| {
        let height = highest(shape, width);
        (1000 * height * width / (height + width), width)
    };
    let width = (1..=vectors).max_by_key(products_a_load).unwrap_or(1);
    let count = vectors.div_ceil(width);
    (0..count).map(|part| vectors / count + usize::from(part < vectors % count)).collect()
}

/// The heights of register tiles of a part, with their numbers.
pub fn tile_heights(shape: &VectorShape, tiles: usize, vectors: usize) -> Vec<(usize, usize)> {
    let count = tiles.div_ceil(highest(shape, vectors));
    let (height, higher) = (tiles / count, tiles % count);
    [(higher, height + 1), (count - higher, height)].into_iter().filter(|&(count, _)| count > 0).collect()
}

impl Emit for ProductSpec {
    fn emit<M: ByteMachine + TileMachine>(&self, m: &mut M) {
        self.emit_loops(m);
    }
}

/// The function's arguments.
struct Pointers<P> {
    from: P,
    weights: P,
    to: P,
}

impl ProductSpec {
    /// Bytes of a tile at a position of the transformed activations.
    fn tile_bytes(&self) -> usize {
        LANE * self.pairs
    }

    pub(super) fn emit_loops<M: TileMachine>(&self, m: &mut M) {
        let pointers = Pointers { from: m.argument(0), weights: m.argument(1), to: m.argument(2) };
        let shape = m.shape();
        let vector = LANE * shape.lanes;
        m.repeat(self.positions, &mut |m| {
            for part in parts(&shape, self.vectors) {
                for (count, height) in tile_heights(&shape, self.tiles, part) {
                    m.repeat(count, &mut |m| {
                        self.register_tile(m, &pointers, height, part);
                        m.advance(pointers.from, (height * self.tile_bytes()) as i64);
                        m.advance(pointers.to, (height * self.vectors * vector) as i64);
                    });
                }
                m.advance(pointers.weights, (self.pairs * part * vector) as i64);
                m.advance(pointers.from, -((self.tiles * self.tile_bytes()) as i64));
                m.advance(pointers.to, (part * vector) as i64 - (self.tiles * self.vectors * vector) as i64);
            }
            m.advance(pointers.from, self.from_step as i64);
            m.advance(pointers.to, self.to_step as i64 - (self.vectors * vector) as i64);
        });
    }

    /// One register tile; pointers end where they began.
    fn register_tile<M: TileMachine>(&self, m: &mut M, p: &Pointers<M::Pointer>, height: usize, part: usize) {
        let (lanes, unroll) = (m.shape().lanes, m.shape().lanes);
        let vector = LANE * lanes;
        let tile: Vec<Vec<M::Vector>> = (0..height).map(|_| (0..part).map(|_| m.splat(0)).collect()).collect();
        let bodies = self.pairs / unroll;
        m.repeat(bodies, &mut |m| {
            for pair in 0..unroll {
                let at = |v: usize| At::new(p.weights).plus((pair * part + v) * vector);
                let weights: Vec<M::Vector> = (0..part).map(|v| m.load(at(v))).collect();
                for (index, accumulators) in tile.iter().enumerate() {
                    let activations = m.splat_at(At::new(p.from).plus(index * self.tile_bytes() + pair * LANE));
                    for (&acc, &weights) in accumulators.iter().zip(&weights) {
                        m.dot_i16(acc, activations, weights);
                    }
                    m.release(activations);
                }
                weights.into_iter().for_each(|weights| m.release(weights));
            }
            m.advance(p.from, (unroll * LANE) as i64);
            m.advance(p.weights, (unroll * part * vector) as i64);
        });
        m.advance(p.from, -((bodies * unroll * LANE) as i64));
        m.advance(p.weights, -((bodies * unroll * part * vector) as i64));
        for (index, accumulators) in tile.into_iter().enumerate() {
            for (v, acc) in accumulators.into_iter().enumerate() {
                m.store(acc, At::new(p.to).plus((index * self.vectors + v) * vector));
                m.release(acc);
            }
        }
    }
}
