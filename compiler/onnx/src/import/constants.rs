//! Operators that exist between constants only, evaluated here: shapes, comparisons and selections.

use std::sync::Arc;

use qcc_ir::diag::Code;
use qcc_ir::{Attrs, Class, Data, Elem, Int, Opcode, Tensor, ValueId, map_data};

use super::fold;
use super::layout;
use super::numbers::{Numbers, broadcast};
use super::quantize;
use super::site::Site;
use super::truth;
use crate::element::DataType;
use crate::external::Folder;
use crate::fault::{Fault, Outcome};
use crate::tensor::{self, Constant};

/// Most elements that a constant operator makes.
pub(super) const LARGE: usize = 1 << 24;
/// Most elements of a constant of a given shape: test models have the weights of their largest layers so.
const GREATEST: usize = 1 << 27;

/// The tensor of operand `i`, which must be a constant.
fn constant(site: &mut Site, i: usize) -> Outcome<(Arc<Tensor>, Elem)> {
    let v = site.operand(i)?;
    let elem = site.elem(v);
    match site.constant(v).or_else(|| fold::known(site.edit().graph(), v)) {
        Some(tensor) => Ok((tensor, elem)),
        None => Err(Fault::unsupported("the operator is supported between constants only")
            .help(format!("operand {i} is computed by the model at run time"))),
    }
}

fn int64(site: &mut Site, dims: &[usize], values: Vec<i64>) -> ValueId {
    site.constant_of(Tensor::new(dims, Data::I64(values)), Elem::Int(Int::I64), "")
}

fn extent(d: usize) -> Outcome<i64> {
    i64::try_from(d).map_err(|_| Fault::shape("a dimension exceeds 63 bits"))
}

pub(super) fn value(site: &mut Site) -> Outcome<ValueId> {
    if let Some(proto) = site.attrs.tensor("value")? {
        let constant = tensor::read(proto, &Folder::none())?;
        return Ok(site.constant_like(constant));
    }
    if let Some(v) = site.attrs.float("value_float")? {
        return Ok(site.floats(&[], vec![v], ""));
    }
    if let Some(v) = site.attrs.floats("value_floats")? {
        return Ok(site.floats(&[v.len()], v.to_vec(), ""));
    }
    if let Some(v) = site.attrs.int("value_int")? {
        return Ok(int64(site, &[], vec![v]));
    }
    if let Some(v) = site.attrs.ints("value_ints")? {
        return Ok(int64(site, &[v.len()], v.to_vec()));
    }
    site.attrs.finish()?;
    Err(Fault::shape("the constant has no value"))
}

pub(super) fn shape(site: &mut Site) -> Outcome<ValueId> {
    let x = site.operand(0)?;
    let dims: Vec<i64> = site.dims(x).into_iter().map(extent).collect::<Outcome<_>>()?;
    let rank = extent(dims.len())?;
    let mut bound = |name, default: i64| -> Outcome<usize> {
        let at = site.attrs.int(name)?.unwrap_or(default);
        let at = if at < 0 { at.saturating_add(rank) } else { at }.clamp(0, rank);
        usize::try_from(at).map_err(|_| Fault::shape("a dimension exceeds memory"))
    };
    let (start, end) = (bound("start", 0)?, bound("end", rank)?);
    let part = dims.get(start..end).unwrap_or_default().to_vec();
    Ok(int64(site, &[part.len()], part))
}

pub(super) fn size(site: &mut Site) -> Outcome<ValueId> {
    let x = site.operand(0)?;
    let n = extent(site.ty(x).elements())?;
    Ok(int64(site, &[], vec![n]))
}

