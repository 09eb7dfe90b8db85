//! One figure after the other for the whole network: how often the integer model is right, agrees with the float one, and how much
//! noise its outputs have.

use std::sync::atomic::{AtomicUsize, Ordering};

use qcc_interp::{Evaluator, Threads};
use qcc_ir::{Graph, Tensor, ValueId, verify};
use qcc_passes::Samples;
use qcc_passes::context::Progress;
use rayon::prelude::*;
use serde::Serialize;

use super::classes::{Classes, TOP};
use super::interval;
use super::metrics::{self, Difference, Metric};
use super::noise::{self, Noise, stands_for_reals};
use crate::data::Dataset;
use crate::engine::{Engine, Io, Runner};
use crate::float_interface::Boundary;
use crate::{Compiled, Error};

/// How the integer model did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// Fraction of samples that the float model gets right; `None` without labels.
    pub float_top1: Option<f64>,
    /// Fraction of samples that the integer model gets right.
    pub int_top1: Option<f64>,
    /// Fraction of samples for which both give the same class; `None` for a model that gives no classes.
    pub agreement: Option<f64>,
    /// Why there are no classes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_classes: Option<String>,
    /// Signal-to-noise ratio of the output; `None` if the two are equal.
    pub sqnr_db: Option<f64>,
    /// Number of samples.
    pub samples: usize,
    /// Fraction of samples whose class the float model has among its five greatest outputs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub float_top5: Option<f64>,
    /// The same of the integer model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub int_top5: Option<f64>,
    /// Integer top-1 less float top-1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top1_difference: Option<Difference>,
    /// Integer top-5 less float top-5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top5_difference: Option<Difference>,
    /// Interval of 95 % of the agreement.
    pub agreement_interval: Option<(f64, f64)>,
    /// Interval of 95 % of the signal-to-noise ratio; `None` of a single call, and of no noise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sqnr_interval: Option<(f64, f64)>,
    /// Cosine of the angle between the outputs; of several outputs the worst.
    pub cosine: f64,
    /// Interval of 95 % of the cosine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cosine_interval: Option<(f64, f64)>,
    /// Each of several outputs on its own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<OutputNoise>,
}

/// One of several outputs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OutputNoise {
    /// Its name.
    pub name: String,
    /// Signal-to-noise ratio; `None` if there is no noise.
    pub sqnr_db: Option<f64>,
    /// Cosine of the angle between the float and the integer output.
    pub cosine: f64,
}

impl Comparison {
    /// What a metric gives: points in favour of the integer model for the shares of right samples, of samples that agree,
    /// decibels, or a cosine. `None` where it is not known.
    pub fn value(&self, metric: Metric) -> Option<f64> {
        let points = |int: Option<f64>, float: Option<f64>| Some(100.0 * (int? - float?));
        match metric {
            Metric::Top1 => points(self.int_top1, self.float_top1),
            Metric::Top5 => points(self.int_top5, self.float_top5),
            Metric::Agreement => points(self.agreement, Some(0.0)),
            Metric::Sqnr => Some(self.sqnr_db.unwrap_or(f64::INFINITY)),
            Metric::Cosine => Some(self.cosine),
        }
    }
}

/// What one call of both models gave.
struct Outcome {
    /// The classes that the float and the integer model give, for each sample of the batch.
    classes: Vec<(Vec<i64>, Vec<i64>)>,
    noise: Vec<Noise>,
}

/// How to compare.
#[derive(Clone, Default)]
pub struct CompareOptions {
    /// Threads, 0 for one a core.
    pub threads: usize,
    /// Told how many samples are done.
    pub progress: Option<Progress>,
    /// Added to every label, for models whose first class is something else.
    pub label_offset: i64,
    /// Calls that are compared, the first ones; all unless this says otherwise.
    pub calls: Option<usize>,
}

/// Compares over all samples; `engine` runs the integer model. The result does not depend on the number of threads.
pub fn compare(
    compiled: &Compiled,
    engine: &Engine,
    data: &Dataset,
    options: &CompareOptions,
) -> Result<Comparison, Error> {
    let classes = Classes::of(compiled.source(), data.batch());
    if let Ok(classes) = &classes {
        classes.check_labels(compiled.source(), data, options.label_offset)?;
    }
    let outcomes = outcomes(compiled, engine, data, options, classes.as_ref().ok().copied())?;
    Ok(summarize(compiled.source(), &outcomes, classes, data, options.label_offset))
}

/// For each output that counts, its noise in each call.
pub(crate) fn noises(
    compiled: &Compiled,
    engine: &Engine,
    data: &Dataset,
    options: &CompareOptions,
) -> Result<Vec<Vec<Noise>>, Error> {
    Ok(counted(compiled.source(), &outcomes(compiled, engine, data, options, None)?))
}

