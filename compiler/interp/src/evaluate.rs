//! Evaluation of a whole graph.

use std::collections::HashMap;
use std::sync::Arc;

use qcc_ir::diag::Code;
use qcc_ir::{Attrs, Data, Def, Diag, Graph, Opcode, Tensor, Type, ValueId};

use crate::context::Context;
use crate::node::eval_in;

/// A graph made ready to be evaluated any number of times, also at the same time from several threads.
///
/// Constants are shared with the graph. A run holds the values that are still needed and nothing of earlier runs.
#[derive(Debug, Clone)]
pub struct Evaluator {
    values: Vec<Slot>,
    inputs: Vec<usize>,
    outputs: Vec<usize>,
    steps: Vec<Step>,
    threads: usize,
}

/// A value of the graph.
#[derive(Debug, Clone)]
struct Slot {
    id: ValueId,
    name: String,
    ty: Type,
    constant: Option<Arc<Tensor>>,
}

/// A node of the graph; numbers are positions in [`Evaluator::values`].
#[derive(Debug, Clone)]
struct Step {
    op: Opcode,
    attrs: Attrs,
    operands: Vec<usize>,
    result: usize,
    /// Values that nothing needs after this step.
    last_used: Vec<usize>,
    /// The node, for diagnostics.
    place: String,
}

/// A value during a run.
enum Held<'a> {
    /// Not yet computed, or no longer needed.
    Absent,
    /// An input or a constant.
    Lent(&'a Tensor),
    /// A computed value.
    Own(Tensor),
}

impl Held<'_> {
    fn tensor(&self) -> Option<&Tensor> {
        match self {
            Held::Absent => None,
            Held::Lent(t) => Some(t),
            Held::Own(t) => Some(t),
        }
    }
}

impl Evaluator {
    /// Makes a graph ready: its order, and where each value is used last. Computes on one thread.
    pub fn new(graph: &Graph) -> Evaluator {
        let mut numbers = HashMap::new();
        let mut values = Vec::new();
        for id in graph.values() {
            numbers.insert(id, values.len());
            let constant = match graph.def(id) {
                Def::Const(t) => Some(t),
                Def::Input(_) | Def::Node(..) => None,
            };
            values.push(Slot { id, name: graph.name_of(id).to_string(), ty: graph.ty(id).clone(), constant });
        }
        let outputs: Vec<usize> = graph.outputs().iter().map(|v| numbers[v]).collect();
        let mut steps: Vec<Step> = Vec::new();
        for n in graph.order() {
            let node = graph.node(n);
            steps.push(Step {
                op: node.op,
                attrs: node.attrs.clone(),
                operands: graph.operands(n).iter().map(|v| numbers[v]).collect(),
                result: numbers[&graph.result(n)],
                last_used: Vec::new(),
                place: graph.describe(n),
            });
        }
        let mut needed_later = vec![false; values.len()];
        outputs.iter().for_each(|&v| needed_later[v] = true);
        for step in steps.iter_mut().rev() {
            for v in std::iter::once(step.result).chain(step.operands.iter().copied()) {
                if !std::mem::replace(&mut needed_later[v], true) {
                    step.last_used.push(v);
                }
            }
        }
        let inputs = graph.inputs().iter().map(|v| numbers[v]).collect();
        Evaluator { values, inputs, outputs, steps, threads: 1 }
    }

    /// The same on `threads` threads of the rayon pool in which a run is called; the results are the same bits. Use 1,
    /// the initial value, where many samples run at the same time.
    pub fn with_threads(mut self, threads: usize) -> Evaluator {
        self.threads = threads.max(1);
        self
    }

    /// Types of the inputs, in order.
    pub fn input_types(&self) -> impl Iterator<Item = &Type> {
        self.inputs.iter().map(|&v| &self.values[v].ty)
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
        let cx = Context::new(self.threads);
        let mut held: Vec<Held> = self
            .values
            .iter()
            .map(|slot| match &slot.constant {
                Some(t) => Held::Lent(t.as_ref()),
                None => Held::Absent,
            })
            .collect();
        for (&v, tensor) in self.inputs.iter().zip(inputs) {
            observe(self.values[v].id, tensor);
            held[v] = Held::Lent(tensor);
        }
        for step in &self.steps {
            let tensor = self
                .evaluate(&cx, step, &held)
                .map_err(|d| if d.place.node.is_none() { d.at(&step.place) } else { d })?;
            observe(self.values[step.result].id, &tensor);
            held[step.result] = Held::Own(tensor);
            for &v in &step.last_used {
                if let Held::Own(Tensor { data: Data::F32(buffer), .. }) = std::mem::replace(&mut held[v], Held::Absent)
                {
                    cx.recycle(buffer);
                }
            }
        }
        self.take_outputs(held)
    }

    fn evaluate(&self, cx: &Context, step: &Step, held: &[Held]) -> Result<Tensor, Diag> {
        let mut operands = Vec::with_capacity(step.operands.len());
        for &v in &step.operands {
            let tensor = held[v].tensor().ok_or_else(|| self.undefined(v))?;
            operands.push((tensor, &self.values[v].ty));
        }
        eval_in(cx, step.op, &step.attrs, &operands, &self.values[step.result].ty)
    }

    fn undefined(&self, v: usize) -> Diag {
        Diag::new(Code::VERIFY, format!("%{} is used before it is computed", self.values[v].name))
    }

    fn take_outputs(&self, mut held: Vec<Held>) -> Result<Vec<Tensor>, Diag> {
        let mut outputs = Vec::with_capacity(self.outputs.len());
        for (i, &v) in self.outputs.iter().enumerate() {
            let again = self.outputs[i + 1..].contains(&v);
            outputs.push(match std::mem::replace(&mut held[v], Held::Absent) {
                Held::Absent => return Err(self.undefined(v)),
                Held::Lent(t) => {
                    held[v] = Held::Lent(t);
                    t.clone()
                }
                Held::Own(t) if again => {
                    let copy = t.clone();
                    held[v] = Held::Own(t);
                    copy
                }
                Held::Own(t) => t,
            });
        }
        Ok(outputs)
    }

    fn check_inputs(&self, inputs: &[Tensor]) -> Result<(), Diag> {
        if inputs.len() != self.inputs.len() {
            let message = format!("{} inputs given to a model that has {}", inputs.len(), self.inputs.len());
            return Err(Diag::new(Code::DATA, message));
        }
        for (tensor, slot) in inputs.iter().zip(self.inputs.iter().map(|&v| &self.values[v])) {
            if tensor.dims != slot.ty.dims || !tensor.data.holds(&slot.ty.elem) {
                let message = format!("input %{} is {} and not {}", slot.name, tensor.plain_type(), slot.ty);
                return Err(Diag::new(Code::DATA, message));
            }
        }
        Ok(())
    }
}
