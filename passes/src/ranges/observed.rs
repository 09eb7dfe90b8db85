//! Which elements of a value say something about its range: those that its readers can tell from others.
//!
//! | reader | what it cannot tell | what is observed instead |
//! |---|---|---|
//! | softmax | what lies far below the greatest of its row: its share vanishes, see [`softmax_span`] | that bound |
//! | maximum, greatest elements and their positions | a *sentinel*: the number with which masks and padding say "no value" | nothing |
//!
//! ```text
//! %m = tensor.where(%x, @lowest, %valid)        // lowest = -3.4e38: no scale holds both it and %x
//! %y = nn.reduce_max(%m) {axes = [3]}           // reads %m only, and never takes a sentinel beside a value
//! ```
//!
//! A sentinel saturates to the least code, which is not above that of any value. It comes from a selection, from padding or from a
//! mask that is added, moves with the data, and takes positive factors. For minima it is a great positive number.

use std::borrow::Cow;
use std::collections::HashMap;

use qcc_ir::ops::{Move, Pool, Reduce};
use qcc_ir::{Class, Graph, NodeId, Opcode, ValueId, attr};

use crate::rewrite::{either, floats, scalar};

/// What lies this far below the greatest argument of any softmax vanishes: `exp(-24)` is below 2^-34.
const SOFTMAX_SPAN: f32 = 24.0;

/// What lies this far below the greatest of `length` arguments of a softmax vanishes: all of it together is below `exp(-8)`, less than a
/// tenth of a step of 8 bits.
fn softmax_span(length: usize) -> f32 {
    (8.0 + (length as f32).ln()).min(SOFTMAX_SPAN)
}

/// The least magnitude of a sentinel.
const LEAST: f32 = 16.0;

/// The least magnitude from which on a sentinel is no value where it is the result of a maximum either: of a row of which a mask
/// leaves nothing.
const NO_VALUE: f32 = 1e3;

/// By how much a sentinel with something added to it may differ from it, relative to it.
const SUMMED: f32 = 0.5;

/// The least magnitude of a sentinel that is left out of the range of an output.
const BEYOND: f32 = 1e4;

/// What is added where a mask leaves an element as it is, at most.
const KEPT: f32 = 100.0;

/// The number that says "no value".
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sentinel {
    value: f32,
    /// By how much elements may differ from it, relative to it: what is masked by addition differs by itself.
    tolerance: f32,
}

/// The rows of a softmax's argument.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rows {
    /// Elements of a row.
    length: usize,
    /// Distance between neighbours of a row.
    inner: usize,
}

impl Rows {
    /// The rows of `data` with those elements raised to the bound of their row that `lowered` tells. A row of which a mask leaves nothing
    /// has equal shares, whatever its numbers are, and is left out.
    fn raised(self, data: &[f32], lowered: impl Fn(f32) -> bool) -> Vec<f32> {
        let span = softmax_span(self.length);
        let mut seen = Vec::with_capacity(data.len());
        for block in data.chunks(self.length * self.inner) {
            for i in 0..self.inner {
                let row = || block.iter().skip(i).step_by(self.inner).copied();
                let greatest = row().fold(f32::NEG_INFINITY, f32::max);
                if greatest > -NO_VALUE {
                    seen.extend(row().map(|x| if lowered(x) { x.max(greatest - span) } else { x }));
                }
            }
        }
        seen
    }
}

/// Which elements of a value are observed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Observed {
    /// All but the sentinel.
    Except(Sentinel),
    /// Those of a softmax's rows, raised to the bound of their row.
    Rows(Rows),
    /// All of them, with sentinels raised to that bound.
    RowsExcept(Rows, Sentinel),
}

impl Sentinel {
    /// Whether an element is one.
    pub(crate) fn is(self, x: f32) -> bool {
        let beyond = if self.value < 0.0 { x <= self.value } else { x >= self.value };
        beyond || self.value.is_finite() && (x - self.value).abs() <= self.tolerance * self.value.abs()
    }

    fn scaled(self, factor: f32) -> Sentinel {
        Sentinel { value: self.value * factor, ..self }
    }

    /// True if its magnitude is at least this.
    fn reaches(self, magnitude: f32) -> bool {
        self.value.abs() >= magnitude
    }
}

impl Observed {
    /// The elements that are observed.
    pub(crate) fn of(self, data: &[f32]) -> Cow<'_, [f32]> {
        match self {
            Observed::Except(sentinel) => Cow::Owned(data.iter().copied().filter(|&x| !sentinel.is(x)).collect()),
            Observed::Rows(rows) => Cow::Owned(rows.raised(data, |x| !x.is_nan())),
            Observed::RowsExcept(rows, sentinel) => Cow::Owned(rows.raised(data, |x| sentinel.is(x))),
        }
    }
}

