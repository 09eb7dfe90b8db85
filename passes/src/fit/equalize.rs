//! Gives the channels of a value between two layers ranges that are alike, so that one scale fits them all (cross-layer
//! equalization, Nagel et al., ICCV 2019, section 4.1, with the aim turned from weights, which have a scale for each
//! channel here, to activations).
//!
//! ```text
//! %a = nn.conv2d(%x, @w1, @b1)                     // greatest values of the channels of %r: 6.0, 0.3
//! %r = nn.relu(%a)
//! %y = nn.conv2d(%r, @w2)
//! // becomes, with s = (1, 20)
//! %a = nn.conv2d(%x, @w1.eq, @b1.eq)               // s[c] w1[c], s[c] b1[c]
//! %r = nn.relu(%a)
//! %y = nn.conv2d(%r, @w2.eq)                       // w2[.., c, ..] / s[c]
//! ```
//!
//! That is exact in real numbers for what is between the layers: rectifiers, pooling. Clips (ReLU6) are left alone: what the
//! samples do not show of a channel would be cut off at a lower bound. With `m[c]` the greatest magnitude of a channel on
//! the samples and `M` that of all, `s[c] = max(1, (M / 2 m[c])^a)`: twice of what was seen still fits. A depthwise convolution behind takes `1 / s[c]` into the scales of its
//! weights, so that `a = 1` costs nothing. Elsewhere it makes weights within a channel less alike, and of five exponents
//! the one is taken with the least noise expected in the results,
//!
//! ```text
//! sum_o sum_ck (w[o,c,k] / s[c])^2 Dx^2 / 12  +  sum_o Dw[o]^2 / 12 sum_ck s[c]^2 E x[c]^2                           (1)
//! Dx = max_c s[c] m[c] / X,    Dw[o] = max_ck |w[o,c,k]| / s[c] / W        X, W: extent and greatest of the formats, 255 and 127
//! ```

use std::collections::{BTreeMap, HashMap};

use qcc_interp::{Statistics, Survey, Threads};
use qcc_ir::format::{self, Role};
use qcc_ir::ops::{Pool, Reduce};
use qcc_ir::{Change, Class, Diags, Edit, Elem, Fact, Format, Graph, NodeId, Opcode, Tensor, ValueId, attr};
use qcc_num::convert::nearest_f32;

use crate::layer::{NewParameter, Parameter, QuantLayer};
use crate::quant::precision::Wanted;
use crate::quant::states;
use crate::{Context, Pass};

/// Greatest factor: channels that are almost dead are not worth more.
const GREATEST: f64 = 16.0;

/// How far below the greatest value of all a channel stays that is made greater.
const MARGIN: f64 = 0.5;

/// Exponents that are tried.
const EXPONENTS: [f64; 5] = [0.0, 0.25, 0.5, 0.75, 1.0];

/// The pass `equalize`.
pub struct Equalize;

impl Pass for Equalize {
    fn run(&self, edit: &mut Edit, cx: &mut Context) -> Result<(), Diags> {
        let g = edit.graph();
        let pairs: Vec<Between> = g.order().into_iter().filter_map(|n| Between::find(g, n)).collect();
        // Ranges that were found before belong to values as they were scaled then.
        let known = cx.ranges.as_ref().map(|table| table.channel_factors.clone());
        if known.is_none() && cx.samples.as_ref().is_none_or(|s| s.is_empty()) {
            edit.remark("nothing equalized: there are no samples");
            return Ok(());
        }
        if known.as_ref().is_some_and(BTreeMap::is_empty) {
            edit.remark("nothing equalized: the range table has no factors of channels");
            return Ok(());
        }
        let seen = if known.is_none() { observe(g, &pairs, cx)? } else { HashMap::new() };
        let wanted = Wanted::find(g, &cx.precision, cx.overall, &states::pairs(g, &cx.states)?)?;
        for pair in pairs {
            let g = edit.graph();
            let name = g.name_of(pair.value).to_string();
            let (factors, how) = match (&known, seen.get(&pair.value)) {
                (Some(known), _) => match known.get(&name) {
                    Some(f) if f.len() == g.ty(pair.value).dims[1] => (f.clone(), "as in the range table".to_string()),
                    Some(_) => {
                        edit.remark(format!(
                            "not equalized: the range table has another number of channels for %{name}"
                        ));
                        continue;
                    }
                    None => continue,
                },
                (None, Some(seen)) => match pair.choose(g, seen, &wanted) {
                    Some((exponent, s)) => {
                        (s.iter().map(|&s| nearest_f32(s)).collect(), format!("exponent {exponent}"))
                    }
                    None => continue,
                },
                (None, None) => continue,
            };
            if let Some(mut change) = edit.begin(format!("equalize: channels of %{name}, {how}")) {
                pair.scale(&mut change, &factors);
                change.set_metadata(Fact::ChannelFactors, &name, factors.iter().map(|&f| f64::from(f)).collect());
            }
        }
        edit.remove_dead();
        Ok(())
    }
}

