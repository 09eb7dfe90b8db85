//! Constants in quantized form.

use qcc_ir::{Data, Format, Tensor, Uniform};
use qcc_num::fixed;

/// Floats quantized by `qcc_num::edge` equation (6), per tensor.
pub(crate) fn tensor(dims: &[usize], data: &[f32], to: &Uniform) -> Tensor {
    let codes = data.iter().map(|&x| to.format.quantize(x, to.scale(), to.zero_point()));
    Tensor::new(dims, Data::integers(to.storage(), codes))
}

/// One float quantized, per tensor.
pub(crate) fn code(x: f32, to: &Uniform) -> i32 {
    fixed::sat32(to.format.quantize(x, to.scale(), to.zero_point()))
}

/// What a code stands for, per tensor.
pub(crate) fn real(q: i32, of: &Uniform) -> f32 {
    Format::dequantize(i64::from(q), of.scale(), of.zero_point())
}

/// One float quantized to an 8-bit type.
fn byte(x: f32, to: &Uniform) -> u8 {
    u8::try_from(code(x, to)).unwrap_or(u8::MAX)
}

/// The table of a real function from one 8-bit type to another.
pub(crate) fn table(from: &Uniform, to: &Uniform, f: impl Fn(f32) -> f32) -> Vec<u8> {
    (0..=255).map(|q| byte(f(real(q, from)), to)).collect()
}

/// The table of a real function of two values from 8-bit types to another; the second operand counts fastest.
pub(crate) fn table2(from: [&Uniform; 2], to: &Uniform, f: impl Fn(f32, f32) -> f32) -> Vec<u8> {
    let columns: Vec<f32> = (0..=255).map(|q| real(q, from[1])).collect();
    let row = |q: i32| {
        let a = real(q, from[0]);
        columns.iter().map(|&b| byte(f(a, b), to)).collect::<Vec<u8>>()
    };
    (0..=255).flat_map(row).collect()
}
