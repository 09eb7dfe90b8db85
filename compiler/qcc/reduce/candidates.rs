//! Graphs with something taken away. Whether they are well-formed is seen later.

use std::collections::HashSet;
use std::ops::Range;

use qcc_ir::{Builder, Data, Graph, NodeId, Tensor, ValueId, for_data, map_data};

/// The graph without these nodes: what the others read of them becomes inputs, what they alone read of the others outputs.
pub fn without(graph: &Graph, nodes: &HashSet<NodeId>) -> Graph {
    let inside = |v: ValueId| graph.producer(v).is_some_and(|n| nodes.contains(&n));
    let mut outputs: Vec<ValueId> = graph.outputs().iter().copied().filter(|&v| !inside(v)).collect();
    let mut candidate = graph.clone();
    let mut builder = Builder::new(&mut candidate);
    for n in graph.order().into_iter().filter(|n| nodes.contains(n)) {
        let y = graph.result(n);
        if graph.uses(y).iter().any(|(user, _)| !nodes.contains(user)) {
            builder.make_input(y);
        }
        for v in graph.operands(n) {
            let was_computed = graph.producer(v).is_some() && !inside(v);
            let is_read = graph.uses(v).iter().any(|(user, _)| !nodes.contains(user));
            if was_computed && !is_read && !outputs.contains(&v) {
                outputs.push(v);
            }
        }
    }
    builder.set_outputs(outputs);
    candidate
}

/// Operands of the type of the result.
pub fn operands_alike(graph: &Graph, n: NodeId) -> Vec<ValueId> {
    let ty = graph.ty(graph.result(n));
    graph.operands(n).into_iter().filter(|&v| graph.ty(v) == ty).collect()
}

/// The graph with zeros in the place of an input.
pub fn with_zeros(graph: &Graph, input: ValueId) -> Option<Graph> {
    let (ty, name) = (graph.ty(input).clone(), format!("{}.zeros", graph.name_of(input)));
    let elements = ty.checked_elements()?;
    // Eight bytes are one or more elements of any type.
    let data = Data::from_bytes(&ty.elem, &vec![0; elements.checked_mul(8)?])?;
    let data = map_data!(data, v => v.into_iter().take(elements).collect());
    let mut candidate = graph.clone();
    let mut builder = Builder::new(&mut candidate);
    let zeros = builder.add_typed_const(&name, Tensor::new(&ty.dims, data), ty.elem);
    builder.replace_uses(input, zeros);
    Some(candidate)
}

/// What there is to read in a constant: elements that differ from the first, and the first if it is not 0.
pub fn contents(tensor: &Tensor) -> usize {
    for_data!(&tensor.data, v => unlike_first(v))
}

fn unlike_first<T: Copy + Default + PartialEq>(v: &[T]) -> usize {
    let first = v.first().copied().unwrap_or_default();
    v.iter().filter(|&&x| x != first).count() + usize::from(first != T::default())
}

/// The constant with all its contents alike: 0, or like the first element.
pub fn alike(tensor: &Tensor) -> [Tensor; 2] {
    let of = |data: Data| Tensor::new(&tensor.dims, data);
    [
        of(map_data!(&tensor.data, v => v.iter().map(|_| Default::default()).collect())),
        of(map_data!(&tensor.data, v => v.iter().map(|_| v[0]).collect())),
    ]
}

/// The constant with the elements of a part like the first element.
pub fn with_part_alike(tensor: &Tensor, part: Range<usize>) -> Tensor {
    let data = map_data!(&tensor.data, v => {
        v.iter().enumerate().map(|(i, &x)| if part.contains(&i) { v[0] } else { x }).collect()
    });
    Tensor::new(&tensor.dims, data)
}
