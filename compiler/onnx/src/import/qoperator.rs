//! Operators on quantized tensors: ONNX's own, those of the domain `com.microsoft`, in which ONNX Runtime's quantizer writes, and
//! ONNX's integer products. Each becomes the operator on real numbers between casts, as the same model with explicit casts
//! would have it.
//!
//! An integer product has results in units of 1: real numbers hold these exactly below 2^24.

use qcc_ir::{Attrs, Format, Int, Opcode, Uniform, ValueId, attr};

use super::affine::{
    as_real, bias_in_units, dequantize, format_of, in_units, quantize, requantize, uniform, zero_point_outside,
};
use super::layout::{self, apply};
use super::reduce::over;
use super::select::selected;
use super::site::Site;
use super::window::{Window, spatial, with_height, without_height};
use super::{gemm, pool};
use crate::fault::{Fault, Outcome};

/// Format of the result where its zero point is left out: that of operand `i`.
fn like(site: &mut Site, i: usize) -> Outcome<Format> {
    let x = site.operand(i)?;
    format_of(&site.elem(x))
}

/// `QLinearConv`: operands x, its scale and zero point, w, its scale and zero point, scale and zero point of the result,
/// and a bias in units of the product of the scales.
pub(super) fn qlinear_conv(site: &mut Site) -> Outcome<ValueId> {
    let (x, w) = (site.operand(0)?, site.operand(3)?);
    let own = x;
    let (input, kernel) = (spatial(site, x)?, spatial(site, w)?);
    if input.len() != kernel.len() {
        return Err(Fault::shape("input and weights differ in their number of dimensions"));
    }
    let window = Window::read(site, Some(&kernel), &input)?;
    let groups = site.attrs.int("group")?.unwrap_or(1);
    let bias = match site.optional(8) {
        Some(b) => Some(bias_in_units(site, b, 1.0)?),
        None => None,
    };
    let real_x = dequantize(site, x, 1, 1, "x")?;
    let real_w = dequantize(site, w, 4, 0, "weight")?;
    let rank = site.ty(x).rank();
    let (x, w) = (with_height(site, real_x, "x")?, with_height(site, real_w, "weight")?);
    let operands: Vec<ValueId> = [x, w].into_iter().chain(bias).collect();
    let attrs = window.set(Attrs::new(Opcode::Conv2d))?.with(attr::GROUPS, groups);
    let y = site.emit(Opcode::Conv2d, &operands, attrs, "real")?;
    let y = without_height(site, y, rank)?;
    let own = format_of(&site.elem(own))?;
    requantize(site, y, 6, own)
}

/// `QLinearMatMul`: operands a, its scale and zero point, b, its scale and zero point, scale and zero point of the result.
pub(super) fn qlinear_matmul(site: &mut Site) -> Outcome<ValueId> {
    let (a, b) = (site.operand(0)?, site.operand(3)?);
    let own = a;
    let real_a = dequantize(site, a, 1, -2, "a")?;
    let real_b = dequantize(site, b, 4, -1, "b")?;
    let y = apply(site, Opcode::MatMul, &[real_a, real_b], "real")?;
    let own = format_of(&site.elem(own))?;
    requantize(site, y, 6, own)
}

/// Operands a, its scale and zero point, b, its scale and zero point, scale and zero point of the result.
fn binary(site: &mut Site, op: Opcode) -> Outcome<ValueId> {
    let format = like(site, 0)?;
    let (a, b) = (site.operand(0)?, site.operand(3)?);
    let a = dequantize(site, a, 1, 1, "a")?;
    let b = dequantize(site, b, 4, 1, "b")?;
    let attrs = Attrs::new(op).with(attr::SIGNED, format.storage() == Int::I8);
    let y = site.emit(op, &[a, b], attrs, "real")?;
    requantize(site, y, 6, format)
}

pub(super) fn add(site: &mut Site) -> Outcome<ValueId> {
    binary(site, Opcode::Add)
}

pub(super) fn mul(site: &mut Site) -> Outcome<ValueId> {
    binary(site, Opcode::Mul)
}

/// Operands x, its scale and zero point, scale and zero point of the result; `body` computes with real numbers.
fn unary(site: &mut Site, body: impl FnOnce(&mut Site, ValueId) -> Outcome<ValueId>) -> Outcome<ValueId> {
    let format = like(site, 0)?;
    let x = site.operand(0)?;
    let x = dequantize(site, x, 1, 1, "x")?;
    let y = body(site, x)?;
    requantize(site, y, 3, format)
}

pub(super) fn sigmoid(site: &mut Site) -> Outcome<ValueId> {
    unary(site, |site, x| apply(site, Opcode::Sigmoid, &[x], "real"))
}

