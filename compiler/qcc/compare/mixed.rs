//! The network between float and quantized: evaluated on real numbers, with the quantization of each value and of each layer's
//! weights switched on or off.
//!
//! It is made of two graphs that the passes leave behind: the last on real numbers, and the one in which every cast is
//! explicit. A cast to integers and back is a rounding of real numbers; a constant that is quantized has the real one beside
//! it. With all switches off that is the float network, with all on it is the quantized one but for the rounding inside
//! of integer operators. A change of few switches is evaluated from the values of a run with the others: only what depends on
//! it is computed again.

mod build;
mod told;

use std::collections::HashSet;
use std::sync::Arc;

use qcc_interp::eval_node;
use qcc_ir::diag::Code;
use qcc_ir::{Attrs, Diag, Elem, Graph, Opcode, Tensor, Type, Uniform};
use qcc_num::edge;
use qcc_passes::{Property, Step as PassStep};

use build::Builder;

use crate::Event;

/// What the passes leave behind, taken from the events of a compilation.
#[derive(Default)]
pub struct Stages {
    float: Option<Graph>,
    explicit: Option<Graph>,
}

impl Stages {
    /// Takes an event down.
    pub fn observe(&mut self, event: &Event) {
        match event {
            Event::Imported { graph, .. } => self.float = Some((*graph).clone()).filter(|g| Property::Float.holds(g)),
            Event::Pass { step: PassStep { info, graph, .. }, .. } => {
                if info.name == "insert-qdq" {
                    self.explicit = Some((*graph).clone());
                } else if self.explicit.is_none() && Property::Float.holds(graph) {
                    self.float = Some((*graph).clone());
                }
            }
        }
    }
}

/// What can be switched together: a value that is rounded, and what only repeats that rounding behind it (an activation of
/// the same type, a move); and the parameters of the layer that computes it.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// Name of the value.
    pub name: String,
    /// It, and the names of those behind it.
    pub values: Vec<String>,
    /// Operator that computes it.
    pub op: &'static str,
    /// Whether it is rounded: not if an integer operator takes it from its accumulators at once.
    pub is_rounded: bool,
    /// Whether it is an activation, and no rescaling of one: whether it can have another precision.
    pub is_named: bool,
    /// The type in which it is stored.
    pub ty: Type,
    /// The slot of the value that is rounded last.
    pub slot: usize,
    /// The slot of its rounded form.
    pub rounded_slot: usize,
    /// The step of the layer, if it has parameters.
    layer: Option<usize>,
    /// Parts that it is computed from.
    pub sources: Vec<usize>,
}

/// Which parts are quantized.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Switches {
    /// The value of a part.
    pub values: Vec<bool>,
    /// Its layer's parameters.
    pub weights: Vec<bool>,
}

/// What of a part is switched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// The value.
    Value,
    /// The parameters of the layer that computes it.
    Weights,
}

/// A constant of a layer.
#[derive(Clone)]
pub(crate) struct Parameter {
    pub real: Arc<Tensor>,
    pub rounded: Arc<Tensor>,
    pub uniform: Arc<Uniform>,
}

enum Operand {
    Slot(usize),
    Constant(Arc<Tensor>),
    Parameter(Parameter),
}

enum Action {
    Compute { op: Opcode, attrs: Attrs, operands: Vec<Operand>, ty: Type },
    Round { of: usize, to: Type },
}

struct Step {
    action: Action,
    /// The part whose switches it looks at.
    part: Option<usize>,
    /// Multiply-accumulates.
    macs: u64,
    place: String,
    /// Slots that no later step reads.
    last_used: Vec<usize>,
}

/// The network. Slots are its inputs, then the results of its steps.
pub(crate) struct Mixed {
    inputs: usize,
    steps: Vec<Step>,
    outputs: Vec<usize>,
    pub parts: Vec<Part>,
}

/// Values of all slots.
pub(crate) type Values = Vec<Arc<Tensor>>;

impl Switches {
    /// All on, or all off.
    pub fn all(parts: usize, on: bool) -> Switches {
        Switches { values: vec![on; parts], weights: vec![on; parts] }
    }

    /// The same with one side of one part switched.
    #[must_use]
    pub fn with(mut self, part: usize, side: Side, on: bool) -> Switches {
        let side = match side {
            Side::Value => &mut self.values,
            Side::Weights => &mut self.weights,
        };
        side[part] = on;
        self
    }
}