pub(super) fn constant_of_shape(site: &mut Site) -> Outcome<ValueId> {
    let dims = site.int_list(0, "the shape's dimensions")?.ok_or_else(|| Fault::shape("operand 0 is missing"))?;
    let dims = tensor::extents(&dims)?;
    let count = qcc_ir::Type::f32(&dims).checked_elements().filter(|&n| n <= GREATEST);
    let count = count.ok_or_else(|| Fault::shape(format!("a constant of shape {dims:?} is too large")))?;
    let one = match site.attrs.tensor("value")? {
        Some(proto) => tensor::read(proto, &Folder::none())?,
        None => Constant { tensor: Tensor::f32(&[1], vec![0.0]), data_type: DataType::F32 },
    };
    if one.tensor.data.len() != 1 {
        return Err(Fault::shape("`value` has not one element"));
    }
    let data = map_data!(&one.tensor.data, v => vec![v[0]; count]);
    Ok(site.constant_like(Constant { tensor: Tensor::new(&dims, data), data_type: one.data_type }))
}

pub(super) fn range(site: &mut Site) -> Outcome<ValueId> {
    site.attrs.ignore(&["stash_type"]);
    let mut ends = Vec::new();
    let (mut elem, mut float) = (Elem::F32, Vec::new());
    for i in 0..3 {
        let (tensor, of) = constant(site, i)?;
        elem = of;
        match Numbers::of(&tensor) {
            Numbers::Int(v) if v.len() == 1 => ends.push(v[0]),
            Numbers::Float(v) if v.len() == 1 => float.push(v[0]),
            Numbers::Int(_) | Numbers::Float(_) => return Err(Fault::shape(format!("operand {i} is no scalar"))),
        }
    }
    let too_large = || Fault::shape(format!("a range of more than {LARGE} elements"));
    let numbers = match (ends.as_slice(), float.as_slice()) {
        (&[start, limit, delta], []) if delta != 0 => {
            let (span, step) = (i128::from(limit) - i128::from(start), i128::from(delta));
            let count = (span / step + i128::from(span % step != 0 && (span < 0) == (step < 0))).max(0);
            let count = i64::try_from(count).ok().filter(|&n| n <= 1 << 24).ok_or_else(too_large)?;
            Numbers::Int((0..count).map(|i| start.saturating_add(i.saturating_mul(delta))).collect())
        }
        ([], &[start, limit, delta]) if delta != 0.0 => {
            let (start, delta) = (f64::from(start), f64::from(delta));
            let count = ((f64::from(limit) - start) / delta).ceil().max(0.0);
            if count.is_nan() || count > f64::from(1 << 24) {
                return Err(too_large());
            }
            Numbers::Float((0..count as u32).map(|i| (start + f64::from(i) * delta) as f32).collect())
        }
        _ => return Err(Fault::shape("start, limit and delta are of different types, or delta is 0")),
    };
    let data = numbers.cast(&elem)?;
    Ok(site.constant_of(Tensor::new(&[data.len()], data), elem, ""))
}

/// A truth value for each pair of elements.
pub(super) fn compare(
    site: &mut Site,
    ints: impl Fn(i64, i64) -> bool,
    floats: fn(f32, f32) -> bool,
) -> Outcome<ValueId> {
    let (a, _) = constant(site, 0)?;
    let (b, _) = constant(site, 1)?;
    let (dims, at) = broadcast(&[&a.dims, &b.dims])?;
    let pairs = at[0].iter().zip(&at[1]);
    let truth: Vec<u8> = match (Numbers::of(&a), Numbers::of(&b)) {
        (Numbers::Int(a), Numbers::Int(b)) => pairs.map(|(&i, &j)| u8::from(ints(a[i], b[j]))).collect(),
        (Numbers::Float(a), Numbers::Float(b)) => pairs.map(|(&i, &j)| u8::from(floats(a[i], b[j]))).collect(),
        _ => return Err(Fault::shape("the operands are of different types")),
    };
    Ok(site.constant_of(Tensor::new(&dims, Data::U8(truth)), Elem::Bool, ""))
}