/// A layer, and the layers behind it that alone read its result.
struct Between {
    first: NodeId,
    readers: Vec<NodeId>,
    /// What the readers read.
    value: ValueId,
}

/// What was seen of a channel: greatest magnitude, and mean square.
type Channel = (f64, f64);

impl Between {
    fn find(g: &Graph, first: NodeId) -> Option<Between> {
        layer(g, first)?;
        let mut value = g.result(first);
        while let Some(n) = g.only_user(value).filter(|&n| layer(g, n).is_none()) {
            match (g.op(n), g.op(n).info().class) {
                (Opcode::Relu | Opcode::LeakyRelu, _) => {}
                (_, Class::Pool(Pool::Max | Pool::Average)) => {}
                (Opcode::ReduceMean, Class::Reduce(Reduce::Mean)) if g.ty(value).rank() == 4 => {
                    let attrs = &g.node(n).attrs;
                    if attrs.get(attr::AXES) != [2, 3] || g.ty(g.result(n)).rank() != 4 {
                        return None;
                    }
                }
                _ => return None,
            }
            value = g.result(n);
        }
        let uses = g.uses(value);
        let reads = |&(n, i): &(NodeId, usize)| i == 0 && layer(g, n).is_some();
        if uses.is_empty()
            || g.is_output(value)
            || !uses.iter().all(reads)
            || g.ty(value).rank() != g.ty(g.result(first)).rank()
        {
            return None;
        }
        Some(Between { first, readers: uses.into_iter().map(|(n, _)| n).collect(), value })
    }

    /// The exponent and the factors with the least noise expected, if there is anything to scale.
    fn choose(&self, g: &Graph, seen: &[Channel], wanted: &Wanted) -> Option<(f64, Vec<f64>)> {
        let greatest = seen.iter().fold(0.0f64, |m, c| m.max(c.0));
        if greatest <= 0.0 || !greatest.is_finite() {
            return None;
        }
        let factors = |exponent: f64| -> Vec<f64> {
            let factor =
                |c: &Channel| (MARGIN * greatest / c.0.max(MARGIN * greatest / GREATEST)).powf(exponent).max(1.0);
            seen.iter().map(factor).collect()
        };
        // What has more bits is no reason for other factors.
        let of_byte = |format: Option<&'static Format>, role| {
            format.filter(|format| format.fits_byte()).unwrap_or_else(|| format::usual(role))
        };
        let extent = of_byte(wanted.value(self.value), Role::Values).extent() as f64;
        let codes = |n: NodeId| (extent, of_byte(Some(wanted.weights(n)), Role::Weights).magnitude() as f64);
        let noise = |s: &[f64]| self.readers.iter().map(|&n| expected_noise(g, n, seen, s, codes(n))).sum::<f64>();
        let tried = EXPONENTS.iter().map(|&e| (e, factors(e)));
        tried.min_by(|(_, a), (_, b)| noise(a).total_cmp(&noise(b))).filter(|(_, s)| s.iter().any(|&s| s > 1.01))
    }

    fn scale(&self, change: &mut Change, s: &[f32]) {
        let s: Vec<f64> = s.iter().map(|&s| f64::from(s)).collect();
        if let Some(first) = layer(change.graph(), self.first) {
            multiply(change, &first, |o, _| s[o], Some(&|o| s[o]));
        }
        for &n in &self.readers {
            if let Some(reader) = layer(change.graph(), n) {
                multiply(change, &reader, |o, k| 1.0 / s[reader.input_channel(o, k)], None);
            }
        }
    }
}

/// A convolution, or a linear layer on vectors, with parameters of real numbers.
fn layer(g: &Graph, n: NodeId) -> Option<QuantLayer> {
    let layer = QuantLayer::read(g, n).ok().filter(|l| l.weights.reals().is_some() && l.real_bias().is_some())?;
    match layer.op {
        Opcode::Conv2d => Some(layer),
        Opcode::Linear if layer.output.dims.len() == 2 => Some(layer),
        _ => None,
    }
}

