//! Kernels, each described once against the vector machine of [`crate::machine`].

mod assemble;
pub mod decode;
pub mod dynamic;
pub mod elementwise;
pub mod float_conversion;
pub mod microkernel;
pub mod peak;
pub mod widen;
pub mod window;
pub mod winograd;

pub use assemble::KernelError;
