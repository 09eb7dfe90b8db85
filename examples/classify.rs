//! Classifies an image with a session that owns its model, as a server keeps one for each thread:
//! `cargo run --example classify -- cat.jpg`; without an image, a ship.

use std::path::Path;
use std::sync::Arc;

use qcc::data::{self, Preprocess, Resize};
use qcc::{Options, Session, TensorRef, compile};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/models/resnet_cifar10.onnx");

const SHIP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/models/ship.jpg");

const CLASSES: [&str; 10] = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let preset = Preprocess::preset("cifar10").ok_or("the preset exists")?;
    let preprocess = Preprocess { resize: Resize::Exact((32, 32)), ..preset };
    let compiled = compile(MODEL, &Options { preprocess: Some(preprocess.clone()), ..Options::default() })?;
    let ty = compiled.source().ty(compiled.source().inputs()[0]).clone();
    let path = std::env::args().nth(1).unwrap_or(SHIP.to_string());
    let image = data::image(Path::new(&path), Some(&preprocess), &ty)?;

    // The session shares the model: it can go to a thread, or into a structure of one's own.
    let model = Arc::new(compiled.jit()?);
    let mut session = Session::shared(model.clone());
    let worker = std::thread::spawn(move || {
        let view = TensorRef::new(&image.dims, image.as_f32().unwrap_or_default());
        session.run_f32(&[view])
    });
    let logits = worker.join().map_err(|_| "the thread ended early")??;
    let scores = logits[0].as_slice::<f32>().ok_or("the model gives real numbers")?;

    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    for class in order.into_iter().take(3) {
        println!("{:>10.3}  {}", scores[class], CLASSES[class]);
    }
    println!("{} multiply-accumulates a run", model.info().macs);
    Ok(())
}
