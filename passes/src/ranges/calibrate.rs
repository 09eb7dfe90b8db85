//! Finds the range of every float activation from samples, or takes it from a table that the user gave.
//!
//! ```text
//! %conv = nn.conv2d(%x, @w) : tensor<1x8x4x4xf32>
//! // becomes
//! %conv = nn.conv2d(%x, @w) : tensor<1x8x4x4x!quant.calibrated<f32<-2.1:2.6>>>
//! ```
//!
//! Samples run through the reference evaluator, several at a time. Of each value only a histogram is kept, so that memory
//! does not grow with their number, and the result does not depend on the number of threads. What no reader of a value can tell is not
//! observed: see `observed`.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use qcc_interp::{Statistics, Survey, Threads};
use qcc_ir::diag::Code;
use qcc_ir::{Diag, Diags, Edit, Elem, Fact, Graph, Range, Tensor, ValueId, format};
use qcc_num::convert::nearest_f32;

use crate::options::{OptionInfo, OptionKind};
use crate::ranges::activations::activations;
use crate::ranges::histogram::Histogram;
use crate::ranges::merge::entry;
use crate::ranges::method::Method;
use crate::ranges::observations::Observations;
use crate::ranges::observed::{Observed, observed};
use crate::ranges::table::{RangeEntry, RangeTable};
use crate::{Context, Options, Pass, Samples};

/// Options of `calibrate`.
pub const OPTIONS: &[OptionInfo] = &[OptionInfo {
    name: "method",
    default: "",
    doc: "how a range is chosen from what was observed",
    kind: OptionKind::Word(&["minmax", "percentile", "mse", "kl", "auto"]),
}];

/// The pass `calibrate`.
pub struct Calibrate {
    method: Option<Method>,
}

impl Calibrate {
    /// The pass with its options.
    pub fn new(options: &Options) -> Calibrate {
        Calibrate { method: options.get("method").and_then(|m| m.parse().ok()) }
    }
}

impl Pass for Calibrate {
    fn run(&self, edit: &mut Edit, cx: &mut Context) -> Result<(), Diags> {
        let activations = activations(edit.graph());
        if activations.is_empty() {
            return Ok(());
        }
        let mut coarse = Vec::new();
        let table = match (&cx.ranges, cx.samples.clone()) {
            (Some(table), _) => {
                check_names(table, edit.graph())?;
                RangeTable { observations: None, ..table.clone() }
            }
            (None, Some(samples)) if !samples.is_empty() => {
                let method = self.method.unwrap_or(cx.method);
                observe(edit.graph(), &activations, samples.as_ref(), method, cx, &mut coarse)?
            }
            (None, _) => {
                edit.remark("nothing calibrated: there are neither samples nor a range table");
                return Ok(());
            }
        };
        let mut ranges: Vec<(ValueId, Range)> = Vec::new();
        for &v in &activations {
            let name = edit.graph().name_of(v);
            match table.values.get(name) {
                Some(entry) => ranges.push((v, entry.range())),
                None => {
                    let remark = format!("not calibrated: the range table does not name %{name}");
                    edit.remark(remark);
                }
            }
        }
        if let Some(mut change) = edit.begin(format!("calibrate: {} values", ranges.len())) {
            for (v, range) in ranges {
                change.set_elem(v, Elem::Calibrated(range));
            }
            change.clear_metadata(Fact::SourceName);
            change.clear_metadata(Fact::ChannelFactors);
            for (name, entry) in &table.values {
                change.set_metadata(Fact::Seen, name, seen(entry));
            }
            for (name, range) in coarse {
                change.set_metadata(Fact::Coarse, &name, vec![f64::from(range.min), f64::from(range.max)]);
            }
            let source = if table.source.is_empty() { "ranges from a table" } else { &table.source };
            cx.note_source(source);
            cx.ranges = Some(table);
        }
        Ok(())
    }
}

/// The numbers of [`Fact::Seen`].
fn seen(entry: &RangeEntry) -> Vec<f64> {
    match (entry.seen_min, entry.seen_max) {
        (None, None) => Vec::new(),
        (min, max) => {
            let extremes = [min.map_or(f64::INFINITY, f64::from), max.map_or(f64::NEG_INFINITY, f64::from)];
            extremes.into_iter().chain(entry.deviation.map(f64::from)).collect()
        }
    }
}

