//! The small vector machine against which every kernel is described once.
//!
//! A kernel sees vectors of `lanes` 32-bit integers, pointers with constant displacements, counted loops, and a dozen
//! operations of which two carry the weight: [`Machine::dot`], four products of an unsigned activation byte and a
//! signed weight byte (or two products of 16-bit numbers) added to each lane, and [`Machine::requantize`], which turns a register tile of accumulators into
//! stored bytes by the rule of [`qcc_num::requant`]. Nothing in it knows how wide a register is or how many there are:
//! those are the numbers of a [`VectorShape`].
//!
//! ```text
//! kernel description --(Machine)--> Avx512   machine code bytes, 16 lanes, 32 registers
//!                                   Avx2     machine code bytes,  8 lanes, 16 registers; dots of 16-bit pairs, or of AVX-VNNI
//!                                   Clif     Cranelift IR,        4 lanes, 16 registers, any target
//! ```
//!
//! Vectors are registers of their own: an operation that takes one as its accumulator changes it, and
//! [`Machine::release`] gives it back. In CLIF they are frontend variables, so that loops need no block parameters by
//! hand; in machine code they are register numbers.

mod avx2;
mod avx512;
pub mod bytes;
mod clif;
mod code;
pub(crate) mod float;
mod shape;
pub mod tiles;
mod vector_machine;

pub use avx2::{Avx2, Dot};
pub use avx512::Avx512;
pub use clif::Clif;
pub use shape::VectorShape;
pub use vector_machine::{At, Body, Machine, Pixels, Requantize};
