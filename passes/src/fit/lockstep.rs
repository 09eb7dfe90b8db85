//! A network whose activations have scales, evaluated layer by layer in two forms at once, as it is and on real numbers:
//! what `round-weights` and `correct-bias` measure with.
//!
//! It is a domain of the executor in which a value is a [`Pair`]: all samples are taken through one node before the next, so
//! that a layer is fitted to what the quantized network in front of it, itself already fitted, really computes (the sequential
//! scheme of Nagel et al., ICML 2020, section 3.3). That keeps the live values of every sample in memory: the number of samples
//! is bounded by [`MEMORY`]. Results do not depend on the number of threads: what is summed over samples is summed in their
//! order.

use std::sync::Arc;

use qcc_interp::{Domain, Numbering, SampleState, Threads, eval_node, execute, in_order};
use qcc_ir::format::ScaleRule;
use qcc_ir::{Diag, Diags, Graph, NodeId, Opcode, Tensor, Type};
use qcc_num::convert::nearest_f32;

use super::affine::{AffineCorrection, correct};
use super::pair::{PAIR_BYTES, Pair, PairedNode, cast, real};
use crate::Context;
use crate::layer::{QuantLayer, WeightCodes, is_layer};

/// Bytes of activations that are alive at a time.
const MEMORY: usize = 512 << 20;

/// Fewest samples, whatever they take.
const LEAST_SAMPLES: usize = 8;

/// A convolution or linear layer with constant weights, and what goes in and should come out.
pub(crate) struct LayerSamples {
    pub(crate) layer: QuantLayer,
    /// The float weights; those of 16 bits are what their integers stand for.
    pub(crate) weights: Arc<Tensor>,
    /// What the quantized network gives the layer, as real numbers: one tensor a sample.
    pub(crate) inputs: Vec<Tensor>,
    /// What the layer computes from the real network's values: one tensor a sample.
    pub(crate) targets: Vec<Tensor>,
    /// The weights as they would be rounded.
    pub(crate) rounded: WeightCodes,
}

/// New parameters of a layer.
pub(crate) struct FittedLayer {
    pub(crate) layer: QuantLayer,
    pub(crate) weights: WeightCodes,
    pub(crate) bias: Vec<f32>,
    /// Root mean square of what was added to the bias.
    pub(crate) shift: f64,
}

/// The layers in order, and how well the outputs come out.
#[derive(Default)]
pub(crate) struct FitResult {
    pub(crate) layers: Vec<FittedLayer>,
    /// Signal-to-noise ratio of the outputs, as if they were one, in decibels.
    pub(crate) sqnr: f64,
}

/// Chooses the integers that stand for a layer's weights.
pub(crate) type Round<'r> = &'r (dyn Fn(&LayerSamples) -> Result<WeightCodes, Diag> + Sync);

/// Takes the samples through the graph. `round` chooses the integers that stand for a layer's weights; then its bias is set so
/// that the mean of each channel, before it is quantized, is that of the real network. With `gains`, the scales of the weights
/// are set too, so that the square error of each channel is least.
pub(crate) fn run(g: &Graph, cx: &Context, gains: bool, round: Round) -> Result<FitResult, Diags> {
    let Some(samples) = cx.samples.clone().filter(|s| !s.is_empty()) else { return Ok(FitResult::default()) };
    let numbering = Numbering::of(g);
    let most = samples.len();
    let count = (MEMORY / footprint(g, &numbering).max(1)).clamp(LEAST_SAMPLES, most.max(LEAST_SAMPLES)).min(most);
    let enter = |i: usize| -> Result<Vec<Pair>, Diag> {
        let tensors = samples.get(i * most / count)?;
        g.inputs().iter().zip(tensors).map(|(&v, tensor)| Pair::of_input(tensor, g.ty(v))).collect()
    };
    let schedule = numbering.schedule(g, g.outputs());
    let fitted = || -> Result<FitResult, Diag> {
        let inputs = in_order(0..count, enter)?;
        let mut lockstep = Lockstep { g, numbering: &numbering, round, gains, layers: Vec::new() };
        let ends = execute(&schedule, &mut lockstep, inputs, &|done, of| cx.watch(done, of))?;
        Ok(FitResult { sqnr: lockstep.sqnr(&ends)?, layers: lockstep.layers })
    };
    Ok(Threads::start(cx.threads)?.run(fitted)?)
}

/// Bytes that one sample takes where it takes most, its outputs counted as long as something reads them.
pub(crate) fn footprint(g: &Graph, numbering: &Numbering) -> usize {
    let bytes = |ty: &Type| PAIR_BYTES * ty.elements();
    let schedule = numbering.schedule(g, &[]);
    let inputs = g.inputs().iter().map(|&v| bytes(g.ty(v)));
    let results = (0..schedule.steps()).map(|step| bytes(g.ty(g.result(numbering.node(step)))));
    let sizes: Vec<usize> = inputs.chain(results).collect();
    // In a layer, its input as real numbers and its result before quantization.
    let workspace = |step: usize| {
        let read = g.operands(numbering.node(step)).first().and_then(|&x| numbering.slot(x));
        read.map_or(0, |slot| sizes[slot]) + sizes[schedule.result(step)]
    };
    schedule.peak(|slot| sizes[slot], workspace)
}

/// Values are pairs; layers are fitted on the way.
struct Lockstep<'a> {
    g: &'a Graph,
    numbering: &'a Numbering,
    round: Round<'a>,
    gains: bool,
    layers: Vec<FittedLayer>,
}

