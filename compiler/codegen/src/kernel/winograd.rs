//! Convolutions with fewer multiplications: Winograd's minimal filtering, exactly, in integers. Equations (34) to (37) of `docs/math.md`.
//!
//! ```text
//! tile of bytes --input transform--> 16 bits, [position][tile][channel]
//!     --product of each position--> 32 bits, [position][tile][output channel], modulo 2^32
//!     --output transform, exact division--> accumulators, as a direct sum has them --> requantized or stored
//! ```
//! One kernel for each arrow: [`InputSpec`], [`ProductSpec`] with or without [`TermsSpec`], [`OutputSpec`]. Weights are transformed when they are packed ([`weights`]). What is done along
//! rows and along columns is an [`Axis`] each; both make a [`Form`].

mod axis;
mod form;
mod input;
mod output;
mod product;
mod terms;
pub mod weights;

use cranelift_codegen::ir::{AbiParam, Function, Signature};
use cranelift_codegen::isa::TargetFrontendConfig;
use cranelift_frontend::FunctionBuilderContext;

use super::assemble::{self, KernelError};
use crate::machine::Clif;
use crate::machine::tiles::LANE;
use crate::target::Backend;

pub use axis::Axis;
pub use form::Form;
pub use input::InputSpec;
pub use output::OutputSpec;
pub use product::{ProductSpec, parts, tile_heights};
pub use terms::TermsSpec;

/// A kernel. Equal descriptions give equal code.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Kernel {
    /// Transforms a tile.
    Input(InputSpec),
    /// Sums up the terms of tiles, for fast inner products only.
    Terms(TermsSpec),
    /// Multiplies tiles with weights.
    Product(ProductSpec),
    /// Transforms a tile back.
    Output(OutputSpec),
}

impl Kernel {
    /// Checks the distances in a description against what instructions can hold.
    pub fn validate(&self) -> Result<(), KernelError> {
        let spans = match self {
            Kernel::Input(spec) => vec![
                (spec.form.rows.points(), spec.row_step),
                (spec.form.columns.points(), spec.pixel_step),
                (spec.form.points(), spec.position_step),
            ],
            Kernel::Terms(spec) => vec![(spec.positions, spec.from_step)],
            Kernel::Product(spec) => vec![(spec.tiles, LANE * spec.pairs)],
            Kernel::Output(spec) => vec![
                (spec.form.points(), spec.position_step),
                (spec.form.rows.outputs(), spec.row_step),
                (spec.form.columns.outputs(), spec.pixel_step),
            ],
        };
        match spans.into_iter().find(|(count, step)| count.saturating_mul(*step) >= 1 << 29) {
            Some((count, step)) => Err(KernelError::Spec(format!("{count} x {step} bytes, expected less than 2^29"))),
            None => Ok(()),
        }
    }
}

/// Pointers that a kernel takes; those that one does not need have no meaning.
const ARGUMENTS: usize = 6;

/// The kernel as machine code; nothing where Cranelift makes it.
pub fn machine_code(kernel: &Kernel, backend: Backend) -> Result<Option<Vec<u8>>, KernelError> {
    match kernel {
        Kernel::Input(spec) => assemble::machine_code(spec, backend),
        Kernel::Terms(spec) => assemble::machine_code(spec, backend),
        Kernel::Product(spec) => assemble::machine_code(spec, backend),
        Kernel::Output(spec) => assemble::machine_code(spec, backend),
    }
}

/// The kernel as CLIF, for any target.
pub fn emit_clif(kernel: &Kernel, config: TargetFrontendConfig, context: &mut FunctionBuilderContext) -> Function {
    let mut function = Function::with_name_signature(Default::default(), signature(config));
    let mut machine = Clif::new(&mut function, context, config);
    match kernel {
        Kernel::Input(spec) => spec.emit_loops(&mut machine),
        Kernel::Terms(spec) => spec.emit_loops(&mut machine),
        Kernel::Product(spec) => spec.emit_loops(&mut machine),
        Kernel::Output(spec) => spec.emit_loops(&mut machine),
    }
    machine.finish();
    function
}

/// The signature of all these kernels.
pub fn signature(config: TargetFrontendConfig) -> Signature {
    let mut signature = Signature::new(config.default_call_conv);
    signature.params = vec![AbiParam::new(config.pointer_type()); ARGUMENTS];
    signature
}
