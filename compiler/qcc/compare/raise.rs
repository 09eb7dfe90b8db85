//! Raises precision where it pays most, until the model is as good as was asked for.
//!
//! Candidates are the values and the weights of each layer, at 16 bits instead of 8. What each is worth is the noise that it
//! makes in the outputs on its own, and what it costs are the multiply-accumulates that then have a finer operand. In the order
//! of worth for cost, so many are raised that half of the noise that is left is expected to go; the model is compiled and
//! compared; and so on, until it holds. Then the least number that holds is looked for between the last two.

use qcc_ir::Diag;
use qcc_ir::diag::Code;
use qcc_passes::quant::precision::ALL;
use qcc_passes::{Precision, RangeTable, Samples as _};
use serde::Serialize;

use super::account::measure;
use super::comparison::{CompareOptions, Comparison, compare};
use super::metrics::Metric;
use super::mixed::{Mixed, Side, Stages};
use super::remedy::item;
use crate::data::Dataset;
use crate::engine::Engine;
use crate::{Compiled, Error, Options, Source, compile_observed};

/// Calls on which the worth of candidates is measured.
const CALLS: usize = 8;

/// Times that a model is compiled to find the least number of candidates, once some number is known to do.
const REFINEMENTS: usize = 4;

/// How much may be lost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limit {
    /// What is measured.
    pub metric: Metric,
    /// Points of top-1, top-5 or agreement, or of a cosine below 1; of the signal-to-noise ratio the decibels to be kept.
    pub drop: f64,
}

impl Limit {
    /// Whether a comparison is within the limit; an error if it does not know the metric.
    pub fn holds(&self, result: &Comparison) -> Result<bool, Error> {
        let lost = self.lost(result)?;
        Ok(if self.metric == Metric::Sqnr { lost >= self.drop } else { lost <= self.drop })
    }

    /// What is lost, in the units of the limit.
    pub(super) fn lost(&self, result: &Comparison) -> Result<f64, Error> {
        let value = result.value(self.metric).ok_or_else(|| {
            let why = result.no_classes.clone().unwrap_or("there are no labels".to_string());
            let diag = Diag::new(Code::FLAGS, format!("{} cannot be measured: {why}", self.metric));
            diag.help("give labels with --labels, or take --metric agreement, sqnr or cosine")
        })?;
        Ok(match self.metric {
            Metric::Top1 | Metric::Top5 => -value,
            Metric::Agreement => 100.0 - value,
            Metric::Sqnr => value,
            Metric::Cosine => 1.0 - value,
        })
    }

    /// What a comparison reaches, for people.
    pub fn text(&self, result: &Comparison) -> String {
        let Ok(lost) = self.lost(result) else { return "unknown".to_string() };
        // A gain is no negative loss.
        let points =
            |what: &str| format!("{what} {:.2} points {}", lost.abs(), if lost > 0.0 { "lost" } else { "won" });
        match self.metric {
            Metric::Top1 => points("top-1:"),
            Metric::Top5 => points("top-5:"),
            Metric::Agreement => points("agreement:"),
            Metric::Sqnr => format!("SQNR: {lost:.2} dB"),
            Metric::Cosine => format!("cosine: {lost:.6} lost"),
        }
    }
}

/// Something that has 16 bits now.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Raised {
    /// Its name as `--precision` takes it.
    pub name: String,
    /// Its share of the noise in the outputs before.
    pub share: f64,
}

/// A model that is within the limit.
pub struct Outcome {
    /// The model.
    pub compiled: Compiled,
    /// The stages of its compilation.
    pub stages: Stages,
    /// The options with which it was compiled: those given, and the precisions.
    pub options: Options,
    /// How it compares.
    pub result: Comparison,
    /// What was raised, the first first.
    pub raised: Vec<Raised>,
    /// The share of multiply-accumulates that have a finer operand.
    pub work: f64,
}

/// A candidate.
struct Candidate {
    part: usize,
    side: Side,
    name: String,
    worth: f64,
    cost: f64,
}

