//! Finds ranges on samples, says what that gains over ranges without data, and gives the table back to a later compilation:
//! `cargo run --release --example calibrate`.

use std::sync::Arc;

use qcc::ir::Tensor;
use qcc::{Calibration, Compiled, Evaluator, Options, RangeTable, TensorRef, compile, save_ranges};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/models/resnet_cifar10.onnx");

/// An image between -1 and 1, another one for each seed: samples of one's own are what the model will see.
fn image(dims: &[usize], seed: u32) -> Tensor {
    let value = |i: usize| ((i as f32 * 0.013 + seed as f32) * 1.7).sin() * ((i / 32) as f32 * 0.11).cos();
    Tensor::f32(dims, (0..dims.iter().product()).map(value).collect())
}

/// Decibels between the float model and the compiled one on images that it was not calibrated with.
fn quality(compiled: &Compiled) -> Result<f64, Box<dyn std::error::Error>> {
    let (model, float) = (compiled.jit()?, Evaluator::new(compiled.source()));
    let mut session = model.session();
    let (mut signal, mut noise) = (0.0, 0.0);
    for seed in 100..116 {
        let x = image(&model.inputs()[0].dims, seed);
        let expected = float.run(std::slice::from_ref(&x))?;
        let found = session.run_f32(&[TensorRef::new(&x.dims, x.as_f32().unwrap_or_default())])?;
        let pairs = expected[0].as_f32().unwrap_or_default().iter().zip(found[0].as_slice::<f32>().unwrap_or_default());
        for (&e, &f) in pairs {
            signal += f64::from(e) * f64::from(e);
            noise += f64::from(e - f) * f64::from(e - f);
        }
    }
    Ok(10.0 * (signal / noise).log10())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let without = compile(MODEL, &Options::default())?;
    println!("without data   {:.1} dB  ({})", quality(&without)?, without.report().range_source);

    // From files: `Calibration::Path("images/".into())`, with `Options::preprocess` for images.
    let dims = &without.source().ty(without.source().inputs()[0]).dims;
    let samples: Vec<Vec<Tensor>> = (0..32).map(|seed| vec![image(dims, seed)]).collect();
    let options = Options { calibration: Some(Calibration::Samples(Arc::new(samples))), ..Options::default() };
    let calibrated = compile(MODEL, &options)?;
    println!("calibrated     {:.1} dB  ({})", quality(&calibrated)?, calibrated.report().range_source);

    // The ranges can be kept, read by people, edited, and given back where there are no samples.
    let file = std::env::temp_dir().join(format!("qcc-example-{}.json", std::process::id()));
    save_ranges(calibrated.ranges().ok_or("the model has ranges")?, &file)?;
    let options = Options { ranges: Some(RangeTable::load(&file)?), ..Options::default() };
    let again = compile(MODEL, &options)?;
    println!("from the table {:.1} dB  ({})", quality(&again)?, again.report().range_source);
    std::fs::remove_file(&file)?;
    Ok(())
}
