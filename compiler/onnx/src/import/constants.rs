//! Operators that exist between constants only, evaluated here: shapes, ranges and integer arithmetic.

use qcc_ir::{Data, Elem, Int, Tensor, ValueId, map_data};

use super::layout::extent;
use super::numbers::{LARGE, Numbers, broadcast};
use super::site::Site;
use crate::element::DataType;
use crate::external::Folder;
use crate::fault::{Fault, Outcome};
use crate::rounding::{nearest, towards_zero};
use crate::tensor::{self, Constant};

/// Most elements of a constant of a given shape: test models have the weights of their largest layers so.
const GREATEST: usize = 1 << 27;

fn int64(site: &mut Site, dims: &[usize], values: Vec<i64>) -> ValueId {
    site.constant_of(Tensor::new(dims, Data::I64(values)), Elem::Int(Int::I64), "")
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
        let tensor = site.known(i)?;
        elem = site.operand_elem(i)?;
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
            let count = u32::try_from(towards_zero(count)).map_err(|_| too_large())?;
            Numbers::Float((0..count).map(|i| nearest(start + f64::from(i) * delta)).collect())
        }
        _ => return Err(Fault::shape("start, limit and delta are of different types, or delta is 0")),
    };
    let data = numbers.cast(&elem)?;
    Ok(site.constant_of(Tensor::new(&[data.len()], data), elem, ""))
}

/// The remainder has the sign of the divisor; with `fmod` that of the dividend.
pub(super) fn modulo(site: &mut Site) -> Outcome<ValueId> {
    let fmod = site.attrs.flag("fmod", false)?;
    let (a, elem) = (site.known(0)?, site.operand_elem(0)?);
    let b = site.known(1)?;
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

pub(super) fn non_zero(site: &mut Site) -> Outcome<ValueId> {
    let x = site.known(0)?;
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
    let (x, elem) = (site.known(0)?, site.operand_elem(0)?);
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
