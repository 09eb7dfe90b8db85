//! Pooling.

use qcc_ir::{Attrs, Elem, Int, Opcode, ValueId, attr};

use super::affine;
use super::layout;
use super::site::Site;
use super::window::{Window, volume, with_height, without_height};
use crate::fault::{Fault, Outcome};

/// Rounding up only adds padding behind, which takes no part in a maximum. The second result are positions.
pub(super) fn max_pool(site: &mut Site) -> Outcome<Vec<ValueId>> {
    let columns_first = site.attrs.flag("storage_order", false)?;
    let mut x = site.operand(0)?;
    if matches!(site.elem(x), Elem::Int(Int::I8 | Int::U8)) {
        x = affine::in_units(site, x, "")?;
    }
    let window = read(site, x)?;
    let y = finish(site, Opcode::MaxPool, x, window.clone(), Attrs::new(Opcode::MaxPool))?;
    if site.result_count() < 2 {
        return Ok(vec![y]);
    }
    if site.ty(x).rank() > 4 {
        return Err(Fault::unsupported("positions of the greatest elements in three dimensions"));
    }
    if !columns_first || window.kernel.len() < 2 {
        return Ok(vec![y, finish(site, Opcode::MaxPoolIndex, x, window, Attrs::new(Opcode::MaxPoolIndex))?]);
    }
    // Counted by columns: those of the transposed image.
    let mut turned = window;
    for list in [&mut turned.kernel, &mut turned.strides, &mut turned.dilations, &mut turned.extra] {
        list.reverse();
    }
    turned.pads.reverse();
    let x = layout::transpose(site, x, &[0, 1, 3, 2], "columns")?;
    let at = finish(site, Opcode::MaxPoolIndex, x, turned, Attrs::new(Opcode::MaxPoolIndex))?;
    Ok(vec![y, layout::transpose(site, at, &[0, 1, 3, 2], "positions")?])
}

/// Elements that only rounding up adds are never counted. With `count_include_pad`, the declared padding is: where both occur,
/// the declared padding becomes elements of the input, and what is left is not counted.
pub(super) fn average_pool(site: &mut Site) -> Outcome<ValueId> {
    let x = site.operand(0)?;
    average(site, x)
}

/// The mean of windows over `x` that the node's attributes describe.
pub(super) fn average(site: &mut Site, mut x: ValueId) -> Outcome<ValueId> {
    let include = site.attrs.flag("count_include_pad", false)?;
    let mut window = read(site, x)?;
    let padded = window.pads.iter().any(|p| *p != [0, 0]);
    let rounded = window.extra.iter().any(|&e| e > 0);
    if include && padded && rounded {
        let before = [0, 0].into_iter().chain(window.pads.iter().map(|p| p[0]));
        let after = [0, 0].into_iter().chain(window.pads.iter().map(|p| p[1]));
        let pads: Vec<usize> = before.chain(after).collect();
        let attrs = Attrs::new(Opcode::Pad).with(attr::PADS, layout::list(&pads)?);
        x = site.emit(Opcode::Pad, &[x], attrs, "padded")?;
        window.pads.fill([0, 0]);
    }
    let counted = include && padded && !rounded;
    let attrs = Attrs::new(Opcode::AveragePool).with(attr::COUNT_INCLUDE_PAD, counted);
    finish(site, Opcode::AveragePool, x, window, attrs)
}

/// The `p`-norm of each window: the root of the mean of powers times their number, zeros around included.
pub(super) fn lp_pool(site: &mut Site) -> Outcome<ValueId> {
    let x = site.operand(0)?;
    let p = site.attrs.int("p")?.unwrap_or(2);
    if !(1..=16).contains(&p) {
        return Err(Fault::unsupported(format!("`p` = {p} is not supported")));
    }
    let mut window = read(site, x)?;
    let size = layout::product(&window.kernel)?;
    let magnitude = layout::apply(site, Opcode::Abs, &[x], "magnitude")?;
    let exponent = site.floats(&[], vec![p as f32], "p");
    let powers = match p {
        1 => magnitude,
        2 => layout::apply(site, Opcode::Mul, &[x, x], "square")?,
        _ => layout::apply(site, Opcode::Pow, &[magnitude, exponent], "powers")?,
    };
    let before = [0, 0].into_iter().chain(window.pads.iter().map(|p| p[0]));
    let after = [0, 0].into_iter().chain(window.pads.iter().zip(&window.extra).map(|(p, extra)| p[1] + extra));
    let pads: Vec<usize> = before.chain(after).collect();
    let padded = match pads.iter().all(|&p| p == 0) {
        true => powers,
        false => {
            site.emit(Opcode::Pad, &[powers], Attrs::new(Opcode::Pad).with(attr::PADS, layout::list(&pads)?), "padded")?
        }
    };
    window.pads.fill([0, 0]);
    window.extra.fill(0);
    let mean = finish(site, Opcode::AveragePool, padded, window, Attrs::new(Opcode::AveragePool))?;
    let size = site.floats(&[], vec![size as f32], "size");
    let sum = layout::apply(site, Opcode::Mul, &[mean, size], "sum")?;
    match p {
        1 => Ok(sum),
        2 => layout::apply(site, Opcode::Sqrt, &[sum], ""),
        _ => {
            let root = site.floats(&[], vec![1.0 / p as f32], "root");
            layout::apply(site, Opcode::Pow, &[sum, root], "")
        }
    }
}

