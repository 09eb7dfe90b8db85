//! Synthesizes inputs where there are no samples, takes them through the network, and keeps what each value's channels look like.
//!
//! ```text
//! %y = nn.conv2d(%x, @w)      // no batch normalization says what %y is like: 4 samples synthesized for 1 value
//! ```
//!
//! Operations stay as they are; what was seen is left as metadata. `propagate-ranges` uses it for values that it is *blind* to: more than one layer away
//! from where their distribution is known, which is at a batch normalization. Across one layer independence of what is summed
//! up is a fair assumption, across several its errors multiply. Nor do intervals tell what a logarithm, an exponential function or a
//! division by what is computed gives. A network without such values needs no samples, and gets none.
//!
//! What is synthesized is said in `inputs`. Networks tell noise from what they were trained with, and their deep layers hardly
//! answer to it. So a batch normalization takes the statistics of the samples instead of its own where there are enough
//! elements, which brings its result to the mean and deviation that training data has:
//!
//! ```text
//! bn(x) = gamma (x - mean(x)) / sqrt(var(x) + epsilon) + beta
//! ```
//!
//! The number of samples follows from the multiplications of one, so that compilation stays short. Numbers kept are rounded to
//! `DIGITS` binary digits, far above what the order of sums on one CPU or another changes.

mod inputs;

use std::collections::{HashMap, HashSet};

use qcc_interp::{Domain, Numbering, Operand, SampleState, Threads, eval_node, execute, in_order};
use qcc_ir::ops::{Contract, Norm};
use qcc_ir::{Change, Class, Diag, Diags, Edit, Fact, Graph, NodeId, Opcode, Range, Tensor, Type, ValueId};
use qcc_num::convert::{nearest_f32, nearest_i64};

use crate::fit::lockstep::footprint;
use crate::ranges::activations::activations;
use crate::ranges::moments::{Channel, Interval};
use crate::ranges::observed::{Sentinel, sentinels};
use crate::{Context, Pass};

/// Multiplications that all samples together may take.
const MULTIPLICATIONS: u64 = 12_000_000_000;

/// Multiplications that a single one may take.
const MOST_OF_ONE: u64 = 16_000_000_000;

/// Most samples.
const SAMPLES: u64 = 16;

/// Bytes of the values of all samples that are alive at a time.
const MEMORY: usize = 64 << 20;

/// Elements of a channel from which on their statistics take the place of those of a batch normalization.
const ENOUGH: usize = 64;

/// Binary digits of what is kept.
const DIGITS: u32 = 10;

/// The pass `synthesize-samples`.
pub struct SynthesizeSamples;

impl Pass for SynthesizeSamples {
    fn run(&self, edit: &mut Edit, cx: &mut Context) -> Result<(), Diags> {
        let g = edit.graph();
        let blind = blind(g);
        let wanted: Vec<ValueId> = activations(g).into_iter().filter(|v| blind.contains(v)).collect();
        let remark = if cx.samples.is_some() || cx.ranges.is_some() {
            "nothing synthesized: there are samples or ranges".to_string()
        } else if wanted.is_empty() {
            "nothing synthesized: every value is near to a known distribution".to_string()
        } else {
            match synthesize(g, cx, &wanted) {
                Ok(found) => {
                    let remark = format!("{} samples synthesized for {} values", found.samples, found.values.len());
                    let label = format!("synthesize-samples: statistics of {} values", found.values.len());
                    if let Some(mut change) = edit.begin(label) {
                        found.leave(&mut change);
                    }
                    remark
                }
                Err(why) => format!("nothing synthesized: {why}"),
            }
        };
        edit.remark(remark);
        Ok(())
    }
}

/// What synthesized inputs showed of the values that are far from any known distribution.
#[derive(Debug, Clone, Default)]
pub(crate) struct Synthesized {
    /// Number of samples.
    pub(crate) samples: usize,
    /// Mean, variance and extremes of the channels of values, by name.
    pub(crate) values: HashMap<String, Vec<Channel>>,
}

impl Synthesized {
    /// Leaves it in the graph.
    fn leave(self, change: &mut Change) {
        for (name, channels) in self.values {
            let numbers = channels.iter().flat_map(|c| [c.mean, c.var, c.soft.lo, c.soft.hi]);
            change.set_metadata(Fact::Synthesized, &name, [self.samples as f64].into_iter().chain(numbers).collect());
        }
    }

    /// What is in the graph.
    pub(crate) fn left(g: &Graph) -> Synthesized {
        let mut found = Synthesized::default();
        for (name, numbers) in g.metadata().of(Fact::Synthesized) {
            let Some((&samples, channels)) = numbers.split_first() else { continue };
            let (channels, _) = channels.as_chunks::<4>();
            let channel = |&[mean, var, lo, hi]: &[f64; 4]| Channel { mean, var, soft: Interval::new(lo, hi) };
            found.samples = usize::try_from(nearest_i64(samples)).unwrap_or(0);
            found.values.insert(name.to_string(), channels.iter().map(channel).collect());
        }
        found
    }
}