/// Compiles a model, with as little of it at 16 bits as keeps it within the limit on `data`.
pub fn raise(
    source: &Source,
    options: &Options,
    limit: Limit,
    data: &Dataset,
    how: &CompareOptions,
) -> Result<Outcome, Error> {
    let mut search = Search { source, options: options.clone(), limit, data, how };
    let plain = search.attempt(&[])?;
    if limit.holds(&plain.result)? {
        return Ok(plain);
    }
    let Some(mixed) = Mixed::new(&plain.stages, plain.compiled.graph())? else {
        let why = "precision cannot be raised in a model with scales of its own, of run time, or of other passes";
        return Err(search.missed(&plain, why));
    };
    // Ranges do not depend on precision: they are found once.
    if options.calibration.is_some() && options.ranges.is_none() {
        search.options.ranges = plain.compiled.ranges().cloned();
    }
    let candidates = candidates(&mixed, options, data)?;
    let total: f64 = candidates.iter().map(|c| c.worth).sum();
    let (mut failed, mut best) = (0, plain);
    let mut remaining = total;
    let mut found = loop {
        let mut count = failed;
        let wanted = remaining / 2.0;
        while count < candidates.len() && (count == failed || remaining > wanted) {
            remaining -= candidates[count].worth;
            count += 1;
        }
        if count == failed {
            return search.everything(&best, &options.ranges);
        }
        let attempt = search.attempt(&candidates[..count])?;
        if limit.holds(&attempt.result)? {
            break (count, attempt);
        }
        let better = |a: &Outcome, b: &Outcome| match (limit.lost(&a.result), limit.lost(&b.result)) {
            (Ok(a), Ok(b)) => (a > b) == (limit.metric == Metric::Sqnr),
            _ => false,
        };
        if better(&attempt, &best) {
            best = attempt;
        }
        failed = count;
    };
    for _ in 0..REFINEMENTS {
        let middle = (failed + found.0) / 2;
        if middle <= failed {
            break;
        }
        let attempt = search.attempt(&candidates[..middle])?;
        match limit.holds(&attempt.result)? {
            true => found = (middle, attempt),
            false => failed = middle,
        }
    }
    let (count, mut outcome) = found;
    let finer = Mixed::new(&outcome.stages, outcome.compiled.graph())?;
    // An operator that has no form of 16 bits leaves its value at 8.
    let is_finer = |c: &&Candidate| finer.as_ref().is_some_and(|m| m.is_finer(&mixed.parts[c.part].name, c.side));
    let (raised, same): (Vec<&Candidate>, Vec<&Candidate>) = candidates[..count].iter().partition(is_finer);
    for candidate in same {
        outcome.options.precision.remove(&candidate.name);
    }
    let chosen: Vec<(usize, Side)> = raised.iter().map(|c| (c.part, c.side)).collect();
    let (finer, all) = mixed.work(&chosen);
    outcome.work = finer as f64 / all.max(1) as f64;
    outcome.raised = raised.iter().map(|c| Raised { name: c.name.clone(), share: c.worth / total }).collect();
    // What was found is told with the options that were given.
    outcome.options.ranges.clone_from(&options.ranges);
    Ok(outcome)
}

/// What can be raised, the greatest worth for its cost first.
fn candidates(mixed: &Mixed, options: &Options, data: &Dataset) -> Result<Vec<Candidate>, Error> {
    let accounts = measure(mixed, data, CALLS.min(data.len()), options.progress.as_ref())?;
    let mut found = Vec::new();
    for (p, (part, account)) in mixed.parts.iter().zip(&accounts).enumerate() {
        let has_layer = mixed.layer(p).is_some() && matches!(part.op, "nn.conv2d" | "nn.linear");
        for (side, possible) in [(Side::Value, part.is_rounded && part.is_named), (Side::Weights, has_layer)] {
            let name = item(&part.name, side);
            let worth = account.power(side);
            if possible && worth > 0.0 && !options.precision.contains_key(&name) {
                let elements = part.ty.elements() as f64;
                let cost = mixed.work(&[(p, side)]).0 as f64 + elements;
                found.push(Candidate { part: p, side, name, worth, cost });
            }
        }
    }
    let ratio = |c: &Candidate| c.worth / c.cost.max(1.0);
    found.sort_by(|a, b| ratio(b).total_cmp(&ratio(a)).then_with(|| a.name.cmp(&b.name)));
    Ok(found)
}

struct Search<'a> {
    source: &'a Source,
    options: Options,
    limit: Limit,
    data: &'a Dataset,
    how: &'a CompareOptions,
}

impl Search<'_> {
    fn attempt(&self, raised: &[Candidate]) -> Result<Outcome, Error> {
        self.attempt_named(raised.iter().map(|c| c.name.clone()))
    }

    /// The last resort: all values and weights, also those that no layer of the report has.
    fn everything(&self, best: &Outcome, ranges: &Option<RangeTable>) -> Result<Outcome, Error> {
        let mut outcome = self.attempt_named([ALL.to_string()])?;
        if !self.limit.holds(&outcome.result)? {
            let (a, b) = (self.limit.lost(&outcome.result)?, self.limit.lost(&best.result)?);
            let best = if (a > b) == (self.limit.metric == Metric::Sqnr) { &outcome } else { best };
            return Err(self.missed(best, "everything that can have 16 bits has them"));
        }
        outcome.raised = vec![Raised { name: ALL.to_string(), share: 1.0 }];
        outcome.work = 1.0;
        outcome.options.ranges.clone_from(ranges);
        Ok(outcome)
    }

    fn attempt_named(&self, names: impl IntoIterator<Item = String>) -> Result<Outcome, Error> {
        let mut options = self.options.clone();
        let names: Vec<String> = names.into_iter().collect();
        options.precision.extend(names.iter().map(|name| (name.clone(), Precision::FINER)));
        let mut stages = Stages::default();
        let compiled = compile_observed(self.source.clone(), &options, &mut |event| stages.observe(event))?;
        let result = compare(&compiled, &Engine::measuring(&compiled)?, self.data, self.how)?;
        tracing::info!(raised = names.len(), reached = self.limit.text(&result), "compared");
        Ok(Outcome { compiled, stages, options, result, raised: Vec::new(), work: 0.0 })
    }

    fn missed(&self, best: &Outcome, why: &str) -> Error {
        let Limit { metric, drop } = self.limit;
        let unit = match metric {
            Metric::Top1 | Metric::Top5 | Metric::Agreement => format!("{drop} points of {metric}"),
            Metric::Sqnr => format!("{drop} dB of SQNR"),
            Metric::Cosine => format!("{drop} of cosine"),
        };
        let message =
            format!("the limit of {unit} is not reached: {why}; the best is {}", self.limit.text(&best.result));
        let help = match self.options.calibration.is_none() && self.options.ranges.is_none() {
            true => "the ranges are derived from the model alone: --calibrate finds better ones from samples",
            false => "`qcc compare` shows which layers lose the most, and why",
        };
        Diag::new(Code::ACCURACY, message).help(help).into()
    }
}
