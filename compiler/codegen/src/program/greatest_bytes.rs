//! Greatest byte that a value can hold, as far as the operators that compute it tell: sums of products with fewer levels stay in 16 bits for
//! more steps.

use std::collections::HashMap;

use qcc_ir::ops::{IntOp, Move};
use qcc_ir::{Class, Graph, Int, NodeId, ValueId, attr};

/// The values of u8 of which less than 255 is known. Inputs are not among them: callers may give any bytes.
pub fn greatest_bytes(graph: &Graph) -> HashMap<ValueId, u8> {
    let mut known = HashMap::new();
    for node in graph.order() {
        let result = graph.result(node);
        if graph.ty(result).elem.storage() != Some(Int::U8) {
            continue;
        }
        match of(graph, node, &known) {
            u8::MAX => {}
            greatest => {
                known.insert(result, greatest);
            }
        }
    }
    known
}

/// Of the result of a node, from those of its operands.
fn of(graph: &Graph, node: NodeId, known: &HashMap<ValueId, u8>) -> u8 {
    let (operands, attrs) = (graph.operands(node), &graph.node(node).attrs);
    let operand = |i: usize| match graph.constant(operands[i]) {
        Some(tensor) => tensor.as_u8().and_then(|bytes| bytes.iter().copied().max()).unwrap_or(u8::MAX),
        None => known.get(&operands[i]).copied().unwrap_or(u8::MAX),
    };
    match graph.op(node).info().class {
        Class::Int(IntOp::Lut) => operand(1),
        Class::Int(IntOp::Lut2) => operand(2),
        Class::Int(IntOp::MaxPool) => operand(0),
        Class::Int(IntOp::Clamp) => attrs.byte_bounds().1.min(operand(0).max(attrs.byte_bounds().0)),
        Class::Int(
            IntOp::Requant
            | IntOp::QConv2d
            | IntOp::QLinear
            | IntOp::QMatMul
            | IntOp::Add
            | IntOp::Mul
            | IntOp::Rescale
            | IntOp::ScaleChannels
            | IntOp::AveragePool
            | IntOp::Mean,
        ) => attrs.byte_bounds().1,
        Class::Move(Move::Reshape | Move::Transpose | Move::Slice | Move::Gather | Move::Expand | Move::TopK) => {
            operand(0)
        }
        Class::Move(Move::Concat) => (0..operands.len()).map(operand).max().unwrap_or(u8::MAX),
        Class::Move(Move::Where) => operand(0).max(operand(1)),
        Class::Move(Move::Pad) if (0.0..255.0).contains(&attrs.get(attr::VALUE)) => {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "the pattern says that it fits"
            )]
            let value = attrs.get(attr::VALUE).ceil() as u8;
            operand(0).max(value)
        }
        _ => u8::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::greatest_bytes;

    #[test]
    fn bounds_follow_operators() {
        let text = "graph @net(%x: tensor<1x2x2x1xu8>) -> (tensor<1x2x2x2xu8>) {
  const @t : tensor<256xu8> = dense<9>
  %a = int.clamp(%x) {hi = 15} : tensor<1x2x2x1xu8>
  %b = int.max_pool(%a) {kernel = [1, 1]} : tensor<1x2x2x1xu8>
  %c = int.lut(%x, @t) : tensor<1x2x2x1xu8>
  %d = tensor.concat(%b, %c) {axis = 3} : tensor<1x2x2x2xu8>
  %e = tensor.concat(%d, %x) {axis = 3} : tensor<1x2x2x3xu8>
  %f = tensor.slice(%e) {starts = [0, 0, 0, 0], ends = [1, 2, 2, 2], steps = [1, 1, 1, 1]} : tensor<1x2x2x2xu8>
  %g = int.clamp(%f) {lo = 3, hi = 200} : tensor<1x2x2x2xu8>
  return %g
}";
        let graph = qcc_ir::parse::parse(text, &qcc_ir::parse::no_files).expect("a graph");
        let greatest = greatest_bytes(&graph);
        let of = |name: &str| {
            let node = graph.order().into_iter().find(|&n| graph.name_of(graph.result(n)) == name).expect("a value");
            greatest.get(&graph.result(node)).copied()
        };
        let found = ["a", "b", "c", "d", "e", "f", "g"].map(of);
        assert_eq!(found, [Some(15), Some(15), Some(9), Some(15), None, None, Some(200)]);
    }
}
