//! Kernels, each described once against the vector machine of [`crate::machine`].

pub mod conv;
pub mod dynamic;
pub mod edge;
pub mod lanes;
mod leaf;
pub mod pack;
pub mod peak;
pub mod tiling;
pub mod window;

use thiserror::Error;

/// Why a kernel cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KernelError {
    /// The description contradicts itself or a limit.
    #[error("kernel description: {0}")]
    Spec(String),
    /// The assembler refused an instruction.
    #[error("assembler: {0}")]
    Assembler(String),
}

impl From<iced_x86::IcedError> for KernelError {
    fn from(fault: iced_x86::IcedError) -> KernelError {
        KernelError::Assembler(fault.to_string())
    }
}
