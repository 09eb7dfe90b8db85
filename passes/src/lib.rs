//! Passes: each is one file in the folder of its part of the route, one row of [`PASSES`], and changes a graph through
//! [`qcc_ir::Edit`] only.
//!
//! A pipeline is a text, `canonicalize, calibrate{method=mse}, fixpoint(fold-constants, canonicalize)`: see [`pipeline`].
//! Before a pipeline runs, what each pass requires is checked against what holds of the graph and what earlier passes
//! ensure; after each pass the graph is verified.

#![deny(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap)]

pub mod context;
pub mod fit;
pub mod float;
pub mod int;
pub mod op_traits;
pub mod options;
pub mod pass;
pub mod pipeline;
pub mod quant;
pub mod ranges;

mod constants;
mod layer;
mod moves;
mod rewrite;
mod table;

pub use context::{Context, Corrections, Samples};
pub use int::prove_accumulators::accumulator_bounds;
pub use layer::{GREATEST_BIAS, LEAST_FACTOR, bias_32, bias_64};
pub use options::{OptionInfo, Options};
pub use pass::{Pass, PassInfo, Phase, Property};
pub use pipeline::{PRESETS, Pipeline, Preset, Step, default_pipeline, preset};
pub use quant::precision::{Overall, Precision, Precisions};
pub use ranges::method::Method;
pub use ranges::observations::{Observations, Observing, Shard};
pub use ranges::table::{RangeEntry, RangeTable};
pub use table::PASSES;

pub(crate) use pass::diag_at;
