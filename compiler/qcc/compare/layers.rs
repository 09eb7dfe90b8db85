//! Which layer does the damage: integer values beside the float values that they stand for.
//!
//! An integer operator often does the work of several float ones (convolution, normalization, activation) under a name
//! derived from one of them. So the candidates for an integer value are the float value of that name and those that follow it
//! in a chain; the one that it is nearest to is the one that it stands for.
//!
//! Where a run finds the scales, the scale of a value is taken to be the one with the least noise.

use std::collections::{HashMap, HashSet};

use qcc_interp::Evaluator;
use qcc_ir::{Graph, Tensor, Uniform, ValueId};
use qcc_passes::Samples;

use super::noise::{Noise, reals};
use super::report::LayerReport;
use crate::data::Dataset;
use crate::float_interface::{Boundary, dynamic_scales};
use crate::{Compiled, Error};

/// Most float operators that one integer operator stands for.
const CHAIN: usize = 5;

/// Running sums of one value.
#[derive(Debug, Clone, Copy)]
struct Sums {
    noise: Noise,
    product: f64,
    power: f64,
    range: (f64, f64),
    int_range: (f64, f64),
}

const NOTHING: (f64, f64) = (f64::INFINITY, f64::NEG_INFINITY);

impl Default for Sums {
    fn default() -> Sums {
        Sums { noise: Noise::default(), product: 0.0, power: 0.0, range: NOTHING, int_range: NOTHING }
    }
}

/// Compares the first `limit` calls, value by value; the most damaging first.
pub fn layers(compiled: &Compiled, data: &Dataset, limit: usize) -> Result<Vec<LayerReport>, Error> {
    let (float_graph, graph) = (compiled.source(), compiled.graph());
    let (float, int) = (Evaluator::new(float_graph), Evaluator::new(graph));
    let candidates: HashMap<ValueId, Vec<ValueId>> = graph
        .values()
        .filter(|&v| graph.constant(v).is_none() && graph.ty(v).uniform().is_some_and(|u| u.axis.is_none()))
        .map(|v| (v, candidates(float_graph, graph.name_of(v), graph.ty(v).elements())))
        .filter(|(_, c)| !c.is_empty())
        .collect();
    let wanted: HashSet<ValueId> = candidates.values().flatten().copied().collect();
    let boundary: Vec<Boundary> = graph.inputs().iter().map(|&v| Boundary::of_type(graph.ty(v))).collect();
    let names: Vec<_> =
        graph.inputs().iter().map(|&v| (graph.name_of(v).to_string(), graph.ty(v).dims.clone())).collect();
    let scales = dynamic_scales(&names, &boundary);
    let is_fixed = scales.iter().all(Option::is_none);
    let mut all: HashMap<ValueId, Vec<Sums>> = HashMap::new();
    for i in 0..data.len().min(limit) {
        let inputs = data.get(i)?;
        let mut seen: HashMap<ValueId, Tensor> = HashMap::new();
        float.run_observed(&inputs, &mut |f, tensor| {
            if wanted.contains(&f) {
                // Of a model that is quantized already, what its codes stand for.
                seen.insert(f, Boundary::of_type(float_graph.ty(f)).real(tensor));
            }
        })?;
        let meaning = |(&v, tensor): (&ValueId, &Tensor)| Boundary::of_type(float_graph.ty(v)).real(tensor);
        let reals: Vec<Tensor> = float_graph.inputs().iter().zip(&inputs).map(meaning).collect();
        let stored = Boundary::store_all(&boundary, &scales, &reals);
        int.run_observed(&stored, &mut |v, tensor| {
            let (Some(candidates), Some(u)) = (candidates.get(&v), graph.ty(v).uniform()) else { return };
            let sums = all.entry(v).or_insert_with(|| vec![Sums::default(); candidates.len()]);
            for (sums, f) in sums.iter_mut().zip(candidates) {
                seen.get(f).into_iter().for_each(|f| sums.observe(f, tensor, u, is_fixed));
            }
        })?;
    }
    let nearest = |of: Vec<Sums>| {
        let observed = of.into_iter().filter(|s| s.range.0 <= s.range.1);
        observed.max_by(|a, b| a.ratio().total_cmp(&b.ratio()))
    };
    let sums: HashMap<ValueId, Sums> = all.into_iter().filter_map(|(v, s)| Some((v, nearest(s)?))).collect();
    let mut found: Vec<LayerReport> = sums.iter().map(|(&v, s)| s.layer(graph, v, &sums)).collect();
    found.sort_by(|a, b| b.loss_db.total_cmp(&a.loss_db).then_with(|| a.name.cmp(&b.name)));
    Ok(found)
}

