//! The operations of a vector machine.

use qcc_num::requant::Epilogue;

use super::shape::VectorShape;

/// An address: a pointer and a constant displacement in bytes.
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

    /// This address, `bytes` further on.
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
    pub offsets: &'a [usize],
}

impl<P: Copy> Pixels<'_, P> {
    /// Pixel `index`.
    pub fn at(&self, index: usize) -> At<P> {
        self.first.plus(self.offsets[index])
    }
}

/// Operands of [`Machine::requantize`].
#[derive(Debug, Clone)]
pub struct Requantize<'a, P> {
    /// The rule.
    pub epilogue: Epilogue,
    /// Whether no accumulator leaves 32 bits when shifted left by `epilogue.shl`, so that the plain shift will do.
    pub fits_shift: bool,
    /// Multipliers, one per lane of each vector of the tile, [`VectorShape::multiplier_copies`] times.
    pub mult: At<P>,
    /// Where the results go, one byte a channel.
    pub output: Pixels<'a, P>,
    /// Bytes to add, and their multiplier `R`.
    pub residual: Option<(Pixels<'a, P>, u16)>,
    /// Channels that exist; lanes beyond them are neither loaded nor stored.
    pub channels: usize,
}

const NO_FAST_INNER: &str = "the machine has no fast inner products";

/// Body of a loop.
pub type Body<'a, M> = &'a mut dyn FnMut(&mut M);

/// The operations. Loads and stores need no alignment.
pub trait Machine {
    /// A vector register.
    type Vector: Copy;
    /// A pointer held in a register.
    type Pointer: Copy;

    /// The numbers of this machine.
    fn shape(&self) -> VectorShape;

    /// Argument `index` of the function, a pointer.
    fn argument(&mut self, index: usize) -> Self::Pointer;
    /// Gets the constants of the rule, and the multiplier of a residual, ready for every [`Machine::requantize`] of the
    /// function: once, before its loops.
    fn prepare(&mut self, _rule: &Epilogue, _residual: Option<u16>) {}
    /// Hints that the cache line at `at`, where nothing need be, is wanted in the second-level cache soon.
    fn prefetch(&mut self, at: At<Self::Pointer>);
    /// Adds `bytes` to a pointer.
    fn advance(&mut self, pointer: Self::Pointer, bytes: i64);

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
    /// Announces that the next broadcasts are of the `bytes` bytes at each of these addresses, at most
    /// [`VectorShape::unroll`] steps of them.
    fn stage(&mut self, _addresses: &[At<Self::Pointer>], _bytes: usize) {}
    /// The same of weights that are stored as bytes, whatever a dot takes. For these there is a register.
    fn weights_of_bytes(&mut self, at: At<Self::Pointer>) -> Self::Vector {
        self.weights(at)
    }
    /// Keeps the 16 values of codes at `table`, and what else decoding takes, in registers until [`Machine::end_codes`].
    fn begin_codes(&mut self, table: At<Self::Pointer>);
    /// See [`Machine::begin_codes`].
    fn end_codes(&mut self);
    /// Two vectors of bytes: what the codes in the low and in the high halves of the bytes at `at` stand for.
    fn decoded_bytes(&mut self, at: At<Self::Pointer>) -> [Self::Vector; 2];
    /// The same as factors of [`Machine::dot`]: of as many weights each as a factor has.
    fn decoded_weights(&mut self, at: At<Self::Pointer>) -> [Self::Vector; 2] {
        self.decoded_bytes(at)
    }
    /// The activations of a step from memory in every lane, as a factor of [`Machine::dot`].
    fn broadcast(&mut self, at: At<Self::Pointer>) -> Self::Vector;
    /// `value` in every lane.
    fn splat(&mut self, value: i32) -> Self::Vector;
    /// The 32-bit number in memory in every lane.
    fn splat_at(&mut self, at: At<Self::Pointer>) -> Self::Vector;
    /// `acc += unsigned activations . signed weights`, [`VectorShape::dot_depth`] products a lane, wrapping.
    fn dot(&mut self, acc: Self::Vector, activations: Self::Vector, weights: Self::Vector);
    /// `acc += (a + w') . (a' + w)`, two products a lane of signed 16-bit numbers, for activations `[a, a']` and weights `[w, w']`: but for `a . a' + w . w'` the
    /// same as `a . w + a' . w'`. No sum of an activation and a weight leaves 16 bits. With fast inner products only, as the next two.
    fn fast_dot(&mut self, _acc: Self::Vector, _activations: [Self::Vector; 2], _weights: [Self::Vector; 2]) {
        unreachable!("{NO_FAST_INNER}")
    }
    /// `acc += a . a'` for each lane `a` of an even number and its neighbour `a'`, of two 16-bit numbers each.
    fn neighbour_products(&mut self, _acc: Self::Vector, _activations: Self::Vector) {
        unreachable!("{NO_FAST_INNER}")
    }
    /// Stores the negative sum of the lanes, and releases them.
    fn store_negative_sum(&mut self, _lanes: Self::Vector, _at: At<Self::Pointer>) {
        unreachable!("{NO_FAST_INNER}")
    }
    /// Products of the activations and weights of a step, summed in pairs: 16-bit lanes. With [`VectorShape::max_i16_steps`] only.
    fn pair_products(&mut self, _activations: Self::Vector, _weights: Self::Vector) -> Self::Vector {
        unreachable!("the shape has no sums of 16 bits")
    }
    /// `sums += ` these, in 16 bits. With [`VectorShape::max_i16_steps`] only.
    fn add_pair_products(&mut self, _sums: Self::Vector, _activations: Self::Vector, _weights: Self::Vector) {
        unreachable!("the shape has no sums of 16 bits")
    }
    /// Neighbouring 16-bit lanes added up to lanes of 32 bits, plus the vector at `at`. With [`VectorShape::max_i16_steps`] only.
    fn widen_and_add(&mut self, _sums: Self::Vector, _at: At<Self::Pointer>) {
        unreachable!("the shape has no sums of 16 bits")
    }
    /// Memory of the function for a vector for each accumulator of a tile. With [`VectorShape::max_i16_steps`] only.
    fn partial_sum(&self, _index: usize) -> At<Self::Pointer> {
        unreachable!("the shape has no sums of 16 bits")
    }
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
