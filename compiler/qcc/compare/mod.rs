//! The integer model against the float one: accuracy on labelled samples, agreement, and noise.
//!
//! Signal-to-quantization-noise ratio: `SQNR = 10 log10(sum f^2 / sum (f - q)^2)` in decibels, over all samples, `f` being
//! the float result and `q` the real number that the integer result stands for. Of several outputs the worst counts.

mod layers;
mod metrics;
pub(crate) mod noise;

use std::sync::atomic::{AtomicUsize, Ordering};

use qcc_interp::Evaluator;
use qcc_ir::diag::Code;
use qcc_ir::{Tensor, verify};
use qcc_passes::Samples;
use qcc_passes::context::Progress;
use rayon::prelude::*;
use serde::Serialize;

pub use crate::engine::{Engine, Io, Runner};
pub use layers::{Layer, layers};
pub use metrics::{Difference, Metric};
use noise::Noise;

use crate::data::Dataset;
use crate::{Compiled, Error};

/// How the integer model did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// Fraction of samples that the float model gets right; `None` without labels.
    pub float_top1: Option<f64>,
    /// Fraction of samples that the integer model gets right.
    pub int_top1: Option<f64>,
    /// Fraction of samples for which both give the same class.
    pub agreement: f64,
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
    pub agreement_interval: (f64, f64),
    /// Cosine of the angle between the outputs; of several outputs the worst.
    pub cosine: f64,
}

/// What one call of both models gave.
struct Outcome {
    /// The five greatest outputs of the float and of the integer model, for each sample of the batch.
    classes: Vec<(Vec<usize>, Vec<usize>)>,
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
}

/// Compares over all samples; `engine` runs the integer model. The result does not depend on the number of threads.
pub fn compare(
    compiled: &Compiled,
    engine: &Engine,
    data: &Dataset,
    options: &CompareOptions,
) -> Result<Comparison, Error> {
    verify(compiled.source())?;
    let float = Evaluator::new(compiled.source());
    let calls = data.len();
    let done = AtomicUsize::new(0);
    let one = |runner: &mut Runner<'_>, i: usize| -> Result<Outcome, Error> {
        let inputs = data.get(i)?;
        let expected = float.run(&inputs)?;
        let found = runner.run(&inputs, Io::Float)?;
        let outcome = judge(&expected, &found, data.batch());
        if let Some(progress) = &options.progress {
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, calls);
        }
        Ok(outcome)
    };
    let fail = |e| Error::new(Code::TARGET, format!("cannot start threads: {e}"));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(options.threads).build().map_err(fail)?;
    let outcomes: Vec<Outcome> = pool.install(|| {
        (0..calls).into_par_iter().map_init(|| engine.runner(), |runner, i| one(runner, i)).collect::<Result<_, _>>()
    })?;
    Ok(summarize(&outcomes, data, options.label_offset))
}

fn judge(expected: &[Tensor], found: &[Tensor], batch: usize) -> Outcome {
    let mut noise = Vec::with_capacity(expected.len());
    let mut classes = Vec::new();
    for (i, (e, f)) in expected.iter().zip(found).enumerate() {
        let (e, f) = (reals(e), reals(f));
        let mut sum = Noise::default();
        e.iter().zip(&f).for_each(|(&a, &b)| sum.add(a, b));
        noise.push(sum);
        if i == 0 {
            let row = (e.len() / batch).max(1);
            classes = e.chunks(row).zip(f.chunks(row)).map(|(e, f)| (top(e), top(f))).collect();
        }
    }
    Outcome { classes, noise }
}

fn summarize(outcomes: &[Outcome], data: &Dataset, label_offset: i64) -> Comparison {
    let classes: Vec<&(Vec<usize>, Vec<usize>)> = outcomes.iter().flat_map(|o| &o.classes).collect();
    let mut noise: Vec<Noise> = Vec::new();
    for outcome in outcomes {
        noise.resize(noise.len().max(outcome.noise.len()), Noise::default());
        noise.iter_mut().zip(&outcome.noise).for_each(|(all, &one)| all.merge(one));
    }
    let samples = classes.len();
    let share = |count: usize| count as f64 / samples.max(1) as f64;
    // Shares that are right among the first `k`, and their difference.
    let right = |k: usize| {
        let labels = data.labels()?;
        let hit =
            |top: &[usize], label: &i64| top.iter().take(k).any(|&c| i64::try_from(c) == Ok(*label + label_offset));
        let hits: Vec<(bool, bool)> = classes.iter().zip(labels).map(|(c, l)| (hit(&c.0, l), hit(&c.1, l))).collect();
        let count = |which: fn(&(bool, bool)) -> bool| hits.iter().filter(|h| which(h)).count();
        let difference = Difference::paired(hits.len(), count(|h| h.0 && !h.1), count(|h| !h.0 && h.1));
        Some((share(count(|h| h.0)), share(count(|h| h.1)), difference))
    };
    let (top1, top5) = (right(1), right(TOP));
    let agreeing = classes.iter().filter(|c| c.0.first() == c.1.first()).count();
    Comparison {
        float_top1: top1.map(|t| t.0),
        int_top1: top1.map(|t| t.1),
        agreement: share(agreeing),
        sqnr_db: noise.iter().filter_map(|n| n.decibels()).reduce(f64::min),
        samples,
        float_top5: top5.map(|t| t.0),
        int_top5: top5.map(|t| t.1),
        top1_difference: top1.map(|t| t.2),
        top5_difference: top5.map(|t| t.2),
        agreement_interval: metrics::share_interval(samples, agreeing),
        cosine: noise.iter().map(|n| n.cosine()).fold(1.0, f64::min),
    }
}

/// Elements as real numbers.
pub(crate) fn reals(tensor: &Tensor) -> Vec<f64> {
    qcc_ir::for_data!(&tensor.data, v => v.iter().map(|&x| x as f64).collect())
}

/// Classes that count for the top-5 share.
const TOP: usize = 5;

/// Indices of the greatest elements, the greatest first, the first of several that are equal.
fn top(row: &[f64]) -> Vec<usize> {
    let mut best: Vec<usize> = Vec::with_capacity(TOP + 1);
    for (i, &x) in row.iter().enumerate() {
        let at = best.iter().position(|&b| x > row[b]).unwrap_or(best.len());
        if at < TOP {
            best.insert(at, i);
            best.truncate(TOP);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_take_the_first() {
        assert_eq!(top(&[1.0, 3.0, 3.0, 2.0]), [1, 2, 3, 0]);
        assert_eq!(top(&[0.0, 0.0]), [0, 1]);
        assert_eq!(top(&[0.0, 5.0, 1.0, 4.0, 2.0, 3.0]), [1, 3, 5, 4, 2]);
        assert!(top(&[]).is_empty());
    }
}
