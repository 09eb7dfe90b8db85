//! Nothing but dots on registers: what the machine can do at most, measured in the same run as the kernels.
//!
//! Where products are summed in 16 bits it is these sums alone, as of steps without end.
//!
//! The function is `fn(iterations: usize)`. It reads no memory.

use cranelift_codegen::ir::{AbiParam, Function, Signature};
use cranelift_codegen::isa::TargetFrontendConfig;
use cranelift_frontend::FunctionBuilderContext;

use super::assemble::{self, Emit, KernelError};
use crate::machine::bytes::ByteMachine;
use crate::machine::{Clif, Machine, VectorShape};
use crate::target::Backend;

/// Dots of one accumulator in an iteration.
const ROUNDS: usize = 4;

/// Multiplications of one iteration.
pub const fn macs_per_iteration(shape: &VectorShape) -> u64 {
    (ROUNDS * shape.accumulators * shape.lanes * shape.dot_depth()) as u64
}

/// The loop as machine code; nothing where Cranelift makes it.
pub fn machine_code(backend: Backend) -> Result<Option<Vec<u8>>, KernelError> {
    assemble::machine_code(&Peak, backend)
}

struct Peak;

impl Emit for Peak {
    fn emit<M: ByteMachine>(&self, m: &mut M) {
        emit(m);
    }
}

/// The loop as CLIF.
pub fn emit_clif(config: TargetFrontendConfig, context: &mut FunctionBuilderContext) -> Function {
    let mut signature = Signature::new(config.default_call_conv);
    signature.params.push(AbiParam::new(config.pointer_type()));
    let mut function = Function::with_name_signature(Default::default(), signature);
    let mut machine = Clif::new(&mut function, context, config);
    emit(&mut machine);
    machine.finish();
    function
}

fn emit<M: Machine>(m: &mut M) {
    let activations = m.splat(0x0102_0304);
    let weights = m.splat(0x0403_0201);
    // Different starts, lest equal accumulators be computed once.
    let accumulators: Vec<M::Vector> = (0..m.shape().accumulators).map(|index| m.splat(index as i32)).collect();
    m.repeat_argument(0, &mut |m| {
        for _ in 0..ROUNDS {
            match m.shape().max_i16_steps {
                0 => accumulators.iter().for_each(|&acc| m.dot(acc, activations, weights)),
                _ => accumulators.iter().for_each(|&acc| m.add_pair_products(acc, activations, weights)),
            }
        }
    });
    accumulators.into_iter().for_each(|acc| m.keep(acc));
    m.release(activations);
    m.release(weights);
}
