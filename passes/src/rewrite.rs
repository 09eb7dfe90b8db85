//! What rewriting passes have in common: reading constants, recognising neighbours, putting one operation in the place of
//! another.

use std::collections::HashSet;
use std::sync::Arc;

use qcc_ir::{Attrs, Change, Edit, Elem, Graph, NodeId, Opcode, Origin, Tensor, Type, ValueId, attr};

/// The element of a float constant that has only one.
pub(crate) fn scalar(graph: &Graph, v: ValueId) -> Option<f32> {
    match graph.constant(v)?.as_f32()? {
        [x] => Some(*x),
        _ => None,
    }
}

/// A float constant that broadcasts over a value of shape `dims` and differs along `axis` at most: one element for each
/// index of the axis.
pub(crate) fn per_channel(graph: &Graph, v: ValueId, dims: &[usize], axis: usize) -> Option<Vec<f32>> {
    by_channel(graph.constant(v)?, dims, axis)
}

/// The same of a tensor.
pub(crate) fn by_channel(tensor: &Tensor, dims: &[usize], axis: usize) -> Option<Vec<f32>> {
    let data = tensor.as_f32()?;
    let channels = *dims.get(axis)?;
    if let [x] = data {
        return Some(vec![*x; channels]);
    }
    let lead = dims.len().checked_sub(tensor.dims.len())?;
    let fits = tensor.dims.iter().enumerate().all(|(i, &d)| d == if lead + i == axis { channels } else { 1 });
    fits.then(|| data.to_vec())
}

/// The floats of a constant.
pub(crate) fn floats(graph: &Graph, v: ValueId) -> Option<(&Tensor, &[f32])> {
    let tensor = graph.constant(v)?;
    Some((tensor, tensor.as_f32()?))
}

/// The node that produces `v`, if it is an `op`.
pub(crate) fn produced_by(graph: &Graph, v: ValueId, op: Opcode) -> Option<NodeId> {
    graph.producer(v).filter(|&n| graph.op(n) == op)
}

/// The same, if nothing else uses `v`.
pub(crate) fn produced_once(graph: &Graph, v: ValueId, op: Opcode) -> Option<NodeId> {
    graph.only_user(v)?;
    produced_by(graph, v, op)
}

/// True if the result of the node is of any use. Within a round of rewriting, nodes that are not stay until the end.
pub(crate) fn is_live(graph: &Graph, n: NodeId) -> bool {
    let y = graph.result(n);
    graph.is_output(y) || !graph.uses(y).is_empty()
}

/// True if the value leaves the graph, through operations of one kind alone.
pub(crate) fn leaves_through(graph: &Graph, v: ValueId, passes: impl Fn(NodeId) -> bool) -> bool {
    let (mut open, mut seen) = (vec![v], HashSet::new());
    while let Some(v) = open.pop() {
        if !seen.insert(v) {
            continue;
        }
        let before = open.len();
        for n in graph.users(v) {
            if !passes(n) {
                return false;
            }
            open.push(graph.result(n));
        }
        if open.len() == before && !graph.is_output(v) {
            return false;
        }
    }
    true
}

/// The two operands of a binary operation, the one with the property first.
pub(crate) fn either<T>(
    graph: &Graph,
    n: NodeId,
    found: impl Fn(ValueId, ValueId) -> Option<T>,
) -> Option<(T, ValueId)> {
    let operands = graph.operands(n);
    let [a, b] = operands[..] else { return None };
    found(a, b).map(|t| (t, b)).or_else(|| found(b, a).map(|t| (t, a)))
}

/// A new operation computes what `old` stands for, with its type and its name.
pub(crate) fn substitute(change: &mut Change, old: ValueId, op: Opcode, operands: &[ValueId], attrs: Attrs) -> ValueId {
    let (name, ty) = (change.graph().name_of(old).to_string(), change.graph().ty(old).clone());
    let origin = origin_of(change.graph(), old);
    let new = change.add(op, operands, attrs, &name, ty, origin);
    change.replace(old, new);
    new
}

