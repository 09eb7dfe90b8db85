//! The smallest graph of which something still holds, for reports of faults.
//!
//! A candidate is a graph with something taken away: nodes in halves and ever smaller parts, outputs, inputs, extents, contents of
//! constants. One of which the question is still answered with yes takes the place of the graph, until nothing more can be taken
//! away (delta debugging, Zeller and Hildebrandt, TSE 2002). The order of candidates follows from the graph alone.

mod candidates;
mod extents;

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use qcc_ir::print::{INLINE, Large, Options as PrintOptions, print_with};
use qcc_ir::{Builder, Def, Fact, Graph, NodeId, Tensor, ValueId, verify};

use crate::Error;

/// Parts of a constant that are tried one by one.
const MOST_PARTS: usize = 64;

/// How large a graph is: what comes first counts most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size {
    /// Operations.
    pub nodes: usize,
    /// Results.
    pub outputs: usize,
    /// Inputs.
    pub inputs: usize,
    /// Elements of all values.
    pub elements: usize,
    /// Elements of constants that are not like the first of theirs, and those of these that are not 0.
    pub contents: usize,
    /// Rows of metadata.
    pub facts: usize,
}

impl Size {
    /// That of a graph.
    pub fn of(graph: &Graph) -> Size {
        Size {
            nodes: graph.node_count(),
            outputs: graph.outputs().len(),
            inputs: graph.inputs().len(),
            elements: graph.values().map(|v| graph.ty(v).elements()).sum(),
            contents: graph.constants().map(|(_, tensor)| candidates::contents(tensor)).sum(),
            facts: graph.metadata().rows().count(),
        }
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Size { nodes, outputs, inputs, elements, .. } = self;
        write!(f, "{nodes} operations, {inputs} inputs, {outputs} outputs, {elements} elements")
    }
}

/// Reduces `graph` as long as `holds` says yes; tells every step.
pub fn reduce(
    graph: Graph,
    holds: &mut dyn FnMut(&Graph) -> Result<bool, Error>,
    tell: &mut dyn FnMut(&Size, usize),
) -> Result<Graph, Error> {
    let size = Size::of(&graph);
    let mut reducer = Reducer { graph, size, holds, tell, tried: HashSet::new(), asked: 0 };
    loop {
        let before = reducer.size;
        reducer.outputs()?;
        reducer.nodes(2)?;
        reducer.bypasses()?;
        reducer.nodes(1)?;
        reducer.inputs()?;
        reducer.extents()?;
        reducer.constants()?;
        reducer.facts()?;
        if reducer.size == before {
            return Ok(reducer.graph);
        }
    }
}

struct Reducer<'a> {
    graph: Graph,
    size: Size,
    holds: &'a mut dyn FnMut(&Graph) -> Result<bool, Error>,
    tell: &'a mut dyn FnMut(&Size, usize),
    /// Digests of the candidates so far.
    tried: HashSet<u64>,
    asked: usize,
}

