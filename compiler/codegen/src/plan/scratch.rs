//! Memory that single steps need beside their operands and results.

use qcc_ir::ops::{Class, IntOp};
use qcc_ir::{Graph, NodeId};

use super::buffer::{ALIGN, SLACK};

/// Rows from which on it pays to pack the other matrix: a packed column is used once for each of them.
const PACKING_ROWS: usize = 4;

/// Bytes that the step of a node needs for itself, on any machine.
///
/// A product of two computed matrices packs the second as weights are packed, of up to 2 bytes, with rows a multiple of 4
/// and columns of the widest vector; it sums up its columns, and the rows of the first.
pub fn bytes(graph: &Graph, node: NodeId) -> Option<usize> {
    let Class::Int(IntOp::MatMul | IntOp::QMatMul) = graph.op(node).info().class else { return None };
    let [a, b] = [0, 1].map(|operand| &graph.ty(graph.operands(node)[operand]).dims[..]);
    let ([.., rows, _], [outer @ .., depth, columns]) = (a, b) else { return None };
    let columns = columns.next_multiple_of(16);
    let matrix = columns * (2 * depth.next_multiple_of(4) + 4) + 2 * ALIGN * columns.div_ceil(64);
    let sums = 4 * a[..a.len() - 1].iter().product::<usize>();
    (*rows >= PACKING_ROWS).then(|| (outer.iter().product::<usize>() * matrix).next_multiple_of(ALIGN) + sums + SLACK)
}
