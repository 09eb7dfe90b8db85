//! The network between float and quantized: evaluated on real numbers, with the quantization of each value and of each layer's
//! weights switched on or off.
//!
//! It is made of two graphs that the passes leave behind: the last on real numbers, and the one in which every cast is
//! explicit. A cast to integers and back is a rounding of real numbers; a constant that is quantized has the real one beside
//! it. With all switches off that is the float network, with all on it is the quantized one but for the rounding inside
//! of integer operators. A change of few switches is evaluated from the values of a run with the others: only what depends on
//! it is computed again.

mod build;
mod evaluate;
mod told;

use std::collections::HashSet;
use std::sync::Arc;

use qcc_interp::Schedule;
use qcc_ir::{Attrs, Diag, Graph, Opcode, Tensor, Type, Uniform};
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
    /// Its name where nothing was quantized yet.
    pub name: String,
    pub real: Arc<Tensor>,
    pub rounded: Arc<Tensor>,
    pub uniform: Arc<Uniform>,
}

enum Operand {
    Slot(usize),
    Constant(Arc<Tensor>),
    Parameter(Parameter),
}

impl Operand {
    fn slot(&self) -> Option<usize> {
        match self {
            Operand::Slot(slot) => Some(*slot),
            Operand::Constant(_) | Operand::Parameter(_) => None,
        }
    }
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
}

impl Step {
    /// Slots that it reads.
    fn reads(&self) -> Vec<usize> {
        match &self.action {
            Action::Round { of, .. } => vec![*of],
            Action::Compute { operands, .. } => operands.iter().filter_map(Operand::slot).collect(),
        }
    }
}

/// The network.
pub(crate) struct Mixed {
    schedule: Schedule,
    steps: Vec<Step>,
    outputs: Vec<usize>,
    pub parts: Vec<Part>,
}

/// A name and what it begins with, each up to a dot, the longest first.
fn prefixes(name: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(name), |n| n.rsplit_once('.').map(|(prefix, _)| prefix))
}

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
        prefixes(name).find_map(|n| self.parts.iter().position(|p| p.values.iter().any(|v| v == n)))
    }

    /// The part whose layer has a constant of the integer graph: passes add suffixes, `weight.fit.1`.
    pub fn part_of_constant(&self, name: &str) -> Option<usize> {
        let has = |p: &usize, n: &str| self.layer(*p).is_some_and(|(_, all)| all.iter().any(|c| c.name == n));
        prefixes(name).find_map(|n| (0..self.parts.len()).find(|p| has(p, n)))
    }

    /// Whether one side of the part that a value belongs to has more than 8 bits.
    pub fn is_finer(&self, value: &str, side: Side) -> bool {
        let of = |p: usize| match side {
            Side::Value => self.parts[p].ty.uniform().is_some_and(|u| !u.format.fits_byte()),
            // The bias, which has 32 bits in any case, is not asked.
            Side::Weights => {
                self.layer(p).is_some_and(|(_, all)| all.first().is_some_and(|w| w.uniform.format.bits() > 8))
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

    /// The slot of what the layer of a part computes, before anything is rounded, and the parameters of the layer.
    pub fn layer(&self, part: usize) -> Option<(usize, Vec<&Parameter>)> {
        let step = self.parts[part].layer?;
        let Action::Compute { operands, .. } = &self.steps[step].action else { return None };
        let parameters = operands.iter().filter_map(|o| match o {
            Operand::Parameter(p) => Some(p),
            Operand::Slot(_) | Operand::Constant(_) => None,
        });
        Some((self.schedule.result(step), parameters.collect()))
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
            let mut read = step.reads().into_iter().filter_map(|s| s.checked_sub(self.schedule.inputs()));
            read.any(|s| is_value(s) && is_finer(&self.steps[s]))
        };
        let works = |s: &&Step| matches!(s.action, Action::Compute { .. }) && (is_finer(s) || reads_finer(s));
        let sum = |steps: &mut dyn Iterator<Item = &Step>| steps.map(|s| s.macs).sum();
        (sum(&mut self.steps.iter().filter(works)), sum(&mut self.steps.iter()))
    }
}
