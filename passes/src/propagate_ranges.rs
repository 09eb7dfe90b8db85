//! Derives the ranges that are not known yet, without any data: a forward analysis over intervals that hold for certain and
//! over the mean and deviation of each channel.
//!
//! ```text
//! %bn   = nn.batch_norm(%conv, @gamma, @beta, @mean, @var) : tensor<1x8x4x4xf32>
//! %relu = nn.relu(%bn)                                     : tensor<1x8x4x4xf32>
//! // with beta = 0.5, |gamma| = 1 and k = 6
//! %bn   = ..  : tensor<1x8x4x4x!quant.calibrated<f32<-5.5:6.5>>>
//! %relu = ..  : tensor<1x8x4x4x!quant.calibrated<f32<0.0:6.5>>>
//! ```
//!
//! A batch normalization tells twice: its `mean` and `var` are the statistics of its operand, `beta` and `|gamma|` those
//! of its result. So the pass runs before `fold-bn` where there are no samples. A range is the union over the channels of
//! `mean +- k` deviations, within the certain interval; how operators change both is said in `moments`. Inputs have
//! their declared range; without one they are taken as standard normal, from -4 to 4.

mod drawn;

use std::collections::{HashMap, HashSet};

use qcc_ir::diag::Code;
use qcc_ir::ops::{Binary, Contract, Move, Norm, Pool, Reduce};
use qcc_ir::{Class, Diag, Diags, Edit, Elem, Graph, NodeId, Opcode, Range, ValueId};

use crate::adopt_qdq::constants::reals;
use crate::calibrate::activations;
use crate::context::{Drawn, RangeEntry, RangeTable};
use crate::moments::{Channel, Interval, Stats};
use crate::options::{OptionInfo, OptionKind};
use crate::rewrite::floats;
use crate::{Context, Options, Pass, fold_bn};

/// Options of `propagate-ranges`.
pub const OPTIONS: &[OptionInfo] = &[OptionInfo {
    name: "k",
    default: "6",
    doc: "deviations on either side of the mean that a range covers",
    kind: OptionKind::Number(1.0, 100.0),
}];

/// Range of an input that is taken as standard normal.
const NORMAL_INPUT: Interval = Interval { lo: -4.0, hi: 4.0 };

/// The pass `propagate-ranges`.
pub struct PropagateRanges {
    k: f64,
}

impl PropagateRanges {
    /// The pass with its options.
    pub fn new(options: &Options) -> PropagateRanges {
        PropagateRanges { k: options.number("k").unwrap_or(6.0) }
    }
}

impl Pass for PropagateRanges {
    fn run(&self, edit: &mut Edit, cx: &mut Context) -> Result<(), Diags> {
        let unknown: Vec<ValueId> =
            activations(edit.graph()).into_iter().filter(|&v| edit.graph().ty(v).elem == Elem::F32).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let drawn = cx.drawn.take().unwrap_or_default();
        let mut analysis = Analysis {
            g: edit.graph(),
            k: self.k,
            drawn: &drawn,
            leading: drawn::leading(edit.graph()),
            stats: HashMap::new(),
            assumed: 0,
            declared: 0,
            norms: 0,
            seen: 0,
        };
        analysis.run(cx);
        let mut faults = Diags::default();
        let mut found = Vec::new();
        for v in unknown {
            let soft = analysis.stats.get(&v).map_or(Interval::ALL, Stats::soft);
            let range = Range { min: soft.lo as f32, max: soft.hi as f32 };
            if range.is_valid() {
                found.push((v, range));
            } else {
                faults.0.push(unbounded(analysis.g, v));
            }
        }
        let source = analysis.source(found.len());
        cx.channel_means = analysis.channel_means();
        faults.into_result()?;
        if !edit.begin(format!("propagate-ranges: {} values", found.len())) {
            return Ok(());
        }
        let mut table =
            cx.ranges.take().unwrap_or_else(|| RangeTable { source: source.clone(), ..RangeTable::default() });
        for (v, range) in found {
            table.values.insert(edit.graph().name_of(v).to_string(), RangeEntry::new(range));
            edit.set_elem(v, Elem::Calibrated(range));
        }
        cx.ranges = Some(table);
        cx.note_source(&source);
        cx.derived_ranges = true;
        Ok(())
    }
}

