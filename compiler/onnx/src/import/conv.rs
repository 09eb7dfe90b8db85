//! `Conv` and `ConvTranspose`: one to three spatial dimensions. One becomes two with a height of 1; of three, the first becomes
//! channels and batch.

use qcc_ir::{Attrs, Opcode, ValueId};

use super::layout;
use super::site::Site;
use super::slice;
use super::window::{Window, volume, with_height, without_height};
use crate::fault::{Fault, Outcome};

pub(super) fn conv(site: &mut Site) -> Outcome<ValueId> {
    let (x, w, bias) = (site.operand(0)?, site.operand(1)?, site.optional(2));
    let (input, kernel) = (volume(site, x)?, volume(site, w)?);
    if input.len() != kernel.len() {
        return Err(Fault::shape("input and weights differ in their number of dimensions"));
    }
    let window = Window::read(site, Some(&kernel), &input)?;
    let groups = site.attrs.int("group")?.unwrap_or(1);
    convolve(site, [x, w], bias, &window, groups)
}

/// A convolution over one to three dimensions.
fn convolve(
    site: &mut Site,
    [x, w]: [ValueId; 2],
    bias: Option<ValueId>,
    window: &Window,
    groups: i64,
) -> Outcome<ValueId> {
    if site.ty(x).rank() == 5 {
        return planes(site, [x, w], bias, window, groups);
    }
    let rank = site.ty(x).rank();
    let (x, w) = (with_height(site, x, "x")?, with_height(site, w, "weight")?);
    let attrs = window.set(Attrs::new(Opcode::Conv2d))?.with("groups", groups);
    let operands: Vec<ValueId> = [x, w].into_iter().chain(bias).collect();
    let y = site.emit(Opcode::Conv2d, &operands, attrs, "")?;
    without_height(site, y, rank)
}

/// Three dimensions as two: the planes that a result sees become channels, and the results' planes a batch.
fn planes(
    site: &mut Site,
    [x, w]: [ValueId; 2],
    bias: Option<ValueId>,
    window: &Window,
    groups: i64,
) -> Outcome<ValueId> {
    let (&[n, c, d, height, width], &[o, per_group, k, kh, kw]) = (site.dims(x).as_slice(), site.dims(w).as_slice())
    else {
        return Err(Fault::shape("input and weights differ in their number of dimensions"));
    };
    let (depth, area) = window.split_first();
    let [before, after] = depth.pads[0];
    let too_large = || Fault::shape("a window overflows");
    let padded = d.checked_add(before).and_then(|n| n.checked_add(after)).ok_or_else(too_large)?;
    let extent = (k - 1).checked_mul(depth.dilations[0]).and_then(|n| n.checked_add(1)).ok_or_else(too_large)?;
    let room = padded.checked_sub(extent).filter(|_| padded < 1 << 24);
    let count = room.map(|room| room / depth.strides[0] + 1).ok_or_else(|| {
        Fault::shape(format!("the window extends over {extent}, but the padded input only over {padded}"))
    })?;
    let mut x = x;
    if before + after > 0 {
        let pads = [0, 0, before, 0, 0, 0, 0, after, 0, 0];
        x = site.emit(Opcode::Pad, &[x], Attrs::new(Opcode::Pad).with("pads", layout::list(&pads)?), "padded")?;
    }
    let at = |tap: usize, i: usize| i * depth.strides[0] + tap * depth.dilations[0];
    let positions: Vec<usize> = (0..k).flat_map(|tap| (0..count).map(move |i| at(tap, i))).collect();
    let x = layout::at_positions(site, x, 2, &positions, "planes")?;
    let x = layout::reshape(site, x, &[n, c, k, count, height, width], "taps")?;
    let x = layout::transpose(site, x, &[0, 3, 1, 2, 4, 5], "planes")?;
    let channels = layout::product(&[c, k])?;
    let x = layout::reshape(site, x, &[layout::product(&[n, count])?, channels, height, width], "planes")?;
    let w = layout::reshape(site, w, &[o, layout::product(&[per_group, k])?, kh, kw], "weight")?;
    let attrs = area.set(Attrs::new(Opcode::Conv2d))?.with("groups", groups);
    let operands: Vec<ValueId> = [x, w].into_iter().chain(bias).collect();
    let y = site.emit(Opcode::Conv2d, &operands, attrs, "planes")?;
    let (h, w) = (site.dims(y)[2], site.dims(y)[3]);
    let y = layout::reshape(site, y, &[n, count, o, h, w], "results")?;
    layout::transpose(site, y, &[0, 2, 1, 3, 4], "")
}