/// A function whose results lie anywhere, or grow so fast that what is known of its operand tells nothing.
fn is_steep(g: &Graph, n: NodeId) -> bool {
    match g.op(n) {
        Opcode::Div => g.constant(g.operands(n)[1]).is_none(),
        op => matches!(op, Opcode::Exp | Opcode::Pow | Opcode::Log | Opcode::Reciprocal),
    }
}

/// Values more than one layer away from where a distribution is known, and what steep functions make of others.
pub(crate) fn blind(g: &Graph) -> HashSet<ValueId> {
    // Layers between a value and what is known; that of an input is only its range.
    let mut layers: HashMap<ValueId, u32> = g.inputs().iter().map(|&v| (v, 1)).collect();
    for n in g.order() {
        let y = g.result(n);
        let far = g.operands(n).iter().filter_map(|v| layers.get(v)).copied().max().unwrap_or(0);
        let far = if is_steep(g, n) { far.max(2) } else { far };
        let normed = g.uses(y).iter().any(|&(n, i)| i == 0 && g.op(n) == Opcode::BatchNorm);
        let far = match g.op(n).info().class {
            Class::Norm(Norm::Batch) => 0,
            // Rows are normalized, channels are not; shares of a whole are bounded.
            Class::Norm(Norm::Layer | Norm::Softmax) => 1,
            Class::Contract(_) => far + 1,
            Class::Unary(_)
            | Class::Binary(_)
            | Class::Pool(_)
            | Class::Reduce(_)
            | Class::Move(_)
            | Class::Cast(_)
            | Class::Int(_) => far,
        };
        layers.insert(y, if normed { 0 } else { far });
    }
    layers.into_iter().filter(|&(_, far)| far > 1).map(|(v, _)| v).collect()
}

/// Multiplications of one evaluation.
fn multiplications(g: &Graph) -> u64 {
    let of = |n: NodeId| {
        let dims = |i: usize| g.operands(n).get(i).map_or(&[][..], |&v| &g.ty(v).dims);
        let Class::Contract(kind) = g.op(n).info().class else { return g.ty(g.result(n)).elements() as u64 };
        let terms: usize = match kind {
            Contract::Conv2d | Contract::Linear => dims(1).iter().skip(1).product(),
            Contract::MatMul => dims(0).last().copied().unwrap_or(1),
        };
        (terms as u64).saturating_mul(g.ty(g.result(n)).elements() as u64)
    };
    g.order().into_iter().map(of).fold(0, u64::saturating_add)
}

/// Synthesized sample `index`: a tensor for each input, within the ranges that are declared of them by name.
pub fn synthesized(g: &Graph, declared: &HashMap<String, Range>, index: usize) -> Vec<Tensor> {
    g.inputs().iter().map(|&v| inputs::synthesize(g, v, declared.get(g.name_of(v)), index)).collect()
}

/// What synthesized samples show of the values that are wanted, or why there is nothing to be seen.
fn synthesize(g: &Graph, cx: &Context, wanted: &[ValueId]) -> Result<Synthesized, String> {
    let cost = multiplications(g).max(1);
    if cost > MOST_OF_ONE {
        return Err(format!("one evaluation takes {:.1} billion multiplications", cost as f64 / 1e9));
    }
    let numbering = Numbering::of(g);
    let fitting = (MEMORY / footprint(g, &numbering).max(1)) as u64;
    let samples = usize::try_from((MULTIPLICATIONS / cost).min(fitting).clamp(1, SAMPLES)).unwrap_or(1);
    let sample = |i: usize| synthesized(g, &cx.input_ranges, i);
    let wanted: HashSet<ValueId> = wanted.iter().copied().collect();
    let (sentinels, channels) = (sentinels(g), HashMap::new());
    let mut seen = Synthesis { g, numbering: &numbering, wanted: &wanted, sentinels: &sentinels, channels };
    let evaluate = || {
        let inputs = (0..samples).map(sample).collect();
        execute(&numbering.schedule(g, &[]), &mut seen, inputs, &|done, of| cx.watch(done, of))
    };
    Threads::start(cx.threads).and_then(|threads| threads.run(evaluate)).map_err(|d| d.message)?;
    Ok(Synthesized { samples, values: seen.channels })
}

/// Values are tensors. Batch normalizations take the statistics of the samples where these have enough elements; those of wanted
/// values are kept.
struct Synthesis<'a> {
    g: &'a Graph,
    numbering: &'a Numbering,
    wanted: &'a HashSet<ValueId>,
    /// What says "no value" is not seen.
    sentinels: &'a HashMap<ValueId, Sentinel>,
    /// By name.
    channels: HashMap<String, Vec<Channel>>,
}

