//! What samples show of the values of a model, in floats and in codes, and what follows from an integer graph alone: room of
//! accumulators, and the integer constants of its equations.

use std::collections::BTreeMap;

use qcc_interp::Evaluator;
use qcc_ir::{Data, Diag, Graph, Tensor, ValueId};
use qcc_passes::{Samples, accumulator_bounds};
use serde::Serialize;

use crate::compare::LayerReport;
use crate::data::Dataset;
use crate::float_interface::{Boundary, dynamic_scales};
use crate::{Compiled, Error};

/// Most bars of a histogram.
const BARS: usize = 64;

/// Most elements of a constant that is shown number by number.
const NUMBERS: usize = 4096;

/// How often values occur.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Histogram {
    /// Where the first bar begins.
    pub min: f64,
    /// Where the last bar ends.
    pub max: f64,
    /// Share of elements in each of the bars, which are equally wide.
    pub shares: Vec<f64>,
}

/// The values of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Default)]
pub struct Values {
    /// What was evaluated, in words.
    pub samples: String,
    /// Values of the model as it was read.
    pub floats: BTreeMap<String, Histogram>,
    /// Codes of the values of the integer graph.
    pub codes: BTreeMap<String, Histogram>,
    /// The integer graph beside the float model, by its values.
    pub layers: BTreeMap<String, LayerReport>,
    /// Least and greatest accumulator of each layer that is possible, for any input.
    pub accumulators: BTreeMap<String, (i64, i64)>,
    /// Integer constants of the integer graph, those of 8 bits apart: multipliers, offsets and biases by channel.
    pub constants: BTreeMap<String, Vec<i64>>,
    /// Codes of weights.
    pub weights: BTreeMap<String, Histogram>,
}

/// What an integer graph says without samples.
pub fn without_samples(graph: &Graph) -> Values {
    let mut values = Values::default();
    for n in graph.order() {
        let bounds = accumulator_bounds(graph, n).unwrap_or_default();
        let ends = bounds.into_iter().reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)));
        values.accumulators.extend(ends.map(|ends| (graph.name_of(graph.result(n)).to_string(), ends)));
    }
    for (v, tensor) in graph.constants() {
        let name = graph.name_of(v).to_string();
        match &tensor.data {
            Data::I8(codes) => {
                values.weights.insert(name, weights(codes));
            }
            Data::F32(_) | Data::U8(_) => {}
            data if data.len() <= NUMBERS => {
                values.constants.insert(name, integers(data));
            }
            _ => {}
        }
    }
    values
}

impl Values {
    /// Adds what `calls` calls of the model show, the first ones of `data`; `layers` are those of the same calls.
    pub fn observe(
        &mut self,
        compiled: &Compiled,
        data: &Dataset,
        calls: usize,
        layers: Vec<LayerReport>,
    ) -> Result<(), Error> {
        let (source, graph) = (compiled.source(), compiled.graph());
        let (float, int) = (Evaluator::new(source), Evaluator::new(graph));
        let boundary: Vec<Boundary> = graph.inputs().iter().map(|&v| Boundary::of_type(graph.ty(v))).collect();
        let names: Vec<_> =
            graph.inputs().iter().map(|&v| (graph.name_of(v).to_string(), graph.ty(v).dims.clone())).collect();
        let scales = dynamic_scales(&names, &boundary);
        let meaning: Vec<Boundary> = source.inputs().iter().map(|&v| Boundary::of_type(source.ty(v))).collect();
        let run = |show: &mut dyn FnMut(Form, ValueId, &Tensor)| -> Result<(), Diag> {
            for i in 0..data.len().min(calls) {
                let inputs = data.get(i)?;
                float.run_observed(&inputs, &mut |v, tensor| show(Form::Float, v, tensor))?;
                let reals: Vec<Tensor> = meaning.iter().zip(&inputs).map(|(b, t)| b.real(t)).collect();
                let stored = Boundary::store_all(&boundary, &scales, &reals);
                int.run_observed(&stored, &mut |v, tensor| show(Form::Codes, v, tensor))?;
            }
            Ok(())
        };
        // Where bars are follows from the ranges, which are seen first.
        let mut ranges: BTreeMap<(Form, ValueId), (f64, f64)> = BTreeMap::new();
        run(&mut |form, v, tensor| {
            let range = ranges.entry((form, v)).or_insert((f64::INFINITY, f64::NEG_INFINITY));
            numbers(tensor, |x| *range = (range.0.min(x), range.1.max(x)));
        })?;
        let mut counts: BTreeMap<(Form, ValueId), Counts> = BTreeMap::new();
        for (&(form, v), &range) in &ranges {
            let own = match form {
                Form::Float => Counts::of_reals(range),
                Form::Codes => {
                    let known = graph.ty(v).uniform().map(|u| (u.min() as f64, u.max() as f64));
                    Counts::of_integers(known.unwrap_or(range))
                }
            };
            counts.insert((form, v), own);
        }
        run(&mut |form, v, tensor| {
            if let Some(counts) = counts.get_mut(&(form, v)) {
                numbers(tensor, |x| counts.add(x));
            }
        })?;
        for ((form, v), counts) in counts {
            match form {
                Form::Float => self.floats.insert(source.name_of(v).to_string(), counts.histogram()),
                Form::Codes => self.codes.insert(graph.name_of(v).to_string(), counts.histogram()),
            };
        }
        self.layers = layers.into_iter().map(|l| (l.name.clone(), l)).collect();
        Ok(())
    }
}

