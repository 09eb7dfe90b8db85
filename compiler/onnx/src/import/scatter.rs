//! Elements at positions that are known at compile time: each result lists, for every one of its elements, where in the flat
//! operand it comes from. What is scattered into lies in front of what is scattered.

use qcc_ir::{Attrs, Opcode, ValueId, attr};

use super::layout;
use super::numbers::listed;
use super::site::Site;
use super::slice::part;
use crate::fault::{Fault, Outcome};

/// Operand 1, positions that must be constant: its shape and its elements.
fn positions(site: &mut Site) -> Outcome<(Vec<usize>, Vec<i64>)> {
    let v = site.operand(1)?;
    let values = site.int_list(1, "positions")?.ok_or_else(|| Fault::shape("operand 1 is missing"))?;
    Ok((site.dims(v), values))
}

/// A position along an extent; negative ones count from its end.
fn along(position: i64, extent: usize) -> Outcome<usize> {
    let outside = || Fault::shape(format!("position {position} of an extent of {extent}"));
    let wide = i64::try_from(extent).map_err(|_| outside())?;
    let at = if position < 0 { position.checked_add(wide).ok_or_else(outside)? } else { position };
    usize::try_from(at).ok().filter(|&at| at < extent).ok_or_else(outside)
}

/// Elements that each step of a dimension passes.
fn strides(dims: &[usize]) -> Vec<usize> {
    let mut strides: Vec<usize> = dims
        .iter()
        .rev()
        .scan(1usize, |passed, &d| {
            let stride = *passed;
            *passed = passed.saturating_mul(d);
            Some(stride)
        })
        .collect();
    strides.reverse();
    strides
}

/// For each position of a list of shape `within`, where in `dims` it leads: dimension `axis` is the position, the others are
/// those of its place in the list.
fn flat_positions(at: &[i64], within: &[usize], dims: &[usize], axis: usize) -> Outcome<Vec<usize>> {
    let (inner, outer) = (strides(within), strides(dims));
    let place = |(i, &p): (usize, &i64)| {
        let position = along(p, dims[axis])?;
        let of = |d: usize| if d == axis { position } else { i / inner[d] % within[d] };
        Ok((0..dims.len()).map(|d| of(d) * outer[d]).sum())
    };
    at.iter().enumerate().map(place).collect()
}

/// The elements of flat `x` at `from`, in shape `dims`.
fn picked(site: &mut Site, x: ValueId, from: &[usize], dims: &[usize]) -> Outcome<ValueId> {
    let elements = layout::product(&site.dims(x))?;
    let flat = layout::reshape(site, x, &[elements], "flat")?;
    let y = layout::at_positions(site, flat, 0, from, "picked")?;
    layout::reshape(site, y, dims, "")
}

/// `data` with what `from` says of `data`, then `updates`.
fn merged(site: &mut Site, data: ValueId, updates: ValueId, from: &[usize]) -> Outcome<ValueId> {
    let dims = site.dims(data);
    let mut flat = Vec::new();
    for (v, suffix) in [(data, "data"), (updates, "updates")] {
        let elements = layout::product(&site.dims(v))?;
        flat.push(layout::reshape(site, v, &[elements], suffix)?);
    }
    let both = site.emit(Opcode::Concat, &flat, Attrs::new(Opcode::Concat).with(attr::AXIS, 0), "both")?;
    picked(site, both, from, &dims)
}

/// What an update does to the element that is there: nothing but taking its place is supported.
fn no_reduction(site: &mut Site) -> Outcome<()> {
    match site.attrs.string("reduction")?.unwrap_or("none") {
        "none" => Ok(()),
        other => Err(Fault::unsupported(format!("`reduction` = {other:?} is not supported"))),
    }
}

fn axis(site: &mut Site, x: ValueId, default: i64) -> Outcome<usize> {
    Site::axis(site.attrs.int("axis")?.unwrap_or(default), site.ty(x).rank())
}

