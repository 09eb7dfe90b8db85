//! Passes: each is one file in the folder of its part of the route, one row of [`PASSES`], and changes a graph through
//! [`Edit`] only.
//!
//! A pipeline is a text, `canonicalize, calibrate{method=mse}, fixpoint(fold-constants, canonicalize)`: see [`pipeline`].
//! Before a pipeline runs, what each pass requires is checked against what holds of the graph and what earlier passes
//! ensure; after each pass the graph is verified.

use qcc_ir::diag::Code;
use qcc_ir::ops::Dialect;
use qcc_ir::{Def, Diag, Diags, Edit, Elem, Graph};

pub mod context;
pub mod fit;
pub mod float;
pub mod int;
pub mod options;
pub mod pipeline;
pub mod quant;
pub mod ranges;

mod moves;
mod rewrite;

pub use context::{Context, Corrections, Method, RangeEntry, RangeTable, Samples};
pub use int::prove_accumulators::accumulator_bounds;
pub use options::{OptionInfo, Options};
pub use pipeline::{Pipeline, Step, default_pipeline, preset};
pub use quant::precision::{Precision, Precisions};
pub use ranges::observations::{Observations, Observing, Shard};

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
            Property::Ranged => ranges::calibrate::activations(graph).iter().all(|&v| graph.ty(v).elem != Elem::F32),
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

/// One row of [`PASSES`].
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

impl PassInfo {
    /// The pass with this name.
    pub fn find(name: &str) -> Option<&'static PassInfo> {
        PASSES.iter().find(|p| p.name == name)
    }
}

