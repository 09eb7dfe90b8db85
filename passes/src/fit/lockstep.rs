//! A network whose activations have scales, evaluated layer by layer in two forms at once, as it is and on real numbers:
//! what `round-weights` and `correct-bias` measure with.
//!
//! All samples are taken through one node before the next, so that a layer is fitted to what the quantized network in front
//! of it, itself already fitted, really computes (the sequential scheme of Nagel et al., ICML 2020, section 3.3). That keeps
//! the live values of every sample in memory: the number of samples is bounded by [`MEMORY`]. Results do not depend on the
//! number of threads: what is summed over samples is summed in their order.

use std::borrow::Cow;
use std::collections::HashMap;

use qcc_interp::eval_node;
use qcc_ir::diag::Code;
use qcc_ir::{Attrs, Def, Diag, Diags, Elem, Graph, NodeId, Opcode, Tensor, Type, ValueId, attr};
use rayon::prelude::*;

use crate::Context;
use crate::quant::insert_qdq::Weights;
use crate::quant::quantize;
use crate::rewrite::floats;

/// Bytes of activations that are alive at a time.
const MEMORY: usize = 512 << 20;

/// Fewest samples, whatever they take.
const LEAST_SAMPLES: usize = 8;

/// Places that count as agreeing exactly beside those that are seen, when a gain is estimated.
const AGREEING: f64 = 32.0;

/// Greatest gain, and the inverse of the least.
const MOST_GAIN: f64 = 1.25;

/// A value in both forms.
#[derive(Clone)]
struct Pair {
    real: Tensor,
    quantized: Tensor,
}

/// A convolution or linear layer with constant weights, and what goes in and should come out.
pub(crate) struct Layer<'a> {
    pub(crate) graph: &'a Graph,
    pub(crate) node: NodeId,
    /// The float weights; those of 16 bits are what their integers stand for.
    pub(crate) weights: Cow<'a, Tensor>,
    /// What the quantized network gives the layer, as real numbers: one tensor a sample.
    pub(crate) inputs: Vec<Tensor>,
    /// What the layer computes from the real network's values: one tensor a sample.
    pub(crate) targets: Vec<Tensor>,
    /// The weights as they would be rounded.
    pub(crate) rounded: Weights,
}

/// New parameters of a layer.
pub(crate) struct Fitted {
    pub(crate) node: NodeId,
    pub(crate) weights: Weights,
    pub(crate) bias: Vec<f32>,
    /// Root mean square of what was added to the bias.
    pub(crate) shift: f64,
}

/// The layers in order, and how well the outputs come out.
#[derive(Default)]
pub(crate) struct Walked {
    pub(crate) fitted: Vec<Fitted>,
    /// Signal-to-noise ratio of the outputs, as if they were one, in decibels.
    pub(crate) sqnr: f64,
}

/// Takes the samples through the graph. `round` chooses the integers that stand for a layer's weights; then its bias is set so
/// that the mean of each channel, before it is quantized, is that of the real network. With `gains`, the scales of the weights
/// are set too, so that the square error of each channel is least.
pub(crate) fn run(
    g: &Graph,
    cx: &Context,
    gains: bool,
    round: &(dyn Fn(&Layer) -> Result<Weights, Diag> + Sync),
) -> Result<Walked, Diags> {
    let Some(samples) = cx.samples.clone().filter(|s| !s.is_empty()) else { return Ok(Walked::default()) };
    let usage = |e: rayon::ThreadPoolBuildError| Diag::new(Code::PIPELINE, format!("cannot start threads: {e}"));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(cx.threads).build().map_err(usage)?;
    let count =
        (MEMORY / footprint(g).max(1)).clamp(LEAST_SAMPLES, samples.len().max(LEAST_SAMPLES)).min(samples.len());
    let chosen = (0..count).map(|i| i * samples.len() / count);
    let inputs: Vec<Vec<Tensor>> = chosen.map(|i| samples.get(i)).collect::<Result<_, Diag>>()?;
    pool.install(|| Walk { g, round, gains, last: last_uses(g), fitted: Vec::new() }.run(inputs, cx))
        .map_err(Diags::from)
}

/// The type of a value in the real network.
fn real(ty: &Type) -> Type {
    if ty.uniform().is_some() { ty.with_elem(Elem::F32) } else { ty.clone() }
}

