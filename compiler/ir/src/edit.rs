//! The one door through which passes change a graph.
//!
//! Every change is numbered and labelled (`edit #17 fold-bn: %bn3 into %conv3`), so that a wrong result can be bisected by limiting
//! the number of changes, and a dump can say why each line changed. [`Edit::begin`] asks for permission; what changes the graph
//! is a method of the [`Change`] that it returns, so that nothing happens without.

use std::ops::{Deref, DerefMut};

use crate::build::{Builder, live};
use crate::graph::Graph;
use crate::metadata::Fact;

/// A graph that is being changed, and the record of the changes.
#[derive(Debug)]
pub struct Edit<'g> {
    graph: &'g mut Graph,
    first: usize,
    limit: usize,
    labels: Vec<String>,
    remarks: Vec<String>,
    /// Changes that had begun when dead code was last removed.
    swept: usize,
}

/// A change that may be carried out: it lasts as long as it is used.
#[derive(Debug)]
pub struct Change<'e> {
    builder: Builder<'e>,
    remarks: &'e mut Vec<String>,
}

impl<'g> Edit<'g> {
    /// Changes without a limit, numbered from 0.
    pub fn new(graph: &'g mut Graph) -> Edit<'g> {
        Edit::with_limit(graph, 0, usize::MAX)
    }

    /// Changes numbered from `first`, refused from number `limit` on.
    pub fn with_limit(graph: &'g mut Graph, first: usize, limit: usize) -> Edit<'g> {
        Edit { graph, first, limit, labels: Vec::new(), remarks: Vec::new(), swept: 0 }
    }

    /// The graph as it is now.
    pub fn graph(&self) -> &Graph {
        self.graph
    }

    /// Begins the next change; `None` if it must not be carried out.
    #[must_use = "the change happens through what this returns"]
    pub fn begin(&mut self, label: impl Into<String>) -> Option<Change<'_>> {
        if self.first + self.labels.len() >= self.limit {
            return None;
        }
        self.labels.push(label.into());
        Some(Change { builder: Builder::new(self.graph), remarks: &mut self.remarks })
    }

    /// Removes every node and constant from which no output can be reached. What the changes since the last time have left behind
    /// goes with them; where there was none, the removal is a change of its own.
    pub fn remove_dead(&mut self) {
        let dead = self.graph.net.node_count() - live(self.graph).len();
        if dead == 0 {
            self.swept = self.labels.len();
            return;
        }
        if self.labels.len() > self.swept {
            Builder::new(self.graph).remove_dead();
        } else if let Some(mut change) = self.begin("dead code: what no output depends on") {
            change.remove_dead();
        }
        self.swept = self.labels.len();
    }

    /// Removes what earlier passes left of this kind and nobody reads any more. That changes nothing, and needs no number.
    pub fn clear_metadata(&mut self, fact: Fact) {
        Builder::new(self.graph).clear_metadata(fact);
    }

    /// Records something that was not done and why.
    pub fn remark(&mut self, remark: impl Into<String>) {
        self.remarks.push(remark.into());
    }

    /// Labels of the changes so far.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// Labels and remarks, at the end of a pass.
    pub fn finish(self) -> (Vec<String>, Vec<String>) {
        (self.labels, self.remarks)
    }
}

impl Change<'_> {
    /// Records something about the change.
    pub fn remark(&mut self, remark: impl Into<String>) {
        self.remarks.push(remark.into());
    }
}

impl<'e> Deref for Change<'e> {
    type Target = Builder<'e>;

    fn deref(&self) -> &Builder<'e> {
        &self.builder
    }
}

impl<'e> DerefMut for Change<'e> {
    fn deref_mut(&mut self) -> &mut Builder<'e> {
        &mut self.builder
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{Attrs, Opcode};
    use crate::types::Type;

    #[test]
    fn changes_are_numbered_and_limited() {
        let mut graph = Graph::new("g");
        let mut builder = Builder::new(&mut graph);
        let x = builder.add_input("x", Type::f32(&[2]));
        let relu =
            |b: &mut Builder, name: &str| b.add_inferred(Opcode::Relu, &[x], Attrs::new(Opcode::Relu), name, None);
        let y = relu(&mut builder, "y").unwrap();
        relu(&mut builder, "unread").unwrap();
        builder.set_outputs(vec![y]);

        let mut refused = graph.clone();
        let mut edit = Edit::with_limit(&mut refused, 7, 7);
        edit.remove_dead();
        assert!(edit.begin("no").is_none() && edit.graph().find("unread").is_some());

        let mut edit = Edit::with_limit(&mut graph, 7, 9);
        edit.remove_dead();
        assert_eq!(edit.labels(), ["dead code: what no output depends on"]);
        let mut change = edit.begin("a rectifier less").unwrap();
        change.replace_uses(y, x);
        change.remark("as it does nothing");
        edit.remove_dead();
        assert!(edit.begin("one more").is_none());
        assert!(edit.graph().find("y").is_none());
        assert_eq!(edit.finish().0.len(), 2);
    }
}
