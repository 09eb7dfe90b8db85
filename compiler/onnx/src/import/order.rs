//! Greatest elements and where they are.

use qcc_ir::{Attrs, Opcode, ValueId, attr};

use super::layout::{self, apply};
use super::site::Site;
use crate::fault::{Fault, Outcome};

fn arg(site: &mut Site, greatest: bool) -> Outcome<ValueId> {
    let x = site.operand(0)?;
    let rank = site.ty(x).rank();
    let axis = Site::axis(site.attrs.int("axis")?.unwrap_or(0), rank)?;
    let keep = site.attrs.flag("keepdims", true)?;
    let last = site.attrs.flag("select_last_index", false)?;
    let axis = layout::extent(axis)?;
    let x = if greatest { x } else { apply(site, Opcode::Neg, &[x], "negated")? };
    let attrs = Attrs::new(Opcode::ArgMax).with(attr::AXIS, axis).with(attr::KEEPDIMS, keep).with(attr::LAST, last);
    site.emit(Opcode::ArgMax, &[x], attrs, "")
}

pub(super) fn arg_max(site: &mut Site) -> Outcome<ValueId> {
    arg(site, true)
}

pub(super) fn arg_min(site: &mut Site) -> Outcome<ValueId> {
    arg(site, false)
}

/// Elements and positions. Unsorted results may come in any order, so they are sorted too.
pub(super) fn top_k(site: &mut Site) -> Outcome<Vec<ValueId>> {
    let x = site.operand(0)?;
    let axis = Site::axis(site.attrs.int("axis")?.unwrap_or(-1), site.ty(x).rank())?;
    let (largest, _) = (site.attrs.flag("largest", true)?, site.attrs.flag("sorted", true)?);
    let k = match site.opset() {
        ..10 => site.attrs.int("k")?.map(|k| vec![k]),
        _ => site.int_list(1, "`k`")?,
    };
    let Some(&[k]) = k.as_deref() else { return Err(Fault::shape("`k` is not one number")) };
    let axis = layout::extent(axis)?;
    let attrs = |op| Attrs::new(op).with(attr::AXIS, axis).with(attr::K, k).with(attr::LARGEST, largest);
    let values = site.emit(Opcode::TopK, &[x], attrs(Opcode::TopK), "")?;
    Ok(vec![values, site.emit(Opcode::TopKIndex, &[x], attrs(Opcode::TopKIndex), "positions")?])
}
