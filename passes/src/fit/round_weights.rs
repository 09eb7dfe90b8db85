//! Chooses the integers of the weights so that a layer's results, not its weights, are as near as can be, measured on the
//! samples; then its scales and bias, by a line through what each channel gives and should give.
//!
//! ```text
//! %y = nn.conv2d(%x, @w, @b)
//! // becomes
//! %y = nn.conv2d(%x, @w.fit, @b.fit)     // w.fit: !quant.uniform<i8<-127:127>:f32:0, {..}>
//! ```
//!
//! With the inputs `x` that the quantized network gives the layer and `H = cov(x, x)`, rounding changes the result of a channel
//! by a square error, its mean apart, of
//!
//! ```text
//! (w' - w) (H + d I) (w' - w)      d: what the samples do not tell is rounded to the nearest         (1)
//! ```
//!
//! It is lowered by coordinate descent over the integers, from rounding to the nearest: the best step of integer `k`, of
//! scale `s`, is `round((H (w - w'))[k] / (s H[k][k]))`, and no step is ever up. That is the layer-wise objective of AdaRound
//! (Nagel et al., ICML 2020, equation 21), without its relaxation. `H` is estimated from positions spread evenly over the samples.
//! Where there are fewer positions than weights in a channel, what fits them all fits others worse: rounding to the nearest stays.
//!
//! With integers `q` chosen, results `y'` of the quantized channel and `y` of the real one, the scale `s` and the bias `b` become
//!
//! ```text
//! g s, g b + mean(y) - g mean(y'),      g = cov(y, y') / var(y')                                         (2)
//! ```
//!
//! A line that is best for a layer is not always best for the network. So the network is also fitted with `g = 1`, and that stays unless the
//! gains raise the signal-to-noise ratio of the outputs by `gains` decibels.

use qcc_interp::eval_node;
use qcc_ir::{Attrs, Data, Diag, Diags, Edit, Format, Opcode, Tensor, Type};
use qcc_num::convert::{nearest_f32, nearest_i32};
use rayon::prelude::*;

use crate::fit::correct_bias::fitted_bias;
use crate::fit::lockstep::{self, FittedLayer, LayerSamples};
use crate::layer::{ReceptiveField, WeightCodes};
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
        doc: "decibels at the outputs that the gains of equation (2) must bring on the samples to be kept",
        kind: OptionKind::Number(-200.0, 200.0),
    },
];

/// Positions that a layer's statistics are taken from, for each weight of a channel and at least.
const POSITIONS: (usize, usize) = (3, 4096);

/// Most weights of a channel: `H` of more would take more than 256 MiB.
const MOST_WEIGHTS: usize = 8192;

/// Times that the descent passes over all integers.
const SWEEPS: usize = 4;

/// Most steps on the grid of a format by which an integer moves away from rounding to the nearest.
const REACH: usize = 2;

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
        let scales = &layer.rounded.uniform.scales;
        let outputs = scales.len();
        let depth = w.len() / outputs.max(1);
        let groups = layer.layer.groups;
        let format = &layer.rounded.uniform.format;
        // Weights of 16 bits are rounded to the nearest.
        let Some(start) = layer.rounded.codes.as_i8() else { return Ok(layer.rounded.clone()) };
        if depth == 0 || !outputs.is_multiple_of(groups) {
            return Ok(layer.rounded.clone());
        }
        let per_group = outputs / groups;
        let positions = Positions::new(layer, depth);
        if positions.count() < depth || depth > MOST_WEIGHTS {
            return Ok(layer.rounded.clone());
        }
        let one = |group: usize| -> Result<Vec<i8>, Diag> {
            let mut x = positions.gather(layer, group, depth);
            centre(&mut x, positions.count());
            let h = product(&x, &x, positions.count())?;
            let mean = (0..depth).map(|k| f64::from(h[k * depth + k])).sum::<f64>() / depth as f64;
            let damp = nearest_f32(self.damp * mean);
            let rows = group * per_group..(group + 1) * per_group;
            let parts: Vec<Vec<i8>> = rows
                .into_par_iter()
                .map(|o| {
                    let row = o * depth..(o + 1) * depth;
                    descend(&h, &w[row.clone()], &start[row], (format, scales[o]), damp)
                })
                .collect();
            Ok(parts.concat())
        };
        let parts: Vec<Vec<i8>> = (0..groups).into_par_iter().map(one).collect::<Result<_, Diag>>()?;
        let codes = Tensor::new(&tensor.dims, Data::I8(parts.concat()));
        Ok(WeightCodes { codes, uniform: layer.rounded.uniform.clone() })
    }
}

/// Coordinate descent on one channel; `h` is `[depth, depth]`.
fn descend(h: &[f32], w: &[f32], start: &[i8], (format, scale): (&Format, f32), damp: f32) -> Vec<i8> {
    let depth = w.len();
    let mut codes: Vec<i32> = start.iter().map(|&q| i32::from(q)).collect();
    // Half the slope of (1), downwards.
    let mut slope = vec![0.0f32; depth];
    for (k, (&q, &w)) in codes.iter().zip(w).enumerate() {
        let error = w - q as f32 * scale;
        slope.iter_mut().zip(&h[k * depth..(k + 1) * depth]).for_each(|(s, h)| *s += h * error);
        slope[k] += damp * error;
    }
    for _ in 0..SWEEPS {
        let mut moved = false;
        for k in 0..depth {
            let curvature = (h[k * depth + k] + damp) * scale;
            let best = if curvature > 0.0 { nearest_i32(f64::from(slope[k] / curvature)) } else { 0 };
            let (near, to) = (format.around(i64::from(start[k]), REACH), i64::from(codes[k].saturating_add(best)));
            let to = i32::try_from(format.nearest(to).clamp(*near.start(), *near.end())).unwrap_or(codes[k]);
            if to == codes[k] {
                continue;
            }
            let step = (to - codes[k]) as f32 * scale;
            codes[k] = to;
            moved = true;
            slope.iter_mut().zip(&h[k * depth..(k + 1) * depth]).for_each(|(s, h)| *s -= h * step);
            slope[k] -= damp * step;
        }
        if !moved {
            break;
        }
    }
    codes.into_iter().map(|q| i8::try_from(q).unwrap_or(i8::MAX)).collect()
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
    fn new(layer: &LayerSamples, depth: usize) -> Positions {
        let per_sample = positions(layer);
        let all = per_sample * layer.targets.len();
        let count = (POSITIONS.0 * depth).max(POSITIONS.1).min(all);
        let at = (0..count).map(|i| i * all / count).map(|i| (i / per_sample, i % per_sample));
        Positions { at: at.collect(), field: ReceptiveField::of(&layer.layer) }
    }

    fn count(&self) -> usize {
        self.at.len()
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
