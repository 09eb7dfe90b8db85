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
use qcc_ir::{Elem, Graph, NodeId, Opcode, ValueId};

use crate::assign_scales::span;
use crate::precision::gives_16;

/// How many times the extent of one part of an output that of another is, before 8 bits are too few for both: the lesser one
/// keeps no more than 6 of them.
const UNLIKE: f32 = 4.0;

/// The values that are to have 16 bits because an output mixes magnitudes: the output, the parts that it is put together from
/// as far as they are computed by simple arithmetic, and what that arithmetic computes on its way.
pub(crate) fn mixed(g: &Graph) -> HashSet<ValueId> {
    let mut found = HashSet::new();
    for &y in g.outputs() {
        let mut together = Together::default();
        if together.take(g, y) && together.least * UNLIKE <= together.greatest {
            found.extend(together.moved);
            for part in together.parts {
                arithmetic(g, part, &mut found);
            }
        }
    }
    found
}

/// What an output is put together from.
#[derive(Default)]
struct Together {
    /// Results of data movement.
    moved: HashSet<ValueId>,
    /// What is moved there.
    parts: Vec<ValueId>,
    /// Least and greatest extent of parts.
    least: f32,
    greatest: f32,
}

impl Together {
    /// Takes what is behind `v`; false if a move on the way knows 8 bits only.
    fn take(&mut self, g: &Graph, v: ValueId) -> bool {
        if self.moved.contains(&v) {
            return true;
        }
        let Some(n) = g.producer(v).filter(|&n| moves(g, n)) else {
            self.part(g, v);
            return true;
        };
        self.moved.insert(v);
        gives_16(g, n) && g.operands(n).into_iter().all(|x| g.constant(x).is_some() || self.take(g, x))
    }

    fn part(&mut self, g: &Graph, v: ValueId) {
        let extent = span(g, v);
        if extent > 0.0 {
            self.least = if self.parts.is_empty() { extent } else { self.least.min(extent) };
            self.greatest = self.greatest.max(extent);
            self.parts.push(v);
        }
    }
}

/// True for data movement whose elements are those of its operands.
fn moves(g: &Graph, n: NodeId) -> bool {
    matches!(
        g.op(n),
        Opcode::Concat | Opcode::Reshape | Opcode::Transpose | Opcode::Slice | Opcode::Gather | Opcode::Expand
    )
}

/// Takes `v` if simple arithmetic computes it for nothing else, and so on with the operands.
fn arithmetic(g: &Graph, v: ValueId, found: &mut HashSet<ValueId>) {
    let used_here = g.uses(v).iter().all(|&(n, _)| found.contains(&g.result(n)));
    let Some(n) = g.producer(v).filter(|_| used_here && matches!(g.ty(v).elem, Elem::Calibrated(_))) else { return };
    let simple = match g.op(n).info().class {
        Class::Binary(Binary::Add | Binary::Sub | Binary::Mul | Binary::Div) => true,
        Class::Move(_) => moves(g, n),
        _ => false,
    };
    if simple && gives_16(g, n) && found.insert(v) {
        for x in g.operands(n) {
            arithmetic(g, x, found);
        }
    }
}
