//! Compiles a model to integer-only machine code, loads the result and runs it beside the float model:
//!
//! ```text
//! cargo run --example compile_and_run [MODEL.onnx]
//! ```

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use qcc::ir::{Data, Tensor};
use qcc::{Evaluator, Model, Options, TensorRef, compile};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/models/resnet_cifar10.onnx");

/// Runs behind the stated time.
const RUNS: u32 = 100;

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).unwrap_or_else(|| MODEL.to_string());
    let path = Path::new(&path);

    // Without samples, ranges come from the statistics that batch normalization holds.
    let start = Instant::now();
    let compiled = compile(path, &Options::default())?;
    std::fs::create_dir_all("target")?;
    let so = Path::new("target").join(path.file_stem().unwrap_or_default()).with_extension("so");
    compiled.write_so(&so)?;
    println!("compiled   {} to {} in {:.0?}", path.display(), so.display(), start.elapsed());
    println!("ranges     {}", compiled.report().range_source);

    let report = qcc::codegen::check::certify(&std::fs::read(&so)?)?;
    let integer = &report.integer;
    println!("certified  {} float instructions among {} of the integer part", integer.float, integer.instructions);

    let model = Model::load(&so.canonicalize()?)?;
    let info = &model.inputs()[0];
    let input: Vec<f32> = (0..info.elements()).map(|i| ((i * 37 % 199) as f32 - 99.0) / 50.0).collect();
    let view = [TensorRef::new(&info.dims, &input)];
    let mut session = model.session();
    let mut output = session.run_f32(&view)?;
    let start = Instant::now();
    for _ in 0..RUNS {
        session.run_f32_into(&view, &mut output)?;
    }
    println!("ran        {:.3} ms a run, one thread", start.elapsed().as_secs_f64() * 1e3 / f64::from(RUNS));

    let float = Evaluator::new(compiled.source()).run(&[Tensor::f32(&info.dims, input.clone())])?;
    let Data::F32(float) = &float[0].data else { return Err("the model's result is not float".into()) };
    let integer = output[0].as_slice::<f32>().ok_or("the model's result is not float")?;
    println!("\n{:>6} {:>10} {:>10}", "class", "float", "integer");
    for (class, (f, i)) in float.iter().zip(integer).take(10).enumerate() {
        println!("{class:>6} {f:>10.3} {i:>10.3}");
    }
    Ok(())
}
