//! Float evaluation of the models in ../shared against ONNX Runtime's outputs, stored by `fixtures/make_shared_outputs.py`.

mod optional;

use std::collections::BTreeMap;
use std::path::Path;

use optional::Missing;
use qcc_interp::Evaluator;
use qcc_ir::Tensor;
use qcc_onnx::{ImportOptions, import};
use serde::Deserialize;

#[derive(Deserialize)]
struct Model {
    input: String,
    shape: Vec<usize>,
    outputs: Vec<Output>,
}

#[derive(Deserialize)]
struct Output {
    first: Vec<f32>,
    mean: f64,
    len: usize,
}

/// The fixed sequence that the stored outputs were computed from.
fn input(shape: &[usize]) -> Tensor {
    let n: usize = shape.iter().product();
    let element = |i: usize| f64::from((i as u32).wrapping_mul(2_654_435_761) >> 8) / f64::from(1 << 23) - 1.0;
    Tensor::f32(shape, (0..n).map(|i| element(i) as f32).collect())
}

/// Sums in another order differ by some thousand units in the last place of the largest term.
const TOLERANCE: f32 = 2e-4;

fn main() -> std::process::ExitCode {
    let test = float_evaluation_agrees_with_onnx_runtime;
    optional::main(&[("float_evaluation_agrees_with_onnx_runtime", test)])
}

fn float_evaluation_agrees_with_onnx_runtime() -> Result<(), Missing> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = root.join("../shared/data/models");
    if !folder.is_dir() {
        return Err(Missing("no ../shared".into()));
    }
    let text = std::fs::read_to_string(root.join("tests/fixtures/shared_outputs.json")).expect("fixture");
    let models: BTreeMap<String, Model> = serde_json::from_str(&text).expect("fixture");
    for (name, model) in models {
        let mut options = ImportOptions::default();
        options.shapes.insert(model.input.clone(), model.shape.clone());
        let graph = import(&folder.join(format!("{name}.onnx")), &options).unwrap_or_else(|e| panic!("{name}: {e}"));
        let outputs = Evaluator::new(&graph).run(&[input(&model.shape)]).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(outputs.len(), model.outputs.len(), "{name}");
        for (i, (got, want)) in outputs.iter().zip(&model.outputs).enumerate() {
            let got = got.as_f32().expect("float output");
            assert_eq!(got.len(), want.len, "{name}, output {i}");
            let size = got.iter().fold(1.0f32, |m, v| m.max(v.abs()));
            for (j, (g, w)) in got.iter().zip(&want.first).enumerate() {
                assert!((g - w).abs() <= TOLERANCE * size, "{name}, output {i}[{j}]: {g} for {w}");
            }
            let mean = got.iter().map(|&v| f64::from(v)).sum::<f64>() / got.len() as f64;
            assert!(
                (mean - want.mean).abs() <= f64::from(TOLERANCE * size),
                "{name}, output {i}: mean {mean} for {}",
                want.mean
            );
        }
        println!("{name}: {} outputs agree", outputs.len());
    }
    Ok(())
}
