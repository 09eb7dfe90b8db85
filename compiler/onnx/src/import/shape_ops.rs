//! Operators that move elements, all but slices.

use std::collections::HashSet;

use qcc_ir::{Attrs, Data, Elem, Int, Opcode, Tensor, ValueId, attr};

use super::cast;
use super::layout::{self, Repeat};
use super::numbers::Numbers;
use super::site::Site;
use super::slice;
use crate::fault::{Fault, Outcome};

pub(super) fn reshape(site: &mut Site) -> Outcome<ValueId> {
    let x = site.operand(0)?;
    let shape = site.int_list(1, "the shape's dimensions")?.ok_or_else(|| Fault::shape("operand 1 is missing"))?;
    let zero_is_zero = site.opset() >= 14 && site.attrs.flag("allowzero", false)?;
    let own = site.dims(x);
    let unfit = || Fault::shape(format!("shape {own:?} into {shape:?}"));
    let mut open = None;
    let mut dims = Vec::new();
    for (i, &d) in shape.iter().enumerate() {
        dims.push(match d {
            -1 if open.is_none() => {
                open = Some(i);
                1
            }
            0 if !zero_is_zero => *own.get(i).ok_or_else(unfit)?,
            d => usize::try_from(d).map_err(|_| unfit())?,
        });
    }
    if let Some(i) = open {
        let (all, known) = (layout::product(&own)?, layout::product(&dims)?);
        let rest = all.checked_div(known).filter(|rest| rest * known == all).ok_or_else(unfit)?;
        dims[i] = rest;
    }
    layout::reshape(site, x, &dims, "")
}

/// Two dimensions: those before the axis, and the others.
pub(super) fn flatten(site: &mut Site) -> Outcome<ValueId> {
    let x = site.operand(0)?;
    let dims = site.dims(x);
    let axis = site.attrs.int("axis")?.unwrap_or(1);
    // The axis may lie behind the last dimension.
    let axis = if usize::try_from(axis) == Ok(dims.len()) { dims.len() } else { Site::axis(axis, dims.len())? };
    let (outer, inner) = dims.split_at(axis);
    layout::reshape(site, x, &[layout::product(outer)?, layout::product(inner)?], "")
}

pub(super) fn squeeze(site: &mut Site) -> Outcome<ValueId> {
    let x = site.operand(0)?;
    let dims = site.dims(x);
    let axes = match site.int_list_since(13, "axes", 1)? {
        Some(axes) => Site::axes(&axes, dims.len())?,
        None => (0..dims.len()).filter(|&i| dims[i] == 1).collect(),
    };
    if let Some(&axis) = axes.iter().find(|&&a| dims[a] != 1) {
        return Err(Fault::shape(format!("dimension {axis} of {dims:?} is not 1")));
    }
    let kept: Vec<usize> = (0..dims.len()).filter(|i| !axes.contains(i)).map(|i| dims[i]).collect();
    layout::reshape(site, x, &kept, "")
}

pub(super) fn unsqueeze(site: &mut Site) -> Outcome<ValueId> {
    let x = site.operand(0)?;
    let mut own = site.dims(x).into_iter();
    let axes = site.int_list_since(13, "axes", 1)?.ok_or_else(|| Fault::shape("`axes` is missing"))?;
    let rank = own.len() + axes.len();
    let axes: HashSet<usize> = Site::axes(&axes, rank)?.into_iter().collect();
    let dims: Vec<usize> = (0..rank).filter_map(|i| if axes.contains(&i) { Some(1) } else { own.next() }).collect();
    layout::reshape(site, x, &dims, "")
}

pub(super) fn transpose(site: &mut Site) -> Outcome<ValueId> {
    let x = site.operand(0)?;
    let rank = site.ty(x).rank();
    let perm: Vec<usize> = match site.attrs.ints("perm")? {
        Some(perm) => Site::axes(perm, rank)?,
        None => (0..rank).rev().collect(),
    };
    layout::transpose(site, x, &perm, "")
}

/// Constants without elements take no part.
pub(super) fn concat(site: &mut Site) -> Outcome<ValueId> {
    let operands = site.all_operands()?;
    let axis = site.attrs.int("axis")?.ok_or_else(|| Fault::shape("attribute `axis` is missing"))?;
    join(site, operands, axis)
}

