//! A network whose activations have scales, evaluated layer by layer in two forms at once, as it is and on real numbers:
//! what `round-weights` and `correct-bias` measure with.
//!
//! It is a domain of the executor in which a value is a [`Pair`]: all samples are taken through one node before the next, so
//! that a layer is fitted to what the quantized network in front of it, itself already fitted, really computes (the sequential
//! scheme of Nagel et al., ICML 2020, section 3.3). That keeps the live values of every sample in memory: the number of samples
//! is bounded by [`MEMORY`]. Layers in front have many positions in each sample and large values, those behind few and small
//! ones; so samples join on the way, as `stages` says, each taken through the layers that are fitted already by itself.
//! Results do not depend on the number of threads: what is summed over samples is summed in their order.

use std::collections::HashMap;
use std::sync::Arc;

use qcc_interp::{Domain, Numbering, SampleState, Threads, UNWATCHED, advance, eval_node, in_order};
use qcc_ir::format::ScaleRule;
use qcc_ir::{Diag, Diags, Graph, NodeId, Opcode, Range, Tensor, Type};
use qcc_num::convert::nearest_f32;

use super::affine::{AffineCorrection, correct};
use super::descent::FEW_BITS;
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

impl LayerSamples {
    /// Between what real numbers its results are clipped, if its result has one scale.
    pub(crate) fn bounds(&self) -> Option<[f32; 2]> {
        let uniform = self.layer.output.quantization.as_ref().filter(|u| u.axis.is_none())?;
        let Range { min, max } = uniform.range();
        Some([min, max])
    }
}

/// New parameters of a layer.
pub(crate) struct FittedLayer {
    pub(crate) layer: QuantLayer,
    pub(crate) weights: WeightCodes,
    pub(crate) bias: Vec<f32>,
    /// Weights and bias of the real network.
    real: (Arc<Tensor>, Vec<f32>),
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
    within(MEMORY, g, cx, gains, round)
}

/// The same with so many bytes for activations.
fn within(memory: usize, g: &Graph, cx: &Context, gains: bool, round: Round) -> Result<FitResult, Diags> {
    let Some(samples) = cx.samples.clone().filter(|s| !s.is_empty()) else { return Ok(FitResult::default()) };
    let numbering = Numbering::of(g);
    let enter = |i: usize| -> Result<Vec<Pair>, Diag> {
        let tensors = samples.get(i)?;
        g.inputs().iter().zip(tensors).map(|(&v, tensor)| Pair::of_input(tensor, g.ty(v))).collect()
    };
    let schedule = numbering.schedule(g, g.outputs());
    let fitted = || -> Result<FitResult, Diag> {
        let mut lockstep = Lockstep { g, numbering: &numbering, round, gains, layers: Vec::new() };
        let order = spread(samples.len());
        let stages = stages(&footprints(g, &numbering), memory, samples.len());
        let ends = stages.iter().skip(1).map(|stage| stage.begin).chain([schedule.steps()]);
        let mut states: Vec<(usize, SampleState<Pair>)> = Vec::new();
        for (stage, end) in stages.iter().zip(ends) {
            let fitted = Fitted::new(g, &numbering, &lockstep.layers);
            let joining = in_order(order[states.len()..stage.samples].iter().copied(), |i| {
                let mut state = [SampleState::enter(&schedule, enter(i)?)];
                advance(&schedule, &mut &fitted, &mut state, 0..stage.begin, UNWATCHED)?;
                let [state] = state;
                Ok::<_, Diag>((i, state))
            })?;
            states.extend(joining);
            states.sort_by_key(|(i, _)| *i);
            let (indices, mut now): (Vec<usize>, Vec<SampleState<Pair>>) = states.into_iter().unzip();
            advance(&schedule, &mut lockstep, &mut now, stage.begin..end, &|done, of| cx.watch(done, of))?;
            states = indices.into_iter().zip(now).collect();
        }
        let ends: Vec<SampleState<Pair>> = states.into_iter().map(|(_, state)| state).collect();
        Ok(FitResult { sqnr: lockstep.sqnr(&ends)?, layers: lockstep.layers })
    };
    Ok(Threads::start(cx.threads)?.run(fitted)?)
}

/// From which step on how many samples take part.
#[derive(Debug, PartialEq)]
struct Stage {
    begin: usize,
    samples: usize,
}

