//! The small vector machine against which every kernel is described once.
//!
//! A kernel sees vectors of `lanes` 32-bit integers, pointers with constant displacements, counted loops, and a dozen
//! operations of which two carry the weight: [`Machine::dot`], four products of an unsigned activation byte and a
//! signed weight byte (or two products of words) added to each lane, and [`Machine::requantize`], which turns a register tile of accumulators into
//! stored bytes by the rule of [`qcc_num::requant`]. Nothing in it knows how wide a register is or how many there are:
//! those are the numbers of a [`Shape`].
//!
//! ```text
//! kernel description --(Machine)--> Avx512   machine code bytes, 16 lanes, 32 registers
//!                                   Avx2     machine code bytes,  8 lanes, 16 registers; dots of words, or of AVX-VNNI
//!                                   Clif     Cranelift IR,        4 lanes, 16 registers, any target
//! ```
//!
//! Vectors are registers with a place of their own: an operation that takes one as its accumulator changes it, and
//! [`Machine::release`] gives it back. In CLIF they are frontend variables, so that loops need no block parameters by
//! hand; in machine code they are register numbers.

mod avx2;
mod avx2_bytes;
mod avx2_epilogue;
mod avx2_parts;
mod avx2_single;
mod avx512;
mod avx512_bytes;
mod avx512_epilogue;
mod avx512_lanes;
mod avx512_single;
pub mod bytes;
mod clif;
mod clif_epilogue;
mod code;
pub(crate) mod float;

pub use avx2::{Avx2, Dot};
pub use avx512::Avx512;
pub use clif::Clif;

use qcc_num::requant::Epilogue;

/// What a kernel has to know of a machine in order to choose its register tile and the layout of its weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    /// 32-bit lanes of one vector.
    pub lanes: usize,
    /// Vector registers.
    pub registers: usize,
    /// Most accumulators of a tile: what [`Machine::requantize`] leaves itself to work with.
    pub accumulators: usize,
    /// The same for tiles of fewer than [`Shape::vectors`].
    pub accumulators_of_fewer: usize,
    /// Bytes of a packed weight, and of an activation when it is multiplied: see [`Shape::step`].
    pub weight_bytes: usize,
    /// Registers that a step needs beside its accumulators, and whether it holds its weights in registers as well.
    pub beside: usize,
    /// See [`Shape::beside`].
    pub holds_weights: bool,
    /// Dots that must be independent of each other to keep the multipliers busy: latency times dots a cycle.
    pub in_flight: usize,
    /// Time of one broadcast, in that of a dot; broadcasts keep other ports busy than dots do.
    pub broadcast: usize,
    /// Time to requantize and store one vector of accumulators, in that of a dot, where a pixel has one to four of them.
    pub epilogue: [usize; 4],
    /// Most vectors side by side in a tile: what one group of [`Machine::requantize`] narrows at once.
    pub vectors: usize,
    /// Steps of the reduction in one loop body.
    pub unroll: usize,
    /// Whether multipliers are stored twice, see [`Shape::multiplier_copies`].
    pub paired_multipliers: bool,
}

impl Shape {
    /// AVX-512 with VNNI: Ice Lake, Sapphire Rapids (two dots a cycle), Zen 4 and later.
    pub const AVX512: Shape = Shape {
        lanes: 16,
        registers: 32,
        accumulators: 28,
        accumulators_of_fewer: 28,
        weight_bytes: 1,
        beside: 1,
        holds_weights: true,
        in_flight: 10,
        broadcast: 1,
        epilogue: [8, 8, 8, 6],
        vectors: 4,
        unroll: 8,
        paired_multipliers: true,
    };

    /// AVX2. A dot is a multiplication and an addition, of which only the additions wait for each other. Weights are in
    /// registers as far as these reach.
    pub const AVX2: Shape = Shape {
        lanes: 8,
        registers: 16,
        accumulators: 12,
        accumulators_of_fewer: 12,
        weight_bytes: 2,
        beside: 2,
        holds_weights: false,
        in_flight: 2,
        broadcast: 1,
        epilogue: [8, 8, 9, 6],
        vectors: 4,
        unroll: 16,
        paired_multipliers: true,
    };