/// Multiplies the weights of the layer by `factor(output channel, weight of the channel)`, and its bias by `of_bias(output channel)`.
fn multiply(
    change: &mut Change,
    layer: &QuantLayer,
    factor: impl Fn(usize, usize) -> f64,
    of_bias: Option<&dyn Fn(usize) -> f64>,
) {
    let scaled = |p: &Parameter, factor: &dyn Fn(usize) -> f64| {
        let data = p.reals().unwrap_or_default().iter().enumerate();
        let scaled = data.map(|(i, &x)| nearest_f32(f64::from(x) * factor(i))).collect();
        let name = if p.name.ends_with(".eq") { p.name.clone() } else { format!("{}.eq", p.name) };
        NewParameter { name, tensor: Tensor::f32(&p.tensor.dims, scaled), elem: Elem::F32 }
    };
    let row = layer.depth().max(1);
    let weights = scaled(&layer.weights, &|i| factor(i / row, i % row));
    let bias = layer.bias.as_ref().zip(of_bias).map(|(b, of_bias)| scaled(b, of_bias));
    layer.write(change, Some(weights), bias);
}

/// Equation (1) with these `X` and `W`.
fn expected_noise(g: &Graph, n: NodeId, seen: &[Channel], s: &[f64], (extent, greatest_code): (f64, f64)) -> f64 {
    let Some(layer) = layer(g, n) else { return 0.0 };
    let w = layer.weights.reals().unwrap_or_default();
    let row = layer.depth().max(1);
    let step = seen.iter().zip(s).fold(0.0f64, |m, (c, s)| m.max(s * c.0)) / extent;
    let mut noise = 0.0;
    for (o, w) in w.chunks(row).enumerate() {
        let (mut input, mut greatest, mut power) = (0.0f64, 0.0f64, 0.0f64);
        for (k, &w) in w.iter().enumerate() {
            let c = layer.input_channel(o, k);
            let scaled = f64::from(w) / s[c];
            input += scaled * scaled;
            greatest = greatest.max(scaled.abs());
            power += s[c] * s[c] * seen[c].1;
        }
        noise += input * step * step + (greatest / greatest_code).powi(2) * power;
    }
    noise
}

/// What one sample shows of the channels of the values between layers.
struct Channels<'a> {
    index: &'a HashMap<ValueId, usize>,
    found: Vec<Vec<Channel>>,
}

impl Statistics for Channels<'_> {
    fn observe(&mut self, v: ValueId, tensor: &Tensor) {
        if let (Some(&at), Some(data)) = (self.index.get(&v), tensor.as_f32()) {
            self.found[at] = channels(tensor, data);
        }
    }
}

/// What the samples show of the channels (axis 1) of the values between layers.
fn observe(g: &Graph, pairs: &[Between], cx: &Context) -> Result<HashMap<ValueId, Vec<Channel>>, Diags> {
    let Some(samples) = cx.samples.clone().filter(|_| !pairs.is_empty()) else { return Ok(HashMap::new()) };
    let index: HashMap<ValueId, usize> = pairs.iter().enumerate().map(|(i, p)| (p.value, i)).collect();
    let count = samples.len();
    let new = || Channels { index: &index, found: vec![Vec::new(); pairs.len()] };
    let (sample, watch) = (|i: usize| samples.get(i), |done: usize, of: usize| cx.watch(done, of));
    let survey = Survey { graph: g, count, sample: &sample, watch: &watch };
    // Mean squares are added up in the order of the samples.
    let all = survey.each(&Threads::start(cx.threads)?, new)?;
    let merged = pairs.iter().enumerate().map(|(at, pair)| {
        let mut merged = vec![(0.0f64, 0.0f64); all[0].found[at].len()];
        for sample in &all {
            for (m, c) in merged.iter_mut().zip(&sample.found[at]) {
                *m = (m.0.max(c.0), m.1 + c.1 / count as f64);
            }
        }
        (pair.value, merged)
    });
    Ok(merged.collect())
}

fn channels(tensor: &Tensor, data: &[f32]) -> Vec<Channel> {
    let channels = tensor.dims[1];
    let plane = tensor.dims[2..].iter().product::<usize>().max(1);
    let mut found = vec![(0.0f64, 0.0f64); channels];
    let share = (data.len() / channels.max(1)).max(1) as f64;
    for (i, part) in data.chunks(plane).enumerate() {
        let (m, square) = part.iter().fold((0.0f32, 0.0f32), |(m, q), &x| (m.max(x.abs()), q + x * x));
        let c = &mut found[i % channels];
        *c = (c.0.max(f64::from(m)), c.1 + f64::from(square) / share);
    }
    found
}
