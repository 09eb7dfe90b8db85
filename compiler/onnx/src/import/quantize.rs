//! Quantization that the model itself carries: QDQ and QOperator nodes, and plain integers read as real numbers.

use std::sync::Arc;

use qcc_ir::ops::Move;
use qcc_ir::{Attrs, Class, Def, Elem, Int, Opcode, Type, Uniform, ValueId};

use super::layout;
use super::numbers::Numbers;
use super::qoperator;
use super::site::Site;
use super::window::{Window, spatial, with_height, without_height};
use crate::element::DataType;
use crate::fault::{Fault, Outcome};

/// Storage of a quantized type, and its least and greatest integer.
pub(super) type Storage = (Int, i64, i64);

fn storage(int: Int) -> Storage {
    (int, int.min(), int.max())
}

/// Scale and zero point from the operands `scale` and `scale + 1`, along `axis` if there are several.
fn uniform(site: &mut Site, scale: usize, storage: Storage, dims: &[usize], axis: i64) -> Outcome<Uniform> {
    let scales = site.float_list(scale, "scales")?.ok_or_else(|| Fault::shape("the scale is missing"))?;
    let zero_points = site.int_list(scale + 1, "zero points")?.unwrap_or_else(|| vec![0; scales.len()]);
    let (int, min, max) = storage;
    if let Some(scale) = scales.iter().find(|s| !s.is_finite() || **s <= 0.0) {
        let fault = Fault::shape(format!("a scale of {scale:?}"));
        return Err(match scale.is_infinite() {
            true => fault.help("a mask of about -3.4e38 has no codes: exclude this node when the model is quantized"),
            false => fault,
        });
    }
    if let Some(zero) = zero_points.iter().find(|z| **z < min || **z > max) {
        return Err(Fault::shape(format!("a zero point of {zero} outside {min}..={max}")));
    }
    if scales.is_empty() || scales.len() != zero_points.len() {
        return Err(Fault::shape(format!("{} scales and {} zero points", scales.len(), zero_points.len())));
    }
    let axis = if scales.len() == 1 { None } else { Some(Site::axis(axis, dims.len())?) };
    if let Some(axis) = axis.filter(|&a| dims[a] != scales.len()) {
        return Err(Fault::shape(format!("{} scales along dimension {axis} of {dims:?}", scales.len())));
    }
    Ok(Uniform { storage: int, min, max, axis, scales, zero_points })
}

/// The axis of scales, and the number of elements of each block along it; 0 for one scale along the other axes.
fn scale_axis(site: &mut Site) -> Outcome<(i64, usize)> {
    let block = site.attrs.int("block_size")?.unwrap_or(0);
    let block = usize::try_from(block).map_err(|_| Fault::shape(format!("`block_size` = {block}")))?;
    // The division is in f32.
    site.attrs.ignore(&["precision"]);
    Ok((site.attrs.int("axis")?.unwrap_or(1), block))
}

/// True if scale or zero point, operands 1 and 2, are computed at run time.
fn is_computed(site: &mut Site) -> bool {
    [1, 2].into_iter().any(|i| site.optional(i).is_some_and(|v| site.constant(v).is_none()))
}

pub(super) fn quantize_linear(site: &mut Site) -> Outcome<ValueId> {
    let x = site.operand(0)?;
    let (axis, block) = scale_axis(site)?;
    let declared = match site.attrs.int("output_dtype")? {
        None | Some(0) => None,
        Some(n) => Some(DataType::from_onnx(i32::try_from(n).unwrap_or(-1))?),
    };
    let zero = site.optional(2);
    let to = match declared {
        Some(to) => to,
        None => zero
            .map_or(Some(DataType::U8), |z| site.data_type(z))
            .ok_or_else(|| Fault::unsupported("a zero point of a type that is known only at run time"))?,
    };
    let dims = site.dims(x);
    let saturate = site.attrs.flag("saturate", true)?;
    if let (Some(attrs), true) = (to.rounding(saturate), to.bits() <= 8) {
        no_zero_point(site)?;
        let scale = site.operand(1)?;
        let scale = qoperator::spread(site, scale, &dims, axis, block)?;
        let ratio = layout::apply(site, Opcode::Div, &[x, scale], "ratio")?;
        return site.emit(Opcode::RoundFloat, &[ratio], attrs, "");
    }
    let storage = storage_of_type(to)?;
    if block != 0 || is_computed(site) {
        let scale = site.operand(1)?;
        let scale = qoperator::spread(site, scale, &dims, axis, block)?;
        let zero = match site.optional(2) {
            Some(z) => Some(qoperator::spread(site, z, &dims, axis, block)?),
            None => None,
        };
        return qoperator::by_computed_scale(site, x, scale, zero, storage, "");
    }
    let u = uniform(site, 1, storage, &dims, axis)?;
    quantize(site, x, u, "")
}

