//! Chooses the integers of the weights so that a layer's results, not its weights, are as near as can be, measured on the
//! samples; then its scales and bias, by a line through what each channel gives and should give.
//!
//! ```text
//! %y = nn.conv2d(%x, @w, @b)
//! // becomes
//! %y = nn.conv2d(%x, @w.fit, @b.fit)     // w.fit: !quant.uniform<i8<-127:127>:f32:0, {..}>
//! ```
//!
//! What is lowered, by coordinate descent over the integers and, where they have fewer than 7 bits, over the scales, is the square error of the
//! results: equations (1) and (2) of `descent`. With fewer than 7 bits they are compared with those of the real network from its own inputs; with more,
//! with those of the real weights from the same inputs. That is the layer-wise objective of AdaRound (Nagel et al., ICML
//! 2020, equation 21), without its relaxation (COMQ, arXiv 2403.07134, descends likewise).
//! The statistics are those of positions spread evenly over the samples. Where there are fewer positions than weights in a channel, what
//! fits them all fits others worse: rounding to the nearest stays, but for weights of few bits, which are damped the more.
//!
//! With integers `q` chosen, results `y'` of the quantized channel and `y` of the real one, the scale `s` and the bias `b` become
//!
//! ```text
//! g s, g b + mean(y) - g mean(y'),      g = cov(y, y') / var(y')                                         (3)
//! ```
//!
//! A line that is best for a layer is not always best for the network. So the network is also fitted with `g = 1`, and that stays unless the
//! gains raise the signal-to-noise ratio of the outputs by `gains` decibels.

use std::sync::Arc;

use qcc_interp::eval_node;
use qcc_ir::format::ScaleRule;
use qcc_ir::{Attrs, Data, Diag, Diags, Edit, Opcode, Tensor, Type, Uniform};
use qcc_num::convert::nearest_f32;
use rayon::prelude::*;

use crate::fit::correct_bias::fitted_bias;
use crate::fit::descent::{Channel, FEW_BITS, Rounded};
use crate::fit::lockstep::{self, FittedLayer, LayerSamples};
use crate::layer::{ReceptiveField, WeightCodes, table};
use crate::options::{OptionInfo, OptionKind};
use crate::{Context, Options, Pass};

/// Options of `round-weights`.
pub const OPTIONS: &[OptionInfo] = &[
    OptionInfo {
        name: "damp",
        default: "1",
        doc: "d of equation (1), as a share of the mean of the diagonal of H",
        kind: OptionKind::Number(1e-6, 1e3),
    },
    OptionInfo {
        name: "gains",
        default: "0.5",
        doc: "decibels at the outputs that the gains of equation (3) must bring on the samples to be kept",
        kind: OptionKind::Number(-200.0, 200.0),
    },
];

/// Positions that a layer's statistics are taken from, for each weight of a channel and at least.
const POSITIONS: (usize, usize) = (3, 4096);

/// Most weights of a channel: `H` of more would take more than 256 MiB.
const MOST_WEIGHTS: usize = 8192;

/// The same for weights of few bits, which have more to gain.
const POSITIONS_OF_FEW_BITS: (usize, usize) = (8, 16384);

/// Most elements of the inputs at these positions, 256 MiB.
const MOST_ELEMENTS: usize = 1 << 26;

/// Least share of the damping that weights of few bits have; with few positions for each weight it is their ratio.
const LEAST_DAMP: f64 = 0.02;

/// Positions of one sample say no more than so many that have nothing to do with one another.
const ALIKE: usize = 16;

/// The pass `round-weights`.
pub struct RoundWeights {
    damp: f64,
    gains: f64,
}

impl RoundWeights {
    /// The pass with its options.
    pub fn new(options: &Options) -> RoundWeights {
        RoundWeights { damp: options.number("damp").unwrap_or(1.0), gains: options.number("gains").unwrap_or(0.5) }
    }
}

impl Pass for RoundWeights {
    fn run(&self, edit: &mut Edit, cx: &mut Context) -> Result<(), Diags> {
        if cx.samples.as_ref().is_none_or(|s| s.is_empty()) {
            edit.remark("nothing rounded: there are no samples");
            return Ok(());
        }
        let fit = |gains: bool| lockstep::run(edit.graph(), cx, gains, &|layer| self.round(layer));
        let (plain, gained) = (fit(false)?, fit(true)?);
        edit.remark(format!("{:.2} dB with gains, {:.2} dB without", gained.sqnr, plain.sqnr));
        // Not a number where neither has any noise, as where no output is real: then nothing is gained.
        let chosen = if gained.sqnr - plain.sqnr >= self.gains { gained } else { plain };
        for layer in chosen.layers {
            let g = edit.graph();
            let FittedLayer { layer, weights, bias, .. } = layer;
            let (label, bias) = (g.name_of(layer.output.value).to_string(), fitted_bias(g, &layer, bias));
            if let Some(mut change) = edit.begin(format!("round-weights: %{label}")) {
                layer.write(&mut change, Some(weights.named(layer.weights_name(".fit"))), Some(bias));
            }
        }
        edit.remove_dead();
        Ok(())
    }
}

