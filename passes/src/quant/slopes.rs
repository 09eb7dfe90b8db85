//! Operands of rectifiers with slopes: their negative side reaches far, and little of it is left.
//!
//! ```text
//! %c = nn.conv2d(..)                  // -18 to 9
//! %p = nn.prelu(%c, @slopes)          // -4 to 9
//! ```
//!
//! Rounded to 8 bits before and behind the slopes, each layer loses twice, once of it in steps for a range that the result does not have. A
//! layer gives such an operand 16 bits at no cost but the rectifier's. Features that only the last layers read have 16 bits behind it, too:
//! those layers are small, and what they lose nothing evens out.

use std::collections::HashSet;

use qcc_ir::ops::{Binary, Class, Norm};
use qcc_ir::{Graph, NodeId, ValueId};

use crate::layer::is_layer;
use crate::quant::forms::moves_any;
use crate::rewrite::leaves_through;
use crate::rewrite::scalar;

/// The values that are to have 16 bits.
pub(crate) fn slopes(g: &Graph) -> HashSet<ValueId> {
    let mut found = HashSet::new();
    for n in g.order() {
        let (Class::Binary(Binary::PRelu), operands) = (g.op(n).info().class, g.operands(n)) else { continue };
        let (x, y) = (operands[0], g.result(n));
        let of_layer = g.producer(x).is_some_and(|p| is_layer(g.op(p)));
        if !of_layer || scalar(g, operands[1]).is_some() || g.only_user(x) != Some(n) || g.is_output(x) {
            continue;
        }
        found.insert(x);
        let uses = g.uses(y);
        if !uses.is_empty() && uses.iter().all(|&(m, _)| is_last(g, m)) {
            found.insert(y);
        }
    }
    found
}

/// Whether an operation is a layer whose result leaves the graph, as scores if they are such.
fn is_last(g: &Graph, n: NodeId) -> bool {
    is_layer(g.op(n)) && leaves(g, g.result(n))
}

fn leaves(g: &Graph, v: ValueId) -> bool {
    leaves_through(g, v, |m| {
        moves_any(g, m) || matches!(g.op(m).info().class, Class::Norm(Norm::Softmax) | Class::Unary(_))
    })
}
