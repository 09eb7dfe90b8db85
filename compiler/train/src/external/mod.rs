//! Training elsewhere: the integer network, the float one that teaches it, and what training is set to, as files that `train.py` reads, which needs nothing but
//! PyTorch and onnx.
//!
//! Weights and biases are trained there, by what was calibrated: no scale changes, so that multipliers, shifts and tables of the integer network are constants, and integers of weights and
//! biases follow from real numbers by two roundings (`qcc_num::edge`, equation 6, and `qcc_passes::bias_32`).

mod describe;

use qcc_ir::diag::Code;
use qcc_ir::{Builder, Diag, Graph, Opcode, Tensor, ValueId, attr};
use serde_json::{Value, json};

use crate::loss::{self, Kind};
use crate::network::Network;
use crate::program::zero_of;
use crate::scores::codes_of_scores;
use crate::trainer::Trainer;
use crate::{Augment, Plan, Rule, Scheme, Settings};
use describe::{Constants, described};

/// The program that trains.
const PROGRAM: &str = include_str!("train.py");

/// Operators of integer networks that it has.
const STUDENT: &[Opcode] = &[
    Opcode::QConv2d,
    Opcode::QLinear,
    Opcode::IAdd,
    Opcode::IMul,
    Opcode::Rescale,
    Opcode::ScaleChannels,
    Opcode::Lut,
    Opcode::Clamp,
    Opcode::IMaxPool,
    Opcode::IAveragePool,
    Opcode::IMean,
    Opcode::Reshape,
    Opcode::Transpose,
    Opcode::Concat,
    Opcode::Slice,
    Opcode::Pad,
];

/// Operators of float networks that it has.
const TEACHER: &[Opcode] = &[
    Opcode::Conv2d,
    Opcode::Linear,
    Opcode::BatchNorm,
    Opcode::Relu,
    Opcode::Clip,
    Opcode::Sigmoid,
    Opcode::HardSwish,
    Opcode::Add,
    Opcode::Sub,
    Opcode::Mul,
    Opcode::MaxPool,
    Opcode::AveragePool,
    Opcode::ReduceMean,
    Opcode::Reshape,
    Opcode::Transpose,
    Opcode::Concat,
    Opcode::Slice,
    Opcode::Pad,
];

/// Names and contents of the files, beside the model with explicit casts.
pub fn files(
    trainer: &Trainer,
    teacher: &Graph,
    images: &[Option<bool>],
    plan: &Plan,
    settings: &Settings,
) -> Result<Vec<(&'static str, Vec<u8>)>, Diag> {
    if plan.scheme != Scheme::Rounding {
        let diag =
            Diag::new(Code::FLAGS, "--emit-trainer: the recipe does more than round weights to the nearest integer");
        return Err(diag.help("use one of distill, faq, apprentice"));
    }
    let network = trainer.network();
    let mut constants = Constants::default();
    let mut integer = network.lowered()?;
    let compared = integer.outputs().iter().map(|&v| codes_of_scores(&integer, v)).collect();
    let mut builder = Builder::new(&mut integer);
    builder.set_outputs(compared);
    builder.remove_dead();
    let layers = layers(trainer, &integer, &mut constants)?;
    let student = described(&integer, STUDENT, &mut constants)?;
    let outputs: Vec<Value> = integer.outputs().iter().map(|&v| output(&integer, v, settings)).collect();
    let mut cut = teacher.clone();
    crate::teacher::end_before_softmax(&mut cut);
    let text = json!({
        "producer": format!("qcc {}", env!("CARGO_PKG_VERSION")),
        "images": images,
        "student": student,
        "outputs": outputs,
        "layers": layers,
        "teacher": described(&cut, TEACHER, &mut constants)?,
        "recipe": recipe(plan, settings),
        "constants": constants.directory(),
    });
    let text = serde_json::to_vec(&text)
        .map_err(|e| Diag::new(Code::UNSUPPORTED, format!("the network cannot be described: {e}")))?;
    Ok(vec![("train.py", PROGRAM.into()), ("network.json", text), ("constants.bin", constants.bytes())])
}

/// What training is set to.
fn recipe(plan: &Plan, settings: &Settings) -> Value {
    let Augment { flip, shift } = plan.augment;
    let weights = settings.weights;
    json!({
        "optimizer": if settings.rule == Rule::Adam { "adam" } else { "sgd" },
        "rate": settings.rates.weights,
        "teacher": weights.teacher, "labels": weights.labels, "temperature": weights.temperature,
        "epochs": plan.epochs, "batch": plan.batch, "seed": plan.seed, "flip": flip, "shift": shift,
    })
}