impl RoundWeights {
    fn round(&self, layer: &LayerSamples) -> Result<WeightCodes, Diag> {
        let tensor = layer.weights.as_ref();
        let w = tensor.as_f32().unwrap_or_default();
        let outputs = layer.rounded.uniform.scales.len();
        let depth = w.len() / outputs.max(1);
        let groups = layer.layer.groups;
        // Weights of 16 bits are rounded to the nearest.
        if depth == 0 || !outputs.is_multiple_of(groups) || layer.rounded.codes.as_i8().is_none() {
            return Ok(layer.rounded.clone());
        }
        let per_group = outputs / groups;
        let few = layer.rounded.uniform.format.bits() < FEW_BITS;
        let positions = Positions::new(layer, depth, if few { POSITIONS_OF_FEW_BITS } else { POSITIONS });
        if positions.count() < depth && !few || positions.count() == 0 || depth > MOST_WEIGHTS {
            return Ok(layer.rounded.clone());
        }
        let uniform = match layer.layer.weights_format.scale_rule() {
            ScaleRule::Fitted => table_of_results(layer, w, depth, &positions),
            _ => layer.rounded.uniform.as_ref().clone(),
        };
        let (format, scales) = (&uniform.format, &uniform.scales);
        // Powers of two stay such. A scale that the bias or the requantization asks for covers more than the weights.
        let is_given = layer.layer.weights_format.scale_rule() == ScaleRule::PowerOfTwo;
        let chooses = |o: usize, row: &[f32]| {
            let greatest = row.iter().fold(0.0f32, |m, w| m.max(w.abs()));
            few && !is_given && scales[o] <= format.symmetric_scale(f64::from(greatest), 0.0) * 1.001
        };
        let one = |group: usize| -> Result<Vec<Rounded>, Diag> {
            let mut x = positions.gather(layer, group, depth);
            centre(&mut x, positions.count());
            let h = product(&x, &x, positions.count())?;
            let rows = group * per_group..(group + 1) * per_group;
            let g = if few {
                let mut t = positions.targets(layer, rows.clone());
                centre(&mut t, positions.count());
                product(&t, &x, positions.count())?
            } else {
                product(&w[rows.start * depth..rows.end * depth], &h, depth)?
            };
            let mean = (0..depth).map(|k| f64::from(h[k * depth + k])).sum::<f64>() / depth as f64;
            let apart = positions.count().min(layer.targets.len() * ALIKE);
            let share = if few { LEAST_DAMP.max(depth as f64 / apart as f64) } else { 1.0 };
            let damp = nearest_f32(self.damp * share * mean);
            let channel = |(o, g): (usize, &[f32])| {
                let w = &w[o * depth..(o + 1) * depth];
                let channel = Channel { h: &h, g, w, damp, format };
                if chooses(o, w) { channel.round_and_scale(scales[o]) } else { channel.round(scales[o]) }
            };
            Ok(rows.into_par_iter().zip(g.par_chunks(depth)).map(channel).collect())
        };
        let parts: Vec<Vec<Rounded>> = (0..groups).into_par_iter().map(one).collect::<Result<_, Diag>>()?;
        let scales = parts.iter().flatten().map(|channel| channel.scale).collect();
        let codes = parts.iter().flatten().flat_map(|channel| channel.codes.iter().copied());
        let codes = Tensor::new(&tensor.dims, Data::integers(format.storage(), codes));
        let uniform = Uniform { scales, ..uniform.clone() };
        Ok(WeightCodes { codes, uniform: Arc::new(uniform) })
    }
}

/// The table of a layer whose weights count by what they are multiplied with: the diagonal of `H`.
fn table_of_results(layer: &LayerSamples, w: &[f32], depth: usize, positions: &Positions) -> Uniform {
    let rounded = layer.rounded.uniform.as_ref();
    let groups = layer.layer.groups;
    let powers = |group: usize| -> Vec<f64> {
        let mut x = positions.gather(layer, group, depth);
        centre(&mut x, positions.count());
        x.par_chunks(positions.count()).map(|row| row.iter().map(|&x| f64::from(x) * f64::from(x)).sum()).collect()
    };
    let powers: Vec<Vec<f64>> = (0..groups).map(powers).collect();
    let per_group = rounded.scales.len() / groups;
    let importance = |c: usize, k: usize| powers[c / per_group][k] * f64::from(rounded.scales[c]).powi(2);
    let (format, scales) = table::fit(w, &rounded.scales, &rounded.format, importance);
    Uniform { format, scales, ..rounded.clone() }
}