impl Mixed {
    /// The network of these stages, of which the passes made the graph `integer`; `None` if the pipeline has no such stages.
    pub fn new(stages: &Stages, integer: &Graph) -> Result<Option<Mixed>, Diag> {
        let (Some(float), Some(g)) = (&stages.float, &stages.explicit) else { return Ok(None) };
        let mut mixed = Builder::new(float, g).build()?;
        mixed.merge(integer);
        Ok(Some(mixed))
    }

    /// The part that a value of the integer graph belongs to: passes add suffixes, `conv.nhwc.1`.
    pub fn part_of(&self, name: &str) -> Option<usize> {
        let mut prefixes = std::iter::successors(Some(name), |n| n.rsplit_once('.').map(|(prefix, _)| prefix));
        prefixes.find_map(|n| self.parts.iter().position(|p| p.values.iter().any(|v| v == n)))
    }

    /// Whether one side of the part that a value belongs to has more than 8 bits.
    pub fn is_finer(&self, value: &str, side: Side) -> bool {
        let of = |p: usize| match side {
            Side::Value => self.parts[p].ty.uniform().is_some_and(|u| u.storage.bits() > 8),
            // The bias, which has 32 bits in any case, is not asked.
            Side::Weights => {
                self.layer(p).is_some_and(|(_, all)| all.first().is_some_and(|w| w.uniform.storage.bits() > 8))
            }
        };
        self.part_of(value).is_some_and(of)
    }

    /// What has no value of its own in the integer graph is not rounded.
    fn merge(&mut self, integer: &Graph) {
        let computed = integer.values().filter(|&v| integer.constant(v).is_none());
        let live: HashSet<usize> = computed.filter_map(|v| self.part_of(integer.name_of(v))).collect();
        for (p, part) in self.parts.iter_mut().enumerate() {
            part.is_rounded &= live.contains(&p);
        }
    }

    /// Evaluates all.
    pub fn run(&self, inputs: &[Tensor], on: &Switches) -> Result<Values, Diag> {
        let mut values: Values = inputs.iter().cloned().map(Arc::new).collect();
        for step in &self.steps {
            let value = self.evaluate(step, on, &|slot| values.get(slot))?;
            values.push(value);
        }
        Ok(values)
    }

    /// Outputs among the values.
    pub fn outputs(&self, values: &[Arc<Tensor>]) -> Vec<Tensor> {
        self.outputs.iter().map(|&o| values[o].as_ref().clone()).collect()
    }

    /// Evaluates what differs after a change of switches, given the values `base` of the run before; the outputs, and the value
    /// of slot `keep`.
    pub fn rerun(
        &self,
        base: &[Arc<Tensor>],
        (from, to): (&Switches, &Switches),
        keep: Option<usize>,
    ) -> Result<(Vec<Tensor>, Option<Arc<Tensor>>), Diag> {
        let mut changed: Vec<Option<Arc<Tensor>>> = vec![None; base.len()];
        let mut kept = None;
        for (i, step) in self.steps.iter().enumerate() {
            let switched = step.part.is_some_and(|p| match step.action {
                Action::Round { .. } => from.values[p] != to.values[p],
                Action::Compute { .. } => from.weights[p] != to.weights[p],
            });
            let slot = self.inputs + i;
            if switched || self.reads(step).any(|s| changed[s].is_some()) {
                let value = self.evaluate(step, to, &|s| changed[s].as_ref().or(base.get(s)))?;
                if keep == Some(slot) {
                    kept = Some(value.clone());
                }
                changed[slot] = Some(value);
            }
            step.last_used.iter().for_each(|&s| changed[s] = None);
        }
        let output = |&o: &usize| changed[o].as_ref().unwrap_or(&base[o]).as_ref().clone();
        Ok((self.outputs.iter().map(output).collect(), kept))
    }

    /// The slot of what the layer of a part computes, before anything is rounded, and the parameters of the layer.
    pub fn layer(&self, part: usize) -> Option<(usize, Vec<&Parameter>)> {
        let step = self.parts[part].layer?;
        let Action::Compute { operands, .. } = &self.steps[step].action else { return None };
        let parameters = operands.iter().filter_map(|o| match o {
            Operand::Parameter(p) => Some(p),
            Operand::Slot(_) | Operand::Constant(_) => None,
        });
        Some((self.inputs + step, parameters.collect()))
    }