/// Every row of a table is for a value of the model, one that passes have removed or one that is there now: a range under a name
/// misspelt would do nothing.
fn check_names(table: &RangeTable, g: &Graph) -> Result<(), Diag> {
    let now: HashSet<&str> = g.values().map(|v| g.name_of(v)).collect();
    let unknown = |name: &&String| !now.contains(name.as_str()) && g.metadata().get(Fact::SourceName, name).is_none();
    let unknown: Vec<&String> = table.values.keys().filter(unknown).collect();
    let Some(first) = unknown.first() else { return Ok(()) };
    let more = if unknown.len() > 1 { format!(", nor have {} others", unknown.len() - 1) } else { String::new() };
    let message = format!("the range table has a row `{first}`, which is no value of the model{more}");
    Err(Diag::new(Code::RANGE, message).help("names are those that `qcc calibrate` writes for this model"))
}

/// One for each activation; what they count can be merged in any order.
struct Histograms<'a> {
    index: &'a HashMap<ValueId, usize>,
    observed: &'a HashMap<ValueId, Observed>,
    all: Vec<Histogram>,
}

impl Statistics for Histograms<'_> {
    fn observe(&mut self, v: ValueId, tensor: &Tensor) {
        if let (Some(&at), Some(data)) = (self.index.get(&v), tensor.as_f32()) {
            let data = self.observed.get(&v).map_or(Cow::Borrowed(data), |part| part.of(data));
            self.all[at].observe(&data);
        }
    }
}

fn observe(
    g: &Graph,
    activations: &[ValueId],
    samples: &dyn Samples,
    method: Method,
    cx: &Context,
    coarse: &mut Vec<(String, Range)>,
) -> Result<RangeTable, Diags> {
    let count = samples.len();
    let index: HashMap<ValueId, usize> = activations.iter().enumerate().map(|(i, &v)| (v, i)).collect();
    let observed = observed(g);
    let new = || Histograms { index: &index, observed: &observed, all: vec![Histogram::new(); activations.len()] };
    let (sample, watch) = (|i: usize| samples.get(i), |done: usize, of: usize| cx.watch(done, of));
    let survey = Survey { graph: g, count, sample: &sample, watch: &watch };
    let parts = survey.few(&Threads::start(cx.threads)?, new)?;
    let mut merged = vec![Histogram::new(); activations.len()];
    for part in parts {
        for (all, one) in merged.iter_mut().zip(part.all) {
            all.merge(one);
        }
    }
    // A value of which masks left nothing on any sample has no range of its own.
    merged.iter_mut().filter(|h| h.is_empty()).for_each(|h| h.observe(&[0.0]));
    if cx.has_few_bits() {
        let ranges = activations.iter().zip(&merged);
        let steps = format::U4.extent();
        coarse.extend(ranges.filter_map(|(&v, h)| Some((g.name_of(v).to_string(), h.coarse(steps)?))));
    }
    tabulate(g, activations, &merged, method, count, cx)
}

fn tabulate(
    g: &Graph,
    activations: &[ValueId],
    histograms: &[Histogram],
    method: Method,
    samples: usize,
    cx: &Context,
) -> Result<RangeTable, Diags> {
    let mut observations = Observations::new(method, samples, cx.observing.as_ref());
    let strange: HashSet<ValueId> =
        activations.iter().zip(histograms).filter(|(_, h)| h.strange > 0).map(|(&v, _)| v).collect();
    let mut faults = Diags::default();
    for (&v, h) in activations.iter().zip(histograms) {
        let name = g.name_of(v);
        // What follows from a value that is not finite says nothing more.
        if g.producer(v).is_some_and(|n| g.operands(n).iter().any(|o| strange.contains(o))) {
            continue;
        }
        if h.strange > 0 || entry(h, method).is_none() {
            let message = format!("%{name} is not finite on the samples ({} of its elements)", h.strange);
            let diag = Diag::new(Code::RANGE, message).help("check how the samples are preprocessed");
            faults.0.push(match g.producer(v) {
                Some(n) => diag.at(g.describe(n)),
                None => diag,
            });
            // What is computed from it is not finite either.
            break;
        }
        observations.add(name, h);
    }
    faults.into_result()?;
    let table = observations.into_table()?;
    let observations = table.observations.filter(|_| cx.observing.is_some());
    let factors = g.metadata().of(Fact::ChannelFactors);
    // They were of single precision before they were written down.
    let factors = factors.map(|(name, numbers)| (name.to_string(), numbers.iter().map(|&f| nearest_f32(f)).collect()));
    Ok(RangeTable { channel_factors: factors.collect(), observations, ..table })
}