/// A shape along which positions lead through `dims`: of the same rank and nowhere larger, but along the axis.
fn must_fit(within: &[usize], dims: &[usize], axis: usize) -> Outcome<()> {
    let fits = |d: usize| d == axis || within[d] <= dims[d];
    match within.len() == dims.len() && (0..dims.len()).all(fits) {
        true => Ok(()),
        false => Err(Fault::shape(format!("positions of shape {within:?} along axis {axis} of {dims:?}"))),
    }
}

pub(super) fn gather_elements(site: &mut Site) -> Outcome<ValueId> {
    let x = site.operand(0)?;
    let (dims, axis) = (site.dims(x), axis(site, x, 0)?);
    let at = site.operand(1)?;
    if site.known(1).is_err() {
        return rows_at(site, x, at, axis);
    }
    let (within, at) = positions(site)?;
    must_fit(&within, &dims, axis)?;
    let from = flat_positions(&at, &within, &dims, axis)?;
    picked(site, x, &from, &within)
}

/// Most slices from each of which rows are taken by positions of their own.
const MOST_SLICES: usize = 64;

/// Positions that the model computes and that are the same for all that lies behind the axis, as those of the greatest scores are for all
/// numbers beside them: whole rows are taken, from each slice in front of the axis by its own positions.
fn rows_at(site: &mut Site, x: ValueId, at: ValueId, axis: usize) -> Outcome<ValueId> {
    let (dims, within) = (site.dims(x), site.dims(at));
    let fault = || {
        Fault::unsupported("positions that the model computes and that differ within a slice")
            .help("end the model in front of it, with --outputs VALUE,.., and take the elements in the host")
    };
    let graph = site.builder().graph();
    let expanded = graph.producer(at).filter(|&n| graph.op(n) == Opcode::Expand);
    let source = expanded.map_or(at, |n| graph.operands(n)[0]);
    let mut own = site.dims(source);
    while own.len() < within.len() {
        own.insert(0, 1);
    }
    let count = within.get(axis).copied().unwrap_or(1);
    let beside = |d: usize| d == axis || within[d] == dims[d] && (own[d] == 1 || d < axis);
    let slices: usize = dims[..axis].iter().product();
    let fits = within.len() == dims.len() && own.get(axis) == Some(&count) && (0..dims.len()).all(beside);
    if !fits || slices > MOST_SLICES {
        return Err(fault());
    }
    if own[..axis].iter().all(|&d| d == 1) {
        let list = layout::reshape(site, source, &[count], "positions")?;
        let attrs = Attrs::new(Opcode::Gather).with(attr::AXIS, layout::extent(axis)?);
        return site.emit(Opcode::Gather, &[x, list], attrs, "");
    }
    let shape: Vec<usize> = dims[..axis].iter().copied().chain([count]).collect();
    let at = layout::reshape(site, source, &own[..=axis], "positions")?;
    let at = layout::expand(site, at, &shape)?;
    let at = layout::reshape(site, at, &[slices, count], "positions")?;
    let flat: Vec<usize> = [slices].into_iter().chain(dims[axis..].iter().copied()).collect();
    let x = layout::reshape(site, x, &flat, "slices")?;
    let mut rows = Vec::with_capacity(slices);
    for i in 0..slices {
        let (slice, list) = (part(site, x, 0, i..i + 1)?, part(site, at, 0, i..i + 1)?);
        let list = layout::reshape(site, list, &[count], "list")?;
        rows.push(site.emit(Opcode::Gather, &[slice, list], Attrs::new(Opcode::Gather).with(attr::AXIS, 1), "rows")?);
    }
    let y = site.emit(Opcode::Concat, &rows, Attrs::new(Opcode::Concat).with(attr::AXIS, 0), "taken")?;
    layout::reshape(site, y, &within, "")
}