/// As many samples as fit into memory with the bytes that one takes in each step. Others join where at least twice as many fit, or all.
fn stages(footprints: &[usize], memory: usize, most: usize) -> Vec<Stage> {
    let mut from_here = footprints.to_vec();
    for i in (1..from_here.len()).rev() {
        from_here[i - 1] = from_here[i - 1].max(from_here[i]);
    }
    let fitting = |bytes: usize| (memory / bytes.max(1)).max(LEAST_SAMPLES).min(most);
    let mut stages = vec![Stage { begin: 0, samples: fitting(from_here.first().copied().unwrap_or(0)) }];
    for (begin, &bytes) in from_here.iter().enumerate() {
        let (now, samples) = (stages[stages.len() - 1].samples, fitting(bytes));
        if samples > now && (samples >= 2 * now || samples == most) {
            stages.push(Stage { begin, samples });
        }
    }
    stages
}

/// The numbers below `count` in an order of which every beginning is spread evenly (van der Corput's sequence).
fn spread(count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    let bits = usize::BITS - count.leading_zeros();
    order.sort_by_key(|&i| i.reverse_bits() >> (usize::BITS - bits.max(1)));
    order
}

/// Bytes that one sample takes where it takes most, its outputs counted as long as something reads them.
pub(crate) fn footprint(g: &Graph, numbering: &Numbering) -> usize {
    footprints(g, numbering).into_iter().max().unwrap_or(0)
}

