//! A pass of one's own between those of qcc: it sets the least weights of every layer to 0 (pruning by magnitude) and leaves the rest of the
//! work to the usual pipeline: `cargo run --example custom_pass`.

use qcc::ir::{Diags, Edit, Opcode, Tensor};
use qcc::passes::{Context, OptionInfo, Pass, PassInfo, Phase, Property};
use qcc::{Options, compile};

/// Weights below this share of their layer's greatest become 0.
const SHARE: f32 = 0.05;

/// The pass `prune-weights`.
struct PruneWeights;

impl Pass for PruneWeights {
    fn run(&self, edit: &mut Edit, _cx: &mut Context) -> Result<(), Diags> {
        for node in edit.graph().order() {
            let graph = edit.graph();
            if ![Opcode::Conv2d, Opcode::Linear].contains(&graph.op(node)) {
                continue;
            }
            let weights = graph.operands(node)[1];
            let Some((tensor, data)) = graph.constant(weights).and_then(|t| Some((t.clone(), t.as_f32()?.to_vec())))
            else {
                continue;
            };
            let limit = SHARE * data.iter().fold(0f32, |most, w| most.max(w.abs()));
            let kept: Vec<f32> = data.iter().map(|&w| if w.abs() < limit { 0.0 } else { w }).collect();
            let pruned = data.iter().zip(&kept).filter(|(before, after)| before != after).count();
            let name = graph.name_of(weights).to_string();
            if pruned == 0 {
                edit.remark(format!("@{name} has no weight below {limit}"));
                continue;
            }
            // Every change has a label, by which faults are found; one that is not allowed is not begun.
            let label = format!("prune-weights: {pruned} of {} in @{name}", data.len());
            let Some(mut change) = edit.begin(label) else { break };
            let new = change.add_const(&format!("{name}.pruned"), Tensor::f32(&tensor.dims, kept));
            change.set_operand(node, 1, new);
        }
        edit.remove_dead();
        Ok(())
    }
}

static OWN: &[PassInfo] = &[PassInfo {
    name: "prune-weights",
    phase: Phase::Float,
    summary: "sets small weights to 0",
    options: &[] as &[OptionInfo],
    requires: &[Property::Float],
    ensures: &[Property::Float],
    breaks: &[],
    make: |_| Box::new(PruneWeights),
}];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/models/resnet_cifar10.onnx");
    let pipeline = Some("prune-weights, -O1".to_string());
    let options = Options { own_passes: OWN, pipeline, ..Options::default() };
    let compiled = compile(path, &options)?;
    for pass in compiled.report().passes.iter().filter(|p| p.text == "prune-weights") {
        println!("{}: {} layers changed", pass.text, pass.edits);
    }
    let zeros = compiled.graph().constants().filter_map(|(_, t)| t.as_i8()).flatten().filter(|&&w| w == 0).count();
    println!("{zeros} weights are 0; the model runs: {:?}", compiled.jit()?.outputs()[0].dims);
    Ok(())
}
