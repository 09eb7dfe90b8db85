//! `QuantizeLinear`, `DequantizeLinear` and `DynamicQuantizeLinear`.

use qcc_ir::{Elem, Opcode, Uniform, ValueId, format};

use super::affine::{
    by_computed_scale, check_blocks, dequantize, format_of_type, quantize, real_by_computed_scale, spread, uniform,
    zero_point_outside,
};
use super::block_scales::BlockScales;
use super::layout::apply;
use super::numbers::Numbers;
use super::reduce::over;
use super::site::Site;
use crate::element::DataType;
use crate::fault::{Fault, Outcome};

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
        let scale = spread(site, scale, &dims, axis, block)?;
        let ratio = apply(site, Opcode::Div, &[x, scale], "ratio")?;
        return site.emit(Opcode::RoundFloat, &[ratio], attrs, "");
    }
    let format = format_of_type(to)?;
    if block != 0 || is_computed(site) {
        let scale = site.operand(1)?;
        let scale = spread(site, scale, &dims, axis, block)?;
        let zero = match site.optional(2) {
            Some(z) => Some(spread(site, z, &dims, axis, block)?),
            None => None,
        };
        return by_computed_scale(site, x, scale, zero, format, "");
    }
    let u = uniform(site, 1, format, &dims, axis)?;
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

pub(super) fn dequantize_linear(site: &mut Site) -> Outcome<ValueId> {
    let x = site.operand(0)?;
    let (axis, block) = scale_axis(site)?;
    // Floats of any width become f32.
    site.attrs.ignore(&["output_dtype", "saturate"]);
    if site.elem(x) == Elem::F32 {
        // Floats of 8 bits and less are real numbers already.
        no_zero_point(site)?;
        let (dims, scale) = (site.dims(x), site.operand(1)?);
        let scale = spread(site, scale, &dims, axis, block)?;
        return apply(site, Opcode::Mul, &[x, scale], "");
    }
    if block != 0
        && let Some(y) = blocked_constant(site, x, axis, block)?
    {
        return Ok(y);
    }
    if block != 0 || is_computed(site) {
        let dims = site.dims(x);
        let scale = site.operand(1)?;
        let scale = spread(site, scale, &dims, axis, block)?;
        let zero = match site.optional(2) {
            Some(z) => Some(spread(site, z, &dims, axis, block)?),
            None => None,
        };
        return real_by_computed_scale(site, x, scale, zero);
    }
    dequantize(site, x, 1, axis, "")
}

/// Codes with a scale for each block that are constant, as weights are.
fn blocked_constant(site: &mut Site, x: ValueId, axis: i64, block: usize) -> Outcome<Option<ValueId>> {
    let (scale, zero) = (site.operand(1)?, site.optional(2));
    let constant = |site: &Site, v: ValueId| site.constant(v).as_deref().map(Numbers::of);
    let (Some(Numbers::Int(codes)), Some(Numbers::Float(scales))) = (constant(site, x), constant(site, scale)) else {
        return Ok(None);
    };
    let zeros = match zero.map(|zero| constant(site, zero)) {
        None => vec![0; scales.len()],
        Some(Some(Numbers::Int(zeros))) => zeros,
        Some(_) => return Ok(None),
    };
    let (Some(data_type), false) = (site.data_type(x), scales.len() == 1) else { return Ok(None) };
    let (format, dims) = (format_of_type(data_type)?, site.dims(x));
    let axis = Site::axis(axis, dims.len())?;
    if let Some(zero) = zeros.iter().find(|z| !(format.min()..=format.max()).contains(z)) {
        return Err(zero_point_outside(*zero, &format));
    }
    check_blocks(site, scale, &dims, axis, block)?;
    let zeros = zeros.into_iter().map(|z| z as f32).collect();
    let scales = BlockScales { dims, axis, block, scales, zeros };
    scales.constant(site, codes, &format, |k| k / block).map(Some)
}

/// `DynamicQuantizeLinear`: `s = (max - min) / 255` with 0 within the range, `z = round(-min / s)`, both computed at run time.
/// The results are y = round(x / s) + z, s and z.
pub(super) fn dynamic(site: &mut Site) -> Outcome<Vec<ValueId>> {
    let x = site.operand(0)?;
    if site.elem(x) != Elem::F32 {
        return Err(Fault::unsupported(format!("quantization of {}", site.elem(x))));
    }
    let zero = site.floats(&[], vec![0.0], "zero");
    let steps = site.floats(&[], vec![255.0], "steps");
    let axes: Vec<usize> = (0..site.ty(x).rank()).collect();
    let mut ends = Vec::new();
    for (reduce, clamp, suffix) in [(Opcode::ReduceMin, Opcode::Min, "min"), (Opcode::ReduceMax, Opcode::Max, "max")] {
        let end = over(site, reduce, x, &axes, false, suffix)?;
        ends.push(apply(site, clamp, &[end, zero], suffix)?);
    }
    let span = apply(site, Opcode::Sub, &[ends[1], ends[0]], "span")?;
    let scale = apply(site, Opcode::Div, &[span, steps], "scale")?;
    let negative = apply(site, Opcode::Sub, &[zero, ends[0]], "negative")?;
    let z = apply(site, Opcode::Div, &[negative, scale], "zero_point")?;
    let z = quantize(site, z, Uniform::per_tensor(&format::U8, 1.0, 0), "zero_point")?;
    let y = by_computed_scale(site, x, scale, Some(z), format::U8.clone(), "")?;
    Ok(vec![y, scale, z])
}