fn read(site: &mut Site, x: ValueId) -> Outcome<Window> {
    let input = volume(site, x)?;
    let mut window = Window::read(site, None, &input)?;
    if site.attrs.flag("ceil_mode", false)? {
        window.round_up(&input)?;
    }
    Ok(window)
}

fn finish(site: &mut Site, op: Opcode, x: ValueId, window: Window, attrs: Attrs) -> Outcome<ValueId> {
    let rank = site.ty(x).rank();
    if let [n, c, d, h, w] = *site.dims(x) {
        // The greatest of the greatest, the mean of means: the last two dimensions, then the first.
        let (depth, area) = window.split_first();
        if op == Opcode::AveragePool
            && depth.pads.iter().all(|p| *p == [0, 0])
            && depth.extra.iter().all(|&e| e == 0)
            && area.dilations.first() == Some(&1)
        {
            return mean_of_volumes(site, x, &depth, area, attrs);
        }
        let planes = layout::reshape(site, x, &[n, layout::product(&[c, d])?, h, w], "planes")?;
        let attrs_of = |w: &Window| w.set(attrs.clone());
        let planes = site.emit(op, &[planes], attrs_of(&area)?, "planes")?;
        let (h, w) = (site.dims(planes)[2], site.dims(planes)[3]);
        let columns = layout::reshape(site, planes, &[n, c, d, layout::product(&[h, w])?], "columns")?;
        let y = site.emit(op, &[columns], attrs_of(&depth)?, "columns")?;
        let d = site.dims(y)[2];
        return layout::reshape(site, y, &[n, c, d, h, w], "");
    }
    let x = with_height(site, x, "x")?;
    let attrs = window.set(attrs)?;
    let y = site.emit(op, &[x], attrs, "")?;
    without_height(site, y, rank)
}

/// The mean of windows in three dimensions as one of two, so that it is rounded once: the planes of a window lie between one another's
/// rows.
fn mean_of_volumes(site: &mut Site, x: ValueId, depth: &Window, mut area: Window, attrs: Attrs) -> Outcome<ValueId> {
    let [n, c, d, h, w] = *site.dims(x) else { return Err(Fault::shape("a volume has five dimensions")) };
    let (planes, step, apart) = (depth.kernel[0], depth.strides[0], depth.dilations[0]);
    let last =
        d.checked_sub((planes - 1) * apart + 1).ok_or_else(|| Fault::shape("the window is deeper than its operand"))?;
    let windows = last / step + 1;
    let positions: Vec<usize> = (0..windows).flat_map(|i| (0..planes).map(move |j| i * step + j * apart)).collect();
    let taken = layout::at_positions(site, x, 2, &positions, "planes")?;
    let split = layout::reshape(site, taken, &[n, c, windows, planes, h, w], "windows")?;
    let between = layout::transpose(site, split, &[0, 1, 2, 4, 3, 5], "between")?;
    let shape = [n, layout::product(&[c, windows])?, layout::product(&[h, planes])?, w];
    let flat = layout::reshape(site, between, &shape, "rows")?;
    area.kernel[0] *= planes;
    area.strides[0] *= planes;
    area.pads[0] = area.pads[0].map(|p| p * planes);
    area.extra[0] *= planes;
    let y = site.emit(Opcode::AveragePool, &[flat], area.set(attrs)?, "means")?;
    let (h, w) = (site.dims(y)[2], site.dims(y)[3]);
    layout::reshape(site, y, &[n, c, windows, h, w], "")
}

pub(super) fn global_average_pool(site: &mut Site) -> Outcome<ValueId> {
    let x = site.operand(0)?;
    global(site, x, Opcode::AveragePool, Opcode::ReduceMean)
}

pub(super) fn global_max_pool(site: &mut Site) -> Outcome<ValueId> {
    let x = site.operand(0)?;
    global(site, x, Opcode::MaxPool, Opcode::ReduceMax)
}

/// One window over everything, or a reduction where there are not two spatial dimensions.
pub(super) fn global(site: &mut Site, x: ValueId, pool: Opcode, reduce: Opcode) -> Outcome<ValueId> {
    match *site.dims(x) {
        [_, _, h, w] => {
            let attrs = Attrs::new(pool).with(attr::KERNEL, layout::list(&[h, w])?);
            site.emit(pool, &[x], attrs, "")
        }
        [_, _, ref spatial @ ..] if !spatial.is_empty() => {
            let axes: Vec<usize> = (2..spatial.len() + 2).collect();
            site.emit(reduce, &[x], Attrs::new(reduce).with(attr::AXES, layout::list(&axes)?), "")
        }
        ref dims => Err(Fault::shape(format!("shape {dims:?} has no spatial dimension"))),
    }
}
