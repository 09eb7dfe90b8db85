//! `OneHot`: rows of a table that has one value on its diagonal and another elsewhere.

use qcc_ir::{Attrs, Opcode, Tensor, ValueId, attr, map_data};

use super::layout;
use super::numbers::LARGE;
use super::site::Site;
use crate::fault::{Fault, Outcome};

/// Positions outside, negative ones among them, have a row without the other value. ONNX counts negative ones from the end: no
/// exporter writes these.
pub(super) fn one_hot(site: &mut Site) -> Outcome<ValueId> {
    let positions = site.operand(0)?;
    let depth = match site.int_or_whole(1, "the depth")?.as_slice() {
        &[depth] => usize::try_from(depth).ok().filter(|&d| d > 0),
        _ => None,
    };
    let depth = depth.ok_or_else(|| Fault::shape("the depth is not one positive number"))?;
    let values = site.operand(2)?;
    let elem = site.elem(values);
    let values = site.known(2)?;
    if values.data.len() != 2 {
        return Err(Fault::shape(format!("values of shape {:?}", values.dims)));
    }
    let cells = depth.checked_add(1).and_then(|n| n.checked_mul(depth)).filter(|&n| n <= LARGE);
    let cells = cells.ok_or_else(|| Fault::unsupported(format!("one of {depth}")))?;
    let table = map_data!(&values.data, v => (0..cells).map(|i| v[usize::from(i / depth == i % depth)]).collect());
    let table = site.constant_of(Tensor::new(&[depth + 1, depth], table), elem, "table");
    let attrs = Attrs::new(Opcode::Gather).with(attr::AXIS, 0).with(attr::WRAP, false);
    let rank = site.ty(positions).rank();
    let axis = Site::axis(site.attrs.int("axis")?.unwrap_or(-1), rank + 1)?;
    let rows = site.emit(Opcode::Gather, &[table, positions], attrs, "rows")?;
    let perm: Vec<usize> = (0..axis).chain([rank]).chain(axis..rank).collect();
    layout::transpose(site, rows, &perm, "")
}
