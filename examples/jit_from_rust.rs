//! Compiles the example model in memory and runs it: `cargo run --example jit_from_rust`.

use qcc::{Options, TensorRef, compile};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/models/resnet_cifar10.onnx");
    let compiled = compile(path, &Options::default())?;
    println!("ranges: {}", compiled.report().range_source);
    let model = compiled.jit()?;
    let dims = &model.inputs()[0].dims;
    let image: Vec<f32> = (0..dims.iter().product::<usize>()).map(|i| (i as f32 * 0.01).sin()).collect();
    // The session keeps its memory: repeated runs allocate nothing.
    let mut session = model.session();
    let logits = session.run_f32(&[TensorRef::new(dims, &image)])?;
    println!("logits: {:?}", logits[0].as_slice::<f32>().unwrap_or_default());
    Ok(())
}