/// Of constants; of integers of run time with one number, or with `0, 1, ..`, which is how exporters write a look-up.
pub(super) fn equal(site: &mut Site) -> Outcome<ValueId> {
    let (a, b) = (site.operand(0)?, site.operand(1)?);
    for (x, numbers) in [(a, b), (b, a)] {
        let found = match truth::is_number(site, x, numbers)? {
            Some(y) => Some(y),
            None => truth::one_hot(site, x, numbers)?,
        };
        if let Some(y) = found {
            return Ok(y);
        }
    }
    compare(site, |a, b| a == b, |a, b| a == b)
}

pub(super) fn less(site: &mut Site) -> Outcome<ValueId> {
    compare(site, |a, b| a < b, |a, b| a < b)
}

pub(super) fn greater(site: &mut Site) -> Outcome<ValueId> {
    compare(site, |a, b| a > b, |a, b| a > b)
}

pub(super) fn less_or_equal(site: &mut Site) -> Outcome<ValueId> {
    compare(site, |a, b| a <= b, |a, b| a <= b)
}

pub(super) fn greater_or_equal(site: &mut Site) -> Outcome<ValueId> {
    compare(site, |a, b| a >= b, |a, b| a >= b)
}

/// The remainder has the sign of the divisor; with `fmod` that of the dividend.
pub(super) fn modulo(site: &mut Site) -> Outcome<ValueId> {
    let fmod = site.attrs.flag("fmod", false)?;
    let (a, elem) = constant(site, 0)?;
    let (b, _) = constant(site, 1)?;
    let (dims, at) = broadcast(&[&a.dims, &b.dims])?;
    let pairs = at[0].iter().zip(&at[1]);
    let numbers = match (Numbers::of(&a), Numbers::of(&b)) {
        (Numbers::Int(a), Numbers::Int(b)) => {
            let remainder = |(&i, &j): (&usize, &usize)| {
                let of = a[i].checked_rem(b[j]).ok_or_else(|| Fault::shape("a remainder of a division by 0"))?;
                Ok(if !fmod && of != 0 && (of < 0) != (b[j] < 0) { of + b[j] } else { of })
            };
            Numbers::Int(pairs.map(remainder).collect::<Outcome<_>>()?)
        }
        (Numbers::Float(a), Numbers::Float(b)) if fmod => Numbers::Float(pairs.map(|(&i, &j)| a[i] % b[j]).collect()),
        _ => return Err(Fault::shape("the operands are of different types, or floats without `fmod`")),
    };
    let data = numbers.cast(&elem)?;
    Ok(site.constant_of(Tensor::new(&dims, data), elem, ""))
}

/// Selects elements of constants; with a condition that is the same everywhere, the branch itself.
pub(super) fn select(site: &mut Site) -> Outcome<ValueId> {
    let c = site.operand(0)?;
    let (x, y) = (site.operand(1)?, site.operand(2)?);
    selected(site, c, x, y, "")
}

/// `x` where `c` holds, else `y`.
pub(super) fn selected(site: &mut Site, c: ValueId, x: ValueId, y: ValueId, suffix: &str) -> Outcome<ValueId> {
    let Some(condition) = site.constant(c) else {
        return layout::apply(site, Opcode::Where, &[x, y, c], suffix);
    };
    if site.elem(x) != site.elem(y) {
        return Err(Fault::shape("the branches are of different types"));
    }
    let Data::U8(truth) = &condition.data else { return Err(Fault::shape("the condition is not of truth values")) };
    let elem = site.elem(x);
    let (x_dims, y_dims) = (site.dims(x), site.dims(y));
    if let (Some(a), Some(b)) = (site.constant(x), site.constant(y)) {
        let (dims, at) = broadcast(&[&condition.dims, &x_dims, &y_dims])?;
        let both = Attrs::new(Opcode::Concat).with("axis", 0);
        // Both branches one after the other, and from there by position.
        let split = a.data.len();
        let flat = |site: &mut Site, v, n: usize| layout::reshape(site, v, &[n], "flat");
        let (a, b) = (flat(site, x, split)?, flat(site, y, b.data.len())?);
        let joined = site.emit(Opcode::Concat, &[a, b], both, "joined")?;
        let position = |i: usize| if truth[at[0][i]] != 0 { at[1][i] } else { split + at[2][i] };
        let joined = site.constant(joined).ok_or_else(|| Fault::unsupported("a selection of this size"))?;
        let data = map_data!(&joined.data, v => (0..at[0].len()).map(|i| v[position(i)]).collect());
        return Ok(site.constant_of(Tensor::new(&dims, data), elem, suffix));
    }
    let branch = match truth.iter().filter(|&&t| t != 0).count() {
        0 => y,
        n if n == truth.len() => x,
        _ => return layout::apply(site, Opcode::Where, &[x, y, c], suffix),
    };
    let mut dims = condition.dims.clone();
    for other in [&x_dims, &y_dims] {
        dims = qcc_ir::shape::broadcast(&dims, other).map_err(Fault::shape)?;
    }
    layout::expand(site, branch, &dims)
}