/// The same in each step.
fn footprints(g: &Graph, numbering: &Numbering) -> Vec<usize> {
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
    schedule.peaks(|slot| sizes[slot], workspace)
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

/// Layers that were fitted before, for samples that join: what each computes with its new weights.
struct Fitted<'a> {
    g: &'a Graph,
    numbering: &'a Numbering,
    layers: HashMap<NodeId, (&'a FittedLayer, Tensor)>,
}

impl<'a> Fitted<'a> {
    fn new(g: &'a Graph, numbering: &'a Numbering, layers: &'a [FittedLayer]) -> Fitted<'a> {
        let layers = layers.iter().map(|fitted| (fitted.layer.node, (fitted, fitted.weights.real()))).collect();
        Fitted { g, numbering, layers }
    }
}

impl Domain for &Fitted<'_> {
    type Value = Pair;

    fn step(&mut self, step: usize, samples: &[SampleState<Pair>]) -> Result<Vec<Pair>, Diag> {
        let Some((fitted, weights)) = self.layers.get(&self.numbering.node(step)) else {
            let node = PairedNode::new(self.g, self.numbering, step)?;
            return in_order(samples, |sample| node.evaluate(sample));
        };
        let QuantLayer { node, input, .. } = &fitted.layer;
        let (x, ty) = (self.g.ty(input.value), self.g.ty(self.g.result(*node)));
        let (x_real, y_real) = (real(x), real(ty));
        in_order(samples, |sample| {
            let pair = sample.get(self.numbering.slot(input.value).unwrap_or(usize::MAX))?;
            let read = cast(Opcode::DCast, &pair.quantized, x, &x_real)?;
            let target = apply(self.g, *node, &pair.real, &fitted.real.0, &fitted.real.1, &y_real)?;
            let found = apply(self.g, *node, &read, weights, &fitted.bias, &y_real)?;
            Ok(Pair { real: target, quantized: cast(Opcode::QCast, &found, &y_real, ty)? })
        })
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
        let rounded = chosen.real();
        let found = in_order(&layer.inputs, |input| apply(g, node, input, &rounded, &bias, &y_real))?;
        let plane = if g.op(node) == Opcode::Conv2d { plane(&ty.dims) } else { 1 };
        // With weights of 8 bits hardly a result comes to lie on the other side of a bound.
        let bounds = layer.bounds().filter(|_| layer.rounded.uniform.format.bits() < FEW_BITS);
        let mut corrections = AffineCorrection::of_channels(&layer.targets, &found, channels, plane, bounds);
        // A gain is no power of two.
        if !gains || layer.layer.weights_format.scale_rule() == ScaleRule::PowerOfTwo {
            corrections.iter_mut().for_each(AffineCorrection::without_gain);
        }
        let results = in_order(found.into_iter().zip(layer.targets), |(mut found, real)| {
            correct(&mut found, &corrections, plane);
            Ok::<_, Diag>(Pair { real, quantized: cast(Opcode::QCast, &found, &y_real, ty)? })
        })?;
        let weights = chosen.scaled(corrections.iter().map(|c| c.gain));
        let moved = |(b, c): (&f32, &AffineCorrection)| nearest_f32(f64::from(*b) * c.gain + c.shift);
        let fitted = bias.iter().zip(&corrections).map(moved).collect();
        let square = corrections.iter().map(|c| c.moved * c.moved).sum::<f64>() / channels.max(1) as f64;
        let real = (layer.weights, bias);
        Ok((results, FittedLayer { layer: layer.layer, weights, bias: fitted, real, shift: square.sqrt() }))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_beginning_of_the_order_is_spread_evenly() {
        for count in [0, 1, 2, 7, 8, 200, 512] {
            let order = spread(count);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..count).collect::<Vec<_>>());
            for taken in 1..=count {
                let mut some = order[..taken].to_vec();
                some.sort_unstable();
                let gaps = some.windows(2).map(|pair| pair[1] - pair[0]);
                let widest = gaps.chain([some[0] + 1, count - some[taken - 1]]).max().unwrap();
                assert!(widest <= 4 * count.div_ceil(taken), "{taken} of {count}: {widest}");
            }
        }
    }

    #[test]
    fn samples_join_where_they_fit() {
        let stage = |begin, samples| Stage { begin, samples };
        let bytes = [100, 10, 50, 11, 1];
        assert_eq!(stages(&bytes, 1000, 200), [stage(0, 10), stage(1, 20), stage(3, 90), stage(4, 200)]);
        assert_eq!(stages(&bytes, 1000, 9), [stage(0, 9)]);
        assert_eq!(stages(&[2000, 2000], 1000, 200), [stage(0, LEAST_SAMPLES)]);
        assert_eq!(stages(&[], 1000, 3), [stage(0, 3)]);
    }

    /// Three layers, of which the last has the smallest values.
    const LAYERS: &str = "graph @g(%x: tensor<1x1x4x4x!quant.uniform<u8:f32, 0.02>>) -> (tensor<1x2x1x1x!quant.uniform<u8:f32, 0.02:100>>) {
  const @v : tensor<2x1x3x3xf32> = dense<[0.31, -0.2, 0.1, 0.05, 0.4, -0.3, 0.22, 0.17, -0.6, 0.5, 0.1, -0.1, 0.2, 0.33, 0.2, -0.4, 0.1, 0.3]>
  const @w : tensor<2x2x4x4xf32> = dense<WEIGHTS>
  const @u : tensor<2x2x1x1xf32> = dense<[0.7, -0.3, 0.45, 0.6]>
  const @b : tensor<2xf32> = dense<[0.3, -0.2]>
  %h = nn.conv2d(%x, @v, @b) {pads = [1, 1, 1, 1]} : tensor<1x2x4x4x!quant.uniform<u8:f32, 0.01:20>>
  %y = nn.conv2d(%h, @w, @b) : tensor<1x2x1x1x!quant.uniform<u8:f32, 0.05:100>>
  %z = nn.conv2d(%y, @u, @b) : tensor<1x2x1x1x!quant.uniform<u8:f32, 0.02:100>>
  return %z
}
";

    #[test]
    fn a_sample_that_joins_is_as_one_that_was_there() {
        let weights: Vec<String> = (0..64).map(|i| format!("{:?}", (i * 37 % 64) as f32 / 64.0 - 0.5)).collect();
        let text = LAYERS.replace("WEIGHTS", &format!("[{}]", weights.join(", ")));
        let g = qcc_ir::parse(&text, &qcc_ir::parse::no_files).expect("a graph");
        // All alike: how many there are does not change what a layer is fitted to.
        let x = Tensor::f32(&[1, 1, 4, 4], (0..16).map(|i| (i * 7 % 16) as f32 * 0.3).collect());
        let samples: Vec<Vec<Tensor>> = vec![vec![x]; 64];
        let cx = Context { samples: Some(Arc::new(samples)), ..Context::default() };
        let footprints = footprints(&g, &Numbering::of(&g));
        let tight = 20 * footprints[0];
        assert_eq!(stages(&footprints, tight, 64), [Stage { begin: 0, samples: 20 }, Stage { begin: 2, samples: 64 }]);
        let round = |layer: &LayerSamples| Ok(layer.rounded.clone());
        let fit = |memory| within(memory, &g, &cx, false, &round).expect("it fits");
        let (joined, whole) = (fit(tight), fit(MEMORY));
        assert!((joined.sqnr - whole.sqnr).abs() < 1e-9 && joined.sqnr > 10.0, "{} {}", joined.sqnr, whole.sqnr);
        for (a, b) in joined.layers.iter().zip(&whole.layers) {
            assert!(a.weights.codes == b.weights.codes);
            assert!(a.bias.iter().zip(&b.bias).all(|(a, b)| (a - b).abs() < 1e-5), "{:?} {:?}", a.bias, b.bias);
            assert!(a.bias != [0.3, -0.2], "the bias is corrected");
        }
    }
}
