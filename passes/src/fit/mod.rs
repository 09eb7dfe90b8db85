//! Weights and biases fitted to what quantization does to a layer: before it by equalization, after it on the samples.

pub mod correct_bias;
pub mod equalize;
pub mod round_weights;

pub(crate) mod lockstep;

mod affine;
mod descent;
mod pair;