pub(super) fn scatter_elements(site: &mut Site) -> Outcome<ValueId> {
    let (x, updates) = (site.operand(0)?, site.operand(2)?);
    no_reduction(site)?;
    let (dims, axis) = (site.dims(x), axis(site, x, 0)?);
    let (within, at) = positions(site)?;
    must_fit(&within, &dims, axis)?;
    if site.dims(updates) != within {
        return Err(Fault::shape(format!(
            "updates of shape {:?} at positions of shape {within:?}",
            site.dims(updates)
        )));
    }
    let kept = listed(&dims)?;
    let mut from: Vec<usize> = (0..kept).collect();
    for (i, place) in flat_positions(&at, &within, &dims, axis)?.into_iter().enumerate() {
        from[place] = kept + i;
    }
    merged(site, x, updates, &from)
}

/// Positions whose last dimension leads through the first dimensions of a shape: where in it each begins, and how many elements
/// follow one another from there.
fn starts(at: &[i64], depth: usize, dims: &[usize]) -> Outcome<(Vec<usize>, usize)> {
    let Some(rest) = dims.get(depth..).filter(|_| depth > 0) else {
        return Err(Fault::shape(format!("positions of {depth} dimensions in {dims:?}")));
    };
    let strides = strides(dims);
    let start = |tuple: &[i64]| {
        tuple.iter().zip(dims).zip(&strides).map(|((&p, &d), s)| Ok(along(p, d)? * s)).sum::<Outcome<usize>>()
    };
    Ok((at.chunks(depth).map(start).collect::<Outcome<_>>()?, layout::product(rest)?))
}

pub(super) fn gather_nd(site: &mut Site) -> Outcome<ValueId> {
    let x = site.operand(0)?;
    let dims = site.dims(x);
    let batch = site.attrs.int("batch_dims")?.unwrap_or(0);
    let batch = usize::try_from(batch).map_err(|_| Fault::shape("`batch_dims` is negative"))?;
    let at = site.operand(1)?;
    if let (true, 0, Some((1, outer))) =
        (site.known(1).is_err(), batch, site.dims(at).split_last().map(|(d, o)| (*d, o)))
    {
        // Each position is one number along the first dimension.
        let list = layout::reshape(site, at, outer, "positions")?;
        return site.emit(Opcode::Gather, &[x, list], Attrs::new(Opcode::Gather).with(attr::AXIS, 0), "");
    }
    let (within, at) = positions(site)?;
    let (Some(inner), Some((&depth, outer))) = (dims.get(batch..), within.split_last()) else {
        return Err(Fault::shape(format!("positions of shape {within:?} in {dims:?}")));
    };
    if outer.get(..batch) != dims.get(..batch) {
        return Err(Fault::shape(format!("the first {batch} dimensions of {within:?} and {dims:?} differ")));
    }
    let (begin, run) = starts(&at, depth, inner)?;
    let (each, whole) = (layout::product(&outer[batch..])?.max(1), layout::product(inner)?);
    let dims = [outer, &inner[depth..]].concat();
    listed(&dims)?;
    let from: Vec<usize> =
        begin.iter().enumerate().flat_map(|(q, &s)| (0..run).map(move |e| q / each * whole + s + e)).collect();
    picked(site, x, &from, &dims)
}

pub(super) fn scatter_nd(site: &mut Site) -> Outcome<ValueId> {
    let (x, updates) = (site.operand(0)?, site.operand(2)?);
    no_reduction(site)?;
    let dims = site.dims(x);
    let (within, at) = positions(site)?;
    let Some((&depth, outer)) = within.split_last() else { return Err(Fault::shape("a single position")) };
    let (begin, run) = starts(&at, depth, &dims)?;
    if site.dims(updates) != [outer, &dims[depth..]].concat() {
        return Err(Fault::shape(format!(
            "updates of shape {:?} at positions of shape {within:?}",
            site.dims(updates)
        )));
    }
    let kept = listed(&dims)?;
    let mut from: Vec<usize> = (0..kept).collect();
    for (q, &s) in begin.iter().enumerate() {
        (0..run).for_each(|e| from[s + e] = kept + q * run + e);
    }
    merged(site, x, updates, &from)
}
