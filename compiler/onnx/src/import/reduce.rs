//! Reductions, softmax and what is computed from them.

use qcc_ir::{Attrs, Data, Elem, Opcode, Tensor, ValueId, attr};

use super::layout::{self, apply};
use super::numbers::listed;
use super::site::Site;
use crate::fault::{Fault, Outcome};

/// Axes are an attribute before operator set 18, for `ReduceSum` before 13. No axes are all axes, unless
/// `noop_with_empty_axes`, which gives `None`.
fn axes(site: &mut Site, rank: usize, since: i64) -> Outcome<Option<Vec<usize>>> {
    let given = site.int_list_since(since, "axes", 1)?.filter(|a| !a.is_empty());
    let noop = site.opset() >= since && site.attrs.flag("noop_with_empty_axes", false)?;
    match given {
        Some(given) => Site::axes(&given, rank).map(Some),
        None if noop => Ok(None),
        None => Ok(Some((0..rank).collect())),
    }
}

/// A reduction of `before(x)`, followed by `after`.
fn reduction(
    site: &mut Site,
    op: Opcode,
    since: i64,
    before: Option<Opcode>,
    after: Option<Opcode>,
) -> Outcome<ValueId> {
    let mut x = site.operand(0)?;
    let keep = site.attrs.flag("keepdims", true)?;
    let axes = axes(site, site.ty(x).rank(), since)?;
    match before {
        Some(Opcode::Mul) => x = apply(site, Opcode::Mul, &[x, x], "square")?,
        Some(op) => x = apply(site, op, &[x], "inner")?,
        None => {}
    }
    if let Some(axes) = axes.filter(|a| !a.is_empty()) {
        x = over(site, op, x, &axes, keep, "reduced")?;
    }
    match after {
        Some(op) => apply(site, op, &[x], ""),
        None => Ok(x),
    }
}

/// One reduction over known axes.
pub(super) fn over(
    site: &mut Site,
    op: Opcode,
    x: ValueId,
    axes: &[usize],
    keep: bool,
    suffix: &str,
) -> Outcome<ValueId> {
    let attrs = Attrs::new(op).with(attr::AXES, layout::list(axes)?).with(attr::KEEPDIMS, keep);
    site.emit(op, &[x], attrs, suffix)
}

pub(super) fn mean(site: &mut Site) -> Outcome<ValueId> {
    reduction(site, Opcode::ReduceMean, 18, None, None)
}

pub(super) fn sum(site: &mut Site) -> Outcome<ValueId> {
    reduction(site, Opcode::ReduceSum, 13, None, None)
}

pub(super) fn max(site: &mut Site) -> Outcome<ValueId> {
    reduction(site, Opcode::ReduceMax, 18, None, None)
}

pub(super) fn min(site: &mut Site) -> Outcome<ValueId> {
    reduction(site, Opcode::ReduceMin, 18, None, None)
}

pub(super) fn l1(site: &mut Site) -> Outcome<ValueId> {
    reduction(site, Opcode::ReduceSum, 18, Some(Opcode::Abs), None)
}

pub(super) fn l2(site: &mut Site) -> Outcome<ValueId> {
    reduction(site, Opcode::ReduceSum, 18, Some(Opcode::Mul), Some(Opcode::Sqrt))
}

pub(super) fn sum_square(site: &mut Site) -> Outcome<ValueId> {
    reduction(site, Opcode::ReduceSum, 18, Some(Opcode::Mul), None)
}

pub(super) fn log_sum(site: &mut Site) -> Outcome<ValueId> {
    reduction(site, Opcode::ReduceSum, 18, None, Some(Opcode::Log))
}

/// `max(x) - log(max(softmax(x)))`, in which nothing is large: the greatest share is `1 / sum(exp(x - max(x)))`. One axis after the
/// other.
pub(super) fn log_sum_exp(site: &mut Site) -> Outcome<ValueId> {
    let mut x = site.operand(0)?;
    let keep = site.attrs.flag("keepdims", true)?;
    let Some(axes) = axes(site, site.ty(x).rank(), 18)?.filter(|axes| !axes.is_empty()) else { return Ok(x) };
    for &axis in &axes {
        let greatest = over(site, Opcode::ReduceMax, x, &[axis], true, "greatest")?;
        let log = log_of_greatest_share(site, x, axis)?;
        x = apply(site, Opcode::Sub, &[greatest, log], "")?;
    }
    let dims = site.dims(x);
    let kept: Vec<usize> = (0..dims.len()).filter(|d| keep || !axes.contains(d)).map(|d| dims[d]).collect();
    layout::reshape(site, x, &kept, "reduced")
}