/// The node after which nothing needs a value.
pub(crate) fn last_uses(g: &Graph) -> HashMap<NodeId, Vec<ValueId>> {
    let mut last: HashMap<ValueId, NodeId> = HashMap::new();
    for n in g.order() {
        last.insert(g.result(n), n);
        last.extend(g.operands(n).into_iter().map(|v| (v, n)));
    }
    let mut by_node: HashMap<NodeId, Vec<ValueId>> = HashMap::new();
    last.into_iter().for_each(|(v, n)| by_node.entry(n).or_default().push(v));
    by_node
}

/// Bytes that one sample takes where it takes most.
pub(crate) fn footprint(g: &Graph) -> usize {
    let last = last_uses(g);
    let bytes = |v: ValueId| if g.constant(v).is_some() { 0 } else { 5 * g.ty(v).elements() };
    let mut now: usize = g.inputs().iter().map(|&v| bytes(v)).sum();
    let mut most = now;
    for n in g.order() {
        let (x, y) = (g.operands(n).first().map_or(0, |&x| bytes(x)), bytes(g.result(n)));
        now += y;
        // In a layer, its input as real numbers and its result before quantization.
        most = most.max(now + x + y);
        now = now.saturating_sub(last.get(&n).into_iter().flatten().map(|&v| bytes(v)).sum());
    }
    most
}

struct Walk<'a> {
    g: &'a Graph,
    round: &'a (dyn Fn(&Layer) -> Result<Weights, Diag> + Sync),
    gains: bool,
    last: HashMap<NodeId, Vec<ValueId>>,
    fitted: Vec<Fitted>,
}

/// Live values of one sample.
type World = HashMap<ValueId, Pair>;

