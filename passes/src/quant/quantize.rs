//! Constants in quantized form.

use qcc_ir::{Data, Int, Tensor, Uniform};
use qcc_num::edge;

/// Floats quantized by `qcc_num::edge` equation (6), per tensor.
pub(crate) fn tensor(dims: &[usize], data: &[f32], to: &Uniform) -> Tensor {
    let codes = data.iter().map(|&x| code(x, to));
    let data = match to.storage {
        Int::U8 | Int::U4 => Data::U8(codes.map(|q| q as u8).collect()),
        Int::I8 | Int::I4 => Data::I8(codes.map(|q| q as i8).collect()),
        Int::I16 => Data::I16(codes.map(|q| q as i16).collect()),
        Int::I32 => Data::I32(codes.collect()),
        Int::I64 => Data::I64(codes.map(i64::from).collect()),
    };
    Tensor::new(dims, data)
}

/// One float quantized, per tensor.
pub(crate) fn code(x: f32, to: &Uniform) -> i32 {
    let bound = |b: i64| b.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32;
    edge::quantize(x, to.scale(), bound(to.zero_point()), bound(to.min), bound(to.max))
}

/// What a code stands for, per tensor.
pub(crate) fn real(q: i32, of: &Uniform) -> f32 {
    edge::dequantize(q, of.scale(), of.zero_point() as i32)
}

/// The table of a real function from one 8-bit type to another.
pub(crate) fn table(from: &Uniform, to: &Uniform, f: impl Fn(f32) -> f32) -> Vec<u8> {
    (0..=255).map(|q| code(f(real(q, from)), to) as u8).collect()
}

/// The table of a real function of two values from 8-bit types to another; the second operand counts fastest.
pub(crate) fn table2(from: [&Uniform; 2], to: &Uniform, f: impl Fn(f32, f32) -> f32) -> Vec<u8> {
    let columns: Vec<f32> = (0..=255).map(|q| real(q, from[1])).collect();
    let row = |q: i32| {
        let a = real(q, from[0]);
        columns.iter().map(|&b| code(f(a, b), to) as u8).collect::<Vec<u8>>()
    };
    (0..=255).flat_map(row).collect()
}