/// How an output is compared, and what its codes stand for.
fn output(g: &Graph, v: ValueId, settings: &Settings) -> Value {
    let ty = g.ty(v);
    let kind = if settings.reals { Kind::Reals } else { loss::kind(&ty.dims) };
    let (scale, zero) = ty.uniform().map_or((1.0, 0), |u| (u.scale(), u.zero_point()));
    let classes = if let Kind::Scores(classes) = kind { Some(classes) } else { None };
    json!({ "value": g.name_of(v), "scale": scale, "zero": zero, "classes": classes })
}

/// The layers that are trained, in the order of the network.
fn layers(trainer: &Trainer, g: &Graph, constants: &mut Constants) -> Result<Vec<Value>, Diag> {
    let (network, units) = (trainer.network(), &trainer.units);
    let mut all = vec![Value::Null; network.layers.len()];
    for n in g.order() {
        let operands = g.operands(n);
        let number = operands.get(1).and_then(|&w| crate::network::number(g.name_of(w)));
        let (Some(k), true) = (number, matches!(g.op(n), Opcode::QConv2d | Opcode::QLinear)) else { continue };
        let layer = &network.layers[k];
        let (scales, codes) = layer.rounded(network);
        let other = || {
            let diag = Diag::new(
                Code::UNSUPPORTED,
                "--emit-trainer: the layer's integers follow from more than its weights and bias",
            );
            diag.at(g.describe(n))
        };
        let order = network.order(k);
        let weights = g.constant(operands[1]).and_then(|t| t.as_i8()).ok_or_else(other)?;
        if !weights.iter().zip(order).all(|(&q, &o)| codes.get(o as usize) == Some(&i64::from(q))) {
            return Err(other());
        }
        let zero = i32::from(zero_point(g, n));
        let (step, bias) = biases(network, k, &scales).ok_or_else(other)?;
        let found = g.constant(operands[2]).and_then(|t| t.as_i32()).ok_or_else(other)?;
        let sums = weights.chunks(layer.depth).map(|row| row.iter().map(|&w| i32::from(w)).sum::<i32>());
        if !found.iter().zip(sums).zip(&bias).all(|((b, sum), own)| b.wrapping_add(zero.wrapping_mul(sum)) == *own) {
            return Err(other());
        }
        let format = &layer.format;
        let levels = match format.grid() {
            qcc_ir::format::Grid::Levels(levels) => Some(levels.to_vec()),
            qcc_ir::format::Grid::Linear { .. } => None,
        };
        let (dims, bias_name) = network.written_as(k);
        all[k] = json!({
            "name": layer.name, "bias_name": bias_name, "dims": dims, "depth": layer.depth, "zero": zero,
            "min": format.min(), "max": format.max(), "levels": levels,
            "weights": constants.add(&Tensor::f32(&dims, layer.shadows.clone())),
            "bias": constants.add(&Tensor::f32(&[layer.bias.len()], layer.bias.clone())),
            "scales": constants.add(&Tensor::f32(&[scales.len()], scales)),
            "bias_steps": constants.add(&Tensor::f32(&[step.len()], step)),
            "order": constants.add_order(order),
            "units": constants.add(&Tensor::f32(&[units[k].weights().len()], units[k].weights().to_vec())),
            "bias_unit": units[k].bias(),
        });
    }
    match all.iter().position(Value::is_null) {
        None => Ok(all),
        Some(k) => {
            let message =
                format!("--emit-trainer: layer `{}` is none of {}", network.layers[k].name, "int.qconv2d, int.qlinear");
            Err(Diag::new(Code::UNSUPPORTED, message))
        }
    }
}

/// Steps of the integers of a bias, and these.
fn biases(network: &Network, layer: usize, scales: &[f32]) -> Option<(Vec<f32>, Vec<i32>)> {
    let own = &network.layers[layer];
    let (tensor, elem) = qcc_passes::bias_32(&own.bias, f64::from(own.input_scale(network)), scales);
    let qcc_ir::Elem::Uniform(u) = elem else { return None };
    Some((u.scales.clone(), tensor.as_i32()?.to_vec()))
}

/// The code that stands for 0 in what a layer reads.
fn zero_point(g: &Graph, n: qcc_ir::NodeId) -> u8 {
    match g.op(n) {
        Opcode::QConv2d => u8::try_from(g.node(n).attrs.get(attr::PAD_VALUE)).unwrap_or(0),
        _ => zero_of(g, g.operands(n)[0]),
    }
}