fn unbounded(g: &Graph, v: ValueId) -> Diag {
    let diag = Diag::new(Code::RANGE, format!("the range of %{} cannot be derived", g.name_of(v)))
        .help("give samples (`--calibrate`) or a range table (`--ranges`)");
    match g.producer(v) {
        Some(n) => diag.at(g.describe(n)),
        None => diag,
    }
}

struct Analysis<'g> {
    g: &'g Graph,
    k: f64,
    drawn: &'g Drawn,
    leading: HashSet<ValueId>,
    stats: HashMap<ValueId, Stats>,
    assumed: usize,
    declared: usize,
    norms: usize,
    seen: usize,
}

impl Analysis<'_> {
    fn source(&self, derived: usize) -> String {
        let inputs = match (self.declared, self.assumed) {
            (_, 0) => "declared input ranges",
            (0, _) => "inputs taken as standard normal",
            _ => "declared input ranges, other inputs taken as standard normal",
        };
        let norms = match self.norms {
            0 => String::new(),
            n => format!(" and the parameters of {n} batch normalization{}", if n == 1 { "" } else { "s" }),
        };
        let drawn = match self.seen {
            0 => String::new(),
            n => format!(", {n} of them seen on {} drawn samples", self.drawn.samples),
        };
        format!("{derived} ranges derived without data from {inputs}{norms} (k = {}){drawn}", self.k)
    }

    fn run(&mut self, cx: &Context) {
        for &x in self.g.inputs() {
            let stats = match (&self.g.ty(x).elem, cx.input_ranges.get(self.g.name_of(x))) {
                (Elem::Calibrated(r), _) | (Elem::F32, Some(r)) => {
                    self.declared += 1;
                    Stats::of_interval((*r).into())
                }
                (Elem::F32, None) => {
                    self.assumed += 1;
                    Stats::uniform(NORMAL_INPUT, Channel { soft: NORMAL_INPUT, ..Channel::normal(0.0, 1.0, self.k) })
                }
                _ => continue,
            };
            self.stats.insert(x, stats);
        }
        for n in self.g.order() {
            let y = self.g.result(n);
            if !self.g.ty(y).is_float() {
                continue;
            }
            let mut stats = self.transfer(n).unwrap_or_else(|| Stats::of_interval(Interval::ALL));
            self.observe_norm(y, &mut stats);
            self.observe_drawn(n, &mut stats);
            if let Elem::Calibrated(r) = self.g.ty(y).elem {
                stats.hard = stats.hard.clamp_to(r.into());
                stats.channels.iter_mut().for_each(|c| c.soft = c.soft.clamp_to(r.into()));
            }
            self.stats.insert(y, stats);
        }
    }

    /// A batch normalization that reads `y` says what its statistics are.
    fn observe_norm(&self, y: ValueId, stats: &mut Stats) {
        let norm = self.g.uses(y).into_iter().find(|&(n, i)| i == 0 && self.g.op(n) == Opcode::BatchNorm);
        let Some((n, _)) = norm else { return };
        let operands = self.g.operands(n);
        if let (Some((_, mean)), Some((_, var))) = (floats(self.g, operands[3]), floats(self.g, operands[4])) {
            let channel = |(&m, &v): (&f32, &f32)| Channel::normal(f64::from(m), f64::from(v), self.k);
            stats.channels = mean.iter().zip(var).map(channel).collect();
            *stats = stats.clone().bounded();
        }
    }

    /// Statistics of an operand of an operation whose result has shape `dims`.
    fn operand(&self, v: ValueId) -> Option<Stats> {
        if let Some((tensor, data)) = floats(self.g, v) {
            let channels = match tensor.dims.get(1) {
                Some(&c) if c == data.len() => data.iter().map(|&x| Channel::constant(f64::from(x))).collect(),
                _ => vec![],
            };
            let (lo, hi) = data
                .iter()
                .fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), &x| (l.min(f64::from(x)), h.max(f64::from(x))));
            let all = Stats::of_interval(Interval::new(lo, hi));
            return Some(if channels.is_empty() { all } else { Stats { channels, ..all } });
        }
        self.stats.get(&v).cloned()
    }

    fn transfer(&mut self, n: NodeId) -> Option<Stats> {
        let g = self.g;
        let node = g.node(n);
        let operands = g.operands(n);
        if let (Opcode::DCast, Some(u)) = (node.op, g.ty(operands[0]).uniform()) {
            let ends =
                |s: f32, z: i64| Interval::new(f64::from(s) * (u.min - z) as f64, f64::from(s) * (u.max - z) as f64);
            let all = u.scales.iter().zip(&u.zero_points).map(|(&s, &z)| ends(s, z)).reduce(Interval::union)?;
            return Some(Stats::of_interval(all));
        }
        let x = self.operand(*operands.first()?)?;
        let xdims = &g.ty(operands[0]).dims;
        let ydims = &g.ty(g.result(n)).dims;
        let count: f64 = g.ty(operands[0]).elements() as f64 / (g.ty(g.result(n)).elements() as f64).max(1.0);
        Some(match node.op.info().class {
            Class::Unary(f) => x.apply(&node.attrs, f),
            Class::Binary(kind) => binary(kind, &x, &self.operand(*operands.get(1)?)?),
            Class::Contract(Contract::MatMul) => {
                let other = self.operand(operands[1])?;
                let terms = *xdims.last()? as f64;
                let (a, b) = (x.collapsed(), other.collapsed());
                let one = Channel::product(a.channel(0), b.channel(0));
                let alpha = f64::from(node.attrs.float("alpha"));
                let hard = a.hard.mul(b.hard).scale(terms * alpha);
                let channel = Channel::normal(one.mean * terms * alpha, one.var * terms * alpha * alpha, self.k);
                Stats::uniform(hard, channel).bounded()
            }
            Class::Contract(Contract::Conv2d | Contract::Linear) => self.layer(n, &x)?,
            Class::Pool(Pool::Max) => x,
            Class::Pool(Pool::Average) => {
                let padded = node.attrs.ints("pads").iter().any(|&p| p != 0);
                let zero = Interval::new(0.0, 0.0);
                let hard = if padded { x.hard.union(zero) } else { x.hard };
                x.map(hard, |c| Channel { soft: if padded { c.soft.union(zero) } else { c.soft }, ..*c })
            }
            Class::Reduce(kind) => {
                let kept = ydims.get(1) == xdims.get(1) && !node.attrs.sizes("axes").contains(&1);
                let x = if kept { x } else { x.collapsed() };
                match kind {
                    Reduce::Mean | Reduce::Max | Reduce::Min => x,
                    Reduce::Sum => x.map(x.hard.scale(count), |c| Channel {
                        mean: c.mean * count,
                        var: c.var * count * count,
                        soft: c.soft.scale(count),
                    }),
                }
            }
            Class::Norm(Norm::Batch) => {
                let (a, b) = fold_bn::affine(g, n)?;
                self.norms += 1;
                let gamma = floats(g, operands[1])?.1;
                let beta = floats(g, operands[2])?.1;
                let hard = a.iter().zip(&b).map(|(&a, &b)| x.hard.scale(a).add(Interval::new(b, b)));
                let hard = hard.reduce(Interval::union)?;
                let channel = |(&g, &b): (&f32, &f32)| Channel::normal(f64::from(b), f64::from(g).powi(2), self.k);
                Stats { hard, channels: gamma.iter().zip(beta).map(channel).collect() }.bounded()
            }
            Class::Norm(Norm::Layer) => {
                let (gamma, beta) = (floats(g, operands[1])?.1, floats(g, operands[2])?.1);
                let axis = usize::try_from(node.attrs.int("axis")).ok()?;
                let row: usize = xdims.get(axis..)?.iter().product();
                // No element of a row is further from its mean than the square root of its length, in deviations.
                let reach = (row as f64).sqrt();
                let each = |i: usize| (f64::from(gamma[i % gamma.len()]), f64::from(beta[i % beta.len()]));
                let all = (0..gamma.len().max(beta.len())).map(each);
                let hard = all.clone().map(|(g, b)| Interval::new(b - g.abs() * reach, b + g.abs() * reach));
                let channels = all.map(|(g, b)| Channel::normal(b, g * g, self.k)).collect();
                Stats { hard: hard.reduce(Interval::union)?, channels }.bounded().collapsed()
            }
            Class::Norm(Norm::Softmax) => {
                let axis = usize::try_from(node.attrs.int("axis")).ok()?;
                let mean = 1.0 / *xdims.get(axis)? as f64;
                let all = Interval::new(0.0, 1.0);
                Stats::uniform(all, Channel { mean, var: mean * mean, soft: all })
            }
            Class::Move(kind) => self.moved(kind, n, x)?,
            Class::Cast(_) | Class::Int(_) => return None,
        })
    }

    /// A convolution or linear layer, channel by channel through its weights.
    fn layer(&self, n: NodeId, x: &Stats) -> Option<Stats> {
        let g = self.g;
        let operands = g.operands(n);
        let tensor = reals(g, operands[1])?;
        let w = tensor.as_f32()?;
        let bias = operands.get(2).map(|&b| floats(g, b).map(|(_, d)| d)).unwrap_or(Some(&[]))?;
        let (outputs, per_group) = (*tensor.dims.first()?, *tensor.dims.get(1)?);
        let kernel: usize = tensor.dims[2..].iter().product();
        let attrs = &g.node(n).attrs;
        let convolution = g.op(n) == Opcode::Conv2d;
        let groups = if convolution { usize::try_from(attrs.int("groups")).ok()?.max(1) } else { 1 };
        let padded = convolution && attrs.ints("pads").iter().any(|&p| p != 0);
        let zero = Interval::new(0.0, 0.0);
        let inside = if padded { x.hard.union(zero) } else { x.hard };
        // Features of a linear layer are its last dimension; only of rank 2 is that the channels.
        let alike = x.collapsed();
        let x = if convolution || g.ty(operands[0]).rank() == 2 { x } else { &alike };
        let mut channels = Vec::with_capacity(outputs);
        let mut hard: Option<Interval> = None;
        for (o, row) in w.chunks(per_group * kernel).enumerate() {
            let d = bias.get(o).map_or(0.0, |&b| f64::from(b));
            let (mut mean, mut var, mut certain) = (d, 0.0, Interval::new(d, d));
            for (i, &w) in row.iter().enumerate() {
                let w = f64::from(w);
                let c = x.channel(o / (outputs / groups).max(1) * per_group + i / kernel.max(1));
                mean += w * c.mean;
                var += w * w * c.var;
                certain = certain.add(inside.scale(w));
            }
            channels.push(Channel::normal(mean, var, self.k));
            hard = Some(hard.map_or(certain, |h| h.union(certain)));
        }
        let stats = Stats { hard: hard?, channels }.bounded();
        Some(if convolution || g.ty(g.result(n)).rank() == 2 { stats } else { stats.collapsed() })
    }

    fn moved(&self, kind: Move, n: NodeId, x: Stats) -> Option<Stats> {
        let g = self.g;
        let operands = g.operands(n);
        let (xdims, ydims) = (&g.ty(operands[0]).dims, &g.ty(g.result(n)).dims);
        let attrs = &g.node(n).attrs;
        let per_channel = x.channels.len() > 1;
        Some(match kind {
            Move::Concat => {
                let parts: Vec<Stats> = operands.iter().map(|&v| self.operand(v)).collect::<Option<_>>()?;
                let hard = parts.iter().map(|p| p.hard).reduce(Interval::union)?;
                let mut channels = Vec::new();
                for (part, &v) in parts.iter().zip(&operands) {
                    let c = g.ty(v).dims.get(1).copied().unwrap_or(1);
                    channels.extend((0..c).map(|i| *part.channel(i)));
                }
                let all = Stats { hard, channels };
                if attrs.int("axis") == 1 { all } else { all.collapsed() }
            }
            Move::Reshape if per_channel => match (&xdims[..], &ydims[..]) {
                ([a, c, ..], [b, d, ..]) if a == b && c == d => x,
                ([a, c, ..], &[ref b, d]) if a == b && *c > 0 && d % c == 0 => {
                    let each = d / c;
                    Stats { channels: (0..d).map(|i| *x.channel(i / each)).collect(), ..x }
                }
                _ => x.collapsed(),
            },
            Move::Transpose if per_channel && attrs.sizes("perm").get(1) != Some(&1) => x.collapsed(),
            Move::Slice if per_channel => {
                let (starts, steps) = (attrs.sizes("starts"), attrs.sizes("steps"));
                let (start, step) = (*starts.get(1)?, *steps.get(1)?);
                Stats { channels: (0..*ydims.get(1)?).map(|i| *x.channel(start + i * step)).collect(), ..x }
            }
            Move::Pad => {
                let value = f64::from(attrs.float("value"));
                let at = Interval::new(value, value);
                let x = if xdims.get(1) == ydims.get(1) { x } else { x.collapsed() };
                x.map(x.hard.union(at), |c| Channel { soft: c.soft.union(at), ..*c })
            }
            Move::Where => {
                let other = self.operand(*operands.get(1)?)?;
                Stats::combine(&x, &other, x.hard.union(other.hard), |a, b| Channel {
                    mean: (a.mean + b.mean) / 2.0,
                    var: a.var.max(b.var),
                    soft: a.soft.union(b.soft),
                })
            }
            Move::TopK | Move::TopKIndex | Move::ArgMax | Move::MaxPoolIndex => x.collapsed(),
            Move::Gather | Move::Expand if per_channel && xdims.get(1) != ydims.get(1) => x.collapsed(),
            Move::Gather if per_channel => x.collapsed(),
            Move::Reshape | Move::Transpose | Move::Slice | Move::Gather | Move::Expand | Move::Cast => x,
        })
    }
}

