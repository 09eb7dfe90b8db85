//! Extents of ranges.

use qcc_ir::{Elem, Graph, Range, ValueId};

/// Extent below which a range counts as zero: scales that follow from it leave single precision.
const LEAST_SPAN: f32 = 1e-30;

/// A range with an extent: that of a value which was never seen to differ from zero is made up.
pub(crate) fn workable(range: Range) -> Range {
    let zero = range.with_zero();
    if zero.max - zero.min < LEAST_SPAN { Range { min: 0.0, max: 1.0 } } else { range }
}

/// Extent of the range of a value.
pub(crate) fn span(g: &Graph, v: ValueId) -> f32 {
    if let Elem::Calibrated(range) = g.ty(v).elem { span_of(range) } else { 0.0 }
}

/// Extent of a range, zero included.
pub(crate) fn span_of(range: Range) -> f32 {
    let range = range.with_zero();
    range.max - range.min
}