/// Values behind one another along an axis, which may count from the end.
pub(super) fn join(site: &mut Site, mut operands: Vec<ValueId>, axis: i64) -> Outcome<ValueId> {
    let Some(&first) = operands.first() else { return Err(Fault::shape("there is no operand")) };
    let axis = Site::axis(axis, site.ty(first).rank())?;
    if operands.iter().any(|&v| !site.ty(v).dims.contains(&0)) {
        operands.retain(|&v| site.ty(v).dims.get(axis) != Some(&0));
    }
    match operands.as_slice() {
        [one] => Ok(*one),
        _ => {
            let axis = layout::extent(axis)?;
            site.emit(Opcode::Concat, &operands, Attrs::new(Opcode::Concat).with(attr::AXIS, axis), "")
        }
    }
}

/// Which element of a dimension of `n` stands at position `i`, counted from its first element, in front of or behind it.
fn continued(mode: &str, i: i64, n: i64) -> i64 {
    match mode {
        "edge" => i.clamp(0, n - 1),
        "wrap" => i.rem_euclid(n),
        _ if n == 1 => 0,
        // Reflected at the outermost elements, which are not repeated.
        _ => {
            let i = i.rem_euclid(2 * (n - 1));
            i.min(2 * (n - 1) - i)
        }
    }
}

/// Pads with a constant, or with elements of the operand; a negative number of elements is cut away.
pub(super) fn pad(site: &mut Site) -> Outcome<ValueId> {
    let x = site.operand(0)?;
    let mode = site.attrs.string("mode")?.unwrap_or("constant");
    if !matches!(mode, "constant" | "edge" | "reflect" | "wrap") {
        return Err(Fault::unsupported(format!("`mode` = {mode:?} is not supported")));
    }
    let rank = site.ty(x).rank();
    let pads = site.int_list_since(11, "pads", 1)?.ok_or_else(|| Fault::shape("`pads` is missing"))?;
    let value = if site.opset() < 11 {
        site.attrs.float("value")?.unwrap_or(0.0)
    } else {
        match site.numbers(2, "the value of padding")? {
            None => 0.0,
            Some(Numbers::Float(v)) if v.len() == 1 => v[0],
            Some(Numbers::Int(v)) if v.len() == 1 => v[0] as f32,
            Some(_) => return Err(Fault::shape("the value of padding is no scalar")),
        }
    };
    if value.is_nan() {
        return Err(Fault::shape("the value of padding is not a number"));
    }
    let axes = match site.int_list(3, "`axes`")? {
        Some(axes) => Site::axes(&axes, rank)?,
        None => (0..rank).collect(),
    };
    if pads.len() != 2 * axes.len() {
        return Err(Fault::shape(format!("`pads` has {} elements, not {}", pads.len(), 2 * axes.len())));
    }
    let mut full = vec![0i64; 2 * rank];
    for (i, &axis) in axes.iter().enumerate() {
        full[axis] = pads[i];
        full[rank + axis] = pads[axes.len() + i];
    }
    let mut y = x;
    if full.iter().any(|&p| p < 0) {
        y = slice::cut(site, y, &full)?;
    }
    full.iter_mut().for_each(|p| *p = (*p).max(0));
    if full.iter().all(|&p| p == 0) {
        return Ok(y);
    }
    if mode != "constant" {
        for axis in 0..rank {
            let n = site.dims(y)[axis];
            let (before, after) = (full[axis], full[rank + axis]);
            let too_large = || Fault::shape(format!("`pads` {full:?} are too large"));
            let n = i64::try_from(n).ok().filter(|n| *n > 0 && before + after < 1 << 24).ok_or_else(too_large)?;
            let positions = (-before..n + after).map(|i| usize::try_from(continued(mode, i, n)));
            let positions: Vec<usize> = positions.collect::<Result<_, _>>().map_err(|_| too_large())?;
            y = layout::at_positions(site, y, axis, &positions, "padded")?;
        }
        return Ok(y);
    }
    site.emit(Opcode::Pad, &[y], Attrs::new(Opcode::Pad).with(attr::PADS, full).with(attr::VALUE, value), "")
}