fn binary(kind: Binary, a: &Stats, b: &Stats) -> Stats {
    let negative = b.hard.scale(-1.0);
    match kind {
        Binary::Add => Stats::combine(a, b, a.hard.add(b.hard), |a, b| Channel::sum(a, 1.0, b, 1.0)),
        Binary::Sub => Stats::combine(a, b, a.hard.add(negative), |a, b| Channel::sum(a, 1.0, b, -1.0)),
        Binary::Mul => Stats::combine(a, b, a.hard.mul(b.hard), Channel::product),
        Binary::Max | Binary::Min => {
            let pick = |a: f64, b: f64| if kind == Binary::Max { a.max(b) } else { a.min(b) };
            let both = |a: Interval, b: Interval| Interval::new(pick(a.lo, b.lo), pick(a.hi, b.hi));
            Stats::combine(a, b, both(a.hard, b.hard), |a, b| Channel {
                mean: pick(a.mean, b.mean),
                var: a.var.max(b.var),
                soft: both(a.soft, b.soft),
            })
        }
        Binary::PRelu => {
            let scaled = |a: Interval, b: Interval| {
                let negative = Interval::new(a.lo.min(0.0), a.hi.min(0.0)).mul(b);
                Interval::new(a.lo.max(0.0), a.hi.max(0.0)).union(negative)
            };
            Stats::combine(a, b, scaled(a.hard, b.hard), |a, b| Channel {
                soft: scaled(a.soft, b.soft),
                ..a.map(&|x| if x < 0.0 { x * b.mean } else { x })
            })
        }
        // Quotients and powers are bounded only where the divisor or exponent is a constant of one sign.
        Binary::Div | Binary::Pow => {
            let f = |x: f64, y: f64| if kind == Binary::Div { x / y } else { x.powf(y) };
            let (lo, hi) = (b.hard.lo, b.hard.hi);
            if kind == Binary::Div && lo <= 0.0 && hi >= 0.0 || kind == Binary::Pow && lo != hi {
                return Stats::of_interval(Interval::ALL);
            }
            let ends = a.map(Interval::ALL, |c| c.map(&|x| f(x, lo)));
            let other = a.map(Interval::ALL, |c| c.map(&|x| f(x, hi)));
            Stats::combine(&ends, &other, Interval::ALL, |a, b| Channel { soft: a.soft.union(b.soft), ..*a })
        }
    }
}
