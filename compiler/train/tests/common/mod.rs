//! Networks on quantized types to be trained.

#[path = "../../../../passes/tests/semantics/networks.rs"]
pub mod networks;

use std::sync::Arc;

use qcc_ir::Graph;
use qcc_passes::quant::precision;
use qcc_passes::{Context, Pipeline, Precisions, default_pipeline};

use networks::inputs;

/// The network on quantized types, and the passes that make integers of it.
pub fn quantized(float: &Graph, seed: u64, bits: [&str; 2]) -> (Graph, String) {
    // By name, so that also layers have few bits that are too small for it otherwise.
    let mut precision = Precisions::new();
    let formats = format!("all={},all.weights={}", bits[1], bits[0]);
    precision::parse(&formats, &mut precision).expect("formats are known");
    let samples = Arc::new(inputs(seed, 8));
    let mut cx = Context { samples: Some(samples), precision, threads: 1, ..Context::default() };
    let text = default_pipeline(float, &cx);
    let (before, behind) = text.split_once(", lower-to-int").expect("the pipeline lowers");
    let mut graph = float.clone();
    let pipeline = Pipeline::parse(before).expect("a pipeline");
    pipeline.run(&mut graph, &mut cx).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    (graph, format!("lower-to-int{behind}"))
}
