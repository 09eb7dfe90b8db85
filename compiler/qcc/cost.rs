//! What an operator costs.

use qcc_ir::ops::{Contract, IntOp};
use qcc_ir::{Class, Graph, NodeId};

/// Multiply-accumulates of a node.
pub fn multiply_accumulates(graph: &Graph, n: NodeId) -> u64 {
    let operands = graph.operands(n);
    let dims = |i: usize| graph.ty(operands[i]).dims.as_slice();
    let terms: usize = match graph.op(n).info().class {
        // Weights have the outputs first: what is behind is summed up for each.
        Class::Contract(Contract::Conv2d | Contract::Linear)
        | Class::Int(IntOp::Conv2d | IntOp::Linear | IntOp::QConv2d | IntOp::QLinear) => dims(1)[1..].iter().product(),
        Class::Contract(Contract::MatMul) | Class::Int(IntOp::MatMul | IntOp::QMatMul) => {
            dims(0).last().copied().unwrap_or(1)
        }
        _ => 0,
    };
    graph.ty(graph.result(n)).elements() as u64 * terms as u64
}