pub(super) fn leaky_relu(site: &mut Site) -> Outcome<ValueId> {
    let alpha = site.attrs.float("alpha")?.unwrap_or(0.01);
    let attrs = Attrs::new(Opcode::LeakyRelu).with(attr::ALPHA, alpha);
    unary(site, |site, x| site.emit(Opcode::LeakyRelu, &[x], attrs, "real"))
}

/// `opset` says which operator set's softmax it is: before 13, all dimensions from the axis on are one.
pub(super) fn softmax(site: &mut Site) -> Outcome<ValueId> {
    let opset = site.attrs.int("opset")?.unwrap_or(13);
    let axis = site.attrs.int("axis")?.unwrap_or(if opset < 13 { 1 } else { -1 });
    unary(site, |site, x| {
        let dims = site.dims(x);
        let axis = Site::axis(axis, dims.len())?;
        let (outer, inner) = dims.split_at(axis);
        let flat = match opset {
            ..13 => vec![layout::product(outer)?, layout::product(inner)?],
            _ => dims.clone(),
        };
        let axis = if opset < 13 { 1 } else { layout::extent(axis)? };
        let x = layout::reshape(site, x, &flat, "rows")?;
        let y = site.emit(Opcode::Softmax, &[x], Attrs::new(Opcode::Softmax).with(attr::AXIS, axis), "real")?;
        layout::reshape(site, y, &dims, "shaped")
    })
}

/// Pooling of `[N, C, ..]`, which the node may have as `[N, .., C]`.
fn channels_first(
    site: &mut Site,
    x: ValueId,
    body: impl FnOnce(&mut Site, ValueId) -> Outcome<ValueId>,
) -> Outcome<ValueId> {
    let rank = site.ty(x).rank();
    if !site.attrs.flag("channels_last", false)? || rank < 3 {
        return body(site, x);
    }
    let first: Vec<usize> = [0, rank - 1].into_iter().chain(1..rank - 1).collect();
    let last: Vec<usize> = [0].into_iter().chain(2..rank).chain([1]).collect();
    let x = layout::transpose(site, x, &first, "first")?;
    let y = body(site, x)?;
    layout::transpose(site, y, &last, "last")
}

pub(super) fn average_pool(site: &mut Site) -> Outcome<ValueId> {
    unary(site, |site, x| channels_first(site, x, pool::average))
}

pub(super) fn global_average_pool(site: &mut Site) -> Outcome<ValueId> {
    let global = |site: &mut Site, x| pool::global(site, x, Opcode::AveragePool, Opcode::ReduceMean);
    unary(site, |site, x| channels_first(site, x, global))
}

pub(super) fn reduce_mean(site: &mut Site) -> Outcome<ValueId> {
    let axes = site.attrs.ints("axes")?.map(<[i64]>::to_vec);
    let keep = site.attrs.flag("keepdims", true)?;
    unary(site, |site, x| {
        let rank = site.ty(x).rank();
        let axes = match axes {
            Some(axes) if !axes.is_empty() => Site::axes(&axes, rank)?,
            _ => (0..rank).collect(),
        };
        over(site, Opcode::ReduceMean, x, &axes, keep, "real")
    })
}

/// Operands condition, x and y (each with scale and zero point), scale and zero point of the result.
pub(super) fn select(site: &mut Site) -> Outcome<ValueId> {
    let format = like(site, 1)?;
    let (c, x, y) = (site.operand(0)?, site.operand(1)?, site.operand(4)?);
    let x = dequantize(site, x, 2, 1, "x")?;
    let y = dequantize(site, y, 5, 1, "y")?;
    let chosen = selected(site, c, x, y, "real")?;
    requantize(site, chosen, 7, format)
}

/// Operands scale and zero point of the result, then each part with its scale and zero point.
pub(super) fn concat(site: &mut Site) -> Outcome<ValueId> {
    let axis = site.attrs.int("axis")?.ok_or_else(|| Fault::shape("attribute `axis` is missing"))?;
    let format = like(site, 2)?;
    let mut parts = Vec::new();
    for i in (2..site.operand_count()).step_by(3) {
        let part = site.operand(i)?;
        let zero = site.operand(i + 2).map_err(|fault| fault.context("the zero point of a part"))?;
        if site.elem(zero).storage() != site.elem(part).storage() {
            let (found, own) = (site.elem(zero), site.elem(part));
            return Err(Fault::shape(format!("a zero point of type {found} for a part of {own}")));
        }
        parts.push(dequantize(site, part, i + 1, 1, "part")?);
    }
    let Some(&first) = parts.first() else { return Err(Fault::shape("there is no operand")) };
    let axis = layout::extent(Site::axis(axis, site.ty(first).rank())?)?;
    let y = site.emit(Opcode::Concat, &parts, Attrs::new(Opcode::Concat).with(attr::AXIS, axis), "real")?;
    requantize(site, y, 0, format)
}