impl Walk<'_> {
    fn run(mut self, inputs: Vec<Vec<Tensor>>, cx: &Context) -> Result<Walked, Diag> {
        let mut worlds: Vec<World> = inputs.into_par_iter().map(|t| self.enter(t)).collect::<Result<_, Diag>>()?;
        let (order, outputs) = (self.g.order(), self.g.outputs());
        for (i, &n) in order.iter().enumerate() {
            match self.layer(n, &worlds)? {
                Some((results, fitted)) => {
                    for (world, pair) in worlds.iter_mut().zip(results) {
                        world.insert(self.g.result(n), pair);
                    }
                    self.fitted.push(fitted);
                }
                None => worlds.par_iter_mut().try_for_each(|world| self.plain(n, world))?,
            }
            for v in self.last.get(&n).into_iter().flatten().filter(|v| !outputs.contains(v)) {
                worlds.iter_mut().for_each(|world| drop(world.remove(v)));
            }
            cx.report(i + 1, order.len());
        }
        let powers: Vec<[f64; 2]> = worlds.par_iter().map(|world| self.powers(world)).collect::<Result<_, Diag>>()?;
        let [signal, noise] = powers.iter().fold([0.0, 0.0], |[s, n], p| [s + p[0], n + p[1]]);
        let sqnr = if noise > 0.0 { 10.0 * (signal / noise).log10() } else { f64::INFINITY };
        Ok(Walked { fitted: self.fitted, sqnr })
    }

    /// Sums of the squares of the outputs of a sample, and of what they are off by.
    fn powers(&self, world: &World) -> Result<[f64; 2], Diag> {
        let mut sums = [0.0; 2];
        for v in self.g.outputs() {
            let (ty, Some(pair)) = (self.g.ty(*v), world.get(v)) else { continue };
            let found = match ty.uniform() {
                Some(_) => cast(Opcode::DCast, &pair.quantized, ty, &real(ty))?,
                None => pair.quantized.clone(),
            };
            let (Some(y), Some(x)) = (pair.real.as_f32(), found.as_f32()) else { continue };
            for (x, y) in x.iter().zip(y).map(|(&x, &y)| (f64::from(x), f64::from(y))) {
                sums = [sums[0] + y * y, sums[1] + (x - y) * (x - y)];
            }
        }
        Ok(sums)
    }

    fn enter(&self, tensors: Vec<Tensor>) -> Result<World, Diag> {
        let one = |(&v, real): (&ValueId, Tensor)| {
            let ty = self.g.ty(v);
            let quantized = match ty.uniform() {
                Some(_) => cast(Opcode::QCast, &real, &ty.with_elem(Elem::F32), ty)?,
                None => real.clone(),
            };
            Ok((v, Pair { real, quantized }))
        };
        self.g.inputs().iter().zip(tensors).map(one).collect()
    }

    /// Any operation, in both forms.
    fn plain(&self, n: NodeId, world: &mut World) -> Result<(), Diag> {
        let (g, y) = (self.g, self.g.result(n));
        let node = g.node(n);
        let at = |d: Diag| d.at(g.describe(n));
        let (mut reals, mut quantized) = (Vec::new(), Vec::new());
        for v in g.operands(n) {
            match g.def(v) {
                Def::Const(t) if g.ty(v).uniform().is_some() => {
                    reals.push(cast(Opcode::DCast, &t, g.ty(v), &real(g.ty(v)))?);
                    quantized.push(t.as_ref().clone());
                }
                Def::Const(t) => {
                    reals.push(t.as_ref().clone());
                    quantized.push(t.as_ref().clone());
                }
                Def::Input(_) | Def::Node(..) => {
                    let pair = world.get(&v).ok_or_else(|| missing(g, v))?;
                    reals.push(pair.real.clone());
                    quantized.push(pair.quantized.clone());
                }
            }
        }
        let types: Vec<Type> = g.operands(n).into_iter().map(|v| g.ty(v).clone()).collect();
        let real_types: Vec<Type> = types.iter().map(real).collect();
        let operands: Vec<(&Tensor, &Type)> = quantized.iter().zip(&types).collect();
        // What pads is a real number until casts are explicit; on quantized types the interpreter wants its code.
        let attrs = match (node.op, g.ty(y).uniform()) {
            (Opcode::Pad, Some(u)) => {
                node.attrs.clone().with(attr::VALUE, quantize::code(node.attrs.get(attr::VALUE), u) as f32)
            }
            _ => node.attrs.clone(),
        };
        let result = eval_node(node.op, &attrs, &operands, g.ty(y)).map_err(at)?;
        let real_result = if node.op == Opcode::SCast {
            reals.swap_remove(0)
        } else {
            let operands: Vec<(&Tensor, &Type)> = reals.iter().zip(&real_types).collect();
            eval_node(node.op, &node.attrs, &operands, &real(g.ty(y))).map_err(at)?
        };
        world.insert(y, Pair { real: real_result, quantized: result });
        Ok(())
    }

    /// A layer that can be fitted: its results and its new parameters.
    fn layer(&self, n: NodeId, worlds: &[World]) -> Result<Option<(Vec<Pair>, Fitted)>, Diag> {
        let (g, y) = (self.g, self.g.result(n));
        let operands = g.operands(n);
        let is_layer = matches!(g.op(n), Opcode::Conv2d | Opcode::Linear) && g.ty(y).uniform().is_some();
        let (Some(&w), Some(uniform)) = (operands.get(1), g.ty(operands[0]).uniform()) else { return Ok(None) };
        let weights = match (floats(g, w), g.constant(w), g.ty(w).uniform()) {
            (Some((tensor, _)), ..) => Cow::Borrowed(tensor),
            (None, Some(codes), Some(u)) if u.axis == Some(0) => {
                Cow::Owned(Weights { codes: codes.as_ref().clone(), uniform: u.clone() }.real())
            }
            (None, ..) => return Ok(None),
        };
        let bias = operands.get(2).map(|&b| floats(g, b).map(|(_, b)| b.to_vec()));
        let channels = weights.dims.first().copied().unwrap_or(0);
        let Some(bias) = bias.unwrap_or_else(|| Some(vec![0.0; channels])).filter(|_| is_layer) else {
            return Ok(None);
        };
        let at = |d: Diag| d.at(g.describe(n));
        let result = g.ty(y).uniform().cloned();
        let rounded = match (g.constant(w), g.ty(w).uniform()) {
            (Some(codes), Some(u)) => Weights { codes: codes.as_ref().clone(), uniform: u.clone() },
            _ => match Weights::round(g, n, Some(uniform), result.as_deref()) {
                Ok(rounded) => rounded,
                Err(_) => return Ok(None),
            },
        };
        let (x, x_real, y_real) = (g.ty(operands[0]), real(g.ty(operands[0])), real(g.ty(y)));
        let value = |world: &World| world.get(&operands[0]).cloned().ok_or_else(|| missing(g, operands[0]));
        let pairs: Vec<(Tensor, Tensor)> = worlds
            .par_iter()
            .map(|world| {
                let pair = value(world)?;
                let input = cast(Opcode::DCast, &pair.quantized, x, &x_real)?;
                Ok((input, apply(g, n, &pair.real, &weights, &bias, &y_real)?))
            })
            .collect::<Result<_, Diag>>()
            .map_err(at)?;
        let (inputs, targets) = pairs.into_iter().unzip();
        let layer = Layer { graph: g, node: n, weights, inputs, targets, rounded };
        let chosen = (self.round)(&layer).map_err(at)?;
        let real_weights = chosen.real();
        let mut found: Vec<Tensor> = layer
            .inputs
            .par_iter()
            .map(|input| apply(g, n, input, &real_weights, &bias, &y_real))
            .collect::<Result<_, Diag>>()
            .map_err(at)?;
        let plane = if g.op(n) == Opcode::Conv2d { plane(&g.ty(y).dims) } else { 1 };
        let mut lines = lines(&layer.targets, &found, channels, plane);
        if !self.gains {
            lines.iter_mut().for_each(Line::without_gain);
        }
        found.par_iter_mut().for_each(|t| apply_lines(t, &lines, plane));
        let chosen = chosen.scaled(lines.iter().map(|l| l.gain));
        let results = found
            .into_par_iter()
            .zip(layer.targets)
            .map(|(found, real)| Ok(Pair { real, quantized: cast(Opcode::QCast, &found, &y_real, g.ty(y))? }))
            .collect::<Result<_, Diag>>()
            .map_err(at)?;
        let bias = bias.iter().zip(&lines).map(|(b, l)| (f64::from(*b) * l.gain + l.shift) as f32).collect();
        let square = lines.iter().map(|l| l.moved * l.moved).sum::<f64>() / channels.max(1) as f64;
        Ok(Some((results, Fitted { node: n, weights: chosen, bias, shift: square.sqrt() })))
    }
}

