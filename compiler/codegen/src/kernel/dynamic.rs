//! The kernel of `int.dynamic_requant`: equations (8) and (12) of [`qcc_num::dynamic`].
//!
//! ```text
//! for row in 0..rows, c in 0..channels:
//!     v = (acc[row * acc_step + 4 c] << left >> right) + bias[c];   max(v, 0) if rectified; min(v, ceiling[c])
//!     output[row * out_step + c] = requantize(v << a, mult[c])
//! ```
//! The function, in the System V convention: `fn(acc, params, bias, mult, output, rows)`. `params` is what `int.dynamic_scale` gives;
//! biases and multipliers of up to 64 channels stay in registers while the rows pass.

use cranelift_codegen::ir::{AbiParam, Signature};
use cranelift_codegen::isa::TargetFrontendConfig;

use super::assemble::KernelError;
use crate::machine::bytes::{ByteMachine, Span};
use crate::machine::{At, Avx512, Machine};

/// Most channels of a kernel.
pub const BLOCK: usize = 64;

/// Bytes of a 32-bit number.
const I32_BYTES: usize = 4;

/// A kernel. Equal descriptions give equal code.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DynamicSpec {
    /// Channels of the kernel.
    pub channels: usize,
    /// In the accumulators, from row to row, in bytes.
    pub acc_step: usize,
    /// In the result, from row to row.
    pub out_step: usize,
    /// Whether negative values become 0.
    pub rectify: bool,
    /// Bytes from the biases to the greatest values, if there are any.
    pub ceiling: Option<usize>,
}

/// The signature of these kernels.
pub fn signature(config: TargetFrontendConfig) -> Signature {
    let mut signature = Signature::new(config.default_call_conv);
    signature.params = vec![AbiParam::new(config.pointer_type()); 6];
    signature
}

/// The kernel as AVX-512 machine code.
pub fn emit_avx512(spec: &DynamicSpec) -> Result<Vec<u8>, KernelError> {
    if spec.channels == 0 || spec.channels > BLOCK || spec.acc_step >= 1 << 30 || spec.out_step >= 1 << 30 {
        return Err(KernelError::Spec(format!("a block of {} channels", spec.channels)));
    }
    let mut m = Avx512::new()?;
    let [acc, params, bias, mult, output] = [0, 1, 2, 3, 4].map(|i| m.argument(i));
    let lanes = m.shape().lanes;
    let vectors = spec.channels.div_ceil(lanes);
    let params = At::new(params);
    let [left, right, shl] = [2, 3, 4].map(|i| m.broadcast(params.plus(i * I32_BYTES)));
    let epilogue = qcc_num::dynamic::epilogue(spec.rectify);
    let offset = m.splat_i16(epilogue.offset);
    let order = m.natural_order();
    let zero = spec.rectify.then(|| m.splat(0));
    m.set_even_lanes();
    if !spec.channels.is_multiple_of(lanes) {
        m.set_lanes_tail(spec.channels % lanes);
    }
    if spec.channels < BLOCK {
        m.set_tail(spec.channels);
    }
    let is_tail = |v: usize| (v + 1) * lanes > spec.channels;
    let constants: Vec<_> = (0..vectors)
        .map(|v| {
            let ceiling =
                spec.ceiling.map(|c| m.load_i32_lanes(At::new(bias).plus(c + v * lanes * I32_BYTES), is_tail(v)));
            let [bias, mult] =
                [bias, mult].map(|p| m.load_i32_lanes(At::new(p).plus(v * lanes * I32_BYTES), is_tail(v)));
            (bias, mult, m.odd_lanes(mult), ceiling)
        })
        .collect();
    m.repeat_argument(5, &mut |m| {
        let mut highs = Vec::new();
        for (v, &(bias, mult, odd, ceiling)) in constants.iter().enumerate() {
            let x = m.load_i32_lanes(At::new(acc).plus(v * lanes * I32_BYTES), is_tail(v));
            m.shift_lanes(x, left, right);
            m.add(x, bias);
            if let Some(zero) = zero {
                m.max_lanes(x, zero);
            }
            if let Some(ceiling) = ceiling {
                m.min_lanes(x, ceiling);
            }
            m.shift_left_lanes(x, shl);
            highs.push(m.high_products(x, mult, odd));
        }
        let bytes = m.narrow_natural(&highs, offset, order);
        m.store_bytes(bytes, At::new(output), if spec.channels < BLOCK { Span::Tail } else { Span::Full });
        m.advance(acc, spec.acc_step as i64);
        m.advance(output, spec.out_step as i64);
    });
    Ok(m.finish()?)
}