/// All passes, in the order in which they usually run.
pub static PASSES: &[PassInfo] = &[
    PassInfo {
        name: "canonicalize",
        phase: Phase::Float,
        summary: "removes what does nothing and writes equal things in one way",
        options: &[],
        requires: &[Property::Explicit],
        ensures: &[],
        breaks: &[],
        make: |_| Box::new(float::canonicalize::Canonicalize),
    },
    PassInfo {
        name: "fold-constants",
        phase: Phase::Float,
        summary: "evaluates what depends on constants only",
        options: &[],
        requires: &[Property::Float],
        ensures: &[],
        breaks: &[],
        make: |_| Box::new(float::fold_constants::FoldConstants),
    },
    PassInfo {
        name: "equalize",
        phase: Phase::Float,
        summary: "gives the channels between two layers ranges that are alike",
        options: &[],
        requires: &[Property::Float],
        ensures: &[],
        breaks: &[],
        make: |_| Box::new(fit::equalize::Equalize),
    },
    PassInfo {
        name: "calibrate",
        phase: Phase::Float,
        summary: "finds the range of every activation from samples, or takes it from a table",
        options: ranges::calibrate::OPTIONS,
        requires: &[Property::Explicit],
        ensures: &[],
        breaks: &[],
        make: |o| Box::new(ranges::calibrate::Calibrate::new(o)),
    },
    PassInfo {
        name: "draw-samples",
        phase: Phase::Float,
        summary: "sees from drawn inputs what values are like that are far from any known distribution",
        options: &[],
        requires: &[Property::Float],
        ensures: &[],
        breaks: &[],
        make: |_| Box::new(ranges::draw_samples::DrawSamples),
    },
    PassInfo {
        name: "propagate-ranges",
        phase: Phase::Float,
        summary: "derives ranges that are still unknown from the inputs' and batch normalization's",
        options: ranges::propagate_ranges::OPTIONS,
        requires: &[Property::Explicit],
        ensures: &[Property::Ranged],
        breaks: &[],
        make: |o| Box::new(ranges::propagate_ranges::PropagateRanges::new(o)),
    },
    PassInfo {
        name: "fold-bn",
        phase: Phase::Float,
        summary: "folds batch normalization into the convolution or linear layer beside it",
        options: &[],
        requires: &[Property::Float],
        ensures: &[],
        breaks: &[],
        make: |_| Box::new(float::fold_bn::FoldBn),
    },
    PassInfo {
        name: "assign-scales",
        phase: Phase::Quant,
        summary: "turns ranges into scales and zero points, equal ones where that saves work",
        options: &[],
        requires: &[Property::Float, Property::Ranged],
        ensures: &[Property::Scaled],
        breaks: &[Property::Float, Property::Ranged, Property::Explicit],
        make: |_| Box::new(quant::assign_scales::AssignScales),
    },
    PassInfo {
        name: "round-weights",
        phase: Phase::Quant,
        summary: "chooses the integers of weights, and biases with them, by least squares on the samples",
        options: fit::round_weights::OPTIONS,
        requires: &[Property::Scaled],
        ensures: &[],
        breaks: &[],
        make: |o| Box::new(fit::round_weights::RoundWeights::new(o)),
    },
    PassInfo {
        name: "correct-bias",
        phase: Phase::Quant,
        summary: "corrects biases by the shift of the mean that is measured on the samples, or follows from means of channels",
        options: &[],
        requires: &[Property::Scaled],
        ensures: &[],
        breaks: &[],
        make: |_| Box::new(fit::correct_bias::CorrectBias),
    },
    PassInfo {
        name: "insert-qdq",
        phase: Phase::Quant,
        summary: "quantizes weights and makes every change between real and quantized explicit",
        options: &[],
        requires: &[Property::Scaled],
        ensures: &[Property::Explicit],
        breaks: &[Property::Scaled, Property::Quantized, Property::Ranged],
        make: |_| Box::new(quant::insert_qdq::InsertQdq),
    },
    PassInfo {
        name: "adopt-qdq",
        phase: Phase::Quant,
        summary: "brings a model that is quantized already into the form of the other passes, with its own scales",
        options: &[],
        requires: &[Property::Explicit],
        ensures: &[],
        breaks: &[Property::Float, Property::Ranged],
        make: |_| Box::new(quant::adopt_qdq::AdoptQdq),
    },
    PassInfo {
        name: "scale-rest",
        phase: Phase::Quant,
        summary: "gives scales to what a quantized model leaves real, and integer form to its weights and biases",
        options: &[],
        requires: &[Property::Explicit, Property::Ranged],
        ensures: &[],
        breaks: &[Property::Ranged],
        make: |_| Box::new(quant::scale_rest::ScaleRest),
    },
    PassInfo {
        name: "cancel-qdq",
        phase: Phase::Quant,
        summary: "cancels casts that meet and moves data in its quantized form",
        options: &[],
        requires: &[Property::Explicit],
        ensures: &[],
        breaks: &[],
        make: |_| Box::new(quant::cancel_qdq::CancelQdq),
    },
    PassInfo {
        name: "fuse",
        phase: Phase::Quant,
        summary: "takes casts into the operators, so that all of them work on quantized types",
        options: options::EXACT,
        requires: &[Property::Explicit],
        ensures: &[Property::Quantized],
        breaks: &[Property::Explicit],
        make: |o| Box::new(quant::fuse::Fuse::new(o)),
    },
    PassInfo {
        name: "lower-to-int",
        phase: Phase::Int,
        summary: "replaces operators on quantized types by integer operators",
        options: options::EXACT,
        requires: &[Property::Quantized],
        ensures: &[Property::Integer],
        breaks: &[Property::Quantized],
        make: |o| Box::new(int::lower_to_int::LowerToInt::new(o)),
    },
    PassInfo {
        name: "lower-to-dynamic",
        phase: Phase::Int,
        summary: "replaces float operators by integer operators whose scales are found at run time",
        options: &[],
        requires: &[Property::Float],
        ensures: &[Property::Integer],
        breaks: &[Property::Float, Property::Ranged, Property::Explicit],
        make: |_| Box::new(int::lower_to_dynamic::LowerToDynamic),
    },
    PassInfo {
        name: "layout",
        phase: Phase::Int,
        summary: "moves transposes through the graph until they cancel",
        options: &[],
        requires: &[Property::Integer],
        ensures: &[],
        breaks: &[],
        make: |_| Box::new(int::layout::Layout),
    },
    PassInfo {
        name: "merge-requant",
        phase: Phase::Int,
        summary: "merges chains of requantizations, rescalings, clamps and tables",
        options: options::EXACT,
        requires: &[Property::Integer],
        ensures: &[],
        breaks: &[],
        make: |o| Box::new(int::merge_requant::MergeRequant::new(o)),
    },
    PassInfo {
        name: "fuse-epilogue",
        phase: Phase::Int,
        summary: "takes requantization and residual addition into convolutions and linear layers",
        options: options::EXACT,
        requires: &[Property::Integer],
        ensures: &[],
        breaks: &[],
        make: |o| Box::new(int::fuse_epilogue::FuseEpilogue::new(o)),
    },
    PassInfo {
        name: "prove-accumulators",
        phase: Phase::Int,
        summary: "proves that no accumulator overflows 32 bits",
        options: &[],
        requires: &[Property::Integer],
        ensures: &[],
        breaks: &[],
        make: |_| Box::new(int::prove_accumulators::ProveAccumulators),
    },
    PassInfo {
        name: "check-integer-only",
        phase: Phase::Int,
        summary: "checks that no float is left",
        options: &[],
        requires: &[],
        ensures: &[Property::Integer],
        breaks: &[],
        make: |_| Box::new(int::check_integer_only::CheckIntegerOnly),
    },
];

/// A diagnostic at a node.
pub(crate) fn diag_at(graph: &Graph, n: qcc_ir::NodeId, code: Code, message: impl Into<String>) -> Diag {
    Diag::new(code, message).at(graph.describe(n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_consistent() {
        for (i, p) in PASSES.iter().enumerate() {
            assert!(PASSES[..i].iter().all(|q| q.name != p.name), "{} is doubly named", p.name);
            assert!(!p.summary.ends_with('.') && !p.summary.is_empty());
            let _ = (p.make)(&Options::defaults(p.options));
        }
    }
}
