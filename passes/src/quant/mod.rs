//! Quantized types: scales, casts between real and quantized, and operators that take the casts in.

pub mod adopt_qdq;
pub mod assign_scales;
pub mod cancel_qdq;
pub(crate) mod constant_operands;
pub mod fuse;
pub mod insert_qdq;
pub mod precision;
pub mod scale_rest;
pub mod sensitive_range;

pub(crate) mod decades;
mod demand;
pub(crate) mod forms;
pub(crate) mod long_sums;
pub(crate) mod low_bits;
pub(crate) mod magnitudes;
pub(crate) mod mixed;
pub(crate) mod quantize;
pub(crate) mod residual;
pub(crate) mod slopes;
pub(crate) mod states;
pub(crate) mod terms;
pub(crate) mod whole;
