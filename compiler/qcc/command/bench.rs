//! `qcc bench`: speed, against the machine's limit measured in the same run.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use qcc::bench::{Measurement, TaskProfile, measure, peers, profile, take_turns};
use qcc::report::speed;
use qcc::{Error, Model, check_places, compile};

use super::flags::{Io, ModelFlags, TuneFlags, usage};
use super::run::{is_compiled, load};
use super::terminal;

/// Longest measurement.
const LONGEST: Duration = Duration::from_secs(86_400);

/// Runs behind the median of each task.
const TASK_ROUNDS: usize = 30;

/// Measure the speed of a model.
#[derive(Args)]
pub struct Bench {
    /// Model: .so, or .onnx and .qir to be compiled in memory
    file: PathBuf,
    /// Threads of the model; 0 for one a core
    #[arg(long, default_value_t = 1, value_parser = super::flags::threads)]
    threads: usize,
    /// How long to measure
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Measure every step of the program, and tell what bounds it; not for .so
    #[arg(long)]
    per_layer: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Write a page with plots too; with --per-layer it shows every step
    #[arg(long, value_name = "PAGE.html", conflicts_with = "turns")]
    html: Option<PathBuf>,
    /// Show in the page what other engines reached: what bench_peers.py --json wrote
    #[arg(long, value_name = "FILE.json", requires = "html")]
    peers: Option<PathBuf>,
    /// Give and take real numbers, or the integers that stand for them
    #[arg(long, value_enum, default_value = "int")]
    io: Io,
    /// Run on request: each line on stdin is a number of milliseconds, and is answered by a line of JSON
    #[arg(long, conflicts_with_all = ["per_layer", "seconds"])]
    turns: bool,
    #[command(flatten)]
    flags: ModelFlags,
    #[command(flatten)]
    tune: TuneFlags,
}

impl Bench {
    /// Does it.
    pub fn execute(&self) -> Result<(), Error> {
        let time = Duration::try_from_secs_f64(self.seconds).ok().filter(|&time| time <= LONGEST);
        let time = time.ok_or_else(|| usage(format!("--seconds: expected 0 to {}", LONGEST.as_secs())))?;
        let written: Vec<_> = self.html.iter().map(|path| ("--html", path.as_path())).collect();
        let mut read = vec![("the model", self.file.as_path())];
        read.extend(self.peers.as_deref().map(|path| ("the results", path)));
        check_places(&read, &written)?;
        let name =
            |of: Option<&std::ffi::OsStr>| of.map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let others = match &self.peers {
            Some(path) => peers(path, &name(self.file.file_stem()))?,
            None => Vec::new(),
        };
        let start = Instant::now();
        let (result, tasks) = if is_compiled(&self.file) {
            if self.per_layer {
                return Err(usage("steps are measured in memory only").help("give the .onnx or .qir file"));
            }
            self.flags.warn_compiled();
            let model = load(&self.file)?;
            if self.turns {
                return self.take_turns(&model, start);
            }
            (measure(&model, self.threads, self.io.into(), time, start)?, Vec::new())
        } else {
            let mut options = self.flags.options(0)?;
            self.flags.warn();
            options.float_interface = self.io == Io::Float;
            let mut compiled = compile(self.file.as_path(), &options)?;
            self.tune.apply(&mut compiled)?;
            let program = compiled.jit_program()?;
            if self.turns {
                return self.take_turns(&program.model, start);
            }
            let result = measure(&program.model, self.threads, self.io.into(), time, start)?;
            let tasks =
                if self.per_layer { profile(&program, self.threads, TASK_ROUNDS, result.peaks)? } else { Vec::new() };
            (result, tasks)
        };
        if let Some(path) = &self.html {
            let model = name(self.file.file_name());
            let rows: Vec<(String, String)> = rows(&result).map(|(name, value)| (name.to_string(), value)).into();
            qcc::write_file(path, speed(&model, &rows, &result, &tasks, &others).as_bytes())?;
        }
        terminal::result(&if self.json { json(&result, &tasks) } else { text(&result, &tasks) })
    }

    fn take_turns(&self, model: &Model, started: Instant) -> Result<(), Error> {
        let answer = |line: &serde_json::Value| terminal::result(&format!("{line}\n"));
        take_turns(model, self.threads, self.io.into(), started, std::io::stdin().lock(), answer)
    }
}

fn json(result: &Measurement, tasks: &[TaskProfile]) -> String {
    let mut value = serde_json::to_value(result).unwrap_or_default();
    if !tasks.is_empty() {
        value["layers"] = serde_json::to_value(tasks).unwrap_or_default();
    }
    format!("{value}\n")
}

/// Figures by name.
fn rows(result: &Measurement) -> [(&'static str, String); 8] {
    let rss = result.peak_rss_mb.map_or("unknown".to_string(), |mb| format!("{mb:.1} MB"));
    [
        ("median", format!("{:.3} ms of {} runs, least {:.3}", result.median_ms, result.runs, result.min_ms)),
        ("threads", result.threads.to_string()),
        ("multiply-accumulates", result.macs.to_string()),
        ("rate", format!("{:.1} GMAC/s", result.gmacs_per_s)),
        ("limit, same run", format!("{:.1} GMAC/s", result.peak_gmacs_per_s)),
        ("of the limit", format!("{:.1} %", 100.0 * result.peak_fraction)),
        ("load to first result", format!("{:.1} ms", result.load_ms)),
        ("peak memory", rss),
    ]
}

fn text(result: &Measurement, tasks: &[TaskProfile]) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    for (name, value) in rows(result) {
        let _ = writeln!(out, "{name:<22}{value}");
    }
    if tasks.is_empty() {
        return out;
    }
    let _ = writeln!(
        out,
        "\n{:>9} {:>6} {:>9} {:>7} {:>10} {:>10} {:>8}  {:<17} value: kernel",
        "ms", "%", "GMAC/s", "% limit", "weights B", "activat. B", "MAC/B", "bound by, %"
    );
    let total: f64 = tasks.iter().map(|t| t.ms).sum();
    for t in tasks {
        let (limit, share) = (100.0 * t.peak_fraction, 100.0 * t.ms / total.max(1e-9));
        let bound = format!("{} {:.0}", t.bound, 100.0 * t.bound_fraction);
        let _ = writeln!(
            out,
            "{:>9.4} {share:>6.2} {:>9.1} {limit:>7.1} {:>10} {:>10} {:>8.1}  {bound:<17} {}: {}",
            t.ms,
            t.gmacs_per_s,
            t.weight_bytes,
            t.input_bytes + t.output_bytes,
            t.intensity,
            t.name,
            t.kernel
        );
    }
    let _ = writeln!(
        out,
        "{total:>9.4} in all; bound by: the least time that the machine allows, as a share of the time taken; rates count the \
         multiplications of the network, also those with padding and those that a form F(..) spares; % limit counts those that are done"
    );
    out
}
