//! Shows what every pass does to a model: `cargo run --example inspect_passes [MODEL]`.

use qcc::{Event, Options, compile_observed};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/models/resnet_cifar10.onnx");
    let path = std::env::args().nth(1).unwrap_or(example.to_string());
    println!("{:<22} {:>6} {:>6} {:>9}", "pass", "edits", "nodes", "ms");
    let compiled = compile_observed(path.as_str(), &Options::default(), &mut |event| match event {
        Event::Imported { graph, time } => {
            println!("{:<22} {:>6} {:>6} {:>9.2}", "import", "", graph.node_count(), time.as_secs_f64() * 1e3);
        }
        Event::Pass { step, .. } => {
            let (edits, nodes, ms) = (step.labels.len(), step.graph.node_count(), step.time.as_secs_f64() * 1e3);
            println!("{:<22} {edits:>6} {nodes:>6} {ms:>9.2}", step.info.name);
            step.labels.iter().take(3).for_each(|label| println!("    {label}"));
        }
    })?;
    // The last graph is what machine code is made of.
    println!("{}", compiled.graph().to_string().lines().last().unwrap_or_default());
    Ok(())
}
