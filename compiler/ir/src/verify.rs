//! The invariants of a graph. All faults are collected, each with its place; nothing here is ever compiled out.
//!
//! 1. Inputs, outputs and operands are values of the graph; every value is an input, a constant or a result, and only one
//!    of these; names are unique; there is no cycle.
//! 2. An operation has one result, as many operands as its row allows, all attributes that have no default, and operand
//!    and result types that its rule in [`crate::shape`] allows; what it adds to a variance is finite and not less than 0.
//! 3. A type has a number of elements that fits the address space; its range is finite; its scales are finite and positive,
//!    one or as many as its axis is long; its zero points are within its integers, and these within its storage.
//! 4. A constant has as many elements as its type, stored as its type says and within its integers.
//!
//! [`check_level`] says in addition which operators and types belong to a stage of the compiler.

use std::collections::{HashMap, HashSet};

use petgraph::Direction;

use crate::attr;
use crate::diag::{Code, Diag, Diags};
use crate::graph::{Graph, NodeId, ValueId, Vertex};
use crate::ops::{Dialect, GREATEST_AFFINE_OFFSET, Opcode};
use crate::shape::{check_elems, elem_fits, infer_dims, infer_elem};
use crate::tensor::{Data, Tensor};
use crate::types::{Elem, Int, Type, Uniform};
use qcc_num::format::Grid;

/// What a graph may consist of at a stage of the compiler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Real arithmetic and data movement; no quantized types.
    Float,
    /// The same, and quantized types with the casts between them.
    Quant,
    /// Integer arithmetic and data movement; no real number anywhere.
    Int,
}

/// Checks all invariants.
pub fn verify(graph: &Graph) -> Result<(), Diags> {
    verify_at(graph, &|_| None)
}

/// [`verify`] for a graph that was read from a text: `line` tells the line and column where a value is defined.
pub fn verify_at(graph: &Graph, line: &dyn Fn(ValueId) -> Option<(usize, usize)>) -> Result<(), Diags> {
    let mut verifier = Verifier { graph, line, code: Code::VERIFY, faults: Diags::default() };
    if verifier.interface() {
        verifier.names();
        for v in graph.values() {
            verifier.value(v);
        }
        let ordered: HashSet<_> = graph.order().into_iter().collect();
        for n in verifier.nodes() {
            if !ordered.contains(&n) {
                verifier.at_node(n, "the operation needs its own result: the graph has a cycle".to_string());
            }
            verifier.node(n);
        }
    }
    verifier.faults.into_result()
}

/// Checks that a verified graph keeps to what belongs to `level`.
pub fn check_level(graph: &Graph, level: Level) -> Result<(), Diags> {
    check_level_at(graph, level, &|_| None)
}

/// [`check_level`] for a graph that was read from a text, as [`verify_at`].
pub fn check_level_at(
    graph: &Graph,
    level: Level,
    line: &dyn Fn(ValueId) -> Option<(usize, usize)>,
) -> Result<(), Diags> {
    let (code, stage) = match level {
        Level::Float => (Code::VERIFY, "a float graph"),
        Level::Quant => (Code::VERIFY, "a quantized graph"),
        Level::Int => (Code::NOT_INTEGER, "an integer-only graph"),
    };
    let mut verifier = Verifier { graph, line, code, faults: Diags::default() };
    for v in graph.values() {
        let ty = graph.ty(v);
        let allowed = match (level, &ty.elem) {
            (Level::Float, Elem::Uniform(_)) | (Level::Int, Elem::F32 | Elem::Calibrated(_)) => false,
            (Level::Float, Elem::F32 | Elem::Calibrated(_) | Elem::Bool | Elem::Int(_))
            | (Level::Int, Elem::Bool | Elem::Int(_) | Elem::Uniform(_))
            | (Level::Quant, _) => true,
        };
        if !allowed {
            let text = format!("{} is {} in {stage}", reference(graph, v), ty.elem);
            verifier.at_value(v, text);
        }
    }
    for n in verifier.nodes() {
        let op = graph.op(n);
        let allowed = match (level, op.info().dialect()) {
            (_, Dialect::Tensor) | (Level::Quant, Dialect::Quant) | (Level::Int, Dialect::Int) => true,
            (Level::Float | Level::Quant, Dialect::Nn) => true,
            (Level::Float, Dialect::Quant) | (Level::Float | Level::Quant, Dialect::Int) => false,
            (Level::Int, Dialect::Nn | Dialect::Quant) => false,
        };
        if !allowed {
            verifier.at_node(n, format!("`{}` in {stage}", op.name()));
        }
        // Of codes it converts the real numbers that they stand for, and so it does to 0, a real number.
        let has_reals = || {
            let is_code = |&v: &ValueId| graph.ty(v).uniform().is_some();
            graph.operands(n).iter().any(is_code) || graph.node(n).attrs.get(attr::TO) == 0
        };
        if level == Level::Int && op == Opcode::CastTo && has_reals() {
            verifier.at_node(n, format!("`{}` of real numbers in {stage}", op.name()));
        }
    }
    // What passes left to each other are real numbers too.
    if let Some((fact, name, _)) = graph.metadata().rows().next().filter(|_| level == Level::Int) {
        verifier.fault(format!("%{name}"), None, format!("metadata `{}` in {stage}", fact.name()));
    }
    verifier.faults.into_result()
}

