//! What an operation makes of the statistics of its operands.

use qcc_ir::ops::{Binary, Contract, Move, Norm, Pool, Reduce};
use qcc_ir::{Class, NodeId, Opcode, Uniform, ValueId, attr};

use super::Analysis;
use crate::constants;
use crate::constants::reals;
use crate::layer::QuantLayer;
use crate::ranges::moments::{Channel, Interval, Stats};
use crate::rewrite::floats;

impl Analysis<'_> {
    /// Statistics of the result, if the operation tells anything of it.
    pub(super) fn transfer(&mut self, n: NodeId) -> Option<Stats> {
        let g = self.g;
        let node = g.node(n);
        let operands = g.operands(n);
        if let (Opcode::DCast, Some(u)) = (node.op, g.ty(operands[0]).uniform()) {
            return representable(u);
        }
        let x = self.operand(*operands.first()?)?;
        Some(match node.op.info().class {
            Class::Unary(f) => x.apply(&node.attrs, f),
            Class::Binary(Binary::Add) if self.sentinels.contains_key(&g.result(n)) => self.masked_sum(n)?,
            Class::Binary(kind) => binary(kind, &x, &self.operand(*operands.get(1)?)?),
            Class::Contract(Contract::MatMul) => self.product(n, &x)?,
            Class::Contract(Contract::Conv2d | Contract::Linear) => self.layer(n, &x)?,
            Class::Pool(Pool::Max) => x,
            Class::Pool(Pool::Average) => {
                let padded = node.attrs.get(attr::PADS).iter().any(|&p| p != 0);
                let zero = Interval::new(0.0, 0.0);
                let hard = if padded { x.hard.union(zero) } else { x.hard };
                x.map(hard, |c| Channel { soft: if padded { c.soft.union(zero) } else { c.soft }, ..*c })
            }
            Class::Reduce(kind) => self.reduced(kind, n, x),
            Class::Norm(kind) => self.normalized(kind, n, &x)?,
            Class::Move(kind) => self.moved(kind, n, x)?,
            Class::Cast(_) | Class::Int(_) => return None,
        })
    }

    /// A sum of which a constant operand masks elements: what it adds to the others.
    fn masked_sum(&self, n: NodeId) -> Option<Stats> {
        let g = self.g;
        let sentinel = self.sentinels.get(&g.result(n))?;
        let mut sum = Stats::of_interval(Interval::new(0.0, 0.0));
        for v in g.operands(n) {
            let term = match floats(g, v) {
                Some((_, data)) => {
                    let kept = || data.iter().copied().filter(|&x| !sentinel.is(x)).map(f64::from);
                    let (lo, hi) = (kept().fold(f64::INFINITY, f64::min), kept().fold(f64::NEG_INFINITY, f64::max));
                    Stats::of_interval(if lo <= hi { Interval::new(lo, hi) } else { Interval::new(0.0, 0.0) })
                }
                None => self.operand(v)?,
            };
            sum = binary(Binary::Add, &sum, &term);
        }
        Some(sum)
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

    /// A product of two computed matrices.
    fn product(&self, n: NodeId, x: &Stats) -> Option<Stats> {
        let operands = self.g.operands(n);
        let other = self.operand(operands[1])?;
        let terms = *self.g.ty(operands[0]).dims.last()? as f64;
        let (a, b) = (x.collapsed(), other.collapsed());
        let one = Channel::product(a.channel(0), b.channel(0));
        let alpha = f64::from(self.g.node(n).attrs.get(attr::ALPHA));
        let hard = a.hard.mul(b.hard).scale(terms * alpha);
        let channel = Channel::normal(one.mean * terms * alpha, one.var * terms * alpha * alpha, self.k);
        Some(Stats::uniform(hard, channel).bounded())
    }

    fn reduced(&self, kind: Reduce, n: NodeId, x: Stats) -> Stats {
        let g = self.g;
        let (from, to) = (g.ty(g.operands(n)[0]), g.ty(g.result(n)));
        let kept = to.dims.get(1) == from.dims.get(1) && !g.node(n).attrs.sizes(attr::AXES).contains(&1);
        let x = if kept { x } else { x.collapsed() };
        let count = from.elements() as f64 / (to.elements() as f64).max(1.0);
        match kind {
            Reduce::Mean | Reduce::Max | Reduce::Min => x,
            Reduce::Sum => x.map(x.hard.scale(count), |c| Channel {
                mean: c.mean * count,
                var: c.var * count * count,
                soft: c.soft.scale(count),
            }),
        }
    }

    fn normalized(&mut self, kind: Norm, n: NodeId, x: &Stats) -> Option<Stats> {
        let g = self.g;
        let (operands, attrs) = (g.operands(n), &g.node(n).attrs);
        let xdims = &g.ty(operands[0]).dims;
        Some(match kind {
            Norm::Batch => {
                let (a, b) = constants::batch_norm(g, n)?;
                self.norms += 1;
                let gamma = floats(g, operands[1])?.1;
                let beta = floats(g, operands[2])?.1;
                let hard = a.iter().zip(&b).map(|(&a, &b)| x.hard.scale(a).add(Interval::new(b, b)));
                let hard = hard.reduce(Interval::union)?;
                let channel = |(&g, &b): (&f32, &f32)| Channel::normal(f64::from(b), f64::from(g).powi(2), self.k);
                Stats { hard, channels: gamma.iter().zip(beta).map(channel).collect() }.bounded()
            }
            Norm::Layer => {
                let (gamma, beta) = (floats(g, operands[1])?.1, floats(g, operands[2])?.1);
                let axis = usize::try_from(attrs.get(attr::AXIS)).ok()?;
                let row: usize = xdims.get(axis..)?.iter().product();
                // No element of a row is further from its mean than the square root of its length, in deviations.
                let reach = (row as f64).sqrt();
                let each = |i: usize| (f64::from(gamma[i % gamma.len()]), f64::from(beta[i % beta.len()]));
                let all = (0..gamma.len().max(beta.len())).map(each);
                let hard = all.clone().map(|(g, b)| Interval::new(b - g.abs() * reach, b + g.abs() * reach));
                let channels = all.map(|(g, b)| Channel::normal(b, g * g, self.k)).collect();
                Stats { hard: hard.reduce(Interval::union)?, channels }.bounded().collapsed()
            }
            Norm::Softmax => {
                let axis = usize::try_from(attrs.get(attr::AXIS)).ok()?;
                let mean = 1.0 / *xdims.get(axis)? as f64;
                let all = Interval::new(0.0, 1.0);
                Stats::uniform(all, Channel { mean, var: mean * mean, soft: all })
            }
        })
    }

    /// A convolution or linear layer, channel by channel through its weights.
    fn layer(&self, n: NodeId, x: &Stats) -> Option<Stats> {
        let g = self.g;
        let layer = QuantLayer::read(g, n).ok()?;
        let tensor = reals(g, g.operands(n)[1])?;
        let (w, bias, outputs) = (tensor.as_f32()?, layer.real_bias()?, layer.outputs());
        let padded = layer.window.is_some_and(|w| w.pads != [0; 4]);
        let zero = Interval::new(0.0, 0.0);
        let inside = if padded { x.hard.union(zero) } else { x.hard };
        let alike = x.collapsed();
        let x = if layer.reads_channels() { x } else { &alike };
        let mut channels = Vec::with_capacity(outputs);
        let mut hard: Option<Interval> = None;
        for (o, row) in w.chunks(layer.depth().max(1)).enumerate() {
            let d = bias.get(o).map_or(0.0, |&b| f64::from(b));
            let (mut mean, mut var, mut certain) = (d, 0.0, Interval::new(d, d));
            for (i, &w) in row.iter().enumerate() {
                let w = f64::from(w);
                let c = x.channel(layer.input_channel(o, i));
                mean += w * c.mean;
                var += w * w * c.var;
                certain = certain.add(inside.scale(w));
            }
            channels.push(Channel::normal(mean, var, self.k));
            hard = Some(hard.map_or(certain, |h| h.union(certain)));
        }
        let stats = Stats { hard: hard?, channels }.bounded();
        Some(if layer.window.is_some() || layer.output.dims.len() == 2 { stats } else { stats.collapsed() })
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
                if attrs.get(attr::AXIS) == 1 { all } else { all.collapsed() }
            }
            Move::Reshape if per_channel => match (&xdims[..], &ydims[..]) {
                ([a, c, ..], [b, d, ..]) if a == b && c == d => x,
                ([a, c, ..], &[ref b, d]) if a == b && *c > 0 && d % c == 0 => {
                    let each = d / c;
                    Stats { channels: (0..d).map(|i| *x.channel(i / each)).collect(), ..x }
                }
                _ => x.collapsed(),
            },
            Move::Transpose if per_channel && attrs.sizes(attr::PERM).get(1) != Some(&1) => x.collapsed(),
            Move::Slice if per_channel => {
                let (starts, steps) = (attrs.sizes(attr::STARTS), attrs.sizes(attr::STEPS));
                let (start, step) = (*starts.get(1)?, *steps.get(1)?);
                Stats { channels: (0..*ydims.get(1)?).map(|i| *x.channel(start + i * step)).collect(), ..x }
            }
            // Sentinels saturate: what they are merged with has the range.
            Move::Pad if self.sentinels.contains_key(&g.result(n)) => {
                if xdims.get(1) == ydims.get(1) {
                    x
                } else {
                    x.collapsed()
                }
            }
            Move::Where if self.sentinels.contains_key(&g.result(n)) => {
                let computed = operands[..2].iter().find(|&&v| g.constant(v).is_none());
                self.operand(*computed.unwrap_or(&operands[0]))?
            }
            Move::Pad => {
                let value = f64::from(attrs.get(attr::VALUE));
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
            Move::Gather if per_channel => x.collapsed(),
            Move::Expand if per_channel && xdims.get(1) != ydims.get(1) => x.collapsed(),
            Move::Reshape | Move::Transpose | Move::Slice | Move::Gather | Move::Expand | Move::Cast => x,
        })
    }
}

/// All numbers that a quantized type stands for.
fn representable(u: &Uniform) -> Option<Stats> {
    let ends = |s: f32, z: i64| Interval::new(f64::from(s) * (u.min() - z) as f64, f64::from(s) * (u.max() - z) as f64);
    let all = u.scales.iter().zip(&u.zero_points).map(|(&s, &z)| ends(s, z)).reduce(Interval::union)?;
    Some(Stats::of_interval(all))
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
