//! How a description of a kernel becomes machine code, on whichever vector machine.

use thiserror::Error;

use crate::machine::bytes::ByteMachine;
use crate::machine::tiles::TileMachine;
use crate::machine::{Avx2, Avx512};
use crate::target::Backend;

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

/// What a kernel does, on whichever vector machine.
pub(super) trait Emit {
    fn emit<M: ByteMachine + TileMachine>(&self, m: &mut M);
}

/// A kernel as machine code; nothing where Cranelift makes it.
pub(super) fn machine_code(kernel: &impl Emit, backend: Backend) -> Result<Option<Vec<u8>>, KernelError> {
    Ok(match backend {
        Backend::Clif => None,
        Backend::Ymm(dot) => {
            let mut machine = Avx2::new(dot)?;
            kernel.emit(&mut machine);
            Some(machine.finish()?)
        }
        Backend::Avx512 => {
            let mut machine = Avx512::new()?;
            kernel.emit(&mut machine);
            Some(machine.finish()?)
        }
        Backend::Avx512I16Sums => {
            let mut machine = Avx512::with_i16_sums()?;
            kernel.emit(&mut machine);
            Some(machine.finish()?)
        }
    })
}