    /// AVX-VNNI: Alder Lake and later (two dots a cycle, each five cycles long), Zen 5.
    pub const AVX_VNNI: Shape = Shape {
        lanes: 8,
        registers: 16,
        accumulators: 12,
        accumulators_of_fewer: 12,
        weight_bytes: 1,
        beside: 1,
        holds_weights: true,
        in_flight: 10,
        broadcast: 1,
        epilogue: [8, 8, 9, 6],
        vectors: 4,
        unroll: 8,
        paired_multipliers: true,
    };

    /// Cranelift's 128-bit vectors. A broadcast passes through a general register there, and a longer loop body spills:
    /// the values that a block passes on are computed one after the other, each through all steps.
    pub const CLIF: Shape = Shape {
        lanes: 4,
        registers: 16,
        accumulators: 12,
        accumulators_of_fewer: 12,
        weight_bytes: 1,
        beside: 1,
        holds_weights: true,
        in_flight: 10,
        broadcast: 4,
        epilogue: [8, 8, 8, 6],
        vectors: 4,
        unroll: 1,
        paired_multipliers: false,
    };

    /// Activations of a pixel that one dot takes, and weights of a lane: four bytes or two words.
    pub const fn step(&self) -> usize {
        4 / self.weight_bytes
    }

    /// Most accumulators of a tile with `vectors` side by side.
    pub const fn most_accumulators(&self, vectors: usize) -> usize {
        let weights = if self.holds_weights { vectors } else { 0 };
        let left = self.registers - self.beside - weights;
        let most = if vectors == self.vectors { self.accumulators } else { self.accumulators_of_fewer };
        if left < most { left } else { most }
    }

    /// Most pixels of a tile with `vectors` side by side.
    pub const fn highest(&self, vectors: usize) -> usize {
        self.most_accumulators(vectors) / vectors
    }

    /// Vectors of multipliers stored for each vector of channels: 1, or 2 where 32-bit products are formed from the even
    /// lanes only and the odd lanes are wanted a second time, moved down by one.
    pub const fn multiplier_copies(&self) -> usize {
        if self.paired_multipliers { 2 } else { 1 }
    }

    /// The channel, counted from the first of `vectors` side by side, that lane `lane` of vector `vector` accumulates.
    ///
    /// ```text
    /// narrowed:  4 * (vectors * (lane / 4) + vector) + lane % 4       raw:  lanes * vector + lane
    /// ```
    /// Narrowing instructions work inside 128-bit parts and take four lanes from each source in turn; with the columns
    /// of the weights in this order their result is in natural order.
    pub const fn channel(&self, vectors: usize, vector: usize, lane: usize, narrowed: bool) -> usize {
        if narrowed { 4 * (vectors * (lane / 4) + vector) + lane % 4 } else { self.lanes * vector + lane }
    }
}

/// A place in memory: a pointer and a constant displacement in bytes.
#[derive(Debug, Clone, Copy)]
pub struct At<P> {
    /// The pointer.
    pub base: P,
    /// Bytes added to it.
    pub disp: i32,
}

impl<P: Copy> At<P> {
    /// `base` itself.
    pub const fn new(base: P) -> At<P> {
        At { base, disp: 0 }
    }

    /// This place, `bytes` further on.
    pub const fn plus(self, bytes: usize) -> At<P> {
        At { base: self.base, disp: self.disp + bytes as i32 }
    }
}

/// The pixels of a tile in memory.
#[derive(Debug, Clone, Copy)]
pub struct Pixels<'a, P> {
    /// The first pixel's first channel.
    pub first: At<P>,
    /// Bytes from the first pixel to each.
    pub apart: &'a [usize],
}

impl<P: Copy> Pixels<'_, P> {
    /// Pixel `index`.
    pub fn at(&self, index: usize) -> At<P> {
        self.first.plus(self.apart[index])
    }
}

/// Operands of [`Machine::requantize`].
#[derive(Debug, Clone)]
pub struct Requantize<'a, P> {
    /// The rule.
    pub epilogue: Epilogue,
    /// Whether no accumulator leaves 32 bits when shifted left by `epilogue.shl`, so that the plain shift will do.
    pub fits_shift: bool,
    /// Multipliers, one per lane of each vector of the tile, [`Shape::multiplier_copies`] times.
    pub mult: At<P>,
    /// Where the results go, one byte a channel.
    pub output: Pixels<'a, P>,
    /// Bytes to add, and their multiplier `R`.
    pub residual: Option<(Pixels<'a, P>, u16)>,
    /// Channels that exist; lanes beyond them are neither loaded nor stored.
    pub channels: usize,
}

