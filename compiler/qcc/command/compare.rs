//! `qcc compare`: what quantization costs, on the whole and layer by layer.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use qcc::compare::{
    Advice, CompareOptions, Comparison, Difference, Engine, LayerReport, Metric, Raised, Stages, Subject,
    affordable_calls, compare, damage, layers,
};
use qcc::data::Dataset;
use qcc::passes::Samples as _;
use qcc::report::accuracy;
use qcc::{Error, Source, check_places, compile_observed};

use super::announce::announce;
use super::flags::{ModelFlags, usage};
use super::limit;
use super::{progress, terminal};

/// Calls over which layers are compared, unless something else is asked for.
const CALLS: usize = 8;

/// Compare the integer model with the float one.
#[derive(Args)]
pub struct Compare {
    /// Model: .onnx, or float .qir
    model: PathBuf,
    /// Samples: .npy, .npz, image, list or folder
    #[arg(long, value_name = "SAMPLES")]
    data: PathBuf,
    /// Labels of the samples, unless they come with them
    #[arg(long, value_name = "Y.npy|Y.npz")]
    labels: Option<PathBuf>,
    /// Added to every label, for models whose first class is something else
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    label_offset: i64,
    /// Print this metric alone: top1, top5, agreement, sqnr, cosine; with --max-drop, what the limit is about
    #[arg(long, value_name = "METRIC")]
    metric: Option<Metric>,
    /// Raise precision to 16 bits where it pays most, until no more than this is lost: points of top1, top5 or agreement [default
    /// metric], or a cosine's distance from 1; with sqnr, the decibels to be kept
    #[arg(long, value_name = "X", allow_hyphen_values = true)]
    max_drop: Option<f64>,
    /// What runs the integer model
    #[arg(long, value_enum, default_value = "jit")]
    engine: How,
    /// Compare layers too, over this many calls [default: 8, fewer of a large model, and 0 with --json]
    #[arg(long, value_name = "CALLS", num_args = 0..=1, default_missing_value = "8")]
    layers: Option<usize>,
    /// Try what may help against the layers that do the most damage, also where that takes long
    #[arg(long)]
    verify: bool,
    /// Threads; 0 for one a core
    #[arg(long, default_value_t = 0, value_parser = super::flags::threads)]
    threads: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Write a page with plots too
    #[arg(long, value_name = "PAGE.html")]
    html: Option<PathBuf>,
    #[command(flatten)]
    flags: ModelFlags,
}

/// What runs the integer model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum How {
    /// Machine code in memory
    Jit,
    /// The reference interpreter
    Interp,
}

impl Compare {
    /// Does it.
    pub fn execute(&self) -> Result<(), Error> {
        let mut options = self.flags.options(self.threads)?;
        self.flags.warn();
        // The conversion outside of the model is the same.
        options.float_interface = false;
        self.check_places()?;
        if self.json && self.metric.is_some() && self.max_drop.is_none() {
            return Err(usage("--metric picks one line of the text, and --json has all of them").help("leave one out"));
        }
        let source = Source::from(self.model.as_path());
        let graph = source.load(&options)?;
        let mut data = Dataset::open(&self.data, &graph, options.preprocess.as_ref())?;
        if let Some(labels) = &self.labels {
            data = data.with_labels(labels)?;
        }
        if let Some(metric @ (Metric::Top1 | Metric::Top5)) = self.metric
            && data.labels().is_none()
        {
            return Err(usage(format!("--metric {metric} needs labels")).help("give them with --labels"));
        }
        let how = CompareOptions {
            threads: self.threads,
            progress: progress::progress(),
            label_offset: self.label_offset,
            calls: None,
        };
        let (compiled, stages, raised) = match self.max_drop {
            Some(drop) => {
                let limit = limit::limit(self.metric, drop, &graph, &data)?;
                let outcome = limit::within(&source, &options, limit, &data, &how)?;
                options = outcome.options;
                (outcome.compiled, outcome.stages, Some((outcome.raised, outcome.work)))
            }
            None => {
                let mut stages = Stages::default();
                let compiled = compile_observed(source.clone(), &options, &mut |event| stages.observe(event))?;
                (compiled, stages, None)
            }
        };
        announce(&compiled);
        let engine = match self.engine {
            How::Jit => Engine::jit(&compiled)?,
            How::Interp => Engine::of_graph(compiled.graph()),
        };
        let result = compare(&compiled, &engine, &data, &how)?;
        if let Some(metric) = self.metric.filter(|_| self.max_drop.is_none()) {
            if let (Metric::Top1 | Metric::Top5 | Metric::Agreement, Some(why)) = (metric, &result.no_classes) {
                let message = format!("--metric {metric} needs a model that gives classes: {why}");
                return Err(usage(message).help("use --metric sqnr or cosine"));
            }
            let rows = rows(&result);
            let lines = rows.iter().filter(|r| r.0 == metric).map(|(_, name, value)| format!("{name:<20}{value}\n"));
            return terminal::result(&lines.collect::<String>());
        }
        let calls =
            self.layers.unwrap_or_else(|| if self.json { 0 } else { affordable_calls(compiled.source(), CALLS) });
        let calls = calls.min(data.len());
        let layers = if calls > 0 {
            let layers = layers(&compiled, &data, calls)?;
            let data = (&data, self.data.as_path());
            let subject = Subject {
                source: &source,
                options: &options,
                compiled: &compiled,
                stages: &stages,
                data,
                calls,
                verify: self.verify,
            };
            damage(&subject, layers)?
        } else {
            Vec::new()
        };
        self.write_page(&result, &layers, calls)?;
        let printed = if self.json { json(&result, &layers, raised) } else { text(&result, &layers, calls) };
        terminal::result(&printed)
    }