pub(super) fn non_zero(site: &mut Site) -> Outcome<ValueId> {
    let (x, _) = constant(site, 0)?;
    let set: Vec<usize> = match Numbers::of(&x) {
        Numbers::Int(v) => (0..v.len()).filter(|&i| v[i] != 0).collect(),
        Numbers::Float(v) => (0..v.len()).filter(|&i| v[i] != 0.0).collect(),
    };
    let mut rows = Vec::new();
    let mut stride = x.data.len();
    for &d in &x.dims {
        stride /= d.max(1);
        rows.extend(set.iter().map(|&i| extent(i / stride.max(1) % d.max(1))).collect::<Outcome<Vec<_>>>()?);
    }
    Ok(int64(site, &[x.dims.len(), set.len()], rows))
}

pub(super) fn reduce_product(site: &mut Site) -> Outcome<ValueId> {
    let keep = site.attrs.flag("keepdims", true)?;
    let axes = site.int_list_since(18, "axes", 1)?;
    site.attrs.ignore(&["noop_with_empty_axes"]);
    let (x, elem) = constant(site, 0)?;
    let rank = x.dims.len();
    let all = axes.as_ref().is_none_or(|a| Site::axes(a, rank).is_ok_and(|a| a.len() == rank));
    if !all {
        return Err(Fault::unsupported("a product over some of the axes"));
    }
    let numbers = match Numbers::of(&x) {
        Numbers::Int(v) => {
            let product = v.iter().try_fold(1i64, |p, &x| p.checked_mul(x));
            Numbers::Int(vec![product.ok_or_else(|| Fault::shape("a product exceeds 64 bits"))?])
        }
        Numbers::Float(v) => Numbers::Float(vec![v.iter().product()]),
    };
    let data = numbers.cast(&elem)?;
    let dims = if keep { vec![1; rank] } else { Vec::new() };
    Ok(site.constant_of(Tensor::new(&dims, data), elem, ""))
}

/// Constants are converted; between floats, and from integers that real numbers hold, nothing has to be done.
pub(super) fn cast(site: &mut Site) -> Outcome<ValueId> {
    let to = site.attrs.int("to")?.ok_or_else(|| Fault::shape("attribute `to` is missing"))?;
    let to = i32::try_from(to).map_err(|_| Fault::shape(format!("element type number {to}")))?;
    let to = DataType::from_onnx(to)?;
    let x = site.operand(0)?;
    cast_to(site, x, to)
}

pub(super) fn cast_like(site: &mut Site) -> Outcome<ValueId> {
    let (x, like) = (site.operand(0)?, site.operand(1)?);
    let to = site.data_type(like);
    let to = to.ok_or_else(|| Fault::unsupported(format!("a cast to {}", site.elem(like))))?;
    cast_to(site, x, to)
}

