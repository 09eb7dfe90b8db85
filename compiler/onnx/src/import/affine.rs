//! Affine quantization of values: `real = scale * (code - zero point)`, with constant or computed scales and zero points, one
//! for all elements, along an axis, or for each block of elements.

use std::sync::Arc;

use qcc_ir::ops::Move;
use qcc_ir::{Attrs, Class, Def, Elem, Format, Int, Opcode, Tensor, Type, Uniform, ValueId, format};

use super::layout::{self, apply};
use super::numbers::Numbers;
use super::site::Site;
use super::slice::part;
use crate::element::DataType;
use crate::fault::{Fault, Outcome};

/// Which operands are a scale and a zero point.
#[derive(Clone, Copy)]
pub(super) struct Parameters {
    pub(super) scale: usize,
    pub(super) zero: usize,
}

impl From<usize> for Parameters {
    /// A scale and the zero point behind it.
    fn from(scale: usize) -> Parameters {
        Parameters { scale, zero: scale + 1 }
    }
}

/// Scale and zero point from operands, along `axis` if there are several.
pub(super) fn uniform(
    site: &mut Site,
    at: impl Into<Parameters>,
    format: Format,
    dims: &[usize],
    axis: i64,
) -> Outcome<Uniform> {
    let u = constant_uniform(site, at.into(), format, dims, axis)?;
    match u.scales.contains(&0.0) {
        true => Err(Fault::shape("a scale of 0.0")),
        false => Ok(u),
    }
}

/// The same of constants, which may have scales of 0: all that such a scale says is that its elements are 0.
fn constant_uniform(
    site: &mut Site,
    Parameters { scale, zero }: Parameters,
    format: Format,
    dims: &[usize],
    axis: i64,
) -> Outcome<Uniform> {
    let scales = site.float_list(scale, "scales")?.ok_or_else(|| Fault::shape("the scale is missing"))?;
    let zero_points = site.int_list(zero, "zero points")?.unwrap_or_else(|| vec![0; scales.len()]);
    if let Some(scale) = scales.iter().find(|s| !s.is_finite() || **s < 0.0) {
        let fault = Fault::shape(format!("a scale of {scale:?}"));
        return Err(match scale.is_infinite() {
            true => fault.help("a mask of about -3.4e38 has no codes: exclude this node when the model is quantized"),
            false => fault,
        });
    }
    if let Some(zero) = zero_points.iter().find(|z| !(format.min()..=format.max()).contains(z)) {
        return Err(zero_point_outside(*zero, &format));
    }
    if scales.is_empty() || scales.len() != zero_points.len() {
        return Err(Fault::shape(format!("{} scales and {} zero points", scales.len(), zero_points.len())));
    }
    let axis = if scales.len() == 1 { None } else { Some(Site::axis(axis, dims.len())?) };
    if let Some(axis) = axis.filter(|&a| dims[a] != scales.len()) {
        return Err(Fault::shape(format!("{} scales along dimension {axis} of {dims:?}", scales.len())));
    }
    Ok(Uniform { format, axis, scales, zero_points })
}

pub(super) fn zero_point_outside(zero: i64, format: &Format) -> Fault {
    Fault::shape(format!("a zero point of {zero} outside {}..={}", format.min(), format.max()))
}

/// The format of quantized elements of a type of the model: `u16` is stored in 32 bits.
pub(super) fn format_of_type(data_type: DataType) -> Outcome<Format> {
    match (data_type.elem(), data_type.range()) {
        (Elem::Int(int), Some((min, max))) if int.bits() <= 32 => Ok(Format::linear(int, min, max)),
        _ => Err(Fault::unsupported(format!("quantization to {data_type:?}"))),
    }
}

fn format_of_zero_point(elem: &Elem) -> Outcome<Format> {
    match elem {
        Elem::Int(int) if int.bits() <= 32 => Ok(Format::all(*int)),
        Elem::Int(_) | Elem::F32 | Elem::Bool | Elem::Calibrated(_) | Elem::Uniform(_) => {
            Err(Fault::unsupported(format!("a zero point of type {elem}")))
        }
    }
}