/// Body of a loop.
pub type Body<'a, M> = &'a mut dyn FnMut(&mut M);

/// The operations. Loads and stores need no alignment.
pub trait Machine {
    /// A vector register.
    type Vector: Copy;
    /// A pointer held in a register.
    type Pointer: Copy;

    /// The numbers of this machine.
    fn shape(&self) -> Shape;

    /// Argument `index` of the function, a pointer.
    fn argument(&mut self, index: usize) -> Self::Pointer;
    /// Gets the constants of the rule, and the multiplier of a residual, ready for every [`Machine::requantize`] of the
    /// function: once, before its loops.
    fn prepare(&mut self, _rule: &Epilogue, _residual: Option<u16>) {}
    /// Hints that the cache line at `at`, where nothing need be, is wanted in the second-level cache soon.
    fn prefetch(&mut self, at: At<Self::Pointer>);
    /// Adds `bytes` to a pointer.
    fn step(&mut self, pointer: Self::Pointer, bytes: i64);

    /// Runs `body` `count` times, `count >= 1`; once means no loop at all.
    fn repeat(&mut self, count: usize, body: Body<'_, Self>);
    /// Runs `body` as often as argument `index` of the function says, which may be 0.
    fn repeat_argument(&mut self, index: usize, body: Body<'_, Self>);

    /// A vector loaded from memory.
    fn load(&mut self, at: At<Self::Pointer>) -> Self::Vector;
    /// The packed weights of one vector, as a factor of [`Machine::dot`].
    fn weights(&mut self, at: At<Self::Pointer>) -> Self::Vector {
        self.load(at)
    }
    /// Announces that the next broadcasts are of the `bytes` bytes at each of these places, at most
    /// [`Shape::unroll`] steps of them.
    fn stage(&mut self, _places: &[At<Self::Pointer>], _bytes: usize) {}
    /// The same of weights that are stored as bytes, whatever a dot takes. For these there is a register.
    fn weights_of_bytes(&mut self, at: At<Self::Pointer>) -> Self::Vector {
        self.weights(at)
    }
    /// The activations of a step from memory in every lane, as a factor of [`Machine::dot`].
    fn broadcast(&mut self, at: At<Self::Pointer>) -> Self::Vector;
    /// `value` in every lane.
    fn splat(&mut self, value: i32) -> Self::Vector;
    /// The 32-bit number in memory in every lane.
    fn splat_at(&mut self, at: At<Self::Pointer>) -> Self::Vector;
    /// `acc += unsigned activations . signed weights`, [`Shape::step`] products a lane, wrapping.
    fn dot(&mut self, acc: Self::Vector, activations: Self::Vector, weights: Self::Vector);
    /// `acc += term`, wrapping.
    fn add(&mut self, acc: Self::Vector, term: Self::Vector);
    /// Stores a vector.
    fn store(&mut self, vector: Self::Vector, at: At<Self::Pointer>);
    /// Ends the life of a vector.
    fn release(&mut self, vector: Self::Vector);
    /// Marks a vector as used, so that what computed it stays; then releases it.
    fn keep(&mut self, vector: Self::Vector);

    /// Requantizes `tile`, `[pixel][vector]` of accumulators, and stores bytes in natural channel order. Releases the tile.
    fn requantize(&mut self, tile: &[Vec<Self::Vector>], operands: &Requantize<'_, Self::Pointer>);
    /// Lowers the numbers at `least` and raises those at `greatest` to the extrema over the pixels of `tile`, lane by lane.
    fn extrema(&mut self, tile: &[Vec<Self::Vector>], least: At<Self::Pointer>, greatest: At<Self::Pointer>);
    /// Stores the accumulators themselves, `channels` of each pixel. Releases the tile.
    fn store_raw(&mut self, tile: &[Vec<Self::Vector>], output: Pixels<'_, Self::Pointer>, channels: usize);
}