/// Floats of 8 bits and less have zero points for the sake of their type alone.
fn no_zero_point(site: &mut Site) -> Outcome<()> {
    match site.float_list(2, "zero points")? {
        Some(zeros) if zeros.iter().any(|&z| z != 0.0) => {
            Err(Fault::unsupported("a zero point of floats other than 0"))
        }
        Some(_) | None => Ok(()),
    }
}

/// How quantized elements of a type of the model are stored: `u16` in 32 bits.
fn storage_of_type(data_type: DataType) -> Outcome<Storage> {
    match (data_type.elem(), data_type.range()) {
        (Elem::Int(int), Some((min, max))) if int.bits() <= 32 => Ok((int, min, max)),
        _ => Err(Fault::unsupported(format!("quantization to {data_type:?}"))),
    }
}

fn int_storage(elem: &Elem) -> Outcome<Storage> {
    match elem {
        Elem::Int(int) if int.bits() <= 32 => Ok(storage(*int)),
        Elem::Int(_) | Elem::F32 | Elem::Bool | Elem::Calibrated(_) | Elem::Uniform(_) => {
            Err(Fault::unsupported(format!("a zero point of type {elem}")))
        }
    }
}

/// Real numbers as integers.
pub(super) fn quantize(site: &mut Site, x: ValueId, u: Uniform, suffix: &str) -> Outcome<ValueId> {
    if site.elem(x) != Elem::F32 {
        return Err(Fault::unsupported(format!("quantization of {}", site.elem(x))));
    }
    let ty = Type { dims: site.dims(x), elem: Elem::Uniform(Arc::new(u)) };
    site.emit_typed(Opcode::QCast, &[x], Attrs::new(Opcode::QCast), ty, suffix)
}

pub(super) fn dequantize_linear(site: &mut Site) -> Outcome<ValueId> {
    let x = site.operand(0)?;
    let (axis, block) = scale_axis(site)?;
    // Floats of any width become f32.
    site.attrs.ignore(&["output_dtype", "saturate"]);
    if site.elem(x) == Elem::F32 {
        // Floats of 8 bits and less are real numbers already.
        no_zero_point(site)?;
        let (dims, scale) = (site.dims(x), site.operand(1)?);
        let scale = qoperator::spread(site, scale, &dims, axis, block)?;
        return layout::apply(site, Opcode::Mul, &[x, scale], "");
    }
    if block != 0 || is_computed(site) {
        let dims = site.dims(x);
        let scale = site.operand(1)?;
        let scale = qoperator::spread(site, scale, &dims, axis, block)?;
        let zero = match site.optional(2) {
            Some(z) => Some(qoperator::spread(site, z, &dims, axis, block)?),
            None => None,
        };
        return qoperator::real_by_computed_scale(site, x, scale, zero);
    }
    dequantize(site, x, 1, axis, "")
}

/// How elements are stored, and their least and greatest integer.
pub(super) fn storage_of(elem: &Elem) -> Outcome<Storage> {
    match elem {
        Elem::Int(int) if int.bits() <= 32 => Ok(storage(*int)),
        Elem::Uniform(u) => Ok((u.storage, u.min, u.max)),
        other => Err(Fault::shape(format!("real numbers from {other}"))),
    }
}

/// Real numbers from integers with the scale and zero point in operands `scale` and `scale + 1`.
pub(super) fn dequantize(site: &mut Site, x: ValueId, scale: usize, axis: i64, suffix: &str) -> Outcome<ValueId> {
    let own = match (site.ty(x).uniform(), site.data_type(x)) {
        (None, Some(data_type)) => storage_of_type(data_type)?,
        (Some(_), _) | (None, None) => storage_of(&site.elem(x))?,
    };
    let dims = site.dims(x);
    let u = uniform(site, scale, own, &dims, axis)?;
    as_real(site, x, u, suffix)
}

/// The real numbers for which plain integers stand.
pub(super) fn as_real(site: &mut Site, x: ValueId, u: Uniform, suffix: &str) -> Outcome<ValueId> {
    let elem = Elem::Uniform(Arc::new(u));
    let x = match site.constant(x) {
        Some(tensor) if site.ty(x).uniform().is_none() => site.constant_of(tensor, elem, "q"),
        _ => {
            reinterpret(site, x, &elem)?;
            x
        }
    };
    layout::apply(site, Opcode::DCast, &[x], suffix)
}

/// Integers of at most 32 bits as the real numbers of the same value.
pub(super) fn integers_as_reals(site: &mut Site, x: ValueId) -> Outcome<ValueId> {
    qoperator::in_units(site, x, "")
}