/// What is observed of the values of which not all is.
pub(crate) fn observed(g: &Graph) -> HashMap<ValueId, Observed> {
    let of = |(v, sentinel): (ValueId, Sentinel)| match softmax_rows(g, v) {
        Some(rows) => (v, Observed::RowsExcept(rows, sentinel)),
        None => (v, Observed::Except(sentinel)),
    };
    let mut found: HashMap<ValueId, Observed> = sentinels(g).into_iter().map(of).collect();
    let only_softmax = |v: ValueId| g.uses(v).iter().all(|&(n, _)| g.op(n) == Opcode::Softmax) && !g.is_output(v);
    found
        .extend(g.values().filter(|&v| only_softmax(v)).filter_map(|v| Some((v, Observed::Rows(softmax_rows(g, v)?)))));
    found
}

/// The span of the softmax that reads `v`, if one does.
pub(crate) fn span_of_softmax(g: &Graph, v: ValueId) -> Option<f32> {
    softmax_rows(g, v).map(|rows| softmax_span(rows.length))
}

/// The rows of a value that a softmax reads, or several along the same axis.
fn softmax_rows(g: &Graph, v: ValueId) -> Option<Rows> {
    let mut axes = g.uses(v).into_iter().filter(|&(n, _)| g.op(n) == Opcode::Softmax);
    let axis = |n: NodeId| g.node(n).attrs.get(attr::AXIS);
    let first = axis(axes.next()?.0);
    let axis = usize::try_from(first).ok().filter(|_| axes.all(|(n, _)| axis(n) == first))?;
    let dims = &g.ty(v).dims;
    let (length, inner) = (*dims.get(axis)?, dims[axis + 1..].iter().product());
    (length > 0 && inner > 0).then_some(Rows { length, inner })
}

/// The sentinels that values hold, as far as all that reads them tolerates that a sentinel saturates.
pub(crate) fn sentinels(g: &Graph) -> HashMap<ValueId, Sentinel> {
    let mut held: HashMap<ValueId, Sentinel> = HashMap::new();
    for n in g.order() {
        let inherited = inherited(g, n, &held);
        if let Some(sentinel) = source(g, n).or(inherited).filter(|s| s.reaches(LEAST)) {
            held.insert(g.result(n), sentinel);
        }
    }
    let mut tolerated: HashMap<ValueId, Sentinel> = HashMap::new();
    for n in g.order().into_iter().rev() {
        let y = g.result(n);
        let Some(&sentinel) = held.get(&y) else { continue };
        let tolerates = |&(reader, position): &(NodeId, usize)| {
            let carries = || carried(g, reader).iter().any(|(v, _)| g.operands(reader).get(position) == Some(v));
            let vanishes = g.op(reader) == Opcode::Softmax && sentinel.value <= -NO_VALUE;
            orders(g, reader, sentinel) || vanishes || carries() && tolerated.contains_key(&g.result(reader))
        };
        let is_left = if orders(g, n, sentinel) {
            sentinel.reaches(NO_VALUE)
        } else {
            // An output of real numbers beside a sentinel that no scale holds together with them keeps the numbers.
            let (is_output, is_read) = (g.is_output(y), !g.uses(y).is_empty());
            (sentinel.reaches(BEYOND) || !is_output) && (is_output || is_read) && g.uses(y).iter().all(tolerates)
        };
        if is_left {
            tolerated.insert(y, sentinel);
        }
    }
    tolerated
}

/// The sentinel that a result has of its operands.
fn inherited(g: &Graph, n: NodeId, held: &HashMap<ValueId, Sentinel>) -> Option<Sentinel> {
    let mut all = carried(g, n).into_iter().filter_map(|(v, factor)| Some(held.get(&v)?.scaled(factor)));
    let first = all.next()?;
    if !matches!(g.op(n), Opcode::Add | Opcode::Sub) {
        let selects = matches!(g.op(n).info().class, Class::Pool(_) | Class::Reduce(_));
        // What prefers it to every number makes a number of it.
        return (!selects || orders(g, n, first)).then_some(first);
    }
    // The other summand is a real number: two sentinels give neither.
    let alone = all.next().is_none() && first.reaches(NO_VALUE) && g.operands(n)[0] != g.operands(n)[1];
    alone.then_some(Sentinel { tolerance: SUMMED, ..first })
}

