//! What an operator costs.

use qcc_ir::ops::{Contract, Sums};
use qcc_ir::{Class, Graph, NodeId};

/// Multiply-accumulates of a node.
pub fn multiply_accumulates(graph: &Graph, n: NodeId) -> u64 {
    let operands = graph.operands(n);
    let dims = |i: usize| graph.ty(operands[i]).dims.as_slice();
    // Weights have the outputs first: what is behind is summed up for each.
    let weights = || dims(1)[1..].iter().product();
    let depth = || dims(0).last().copied().unwrap_or(1);
    let terms: usize = match graph.op(n).info().class {
        Class::Contract(Contract::Conv2d | Contract::Linear) => weights(),
        Class::Contract(Contract::MatMul) => depth(),
        Class::Int(op) => match op.form().sums {
            Sums::Weights => weights(),
            Sums::Products => depth(),
            Sums::None | Sums::Window | Sums::Axes => 0,
        },
        _ => 0,
    };
    graph.ty(graph.result(n)).elements() as u64 * terms as u64
}
