//! Flags that say how much accuracy may be lost, and what is said of a model that keeps to it.

use std::path::{Path, PathBuf};

use clap::Args;
use qcc::compare::{
    CompareOptions, Comparison, Goal, Limit, LoweredOutcome, Metric, Parts, RaisedOutcome, has_classes, lower,
    precision_text, raise,
};
use qcc::data::Dataset;
use qcc::ir::Graph;
use qcc::{Calibration, Compiled, Error, Options, Source};

use super::flags::usage;
use super::{progress, terminal};

/// How much may be lost when a model is compiled.
#[derive(Args)]
#[command(next_help_heading = "Limit of the loss")]
pub struct LimitFlags {
    /// Raise precision to 16 bits where it pays most, until no more than this is lost: points of top1, top5 or agreement, or a
    /// cosine's distance from 1; with sqnr, the decibels to be kept
    #[arg(long, value_name = "X", allow_hyphen_values = true)]
    max_drop: Option<f64>,
    /// Take bits of weights away instead, layer by layer, where that makes the model faster, or smaller, for the least loss; --max-drop is
    /// then counted from the model of 8 bits: points of top1 if there are labels, else of agreement. Half of the samples of --data choose, the
    /// others say whether it holds; without --data the model is calibrated with three quarters of its samples, which choose
    #[arg(long, value_name = "speed|size", requires = "max_drop")]
    lower: Option<Goal>,
    /// What the limit is about: top1, top5, agreement, sqnr, cosine [default: agreement; where a model gives no classes, noise of at
    /// most X percent of the outputs' power]
    #[arg(long, requires = "max_drop")]
    metric: Option<Metric>,
    /// Samples to measure the loss with, and how good the result is [default: of --calibrate]
    #[arg(long, value_name = "SAMPLES")]
    data: Option<PathBuf>,
    /// Their labels, unless they come with them
    #[arg(long, value_name = "Y.npy|Y.npz", requires = "max_drop")]
    labels: Option<PathBuf>,
    /// Added to every label, for models whose first class is something else
    #[arg(long, default_value_t = 0, allow_hyphen_values = true, requires = "max_drop")]
    label_offset: i64,
}

impl LimitFlags {
    /// Samples that the model is not calibrated with.
    pub fn data(&self) -> Option<PathBuf> {
        self.data.clone()
    }

    /// The files that are read, each with what it is.
    pub fn files(&self) -> Vec<(&'static str, &Path)> {
        let all = [("the samples of --data", &self.data), ("the labels", &self.labels)];
        all.into_iter().filter_map(|(what, path)| Some((what, path.as_deref()?))).collect()
    }

    /// Compiles within the limit, if the flags set one, and says what that took.
    pub fn compile(&self, model: &Path, options: &Options) -> Result<Option<(Compiled, Options)>, Error> {
        let Some((limit, data, how)) = self.limit(model, options)? else { return Ok(None) };
        let source = Source::from(model);
        let Some(goal) = self.lower else {
            let outcome = within(&source, options, limit, &data, &how)?;
            return Ok(Some((outcome.compiled, outcome.options)));
        };
        let mut options = options.clone();
        let parts = match self.data {
            Some(_) => Parts::of_others(&data)?,
            None => Parts::of_calibration(&data, &mut options)?,
        };
        progress::report("search", 0, 0);
        let outcome = lower(&source, &options, goal, limit, &parts, &how)?;
        tell_lowered(&outcome, goal, limit, self.data.is_none().then_some(options.samples).flatten());
        Ok(Some((outcome.compiled, outcome.options)))
    }

    /// The limit and the samples that the flags name, if they set one.
    fn limit(&self, model: &Path, options: &Options) -> Result<Option<(Limit, Dataset, CompareOptions)>, Error> {
        let Some(drop) = self.max_drop else { return Ok(None) };
        let path = match (&self.data, &options.calibration) {
            (Some(path), _) | (None, Some(Calibration::Path(path))) => path,
            (None, _) => {
                return Err(usage("--max-drop needs samples to measure the loss with").help("give them with --data"));
            }
        };
        let graph = Source::from(model).load(options)?;
        let mut data = Dataset::open(path, &graph, options.preprocess.as_ref())?;
        if let Some(labels) = &self.labels {
            data = data.with_labels(labels)?;
        }
        let labelled = self.lower.is_some() && data.labels().is_some() && has_classes(&graph, &data);
        let limit = limit(self.metric.or(labelled.then_some(Metric::Top1)), drop, &graph, &data)?;
        let how = CompareOptions {
            threads: options.threads,
            progress: progress::progress(),
            label_offset: self.label_offset,
            calls: None,
        };
        Ok(Some((limit, data, how)))
    }
}

