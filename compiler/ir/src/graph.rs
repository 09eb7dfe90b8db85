//! The graph: a bipartite petgraph of values and nodes, in single-assignment form.
//!
//! An edge from a value to a node is a use and carries the operand's position; an edge from a node to a value is a
//! definition and carries the result's position. A value without a definition is a graph input or a constant. There is
//! no other record of who uses what. Graphs are made by [`crate::Builder`] and
//! change in passes through [`crate::Edit`].

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use petgraph::Direction;
use petgraph::stable_graph::{NodeIndex, StableDiGraph};
use petgraph::visit::EdgeRef;

use crate::metadata::Metadata;
use crate::ops::{Attrs, Opcode};
use crate::tensor::Tensor;
use crate::types::Type;

/// Names a value of one graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub(crate) NodeIndex);

/// Names a node of one graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub(crate) NodeIndex);

/// What produces a value.
#[derive(Debug, Clone, PartialEq)]
pub enum Def {
    /// Input number `.0` of the graph.
    Input(usize),
    /// A constant.
    Const(Arc<Tensor>),
    /// Result number `.1` of node `.0`.
    Node(NodeId, usize),
}

/// The ONNX node that an operation comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Name of the node, or of its first output where it has none.
    pub name: String,
    /// ONNX operator.
    pub op: String,
    /// Operator set version of the model.
    pub opset: i64,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "node {:?} ({}, opset {})", self.name, self.op, self.opset)
    }
}

/// A value: its name is unique in the graph and lasts through all passes.
#[derive(Debug, Clone, PartialEq)]
pub struct Value {
    /// Name without the sigil.
    pub name: String,
    /// Type.
    pub ty: Type,
}

/// An operation.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// What it computes.
    pub op: Opcode,
    /// Its attributes.
    pub attrs: Attrs,
    /// Where it comes from.
    pub origin: Option<Arc<Origin>>,
}

#[derive(Debug, Clone)]
pub(crate) enum Vertex {
    Value { value: Value, constant: Option<Arc<Tensor>> },
    Node(Node),
}

/// A model, or a part of one.
#[derive(Debug, Clone)]
pub struct Graph {
    /// Name without the sigil.
    pub name: String,
    pub(crate) net: StableDiGraph<Vertex, usize>,
    pub(crate) inputs: Vec<ValueId>,
    pub(crate) outputs: Vec<ValueId>,
    pub(crate) names: HashMap<String, ValueId>,
    /// Bytes of all constants that were ever added, those of shared contents for each.
    pub(crate) constant_bytes: u64,
    pub(crate) metadata: Metadata,
}

impl Graph {
    /// A graph without inputs, outputs and nodes.
    pub fn new(name: impl Into<String>) -> Graph {
        Graph {
            name: name.into(),
            net: StableDiGraph::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            names: HashMap::new(),
            constant_bytes: 0,
            metadata: Metadata::default(),
        }
    }

    /// Inputs, in order.
    pub fn inputs(&self) -> &[ValueId] {
        &self.inputs
    }

    /// Outputs, in order. One value may be several outputs.
    pub fn outputs(&self) -> &[ValueId] {
        &self.outputs
    }

    /// What passes left to later ones.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Name and type of a value.
    pub fn value(&self, v: ValueId) -> &Value {
        match &self.net[v.0] {
            Vertex::Value { value, .. } => value,
            Vertex::Node(_) => unreachable!("a value id names a value"),
        }
    }

    /// Type of a value.
    pub fn ty(&self, v: ValueId) -> &Type {
        &self.value(v).ty
    }

    /// Name of a value.
    pub fn name_of(&self, v: ValueId) -> &str {
        &self.value(v).name
    }

    /// The value with this name.
    pub fn find(&self, name: &str) -> Option<ValueId> {
        self.names.get(name).copied()
    }

    /// An operation.
    pub fn node(&self, n: NodeId) -> &Node {
        match &self.net[n.0] {
            Vertex::Node(node) => node,
            Vertex::Value { .. } => unreachable!("a node id names a node"),
        }
    }