/// A convolution of the input with zeros between its elements by the flipped weights (Dumoulin and Visin 2016, section 4).
///
/// With stride `s`, dilated kernel `e = d * (k - 1) + 1` and padding `p`, the result has `s * (n - 1) + e - p + output_padding`
/// elements; padding of `e - 1 - p` around the stretched input gives as many.
pub(super) fn conv_transpose(site: &mut Site) -> Outcome<ValueId> {
    let (x, w, bias) = (site.operand(0)?, site.operand(1)?, site.optional(2));
    let (input, kernel) = (volume(site, x)?, volume(site, w)?);
    let rank = input.len();
    if kernel.len() != rank {
        return Err(Fault::shape("input and weights differ in their number of dimensions"));
    }
    let same = site.attrs.string("auto_pad")?.unwrap_or("NOTSET").to_string();
    let numbers = |site: &mut Site, name| -> Outcome<Option<Vec<usize>>> {
        let Some(values) = site.attrs.ints(name)? else { return Ok(None) };
        let sizes: Option<Vec<usize>> = values.iter().map(|&v| usize::try_from(v).ok()).collect();
        let sizes = sizes.filter(|s| s.len() == rank && s.iter().all(|&v| v < 1 << 24));
        sizes.map(Some).ok_or_else(|| Fault::shape(format!("`{name}` is {values:?}")))
    };
    let extra = numbers(site, "output_padding")?.unwrap_or_else(|| vec![0; rank]);
    let wanted = numbers(site, "output_shape")?;
    let mut window = match same.as_str() {
        "NOTSET" | "" | "VALID" => Window::read(site, Some(&kernel), &input)?,
        // Here it is the result that is `stride` times as long, not the input.
        "SAME_UPPER" | "SAME_LOWER" => Window::read(site, Some(&kernel), &vec![1; rank])?,
        other => return Err(Fault::unsupported(format!("`auto_pad` = {other:?} is not supported"))),
    };
    let too_large = || Fault::shape("a transposed convolution overflows");
    let mut around = Vec::new();
    for i in 0..rank {
        let (k, s, d) = (window.kernel[i], window.strides[i], window.dilations[i]);
        let reach = (k.saturating_sub(1)).checked_mul(d).filter(|r| *r < 1 << 24).ok_or_else(too_large)?;
        let full =
            input[i].checked_sub(1).and_then(|n| n.checked_mul(s)).map(|n| n.saturating_add(reach + 1 + extra[i]));
        let full = full.filter(|n| *n < 1 << 24).ok_or_else(too_large)?;
        let target = match &wanted {
            Some(wanted) => Some(wanted[i]),
            None if same.starts_with("SAME") => Some(input[i].saturating_mul(s)),
            None => None,
        };
        if let Some(target) = target {
            let total = full.saturating_sub(target);
            let (less, more) = (total / 2, total - total / 2);
            window.pads[i] = if same == "SAME_UPPER" { [less, more] } else { [more, less] };
            // A result that is longer than everything that is computed ends in zeros.
            around.push([
                reach as i64 - window.pads[i][0] as i64,
                (reach + extra[i] + target.saturating_sub(full)) as i64 - window.pads[i][1] as i64,
            ]);
        } else {
            around
                .push([reach as i64 - window.pads[i][0] as i64, (reach + extra[i]) as i64 - window.pads[i][1] as i64]);
        }
    }
    let groups = site.attrs.int("group")?.unwrap_or(1);
    let count =
        usize::try_from(groups).ok().filter(|&g| g > 0).ok_or_else(|| Fault::shape("`group` is not positive"))?;
    let w = flipped(site, w, count)?;
    let mut x = stretched(site, x, &window.strides)?;
    let pads: Vec<i64> = [0, 0]
        .into_iter()
        .chain(around.iter().map(|p| p[0]))
        .chain([0, 0])
        .chain(around.iter().map(|p| p[1]))
        .collect();
    if pads.iter().any(|&p| p < 0) {
        x = slice::cut(site, x, &pads)?;
    }
    window.pads = around.iter().map(|p| p.map(|v| v.max(0) as usize)).collect();
    window.strides = vec![1; rank];
    window.extra = vec![0; rank];
    convolve(site, [x, w], bias, &window, groups)
}

/// Weights `[C, M / groups, ..]` as those of a convolution, `[M, C / groups, ..]`, with their spatial dimensions reversed.
fn flipped(site: &mut Site, w: ValueId, groups: usize) -> Outcome<ValueId> {
    let dims = site.dims(w);
    let (c, m) = (dims[0], dims[1]);
    if c % groups != 0 {
        return Err(Fault::shape(format!("{c} channels in {groups} groups")));
    }
    let spatial = &dims[2..];
    let split: Vec<usize> = [groups, c / groups, m].into_iter().chain(spatial.iter().copied()).collect();
    let merged: Vec<usize> =
        [layout::product(&[groups, m])?, c / groups].into_iter().chain(spatial.iter().copied()).collect();
    let w = layout::reshape(site, w, &split, "groups")?;
    let perm: Vec<usize> = [0, 2, 1].into_iter().chain(3..split.len()).collect();
    let w = layout::transpose(site, w, &perm, "swapped")?;
    let mut w = layout::reshape(site, w, &merged, "merged")?;
    for (axis, &extent) in merged.iter().enumerate().skip(2) {
        let positions: Vec<usize> = (0..extent).rev().collect();
        w = layout::at_positions(site, w, axis, &positions, "flipped")?;
    }
    Ok(w)
}

/// `s - 1` zeros between neighbours along each spatial dimension.
fn stretched(site: &mut Site, x: ValueId, strides: &[usize]) -> Outcome<ValueId> {
    if strides.iter().all(|&s| s == 1) {
        return Ok(x);
    }
    let dims = site.dims(x);
    let (mut split, mut merged, mut cut) = (dims[..2].to_vec(), dims[..2].to_vec(), vec![0; 2]);
    let mut pads = vec![0; 2];
    for (&n, &s) in dims[2..].iter().zip(strides) {
        split.extend([n, 1]);
        merged.push(layout::product(&[n, s])?);
        pads.extend([0, s - 1]);
        cut.push(1 - i64::try_from(s).map_err(|_| Fault::shape("a stride exceeds 63 bits"))?);
    }
    let pads = [vec![0; pads.len()], pads].concat();
    let x = layout::reshape(site, x, &split, "split")?;
    let x = site.emit(Opcode::Pad, &[x], Attrs::new(Opcode::Pad).with("pads", layout::list(&pads)?), "zeros")?;
    let x = layout::reshape(site, x, &merged, "stretched")?;
    slice::cut(site, x, &[vec![0; cut.len()], cut].concat())
}