    /// Refuses to write over what is read.
    fn check_places(&self) -> Result<(), Error> {
        let mut read = self.flags.files();
        read.extend([("the model", self.model.as_path()), ("the samples", self.data.as_path())]);
        read.extend(self.labels.as_deref().map(|path| ("the labels", path)));
        let written: Vec<_> = self.html.iter().map(|path| ("--html", path.as_path())).collect();
        check_places(&read, &written)
    }

    fn write_page(&self, result: &Comparison, layers: &[LayerReport], calls: usize) -> Result<(), Error> {
        let Some(path) = &self.html else { return Ok(()) };
        let model = self.model.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let mut figures: Vec<(String, String)> = vec![("samples".to_string(), result.samples.to_string())];
        figures.extend(rows(result).into_iter().map(|(_, name, value)| (name.to_string(), value)));
        qcc::write_file(path, accuracy(&model, &figures, layers, calls).as_bytes())
    }
}

fn json(result: &Comparison, layers: &[LayerReport], raised: Option<(Vec<Raised>, f64)>) -> String {
    let mut value = serde_json::to_value(result).unwrap_or_default();
    if let Some((raised, work)) = raised {
        value["raised"] = serde_json::to_value(raised).unwrap_or_default();
        value["raised_macs_fraction"] = work.into();
    }
    if !layers.is_empty() {
        value["layers"] = serde_json::to_value(layers).unwrap_or_default();
    }
    format!("{value}\n")
}

/// One line a figure: the metric that it belongs to, its name, and its value.
fn rows(result: &Comparison) -> Vec<(Metric, &'static str, String)> {
    let share = |x: f64| format!("{:.2} %", 100.0 * x);
    let known = |x: Option<f64>| x.map_or("unknown (no labels)".to_string(), share);
    let mut rows = Vec::new();
    if result.no_classes.is_none() {
        rows.push((Metric::Top1, "float top-1", known(result.float_top1)));
        rows.push((Metric::Top1, "integer top-1", known(result.int_top1)));
    }
    rows.extend(result.top1_difference.map(|d| (Metric::Top1, "difference", difference(d))));
    if let (Some(float), Some(int), Some(d)) = (result.float_top5, result.int_top5, result.top5_difference) {
        rows.push((Metric::Top5, "float top-5", share(float)));
        rows.push((Metric::Top5, "integer top-5", share(int)));
        rows.push((Metric::Top5, "difference", difference(d)));
    }
    let agreement = match (result.agreement, result.agreement_interval, &result.no_classes) {
        (Some(x), Some((low, high)), _) => format!("{} (95 %: {:.2} to {:.2})", share(x), 100.0 * low, 100.0 * high),
        (_, _, why) => format!("no classes: {}", why.as_deref().unwrap_or_default()),
    };
    rows.push((Metric::Agreement, "agreement", agreement));
    let interval = |ends: Option<(f64, f64)>, digits: usize| {
        ends.map_or(String::new(), |(low, high)| format!(" (95 %: {low:.digits$} to {high:.digits$})"))
    };
    let sqnr = format!("{} dB{}", decibels(result.sqnr_db), interval(result.sqnr_interval, 2));
    rows.push((Metric::Sqnr, "SQNR of the output", sqnr));
    let cosine = format!("{:.6}{}", result.cosine, interval(result.cosine_interval, 6));
    rows.push((Metric::Cosine, "cosine", cosine));
    rows
}

