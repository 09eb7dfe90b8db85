//! Writes the example model as a shared object, then loads and runs that file as a deployed program would, which needs
//! nothing but `qcc_runtime`: `cargo run --example load_so`.

use qcc::runtime::{Model, Pool, TensorRef};
use qcc::{Options, compile};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/models/resnet_cifar10.onnx");
    let file = std::env::temp_dir().join(format!("qcc-example-{}.so", std::process::id()));
    compile(source, &Options::default())?.write_so(&file)?;

    let model = Model::load(&file)?;
    let (input, output) = (&model.inputs()[0], &model.outputs()[0]);
    println!("{:?} {} -> {:?} {}", input.dims, input.dtype, output.dims, output.dtype);
    let zero = input.quant.map_or(0, |q| q.zero_point) as u8;
    let image = vec![zero; input.elements()];
    // Threads change nothing but the time.
    let pool = Pool::new(2)?;
    let logits = model.session().with_pool(&pool).run(&[TensorRef::new(&input.dims, &image)])?;
    println!("{:?}", logits[0].as_slice::<u8>().unwrap_or_default());

    drop(model);
    std::fs::remove_file(&file)?;
    std::fs::remove_file(file.with_extension("h"))?;
    Ok(())
}