struct Verifier<'a> {
    graph: &'a Graph,
    line: &'a dyn Fn(ValueId) -> Option<(usize, usize)>,
    code: Code,
    faults: Diags,
}

impl Verifier<'_> {
    fn nodes(&self) -> Vec<NodeId> {
        let net = &self.graph.net;
        net.node_indices().filter(|&i| matches!(net[i], Vertex::Node(_))).map(NodeId).collect()
    }

    fn fault(&mut self, place: String, value: Option<ValueId>, message: String) {
        let mut diag = Diag::new(self.code, message).at(place);
        diag.place.line = value.and_then(self.line);
        self.faults.push(diag);
    }

    fn at_value(&mut self, v: ValueId, message: String) {
        match self.graph.producer(v) {
            Some(n) => self.fault(self.graph.describe(n), Some(v), message),
            None => self.fault(reference(self.graph, v), Some(v), message),
        }
    }

    fn at_node(&mut self, n: NodeId, message: String) {
        self.fault(self.graph.describe(n), self.graph.results(n).first().copied(), message);
    }

    /// Inputs and outputs, and edges between values and nodes only. Without these, nothing else can be asked.
    fn interface(&mut self) -> bool {
        let graph = self.graph;
        let is_value = |v: &ValueId| matches!(graph.net.node_weight(v.0), Some(Vertex::Value { .. }));
        let whole = format!("graph @{}", graph.name);
        for (what, list) in [("input", &graph.inputs), ("output", &graph.outputs)] {
            for i in (0..list.len()).filter(|&i| !is_value(&list[i])) {
                self.fault(whole.clone(), None, format!("{what} {i} is no value of the graph"));
            }
        }
        for e in graph.net.edge_indices() {
            if let Some((from, to)) = graph.net.edge_endpoints(e)
                && matches!(graph.net[from], Vertex::Node(_)) == matches!(graph.net[to], Vertex::Node(_))
            {
                self.fault(whole.clone(), None, "an edge does not run between a value and an operation".to_string());
            }
        }
        self.faults.0.is_empty()
    }

    fn names(&mut self) {
        let graph = self.graph;
        let mut seen: HashMap<&str, ValueId> = HashMap::new();
        for v in graph.values() {
            let name = graph.name_of(v);
            if seen.insert(name, v).is_some() {
                self.at_value(v, format!("the name `{name}` is not unique"));
            } else if graph.find(name).is_none_or(|w| graph.net.node_weight(w.0).is_none()) {
                self.at_value(v, format!("the name `{name}` is not in the graph's index"));
            }
        }
        for (i, &v) in graph.inputs.iter().enumerate() {
            if graph.inputs[..i].contains(&v) {
                self.at_value(v, format!("%{} is input twice", graph.name_of(v)));
            }
        }
        if graph.names.len() != seen.len() {
            let place = format!("graph @{}", graph.name);
            self.fault(place, None, format!("{} names for {} values", graph.names.len(), seen.len()));
        }
    }

    fn value(&mut self, v: ValueId) {
        let graph = self.graph;
        let definitions = graph.net.edges_directed(v.0, Direction::Incoming).count();
        let kinds = definitions + usize::from(graph.inputs.contains(&v)) + usize::from(graph.constant(v).is_some());
        match kinds {
            0 => self.at_value(v, format!("{} has no definition", reference(graph, v))),
            1 => {}
            _ => self.at_value(v, format!("{} is defined {kinds} times", reference(graph, v))),
        }
        if let Err(message) = check_type(graph.ty(v)) {
            self.at_value(v, format!("{}: {message}", reference(graph, v)));
        } else if let Some(tensor) = graph.constant(v)
            && let Err(message) = check_contents(graph.ty(v), tensor)
        {
            self.at_value(v, format!("{}: {message}", reference(graph, v)));
        }
    }

    fn node(&mut self, n: NodeId) {
        let graph = self.graph;
        let mut positions: Vec<_> = graph.net.edges_directed(n.0, Direction::Incoming).map(|e| *e.weight()).collect();
        positions.sort_unstable();
        if positions.iter().enumerate().any(|(i, p)| i != *p) {
            return self.at_node(n, format!("operands stand at positions {positions:?}"));
        }
        let results = graph.results(n);
        let [result] = results[..] else {
            return self.at_node(n, format!("expected one result, found {}", results.len()));
        };
        let node = graph.node(n);
        let operands = graph.operands(n);
        let types: Vec<_> = operands.iter().map(|&v| graph.ty(v)).collect();
        let found = graph.ty(result);
        match infer_dims(node.op, &node.attrs, &types) {
            Err(message) => return self.at_node(n, message),
            Ok(dims) if dims != found.dims => {
                self.at_node(n, format!("`{}` gives shape {dims:?}, declared is {:?}", node.op.name(), found.dims));
            }
            Ok(_) => {}
        }
        if let Err(message) = check_elems(node.op, &types) {
            return self.at_node(n, message);
        }
        if let Some(epsilon) = node.attrs.try_get(attr::EPSILON).filter(|e| !(e.is_finite() && *e >= 0.0)) {
            self.at_node(n, format!("expected a finite `epsilon` of 0 or more, found {epsilon:?}"));
        }
        if node.op == Opcode::ScaleChannels
            && let Some(offsets) = graph.constant(operands[2]).and_then(|t| t.as_i32())
            && let Some(offset) = offsets.iter().find(|o| i64::from(**o).abs() > GREATEST_AFFINE_OFFSET)
        {
            let bound = GREATEST_AFFINE_OFFSET;
            self.at_node(n, format!("expected offset in -{bound}..={bound}, found {offset}"));
        }
        // Sums of its entries divide.
        if node.op == Opcode::ISoftmax {
            let computed = graph.producer(operands[1]).is_some_and(|n| graph.op(n) == Opcode::ExpTable);
            let table = graph.constant(operands[1]).and_then(|t| t.as_i32());
            if !computed && !table.is_some_and(|t| t.first() > Some(&0) && t.iter().all(|&e| e >= 0)) {
                let wanted =
                    "a constant table of no negative number that begins with more than 0, or one of `int.exp_table`";
                self.at_node(n, format!("expected {wanted}"));
            }
        }
        if node.op == Opcode::Combine {
            let bounds = [
                ("bias", qcc_num::wide::GREATEST_BIAS),
                ("mult", qcc_num::wide::GREATEST_MULTIPLIER),
                ("offset", qcc_num::wide::GREATEST_OFFSET),
            ];
            for (&v, (name, bound)) in operands.iter().zip(bounds) {
                let elements = graph.constant(v).and_then(|t| t.as_i64()).unwrap_or_default();
                if let Some(x) = elements.iter().find(|x| x.unsigned_abs() > bound.unsigned_abs()) {
                    self.at_node(n, format!("expected {name} in -{bound}..={bound}, found {x}"));
                }
            }
        }
        let inferred = infer_elem(node.op, &node.attrs, &types);
        // Integers become real numbers, whose scale is as free as that of computed ones.
        let is_real = node.op == Opcode::CastTo && inferred == Some(Elem::F32) && found.uniform().is_some();
        if !is_real && !elem_fits(node.op.info().dialect(), inferred.as_ref(), &found.elem) {
            let wanted = inferred.map_or("a quantized type".to_string(), |e| e.to_string());
            self.at_node(n, format!("`{}` gives {wanted}, declared is {}", node.op.name(), found.elem));
        }
    }
}

