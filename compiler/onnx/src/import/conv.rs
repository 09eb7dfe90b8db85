//! `Conv`: one to three spatial dimensions. One becomes two with a height of 1; of three, the first becomes
//! channels and batch.

use qcc_ir::{Attrs, Opcode, ValueId, attr};

use super::layout;
use super::site::Site;
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
    convolve(site, [x, w], bias, &window, groups, "")
}

/// A convolution over one to three dimensions.
pub(super) fn convolve(
    site: &mut Site,
    [x, w]: [ValueId; 2],
    bias: Option<ValueId>,
    window: &Window,
    groups: i64,
    suffix: &str,
) -> Outcome<ValueId> {
    if site.ty(x).rank() == 5 {
        return planes(site, [x, w], bias, window, groups, suffix);
    }
    let rank = site.ty(x).rank();
    let (x, w) = (with_height(site, x, "x")?, with_height(site, w, "weight")?);
    let attrs = window.set(Attrs::new(Opcode::Conv2d))?.with(attr::GROUPS, groups);
    let operands: Vec<ValueId> = [x, w].into_iter().chain(bias).collect();
    let y = site.emit(Opcode::Conv2d, &operands, attrs, suffix)?;
    without_height(site, y, rank)
}

/// Three dimensions as two: the planes that a result sees become channels, and the results' planes a batch.
fn planes(
    site: &mut Site,
    [x, w]: [ValueId; 2],
    bias: Option<ValueId>,
    window: &Window,
    groups: i64,
    suffix: &str,
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
        x = site.emit(Opcode::Pad, &[x], Attrs::new(Opcode::Pad).with(attr::PADS, layout::list(&pads)?), "padded")?;
    }
    let at = |tap: usize, i: usize| i * depth.strides[0] + tap * depth.dilations[0];
    let positions: Vec<usize> = (0..k).flat_map(|tap| (0..count).map(move |i| at(tap, i))).collect();
    let x = layout::at_positions(site, x, 2, &positions, "planes")?;
    let x = layout::reshape(site, x, &[n, c, k, count, height, width], "taps")?;
    let x = layout::transpose(site, x, &[0, 3, 1, 2, 4, 5], "planes")?;
    let channels = layout::product(&[c, k])?;
    let x = layout::reshape(site, x, &[layout::product(&[n, count])?, channels, height, width], "planes")?;
    let w = layout::reshape(site, w, &[o, layout::product(&[per_group, k])?, kh, kw], "weight")?;
    let attrs = area.set(Attrs::new(Opcode::Conv2d))?.with(attr::GROUPS, groups);
    let operands: Vec<ValueId> = [x, w].into_iter().chain(bias).collect();
    let y = site.emit(Opcode::Conv2d, &operands, attrs, "planes")?;
    let (h, w) = (site.dims(y)[2], site.dims(y)[3]);
    let y = layout::reshape(site, y, &[n, count, o, h, w], "results")?;
    layout::transpose(site, y, &[0, 2, 1, 3, 4], suffix)
}
