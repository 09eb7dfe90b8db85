//! The microkernels of convolutions and matrix products.
//!
//! ```text
//! spec (what is computed) --tiling (register tiles)--> plan (the microkernel) --pack, codes, emit--> operands, code
//! ```

pub mod codes;
mod emit;
mod emit_i16_sums;
pub mod fast_inner;
pub mod i16_sums;
mod pack;
mod plan;
mod spec;
mod tiling;

pub use emit::{emit_clif, machine_code, signature};
pub use plan::Microkernel;
pub(crate) use spec::fits_shift;
pub use spec::{MAX_CHANNELS, MEASURED_STEP, MicrokernelSpec, Output, Residual};
pub use tiling::{Panel, Tiles};
