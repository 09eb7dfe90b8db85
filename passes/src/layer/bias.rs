//! Biases as integers, in units of the sums that they are added to: `Sx * Sw[c]` (Jacob et al. 2018, section 2.4).

use std::sync::Arc;

use qcc_ir::{Data, Elem, Tensor, Uniform, format};
use qcc_num::convert::{nearest_f32, nearest_i32, nearest_i64};
use qcc_num::wide;

/// Greatest accumulator that a bias may take up by itself.
pub const GREATEST_BIAS: f64 = (1u32 << 29) as f64;

/// A bias in units of the accumulators.
pub fn bias_32(bias: &[f32], sx: f64, scales: &[f32]) -> (Tensor, Elem) {
    let steps: Vec<f32> = scales.iter().map(|&s| nearest_f32(sx * f64::from(s)).max(f32::MIN_POSITIVE)).collect();
    let code = |(&b, &s): (&f32, &f32)| {
        nearest_i32((f64::from(b) / f64::from(s)).clamp(-2.0 * GREATEST_BIAS, 2.0 * GREATEST_BIAS))
    };
    let codes = bias.iter().zip(&steps).map(code).collect();
    let uniform = Uniform::per_axis(&format::I32, 0, steps);
    (Tensor::new(&[bias.len()], Data::I32(codes)), Elem::Uniform(Arc::new(uniform)))
}

/// A bias in units of sums of 64 bits.
pub fn bias_64(bias: &[f32], sx: f64, scales: &[f32]) -> (Tensor, Elem) {
    let (_, elem) = bias_32(&vec![0.0; bias.len()], sx, scales);
    let Elem::Uniform(uniform) = elem else { unreachable!("a quantized bias has a quantized type") };
    let bound = wide::GREATEST_BIAS as f64 / 2.0;
    let code = |(&b, &s): (&f32, &f32)| nearest_i64((f64::from(b) / f64::from(s)).clamp(-bound, bound));
    let codes = bias.iter().zip(&uniform.scales).map(code).collect();
    let uniform = Uniform { format: format::I64.clone(), ..(*uniform).clone() };
    (Tensor::new(&[bias.len()], Data::I64(codes)), Elem::Uniform(Arc::new(uniform)))
}
