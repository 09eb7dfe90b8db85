//! The kernel that multiplies transformed tiles with transformed weights, each position for itself.
//!
//! ```text
//! to[position][tile][channel] = sum over c of from[position][tile][c] * weights[position][c][channel]     modulo 2^32
//! ```
//! The function, in the System V convention: `fn(from: *const i16, weights: *const i16, to: *mut i32, terms: *const i32, weights: *const i16)`, the last two for fast inner products only. A panel of up to four vectors of output
//! channels is cut into parts, the tiles into register tiles of heights that differ by one.
//!
//! In **fast inner products** ([`crate::kernel::microkernel::fast_inner`]) two pairs of input channels are multiplied at once: `terms` are those of the activations,
//! `[position][tile]`, as [`super::TermsSpec`] sums them up; those of the weights lie in front of each position's.

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
    /// Whether they are fast inner products.
    pub fast_inner: bool,
}

/// Registers beside accumulators and weights: a broadcast, and products where there is no sum with them; two of each in fast inner products.
const SCRATCH: usize = 2;

/// Most tiles of a register tile with so many vectors.
fn highest(shape: &VectorShape, vectors: usize, fast_inner: bool) -> usize {
    let factors = if fast_inner { 2 } else { 1 };
    ((shape.registers - factors * (SCRATCH + vectors)) / vectors).max(1)
}

/// The parts of a panel of so many vectors: as wide as gives the most products for a load.
pub fn parts(shape: &VectorShape, vectors: usize, fast_inner: bool) -> Vec<usize> {
    let products_a_load = |&width: &usize| {
        let height = highest(shape, width, fast_inner);
        (1000 * height * width / (height + width), width)
    };
    let fits = |&width: &usize| !fast_inner || 2 * (SCRATCH + width) < shape.registers - width;
    let width = (1..=vectors).filter(fits).max_by_key(products_a_load).unwrap_or(1);
    let count = vectors.div_ceil(width);
    (0..count).map(|part| vectors / count + usize::from(part < vectors % count)).collect()
}

/// The heights of register tiles of a part, with their numbers.
pub fn tile_heights(shape: &VectorShape, tiles: usize, vectors: usize, fast_inner: bool) -> Vec<(usize, usize)> {
    let count = tiles.div_ceil(highest(shape, vectors, fast_inner));
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
    /// The terms of tiles and those of weights.
    terms: Option<[P; 2]>,
}

impl ProductSpec {
    /// Bytes of a tile at a position of the transformed activations.
    fn tile_bytes(&self) -> usize {
        LANE * self.pairs
    }

    pub(super) fn emit_loops<M: TileMachine>(&self, m: &mut M) {
        // The terms of weights are read from the fifth argument's register, which begins where the weights do.
        let terms = self.fast_inner.then(|| [m.argument(3), m.argument(4)]);
        let pointers = Pointers { from: m.argument(0), weights: m.argument(1), to: m.argument(2), terms };
        let shape = m.shape();
        let vector = LANE * shape.lanes;
        let terms_of_weights = if self.fast_inner { self.vectors * vector } else { 0 };
        m.repeat(self.positions, &mut |m| {
            m.advance(pointers.weights, terms_of_weights as i64);
            for part in parts(&shape, self.vectors, self.fast_inner) {
                for (count, height) in tile_heights(&shape, self.tiles, part, self.fast_inner) {
                    m.repeat(count, &mut |m| {
                        self.register_tile(m, &pointers, height, part);
                        m.advance(pointers.from, (height * self.tile_bytes()) as i64);
                        m.advance(pointers.to, (height * self.vectors * vector) as i64);
                        pointers.terms.iter().for_each(|[terms, _]| m.advance(*terms, (height * LANE) as i64));
                    });
                }
                m.advance(pointers.weights, (self.pairs * part * vector) as i64);
                m.advance(pointers.from, -((self.tiles * self.tile_bytes()) as i64));
                m.advance(pointers.to, (part * vector) as i64 - (self.tiles * self.vectors * vector) as i64);
                if let Some([terms, of_weights]) = pointers.terms {
                    m.advance(terms, -((self.tiles * LANE) as i64));
                    m.advance(of_weights, (part * vector) as i64);
                }
            }
            m.advance(pointers.from, self.from_step as i64);
            m.advance(pointers.to, self.to_step as i64 - (self.vectors * vector) as i64);
            if let Some([terms, of_weights]) = pointers.terms {
                m.advance(terms, (self.tiles * LANE) as i64);
                m.advance(of_weights, (self.pairs * self.vectors * vector) as i64);
            }
        });
    }

    /// What the accumulators of a register tile begin with.
    fn beginnings<M: TileMachine>(
        &self,
        m: &mut M,
        p: &Pointers<M::Pointer>,
        height: usize,
        part: usize,
    ) -> Vec<Vec<M::Vector>> {
        let vector = LANE * m.shape().lanes;
        let Some([terms, of_weights]) = p.terms else {
            return (0..height).map(|_| (0..part).map(|_| m.splat(0)).collect()).collect();
        };
        let of_tile = |tile: usize| {
            let row: Vec<M::Vector> = (0..part).map(|v| m.load(At::new(of_weights).plus(v * vector))).collect();
            let term = m.splat_at(At::new(terms).plus(tile * LANE));
            row.iter().for_each(|&acc| m.add(acc, term));
            m.release(term);
            row
        };
        (0..height).map(of_tile).collect()
    }

    /// So many pairs of input channels, one after another or two at once.
    fn pairs<M: TileMachine>(&self, m: &mut M, p: &Pointers<M::Pointer>, tile: &[Vec<M::Vector>], pairs: usize) {
        let (part, vector) = (tile[0].len(), LANE * m.shape().lanes);
        let weights_at = |pair: usize, v: usize| At::new(p.weights).plus((pair * part + v) * vector);
        let activations_at = |tile: usize, pair: usize| At::new(p.from).plus(tile * self.tile_bytes() + pair * LANE);
        let step = if self.fast_inner { 2 } else { 1 };
        for pair in (0..pairs).step_by(step) {
            let both = |pair: usize| pair..pair + step;
            let weights: Vec<Vec<M::Vector>> =
                (0..part).map(|v| both(pair).map(|pair| m.load(weights_at(pair, v))).collect()).collect();
            for (index, accumulators) in tile.iter().enumerate() {
                let activations: Vec<M::Vector> =
                    both(pair).map(|pair| m.splat_at(activations_at(index, pair))).collect();
                for (&acc, weights) in accumulators.iter().zip(&weights) {
                    match (&activations[..], &weights[..]) {
                        (&[a, b], &[w, v]) => m.fast_dot(acc, [a, b], [w, v]),
                        _ => m.dot_i16(acc, activations[0], weights[0]),
                    }
                }
                activations.into_iter().for_each(|activations| m.release(activations));
            }
            weights.into_iter().flatten().for_each(|weights| m.release(weights));
        }
    }

    /// One register tile; pointers end where they began.
    fn register_tile<M: TileMachine>(&self, m: &mut M, p: &Pointers<M::Pointer>, height: usize, part: usize) {
        let (lanes, unroll) = (m.shape().lanes, m.shape().lanes);
        let vector = LANE * lanes;
        let tile = self.beginnings(m, p, height, part);
        let bodies = self.pairs / unroll;
        m.repeat(bodies, &mut |m| {
            self.pairs(m, p, &tile, unroll);
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