/// Gives a computed value of plain integers, and the values from which data movement makes it, a quantized type of the same
/// storage. It says what the integers of an input of the model stand for.
fn reinterpret(site: &mut Site, x: ValueId, elem: &Elem) -> Outcome<()> {
    let graph = site.edit().graph();
    let (mut waiting, mut found) = (vec![x], Vec::new());
    while let Some(v) = waiting.pop() {
        let own = &graph.ty(v).elem;
        if own == elem || found.contains(&v) {
            continue;
        }
        if !matches!(own, Elem::Int(int) if Some(*int) == elem.storage()) {
            return Err(Fault::unsupported(format!("integers of type {own} that are read as {elem}")));
        }
        let per_axis = matches!(elem, Elem::Uniform(u) if u.axis.is_some());
        found.push(v);
        match graph.def(v) {
            Def::Input(_) | Def::Const(_) => {}
            Def::Node(n, _) if !per_axis => match graph.op(n).info().class {
                Class::Move(Move::Gather) => waiting.extend(graph.operands(n).first()),
                Class::Move(
                    Move::Reshape | Move::Transpose | Move::Concat | Move::Slice | Move::Pad | Move::Expand,
                ) => {
                    waiting.extend(graph.operands(n));
                }
                _ => return Err(Fault::unsupported(format!("`{}` on quantized values", graph.op(n).name()))),
            },
            Def::Node(..) => return Err(Fault::unsupported("moved integers with several scales")),
        }
    }
    for v in found {
        site.edit().set_elem(v, elem.clone());
    }
    Ok(())
}

/// `QLinearConv`: operands x, its scale and zero point, w, its scale and zero point, scale and zero point of the result,
/// and a bias in units of the product of the scales.
pub(super) fn conv(site: &mut Site) -> Outcome<ValueId> {
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
    let attrs = window.set(Attrs::new(Opcode::Conv2d))?.with("groups", groups);
    let y = site.emit(Opcode::Conv2d, &operands, attrs, "real")?;
    let y = without_height(site, y, rank)?;
    let own = storage_of(&site.elem(own))?;
    requantize(site, y, 6, own)
}

/// A bias of `i32` in units of `alpha` and the scales in operands 1 and 4.
pub(super) fn bias_in_units(site: &mut Site, b: ValueId, alpha: f32) -> Outcome<ValueId> {
    let (dims, xs) = (site.dims(b), site.float_list(1, "scales")?.unwrap_or_default());
    let ws = site.float_list(4, "scales")?.unwrap_or_default();
    let ([x], false) = (xs.as_slice(), ws.is_empty()) else { return Err(Fault::shape("a scale is missing")) };
    let scales: Vec<f32> = ws.iter().map(|w| w * x * alpha).collect();
    let axis = if scales.len() == 1 { None } else { Some(0) };
    let fits = dims.len() == 1 && (axis.is_none() || dims[0] == scales.len()) && scales.iter().all(|s| s.is_normal());
    if !fits || site.elem(b) != Elem::Int(Int::I32) {
        return Err(Fault::shape(format!("a bias of {} beside {} scales", site.ty(b), scales.len())));
    }
    let zero_points = vec![0; scales.len()];
    let u = Uniform { axis, scales, zero_points, ..Uniform::per_tensor(Int::I32, 1.0, 0) };
    as_real(site, b, u, "bias")
}

/// `QLinearMatMul`: operands a, its scale and zero point, b, its scale and zero point, scale and zero point of the result.
pub(super) fn matmul(site: &mut Site) -> Outcome<ValueId> {
    let (a, b) = (site.operand(0)?, site.operand(3)?);
    let own = a;
    let real_a = dequantize(site, a, 1, -2, "a")?;
    let real_b = dequantize(site, b, 4, -1, "b")?;
    let y = layout::apply(site, Opcode::MatMul, &[real_a, real_b], "real")?;
    let own = storage_of(&site.elem(own))?;
    requantize(site, y, 6, own)
}

/// Quantizes a result with the scale and zero point in operands `scale` and `scale + 1`; without a zero point, as `own`.
pub(super) fn requantize(site: &mut Site, y: ValueId, scale: usize, own: Storage) -> Outcome<ValueId> {
    let own = match site.optional(scale + 1) {
        Some(zero) if !matches!(site.constant(zero).as_deref().map(Numbers::of), Some(Numbers::Int(_))) => {
            return Err(Fault::unsupported("a zero point known only at run time"));
        }
        Some(zero) => int_storage(&site.elem(zero))?,
        None => own,
    };
    let dims = site.dims(y);
    let u = uniform(site, scale, own, &dims, 1)?;
    quantize(site, y, u, "")
}
