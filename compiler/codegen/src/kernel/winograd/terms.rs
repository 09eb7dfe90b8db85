//! The kernel that sums up the terms of transformed tiles for fast inner products ([`crate::kernel::microkernel::fast_inner`]).
//!
//! ```text
//! terms[position][tile] = - sum over neighbouring pairs of input channels of from[position][tile][2 q] . from[position][tile][2 q + 1]     modulo 2^32
//! ```
//! The function, in the System V convention: `fn(from: *const i16, terms: *mut i32)`.

use crate::kernel::assemble::Emit;
use crate::machine::At;
use crate::machine::bytes::ByteMachine;
use crate::machine::tiles::{LANE, TileMachine};

/// Most vectors that are not a loop.
const UNROLL: usize = 8;

/// A kernel.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TermsSpec {
    /// Positions of a tile.
    pub positions: usize,
    /// Tiles.
    pub tiles: usize,
    /// Vectors of pairs of input channels.
    pub vectors: usize,
    /// From position to position of the transformed activations; tiles lie side by side.
    pub from_step: usize,
}

impl Emit for TermsSpec {
    fn emit<M: ByteMachine + TileMachine>(&self, m: &mut M) {
        self.emit_loops(m);
    }
}

impl TermsSpec {
    pub(super) fn emit_loops<M: TileMachine>(&self, m: &mut M) {
        let (from, terms) = (m.argument(0), m.argument(1));
        let vector = LANE * m.shape().lanes;
        let unroll = (1..=UNROLL).rev().find(|&unroll| self.vectors.is_multiple_of(unroll)).unwrap_or(1);
        m.repeat(self.positions, &mut |m| {
            m.repeat(self.tiles, &mut |m| {
                let sum = m.splat(0);
                m.repeat(self.vectors / unroll, &mut |m| {
                    for index in 0..unroll {
                        let pairs = m.reload(At::new(from).plus(index * vector));
                        m.neighbour_products(sum, pairs);
                        m.release(pairs);
                    }
                    m.advance(from, (unroll * vector) as i64);
                });
                m.store_negative_sum(sum, At::new(terms));
                m.advance(terms, LANE as i64);
            });
            m.advance(from, self.from_step as i64 - (self.tiles * self.vectors * vector) as i64);
        });
    }
}
