//! Direct construction of a graph, for what makes one: importers, the parser, programs and tests. Passes change a graph through
//! [`crate::Edit`], whose changes are numbered and labelled.

use std::collections::HashSet;
use std::sync::Arc;

use petgraph::Direction;
use petgraph::stable_graph::NodeIndex;
use petgraph::visit::EdgeRef;

use crate::graph::{Graph, Node, NodeId, Origin, Value, ValueId, Vertex};
use crate::metadata::Fact;
use crate::ops::{Attrs, Opcode};
use crate::shape::{check_elems, infer_dims, infer_elem};
use crate::tensor::Tensor;
use crate::types::{Elem, Type};

/// Builds and changes a graph.
#[derive(Debug)]
pub struct Builder<'g> {
    graph: &'g mut Graph,
}

impl<'g> Builder<'g> {
    /// Builds on this graph.
    pub fn new(graph: &'g mut Graph) -> Builder<'g> {
        Builder { graph }
    }

    /// The graph as it is now.
    pub fn graph(&self) -> &Graph {
        self.graph
    }

    fn add_value(&mut self, name: &str, ty: Type, constant: Option<Arc<Tensor>>) -> ValueId {
        let name = self.graph.fresh_name(name);
        let value = Value { name: name.clone(), ty };
        let v = ValueId(self.graph.net.add_node(Vertex::Value { value, constant }));
        self.graph.names.insert(name, v);
        v
    }

    /// Adds a graph input after the others.
    pub fn add_input(&mut self, name: &str, ty: Type) -> ValueId {
        let v = self.add_value(name, ty, None);
        self.graph.inputs.push(v);
        v
    }

    /// Adds a constant of its plain type.
    pub fn add_const(&mut self, name: &str, tensor: Tensor) -> ValueId {
        let ty = tensor.plain_type();
        self.add_typed_const(name, tensor, ty.elem)
    }

    /// Adds a constant whose elements stand for something else than their plain type.
    pub fn add_typed_const(&mut self, name: &str, tensor: impl Into<Arc<Tensor>>, elem: Elem) -> ValueId {
        let tensor = tensor.into();
        let ty = Type { dims: tensor.dims.clone(), elem };
        self.graph.constant_bytes = self.graph.constant_bytes.saturating_add(tensor.data.bytes());
        self.add_value(name, ty, Some(tensor))
    }

    /// Adds a node with one result; the name is made unique.
    pub fn add(
        &mut self,
        op: Opcode,
        operands: &[ValueId],
        attrs: Attrs,
        name: &str,
        ty: Type,
        origin: Option<Arc<Origin>>,
    ) -> ValueId {
        let n = self.graph.net.add_node(Vertex::Node(Node { op, attrs, origin }));
        for (i, v) in operands.iter().enumerate() {
            self.graph.net.add_edge(v.0, n, i);
        }
        let v = self.add_value(name, ty, None);
        self.graph.net.add_edge(n, v.0, 0);
        v
    }

    /// Adds a node whose type follows from its operands, or says what does not fit. Operators whose element type a pass
    /// decides go through [`Builder::add`].
    pub fn add_inferred(
        &mut self,
        op: Opcode,
        operands: &[ValueId],
        attrs: Attrs,
        name: &str,
        origin: Option<Arc<Origin>>,
    ) -> Result<ValueId, String> {
        let types: Vec<_> = operands.iter().map(|&v| self.graph.ty(v)).collect();
        let dims = infer_dims(op, &attrs, &types)?;
        check_elems(op, &types)?;
        let elem = infer_elem(op, &attrs, &types);
        let elem = elem.ok_or_else(|| format!("the element type of `{}` is decided by a pass", op.name()))?;
        Ok(self.add(op, operands, attrs, name, Type { dims, elem }, origin))
    }

    /// Leaves numbers about a value to later passes.
    pub fn set_metadata(&mut self, fact: Fact, name: &str, numbers: Vec<f64>) {
        self.graph.metadata.set(fact, name, numbers);
    }

    /// Removes what earlier passes left of this kind.
    pub fn clear_metadata(&mut self, fact: Fact) {
        self.graph.metadata.clear(fact);
    }

    /// Makes the values the graph's outputs.
    pub fn set_outputs(&mut self, outputs: Vec<ValueId>) {
        self.graph.outputs = outputs;
    }

    /// Makes one operand of a node another value.
    pub fn set_operand(&mut self, node: NodeId, position: usize, value: ValueId) {
        let edges = self.graph.net.edges_directed(node.0, Direction::Incoming);
        let old: Vec<_> = edges.filter(|e| *e.weight() == position).map(|e| e.id()).collect();
        for e in old {
            self.graph.net.remove_edge(e);
        }
        self.graph.net.add_edge(value.0, node.0, position);
    }

    /// Replaces all operands of a node.
    pub fn set_operands(&mut self, node: NodeId, operands: &[ValueId]) {
        let edges = self.graph.net.edges_directed(node.0, Direction::Incoming);
        let old: Vec<_> = edges.map(|e| e.id()).collect();
        for e in old {
            self.graph.net.remove_edge(e);
        }
        for (i, v) in operands.iter().enumerate() {
            self.graph.net.add_edge(v.0, node.0, i);
        }
    }

    /// Makes every use of `old`, as an operand and as an output, a use of `new`.
    pub fn replace_uses(&mut self, old: ValueId, new: ValueId) {
        for (node, position) in self.graph.uses(old) {
            self.set_operand(node, position, new);
        }
        for o in &mut self.graph.outputs {
            if *o == old {
                *o = new;
            }
        }
    }

    /// `new` takes the place of `old`: all its uses and its name. `old` must be computed by a node and is left without uses.
    pub fn replace(&mut self, old: ValueId, new: ValueId) {
        self.replace_uses(old, new);
        if self.graph.inputs.contains(&new) || self.graph.constant(new).is_some() {
            return;
        }
        let name = self.graph.name_of(old).to_string();
        self.rename(old, &format!("{name}.dead"));
        self.rename(new, &name);
    }

    /// Gives a value another name, made unique.
    pub fn rename(&mut self, v: ValueId, name: &str) {
        let old = self.graph.name_of(v).to_string();
        self.graph.names.remove(&old);
        let name = self.graph.fresh_name(name);
        self.graph.names.insert(name.clone(), v);
        self.value_mut(v).name = name;
    }

    /// Changes the element type of a value.
    pub fn set_elem(&mut self, v: ValueId, elem: Elem) {
        self.value_mut(v).ty.elem = elem;
    }

    /// Changes the type of a value.
    pub fn set_type(&mut self, v: ValueId, ty: Type) {
        self.value_mut(v).ty = ty;
    }

    /// Changes the operator and the attributes of a node in place.
    pub fn set_op(&mut self, node: NodeId, op: Opcode, attrs: Attrs) {
        if let Vertex::Node(n) = &mut self.graph.net[node.0] {
            n.op = op;
            n.attrs = attrs;
        }
    }

    /// Cuts a computed value off from what computes it: it becomes an input after the others.
    pub fn make_input(&mut self, v: ValueId) {
        let made: Vec<_> = self.graph.net.edges_directed(v.0, Direction::Incoming).map(|e| e.id()).collect();
        for e in made {
            self.graph.net.remove_edge(e);
        }
        if self.graph.constant(v).is_none() && !self.graph.inputs.contains(&v) {
            self.graph.inputs.push(v);
        }
    }

    /// Gives a constant other contents of the same type. Panics if they are of another shape or kind: a bug of the caller.
    pub fn set_contents(&mut self, v: ValueId, tensor: Tensor) {
        let fits = tensor.dims == self.graph.ty(v).dims && tensor.data.holds(&self.graph.ty(v).elem);
        match &mut self.graph.net[v.0] {
            Vertex::Value { constant: constant @ Some(_), .. } if fits => *constant = Some(Arc::new(tensor)),
            _ => panic!("contents that fit no constant"),
        }
    }

    /// Removes inputs that neither a node nor an output reads.
    pub fn remove_unread_inputs(&mut self) {
        let is_read = |v: &ValueId| !self.graph.uses(*v).is_empty() || self.graph.is_output(*v);
        let (read, unread): (Vec<_>, Vec<_>) = self.graph.inputs.iter().copied().partition(is_read);
        self.graph.inputs = read;
        for v in unread {
            self.graph.names.retain(|_, other| *other != v);
            self.graph.net.remove_node(v.0);
        }
    }

    /// Removes every node and constant from which no output can be reached. Inputs stay.
    pub fn remove_dead(&mut self) -> usize {
        let live = live(self.graph);
        let before = self.graph.net.node_count();
        self.graph.net.retain_nodes(|_, i| live.contains(&i));
        self.graph.names.retain(|_, v| live.contains(&v.0));
        before - self.graph.net.node_count()
    }

    fn value_mut(&mut self, v: ValueId) -> &mut Value {
        match &mut self.graph.net[v.0] {
            Vertex::Value { value, .. } => value,
            Vertex::Node(_) => unreachable!("a value id names a value"),
        }
    }
}

/// The vertices from which an output can be reached, and the inputs.
pub(crate) fn live(graph: &Graph) -> HashSet<NodeIndex> {
    let net = &graph.net;
    let mut live = HashSet::new();
    let mut stack: Vec<_> = graph.outputs.iter().chain(&graph.inputs).map(|v| v.0).collect();
    while let Some(i) = stack.pop() {
        if live.insert(i) {
            stack.extend(net.neighbors_directed(i, Direction::Incoming));
        }
    }
    // All results of a live node stay, used or not.
    for i in net.node_indices() {
        let mut makers = net.neighbors_directed(i, Direction::Incoming);
        if makers.any(|n| live.contains(&n) && matches!(net[n], Vertex::Node(_))) {
            live.insert(i);
        }
    }
    live
}
