//! `Where`: of constants evaluated here, with a condition that is the same everywhere one of the branches.

use qcc_ir::{Attrs, Data, Opcode, Tensor, ValueId, attr, map_data};

use super::layout;
use super::numbers::broadcast;
use super::site::Site;
use crate::fault::{Fault, Outcome};

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
    let Data::U8(holds) = &condition.data else { return Err(Fault::shape("the condition is not of booleans")) };
    let elem = site.elem(x);
    let (x_dims, y_dims) = (site.dims(x), site.dims(y));
    if let (Some(a), Some(b)) = (site.constant(x), site.constant(y)) {
        let (dims, at) = broadcast(&[&condition.dims, &x_dims, &y_dims])?;
        let both = Attrs::new(Opcode::Concat).with(attr::AXIS, 0);
        // Both branches one after the other, and from there by position.
        let split = a.data.len();
        let flat = |site: &mut Site, v, n: usize| layout::reshape(site, v, &[n], "flat");
        let (a, b) = (flat(site, x, split)?, flat(site, y, b.data.len())?);
        let joined = site.emit(Opcode::Concat, &[a, b], both, "joined")?;
        let position = |i: usize| if holds[at[0][i]] != 0 { at[1][i] } else { split + at[2][i] };
        let joined = site.constant(joined).ok_or_else(|| Fault::unsupported("a selection of this size"))?;
        let data = map_data!(&joined.data, v => (0..at[0].len()).map(|i| v[position(i)]).collect());
        return Ok(site.constant_of(Tensor::new(&dims, data), elem, suffix));
    }
    let branch = match holds.iter().filter(|&&t| t != 0).count() {
        0 => y,
        n if n == holds.len() => x,
        _ => return layout::apply(site, Opcode::Where, &[x, y, c], suffix),
    };
    let mut dims = condition.dims.clone();
    for other in [&x_dims, &y_dims] {
        dims = qcc_ir::shape::broadcast(&dims, other).map_err(Fault::shape)?;
    }
    layout::expand(site, branch, &dims)
}
