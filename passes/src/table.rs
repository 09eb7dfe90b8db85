//! The table of all passes.

use crate::pass::{PassInfo, Phase, Property};
use crate::{fit, float, int, options, quant, ranges};

impl PassInfo {
    /// The pass with this name or alias.
    pub fn find(name: &str) -> Option<&'static PassInfo> {
        let name = ALIASES.iter().find(|a| a.0 == name).map_or(name, |a| a.1);
        PASSES.iter().find(|p| p.name == name)
    }
}

/// Other spellings that pipelines may use, and the name that each stands for.
pub static ALIASES: &[(&str, &str)] = &[("draw-samples", "synthesize-samples")];

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
        name: "compose-functions",
        phase: Phase::Float,
        summary: "makes one function of functions of one value that follow one another",
        options: &[],
        requires: &[Property::Explicit],
        ensures: &[],
        breaks: &[],
        make: |_| Box::new(float::compose_functions::ComposeFunctions),
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
        name: "synthesize-samples",
        phase: Phase::Float,
        summary: "sees from synthesized inputs what values are like that are far from any known distribution",
        options: &[],
        requires: &[Property::Float],
        ensures: &[],
        breaks: &[],
        make: |_| Box::new(ranges::synthesize_samples::SynthesizeSamples),
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
        requires: &[Property::Integer],
        ensures: &[],
        breaks: &[],
        make: |_| Box::new(int::check_integer_only::CheckIntegerOnly),
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;

    #[test]
    fn rows_are_consistent() {
        for (i, p) in PASSES.iter().enumerate() {
            assert!(PASSES[..i].iter().all(|q| q.name != p.name), "{} is doubly named", p.name);
            assert!(ALIASES.iter().all(|a| a.0 != p.name), "{} is an alias too", p.name);
            assert!(!p.summary.ends_with('.') && !p.summary.is_empty());
            let _ = (p.make)(&Options::defaults(p.options));
        }
        for (alias, name) in ALIASES {
            assert_eq!(PassInfo::find(alias).map(|p| p.name), Some(*name));
        }
    }
}