/// Constant positions are checked and counted from the front.
pub(super) fn gather(site: &mut Site) -> Outcome<ValueId> {
    let (x, mut positions) = (site.operand(0)?, site.operand(1)?);
    let dims = site.dims(x);
    let axis = Site::axis(site.attrs.int("axis")?.unwrap_or(0), dims.len())?;
    if let Some(tensor) = site.constant(positions) {
        let Numbers::Int(values) = Numbers::of(&tensor) else { return Err(Fault::shape("positions are not integers")) };
        let wide = layout::extent(dims[axis])?;
        let outside = |v: i64| Fault::shape(format!("position {v} in a dimension of {wide}"));
        let from_front = |&v: &i64| match v {
            v if v < -wide || v >= wide => Err(outside(v)),
            v if v < 0 => Ok(v + wide),
            v => Ok(v),
        };
        let values: Vec<i64> = values.iter().map(from_front).collect::<Outcome<_>>()?;
        let tensor = Tensor::new(&tensor.dims, Data::I64(values));
        positions = site.constant_of(tensor, Elem::Int(Int::I64), "positions");
    }
    // Positions are the same in whatever integers.
    let positions = cast::positions(site, positions);
    let axis = layout::extent(axis)?;
    site.emit(Opcode::Gather, &[x, positions], Attrs::new(Opcode::Gather).with(attr::AXIS, axis), "")
}

pub(super) fn expand(site: &mut Site) -> Outcome<ValueId> {
    let x = site.operand(0)?;
    let shape = site.int_list(1, "the shape's dimensions")?.ok_or_else(|| Fault::shape("operand 1 is missing"))?;
    let dims = layout::broadcast(site, x, &crate::tensor::extents(&shape)?)?;
    layout::expand(site, x, &dims)
}

pub(super) fn tile(site: &mut Site) -> Outcome<ValueId> {
    let x = site.operand(0)?;
    let times = site.int_list(1, "`repeats`")?.ok_or_else(|| Fault::shape("operand 1 is missing"))?;
    let times = crate::tensor::extents(&times)?;
    if times.len() != site.ty(x).rank() {
        return Err(Fault::shape(format!("`repeats` is {times:?}")));
    }
    layout::repeat(site, x, &times, Repeat::Whole)
}

/// Block size of `[N, C, H, W]`, and the four extents.
fn blocks(site: &mut Site, x: ValueId) -> Outcome<(usize, [usize; 4])> {
    let block = site.attrs.int("blocksize")?.and_then(|b| usize::try_from(b).ok()).filter(|&b| b > 0);
    let block = block.ok_or_else(|| Fault::shape("`blocksize` is not a positive number"))?;
    let dims = site.dims(x);
    let dims = <[usize; 4]>::try_from(dims).map_err(|dims| Fault::shape(format!("shape {dims:?} is not of rank 4")))?;
    Ok((block, dims))
}

/// Channels are ordered [block row, block column, channel] (`DCR`) or [channel, block row, block column] (`CRD`).
pub(super) fn depth_to_space(site: &mut Site) -> Outcome<ValueId> {
    let x = site.operand(0)?;
    let (b, [n, c, h, w]) = blocks(site, x)?;
    let depth = b.checked_mul(b).filter(|&area| c % area == 0).map(|area| c / area);
    let depth = depth.ok_or_else(|| Fault::shape(format!("{c} channels in blocks of {b}")))?;
    let (split, perm) = match site.attrs.string("mode")?.unwrap_or("DCR") {
        "DCR" => ([n, b, b, depth, h, w], [0, 3, 4, 1, 5, 2]),
        "CRD" => ([n, depth, b, b, h, w], [0, 1, 4, 2, 5, 3]),
        mode => return Err(Fault::unsupported(format!("`mode` = {mode:?} is not supported"))),
    };
    let x = layout::reshape(site, x, &split, "blocks")?;
    let x = layout::transpose(site, x, &perm, "moved")?;
    layout::reshape(site, x, &[n, depth, layout::product(&[h, b])?, layout::product(&[w, b])?], "")
}

pub(super) fn space_to_depth(site: &mut Site) -> Outcome<ValueId> {
    let x = site.operand(0)?;
    let (b, [n, c, h, w]) = blocks(site, x)?;
    if h % b != 0 || w % b != 0 {
        return Err(Fault::shape(format!("{h}x{w} in blocks of {b}")));
    }
    let x = layout::reshape(site, x, &[n, c, h / b, b, w / b, b], "blocks")?;
    let perm = match site.attrs.string("mode")?.unwrap_or("DCR") {
        "DCR" => [0, 3, 5, 1, 2, 4],
        "CRD" => [0, 1, 3, 5, 2, 4],
        mode => return Err(Fault::unsupported(format!("`mode` = {mode:?} is not supported"))),
    };
    let x = layout::transpose(site, x, &perm, "moved")?;
    layout::reshape(site, x, &[n, layout::product(&[c, b, b])?, h / b, w / b], "")
}
