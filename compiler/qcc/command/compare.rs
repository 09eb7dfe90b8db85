//! `qcc compare`: what quantization costs, on the whole and layer by layer.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use qcc::compare::{CompareOptions, Comparison, Engine, Layer, compare, layers};
use qcc::data::Dataset;
use qcc::{Error, compile};

use super::build::announce;
use super::flags::ModelFlags;
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
        let result = compare(&compiled, &engine, &data, &options)?;
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

fn text(result: &Comparison, layers: &[Layer], calls: usize) -> String {
    let mut out = String::new();
    let percent = |x: Option<f64>| x.map_or("unknown (no labels)".to_string(), |x| format!("{:.2} %", 100.0 * x));
    let decibels = |x: Option<f64>| x.map_or("exact".to_string(), |x| format!("{x:.2}"));
    let rows = [
        ("samples", result.samples.to_string()),
        ("float top-1", percent(result.float_top1)),
        ("integer top-1", percent(result.int_top1)),
        ("agreement", percent(Some(result.agreement))),
        ("SQNR of the output", format!("{} dB", decibels(result.sqnr_db))),
    ];
    // Writing to a string cannot fail.
    for (name, value) in rows {
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
