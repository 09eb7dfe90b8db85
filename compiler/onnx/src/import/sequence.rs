//! Sequences of tensors whose number is known at compile time: exporters write them where a model splits a tensor and takes
//! the parts one by one. No sequence gets into the graph: one is a list of values, and an operator that reads it has its
//! elements among its operands.

use qcc_ir::{Data, Elem, Int, Tensor, ValueId};

use super::site::{MOST_OPERANDS, Site};
use super::{layout, shape_ops, slice};
use crate::fault::{Fault, Outcome};

/// Most elements of a sequence: they and a position are the operands of a node.
const LONGEST: usize = MOST_OPERANDS - 1;

/// `split` is a size for each part, one size for all of which the last may be smaller, or absent: parts of one element.
pub(super) fn split(site: &mut Site) -> Outcome<Vec<ValueId>> {
    let x = site.operand(0)?;
    let dims = site.dims(x);
    let axis = Site::axis(site.attrs.int("axis")?.unwrap_or(0), dims.len())?;
    let keeps = site.attrs.flag("keepdims", true)?;
    let extent = dims[axis];
    let each = |size: usize| match extent.div_ceil(size) {
        0..=LONGEST => Ok((0..extent).step_by(size).map(|at| size.min(extent - at)).collect()),
        n => Err(Fault::unsupported(format!("a sequence of {n} tensors"))),
    };
    let split = site.optional(1);
    let is_list = split.is_some_and(|v| site.ty(v).rank() > 0);
    let sizes: Vec<usize> = match (split, site.int_list(1, "`split`")?.as_deref()) {
        (None, _) => each(1)?,
        (Some(_), Some(&[size])) if !is_list => match usize::try_from(size) {
            Ok(size @ 1..) => each(size)?,
            _ => return Err(Fault::shape(format!("parts of {size} elements"))),
        },
        (Some(_), sizes) => crate::tensor::extents(sizes.unwrap_or_default())?,
    };
    if sizes.is_empty() {
        return Err(Fault::unsupported("a sequence without tensors"));
    }
    let parts = slice::parts(site, x, axis, &sizes)?;
    if keeps || split.is_some() {
        return Ok(parts);
    }
    let kept: Vec<usize> = dims.iter().enumerate().filter(|(i, _)| *i != axis).map(|(_, &d)| d).collect();
    parts.into_iter().map(|part| layout::reshape(site, part, &kept, "element")).collect()
}

pub(super) fn construct(site: &mut Site) -> Outcome<Vec<ValueId>> {
    match site.all_operands()? {
        elements if elements.is_empty() => Err(Fault::shape("a sequence without tensors")),
        elements => Ok(elements),
    }
}

/// The elements come first among the operands, the position last; it may count from the end.
pub(super) fn at(site: &mut Site) -> Outcome<ValueId> {
    let mut elements = site.all_operands()?;
    elements.pop();
    let position = site.int_list(elements.len(), "the position in a sequence")?.unwrap_or_default();
    let &[position] = position.as_slice() else { return Err(Fault::shape("the position is not one number")) };
    let n = elements.len();
    let from_front = usize::try_from(position).ok();
    let from_end =
        usize::try_from(position.unsigned_abs()).ok().filter(|_| position < 0).and_then(|p| n.checked_sub(p));
    let found = from_front.or(from_end).and_then(|i| elements.get(i)).copied();
    found.ok_or_else(|| Fault::shape(format!("position {position} in a sequence of {n} tensors")))
}

pub(super) fn length(site: &mut Site) -> Outcome<ValueId> {
    let n = layout::list(&[site.all_operands()?.len()])?;
    Ok(site.constant_of(Tensor::new(&[], Data::I64(n)), Elem::Int(Int::I64), ""))
}

/// With `new_axis` the elements lie behind one another in a dimension of their own.
pub(super) fn concat(site: &mut Site) -> Outcome<ValueId> {
    let mut elements = site.all_operands()?;
    let axis = site.attrs.int("axis")?.ok_or_else(|| Fault::shape("attribute `axis` is missing"))?;
    if site.attrs.flag("new_axis", false)? {
        for v in &mut elements {
            let mut dims = site.dims(*v);
            dims.insert(Site::axis(axis, dims.len() + 1)?, 1);
            *v = layout::reshape(site, *v, &dims, "element")?;
        }
    }
    shape_ops::join(site, elements, axis)
}