/// `log(max(softmax(x)))` along an axis: minus the logarithm of the sum of `exp(x - max(x))`.
fn log_of_greatest_share(site: &mut Site, x: ValueId, axis: usize) -> Outcome<ValueId> {
    let attrs = Attrs::new(Opcode::Softmax).with(attr::AXIS, layout::extent(axis)?);
    let shares = site.emit(Opcode::Softmax, &[x], attrs, "shares")?;
    let share = over(site, Opcode::ReduceMax, shares, &[axis], true, "share")?;
    apply(site, Opcode::Log, &[share], "log")
}

/// Sums of all elements up to each along an axis: of real numbers a product with a triangle of ones.
pub(super) fn running_sum(site: &mut Site) -> Outcome<ValueId> {
    let x = site.operand(0)?;
    let dims = site.dims(x);
    let axis = match site.int_list(1, "`axis`")?.as_deref() {
        Some(&[axis]) => Site::axis(axis, dims.len())?,
        _ => return Err(Fault::shape("`axis` is not one number")),
    };
    let (exclusive, reverse) = (site.attrs.flag("exclusive", false)?, site.attrs.flag("reverse", false)?);
    let counts = |from: usize, to: usize| {
        let (from, to) = if reverse { (to, from) } else { (from, to) };
        from < to || from == to && !exclusive
    };
    let n = dims[axis];
    if site.elem(x) == Elem::F32 {
        let ones = (0..listed(&[n, n])?).map(|i| f32::from(u8::from(counts(i / n, i % n)))).collect();
        let triangle = site.floats(&[n, n], ones, "triangle");
        let mut perm: Vec<usize> = (0..dims.len()).filter(|&d| d != axis).collect();
        perm.push(axis);
        let rows = layout::transpose(site, x, &perm, "rows")?;
        let rows = if dims.len() == 1 { layout::reshape(site, rows, &[1, n], "row")? } else { rows };
        let sums = apply(site, Opcode::MatMul, &[rows, triangle], "sums")?;
        let sums = if dims.len() == 1 { layout::reshape(site, sums, &[n], "row")? } else { sums };
        let back: Vec<usize> = (0..dims.len()).map(|d| perm.iter().position(|&p| p == d).unwrap_or(d)).collect();
        return layout::transpose(site, sums, &back, "");
    }
    let elem = site.elem(x);
    let Some(tensor) = site.constant(x) else {
        return Err(Fault::unsupported("sums of integers that the model computes at run time"));
    };
    let inner: usize = dims[axis + 1..].iter().product();
    let terms = |i: usize| {
        let (first, at) = (i - i / inner % n * inner, i / inner % n);
        (0..n).filter(move |&k| counts(k, at)).map(move |k| first + k * inner)
    };
    let data = match &tensor.data {
        Data::I64(v) => Data::I64((0..v.len()).map(|i| terms(i).fold(0i64, |s, k| s.wrapping_add(v[k]))).collect()),
        Data::I32(v) => Data::I32((0..v.len()).map(|i| terms(i).fold(0i32, |s, k| s.wrapping_add(v[k]))).collect()),
        _ => return Err(Fault::unsupported(format!("sums of {elem}"))),
    };
    Ok(site.constant_of(Tensor::new(&dims, data), elem, ""))
}

/// Runs `body` on operand 0 and an axis. Before operator set 13 all dimensions from the axis on are one.
fn along(site: &mut Site, body: fn(&mut Site, ValueId, usize) -> Outcome<ValueId>) -> Outcome<ValueId> {
    let x = site.operand(0)?;
    let dims = site.dims(x);
    let axis = site.attrs.int("axis")?.unwrap_or(if site.opset() < 13 { 1 } else { -1 });
    if site.opset() < 13 && usize::try_from(axis) == Ok(dims.len()) {
        return Err(Fault::shape(format!("axis {axis} of {} dimensions", dims.len())));
    }
    let axis = Site::axis(axis, dims.len())?;
    if site.opset() >= 13 || axis + 1 == dims.len() {
        return body(site, x, axis);
    }
    let (outer, inner) = dims.split_at(axis);
    let flat = layout::reshape(site, x, &[layout::product(outer)?, layout::product(inner)?], "rows")?;
    let y = body(site, flat, 1)?;
    layout::reshape(site, y, &dims, "")
}

pub(super) fn softmax(site: &mut Site) -> Outcome<ValueId> {
    along(site, |site, x, axis| {
        let axis = layout::extent(axis)?;
        site.emit(Opcode::Softmax, &[x], Attrs::new(Opcode::Softmax).with(attr::AXIS, axis), "softmax")
    })
}

/// `x - max(x) + log(max(softmax(x)))`, which neither overflows nor loses small probabilities.
pub(super) fn log_softmax(site: &mut Site) -> Outcome<ValueId> {
    along(site, |site, x, axis| {
        let greatest = over(site, Opcode::ReduceMax, x, &[axis], true, "max")?;
        let shifted = apply(site, Opcode::Sub, &[x, greatest], "shifted")?;
        let log = log_of_greatest_share(site, x, axis)?;
        apply(site, Opcode::Add, &[shifted, log], "log_softmax")
    })
}