/// Operands a, b (each with scale and zero point), c in units of their product, scale and zero point of the result; without
/// these the result is real.
pub(super) fn gemm(site: &mut Site) -> Outcome<ValueId> {
    let format = like(site, 0)?;
    let (a, b) = (site.operand(0)?, site.operand(3)?);
    let real_a = dequantize(site, a, 1, 1, "a")?;
    let columns = if site.attrs.flag("transB", false)? { 0 } else { 1 };
    let alpha = site.attrs.float("alpha")?.unwrap_or(1.0);
    if !(alpha.is_finite() && alpha > 0.0) {
        return Err(Fault::unsupported(format!("`alpha` = {alpha} is not supported")));
    }
    // A factor of the product is one of the scale.
    let (own, dims) = (format_of(&site.elem(b))?, site.dims(b));
    let mut scaled = uniform(site, 4, own, &dims, columns)?;
    scaled.scales.iter_mut().for_each(|scale| *scale *= alpha);
    let real_b = as_real(site, b, scaled, "b")?;
    let c = match site.optional(6) {
        Some(c) => Some(bias_in_units(site, c, alpha)?),
        None => None,
    };
    let y = gemm::product(site, real_a, real_b, c, [1.0, 1.0])?;
    if site.optional(7).is_some() { requantize(site, y, 7, format) } else { Ok(y) }
}

/// Integers less a zero point, which is operand `zero` or 0, as real numbers; `axis` for several zero points.
fn centred(site: &mut Site, x: ValueId, zero: usize, axis: i64, suffix: &str) -> Outcome<ValueId> {
    let format = format_of(&site.elem(x))?;
    let zeros = match site.optional(zero) {
        Some(z) if site.constant(z).is_none() => {
            let (x, z) = (in_units(site, x, suffix)?, in_units(site, z, "zero")?);
            return apply(site, Opcode::Sub, &[x, z], suffix);
        }
        _ => site.int_list(zero, "zero points")?.unwrap_or_else(|| vec![0]),
    };
    if let Some(z) = zeros.iter().find(|z| !(format.min()..=format.max()).contains(z)) {
        return Err(zero_point_outside(*z, &format));
    }
    let dims = site.dims(x);
    let axis = if zeros.len() == 1 { None } else { Some(Site::axis(axis, dims.len())?) };
    if axis.is_some_and(|a| dims[a] != zeros.len()) || zeros.is_empty() {
        return Err(Fault::shape(format!("{} zero points of {dims:?}", zeros.len())));
    }
    let u = Uniform { format, axis, scales: vec![1.0; zeros.len()], zero_points: zeros };
    as_real(site, x, u, suffix)
}

/// Whole real numbers as integers of 32 bits.
fn as_i32(site: &mut Site, y: ValueId) -> Outcome<ValueId> {
    quantize(site, y, Uniform::per_tensor(Int::I32, 1.0, 0), "")
}

/// `ConvInteger`: operands x, w, and their zero points.
pub(super) fn conv_integer(site: &mut Site) -> Outcome<ValueId> {
    let (x, w) = (site.operand(0)?, site.operand(1)?);
    let (input, kernel) = (spatial(site, x)?, spatial(site, w)?);
    if input.len() != kernel.len() {
        return Err(Fault::shape("input and weights differ in their number of dimensions"));
    }
    let window = Window::read(site, Some(&kernel), &input)?;
    let groups = site.attrs.int("group")?.unwrap_or(1);
    let rank = site.ty(x).rank();
    let (x, w) = (centred(site, x, 2, 1, "x")?, centred(site, w, 3, 0, "weight")?);
    let (x, w) = (with_height(site, x, "x")?, with_height(site, w, "weight")?);
    let attrs = window.set(Attrs::new(Opcode::Conv2d))?.with(attr::GROUPS, groups);
    let y = site.emit(Opcode::Conv2d, &[x, w], attrs, "real")?;
    let y = without_height(site, y, rank)?;
    as_i32(site, y)
}

/// `MatMulInteger`: operands a, b, and their zero points.
pub(super) fn matmul_integer(site: &mut Site) -> Outcome<ValueId> {
    let (a, b) = (site.operand(0)?, site.operand(1)?);
    let (a, b) = (centred(site, a, 2, -2, "a")?, centred(site, b, 3, -1, "b")?);
    let y = apply(site, Opcode::MatMul, &[a, b], "real")?;
    as_i32(site, y)
}