impl Reducer<'_> {
    /// Whether the candidate is smaller, well-formed, new, and still the kind of graph that is looked for. It then is the graph.
    fn accept(&mut self, mut candidate: Graph) -> Result<bool, Error> {
        let mut builder = Builder::new(&mut candidate);
        builder.remove_dead();
        builder.remove_unread_inputs();
        let size = Size::of(&candidate);
        if size >= self.size || size.outputs == 0 || verify(&candidate).is_err() {
            return Ok(false);
        }
        if !self.tried.insert(digest(&candidate)) {
            return Ok(false);
        }
        self.asked += 1;
        if !(self.holds)(&candidate)? {
            return Ok(false);
        }
        (self.graph, self.size) = (candidate, size);
        (self.tell)(&size, self.asked);
        Ok(true)
    }

    /// Takes away outputs, in halves and ever smaller parts.
    fn outputs(&mut self) -> Result<(), Error> {
        let mut part = self.graph.outputs().len() / 2;
        while part > 0 {
            let mut start = 0;
            while start < self.graph.outputs().len() && self.graph.outputs().len() > part {
                let mut outputs = self.graph.outputs().to_vec();
                outputs.drain(start..(start + part).min(outputs.len()));
                let mut candidate = self.graph.clone();
                Builder::new(&mut candidate).set_outputs(outputs);
                if !self.accept(candidate)? {
                    start += part;
                }
            }
            part /= 2;
        }
        Ok(())
    }

    /// Cuts nodes out, in halves and ever smaller parts, of `least` at least: first all but a part, then the part.
    fn nodes(&mut self, least: usize) -> Result<(), Error> {
        let mut part = self.graph.node_count() / 2;
        while part >= least {
            let mut end = self.graph.node_count();
            while end > 0 {
                let order = self.graph.order();
                end = end.min(order.len());
                let start = end.saturating_sub(part);
                let inside: HashSet<NodeId> = order[start..end].iter().copied().collect();
                let others: HashSet<NodeId> = order.iter().copied().filter(|n| !inside.contains(n)).collect();
                if self.accept(candidates::without(&self.graph, &others))? {
                    break;
                }
                self.accept(candidates::without(&self.graph, &inside))?;
                end = start;
            }
            part = (part / 2).min(self.graph.node_count() / 2);
        }
        Ok(())
    }

    /// Puts an operand in the place of a result of its type, users before what they use.
    fn bypasses(&mut self) -> Result<(), Error> {
        for at in (0..self.graph.node_count()).rev() {
            let Some(&n) = self.graph.order().get(at) else { continue };
            for x in candidates::operands_alike(&self.graph, n) {
                let mut candidate = self.graph.clone();
                let y = candidate.result(n);
                Builder::new(&mut candidate).replace_uses(y, x);
                if self.accept(candidate)? {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Makes inputs constants.
    fn inputs(&mut self) -> Result<(), Error> {
        for v in self.graph.inputs().to_vec() {
            if self.graph.inputs().len() > 1
                && let Some(candidate) = candidates::with_zeros(&self.graph, v)
            {
                self.accept(candidate)?;
            }
        }
        Ok(())
    }

    /// Makes extents less, each wherever it occurs.
    fn extents(&mut self) -> Result<(), Error> {
        let mut all: Vec<usize> = self.graph.values().flat_map(|v| self.graph.ty(v).dims.clone()).collect();
        all.sort_unstable();
        all.dedup();
        for extent in all.into_iter().rev().filter(|&e| e > 1) {
            let mut now = extent;
            for to in [1, extent / 2] {
                if to < now
                    && let Some(candidate) = extents::changed(&self.graph, now, to)
                    && self.accept(candidate)?
                {
                    now = to;
                }
            }
        }
        Ok(())
    }

    /// Makes contents of constants alike: all of them, or in halves and ever smaller parts.
    fn constants(&mut self) -> Result<(), Error> {
        let constants: Vec<ValueId> = self.graph.constants().map(|(v, _)| v).collect();
        for v in constants {
            let Def::Const(tensor) = self.graph.def(v) else { continue };
            let mut done = false;
            for simple in candidates::alike(&tensor) {
                done = done || self.contents(v, simple)?;
            }
            let len = tensor.data.len();
            let mut part = len / 2;
            while !done && part > 0 && len / part <= MOST_PARTS {
                for start in (0..len).step_by(part) {
                    let Def::Const(now) = self.graph.def(v) else { continue };
                    self.contents(v, candidates::with_part_alike(&now, start..start + part))?;
                }
                part /= 2;
            }
        }
        Ok(())
    }

    /// Takes away metadata, kind by kind.
    fn facts(&mut self) -> Result<(), Error> {
        for fact in Fact::ALL {
            let mut candidate = self.graph.clone();
            Builder::new(&mut candidate).clear_metadata(fact);
            self.accept(candidate)?;
        }
        Ok(())
    }

    fn contents(&mut self, constant: ValueId, tensor: Tensor) -> Result<bool, Error> {
        let mut candidate = self.graph.clone();
        Builder::new(&mut candidate).set_contents(constant, tensor);
        self.accept(candidate)
    }
}

/// Tells graphs apart without their text, in which constants are long.
fn digest(graph: &Graph) -> u64 {
    let mut ignored = |_: &str, _: &[u8]| Ok(());
    let text = print_with(graph, PrintOptions { inline: INLINE, large: Large::File(&mut ignored) });
    let mut hasher = DefaultHasher::new();
    text.unwrap_or_default().hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
