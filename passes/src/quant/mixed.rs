//! Values that hold things of different magnitude and leave the graph as one tensor: a detector's boxes beside its scores.
//!
//! ```text
//! %boxes  : tensor<1x4x8400x!quant.calibrated<f32<0.0:640.0>>>
//! %scores : tensor<1x80x8400x!quant.calibrated<f32<0.0:1.0>>>
//! %y = tensor.concat(%boxes, %scores) { axis = 1 }
//! return %y
//! ```
//!
//! One scale of 8 bits for `%y` is 2.5: no score is left of it. 16 bits hold both, with a step of 0.01. They begin behind the last
//! layers: arithmetic on few elements costs little there, and boxes in steps of 2.5 pixels are too coarse as well.

use std::collections::HashSet;

use qcc_ir::ops::{Binary, Class};
use qcc_ir::{Graph, NodeId, ValueId, format};

use crate::quant::forms::{Side, form, moves_any};
use crate::ranges::extent::span;

/// How many times the extent of one part of an output that of another is, before 8 bits are too few for both: the lesser one
/// keeps no more than 6 of them.
const UNLIKE: f32 = 4.0;

/// The values that are to have 16 bits because an output mixes magnitudes: the output, the parts that it is put together from
/// as far as they are computed by simple arithmetic, and what that arithmetic computes on its way.
pub(crate) fn mixed(g: &Graph) -> HashSet<ValueId> {
    let mut found = HashSet::new();
    // What is read as well, as features are, stays as narrow as its readers want it.
    for &y in g.outputs().iter().filter(|&&y| g.uses(y).is_empty()) {
        let moved = behind(g, HashSet::from([y]), moves_any);
        if g.producer(y).is_some_and(|n| moves_any(g, n)) && unlike(g, &moved) {
            found.extend(moved);
        }
    }
    behind(g, found, |g, n| moves_any(g, n) || is_simple(g, n))
}

/// Values and what stands behind them: results of such operations that nothing else reads.
fn behind(g: &Graph, mut values: HashSet<ValueId>, such: impl Fn(&Graph, NodeId) -> bool) -> HashSet<ValueId> {
    for n in g.order().into_iter().rev() {
        let v = g.result(n);
        let uses = g.uses(v);
        let read_here = !uses.is_empty() && uses.iter().all(|&(n, _)| values.contains(&g.result(n)));
        if read_here && !g.is_output(v) && such(g, n) {
            values.insert(v);
        }
    }
    values
}

/// True if what is moved into these values differs too much in extent.
fn unlike(g: &Graph, moved: &HashSet<ValueId>) -> bool {
    let operands = moved.iter().filter_map(|&v| g.producer(v)).flat_map(|n| g.operands(n));
    let extents = operands.filter(|v| !moved.contains(v)).map(|v| span(g, v)).filter(|&extent| extent > 0.0);
    let (least, greatest) = extents.fold((f32::INFINITY, 0.0f32), |(l, m), extent| (l.min(extent), m.max(extent)));
    least * UNLIKE <= greatest
}

fn is_simple(g: &Graph, n: NodeId) -> bool {
    let class = g.op(n).info().class;
    matches!(class, Class::Binary(Binary::Add | Binary::Sub | Binary::Mul | Binary::Div))
        && form(g, n, Side::Gives).take(&format::I16)
}
