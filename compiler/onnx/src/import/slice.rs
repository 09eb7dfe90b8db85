//! `Slice`, `Split`, and cutting by negative padding.

use qcc_ir::{Attrs, Data, Elem, Int, Opcode, Tensor, ValueId, attr};

use super::layout;
use super::site::Site;
use crate::fault::{Fault, Outcome};

/// Longest dimension that is reversed, for which a list of positions is kept.
const LONGEST: i64 = 1 << 24;

/// Elements `start, start + step, ..` below `end` of each dimension.
#[derive(Debug, Clone)]
struct Cut {
    starts: Vec<i64>,
    ends: Vec<i64>,
    steps: Vec<i64>,
}

impl Cut {
    /// Everything.
    fn whole(dims: &[usize]) -> Outcome<Cut> {
        let ends = layout::list(dims)?;
        Ok(Cut { starts: vec![0; ends.len()], steps: vec![1; ends.len()], ends })
    }

    fn emit(self, site: &mut Site, x: ValueId, suffix: &str) -> Outcome<ValueId> {
        let whole = self.ends == layout::list(&site.dims(x))?;
        if whole && self.starts.iter().all(|&s| s == 0) && self.steps.iter().all(|&s| s == 1) {
            return Ok(x);
        }
        let attrs = Attrs::new(Opcode::Slice);
        let attrs = attrs.with(attr::STARTS, self.starts).with(attr::ENDS, self.ends).with(attr::STEPS, self.steps);
        site.emit(Opcode::Slice, &[x], attrs, suffix)
    }
}

/// Ends are clamped to the dimension, negative ones count from its end. A negative step walks backwards, which is a choice
/// of positions.
pub(super) fn slice(site: &mut Site) -> Outcome<ValueId> {
    let x = site.operand(0)?;
    let required = |list: Option<Vec<i64>>, name| list.ok_or_else(|| Fault::shape(format!("`{name}` is missing")));
    let starts = site.int_list_since(10, "starts", 1)?;
    let ends = site.int_list_since(10, "ends", 2)?;
    let (starts, ends) = (required(starts, "starts")?, required(ends, "ends")?);
    let dims = site.dims(x);
    let axes = match site.int_list_since(10, "axes", 3)? {
        Some(axes) => Site::axes(&axes, dims.len())?,
        None => (0..starts.len()).collect(),
    };
    let steps = if site.opset() < 10 { None } else { site.int_list(4, "`steps`")? };
    let steps = steps.unwrap_or_else(|| vec![1; starts.len()]);
    let same = [ends.len(), axes.len(), steps.len()].iter().all(|&n| n == starts.len());
    if !same || axes.iter().any(|&a| a >= dims.len()) {
        return Err(Fault::shape("starts, ends, axes and steps differ in number"));
    }
    let mut cut = Cut::whole(&dims)?;
    let mut backwards = Vec::new();
    for (i, &axis) in axes.iter().enumerate() {
        let extent = cut.ends[axis];
        let from_front = |v: i64| if v < 0 { v.saturating_add(extent) } else { v };
        let (start, end, step) = (from_front(starts[i]), from_front(ends[i]), steps[i]);
        match step {
            0 => return Err(Fault::shape("a step of 0")),
            1.. => {
                let start = start.clamp(0, extent);
                (cut.starts[axis], cut.steps[axis]) = (start, step.min(extent.max(1)));
                cut.ends[axis] = end.clamp(start, extent);
            }
            ..0 => {
                if extent > LONGEST {
                    return Err(Fault::unsupported(format!("a dimension of {extent} in reverse")));
                }
                let (first, last) = (start.clamp(-1, extent - 1), end.clamp(-1, extent - 1));
                let mut positions = Vec::new();
                let mut at = first;
                while at > last {
                    positions.push(at);
                    at = at.saturating_add(step);
                }
                backwards.push((axis, positions));
            }
        }
    }
    let mut y = cut.emit(site, x, "")?;
    for (axis, positions) in backwards {
        let n = positions.len();
        let positions = Tensor::new(&[n], Data::I64(positions));
        let positions = site.constant_of(positions, Elem::Int(Int::I64), "positions");
        let axis = i64::try_from(axis).map_err(|_| Fault::shape("an axis exceeds 63 bits"))?;
        y =
            site.emit(Opcode::Gather, &[y, positions], Attrs::new(Opcode::Gather).with(attr::AXIS, axis), "reversed")?;
    }
    Ok(y)
}