/// The format of integers, which as such are all that their storage holds.
pub(super) fn format_of(elem: &Elem) -> Outcome<Format> {
    match elem {
        Elem::Int(int) if int.bits() <= 32 => Ok(Format::all(*int)),
        Elem::Uniform(u) => Ok(u.format.clone()),
        other => Err(Fault::shape(format!("real numbers from {other}"))),
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

/// Real numbers from integers with the scale and zero point in operands.
pub(super) fn dequantize(
    site: &mut Site,
    x: ValueId,
    at: impl Into<Parameters>,
    axis: i64,
    suffix: &str,
) -> Outcome<ValueId> {
    let own = match (site.ty(x).uniform(), site.data_type(x)) {
        (None, Some(data_type)) => format_of_type(data_type)?,
        (Some(_), _) | (None, None) => format_of(&site.elem(x))?,
    };
    let dims = site.dims(x);
    let Some(tensor) = site.constant(x) else {
        let u = uniform(site, at, own, &dims, axis)?;
        return as_real(site, x, u, suffix);
    };
    let mut u = constant_uniform(site, at.into(), own, &dims, axis)?;
    let x = if u.scales.contains(&0.0) { without_pruned(site, x, &tensor, &mut u)? } else { x };
    as_real(site, x, u, suffix)
}

/// Codes of a constant, with the zero point where the scale is 0; there the type gets the greatest of the other scales.
fn without_pruned(site: &mut Site, x: ValueId, tensor: &Tensor, u: &mut Uniform) -> Outcome<ValueId> {
    let Numbers::Int(codes) = Numbers::of(tensor) else { return Err(Fault::shape("codes are not integers")) };
    let inner: usize = u.axis.map_or(1, |axis| tensor.dims[axis + 1..].iter().product());
    let channel = |i: usize| if u.axis.is_some() { i / inner.max(1) % u.scales.len() } else { 0 };
    let code = |(i, &q): (usize, &i64)| if u.scales[channel(i)] == 0.0 { u.zero_points[channel(i)] } else { q };
    let codes = Numbers::Int(codes.iter().enumerate().map(code).collect());
    let elem = match site.elem(x) {
        Elem::Uniform(own) => Elem::Int(own.format.storage()),
        elem => elem,
    };
    let data = codes.cast(&elem)?;
    let greatest = u.scales.iter().copied().fold(0.0, f32::max);
    let instead = if greatest > 0.0 { greatest } else { 1.0 };
    u.scales.iter_mut().filter(|s| **s == 0.0).for_each(|s| *s = instead);
    Ok(site.constant_of(Tensor::new(&tensor.dims, data), elem, "pruned"))
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

/// Integers as real numbers of the same value, whatever else they stand for.
pub(super) fn in_units(site: &mut Site, x: ValueId, suffix: &str) -> Outcome<ValueId> {
    if let Some(real) = whole_real(site, x) {
        return Ok(real);
    }
    let format = format_of(&site.elem(x))?;
    as_real(site, x, Uniform::per_tensor(format, 1.0, 0), suffix)
}

/// The whole real numbers of which integers of 32 bits were made, as the results of integer products are.
pub(super) fn whole_real(site: &mut Site, x: ValueId) -> Option<ValueId> {
    let graph = site.builder().graph();
    let u = graph.ty(x).uniform()?;
    let is_whole = u.format == format::I32 && u.axis.is_none() && u.scale() == 1.0 && u.zero_point() == 0;
    let cast = graph.producer(x).filter(|&n| is_whole && graph.op(n) == Opcode::QCast)?;
    Some(graph.operands(cast)[0])
}

/// Scales that differ by the rounding of a multiplier of 16 bits, as exports of ours have them, are the same.
const NEAR: f32 = 1.0 / 4096.0;

fn is_near(a: &Elem, b: &Elem) -> bool {
    let (Elem::Uniform(a), Elem::Uniform(b)) = (a, b) else { return false };
    let same = a.format == b.format && a.axis == b.axis && a.zero_points == b.zero_points;
    let near = |(a, b): (&f32, &f32)| (a - b).abs() <= NEAR * a;
    same && a.scales.len() == b.scales.len() && a.scales.iter().zip(&b.scales).all(near)
}

/// Gives a computed value of plain integers, and the values from which data movement makes it, a quantized type of the same
/// storage. It says what the integers of an input of the model stand for.
fn reinterpret(site: &mut Site, x: ValueId, elem: &Elem) -> Outcome<()> {
    let graph = site.builder().graph();
    let (mut waiting, mut found) = (vec![x], Vec::new());
    while let Some(v) = waiting.pop() {
        let own = &graph.ty(v).elem;
        if own == elem || is_near(own, elem) || found.contains(&v) {
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
        site.builder().set_elem(v, elem.clone());
    }
    Ok(())
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
    let u = Uniform { format: format::I32.clone(), axis, scales, zero_points };
    as_real(site, b, u, "bias")
}

/// Quantizes a result with the scale and zero point in operands `scale` and `scale + 1`; without a zero point, as `own`.
pub(super) fn requantize(site: &mut Site, y: ValueId, scale: usize, own: Format) -> Outcome<ValueId> {
    let own = match site.optional(scale + 1) {
        Some(zero) if !matches!(site.constant(zero).as_deref().map(Numbers::of), Some(Numbers::Int(_))) => {
            return Err(Fault::unsupported("a zero point known only at run time"));
        }
        Some(zero) => format_of_zero_point(&site.elem(zero))?,
        None => own,
    };
    let dims = site.dims(y);
    let u = uniform(site, scale, own, &dims, 1)?;
    quantize(site, y, u, "")
}

/// `round(x / scale) + zero point` for scales and zero points of any shape that broadcasts, which may be computed.
pub(super) fn by_computed_scale(
    site: &mut Site,
    x: ValueId,
    scale: ValueId,
    zero: Option<ValueId>,
    format: Format,
    suffix: &str,
) -> Outcome<ValueId> {
    let mut y = apply(site, Opcode::Div, &[x, scale], "ratio")?;
    if let Some(zero) = zero {
        let zero = in_units(site, zero, "zero")?;
        let rounded = apply(site, Opcode::Round, &[y], "rounded")?;
        y = apply(site, Opcode::Add, &[rounded, zero], "shifted")?;
    }
    quantize(site, y, Uniform::per_tensor(format, 1.0, 0), suffix)
}

/// `(x - zero point) * scale` likewise.
pub(super) fn real_by_computed_scale(
    site: &mut Site,
    x: ValueId,
    scale: ValueId,
    zero: Option<ValueId>,
) -> Outcome<ValueId> {
    let mut y = in_units(site, x, "units")?;
    if let Some(zero) = zero {
        let zero = in_units(site, zero, "zero")?;
        y = apply(site, Opcode::Sub, &[y, zero], "centred")?;
    }
    apply(site, Opcode::Mul, &[y, scale], "")
}

/// The real numbers for which integers stand, with given scale and zero point. What `DynamicQuantizeLinear` has quantized is
/// taken from before it: layers whose operands are quantized by scales of each run become layers of real numbers.
pub(super) fn real_before(site: &mut Site, x: ValueId, at: Parameters) -> Outcome<ValueId> {
    let (scale, zero) = (site.operand(at.scale)?, site.optional(at.zero));
    if let Some(real) = before_dynamic(site, x, scale) {
        return Ok(real);
    }
    let constant = [Some(scale), zero].into_iter().flatten().all(|v| site.constant(v).is_some());
    if constant { dequantize(site, x, at, -1, "x") } else { real_by_computed_scale(site, x, scale, zero) }
}

/// What `DynamicQuantizeLinear` has made `x` of, with this scale.
fn before_dynamic(site: &mut Site, x: ValueId, scale: ValueId) -> Option<ValueId> {
    let graph = site.builder().graph();
    let cast = graph.producer(x).filter(|&n| graph.op(n) == Opcode::QCast)?;
    graph.node(cast).origin.as_ref().filter(|o| o.op == "DynamicQuantizeLinear")?;
    let mut found = graph.operands(cast)[0];
    for op in [Opcode::Add, Opcode::Round] {
        let n = graph.producer(found).filter(|&n| graph.op(n) == op)?;
        found = graph.operands(n)[0];
    }
    let ratio = graph.producer(found).filter(|&n| graph.op(n) == Opcode::Div)?;
    let operands = graph.operands(ratio);
    (operands[1] == scale).then_some(operands[0])
}

/// A scale or zero point in the shape of what it scales: along `axis`, or one for each block of `block` elements of it.
pub(super) fn spread(site: &mut Site, v: ValueId, dims: &[usize], axis: i64, block: usize) -> Outcome<ValueId> {
    let ty: Type = site.ty(v).clone();
    if ty.elements() == 1 {
        return layout::reshape(site, v, &[], "scalar");
    }
    let axis = Site::axis(axis, dims.len())?;
    if block == 0 {
        let mut shape = vec![1; dims.len()];
        shape[axis] = ty.elements();
        return layout::reshape(site, v, &shape, "along");
    }
    check_blocks(site, v, dims, axis, block)?;
    let mut times = vec![1; dims.len()];
    times[axis] = block;
    let spread = layout::repeat(site, v, &times, layout::Repeat::Elements)?;
    // The last block may be shorter than the others.
    if site.dims(spread)[axis] == dims[axis] { Ok(spread) } else { part(site, spread, axis, 0..dims[axis]) }
}

/// Refuses scales whose shape is not that of blocks of so many elements along an axis.
pub(super) fn check_blocks(site: &Site, scales: ValueId, dims: &[usize], axis: usize, block: usize) -> Outcome<()> {
    let (found, blocks) = (&site.ty(scales).dims, dims[axis].div_ceil(block));
    let fits = found.iter().zip(dims).enumerate().all(|(i, (&d, &of))| d == if i == axis { blocks } else { of });
    match found.len() == dims.len() && fits {
        true => Ok(()),
        false => Err(Fault::shape(format!("scales of shape {found:?} for blocks of {block} of {dims:?}"))),
    }
}