fn cast_to(site: &mut Site, x: ValueId, to: DataType) -> Outcome<ValueId> {
    // Only casts to 8-bit floats saturate or round in another way.
    let saturate = site.attrs.flag("saturate", true)?;
    let mode = site.attrs.string("round_mode")?.unwrap_or("up").to_string();
    let (from, elem) = (site.elem(x), to.elem());
    if let (Some(tensor), None) = (site.constant(x), site.ty(x).uniform()) {
        let wider = from == Elem::F32 && elem == Elem::F32 && to.rounding(saturate).is_none() && to != DataType::F8e8m0;
        if site.data_type(x) == Some(to) || wider {
            return Ok(x);
        }
        let mut data = Numbers::of(&tensor).wrapped(to)?.cast(&elem)?;
        if let Data::F32(values) = &mut data {
            if let (Some(attrs), Class::Unary(round)) = (to.rounding(saturate), Opcode::RoundFloat.info().class) {
                values.iter_mut().for_each(|v| *v = round(&attrs, *v));
            }
            if to == DataType::F8e8m0 {
                values.iter_mut().try_for_each(|v| power_of_two(*v, &mode).map(|p| *v = p))?;
            }
        }
        return Ok(site.constant_like(Constant { tensor: Tensor::new(&tensor.dims, data), data_type: to }));
    }
    if let (Elem::F32, Some(attrs), true) = (&from, to.rounding(saturate), to.bits() <= 8) {
        return site.emit(Opcode::RoundFloat, &[x], attrs, "");
    }
    if to == DataType::F8e8m0 {
        return Err(Fault::unsupported("a conversion to powers of two at run time"));
    }
    if from == elem {
        return Ok(x);
    }
    if let Some(y) = of_table(site, x, &elem)? {
        return Ok(y);
    }
    let to = &elem;
    match (&from, to) {
        (Elem::Int(_), Elem::Bool) => truth::of_integers(site, x),
        (Elem::Bool, _) => truth::as_numbers(site, x, to),
        // Before a softmax they can be a mask: `canonicalize` knows these, and nothing else takes them.
        (Elem::Int(Int::I64 | Int::I32), Elem::F32) => {
            site.emit(Opcode::CastTo, &[x], Attrs::new(Opcode::CastTo).with("to", 0), "")
        }
        // Positions are read as 64-bit integers wherever they are used.
        (Elem::Int(Int::I32), Elem::Int(Int::I64)) => Ok(x),
        (Elem::Int(Int::I8 | Int::U8 | Int::I16) | Elem::Uniform(_), Elem::F32) => quantize::integers_as_reals(site, x),
        _ => Err(Fault::new(Code::UNSUPPORTED, format!("a conversion from {from} to {to} at run time"))),
    }
}

/// The power of two at or above a number, at or below it, or the nearest: the numbers of `float8e8m0`.
fn power_of_two(x: f32, mode: &str) -> Outcome<f32> {
    if !x.is_finite() {
        return Ok(f32::NAN);
    }
    let bits = x.to_bits();
    let (exponent, fraction) = ((bits >> 23) & 0xff, bits & 0x7f_ffff);
    let up = match mode {
        "up" => fraction > 0,
        "down" => false,
        "nearest" => fraction >= 1 << 22 && (fraction > 1 << 22 || exponent > 0),
        other => return Err(Fault::unsupported(format!("`round_mode` = {other:?} is not supported"))),
    };
    let exponent = (exponent + u32::from(up)).min(254);
    Ok((exponent as f32 - 127.0).exp2())
}

/// A conversion of what a constant table holds is a conversion of the table.
fn of_table(site: &mut Site, x: ValueId, to: &Elem) -> Outcome<Option<ValueId>> {
    let Some((table, positions, attrs)) = layout::looked_up(site, x) else { return Ok(None) };
    let Some(tensor) = site.constant(table).filter(|_| site.ty(table).uniform().is_none()) else { return Ok(None) };
    let data = Numbers::of(&tensor).cast(to)?;
    let table = site.constant_of(Tensor::new(&tensor.dims, data), to.clone(), "table");
    site.emit(Opcode::Gather, &[table, positions], attrs, "").map(Some)
}
