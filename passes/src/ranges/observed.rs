//! Which elements of a value say something about its range: those that its readers can tell from others.
//!
//! | reader | what it cannot tell | what is observed instead |
//! |---|---|---|
//! | softmax | what lies [`SOFTMAX_SPAN`] and more below the greatest of its row: its share is below 2^-34 | that bound |
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

/// What lies this far below the greatest argument of a softmax vanishes: `exp(-24)` is below 2^-34.
pub(crate) const SOFTMAX_SPAN: f32 = 24.0;

/// The least magnitude of a sentinel.
const LEAST: f32 = 16.0;

/// The least magnitude from which on a sentinel is no value where it is the result of a maximum either: of a row of which a mask
/// leaves nothing.
const NO_VALUE: f32 = 1e3;

/// What is added where a mask leaves an element as it is, at most.
const KEPT: f32 = 100.0;

/// The number that says "no value".
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sentinel {
    value: f32,
    /// By how much elements may differ from it, relative to it: what is masked by addition differs by itself.
    tolerance: f32,
}

/// Which elements of a value are observed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Observed {
    /// All but the sentinel.
    Except(Sentinel),
    /// Those of a softmax's rows, raised to the bound of their row.
    Rows {
        /// Elements of a row.
        length: usize,
        /// Distance between neighbours of a row.
        inner: usize,
    },
}

impl Sentinel {
    fn is(self, x: f32) -> bool {
        x == self.value || (x - self.value).abs() <= self.tolerance * self.value.abs()
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
            Observed::Rows { length, inner } => {
                let mut seen = Vec::with_capacity(data.len());
                for block in data.chunks(length * inner) {
                    for i in 0..inner {
                        let row = || block.iter().skip(i).step_by(inner).copied();
                        let greatest = row().fold(f32::NEG_INFINITY, f32::max);
                        // A row of which a mask leaves nothing has equal shares, whatever its numbers are.
                        if greatest > -NO_VALUE {
                            seen.extend(row().map(|x| if x.is_nan() { x } else { x.max(greatest - SOFTMAX_SPAN) }));
                        }
                    }
                }
                Cow::Owned(seen)
            }
        }
    }
}

/// What is observed of the values of which not all is.
pub(crate) fn observed(g: &Graph) -> HashMap<ValueId, Observed> {
    let mut found: HashMap<ValueId, Observed> =
        sentinels(g).into_iter().map(|(v, s)| (v, Observed::Except(s))).collect();
    found.extend(g.values().filter_map(|v| Some((v, rows(g, v)?))));
    found
}

/// The rows of a value that nothing but a softmax reads.
fn rows(g: &Graph, v: ValueId) -> Option<Observed> {
    let softmax = g.only_user(v).filter(|&n| g.op(n) == Opcode::Softmax && !g.is_output(v))?;
    let axis = usize::try_from(g.node(softmax).attrs.get(attr::AXIS)).ok()?;
    let dims = &g.ty(v).dims;
    let (length, inner) = (*dims.get(axis)?, dims[axis + 1..].iter().product());
    (length > 0 && inner > 0).then_some(Observed::Rows { length, inner })
}

/// The sentinels that values hold, as far as all that reads them tolerates that a sentinel saturates.
pub(crate) fn sentinels(g: &Graph) -> HashMap<ValueId, Sentinel> {
    let mut held: HashMap<ValueId, Sentinel> = HashMap::new();
    for n in g.order() {
        let inherited = carried(g, n).into_iter().find_map(|(v, factor)| Some(held.get(&v)?.scaled(factor)));
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
            orders(g, reader, sentinel) || carries() && tolerated.contains_key(&g.result(reader))
        };
        let is_left = if orders(g, n, sentinel) {
            sentinel.reaches(NO_VALUE)
        } else {
            !g.is_output(y) && !g.uses(y).is_empty() && g.uses(y).iter().all(tolerates)
        };
        if is_left {
            tolerated.insert(y, sentinel);
        }
    }
    tolerated
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
            is_mask.then_some(Sentinel { value: off, tolerance: 0.5 })
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
        let rows = Observed::Rows { length: 3, inner: 2 };
        let (a, b) = ([10.0, -50.0, 0.0], [-40.0, -41.0, -90.0]);
        let data: Vec<f32> = a.iter().zip(b).flat_map(|(&a, b)| [a, b]).collect();
        assert_eq!(rows.of(&data)[..], [10.0, -14.0, 0.0, -40.0, -41.0, -64.0]);
    }

    #[test]
    fn what_a_mask_leaves_nothing_of_is_no_row() {
        let rows = Observed::Rows { length: 2, inner: 1 };
        assert_eq!(rows.of(&[-1e4, -1e4, 3.0, f32::NEG_INFINITY])[..], [3.0, -21.0]);
    }

    #[test]
    fn sentinels_are_left_out() {
        let masked = |value: f32, tolerance: f32| Observed::Except(Sentinel { value, tolerance });
        assert_eq!(masked(-1e4, 0.5).of(&[1.0, -1e4, -9990.0, -2.0])[..], [1.0, -2.0]);
        assert_eq!(masked(f32::NEG_INFINITY, 1e-5).of(&[1.0, f32::NEG_INFINITY, -2e9])[..], [1.0, -2e9]);
    }
}