/// The float value after which `name` is called, and what follows it as long as it has one user and keeps its size.
fn candidates(graph: &Graph, name: &str, elements: usize) -> Vec<ValueId> {
    // Passes add suffixes: `conv.nhwc.1`.
    let prefixes = std::iter::successors(Some(name), |n| n.rsplit_once('.').map(|(prefix, _)| prefix));
    let first = prefixes.into_iter().find_map(|n| graph.find(n)).filter(|&v| graph.constant(v).is_none());
    let next = |&v: &ValueId| graph.only_user(v).map(|n| graph.result(n));
    std::iter::successors(first, next).take(CHAIN).take_while(|&v| graph.ty(v).elements() == elements).collect()
}

impl Sums {
    /// Signal to noise, for comparing candidates.
    fn ratio(&self) -> f64 {
        self.noise.signal / self.noise.noise.max(f64::MIN_POSITIVE)
    }

    /// `is_fixed`: the scale is that of the type.
    fn observe(&mut self, float: &Tensor, int: &Tensor, u: &Uniform, is_fixed: bool) {
        let zero = u.zero_point() as f64;
        let codes: Vec<f64> = reals(int).into_iter().map(|q| q - zero).collect();
        let float_values = reals(float);
        // Integer graphs are NHWC in their interior; where the shape does not tell, the order with less noise is the right one.
        let mut best: Option<Sums> = None;
        for order in [Order::Same, Order::Nhwc] {
            let fits = match order {
                Order::Same => float.dims == int.dims,
                Order::Nhwc => matches!((float.dims.as_slice(), int.dims.as_slice()),
                    (&[n, c, h, w], &[m, y, x, d]) if (n, c, h, w) == (m, d, y, x)),
            };
            if !fits {
                continue;
            }
            let mut sums = Sums::default();
            let pairs = || float_values.iter().enumerate().map(|(i, &f)| (f, codes[order.position(i, &float.dims)]));
            let scale = if is_fixed { f64::from(u.scale()) } else { nearest_scale(pairs()) };
            pairs().for_each(|(f, q)| sums.add(f, scale * q));
            sums.int_range = (scale * (u.min() as f64 - zero), scale * (u.max() as f64 - zero));
            if best.is_none_or(|b| sums.noise.noise < b.noise.noise) {
                best = Some(sums);
            }
        }
        if let Some(sums) = best {
            self.noise.merge(sums.noise);
            self.product += sums.product;
            self.power += sums.power;
            let union = |a: (f64, f64), b: (f64, f64)| (a.0.min(b.0), a.1.max(b.1));
            self.range = union(self.range, sums.range);
            self.int_range = union(self.int_range, sums.int_range);
        }
    }

    fn add(&mut self, float: f64, int: f64) {
        self.noise.add(float, int);
        self.product += float * int;
        self.power += int * int;
        self.range = (self.range.0.min(float), self.range.1.max(float));
    }

    fn layer(&self, graph: &Graph, v: ValueId, all: &HashMap<ValueId, Sums>) -> LayerReport {
        let own = self.noise.decibels();
        let before = sources(graph, v, all).filter_map(|s| all[&s].noise.decibels()).reduce(f64::min);
        let norm = (self.noise.signal * self.power).sqrt();
        LayerReport {
            name: graph.name_of(v).to_string(),
            op: graph.producer(v).map_or("input", |n| graph.op(n).name()).to_string(),
            sqnr_db: own,
            loss_db: match (before, own) {
                (Some(before), Some(own)) => before - own,
                _ => 0.0,
            },
            cosine: if norm > 0.0 { self.product / norm } else { 1.0 },
            float_range: self.range,
            int_range: self.int_range,
            damage: None,
        }
    }
}

/// The nearest values before `v` that were compared.
fn sources<'a>(graph: &'a Graph, v: ValueId, all: &'a HashMap<ValueId, Sums>) -> impl Iterator<Item = ValueId> + 'a {
    let mut open = vec![v];
    let mut seen = HashSet::new();
    std::iter::from_fn(move || {
        loop {
            let next = open.pop()?;
            if next != v && all.contains_key(&next) {
                return Some(next);
            }
            let operands = graph.producer(next).map(|n| graph.operands(n)).unwrap_or_default();
            open.extend(operands.into_iter().filter(|&o| seen.insert(o)));
        }
    })
}

/// The scale with which codes are nearest to real numbers.
fn nearest_scale(pairs: impl Iterator<Item = (f64, f64)>) -> f64 {
    let (product, power) = pairs.fold((0.0, 0.0), |(product, power), (f, q)| (product + f * q, power + q * q));
    if power > 0.0 { product / power } else { 0.0 }
}

/// How the elements of the integer value are ordered.
#[derive(Clone, Copy)]
enum Order {
    Same,
    Nhwc,
}

impl Order {
    /// Where element `i` of the float value is in the integer value.
    fn position(self, i: usize, dims: &[usize]) -> usize {
        match (self, dims) {
            (Order::Nhwc, &[_, c, h, w]) => {
                let (n, channel, y, x) = (i / (c * h * w), i / (h * w) % c, i / w % h, i % w);
                ((n * h + y) * w + x) * c + channel
            }
            _ => i,
        }
    }
}