/// Of which graph a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Form {
    Float,
    Codes,
}

/// Elements that were counted in bars.
struct Counts {
    begin: f64,
    width: f64,
    bars: Vec<u64>,
}

impl Counts {
    /// Of real numbers between two ends.
    fn of_reals((lo, hi): (f64, f64)) -> Counts {
        Counts { begin: lo, width: (hi - lo) / BARS as f64, bars: vec![0; BARS] }
    }

    /// Of integers between two ends: each bar has as many.
    fn of_integers((lo, hi): (f64, f64)) -> Counts {
        let integers = (hi - lo + 1.0).max(1.0);
        let width = (integers / BARS as f64).ceil();
        Counts { begin: lo, width, bars: vec![0; (integers / width).ceil() as usize] }
    }

    fn add(&mut self, x: f64) {
        if x.is_finite() {
            let place = if self.width > 0.0 { (x - self.begin) / self.width } else { 0.0 };
            let last = self.bars.len() - 1;
            self.bars[(place.max(0.0) as usize).min(last)] += 1;
        }
    }

    fn histogram(self) -> Histogram {
        let all = self.bars.iter().sum::<u64>().max(1) as f64;
        let finite = |x: f64| if x.is_finite() { x } else { 0.0 };
        let (min, max) = (finite(self.begin), finite(self.begin + self.width * self.bars.len() as f64));
        // Four digits are more than a bar shows.
        let shares = self.bars.into_iter().map(|n| (n as f64 / all * 1e4).round() / 1e4).collect();
        Histogram { min, max, shares }
    }
}

/// Codes of weights, to either side of zero.
fn weights(codes: &[i8]) -> Histogram {
    let end = codes.iter().map(|q| q.unsigned_abs()).max().unwrap_or(0);
    let mut counts = Counts::of_integers((-f64::from(end), f64::from(end)));
    codes.iter().for_each(|&q| counts.add(q.into()));
    counts.histogram()
}

fn numbers(tensor: &Tensor, mut show: impl FnMut(f64)) {
    qcc_ir::for_data!(&tensor.data, v => v.iter().for_each(|&x| show(x as f64)));
}

#[expect(clippy::unnecessary_cast, reason = "one of the kinds of data has 64 bits already")]
fn integers(data: &Data) -> Vec<i64> {
    qcc_ir::for_data!(data, v => v.iter().map(|&x| x as i64).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_hold_every_finite_number() {
        let h = weights(&[-127, 0, 1, 63]);
        assert_eq!((h.min, h.max, h.shares.len()), (-127.0, 129.0, 64));
        assert_eq!((h.shares[0], h.shares[31], h.shares[32], h.shares[47]), (0.25, 0.25, 0.25, 0.25));
        assert_eq!(weights(&[-1, 0, 1, 1]).shares, [0.25, 0.25, 0.5]);
        let mut counts = Counts::of_reals((2.0, 2.0));
        [2.0, f64::NAN, f64::INFINITY].into_iter().for_each(|x| counts.add(x));
        assert_eq!(counts.histogram().shares[0], 1.0);
        let mut counts = Counts::of_reals((-1.0, 1.0));
        [-1.0, 0.0, 1.0, 1.0].into_iter().for_each(|x| counts.add(x));
        let h = counts.histogram();
        assert_eq!((h.shares[0], h.shares[BARS / 2], h.shares[BARS - 1]), (0.25, 0.25, 0.5));
    }
}
