//! Exact integer arithmetic: the rules that the interpreter defines integer operators with and that every kernel must
//! reproduce bit for bit.
//!
//! The rules, each with a single rounding at its end:
//!
//! | rule | used by | module |
//! |---|---|---|
//! | 32-bit accumulator to 8 bits, one multiplier per channel, optional residual term | convolution, matrix product, pooling, product | [`requant`] |
//! | the same as floats of single precision give it, for models that were quantized elsewhere | as above | [`requant_f32`] |
//! | sum of 8-bit values times 16-bit multipliers | addition, change of scale, per-channel scale-and-shift | [`affine`] |
//! | a row of 8-bit values to mean 0 and deviation 1, times and plus a constant each | layer, group and instance normalization | [`norm`] |
//! | 32-bit accumulator to 8 bits in a scale that follows from the accumulators themselves | the mode `int8_dynamic` | [`dynamic`] |
//! | sum of 64 bits to 8 or 16 bits | whatever has 16 bits on either side | [`wide`] |
//! | float to 8 bits and back, at the edge of a compiled model only | `run_f32`, `quant.qcast`, `quant.dcast` | [`edge`] |
//!
//! Beside them stands [`random`], the generator of synthesized samples and of tests. [`mod@format`] has the number formats: which
//! integers stand for real numbers. The crate depends on nothing.

#![cfg_attr(not(test), deny(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap))]

pub mod affine;
pub mod convert;
pub mod curve;
pub mod dynamic;
pub mod edge;
pub mod fixed;
pub mod format;
pub mod norm;
pub mod random;
pub mod requant;
pub mod requant_f32;
pub mod storage;
pub mod wide;

/// A real scale factor that has no integer representation under the rule it was asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScaleError {
    /// The factor.
    pub scale: f64,
    /// The largest factor that the rule can represent.
    pub limit: f64,
}

impl std::fmt::Display for ScaleError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "scale factor {:?} is not in (0, {:?})", self.scale, self.limit)
    }
}

impl std::error::Error for ScaleError {}
