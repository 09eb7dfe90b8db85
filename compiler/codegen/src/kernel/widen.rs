//! The kernel that makes 16-bit numbers of the activations of some pixels, and their terms of a fast inner product
//! ([`crate::kernel::microkernel::fast_inner`]).
//!
//! ```text
//! to[pixel][c] = from[pixel * from_step + c]
//! terms[pixel] = - sum over steps of four channels of a0 a2 + a1 a3             modulo 2^32
//! ```
//! The function, in the System V convention: `fn(from: *const u8, to: *mut u16, terms: *mut i32, pixels: usize)`.

use cranelift_codegen::ir::{AbiParam, Signature};
use cranelift_codegen::isa::TargetFrontendConfig;

use super::assemble::{self, Emit, KernelError};
use crate::machine::At;
use crate::machine::bytes::ByteMachine;
use crate::machine::tiles::{LANE, TileMachine};
use crate::target::Backend;

/// Channels of a vector.
pub const CHANNELS: usize = 16;
/// Most vectors that are not a loop.
const UNROLL: usize = 8;

/// A kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WidenSpec {
    /// Vectors of channels of a pixel.
    pub vectors: usize,
    /// From pixel to pixel of what is read.
    pub from_step: usize,
}

/// The kernel as machine code, for machines of [`CHANNELS`] numbers of 16 bits.
pub fn machine_code(spec: &WidenSpec, backend: Backend) -> Result<Option<Vec<u8>>, KernelError> {
    if backend.shape().lanes * 2 != CHANNELS || spec.from_step >= 1 << 30 {
        return Err(KernelError::Spec(format!("{spec:?} for {backend:?}")));
    }
    assemble::machine_code(spec, backend)
}

/// The signature of all these kernels.
pub fn signature(config: TargetFrontendConfig) -> Signature {
    let mut signature = Signature::new(config.default_call_conv);
    signature.params = vec![AbiParam::new(config.pointer_type()); 4];
    signature
}

impl Emit for WidenSpec {
    fn emit<M: ByteMachine + TileMachine>(&self, m: &mut M) {
        let (from, to, terms) = (m.argument(0), m.argument(1), m.argument(2));
        let unroll = (1..=UNROLL).rev().find(|&unroll| self.vectors.is_multiple_of(unroll)).unwrap_or(1);
        m.repeat_argument(3, &mut |m| {
            let sum = m.splat(0);
            m.repeat(self.vectors / unroll, &mut |m| {
                for vector in 0..unroll {
                    let activations = m.widened_bytes(At::new(from).plus(vector * CHANNELS));
                    m.store(activations, At::new(to).plus(2 * vector * CHANNELS));
                    m.neighbour_products(sum, activations);
                    m.release(activations);
                }
                m.advance(from, (unroll * CHANNELS) as i64);
                m.advance(to, (2 * unroll * CHANNELS) as i64);
            });
            m.store_negative_sum(sum, At::new(terms));
            m.advance(terms, LANE as i64);
            m.advance(from, self.from_step as i64 - (self.vectors * CHANNELS) as i64);
        });
    }
}
