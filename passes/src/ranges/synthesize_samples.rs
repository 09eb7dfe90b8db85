//! Synthesizes inputs where there are no samples, takes them through the network, and keeps what each value's channels look like.
//!
//! ```text
//! %y = nn.conv2d(%x, @w)      // no batch normalization says what %y is like: 4 samples synthesized for 1 value
//! ```
//!
//! The graph stays as it is. `propagate-ranges` uses what was seen for values that it is *blind* to: more than one layer away
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
use std::sync::Arc;

use qcc_interp::eval_node;
use qcc_ir::diag::Code;
use qcc_ir::ops::{Contract, Norm};
use qcc_ir::{Class, Def, Diag, Diags, Edit, Graph, NodeId, Opcode, Tensor, ValueId};
use rayon::prelude::*;

use crate::context::Synthesized;
use crate::fit::lockstep::{footprint, last_uses};
use crate::ranges::activations::activations;
use crate::ranges::moments::{Channel, Interval};
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
                    cx.synthesized = Some(found);
                    remark
                }
                Err(why) => format!("nothing synthesized: {why}"),
            }
        };
        edit.remark(remark);
        Ok(())
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

/// What synthesized samples show of the values that are wanted, or why there is nothing to be seen.
fn synthesize(g: &Graph, cx: &Context, wanted: &[ValueId]) -> Result<Synthesized, String> {
    let cost = multiplications(g).max(1);
    if cost > MOST_OF_ONE {
        return Err(format!("one evaluation takes {:.1} billion multiplications", cost as f64 / 1e9));
    }
    let fitting = (MEMORY / footprint(g).max(1)) as u64;
    let samples = (MULTIPLICATIONS / cost).min(fitting).clamp(1, SAMPLES) as usize;
    let inputs: Vec<Vec<Tensor>> = (0..samples)
        .map(|i| g.inputs().iter().map(|&v| inputs::synthesize(g, v, cx.input_ranges.get(g.name_of(v)), i)).collect())
        .collect();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(cx.threads).build();
    let pool = pool.map_err(|e| format!("threads cannot be started: {e}"))?;
    let wanted: HashSet<ValueId> = wanted.iter().copied().collect();
    let values = pool.install(|| evaluate(g, inputs, &wanted)).map_err(|d| d.message)?;
    Ok(Synthesized { samples, values })
}

/// Live values of one sample.
type World = HashMap<ValueId, Tensor>;

fn evaluate(
    g: &Graph,
    inputs: Vec<Vec<Tensor>>,
    wanted: &HashSet<ValueId>,
) -> Result<HashMap<String, Vec<Channel>>, Diag> {
    let last = last_uses(g);
    let mut seen = HashMap::new();
    let mut worlds: Vec<World> =
        inputs.into_iter().map(|tensors| g.inputs().iter().copied().zip(tensors).collect()).collect();
    for n in g.order() {
        let y = g.result(n);
        let operands = g.operands(n);
        let mut replaced = HashMap::new();
        if g.op(n) == Opcode::BatchNorm {
            let channels = statistics(worlds.iter().filter_map(|world| world.get(&operands[0])));
            let count = worlds.len() * g.ty(y).elements() / channels.len().max(1);
            if count >= ENOUGH && channels.len() == g.ty(operands[3]).elements() {
                let tensor = |f: fn(&Channel) -> f64| {
                    Tensor::f32(&[channels.len()], channels.iter().map(|c| f(c) as f32).collect())
                };
                replaced = HashMap::from([(operands[3], tensor(|c| c.mean)), (operands[4], tensor(|c| c.var))]);
            }
        }
        let types: Vec<_> = operands.iter().map(|&v| g.ty(v)).collect();
        let constants: Vec<Option<Arc<Tensor>>> = operands
            .iter()
            .map(|&v| match g.def(v) {
                Def::Const(t) => Some(t),
                Def::Input(_) | Def::Node(..) => None,
            })
            .collect();
        let one = |world: &World| -> Result<Tensor, Diag> {
            let mut lent = Vec::new();
            for ((v, constant), ty) in operands.iter().zip(&constants).zip(&types) {
                let tensor = replaced.get(v).or_else(|| world.get(v)).or(constant.as_deref());
                let missing = || Diag::new(Code::VERIFY, format!("%{} lacks an operand", g.name_of(y)));
                lent.push((tensor.ok_or_else(missing)?, *ty));
            }
            eval_node(g.op(n), &g.node(n).attrs, &lent, g.ty(y))
        };
        let results: Vec<Tensor> = worlds.par_iter().map(one).collect::<Result<_, Diag>>()?;
        if wanted.contains(&y) {
            let channels: Vec<Channel> = statistics(results.iter()).into_iter().map(rounded).collect();
            if channels.iter().all(|c| c.var.is_finite() && c.soft.lo.is_finite() && c.soft.hi.is_finite()) {
                seen.insert(g.name_of(y).to_string(), channels);
            }
        }
        worlds.iter_mut().zip(results).for_each(|(world, t)| drop(world.insert(y, t)));
        for v in last.get(&n).into_iter().flatten() {
            worlds.iter_mut().for_each(|world| drop(world.remove(v)));
        }
    }
    Ok(seen)
}

/// Mean, variance and extremes of each channel, axis 1, over all tensors.
fn statistics<'t>(tensors: impl Iterator<Item = &'t Tensor>) -> Vec<Channel> {
    let mut sums: Vec<([f64; 3], Interval)> = Vec::new();
    for t in tensors {
        let channels = if t.dims.len() > 1 { t.dims[1] } else { 1 };
        let plane: usize = t.dims.iter().skip(2).product();
        let empty = ([0.0; 3], Interval::new(f64::INFINITY, f64::NEG_INFINITY));
        sums.resize(channels, empty);
        for (i, part) in t.as_f32().unwrap_or_default().chunks(plane.max(1)).enumerate() {
            let (sum, reach) = &mut sums[i % channels.max(1)];
            let (mut lo, mut hi) = (f32::INFINITY, f32::NEG_INFINITY);
            let (mut total, mut square) = (0.0, 0.0);
            for &x in part {
                // A comparison with what is not a number leaves it out; its sum does not.
                (lo, hi) = (lo.min(x), hi.max(x));
                let x = f64::from(x);
                (total, square) = (total + x, square + x * x);
            }
            *sum = [sum[0] + part.len() as f64, sum[1] + total, sum[2] + square];
            *reach = reach.union(Interval::new(f64::from(lo), f64::from(hi)));
        }
    }
    let channel = |([count, total, square], soft): ([f64; 3], Interval)| {
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
