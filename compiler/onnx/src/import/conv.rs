//! `Conv`: one and two spatial dimensions; one becomes two with a height of 1.

use qcc_ir::{Attrs, Opcode, ValueId};

use super::site::Site;
use super::window::{Window, spatial, with_height, without_height};
use crate::fault::{Fault, Outcome};

pub(super) fn conv(site: &mut Site) -> Outcome<ValueId> {
    let (x, w, bias) = (site.operand(0)?, site.operand(1)?, site.optional(2));
    let (input, kernel) = (spatial(site, x)?, spatial(site, w)?);
    if input.len() != kernel.len() {
        return Err(Fault::shape("input and weights differ in their number of dimensions"));
    }
    let window = Window::read(site, Some(&kernel), &input)?;
    let groups = site.attrs.int("group")?.unwrap_or(1);
    let rank = site.ty(x).rank();
    let (x, w) = (with_height(site, x, "x")?, with_height(site, w, "weight")?);
    let attrs = window.set(Attrs::new(Opcode::Conv2d))?.with("groups", groups);
    let operands: Vec<ValueId> = [x, w].into_iter().chain(bias).collect();
    let y = site.emit(Opcode::Conv2d, &operands, attrs, "")?;
    without_height(site, y, rank)
}
