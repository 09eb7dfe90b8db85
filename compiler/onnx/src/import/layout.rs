//! Emission of data movement, the building blocks of most decompositions. What would change nothing adds nothing.

use qcc_ir::{Attrs, Data, Elem, Int, Opcode, Tensor, ValueId, attr, shape};

use super::site::Site;
use crate::fault::{Fault, Outcome};

/// An extent or an axis as an attribute.
pub(super) fn extent(d: usize) -> Outcome<i64> {
    i64::try_from(d).map_err(|_| Fault::shape("a dimension exceeds 63 bits"))
}

/// Extents as an attribute.
pub(super) fn list(dims: &[usize]) -> Outcome<Vec<i64>> {
    let wide: Option<Vec<i64>> = dims.iter().map(|&d| i64::try_from(d).ok()).collect();
    wide.ok_or_else(|| Fault::shape(format!("{dims:?} exceeds 63 bits")))
}

/// The product of extents.
pub(super) fn product(dims: &[usize]) -> Outcome<usize> {
    let product = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    product.ok_or_else(|| Fault::shape(format!("shape {dims:?} has too many elements")))
}

/// The same elements in another shape.
pub(super) fn reshape(site: &mut Site, x: ValueId, dims: &[usize], suffix: &str) -> Outcome<ValueId> {
    if site.ty(x).dims == dims {
        return Ok(x);
    }
    site.emit(Opcode::Reshape, &[x], Attrs::new(Opcode::Reshape).with(attr::SHAPE, list(dims)?), suffix)
}

/// Dimension `i` of the result is dimension `perm[i]`.
pub(super) fn transpose(site: &mut Site, x: ValueId, perm: &[usize], suffix: &str) -> Outcome<ValueId> {
    if perm.iter().enumerate().all(|(i, &p)| i == p) && perm.len() == site.ty(x).rank() {
        return Ok(x);
    }
    site.emit(Opcode::Transpose, &[x], Attrs::new(Opcode::Transpose).with(attr::PERM, list(perm)?), suffix)
}

/// Broadcast to a shape.
pub(super) fn expand(site: &mut Site, x: ValueId, dims: &[usize]) -> Outcome<ValueId> {
    if site.ty(x).dims == dims {
        return Ok(x);
    }
    site.emit(Opcode::Expand, &[x], Attrs::new(Opcode::Expand).with(attr::SHAPE, list(dims)?), "expanded")
}

/// The elements at these positions of an axis, counted from the front.
pub(super) fn at_positions(
    site: &mut Site,
    x: ValueId,
    axis: usize,
    positions: &[usize],
    suffix: &str,
) -> Outcome<ValueId> {
    let whole = site.ty(x).dims.get(axis) == Some(&positions.len());
    if whole && positions.iter().enumerate().all(|(i, &p)| i == p) {
        return Ok(x);
    }
    let tensor = Tensor::new(&[positions.len()], Data::I64(list(positions)?));
    let positions = site.constant_of(tensor, Elem::Int(Int::I64), "positions");
    let axis = extent(axis)?;
    site.emit(Opcode::Gather, &[x, positions], Attrs::new(Opcode::Gather).with(attr::AXIS, axis), suffix)
}

/// Which of two neighbours a repetition keeps together.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// Each element: `a a b b`.
    Elements,
    /// The whole dimension: `a b a b`.
    Whole,
}

/// Repeats along each dimension: a new dimension is inserted beside each, broadcast, and merged.
pub(super) fn repeat(site: &mut Site, x: ValueId, times: &[usize], how: Repeat) -> Outcome<ValueId> {
    let dims = site.dims(x);
    if dims.len() == times.len() && dims.iter().zip(times).all(|(&d, &r)| d == 1 || r == 1) {
        let wide: Vec<usize> = dims.iter().zip(times).map(|(&d, &r)| d.max(r)).collect();
        return expand(site, x, &wide);
    }
    let (mut split, mut wide, mut merged) = (Vec::new(), Vec::new(), Vec::new());
    for (&d, &r) in dims.iter().zip(times) {
        match (r, how) {
            (1, _) => split.push(d),
            (_, Repeat::Elements) => split.extend([d, 1]),
            (_, Repeat::Whole) => split.extend([1, d]),
        }
        match (r, how) {
            (1, _) => wide.push(d),
            (_, Repeat::Elements) => wide.extend([d, r]),
            (_, Repeat::Whole) => wide.extend([r, d]),
        }
        merged.push(product(&[d, r])?);
    }
    let x = reshape(site, x, &split, "split")?;
    let x = expand(site, x, &wide)?;
    reshape(site, x, &merged, "repeated")
}

/// An elementwise operation.
pub(super) fn apply(site: &mut Site, op: Opcode, operands: &[ValueId], suffix: &str) -> Outcome<ValueId> {
    site.emit(op, operands, Attrs::new(op), suffix)
}

/// The shape to which a value and `dims` broadcast.
pub(super) fn broadcast(site: &Site, x: ValueId, dims: &[usize]) -> Outcome<Vec<usize>> {
    shape::broadcast(&site.ty(x).dims, dims).map_err(Fault::shape)
}

/// Table, positions and attributes of a look-up in a constant whose rows follow its first axis.
pub(super) fn looked_up(site: &mut Site, x: ValueId) -> Option<(ValueId, ValueId, Attrs)> {
    let graph = site.builder().graph();
    let n = graph.producer(x).filter(|&n| graph.op(n) == Opcode::Gather)?;
    let (operands, attrs) = (graph.operands(n), graph.node(n).attrs.clone());
    let found = graph.constant(operands[0]).is_some() && attrs.get(attr::AXIS) == 0;
    found.then(|| (operands[0], operands[1], attrs))
}
