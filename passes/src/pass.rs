//! What a pass is: the trait, the row that describes it, and the properties that rows speak of.

use qcc_ir::diag::Code;
use qcc_ir::ops::Dialect;
use qcc_ir::{Def, Diag, Diags, Edit, Elem, Graph, NodeId};

use crate::context::Context;
use crate::options::{OptionInfo, Options};
use crate::ranges::activations::activations as ranged;

/// A transformation of a graph.
pub trait Pass {
    /// Transforms the graph. Faults of the model are collected; on an error the graph is not used any more.
    fn run(&self, edit: &mut Edit, cx: &mut Context) -> Result<(), Diags>;
}

/// Part of the route that a pass belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// `nn.*` on real numbers.
    Float,
    /// `nn.*` and `quant.*`.
    Quant,
    /// `int.*`.
    Int,
}

impl Phase {
    /// Spelling in tables.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Float => "float",
            Phase::Quant => "quant",
            Phase::Int => "int",
        }
    }
}

/// What may hold of a graph, and passes rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Property {
    /// Only `nn.*` and `tensor.*` operators, no quantized types.
    Float,
    /// The range of every float activation is in its type.
    Ranged,
    /// No activation has a float type, but constants may.
    Scaled,
    /// `nn.*` operators compute on f32 between `quant.dcast` and `quant.qcast`.
    Explicit,
    /// `nn.*` operators have quantized results, and nothing casts to or from f32.
    Quantized,
    /// Only `int.*` and `tensor.*` operators on integers.
    Integer,
}

impl Property {
    /// All properties.
    pub const ALL: [Property; 6] = [
        Property::Float,
        Property::Ranged,
        Property::Scaled,
        Property::Explicit,
        Property::Quantized,
        Property::Integer,
    ];

    /// The property in words.
    pub fn text(self) -> &'static str {
        match self {
            Property::Float => "no operator or type is quantized",
            Property::Ranged => "the range of every activation is known",
            Property::Scaled => "every activation has a scale",
            Property::Explicit => "quantization is explicit (`quant.qcast`, `quant.dcast`)",
            Property::Quantized => "every operator works on quantized types",
            Property::Integer => "every operator is an integer operator",
        }
    }

    /// Whether it holds of a graph.
    pub fn holds(self, graph: &Graph) -> bool {
        let activations = || graph.values().filter(|&v| !matches!(graph.def(v), Def::Const(_)));
        let dialect_in =
            |allowed: &[Dialect]| graph.order().iter().all(|&n| allowed.contains(&graph.op(n).info().dialect()));
        let no_float = || activations().all(|v| !graph.ty(v).is_float());
        match self {
            Property::Float => {
                dialect_in(&[Dialect::Nn, Dialect::Tensor]) && graph.values().all(|v| graph.ty(v).uniform().is_none())
            }
            Property::Ranged => ranged(graph).iter().all(|&v| graph.ty(v).elem != Elem::F32),
            // Without floats the only casts are those between quantizations.
            Property::Scaled | Property::Quantized => {
                dialect_in(&[Dialect::Nn, Dialect::Tensor, Dialect::Quant]) && no_float()
            }
            Property::Explicit => graph.order().iter().all(|&n| match graph.op(n).info().dialect() {
                Dialect::Nn => graph.ty(graph.result(n)).uniform().is_none(),
                Dialect::Int => false,
                Dialect::Tensor | Dialect::Quant => true,
            }),
            Property::Integer => dialect_in(&[Dialect::Int, Dialect::Tensor]) && no_float(),
        }
    }
}

/// One row of [`crate::PASSES`].
pub struct PassInfo {
    /// Name in pipelines: verb and noun.
    pub name: &'static str,
    /// Part of the route.
    pub phase: Phase,
    /// What it does, in one line.
    pub summary: &'static str,
    /// Its options.
    pub options: &'static [OptionInfo],
    /// What must hold before.
    pub requires: &'static [Property],
    /// What holds after.
    pub ensures: &'static [Property],
    /// What need not hold any more after.
    pub breaks: &'static [Property],
    /// Makes the pass; the options have been checked against the schema.
    pub make: fn(&Options) -> Box<dyn Pass>,
}

/// A diagnostic at a node.
pub(crate) fn diag_at(graph: &Graph, n: NodeId, code: Code, message: impl Into<String>) -> Diag {
    Diag::new(code, message).at(graph.describe(n))
}