    /// Operator of a node.
    pub fn op(&self, n: NodeId) -> Opcode {
        self.node(n).op
    }

    /// Operands of a node, in order.
    pub fn operands(&self, n: NodeId) -> Vec<ValueId> {
        let mut uses: Vec<_> =
            self.net.edges_directed(n.0, Direction::Incoming).map(|e| (*e.weight(), e.source())).collect();
        uses.sort_unstable();
        uses.into_iter().map(|(_, v)| ValueId(v)).collect()
    }

    /// Results of a node, in order.
    pub fn results(&self, n: NodeId) -> Vec<ValueId> {
        let mut defs: Vec<_> =
            self.net.edges_directed(n.0, Direction::Outgoing).map(|e| (*e.weight(), e.target())).collect();
        defs.sort_unstable();
        defs.into_iter().map(|(_, v)| ValueId(v)).collect()
    }

    /// The only result of a node; every operator has exactly one.
    pub fn result(&self, n: NodeId) -> ValueId {
        self.results(n)[0]
    }

    /// What produces a value.
    pub fn def(&self, v: ValueId) -> Def {
        if let Some(t) = self.constant(v) {
            return Def::Const(t.clone());
        }
        match self.net.edges_directed(v.0, Direction::Incoming).next() {
            Some(e) => Def::Node(NodeId(e.source()), *e.weight()),
            None => Def::Input(self.inputs.iter().position(|&i| i == v).unwrap_or(usize::MAX)),
        }
    }

    /// The node that produces a value, if one does.
    pub fn producer(&self, v: ValueId) -> Option<NodeId> {
        self.net.edges_directed(v.0, Direction::Incoming).next().map(|e| NodeId(e.source()))
    }

    /// The contents of a constant.
    pub fn constant(&self, v: ValueId) -> Option<&Arc<Tensor>> {
        match &self.net[v.0] {
            Vertex::Value { constant, .. } => constant.as_ref(),
            Vertex::Node(_) => unreachable!("a value id names a value"),
        }
    }

    /// Uses of a value by nodes: node and operand position, sorted. Being a graph output is not among them.
    pub fn uses(&self, v: ValueId) -> Vec<(NodeId, usize)> {
        let edges = self.net.edges_directed(v.0, Direction::Outgoing);
        let mut uses: Vec<_> = edges.map(|e| (NodeId(e.target()), *e.weight())).collect();
        uses.sort_unstable();
        uses
    }

    /// The nodes that use a value, in no particular order; one that uses it twice comes twice.
    pub fn users(&self, v: ValueId) -> impl Iterator<Item = NodeId> {
        self.net.edges_directed(v.0, Direction::Outgoing).map(|e| NodeId(e.target()))
    }

    /// Number of uses by nodes, counted no further than `most`.
    pub fn use_count(&self, v: ValueId, most: usize) -> usize {
        self.net.edges_directed(v.0, Direction::Outgoing).take(most).count()
    }

    /// True if the value is a graph output.
    pub fn is_output(&self, v: ValueId) -> bool {
        self.outputs.contains(&v)
    }

    /// The node that uses the value, if nothing else does: exactly one use and no output.
    pub fn only_user(&self, v: ValueId) -> Option<NodeId> {
        let mut uses = self.net.edges_directed(v.0, Direction::Outgoing);
        match (uses.next(), uses.next()) {
            (Some(only), None) if !self.is_output(v) => Some(NodeId(only.target())),
            _ => None,
        }
    }

    /// All nodes in an order in which every value is defined before its use; among several such orders, the one that
    /// keeps the order of creation. Nodes on a cycle are left out, which the verifier notices.
    pub fn order(&self) -> Vec<NodeId> {
        let mut waiting: HashMap<NodeIndex, usize> = HashMap::new();
        let mut ready = BinaryHeap::new();
        for i in self.net.node_indices().filter(|&i| matches!(self.net[i], Vertex::Node(_))) {
            let produced = |v: &NodeIndex| self.net.edges_directed(*v, Direction::Incoming).next().is_some();
            let count = self.net.neighbors_directed(i, Direction::Incoming).filter(produced).count();
            if count == 0 {
                ready.push(Reverse(i));
            } else {
                waiting.insert(i, count);
            }
        }
        let mut order = Vec::new();
        while let Some(Reverse(i)) = ready.pop() {
            order.push(NodeId(i));
            for v in self.net.neighbors_directed(i, Direction::Outgoing) {
                for user in self.net.neighbors_directed(v, Direction::Outgoing) {
                    if let Some(count) = waiting.get_mut(&user) {
                        *count -= 1;
                        if *count == 0 {
                            waiting.remove(&user);
                            ready.push(Reverse(user));
                        }
                    }
                }
            }
        }
        order
    }