/// The sentinel that an operation brings in.
fn source(g: &Graph, n: NodeId) -> Option<Sentinel> {
    let exact = |value: f32| Sentinel { value, tolerance: 1e-5 };
    let far = |s: &Sentinel| s.reaches(LEAST);
    match g.op(n) {
        Opcode::Pad => Some(exact(g.node(n).attrs.get(attr::VALUE))).filter(far),
        Opcode::Where => g.operands(n)[..2].iter().filter_map(|&v| scalar(g, v)).map(exact).find(far),
        Opcode::Add => either(g, n, |mask, _| {
            let data = floats(g, mask)?.1;
            let off = data.iter().copied().filter(|x| x.abs() > KEPT).reduce(f32::max)?;
            // All that is not kept is switched off alike, in one direction.
            let is_mask = data.len() > 1 && data.iter().all(|x| x.abs() <= KEPT || *x <= off.min(-NO_VALUE));
            is_mask.then_some(Sentinel { value: off, tolerance: SUMMED })
        })
        .map(|(sentinel, _)| sentinel),
        _ => None,
    }
}

/// The operands whose sentinels the result holds, each with the factor that they take.
fn carried(g: &Graph, n: NodeId) -> Vec<(ValueId, f32)> {
    let operands = g.operands(n);
    let positive = |v: ValueId| scalar(g, v).filter(|c| *c > 0.0 && c.is_finite());
    match g.op(n).info().class {
        // Beside a sentinel nothing that is added counts.
        _ if g.op(n) == Opcode::Sub => vec![(operands[0], 1.0)],
        _ if g.op(n) == Opcode::Add => {
            operands.iter().filter(|&&v| g.constant(v).is_none()).map(|&v| (v, 1.0)).collect()
        }
        _ if g.op(n) == Opcode::Mul => either(g, n, |a, _| positive(a)).map(|(c, x)| (x, c)).into_iter().collect(),
        Class::Move(Move::Where | Move::Concat) => {
            let computed = operands.iter().take(if g.op(n) == Opcode::Where { 2 } else { operands.len() });
            computed.filter(|&&v| g.constant(v).is_none()).map(|&v| (v, 1.0)).collect()
        }
        Class::Move(
            Move::Reshape | Move::Transpose | Move::Slice | Move::Pad | Move::Gather | Move::Expand | Move::TopK,
        )
        | Class::Pool(Pool::Max)
        | Class::Reduce(Reduce::Max | Reduce::Min) => vec![(operands[0], 1.0)],
        _ => Vec::new(),
    }
}

/// Whether the operation tells elements by their order only, so that a sentinel comes last.
fn orders(g: &Graph, n: NodeId, sentinel: Sentinel) -> bool {
    let greatest_first = match g.op(n).info().class {
        Class::Pool(Pool::Max) | Class::Reduce(Reduce::Max) | Class::Move(Move::ArgMax | Move::MaxPoolIndex) => true,
        Class::Reduce(Reduce::Min) => false,
        Class::Move(Move::TopK | Move::TopKIndex) => g.node(n).attrs.get(attr::LARGEST),
        _ => return false,
    };
    greatest_first == (sentinel.value < 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_bounds_of_their_own() {
        let rows = Observed::Rows(Rows { length: 3, inner: 2 });
        let span = softmax_span(3);
        let (a, b) = ([10.0, -50.0, 5.0], [-40.0, -41.0, -90.0]);
        let data: Vec<f32> = a.iter().zip(b).flat_map(|(&a, b)| [a, b]).collect();
        assert_eq!(rows.of(&data)[..], [10.0, 10.0 - span, 5.0, -40.0, -41.0, -40.0 - span]);
    }

    #[test]
    fn what_a_mask_leaves_nothing_of_is_no_row() {
        let rows = Observed::Rows(Rows { length: 2, inner: 1 });
        assert_eq!(rows.of(&[-1e4, -1e4, 3.0, f32::NEG_INFINITY])[..], [3.0, 3.0 - softmax_span(2)]);
    }

    #[test]
    fn sentinels_are_left_out() {
        let masked = |value: f32, tolerance: f32| Observed::Except(Sentinel { value, tolerance });
        assert_eq!(masked(-1e4, 0.5).of(&[1.0, -1e4, -9990.0, -2.0])[..], [1.0, -2.0]);
        assert_eq!(masked(f32::NEG_INFINITY, 1e-5).of(&[1.0, f32::NEG_INFINITY, -2e9])[..], [1.0, -2e9]);
        assert_eq!(masked(-1e9, 1e-5).of(&[1.0, f32::NEG_INFINITY, -1e9])[..], [1.0]);
    }
}