/// The limit on a metric, or on that which a model is judged by.
pub fn limit(metric: Option<Metric>, drop: f64, graph: &Graph, data: &Dataset) -> Result<Limit, Error> {
    let refuse = || usage(format!("--max-drop: {drop} is no loss that can be kept to"));
    if !drop.is_finite() || drop < 0.0 {
        return Err(refuse());
    }
    if metric.is_some() || has_classes(graph, data) {
        return Ok(Limit { metric: metric.unwrap_or(Metric::Agreement), drop });
    }
    let decibels = 10.0 * (100.0 / drop).log10();
    if !decibels.is_finite() {
        return Err(refuse().help("quantization always makes some noise"));
    }
    terminal::note(&format!(
        "no classes: noise is kept to {drop} % of the outputs' power, an SQNR of {decibels:.1} dB"
    ));
    Ok(Limit { metric: Metric::Sqnr, drop: decibels })
}

/// Compiles within the limit, and says what was raised and what it costs.
pub fn within(
    source: &Source,
    options: &Options,
    limit: Limit,
    data: &Dataset,
    how: &CompareOptions,
) -> Result<RaisedOutcome, Error> {
    progress::report("search", 0, 0);
    let outcome = raise(source, options, limit, data, how)?;
    terminal::note(&format!("within the limit: {}", limit.text(&outcome.result)));
    if outcome.raised.is_empty() {
        terminal::note("nothing had to be raised");
        return Ok(outcome);
    }
    for raised in &outcome.raised {
        terminal::note(&format!("raised to 16 bits: {} ({:.1} % of the noise)", raised.name, 100.0 * raised.share));
    }
    let names: Vec<String> =
        outcome.raised.iter().map(|r| format!("{}={}", r.name, qcc::Precision::FINER.name())).collect();
    terminal::note(&format!("cost: {:.1} % of the multiply-accumulates have 16-bit operands", 100.0 * outcome.work));
    terminal::note(&format!("the same without a search: --precision {}", names.join(",")));
    Ok(outcome)
}

/// Says what was lowered and what it costs. `samples` are as many as the model is calibrated with, if that was not asked for.
fn tell_lowered(outcome: &LoweredOutcome, goal: Goal, limit: Limit, samples: Option<usize>) {
    let [after, before] = &outcome.results;
    let figure = |result: &Comparison| match limit.metric {
        Metric::Top1 | Metric::Top5 | Metric::Agreement => {
            let share = match limit.metric {
                Metric::Top1 => result.int_top1,
                Metric::Top5 => result.int_top5,
                _ => result.agreement,
            };
            share.map_or("unknown".to_string(), |share| format!("{:.2} %", 100.0 * share))
        }
        Metric::Sqnr => result.sqnr_db.map_or("no noise".to_string(), |db| format!("{db:.2} dB")),
        Metric::Cosine => format!("{:.6}", result.cosine),
    };
    let metric = limit.metric;
    terminal::note(&format!(
        "{metric} on {} samples that did not choose: {}; with 8 bits {}",
        after.samples,
        figure(after),
        figure(before)
    ));
    if let (Some(counted), [chosen, unseen]) = (outcome.losses[1].counted, &outcome.losses) {
        terminal::note(&format!(
            "expected loss: {:.2} points, and {:.2} on the samples that chose; counted: {:+.2} (95 %: {:+.2} to {:+.2})",
            unseen.lost.max(0.0),
            chosen.lost.max(0.0),
            100.0 * counted.value,
            100.0 * counted.low,
            100.0 * counted.high
        ));
    }
    if outcome.lowered.is_empty() {
        terminal::note(
            "no layer has fewer than 8 bits: the limit does not allow it, or nothing is gained on this target",
        );
        return;
    }
    let what = match goal {
        Goal::Speed => "estimated time of products",
        Goal::Size => "bytes of weights and biases",
    };
    let (count, layers) = (outcome.lowered.len(), outcome.layers);
    terminal::note(&format!(
        "{count} layers of {layers} have fewer than 8 bits: {what} {:.0} % of 8 bits'",
        100.0 * outcome.cost
    ));
    let samples = samples.map_or(String::new(), |samples| format!("--samples {samples} "));
    terminal::note(&format!("the same without a search: {samples}--precision {}", precision_text(&outcome.lowered)));
}
