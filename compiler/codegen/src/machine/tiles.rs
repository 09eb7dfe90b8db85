//! What the vector machine can do with numbers of 16 and of 32 bits beside dots of bytes: the operations of transforms of tiles
//! ([`crate::kernel::winograd`]). All arithmetic wraps.

use super::vector_machine::{At, Machine};

/// Bytes of a 32-bit lane, and of a pair of 16-bit numbers.
pub const LANE: usize = 4;

/// How a vector is cut into lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lanes {
    /// Twice [`VectorShape::lanes`](super::VectorShape::lanes) numbers of 16 bits.
    I16,
    /// [`VectorShape::lanes`](super::VectorShape::lanes) numbers of 32 bits.
    I32,
}

/// The operations. Results are vectors of their own; operands stay.
pub trait TileMachine: Machine {
    /// As many unsigned bytes from memory as there are lanes of 16 bits, each in one of them.
    fn widened_bytes(&mut self, at: At<Self::Pointer>) -> Self::Vector;
    /// A vector from memory that this function, or a function before it, has written there.
    fn reload(&mut self, at: At<Self::Pointer>) -> Self::Vector;
    /// `a + b`.
    fn sum(&mut self, lanes: Lanes, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a - b`.
    fn difference(&mut self, lanes: Lanes, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a * 2^bits`.
    fn shifted_left(&mut self, lanes: Lanes, a: Self::Vector, bits: u32) -> Self::Vector;
    /// `x := x * factor` on 32-bit lanes.
    fn multiply(&mut self, x: Self::Vector, factor: Self::Vector);
    /// `x := floor(x / 2^bits)` on signed 32-bit lanes.
    fn shift_right(&mut self, x: Self::Vector, bits: u32);
    /// `acc += ` two products a lane, of signed 16-bit numbers.
    fn dot_i16(&mut self, acc: Self::Vector, activations: Self::Vector, weights: Self::Vector);
}
