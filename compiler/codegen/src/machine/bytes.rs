//! What the vector machine can do with bytes beside products: the operations of steps that treat each element, or each
//! channel, for itself.
//!
//! A vector holds `4 * lanes` bytes. Widened to 32 bits they take four vectors, in the order that narrowing undoes: byte
//! `4 * (4 * (lane / 4) + vector) + lane % 4` is in lane `lane` of vector `vector`, which is
//! [`VectorShape::channel`](super::VectorShape::channel) for four vectors. Constants that meet widened bytes are stored in that order.
//!
//! A machine has one *tail*: a number of leading bytes. Loads and stores marked as a tail touch no byte beyond it.

use qcc_num::affine::Affine;

use super::vector_machine::{At, Machine};

/// Which bytes of a vector a load or a store touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// All.
    Full,
    /// Those of the tail that was set last; a load gives zero for the others.
    Tail,
}

/// The operations on bytes.
pub trait ByteMachine: Machine {
    /// Sets the tail. It lasts until it is set again.
    fn set_tail(&mut self, bytes: usize);
    /// A vector of bytes from memory.
    fn load_bytes(&mut self, at: At<Self::Pointer>, span: Span) -> Self::Vector;
    /// The 16 bytes of a 128-bit part, in every part. They may be read as late as they are looked up.
    fn load_part(&mut self, at: At<Self::Pointer>) -> Self::Vector;
    /// Stores a vector of bytes and releases it.
    fn store_bytes(&mut self, vector: Self::Vector, at: At<Self::Pointer>, span: Span);
    /// `byte` in every byte.
    fn splat_byte(&mut self, byte: u8) -> Self::Vector;
    /// `acc := max(acc, term)` of unsigned bytes.
    fn max_bytes(&mut self, acc: Self::Vector, term: Self::Vector);
    /// `acc := min(acc, term)` of unsigned bytes.
    fn min_bytes(&mut self, acc: Self::Vector, term: Self::Vector);

    /// Up to [`VectorShape::dot_depth`](super::VectorShape::dot_depth) vectors of bytes as four vectors of lanes, each a factor of a dot: a lane
    /// holds one byte of each operand in turn, zero for absent ones, in the order of widened bytes. Releases the operands.
    fn interleave(&mut self, operands: &[Self::Vector]) -> [Self::Vector; 4];
    /// Up to two vectors of bytes as four vectors of pairs of 16-bit numbers, less a constant each, in the order of
    /// widened bytes: the first operand is the low half. An absent second is zero. Releases the operands.
    fn widen_pairs(&mut self, operands: &[(Self::Vector, u8)]) -> [Self::Vector; 4];
    /// [`Machine::dot`] with weights from memory.
    fn dot_at(&mut self, acc: Self::Vector, activations: Self::Vector, weights: At<Self::Pointer>);
    /// In each lane a term from memory plus two products, of the signed 16-bit halves of `pairs` and of those at `factors`.
    /// Releases the pairs.
    fn dot_pairs(&mut self, pairs: Self::Vector, factors: At<Self::Pointer>, term: At<Self::Pointer>) -> Self::Vector;
    /// The two products alone, into `pairs`, with factors in a register.
    fn multiply_pairs(&mut self, pairs: Self::Vector, factors: Self::Vector);
    /// Equation (5) of [`qcc_num::affine`] on sums that contain the offset, without the clamp: to a vector of bytes. Releases the sums.
    fn narrow(&mut self, sums: [Self::Vector; 4], rule: &Affine) -> Self::Vector;
    /// Looks up each byte in a table of 256, given as its sixteen parts from [`ByteMachine::load_part`]. Releases the bytes.
    fn look_up(&mut self, bytes: Self::Vector, table: &[Self::Vector; 16]) -> Self::Vector;
}