/// Elements of an axis from one position to another.
pub(super) fn part(site: &mut Site, x: ValueId, axis: usize, range: std::ops::Range<usize>) -> Outcome<ValueId> {
    let mut cut = Cut::whole(&site.dims(x))?;
    let ends = layout::list(&[range.start, range.end])?;
    let inside = cut.ends.get(axis).is_some_and(|&extent| ends[0] <= ends[1] && ends[1] <= extent);
    if !inside {
        return Err(Fault::shape(format!("elements {range:?} of axis {axis} of {:?}", site.dims(x))));
    }
    (cut.starts[axis], cut.ends[axis]) = (ends[0], ends[1]);
    cut.emit(site, x, "part")
}

/// Cuts away what negative numbers in `pads` say, `[before.., after..]`.
pub(super) fn cut(site: &mut Site, x: ValueId, pads: &[i64]) -> Outcome<ValueId> {
    let dims = site.dims(x);
    let mut cut = Cut::whole(&dims)?;
    for axis in 0..dims.len() {
        cut.starts[axis] = pads[axis].min(0).saturating_neg();
        cut.ends[axis] = cut.ends[axis].saturating_add(pads[dims.len() + axis].min(0));
        if cut.starts[axis] >= cut.ends[axis] {
            return Err(Fault::shape(format!("`pads` {pads:?} leave nothing of {dims:?}")));
        }
    }
    cut.emit(site, x, "cut")
}

/// Sizes are an attribute before operator set 13, then an operand; without them all parts are equal, where operator set
/// 18 lets the last be smaller.
pub(super) fn split(site: &mut Site) -> Outcome<Vec<ValueId>> {
    let x = site.operand(0)?;
    let dims = site.dims(x);
    let axis = Site::axis(site.attrs.int("axis")?.unwrap_or(0), dims.len())?;
    let sizes = site.int_list_since(13, "split", 1)?;
    let results = site.result_count();
    let parts = match site.opset() {
        18.. => site.attrs.int("num_outputs")?.map_or(Some(results), |n| usize::try_from(n).ok()),
        _ => Some(results),
    };
    let parts = parts.filter(|&n| n == results && n > 0);
    let parts = parts.ok_or_else(|| Fault::shape("`num_outputs` is not the number of results"))?;
    let extent = dims[axis];
    let sizes = match sizes {
        Some(sizes) => crate::tensor::extents(&sizes)?,
        None => {
            let each = extent.div_ceil(parts);
            if site.opset() < 18 && !extent.is_multiple_of(parts) {
                return Err(Fault::shape(format!("{extent} elements in {parts} equal parts")));
            }
            (0..parts).map(|i| each.min(extent.saturating_sub(each * i))).collect()
        }
    };
    if sizes.len() != parts {
        return Err(Fault::shape(format!("{} sizes of {parts} results", sizes.len())));
    }
    self::parts(site, x, axis, &sizes)
}

/// The parts of an axis that have these sizes, one behind the other.
pub(super) fn parts(site: &mut Site, x: ValueId, axis: usize, sizes: &[usize]) -> Outcome<Vec<ValueId>> {
    let dims = site.dims(x);
    let &extent =
        dims.get(axis).ok_or_else(|| Fault::shape(format!("{dims:?} has no axis {axis} to be taken apart")))?;
    if layout::list(sizes)?.iter().try_fold(0i64, |s, &n| s.checked_add(n)) != i64::try_from(extent).ok() {
        return Err(Fault::shape(format!("{extent} elements in parts of {sizes:?}")));
    }
    let mut start = 0;
    let mut results = Vec::new();
    for size in layout::list(sizes)? {
        let mut cut = Cut::whole(&dims)?;
        (cut.starts[axis], cut.ends[axis]) = (start, start + size);
        start += size;
        results.push(cut.emit(site, x, "part")?);
    }
    Ok(results)
}