/// Where the operation that produces the value comes from.
pub(crate) fn origin_of(graph: &Graph, v: ValueId) -> Option<Arc<Origin>> {
    graph.producer(v).and_then(|n| graph.node(n).origin.clone())
}

/// Adds a cast of a value.
pub(crate) fn add_cast(change: &mut Change, op: Opcode, v: ValueId, elem: Elem) -> ValueId {
    let g = change.graph();
    let name = g.name_of(v).to_string();
    let name = match op {
        Opcode::DCast => format!("{}.dq", name.strip_suffix(".q").unwrap_or(&name)),
        _ => format!("{name}.q"),
    };
    let ty = Type { dims: g.ty(v).dims.clone(), elem };
    let origin = origin_of(g, v);
    change.add(op, &[v], Attrs::new(op), &name, ty, origin)
}

/// True if `x` can take the place of `y`, which equals it: the name of a graph output must not get lost.
pub(crate) fn can_bypass(graph: &Graph, y: ValueId, x: ValueId) -> bool {
    !graph.is_output(y) || graph.producer(x).is_some() && !graph.is_output(x)
}

/// `x` takes the place of `y`, which equals it; an output keeps its name. Ask [`can_bypass`] first.
pub(crate) fn bypass(change: &mut Change, y: ValueId, x: ValueId) {
    if change.graph().is_output(y) {
        change.replace(y, x);
    } else {
        change.replace_uses(y, x);
    }
}

/// Text of a label: the result's name and its operator.
pub(crate) fn named(edit: &Edit, n: NodeId) -> String {
    let g = edit.graph();
    format!("%{} = {}", g.name_of(g.result(n)), g.op(n).name())
}

/// What `v` is the transpose of, and how.
pub(crate) fn transposed(g: &Graph, v: ValueId) -> Option<(ValueId, Vec<usize>)> {
    let n = produced_by(g, v, Opcode::Transpose)?;
    Some((g.operands(n)[0], g.node(n).attrs.sizes(attr::PERM)))
}

/// `b` after `a`: the permutation that does what transposing by `a` and then by `b` does.
pub(crate) fn compose(a: &[usize], b: &[usize]) -> Vec<usize> {
    b.iter().map(|&i| a[i]).collect()
}

/// The permutation that undoes `perm`.
pub(crate) fn inverse(perm: &[usize]) -> Vec<usize> {
    let mut inverse = vec![0; perm.len()];
    for (i, &p) in perm.iter().enumerate() {
        inverse[p] = i;
    }
    inverse
}

/// True if transposing a value of shape `dims` by `perm` leaves all elements in their order: extents of 1 may move.
pub(crate) fn keeps_order(dims: &[usize], perm: &[usize]) -> bool {
    let moved: Vec<usize> = perm.iter().copied().filter(|&p| dims[p] != 1).collect();
    moved.is_sorted()
}

/// Weights `[O, C, KH, KW]` as `[O, KH, KW, C]`.
pub(crate) fn ohwi<T: Copy>(weights: &[T], [_, c, kh, kw]: [usize; 4]) -> Vec<T> {
    let mut ohwi = Vec::with_capacity(weights.len());
    for filter in weights.chunks((c * kh * kw).max(1)) {
        for k in 0..kh * kw {
            ohwi.extend((0..c).map(|c| filter[c * kh * kw + k]));
        }
    }
    ohwi
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permutations() {
        let (to_nhwc, to_nchw) = ([0, 2, 3, 1], [0, 3, 1, 2]);
        assert_eq!(inverse(&to_nhwc), to_nchw);
        assert_eq!(compose(&to_nhwc, &to_nchw), [0, 1, 2, 3]);
        assert!(keeps_order(&[1, 8, 1, 1], &to_nhwc) && keeps_order(&[4, 1, 3, 3], &to_nhwc));
        assert!(!keeps_order(&[1, 8, 2, 2], &to_nhwc));
    }
}