fn reference(graph: &Graph, v: ValueId) -> String {
    let sigil = if graph.constant(v).is_some() { '@' } else { '%' };
    format!("{sigil}{}", graph.name_of(v))
}

/// Invariant 3.
fn check_type(ty: &Type) -> Result<(), String> {
    if ty.checked_elements().is_none() {
        return Err(format!("shape {:?} has too many elements", ty.dims));
    }
    match &ty.elem {
        Elem::F32 | Elem::Bool | Elem::Int(_) => Ok(()),
        Elem::Calibrated(range) if range.is_valid() => Ok(()),
        Elem::Calibrated(range) => Err(format!("{:?}:{:?} is no range", range.min, range.max)),
        Elem::Uniform(u) => check_uniform(u, &ty.dims),
    }
}

fn check_uniform(u: &Uniform, dims: &[usize]) -> Result<(), String> {
    if !u.format.is_valid() {
        return Err(format!("integers {}:{} are no part of {}", u.min(), u.max(), u.storage().name()));
    }
    let wanted = match u.axis {
        None => 1,
        Some(axis) => *dims.get(axis).ok_or_else(|| format!("scales along axis {axis} of shape {dims:?}"))?,
    };
    if u.scales.len() != wanted || u.zero_points.len() != wanted {
        let (scales, zeros) = (u.scales.len(), u.zero_points.len());
        return Err(format!("expected {wanted} scales and zero points, found {scales} and {zeros}"));
    }
    if let Some(scale) = u.scales.iter().find(|s| !(s.is_finite() && **s > 0.0)) {
        return Err(format!("scale {scale:?} is not finite and positive"));
    }
    match u.zero_points.iter().find(|z| !(u.min()..=u.max()).contains(z)) {
        Some(zero) => Err(format!("zero point {zero} is not in {}:{}", u.min(), u.max())),
        None => Ok(()),
    }
}