fn outcomes(
    compiled: &Compiled,
    engine: &Engine,
    data: &Dataset,
    options: &CompareOptions,
    which: Option<Classes>,
) -> Result<Vec<Outcome>, Error> {
    verify(compiled.source())?;
    let float = Evaluator::new(compiled.source());
    // Where the model itself gives codes, what they stand for is compared; it takes codes too, and the engine real numbers.
    let meaning = |values: &[ValueId]| -> Vec<Boundary> {
        values.iter().map(|&v| Boundary::of_type(compiled.source().ty(v))).collect()
    };
    let (ins, outs) = (meaning(compiled.source().inputs()), meaning(compiled.source().outputs()));
    let reals = |tensors: &[Tensor], of: &[Boundary]| -> Vec<Tensor> {
        tensors.iter().zip(of).map(|(t, b)| b.real(t)).collect()
    };
    let calls = data.len().min(options.calls.unwrap_or(usize::MAX));
    let done = AtomicUsize::new(0);
    let one = |runner: &mut Runner<'_>, i: usize| -> Result<Outcome, Error> {
        let inputs = data.get(i)?;
        let expected = reals(&float.run(&inputs)?, &outs);
        let found = runner.run(&reals(&inputs, &ins), Io::Float)?;
        let outcome = judge(&expected, &found, which, data.batch());
        if let Some(progress) = &options.progress {
            progress("compare", done.fetch_add(1, Ordering::Relaxed) + 1, calls);
        }
        Ok(outcome)
    };
    Threads::start(options.threads)?.run(|| {
        (0..calls).into_par_iter().map_init(|| engine.runner(), |runner, i| one(runner, i)).collect::<Result<_, _>>()
    })
}

/// The index of a class is a number, but its distance from another means nothing: it counts only if no output is real.
fn counted(model: &Graph, outcomes: &[Outcome]) -> Vec<Vec<Noise>> {
    let outputs = model.outputs();
    let real = |i: &usize| stands_for_reals(model.ty(outputs[*i]));
    let any_real = (0..outputs.len()).any(|i| real(&i));
    let chosen = (0..outputs.len()).filter(|i| real(i) || !any_real);
    chosen.map(|i| outcomes.iter().filter_map(|o| o.noise.get(i).copied()).collect()).collect()
}

/// The output with the least ratio, and that; without noise the first.
pub(crate) fn least(outputs: &[Vec<Noise>]) -> Option<(usize, f64)> {
    let ratios = outputs.iter().map(|calls| noise::total(calls).decibels().unwrap_or(f64::INFINITY));
    ratios.enumerate().min_by(|a, b| a.1.total_cmp(&b.1))
}

fn judge(expected: &[Tensor], found: &[Tensor], classes: Option<Classes>, batch: usize) -> Outcome {
    let noise = expected.iter().zip(found).map(|(e, f)| Noise::of(e, f)).collect();
    let read = |outputs: &[Tensor]| classes.map_or(Vec::new(), |c| c.read(outputs, batch));
    Outcome { classes: read(expected).into_iter().zip(read(found)).collect(), noise }
}

fn summarize(
    model: &Graph,
    outcomes: &[Outcome],
    which: Result<Classes, String>,
    data: &Dataset,
    label_offset: i64,
) -> Comparison {
    let classes: Vec<&(Vec<i64>, Vec<i64>)> = outcomes.iter().flat_map(|o| &o.classes).collect();
    let mut noise: Vec<Noise> = Vec::new();
    for outcome in outcomes {
        noise.resize(noise.len().max(outcome.noise.len()), Noise::default());
        noise.iter_mut().zip(&outcome.noise).for_each(|(all, &one)| all.merge(one));
    }
    let names = model.outputs().iter().map(|&v| model.name_of(v).to_string());
    let outputs: Vec<OutputNoise> =
        names.zip(&noise).map(|(name, n)| OutputNoise { name, sqnr_db: n.decibels(), cosine: n.cosine() }).collect();
    let counted = counted(model, outcomes);
    let worst = least(&counted).and_then(|(i, _)| counted.get(i));
    let cosine = |calls: &Vec<Noise>| noise::total(calls).cosine();
    let least_cosine = counted.iter().min_by(|a, b| cosine(a).total_cmp(&cosine(b)));
    let judged = classes.len();
    let share = |count: usize| count as f64 / judged.max(1) as f64;
    // Shares that are right among the first `k`, and their difference.
    let right = |k: usize| {
        let labels = data.labels().filter(|_| which.is_ok())?;
        let hit = |top: &[i64], label: &i64| top.iter().take(k).any(|&c| c == *label + label_offset);
        let hits: Vec<(bool, bool)> = classes.iter().zip(labels).map(|(c, l)| (hit(&c.0, l), hit(&c.1, l))).collect();
        let count = |which: fn(&(bool, bool)) -> bool| hits.iter().filter(|h| which(h)).count();
        let difference = Difference::paired(hits.len(), count(|h| h.0 && !h.1), count(|h| !h.0 && h.1));
        Some((share(count(|h| h.0)), share(count(|h| h.1)), difference))
    };
    // A class that is given alone is the only one there is.
    let (top1, top5) = (right(1), right(TOP).filter(|_| !matches!(which, Ok(Classes::Index(_)))));
    let agreeing = classes.iter().filter(|c| c.0.first() == c.1.first()).count();
    Comparison {
        float_top1: top1.map(|t| t.0),
        int_top1: top1.map(|t| t.1),
        agreement: which.is_ok().then(|| share(agreeing)),
        agreement_interval: which.is_ok().then(|| metrics::share_interval(judged, agreeing)),
        no_classes: which.err(),
        sqnr_db: worst.and_then(|calls| noise::total(calls).decibels()),
        sqnr_interval: worst.and_then(|calls| interval::decibels(calls)),
        samples: outcomes.len() * data.batch(),
        float_top5: top5.map(|t| t.0),
        int_top5: top5.map(|t| t.1),
        top1_difference: top1.map(|t| t.2),
        top5_difference: top5.map(|t| t.2),
        cosine: least_cosine.map_or(1.0, cosine),
        cosine_interval: least_cosine.and_then(|calls| interval::cosine(calls)),
        outputs: if outputs.len() > 1 { outputs } else { Vec::new() },
    }
}
