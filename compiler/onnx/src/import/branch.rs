//! `If` whose condition is known: the nodes of the branch that is taken stand in its place. Exporters write such conditions about
//! shapes, as for `squeeze`.

use onnx_protobuf::{GraphProto, NodeProto};
use qcc_ir::ValueId;

use super::Driver;
use super::numbers::Numbers;
use crate::fault::{Fault, Outcome};

impl<'a> Driver<'a, '_> {
    /// The results, `None` where the import of what they come from failed.
    pub(super) fn branch(&mut self, node: &'a NodeProto, condition: Option<ValueId>) -> Outcome<Vec<Option<ValueId>>> {
        let tensor = condition.and_then(|v| self.builder.graph().constant(v)).cloned();
        let taken = match tensor.as_deref().map(Numbers::of) {
            Some(Numbers::Int(v)) if v.len() == 1 => v[0] != 0,
            Some(_) => return Err(Fault::shape("the condition is not one boolean")),
            None => {
                return Err(Fault::unsupported(
                    "operator If is not supported with a condition that is known at run time only",
                )
                .help("control flow cannot be compiled; export the model with fixed shapes and options"));
            }
        };
        let name = if taken { "then_branch" } else { "else_branch" };
        let graph = node.attribute.iter().find(|a| a.name == name).and_then(|a| a.g.as_ref());
        let graph = graph.ok_or_else(|| Fault::shape(format!("`{name}` is missing")))?;
        if graph.output.len() < node.output.len() {
            let message = format!("`{name}` has {} results for {}", graph.output.len(), node.output.len());
            return Err(Fault::shape(message));
        }
        self.body(graph)
    }

    fn body(&mut self, graph: &'a GraphProto) -> Outcome<Vec<Option<ValueId>>> {
        // Names inside hide those outside for as long as the branch is imported.
        let inner = graph.initializer.iter().map(|t| &t.name).chain(graph.node.iter().flat_map(|n| &n.output));
        let hidden: Vec<_> = inner.map(|name| (name.as_str(), self.values.remove(name.as_str()))).collect();
        let faults = self.faults.0.len();
        for proto in &graph.initializer {
            self.add_initializer(proto);
        }
        for node in &graph.node {
            self.node(node);
        }
        let find = |name: &str| self.values.get(name).copied().flatten();
        let results: Vec<_> = graph.output.iter().map(|o| find(o.name.as_str())).collect();
        let missing = graph.output.iter().find(|o| !self.values.contains_key(o.name.as_str()));
        for (name, outer) in hidden.into_iter().rev() {
            match outer {
                Some(outer) => self.values.insert(name, outer),
                None => self.values.remove(name),
            };
        }
        match missing {
            Some(output) if self.faults.0.len() == faults => Err(Fault::unsupported(format!(
                "result `{}` of a branch is no tensor that is known there",
                output.name
            ))),
            Some(_) | None => Ok(results),
        }
    }
}