impl Domain for Synthesis<'_> {
    type Value = Tensor;

    fn step(&mut self, step: usize, samples: &[SampleState<Tensor>]) -> Result<Vec<Tensor>, Diag> {
        let (g, n) = (self.g, self.numbering.node(step));
        let (node, y) = (g.node(n), g.result(n));
        let operands = self.numbering.operands(g, step);
        let replaced = if node.op == Opcode::BatchNorm { self.own_statistics(step, samples)? } else { None };
        let results = in_order(samples, |sample| {
            let mut lent: Vec<(&Tensor, &Type)> = Vec::with_capacity(operands.len());
            for (i, (operand, ty)) in operands.iter().enumerate() {
                let tensor = match (&replaced, operand) {
                    (Some(statistics), _) if (3..5).contains(&i) => &statistics[i - 3],
                    (_, Operand::Slot(slot)) => sample.get(*slot)?,
                    (_, Operand::Constant(t)) => t,
                };
                lent.push((tensor, ty));
            }
            eval_node(node.op, &node.attrs, &lent, g.ty(y))
        })?;
        if self.wanted.contains(&y) {
            let sentinel = self.sentinels.get(&y);
            let counts = |x: f32| sentinel.is_none_or(|s| !s.is(x));
            let channels: Vec<Channel> = statistics(results.iter(), counts).into_iter().map(rounded).collect();
            if channels.iter().all(|c| c.var.is_finite() && c.soft.lo.is_finite() && c.soft.hi.is_finite()) {
                self.channels.insert(g.name_of(y).to_string(), channels);
            }
        }
        Ok(results)
    }
}

impl Synthesis<'_> {
    /// Mean and variance of the channels of what a batch normalization reads, if the samples have enough elements.
    fn own_statistics(&self, step: usize, samples: &[SampleState<Tensor>]) -> Result<Option<[Tensor; 2]>, Diag> {
        let (g, n) = (self.g, self.numbering.node(step));
        let operands = g.operands(n);
        let Some(slot) = self.numbering.slot(operands[0]) else { return Ok(None) };
        let read: Vec<&Tensor> = samples.iter().map(|sample| sample.get(slot)).collect::<Result<_, Diag>>()?;
        let channels = statistics(read.into_iter(), |_| true);
        let count = samples.len() * g.ty(g.result(n)).elements() / channels.len().max(1);
        if count < ENOUGH || channels.len() != g.ty(operands[3]).elements() {
            return Ok(None);
        }
        let tensor = |f: fn(&Channel) -> f64| {
            Tensor::f32(&[channels.len()], channels.iter().map(|c| nearest_f32(f(c))).collect())
        };
        Ok(Some([tensor(|c| c.mean), tensor(|c| c.var)]))
    }
}

/// Mean, variance and extremes of each channel, axis 1, over all elements of the tensors that count.
fn statistics<'t>(tensors: impl Iterator<Item = &'t Tensor>, counts: impl Fn(f32) -> bool) -> Vec<Channel> {
    let mut sums: Vec<([f64; 3], Interval)> = Vec::new();
    for t in tensors {
        let channels = if t.dims.len() > 1 { t.dims[1] } else { 1 };
        let plane: usize = t.dims.iter().skip(2).product();
        let empty = ([0.0; 3], Interval::new(f64::INFINITY, f64::NEG_INFINITY));
        sums.resize(channels, empty);
        for (i, part) in t.as_f32().unwrap_or_default().chunks(plane.max(1)).enumerate() {
            let (sum, reach) = &mut sums[i % channels.max(1)];
            let (mut lo, mut hi) = (f32::INFINITY, f32::NEG_INFINITY);
            let (mut total, mut square, mut count) = (0.0, 0.0, 0.0);
            for &x in part.iter().filter(|&&x| counts(x)) {
                // A comparison with what is not a number leaves it out; its sum does not.
                (lo, hi) = (lo.min(x), hi.max(x));
                let x = f64::from(x);
                (total, square, count) = (total + x, square + x * x, count + 1.0);
            }
            *sum = [sum[0] + count, sum[1] + total, sum[2] + square];
            *reach = reach.union(Interval::new(f64::from(lo), f64::from(hi)));
        }
    }
    let channel = |([count, total, square], soft): ([f64; 3], Interval)| {
        if count == 0.0 {
            return Channel::constant(0.0);
        }
        let mean = total / count;
        Channel { mean, var: (square / count - mean * mean).max(0.0), soft }
    };
    sums.into_iter().map(channel).collect()
}

fn rounded(c: Channel) -> Channel {
    Channel { mean: short(c.mean), var: short(c.var), soft: Interval::new(short(c.soft.lo), short(c.soft.hi)) }
}

/// The nearest number with `DIGITS` binary digits.
fn short(x: f64) -> f64 {
    let dropped = 52 - DIGITS;
    // A carry goes into the exponent, as it should.
    f64::from_bits((x.to_bits() + (1 << (dropped - 1))) & !((1 << dropped) - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_get_short() {
        for x in [1.0, 3.25159, -0.001, 12345.678, 0.0] {
            let y = short(x);
            assert!((x - y).abs() <= x.abs() / 512.0, "{x} becomes {y}");
        }
        assert_eq!(short(1.0 + 1e-9), short(1.0));
    }
}