fn missing(g: &Graph, v: ValueId) -> Diag {
    Diag::new(Code::VERIFY, format!("%{} is used before it is computed", g.name_of(v)))
}

fn cast(op: Opcode, x: &Tensor, from: &Type, to: &Type) -> Result<Tensor, Diag> {
    eval_node(op, &Attrs::new(op), &[(x, from)], to)
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

/// How the results of a channel are corrected: `gain * result + shift`.
struct Line {
    gain: f64,
    shift: f64,
    /// What the mean of the channel moves by.
    moved: f64,
}

impl Line {
    /// What moves the mean to the same place without a gain.
    fn without_gain(&mut self) {
        (self.gain, self.shift) = (1.0, self.moved);
    }
}

/// The line for each channel that brings `found` nearest to `targets`: noise in front of a layer makes its results smaller
/// than they should be, and in deep networks these losses multiply.
/// Of each channel `plane` elements follow one another.
fn lines(targets: &[Tensor], found: &[Tensor], channels: usize, plane: usize) -> Vec<Line> {
    // Sums of x, y, x^2 and x y, x being what was found.
    let one = |(a, b): (&Tensor, &Tensor)| {
        let mut sums = vec![[0.0f64; 4]; channels];
        let (Some(y), Some(x)) = (a.as_f32(), b.as_f32()) else { return sums };
        for (i, (x, y)) in x.chunks(plane).zip(y.chunks(plane)).enumerate() {
            let sums = &mut sums[i % channels];
            for (x, y) in x.iter().zip(y).map(|(&x, &y)| (f64::from(x), f64::from(y))) {
                *sums = [sums[0] + x, sums[1] + y, sums[2] + x * x, sums[3] + x * y];
            }
        }
        sums
    };
    let sums: Vec<Vec<[f64; 4]>> = targets.par_iter().zip(found).map(one).collect();
    let elements: usize = targets.iter().map(|t| t.data.len()).sum();
    let count = (elements / channels.max(1)).max(1) as f64;
    let mean = |c: usize, i: usize| sums.iter().map(|s| s[c][i]).sum::<f64>() / count;
    let line = |c: usize| {
        let (x, y) = (mean(c, 0), mean(c, 1));
        let (variance, covariance) = (mean(c, 2) - x * x, mean(c, 3) - x * y);
        // As if a few places more agreed.
        let ratio = if variance > 0.0 { covariance / variance } else { 1.0 };
        let gain = (ratio * count + AGREEING) / (count + AGREEING);
        let gain = if gain.is_finite() { gain.clamp(1.0 / MOST_GAIN, MOST_GAIN) } else { 1.0 };
        Line { gain, shift: y - gain * x, moved: y - x }
    };
    (0..channels).map(line).collect()
}

fn apply_lines(t: &mut Tensor, lines: &[Line], plane: usize) {
    let qcc_ir::Data::F32(data) = &mut t.data else { return };
    for (i, part) in data.chunks_mut(plane).enumerate() {
        let line = &lines[i % lines.len()];
        let (gain, shift) = (line.gain as f32, line.shift as f32);
        part.iter_mut().for_each(|x| *x = *x * gain + shift);
    }
}
