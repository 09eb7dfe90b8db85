//! Runs a model on the host's own threads, here those of rayon, in place of qcc's: `cargo run --example host_pool`.
//!
//! Programs in C give the functions `qcc_NAME_run_mt` a `parallel_for` of theirs: `examples/call_from_cpp/main.cpp`.

use qcc::{Options, TensorRef, compile};

/// Calls `work` on the threads of the pool that come in time.
fn on_rayon(work: &(dyn Fn() + Sync)) {
    rayon::in_place_scope(|scope| {
        for _ in 1..rayon::current_num_threads() {
            scope.spawn(|_| work());
        }
        work();
    });
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/models/resnet_cifar10.onnx");
    let model = compile(path, &Options::default())?.jit()?;
    let dims = &model.inputs()[0].dims;
    let image: Vec<f32> = (0..dims.iter().product::<usize>()).map(|i| (i as f32 * 0.01).sin()).collect();
    let input = [TensorRef::new(dims, &image)];

    let threads = rayon::current_num_threads();
    let alone = model.run_f32(&input)?;
    let shared = model.session().with_host_threads(threads, on_rayon).run_f32(&input)?;
    assert_eq!(alone[0].as_slice::<f32>(), shared[0].as_slice::<f32>());
    println!("the same on {threads} threads of rayon: {:?}", shared[0].as_slice::<f32>().unwrap_or_default());
    Ok(())
}
