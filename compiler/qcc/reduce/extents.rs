//! Another extent for all dimensions that have a certain one: a network with fewer channels, or smaller images.

use std::collections::HashMap;
use std::sync::Arc;

use qcc_ir::{Attrs, Builder, Elem, Graph, Opcode, Tensor, Type, Uniform, ValueId, attr, infer_dims, map_data};

/// The graph with `to`, which is less, in the place of every extent `from`, if that makes one: shapes are inferred anew,
/// constants keep their first elements, and so do scales along such a dimension.
pub fn changed(graph: &Graph, from: usize, to: usize) -> Option<Graph> {
    let extents = Extents { from, to };
    let mut new = Graph::new(graph.name.clone());
    let mut builder = Builder::new(&mut new);
    graph.metadata().rows().for_each(|(fact, name, numbers)| builder.set_metadata(fact, name, numbers.to_vec()));
    let mut values: HashMap<ValueId, ValueId> = HashMap::new();
    for &v in graph.inputs() {
        let input = builder.add_input(graph.name_of(v), extents.ty(graph.ty(v)));
        values.insert(v, input);
    }
    for (v, tensor) in graph.constants() {
        let elem = extents.elem(&graph.ty(v).elem, &tensor.dims);
        let constant = builder.add_typed_const(graph.name_of(v), extents.tensor(tensor), elem);
        values.insert(v, constant);
    }
    for n in graph.order() {
        let node = graph.node(n);
        let operands: Vec<ValueId> = graph.operands(n).iter().map(|v| values.get(v).copied()).collect::<Option<_>>()?;
        let types: Vec<&Type> = operands.iter().map(|&v| builder.graph().ty(v)).collect();
        let mut attrs = extents.attrs(&node.attrs);
        if node.op == Opcode::Reshape {
            let shape = filled(&attrs.get(attr::SHAPE), types[0].elements())?;
            attrs = attrs.with(attr::SHAPE, shape);
        }
        let dims = infer_dims(node.op, &attrs, &types).ok()?;
        let y = graph.result(n);
        let elem = extents.elem(&graph.ty(y).elem, &graph.ty(y).dims);
        let ty = Type { dims, elem };
        values.insert(y, builder.add(node.op, &operands, attrs, graph.name_of(y), ty, node.origin.clone()));
    }
    let outputs = graph.outputs().iter().map(|v| values.get(v).copied()).collect::<Option<_>>()?;
    builder.set_outputs(outputs);
    Some(new)
}

/// The shape with one extent so that it has this many elements.
fn filled(shape: &[i64], elements: usize) -> Option<Vec<i64>> {
    let elements = i64::try_from(elements).ok()?;
    let product = |shape: &[i64]| shape.iter().try_fold(1i64, |product, &d| product.checked_mul(d));
    if product(shape)? == elements {
        return Some(shape.to_vec());
    }
    (0..shape.len()).rev().find_map(|i| {
        let mut filled = shape.to_vec();
        filled[i] = 1;
        let rest = product(&filled).filter(|&rest| rest > 0 && elements % rest == 0)?;
        filled[i] = elements / rest;
        (shape[i] > 1).then_some(filled)
    })
}

struct Extents {
    from: usize,
    to: usize,
}

impl Extents {
    fn extent(&self, extent: usize) -> usize {
        if extent == self.from { self.to } else { extent }
    }

    fn ty(&self, ty: &Type) -> Type {
        let dims = ty.dims.iter().map(|&d| self.extent(d)).collect();
        Type { dims, elem: self.elem(&ty.elem, &ty.dims) }
    }

    fn elem(&self, elem: &Elem, dims: &[usize]) -> Elem {
        match elem {
            Elem::Uniform(u) if u.axis.is_some_and(|axis| dims.get(axis) == Some(&self.from)) => {
                let mut cut = Uniform::clone(u);
                cut.scales.truncate(self.to);
                cut.zero_points.truncate(self.to);
                Elem::Uniform(Arc::new(cut))
            }
            other => other.clone(),
        }
    }

    fn attrs(&self, attrs: &Attrs) -> Attrs {
        let one = |v: i64| if usize::try_from(v) == Ok(self.from) { self.to as i64 } else { v };
        let mut changed = attrs.clone();
        for key in [attr::SHAPE, attr::ENDS] {
            if let Some(list) = attrs.try_get(key) {
                changed = changed.with(key, list.into_iter().map(one).collect::<Vec<_>>());
            }
        }
        match attrs.try_get(attr::GROUPS) {
            Some(groups) => changed.with(attr::GROUPS, one(groups)),
            None => changed,
        }
    }

    /// The first elements along every dimension of the extent.
    fn tensor(&self, tensor: &Tensor) -> Tensor {
        let mut kept = vec![0];
        for (i, &extent) in tensor.dims.iter().enumerate() {
            let stride: usize = tensor.dims[i + 1..].iter().product();
            kept = kept.iter().flat_map(|&at| (0..self.extent(extent)).map(move |k| at + k * stride)).collect();
        }
        let dims: Vec<usize> = tensor.dims.iter().map(|&d| self.extent(d)).collect();
        Tensor::new(&dims, map_data!(&tensor.data, v => kept.iter().map(|&i| v[i]).collect()))
    }
}