    /// Multiply-accumulates of operators that have a finer operand if these sides are finer, and of all operators.
    pub fn work(&self, finer: &[(usize, Side)]) -> (u64, u64) {
        let is_finer = |step: &Step| match (&step.action, step.part) {
            (Action::Round { .. }, Some(p)) => finer.contains(&(p, Side::Value)),
            (Action::Compute { .. }, Some(p)) => finer.contains(&(p, Side::Weights)),
            (_, None) => false,
        };
        let is_value = |s: usize| matches!(self.steps[s].action, Action::Round { .. });
        let reads_finer = |step: &Step| {
            let mut read = self.reads(step).filter_map(|s| s.checked_sub(self.inputs));
            read.any(|s| is_value(s) && is_finer(&self.steps[s]))
        };
        let works = |s: &&Step| matches!(s.action, Action::Compute { .. }) && (is_finer(s) || reads_finer(s));
        let sum = |steps: &mut dyn Iterator<Item = &Step>| steps.map(|s| s.macs).sum();
        (sum(&mut self.steps.iter().filter(works)), sum(&mut self.steps.iter()))
    }

    fn reads<'a>(&self, step: &'a Step) -> Box<dyn Iterator<Item = usize> + 'a> {
        match &step.action {
            Action::Round { of, .. } => Box::new(std::iter::once(*of)),
            Action::Compute { operands, .. } => Box::new(operands.iter().filter_map(|o| match o {
                Operand::Slot(s) => Some(*s),
                Operand::Constant(_) | Operand::Parameter(_) => None,
            })),
        }
    }

    fn evaluate<'a>(
        &'a self,
        step: &'a Step,
        on: &Switches,
        value: &dyn Fn(usize) -> Option<&'a Arc<Tensor>>,
    ) -> Result<Arc<Tensor>, Diag> {
        let missing = || Diag::new(Code::VERIFY, "a value is used before it is computed").at(&step.place);
        match &step.action {
            Action::Round { of, to } => {
                let x = value(*of).ok_or_else(missing)?;
                let is_on = step.part.is_none_or(|p| on.values[p] && self.parts[p].is_rounded);
                if is_on { Ok(Arc::new(rounded(x, to)?)) } else { Ok(x.clone()) }
            }
            Action::Compute { op, attrs, operands, ty } => {
                let is_on = step.part.is_none_or(|p| on.weights[p]);
                let mut tensors: Vec<&Tensor> = Vec::with_capacity(operands.len());
                for operand in operands {
                    tensors.push(match operand {
                        Operand::Slot(s) => value(*s).ok_or_else(missing)?,
                        Operand::Constant(t) => t,
                        Operand::Parameter(p) if is_on => &p.rounded,
                        Operand::Parameter(p) => &p.real,
                    });
                }
                let types: Vec<Type> = tensors.iter().map(|t| t.plain_type()).collect();
                let operands: Vec<(&Tensor, &Type)> = tensors.into_iter().zip(&types).collect();
                eval_node(*op, attrs, &operands, ty).map(Arc::new).map_err(|d| d.at(&step.place))
            }
        }
    }
}

/// Real numbers to the nearest that a quantized type stands for.
fn rounded(x: &Tensor, to: &Type) -> Result<Tensor, Diag> {
    let (real, plain) = (to.with_elem(Elem::F32), Attrs::new(Opcode::QCast));
    if let (Some(values), Some(u)) = (x.as_f32(), to.uniform().filter(|u| u.axis.is_none())) {
        let bound = |b: i64| b.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32;
        let (scale, zero, lo, hi) = (u.scale(), bound(u.zero_point()), bound(u.min), bound(u.max));
        let one = |&x: &f32| edge::dequantize(edge::quantize(x, scale, zero, lo, hi), scale, zero);
        return Ok(Tensor::f32(&x.dims, values.iter().map(one).collect()));
    }
    let codes = eval_node(Opcode::QCast, &plain, &[(x, &real)], to)?;
    dequantized(&codes, to)
}

fn dequantized(codes: &Tensor, ty: &Type) -> Result<Tensor, Diag> {
    let real = ty.with_elem(Elem::F32);
    eval_node(Opcode::DCast, &Attrs::new(Opcode::DCast), &[(codes, ty)], &real)
}
