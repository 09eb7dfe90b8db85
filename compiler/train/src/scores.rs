//! Which value of a network has the scores of which an output is the softmax.

use qcc_ir::{Graph, NodeId, Opcode, ValueId, attr};

/// The real value from which an output's scores are taken: before a softmax of its last dimension.
pub(crate) fn scores_of(g: &Graph, output: ValueId) -> ValueId {
    let mut v = output;
    while let Some(n) = g.producer(v) {
        let x = g.operands(n)[0];
        match g.op(n) {
            Opcode::Reshape => v = x,
            Opcode::Softmax if is_last(g, n, x) => return x,
            _ => break,
        }
    }
    output
}

fn is_last(g: &Graph, n: NodeId, x: ValueId) -> bool {
    let axis = g.node(n).attrs.get(attr::AXIS);
    let dims = &g.ty(x).dims;
    usize::try_from(axis).is_ok_and(|a| dims[a + 1..].iter().all(|&d| d == 1))
}

/// The value of an integer graph with the same meaning, in which a softmax may be followed by a table.
pub(crate) fn codes_of_scores(g: &Graph, output: ValueId) -> ValueId {
    let mut v = output;
    while let Some(n) = g.producer(v) {
        let x = g.operands(n)[0];
        match g.op(n) {
            Opcode::Reshape | Opcode::Transpose | Opcode::Lut => v = x,
            Opcode::ISoftmax => return x,
            _ => break,
        }
    }
    output
}
