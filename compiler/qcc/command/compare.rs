//! `qcc compare`: what quantization costs, on the whole and layer by layer.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use qcc::compare::{CompareOptions, Comparison, Difference, Engine, Layer, Metric, compare, layers};
use qcc::data::Dataset;
use qcc::{Error, compile};

use super::build::announce;
use super::flags::{ModelFlags, usage};
use super::terminal;

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
    /// Print this metric alone: top1, top5, agreement, sqnr, cosine
    #[arg(long, value_name = "METRIC", conflicts_with = "json")]
    metric: Option<Metric>,
    /// What runs the integer model
    #[arg(long, value_enum, default_value = "jit")]
    engine: How,
    /// Compare layers too, over this many calls [default: 8, and 0 with --json]
    #[arg(long, value_name = "CALLS", num_args = 0..=1, default_missing_value = "8")]
    layers: Option<usize>,
    /// Threads; 0 for one a core
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
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
        // Inputs of plain integers have no float edge; the conversion outside of the model is the same.
        options.float_edge = false;
        let compiled = compile(self.model.as_path(), &options)?;
        announce(&compiled, self.flags.is_data_free());
        let preprocess = options.preprocess.clone().unwrap_or_default();
        let mut data = Dataset::open(&self.data, compiled.source(), &preprocess)?;
        if let Some(labels) = &self.labels {
            data = data.with_labels(labels)?;
        }
        let engine = match self.engine {
            How::Jit => Engine::jit(&compiled)?,
            How::Interp => Engine::of_graph(compiled.graph()),
        };
        let options = CompareOptions {
            threads: self.threads,
            progress: terminal::progress("comparing"),
            label_offset: self.label_offset,
        };
        if let Some(metric @ (Metric::Top1 | Metric::Top5)) = self.metric
            && data.labels().is_none()
        {
            return Err(usage(format!("--metric {metric} needs labels")).help("give them with --labels"));
        }
        let result = compare(&compiled, &engine, &data, &options)?;
        if let Some(metric) = self.metric {
            let rows = rows(&result);
            rows.iter().filter(|r| r.0 == metric).for_each(|(_, name, value)| {
                terminal::result(&format!("{name:<20}{value}\n"));
            });
            return Ok(());
        }
        let calls = self.layers.unwrap_or(if self.json { 0 } else { 8 });
        let layers = if calls > 0 { layers(&compiled, &data, calls)? } else { Vec::new() };
        terminal::result(&if self.json { json(&result, &layers) } else { text(&result, &layers, calls) });
        Ok(())
    }
}

fn json(result: &Comparison, layers: &[Layer]) -> String {
    let mut value = serde_json::to_value(result).unwrap_or_default();
    if !layers.is_empty() {
        value["layers"] = serde_json::to_value(layers).unwrap_or_default();
    }
    format!("{value}\n")
}

/// One line a figure: the metric that it belongs to, its name, and its value.
fn rows(result: &Comparison) -> Vec<(Metric, &'static str, String)> {
    let share = |x: f64| format!("{:.2} %", 100.0 * x);
    let known = |x: Option<f64>| x.map_or("unknown (no labels)".to_string(), share);
    let mut rows = vec![
        (Metric::Top1, "float top-1", known(result.float_top1)),
        (Metric::Top1, "integer top-1", known(result.int_top1)),
    ];
    rows.extend(result.top1_difference.map(|d| (Metric::Top1, "difference", difference(d))));
    if let (Some(float), Some(int), Some(d)) = (result.float_top5, result.int_top5, result.top5_difference) {
        rows.push((Metric::Top5, "float top-5", share(float)));
        rows.push((Metric::Top5, "integer top-5", share(int)));
        rows.push((Metric::Top5, "difference", difference(d)));
    }
    let (low, high) = result.agreement_interval;
    let interval = format!("{} (95 %: {:.2} to {:.2})", share(result.agreement), 100.0 * low, 100.0 * high);
    rows.push((Metric::Agreement, "agreement", interval));
    rows.push((Metric::Sqnr, "SQNR of the output", format!("{} dB", decibels(result.sqnr_db))));
    rows.push((Metric::Cosine, "cosine", format!("{:.6}", result.cosine)));
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

fn text(result: &Comparison, layers: &[Layer], calls: usize) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{:<20}{}", "samples", result.samples);
    for (_, name, value) in rows(result) {
        let _ = writeln!(out, "{name:<20}{value}");
    }
    if layers.is_empty() {
        return out;
    }
    let _ = writeln!(out, "\nlayers by damage, over {calls} calls");
    let _ = writeln!(
        out,
        "{:>8} {:>8} {:>9}  {:<24} {:<24} {:<18} value",
        "loss dB", "SQNR dB", "cosine", "float range", "integer range", "operator"
    );
    let range = |(lo, hi): (f64, f64)| format!("{lo:.4} .. {hi:.4}");
    for l in layers {
        let _ = writeln!(
            out,
            "{:>8.2} {:>8} {:>9.6}  {:<24} {:<24} {:<18} {}",
            l.loss_db,
            decibels(l.sqnr_db),
            l.cosine,
            range(l.float_range),
            range(l.int_range),
            l.op,
            l.name
        );
    }
    out
}
