//! The kernel that decodes weights: codes into the packed weights that microkernels read.
//!
//! The function, in the System V convention: `fn(codes: *const u8, packed: *mut u8, rounds: usize)`. At `codes` is a header
//! ([`super::microkernel::codes`]), behind it a unit of codes for each pair of vectors that is written: [`PAIRS`] in each round.

use cranelift_codegen::ir::{AbiParam, Function, Signature};
use cranelift_codegen::isa::TargetFrontendConfig;
use cranelift_frontend::FunctionBuilderContext;

use super::assemble::{self, Emit, KernelError};
use super::microkernel::codes::HEADER;
use crate::machine::bytes::ByteMachine;
use crate::machine::{At, Clif, Machine};
use crate::target::Backend;

/// Pairs of vectors that are decoded in a round.
pub const PAIRS: usize = 4;

/// A kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DecodeSpec {
    /// Whether vectors are of bytes, whatever a dot takes; else they are factors of a dot.
    pub bytes: bool,
}

/// The kernel as machine code; nothing where Cranelift makes it.
pub fn machine_code(spec: &DecodeSpec, backend: Backend) -> Result<Option<Vec<u8>>, KernelError> {
    assemble::machine_code(spec, backend)
}

/// The kernel as CLIF.
pub fn emit_clif(spec: &DecodeSpec, config: TargetFrontendConfig, context: &mut FunctionBuilderContext) -> Function {
    let mut function = Function::with_name_signature(Default::default(), signature(config));
    let mut machine = Clif::new(&mut function, context, config);
    spec.emit_loop(&mut machine);
    machine.finish();
    function
}

/// The signature of these kernels.
pub fn signature(config: TargetFrontendConfig) -> Signature {
    let mut signature = Signature::new(config.default_call_conv);
    signature.params = vec![AbiParam::new(config.pointer_type()); 3];
    signature
}

impl Emit for DecodeSpec {
    fn emit<M: ByteMachine>(&self, m: &mut M) {
        self.emit_loop(m);
    }
}

impl DecodeSpec {
    fn emit_loop<M: Machine>(&self, m: &mut M) {
        let (codes, packed) = (m.argument(0), m.argument(1));
        let vector = 4 * m.shape().lanes;
        let unit = if self.bytes { vector } else { vector / m.shape().weight_bytes };
        m.begin_codes(At::new(codes));
        m.repeat_argument(2, &mut |m| {
            for pair in 0..PAIRS {
                let at = At::new(codes).plus(HEADER + pair * unit);
                let vectors = if self.bytes { m.decoded_bytes(at) } else { m.decoded_weights(at) };
                for (i, weights) in vectors.into_iter().enumerate() {
                    m.store(weights, At::new(packed).plus((2 * pair + i) * vector));
                    m.release(weights);
                }
            }
            m.advance(codes, (PAIRS * unit) as i64);
            m.advance(packed, (2 * PAIRS * vector) as i64);
        });
        m.end_codes();
    }
}