/// In points, with its interval.
fn difference(d: Difference) -> String {
    let noise = if d.within_noise { "within the noise" } else { "beyond the noise" };
    format!("{:+.2} points (95 %: {:+.2} to {:+.2}, {noise})", 100.0 * d.value, 100.0 * d.low, 100.0 * d.high)
}

fn decibels(x: Option<f64>) -> String {
    x.map_or("exact".to_string(), |x| format!("{x:.2}"))
}

fn text(result: &Comparison, layers: &[LayerReport], calls: usize) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{:<20}{}", "samples", result.samples);
    for (_, name, value) in rows(result) {
        let _ = writeln!(out, "{name:<20}{value}");
    }
    for output in &result.outputs {
        let (sqnr, cosine) = (decibels(output.sqnr_db), output.cosine);
        let _ = writeln!(out, "{:<20}{}: {sqnr} dB, cosine {cosine:.6}", "output", output.name);
    }
    if layers.is_empty() {
        return out;
    }
    let calls = format!("over {calls} call{}", if calls == 1 { "" } else { "s" });
    let known = layers.iter().any(|l| l.damage.is_some());
    let _ = match known {
        true => writeln!(out, "\nlayers by their share of the noise in the output, {calls}"),
        false => writeln!(out, "\nlayers by damage, {calls}"),
    };
    let _ = writeln!(
        out,
        "{:>7} {:>8} {:>8} {:>8} {:>9}  {:<24} {:<24} {:<18} value",
        "share", "alone dB", "loss dB", "SQNR dB", "cosine", "float range", "integer range", "operator"
    );
    let end = |x: f64| if x != 0.0 && x.abs() < 1e-2 { format!("{x:.2e}") } else { format!("{x:.4}") };
    let range = |(lo, hi): (f64, f64)| format!("{} .. {}", end(lo), end(hi));
    for l in layers {
        let (share, alone) = match &l.damage {
            Some(d) => (format!("{:.1} %", 100.0 * d.share), decibels(d.alone_db)),
            None => Default::default(),
        };
        let _ = writeln!(
            out,
            "{share:>7} {alone:>8} {:>8.2} {:>8} {:>9.6}  {:<24} {:<24} {:<18} {}",
            l.loss_db,
            decibels(l.sqnr_db),
            l.cosine,
            range(l.float_range),
            range(l.int_range),
            l.op,
            l.name
        );
    }
    out + &causes(layers)
}

/// Why the layers with the greatest shares lose accuracy, and what to do.
fn causes(layers: &[LayerReport]) -> String {
    let mut out = String::new();
    let notable = layers.iter().filter_map(|l| l.damage.as_ref().filter(|d| d.freed_db.is_some()).map(|d| (l, d)));
    for (layer, damage) in notable {
        if out.is_empty() {
            out.push_str("\nlikely causes\n");
        }
        let side = if damage.weights_share > 0.5 { " (weights)" } else { "" };
        let _ = writeln!(out, "  {}{side}, {:.1} % of the noise", layer.name, 100.0 * damage.share);
        let _ = writeln!(out, "    {}", damage.cause.text);
        let _ = writeln!(out, "    in real numbers: {} dB at the output", decibels(damage.freed_db));
        let remedy = damage.remedy.as_ref().map_or("nothing that was tried helps beyond chance".to_string(), advise);
        let _ = writeln!(out, "    {remedy}");
    }
    if let Some(first) = layers.first().filter(|_| !out.is_empty()) {
        let _ = writeln!(out, "what became of one in which pass: qcc explain MODEL {}", first.name);
    }
    out
}

fn advise(advice: &Advice) -> String {
    let Advice { flag, sqnr_db, instead_of_db, verified } = advice;
    let instead = format!("instead of {}", decibels(*instead_of_db));
    match (verified, sqnr_db) {
        (true, Some(db)) => format!("remedy: {flag} (tried: {db:.2} dB {instead})"),
        (false, Some(db)) => format!("remedy: {flag} ({db:.2} dB {instead} expected)"),
        (_, None) => format!("may help: {flag} (not tried; --verify does)"),
    }
}
