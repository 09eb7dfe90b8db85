//! Evaluation of a whole graph: the domain in which a value is a tensor.

use std::borrow::Cow;
use std::sync::Arc;

use qcc_ir::diag::Code;
use qcc_ir::{Attrs, Data, Diag, Graph, Opcode, Tensor, Type, ValueId};

use crate::context::Context;
use crate::executor::{Domain, SampleState, UNWATCHED, execute};
use crate::node::eval_in;
use crate::schedule::{Numbering, Operand, Schedule};

/// A graph made ready to be evaluated any number of times, also at the same time from several threads.
///
/// Constants are shared with the graph. A run holds the values that are still needed and nothing of earlier runs.
#[derive(Debug, Clone)]
pub struct Evaluator {
    schedule: Schedule,
    inputs: Vec<Input>,
    nodes: Vec<Node>,
    outputs: Vec<Source>,
    threads: usize,
}

#[derive(Debug, Clone)]
struct Input {
    id: ValueId,
    name: String,
    ty: Type,
}

/// What a step evaluates.
#[derive(Debug, Clone)]
struct Node {
    op: Opcode,
    attrs: Attrs,
    operands: Vec<(Source, Type)>,
    result: ValueId,
    ty: Type,
}

/// An [`Operand`] that does not borrow from the graph.
#[derive(Debug, Clone)]
enum Source {
    Slot(usize),
    Constant(Arc<Tensor>),
}

impl From<Operand<'_>> for Source {
    fn from(operand: Operand) -> Source {
        match operand {
            Operand::Slot(slot) => Source::Slot(slot),
            Operand::Constant(tensor) => Source::Constant(tensor.clone()),
        }
    }
}

impl Evaluator {
    /// Makes a graph ready: its order, and where each value is used last. Computes on one thread.
    pub fn new(graph: &Graph) -> Evaluator {
        let numbering = Numbering::of(graph);
        let schedule = numbering.schedule(graph, graph.outputs());
        let input = |&v: &ValueId| Input { id: v, name: graph.name_of(v).to_string(), ty: graph.ty(v).clone() };
        let node = |step: usize| {
            let n = numbering.node(step);
            let (node, result) = (graph.node(n), graph.result(n));
            let operands = numbering.operands(graph, step).into_iter().map(|(o, ty)| (o.into(), ty.clone())).collect();
            Node { op: node.op, attrs: node.attrs.clone(), operands, result, ty: graph.ty(result).clone() }
        };
        Evaluator {
            inputs: graph.inputs().iter().map(input).collect(),
            nodes: (0..schedule.steps()).map(node).collect(),
            outputs: graph.outputs().iter().map(|&v| numbering.operand(graph, v).into()).collect(),
            threads: 1,
            schedule,
        }
    }

    /// The same on `threads` threads of the rayon pool in which a run is called; the results are the same bits. Use 1,
    /// the initial value, where many samples run at the same time.
    pub fn with_threads(mut self, threads: usize) -> Evaluator {
        self.threads = threads.max(1);
        self
    }

    /// Types of the inputs, in order.
    pub fn input_types(&self) -> impl Iterator<Item = &Type> {
        self.inputs.iter().map(|input| &input.ty)
    }

    /// Evaluates the graph: one tensor an output.
    pub fn run(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, Diag> {
        self.run_observed(inputs, &mut |_, _| {})
    }

    /// [`Evaluator::run`], calling `observe` with every input, then with every computed value in the order of computation.
    pub fn run_observed(
        &self,
        inputs: &[Tensor],
        observe: &mut dyn FnMut(ValueId, &Tensor),
    ) -> Result<Vec<Tensor>, Diag> {
        self.check_inputs(inputs)?;
        self.inputs.iter().zip(inputs).for_each(|(input, tensor)| observe(input.id, tensor));
        let mut domain = Plain { nodes: &self.nodes, cx: Context::new(self.threads), observe };
        let lent = vec![inputs.iter().map(Cow::Borrowed).collect()];
        let mut samples = execute(&self.schedule, &mut domain, lent, UNWATCHED)?;
        samples.pop().map_or(Ok(Vec::new()), |sample| self.take_outputs(sample))
    }

    fn take_outputs(&self, mut sample: SampleState<Cow<Tensor>>) -> Result<Vec<Tensor>, Diag> {
        let mut outputs = Vec::with_capacity(self.outputs.len());
        for (i, output) in self.outputs.iter().enumerate() {
            let is_again = |o: &Source| matches!((o, output), (Source::Slot(a), Source::Slot(b)) if a == b);
            outputs.push(match output {
                Source::Constant(t) => t.as_ref().clone(),
                Source::Slot(s) if self.outputs[i + 1..].iter().any(is_again) => sample.get(*s)?.as_ref().clone(),
                Source::Slot(s) => sample.take(*s)?.into_owned(),
            });
        }
        Ok(outputs)
    }

    fn check_inputs(&self, inputs: &[Tensor]) -> Result<(), Diag> {
        if inputs.len() != self.inputs.len() {
            let message = format!("{} inputs given to a model that has {}", inputs.len(), self.inputs.len());
            return Err(Diag::new(Code::DATA, message));
        }
        for (tensor, input) in inputs.iter().zip(&self.inputs) {
            if tensor.dims != input.ty.dims || !tensor.data.holds(&input.ty.elem) {
                let message = format!("input %{} is {} and not {}", input.name, tensor.plain_type(), input.ty);
                return Err(Diag::new(Code::DATA, message));
            }
        }
        Ok(())
    }
}

/// Values are tensors: those of inputs are lent.
struct Plain<'e, 'o> {
    nodes: &'e [Node],
    cx: Context,
    observe: &'o mut dyn FnMut(ValueId, &Tensor),
}

impl<'e> Domain for Plain<'e, '_> {
    type Value = Cow<'e, Tensor>;

    fn step(&mut self, step: usize, samples: &[SampleState<Cow<'e, Tensor>>]) -> Result<Vec<Cow<'e, Tensor>>, Diag> {
        let node = &self.nodes[step];
        let mut results = Vec::with_capacity(samples.len());
        for sample in samples {
            let mut operands: Vec<(&Tensor, &Type)> = Vec::with_capacity(node.operands.len());
            for (operand, ty) in &node.operands {
                let tensor = match operand {
                    Source::Slot(slot) => sample.get(*slot)?.as_ref(),
                    Source::Constant(t) => t.as_ref(),
                };
                operands.push((tensor, ty));
            }
            let tensor = eval_in(&self.cx, node.op, &node.attrs, &operands, &node.ty)?;
            (self.observe)(node.result, &tensor);
            results.push(Cow::Owned(tensor));
        }
        Ok(results)
    }

    /// Memory of real numbers is used again.
    fn release(&mut self, value: Cow<'e, Tensor>) {
        if let Cow::Owned(Tensor { data: Data::F32(buffer), .. }) = value {
            self.cx.recycle(buffer);
        }
    }
}