    /// Number of nodes.
    pub fn node_count(&self) -> usize {
        self.net.node_weights().filter(|w| matches!(w, Vertex::Node(_))).count()
    }

    /// Number of nodes and values, which is known without counting.
    pub fn size(&self) -> usize {
        self.net.node_count()
    }

    /// Bytes of all constants that were ever added, also of those that are gone.
    pub fn constant_bytes(&self) -> u64 {
        self.constant_bytes
    }

    /// All values, in order of creation.
    pub fn values(&self) -> impl Iterator<Item = ValueId> {
        self.net.node_indices().filter(|&i| matches!(self.net[i], Vertex::Value { .. })).map(ValueId)
    }

    /// All constants, in order of creation.
    pub fn constants(&self) -> impl Iterator<Item = (ValueId, &Arc<Tensor>)> {
        self.values().filter_map(|v| Some((v, self.constant(v)?)))
    }

    /// A description of the node for diagnostics: its ONNX origin where known, else its own text.
    pub fn describe(&self, n: NodeId) -> String {
        let node = self.node(n);
        match &node.origin {
            Some(origin) => origin.to_string(),
            None => {
                let names: Vec<_> = self.results(n).iter().map(|&v| format!("%{}", self.name_of(v))).collect();
                format!("{} = {}", names.join(", "), node.op.name())
            }
        }
    }

    /// The name if it is free, else the name with a suffix `.1`, `.2`, .. that makes it free: the least one up to `.16`, beyond that one
    /// behind a name that is taken.
    pub fn fresh_name(&self, name: &str) -> String {
        if !self.names.contains_key(name) {
            return name.to_string();
        }
        let is_free = |i: &u64| !self.names.contains_key(&format!("{name}.{i}"));
        let suffix = (1..=16).find(is_free).unwrap_or_else(|| {
            // A suffix that is taken and one that is free, ever nearer to each other: thousands of values may want one name.
            let mut free = (5..63).map(|bits| 1 << bits).find(is_free).unwrap_or(u64::MAX);
            let mut taken = free / 2;
            while taken + 1 < free {
                let middle = taken.midpoint(free);
                *(if is_free(&middle) { &mut free } else { &mut taken }) = middle;
            }
            free
        });
        format!("{name}.{suffix}")
    }
}

/// Graphs are equal if they have the same name, the same inputs and outputs, and the same named values computed in the
/// same way; neither the order of creation nor the numbering matters.
impl PartialEq for Graph {
    fn eq(&self, other: &Graph) -> bool {
        let name = |g: &Graph, ids: &[ValueId]| ids.iter().map(|&v| g.name_of(v).to_string()).collect::<Vec<_>>();
        let same_value = |v: ValueId| {
            let Some(o) = other.find(self.name_of(v)) else { return false };
            self.value(v) == other.value(o)
                && match (self.def(v), other.def(o)) {
                    (Def::Input(a), Def::Input(b)) => a == b,
                    (Def::Const(a), Def::Const(b)) => a == b,
                    (Def::Node(n, i), Def::Node(m, j)) => {
                        i == j
                            && self.node(n) == other.node(m)
                            && name(self, &self.operands(n)) == name(other, &other.operands(m))
                    }
                    _ => false,
                }
        };
        self.name == other.name
            && name(self, &self.inputs) == name(other, &other.inputs)
            && name(self, &self.outputs) == name(other, &other.outputs)
            && self.names.len() == other.names.len()
            && self.metadata == other.metadata
            && self.values().all(same_value)
    }
}
