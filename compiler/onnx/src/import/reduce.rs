//! Reductions, softmax and what is computed from them.

use qcc_ir::{Attrs, Opcode, ValueId};

use super::layout::{self, apply};
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
    let attrs = Attrs::new(op).with("axes", layout::list(axes)?).with("keepdims", keep);
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
        let axis = i64::try_from(axis).map_err(|_| Fault::shape("an axis exceeds 63 bits"))?;
        site.emit(Opcode::Softmax, &[x], Attrs::new(Opcode::Softmax).with("axis", axis), "softmax")
    })
}

/// `d - log(sum(exp(d)))` with `d = x - max(x)`, which neither overflows nor loses small probabilities.
pub(super) fn log_softmax(site: &mut Site) -> Outcome<ValueId> {
    along(site, |site, x, axis| {
        let greatest = over(site, Opcode::ReduceMax, x, &[axis], true, "max")?;
        let shifted = apply(site, Opcode::Sub, &[x, greatest], "shifted")?;
        let exp = apply(site, Opcode::Exp, &[shifted], "exp")?;
        let sum = over(site, Opcode::ReduceSum, exp, &[axis], true, "sum")?;
        let log = apply(site, Opcode::Log, &[sum], "log")?;
        apply(site, Opcode::Sub, &[shifted, log], "log_softmax")
    })
}
