//! The steps of an evaluation in their order, and how long each value lives: what does not depend on what a value is.

use std::collections::HashMap;
use std::sync::Arc;

use qcc_ir::{Graph, NodeId, Tensor, Type, ValueId};

/// One value made of others.
#[derive(Debug, Clone)]
struct Step {
    /// How diagnostics call it.
    name: String,
    /// Slots that nothing needs after this step, its own among them if nothing reads it.
    last_used: Vec<usize>,
}

/// Steps in the order in which they are evaluated. Values are numbered by *slots*: the inputs, then the result of each step.
#[derive(Debug, Clone)]
pub struct Schedule {
    inputs: usize,
    steps: Vec<Step>,
}

impl Schedule {
    /// The schedule of `steps`, each a name for diagnostics and the slots that it reads. What is `kept` outlives the run, and so
    /// does an input that nothing reads.
    pub fn new(inputs: usize, steps: impl IntoIterator<Item = (String, Vec<usize>)>, kept: &[usize]) -> Schedule {
        let (names, reads): (Vec<String>, Vec<Vec<usize>>) = steps.into_iter().unzip();
        let mut steps: Vec<Step> = names.into_iter().map(|name| Step { name, last_used: Vec::new() }).collect();
        let mut needed_later = vec![false; inputs + steps.len()];
        kept.iter().for_each(|&slot| needed_later[slot] = true);
        for (i, (step, reads)) in steps.iter_mut().zip(&reads).enumerate().rev() {
            for &slot in std::iter::once(&(inputs + i)).chain(reads) {
                if !std::mem::replace(&mut needed_later[slot], true) {
                    step.last_used.push(slot);
                }
            }
        }
        Schedule { inputs, steps }
    }

    /// Number of inputs.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Number of steps.
    pub fn steps(&self) -> usize {
        self.steps.len()
    }

    /// Number of slots.
    pub fn slots(&self) -> usize {
        self.inputs + self.steps.len()
    }

    /// The slot of a step's result.
    pub fn result(&self, step: usize) -> usize {
        self.inputs + step
    }

    /// How diagnostics call a step.
    pub fn name(&self, step: usize) -> &str {
        &self.steps[step].name
    }

    /// Slots whose values nothing needs after a step.
    pub fn last_used(&self, step: usize) -> &[usize] {
        &self.steps[step].last_used
    }

    /// Most bytes that one sample takes at a time, if the value of a slot takes `bytes` and a step `workspace` beside them.
    pub fn peak(&self, bytes: impl Fn(usize) -> usize, workspace: impl Fn(usize) -> usize) -> usize {
        let inputs = (0..self.inputs).map(&bytes).sum();
        self.peaks(bytes, workspace).into_iter().fold(inputs, usize::max)
    }

    /// The bytes that one sample takes in each step.
    pub fn peaks(&self, bytes: impl Fn(usize) -> usize, workspace: impl Fn(usize) -> usize) -> Vec<usize> {
        let mut alive: usize = (0..self.inputs).map(&bytes).sum();
        let step = |i: usize| {
            alive += bytes(self.result(i));
            let now = alive + workspace(i);
            alive -= self.last_used(i).iter().map(|&slot| bytes(slot)).sum::<usize>();
            now
        };
        (0..self.steps.len()).map(step).collect()
    }
}

/// What a node of a graph reads.
#[derive(Debug, Clone, Copy)]
pub enum Operand<'g> {
    /// A value of the run.
    Slot(usize),
    /// A constant.
    Constant(&'g Arc<Tensor>),
}

/// The slots of a graph's values and the nodes of its steps. Constants have no slots.
#[derive(Debug, Clone)]
pub struct Numbering {
    slots: HashMap<ValueId, usize>,
    nodes: Vec<NodeId>,
}

impl Numbering {
    /// Numbers the inputs and the nodes of a graph, in its order.
    pub fn of(graph: &Graph) -> Numbering {
        let nodes = graph.order();
        let values = graph.inputs().iter().copied().chain(nodes.iter().map(|&n| graph.result(n)));
        Numbering { slots: values.enumerate().map(|(slot, v)| (v, slot)).collect(), nodes }
    }

    /// The schedule of the graph, which keeps the values `kept`.
    pub fn schedule(&self, graph: &Graph, kept: &[ValueId]) -> Schedule {
        let slots = |values: &[ValueId]| values.iter().filter_map(|&v| self.slot(v)).collect::<Vec<usize>>();
        let steps = self.nodes.iter().map(|&n| (graph.describe(n), slots(&graph.operands(n))));
        Schedule::new(graph.inputs().len(), steps, &slots(kept))
    }

    /// The slot of a value; `None` of a constant.
    pub fn slot(&self, v: ValueId) -> Option<usize> {
        self.slots.get(&v).copied()
    }

    /// What the node of a step reads, and the types of that.
    pub fn operands<'g>(&self, graph: &'g Graph, step: usize) -> Vec<(Operand<'g>, &'g Type)> {
        graph.operands(self.node(step)).into_iter().map(|v| (self.operand(graph, v), graph.ty(v))).collect()
    }

    /// A value as something to be read.
    pub(crate) fn operand<'g>(&self, graph: &'g Graph, v: ValueId) -> Operand<'g> {
        match graph.constant(v) {
            Some(tensor) => Operand::Constant(tensor),
            // No slot has this number: who reads it is told so.
            None => Operand::Slot(self.slot(v).unwrap_or(usize::MAX)),
        }
    }

    /// The node of a step.
    pub fn node(&self, step: usize) -> NodeId {
        self.nodes[step]
    }
}