/// Subtracts the mean of each row of `count` elements.
fn centre(rows: &mut [f32], count: usize) {
    rows.par_chunks_mut(count.max(1)).for_each(|row| {
        let mean = nearest_f32(row.iter().map(|&x| f64::from(x)).sum::<f64>() / row.len() as f64);
        row.iter_mut().for_each(|x| *x -= mean);
    });
}

/// `a b^T` of matrices whose rows have `count` elements, in parts of rows of `a`.
fn product(a: &[f32], b: &[f32], count: usize) -> Result<Vec<f32>, Diag> {
    let rows = b.len() / count.max(1);
    let b = Tensor::f32(&[rows, count], b.to_vec());
    let b_type = b.plain_type();
    let part = |a: &[f32]| {
        let a = Tensor::f32(&[a.len() / count, count], a.to_vec());
        let result = Type::f32(&[a.dims[0], rows]);
        let product =
            eval_node(Opcode::Linear, &Attrs::new(Opcode::Linear), &[(&a, &a.plain_type()), (&b, &b_type)], &result)?;
        Ok(product.as_f32().unwrap_or_default().to_vec())
    };
    const ROWS: usize = 256;
    let parts: Vec<Vec<f32>> = a.par_chunks(ROWS * count.max(1)).map(part).collect::<Result<_, Diag>>()?;
    Ok(parts.concat())
}

/// Positions of a layer's result: sample, and index among the positions of its channels.
struct Positions {
    at: Vec<(usize, usize)>,
    field: Option<ReceptiveField>,
}

impl Positions {
    /// So many for each weight of a channel, and at least so many, if there are as many.
    fn new(layer: &LayerSamples, depth: usize, (for_each, least): (usize, usize)) -> Positions {
        let per_sample = positions(layer);
        let all = per_sample * layer.targets.len();
        let count = (for_each * depth).max(least).min(MOST_ELEMENTS / depth.max(1)).min(all);
        let at = (0..count).map(|i| i * all / count).map(|i| (i / per_sample, i % per_sample));
        Positions { at: at.collect(), field: ReceptiveField::of(&layer.layer) }
    }

    fn count(&self) -> usize {
        self.at.len()
    }

    /// What these channels should give, `[channels, positions]`.
    fn targets(&self, layer: &LayerSamples, channels: std::ops::Range<usize>) -> Vec<f32> {
        let (count, all) = (self.count(), layer.layer.outputs());
        let plane = layer.layer.output.dims.iter().skip(2).product::<usize>();
        let mut t = vec![0.0f32; channels.len() * count];
        t.par_chunks_mut(count.max(1)).zip(channels).for_each(|(row, c)| {
            for (value, &(sample, position)) in row.iter_mut().zip(&self.at) {
                let at = match self.field {
                    Some(_) => (position / plane * all + c) * plane + position % plane,
                    None => position * all + c,
                };
                *value = layer.targets[sample].as_f32().map_or(0.0, |t| t[at]);
            }
        });
        t
    }

    /// What the weights of a group are multiplied with, `[depth, positions]`.
    fn gather(&self, layer: &LayerSamples, group: usize, depth: usize) -> Vec<f32> {
        let count = self.count();
        let mut x = vec![0.0f32; depth * count];
        x.par_chunks_mut(count.max(1)).enumerate().for_each(|(k, row)| {
            for (value, &(sample, position)) in row.iter_mut().zip(&self.at) {
                *value = element(self.field.as_ref(), &layer.inputs[sample], group, k, position);
            }
        });
        x
    }
}

/// Positions of a layer's result in one sample: of the whole batch, and of all positions of an image.
fn positions(layer: &LayerSamples) -> usize {
    let channels = layer.weights.dims.first().copied().unwrap_or(1);
    layer.targets[0].data.len() / channels.max(1)
}

/// What weight `k` of a group is multiplied with at a position.
fn element(field: Option<&ReceptiveField>, x: &Tensor, group: usize, k: usize, position: usize) -> f32 {
    match field {
        Some(field) => field.element(x, group, k, position),
        None => x.as_f32().unwrap_or_default()[position * x.dims.last().copied().unwrap_or(1) + k],
    }
}
