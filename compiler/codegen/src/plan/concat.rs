//! Concatenation without copies: values that are computed where the concatenation wants them.
//!
//! The last concatenation of the graph chooses first. Its operands become *parts* of its buffer, unless something else binds
//! them. One before it, whose operands all lie side by side in one buffer by then, is a part itself: in a DenseNet block every
//! concatenation is the beginning of the last one.

use std::collections::HashMap;

use qcc_ir::ops::{Class, IntOp, Move};
use qcc_ir::{Graph, NodeId, ValueId, attr};

use super::halo::{Halo, Requests};
use super::view::BufferView;

/// Where a value lies in another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The concatenation's result, which may be a part itself.
    pub of: ValueId,
    /// Index of the part's first element in it.
    pub start: Vec<usize>,
}

/// Where the operands of a concatenation belong in its result.
pub fn windows(whole: &BufferView, axis: usize, operands: &[BufferView]) -> Vec<BufferView> {
    let mut start = vec![0; whole.dims.len()];
    let window = |operand: &BufferView| {
        let window = whole.window(&start, &vec![1; whole.dims.len()], &operand.dims);
        start[axis] += operand.dims[axis];
        window
    };
    operands.iter().map(window).collect()
}

/// All parts. `bound` tells whether a value lies in memory of the caller.
pub fn parts(graph: &Graph, requests: &Requests, bound: impl Fn(ValueId) -> bool) -> HashMap<ValueId, Part> {
    let mut parts = HashMap::new();
    for node in graph.order().into_iter().rev() {
        if !matches!(graph.op(node).info().class, Class::Move(Move::Concat)) {
            continue;
        }
        let whole = graph.result(node);
        if bound(whole) {
            continue;
        }
        let axis = graph.node(node).attrs.get(attr::AXIS) as usize;
        if let Some(part) = beginning(graph, &parts, node, axis).filter(|_| !parts.contains_key(&whole))
            && fits(graph, requests, &parts, whole, &part, axis)
        {
            parts.insert(whole, part);
            continue;
        }
        let mut start = vec![0; graph.ty(whole).dims.len()];
        for v in graph.operands(node) {
            let part = Part { of: whole, start: start.clone() };
            start[axis] += graph.ty(v).dims[axis];
            let free = !parts.contains_key(&v) && !bound(v) && is_computed(graph, v);
            if free && fits(graph, requests, &parts, v, &part, axis) {
                parts.insert(v, part);
            }
        }
    }
    parts
}

/// The part that a concatenation is if its operands follow each other in one value.
fn beginning(graph: &Graph, parts: &HashMap<ValueId, Part>, node: NodeId, axis: usize) -> Option<Part> {
    let operands = graph.operands(node);
    let first = parts.get(operands.first()?)?;
    let mut at = first.start.clone();
    for v in &operands {
        let part = parts.get(v)?;
        if part.of != first.of || part.start != at {
            return None;
        }
        at[axis] += graph.ty(*v).dims[axis];
    }
    Some(first.clone())
}

/// Whether the value's readers find around a part what they need: the halo, where it is wanted, must be that of the whole.
fn fits(
    graph: &Graph,
    requests: &Requests,
    parts: &HashMap<ValueId, Part>,
    v: ValueId,
    part: &Part,
    axis: usize,
) -> bool {
    let mut root = part.of;
    while let Some(outer) = parts.get(&root) {
        root = outer.of;
    }
    let halo = |v: ValueId| requests.by_value.get(&v).copied().unwrap_or(Halo::NONE);
    let need = halo(v);
    need.extent() == 0 || axis + 1 == graph.ty(v).dims.len() && halo(root).covers(&need)
}

/// True if a step computes the value in memory of its own choice, and no reader needs it dense.
fn is_computed(graph: &Graph, v: ValueId) -> bool {
    let class = |node: NodeId| graph.op(node).info().class;
    let dense =
        |node: NodeId| matches!(class(node), Class::Move(Move::Reshape) | Class::Int(IntOp::Linear | IntOp::QLinear));
    let is_reshape = |node: NodeId| matches!(class(node), Class::Move(Move::Reshape));
    graph.producer(v).is_some_and(|node| !is_reshape(node)) && !graph.uses(v).iter().any(|&(node, _)| dense(node))
}

#[cfg(test)]
mod tests {
    use qcc_ir::parse::{no_files, parse};

    use crate::plan::{Plan, plan};

    fn planned(body: &str, result: &str) -> Plan {
        let text = format!("graph @g(%x: tensor<1x4x4x8xu8>) -> ({result}) {{\n{body}\n}}\n");
        plan(&parse(&text, &no_files).expect("a graph"), &Default::default()).expect("a plan")
    }

    /// A dense block: every concatenation but the output's is a part of one buffer, and no step.
    #[test]
    fn nested_concatenations_are_parts_of_one_buffer() {
        let p = planned(
            "  %a = int.clamp(%x) {lo = 1} : tensor<1x4x4x8xu8>
  %b = int.clamp(%a) {lo = 2} : tensor<1x4x4x8xu8>
  %ab = tensor.concat(%a, %b) {axis = 3} : tensor<1x4x4x16xu8>
  %c = int.clamp(%ab) {lo = 3} : tensor<1x4x4x16xu8>
  %abc = tensor.concat(%ab, %c) {axis = 3} : tensor<1x4x4x32xu8>
  %y = int.clamp(%abc) {lo = 4} : tensor<1x4x4x32xu8>
  return %y",
            "tensor<1x4x4x32xu8>",
        );
        let names: Vec<&str> = p.steps.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c", "y"], "{p}");
        assert_eq!(p.arena_buffers().count(), 1, "{p}");
    }

    /// A halo around an operand alone, or a caller's memory: there a copy is made.
    #[test]
    fn what_is_bound_elsewhere_is_copied() {
        let p = planned(
            "  %a = int.clamp(%x) {lo = 1} : tensor<1x4x4x8xu8>
  %m = int.max_pool(%a) {kernel = [3, 3], pads = [1, 1, 1, 1]} : tensor<1x4x4x8xu8>
  %am = tensor.concat(%a, %m, %x) {axis = 3} : tensor<1x4x4x24xu8>
  %y = int.clamp(%am) {lo = 4} : tensor<1x4x4x24xu8>
  return %y",
            "tensor<1x4x4x24xu8>",
        );
        let names: Vec<&str> = p.steps.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["a.halo", "a", "m", "am", "y"], "{p}");
        assert_eq!(p.arena_buffers().count(), 2, "{p}");
    }
}