impl Domain for Lockstep<'_> {
    type Value = Pair;

    fn step(&mut self, step: usize, samples: &[SampleState<Pair>]) -> Result<Vec<Pair>, Diag> {
        if let Some(layer) = Fittable::of(self.g, self.numbering, step) {
            let (results, layer) = layer.fit(self.round, self.gains, samples)?;
            self.layers.push(layer);
            return Ok(results);
        }
        let node = PairedNode::new(self.g, self.numbering, step)?;
        in_order(samples, |sample| node.evaluate(sample))
    }
}

impl Lockstep<'_> {
    /// Signal-to-noise ratio of the outputs.
    fn sqnr(&self, samples: &[SampleState<Pair>]) -> Result<f64, Diag> {
        let powers = in_order(samples, |sample| {
            let mut sums = [0.0; 2];
            for &v in self.g.outputs() {
                if let Some(slot) = self.numbering.slot(v) {
                    sample.get(slot)?.add_powers(self.g.ty(v), &mut sums)?;
                }
            }
            Ok::<_, Diag>(sums)
        })?;
        let [signal, noise] = powers.iter().fold([0.0, 0.0], |[s, n], p| [s + p[0], n + p[1]]);
        Ok(if noise > 0.0 { 10.0 * (signal / noise).log10() } else { f64::INFINITY })
    }
}

/// A layer that can be fitted.
struct Fittable<'a> {
    g: &'a Graph,
    layer: QuantLayer,
    /// Slot and type of what it reads.
    input: (usize, &'a Type),
    weights: Arc<Tensor>,
    bias: Vec<f32>,
    rounded: WeightCodes,
}

impl<'a> Fittable<'a> {
    fn of(g: &'a Graph, numbering: &Numbering, step: usize) -> Option<Fittable<'a>> {
        let layer = QuantLayer::read(g, numbering.node(step)).ok()?;
        let x = layer.input.value;
        if !is_layer(layer.op) || g.ty(x).uniform().is_none() || layer.output.quantization.is_none() {
            return None;
        }
        let (rounded, bias) = (layer.rounded().ok()?, layer.real_bias()?);
        let weights = match &layer.weights.quantization {
            None => layer.weights.tensor.clone(),
            Some(u) if u.axis == Some(0) => Arc::new(rounded.real()),
            Some(_) => return None,
        };
        Some(Fittable { g, input: (numbering.slot(x)?, g.ty(x)), layer, weights, bias, rounded })
    }

    /// Its results and its new parameters.
    fn fit(self, round: Round, gains: bool, samples: &[SampleState<Pair>]) -> Result<(Vec<Pair>, FittedLayer), Diag> {
        let Fittable { g, layer, input: (slot, x), weights, bias, rounded } = self;
        let (node, channels) = (layer.node, layer.outputs());
        let ty = g.ty(g.result(node));
        let (x_real, y_real) = (real(x), real(ty));
        let pairs = in_order(samples, |sample| {
            let pair = sample.get(slot)?;
            let input = cast(Opcode::DCast, &pair.quantized, x, &x_real)?;
            Ok::<_, Diag>((input, apply(g, node, &pair.real, &weights, &bias, &y_real)?))
        })?;
        let (inputs, targets) = pairs.into_iter().unzip();
        let layer = LayerSamples { layer, weights, inputs, targets, rounded };
        let chosen = round(&layer)?;
        let weights = chosen.real();
        let found = in_order(&layer.inputs, |input| apply(g, node, input, &weights, &bias, &y_real))?;
        let plane = if g.op(node) == Opcode::Conv2d { plane(&ty.dims) } else { 1 };
        let mut corrections = AffineCorrection::of_channels(&layer.targets, &found, channels, plane);
        // A gain is no power of two.
        if !gains || layer.layer.weights_format.scale_rule() == ScaleRule::PowerOfTwo {
            corrections.iter_mut().for_each(AffineCorrection::without_gain);
        }
        let results = in_order(found.into_iter().zip(layer.targets), |(mut found, real)| {
            correct(&mut found, &corrections, plane);
            Ok::<_, Diag>(Pair { real, quantized: cast(Opcode::QCast, &found, &y_real, ty)? })
        })?;
        let weights = chosen.scaled(corrections.iter().map(|c| c.gain));
        let bias = bias.iter().zip(&corrections).map(|(b, c)| nearest_f32(f64::from(*b) * c.gain + c.shift)).collect();
        let square = corrections.iter().map(|c| c.moved * c.moved).sum::<f64>() / channels.max(1) as f64;
        Ok((results, FittedLayer { layer: layer.layer, weights, bias, shift: square.sqrt() }))
    }
}

/// The layer with other weights and another bias.
fn apply(g: &Graph, n: NodeId, x: &Tensor, w: &Tensor, bias: &[f32], ty: &Type) -> Result<Tensor, Diag> {
    let node = g.node(n);
    let bias = Tensor::f32(&[bias.len()], bias.to_vec());
    let types = [x, w, &bias].map(Tensor::plain_type);
    eval_node(node.op, &node.attrs, &[(x, &types[0]), (w, &types[1]), (&bias, &types[2])], ty)
}

/// Elements behind one another in one channel of a convolution's result. A linear layer's channels are the last axis.
fn plane(dims: &[usize]) -> usize {
    dims.iter().skip(2).product()
}