/// Invariant 4.
fn check_contents(ty: &Type, tensor: &Tensor) -> Result<(), String> {
    if tensor.dims != ty.dims || tensor.data.len() != ty.elements() {
        return Err(format!("{} elements of shape {:?} are no {ty}", tensor.data.len(), tensor.dims));
    }
    if !tensor.data.holds(&ty.elem) {
        return Err(format!("{} are stored as {}", ty.elem, tensor.data.kind()));
    }
    let (min, max) = match &ty.elem {
        Elem::F32 | Elem::Calibrated(_) => return Ok(()),
        Elem::Bool => (0, 1),
        Elem::Int(int) => (Int::min(*int), Int::max(*int)),
        Elem::Uniform(u) => (u.min(), u.max()),
    };
    let levels = ty.uniform().map(|u| &u.format).filter(|f| matches!(f.grid(), Grid::Levels(_)));
    let is_outside = |q: i64| !(min..=max).contains(&q) || levels.is_some_and(|format| !format.contains(q));
    fn outside<T: Copy + Into<i64>>(data: &[T], is_outside: impl Fn(i64) -> bool) -> Option<i64> {
        data.iter().map(|&x| x.into()).find(|&x| is_outside(x))
    }
    let found = match &tensor.data {
        Data::F32(_) => None,
        Data::I8(v) => outside(v, is_outside),
        Data::U8(v) => outside(v, is_outside),
        Data::I16(v) => outside(v, is_outside),
        Data::I32(v) => outside(v, is_outside),
        Data::I64(v) => outside(v, is_outside),
    };
    match found {
        Some(x) if levels.is_some() => Err(format!("element {x} is not one of the levels")),
        Some(x) => Err(format!("element {x} is not in {min}:{max}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use petgraph::visit::EdgeRef;

    use super::*;
    use crate::types::Range;
    use crate::{Attrs, Builder};

    /// Faults that no text can express, because the parser would refuse it; all others are in `tests/filetests/verify`.
    fn messages(damage: impl FnOnce(&mut Graph, ValueId, ValueId)) -> String {
        let mut graph = Graph::new("g");
        let mut builder = Builder::new(&mut graph);
        let x = builder.add_input("x", Type::f32(&[2]));
        let y = builder.add_inferred(Opcode::Relu, &[x], Attrs::new(Opcode::Relu), "y", None).unwrap();
        builder.set_outputs(vec![y]);
        verify(&graph).unwrap();
        damage(&mut graph, x, y);
        verify(&graph).unwrap_err().to_string()
    }

    #[test]
    fn broken_structure() {
        let cycle = messages(|g, _, y| {
            let n = g.producer(y).unwrap();
            Builder::new(g).set_operand(n, 0, y);
        });
        assert_eq!(
            cycle,
            "error[Q0011]: the operation needs its own result: the graph has a cycle\n  --> %y = nn.relu"
        );
        assert!(messages(|g, x, _| _ = g.net.remove_node(x.0)).contains("input 0 is no value of the graph"));
        assert!(messages(|g, _, _| g.inputs.clear()).contains("%x has no definition"));
        assert!(messages(|g, x, _| g.inputs.push(x)).contains("%x is input twice"));
        assert!(messages(|g, _, y| g.inputs.push(y)).contains("%y is defined 2 times"));
        assert!(messages(|g, x, y| _ = g.net.add_edge(x.0, y.0, 0)).contains("does not run between"));
        let extra = |g: &mut Graph, x: ValueId, y: ValueId| {
            let n = g.producer(y).unwrap();
            g.net.add_edge(x.0, n.0, 0);
        };
        assert!(messages(extra).contains("operands stand at positions [0, 0]"));
        let unused = |g: &mut Graph, _: ValueId, y: ValueId| {
            let e = g.net.edges_directed(y.0, Direction::Incoming).next().unwrap().id();
            g.net.remove_edge(e);
        };
        assert!(messages(unused).contains("expected one result, found 0"));
    }

    #[test]
    fn broken_names() {
        assert!(messages(|g, _, _| _ = g.names.remove("y")).contains("the name `y` is not in the graph's index"));
        assert!(messages(|g, x, _| _ = g.names.insert("z".to_string(), x)).contains("3 names for 2 values"));
        let twice = |g: &mut Graph, x: ValueId, _: ValueId| {
            if let Vertex::Value { value, .. } = &mut g.net[x.0] {
                value.name = "y".to_string();
            }
        };
        assert!(messages(twice).contains("the name `y` is not unique"));
    }

    #[test]
    fn broken_numbers() {
        let with = |elem: Elem| messages(move |g, x, _| Builder::new(g).set_elem(x, elem));
        let uniform = |scale: f32, zero| Uniform::per_tensor(Int::U8, scale, zero);
        for scale in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            assert!(with(Elem::Uniform(Arc::new(uniform(scale, 0)))).contains("is not finite and positive"));
        }
        let zeros = Uniform { zero_points: vec![], ..uniform(1.0, 0) };
        assert!(with(Elem::Uniform(Arc::new(zeros))).contains("expected 1 scales and zero points, found 1 and 0"));
        let range = Range { min: f32::NAN, max: 0.0 };
        assert!(with(Elem::Calibrated(range)).contains("NaN:0.0 is no range"));
        let wrong = |g: &mut Graph, _: ValueId, _: ValueId| {
            let tensor = Tensor { dims: vec![2], data: Data::F32(vec![1.0]) };
            Builder::new(g).add_typed_const("c", tensor, Elem::F32);
        };
        assert!(messages(wrong).contains("@c: 1 elements of shape [2] are no tensor<2xf32>"));
        let kind = |g: &mut Graph, _: ValueId, _: ValueId| {
            Builder::new(g).add_typed_const("c", Tensor::f32(&[1], vec![1.0]), Elem::Int(Int::I8));
        };
        assert!(messages(kind).contains("@c: i8 are stored as f32"));
    }
}
