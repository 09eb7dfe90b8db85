//! `qcc explore`: a page that shows what became of a model.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use qcc::bench::{measure, profile};
use qcc::compare::{Stages, Subject, affordable_calls, damage};
use qcc::cost::multiply_accumulates;
use qcc::data::Dataset;
use qcc::engine::Io;
use qcc::explore::{Explorer, page};
use qcc::ir::Graph;
use qcc::passes::Samples as _;
use qcc::record::Recording;
use qcc::{Calibration, Compiled, Error, Options, Source, check_places, compile_observed};

use super::announce::announce;
use super::flags::ModelFlags;
use super::{progress, terminal};

/// Calls of the model whose values are shown, unless something else is asked for.
pub const CALLS: usize = 2;

/// The same where the page is what is asked for.
const PAGE_CALLS: usize = 4;

/// Multiply-accumulates of a call up to which values are shown on synthesized inputs where nobody asked for the page itself.
const SMALL: u64 = 1 << 28;

/// Runs behind the median of each task.
const TASK_ROUNDS: usize = 30;

/// How long the limits of the machine are measured.
const LIMIT_TIME: std::time::Duration = std::time::Duration::from_millis(500);

/// Show what every pass made of a model, in one page.
#[derive(Args)]
pub struct Explore {
    /// Model: .onnx, or .qir
    model: PathBuf,
    /// Page to write [default: the model's name with .html]
    #[arg(short, long, value_name = "PAGE.html")]
    output: Option<PathBuf>,
    /// Samples on which values are shown: .npy, .npz, image, list or folder [default: of --calibrate those that are held out, else
    /// synthesized ones]
    #[arg(long, value_name = "SAMPLES")]
    data: Option<PathBuf>,
    /// Calls of the model whose values are shown [default: 4, fewer of a large model]
    #[arg(long, value_name = "N")]
    calls: Option<usize>,
    /// Measure the time of every step, and its share of what the machine allows
    #[arg(long)]
    bench: bool,
    /// Threads of the compiler; 0 for one a core
    #[arg(long, default_value_t = 0)]
    threads: usize,
    #[command(flatten)]
    flags: ModelFlags,
}

impl Explore {
    /// Does it.
    pub fn execute(&self) -> Result<(), Error> {
        let output = self.output.clone().unwrap_or_else(|| {
            PathBuf::from(self.model.file_name().unwrap_or(self.model.as_os_str())).with_extension("html")
        });
        let mut read = self.flags.files();
        read.push(("the model", self.model.as_path()));
        read.extend(self.data.as_deref().map(|path| ("the samples", path)));
        check_places(&read, &[("--output", &output)])?;
        self.flags.warn();
        let mut options = Options { measure_passes: true, ..self.flags.options(self.threads)? };
        let source = Source::from(self.model.as_path());
        let graph = source.load(&options)?;
        let (data, named) = samples(&graph, &options, self.data.as_deref())?;
        let calls = self.calls.map_or_else(|| affordable_calls(&graph, PAGE_CALLS), |n| n.max(1));
        options.watched = Some(Arc::new(data.clone().only((0..data.len().min(calls)).collect())));
        drop(graph);
        let (mut recording, mut stages) = (Recording::default(), Stages::default());
        let compiled = compile_observed(source.clone(), &options, &mut |event| {
            recording.observe(event);
            stages.observe(event);
        })?;
        announce(&compiled);
        let file = self.model.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let mut explorer = Explorer::new(file, recording);
        progress::report("code", 0, 0);
        explorer.compiled(&compiled)?;
        if explorer.program.is_some() {
            let path = self.data.clone().unwrap_or_default();
            progress::report("values", 0, 0);
            explorer.samples(&compiled, (&data, &named), calls, &mut |layers| {
                let (source, options, compiled, stages) = (&source, &options, &compiled, &stages);
                let data = (&data, path.as_path());
                damage(&Subject { source, options, compiled, stages, data, calls, verify: false }, layers)
            })?;
            if self.bench {
                explorer.measured(&bench(&compiled)?);
            }
        }
        qcc::write_file(&output, page(&explorer).as_bytes())?;
        terminal::note(&format!("{}: open it in a browser", output.display()));
        Ok(())
    }
}

/// Times of the tasks on one thread.
fn bench(compiled: &Compiled) -> Result<Vec<qcc::bench::TaskProfile>, Error> {
    progress::report("bench", 0, 0);
    let program = compiled.jit_program()?;
    let result = measure(&program.model, 1, Io::Int, LIMIT_TIME, std::time::Instant::now())?;
    profile(&program, 1, TASK_ROUNDS, result.peaks)
}

/// The samples to show values on, and what they are.
fn samples(graph: &Graph, options: &Options, data: Option<&Path>) -> Result<(Dataset, String), Error> {
    let open = |path: &Path| Dataset::open(path, graph, options.preprocess.as_ref());
    if let Some(path) = data {
        return Ok((open(path)?, format!("samples of {}", path.display())));
    }
    if let Some(Calibration::Path(path)) = &options.calibration {
        let dataset = open(path)?;
        let held_out = options.held_out(&dataset);
        return Ok(match held_out.is_empty() {
            true => (dataset, "samples that ranges were found with".to_string()),
            false => (dataset.only(held_out), "samples that ranges were not found with".to_string()),
        });
    }
    let ranges = qcc::declared_ranges(graph, options)?;
    let dataset = Dataset::synthesized(graph, &ranges, PAGE_CALLS);
    Ok((dataset, "synthesized inputs: no samples were given".to_string()))
}

/// Adds what there is to see of a compiled model beside its passes. Of a large one without samples, values are left out.
pub fn complete(explorer: &mut Explorer, compiled: &Compiled, options: &Options, calls: usize) -> Result<(), Error> {
    explorer.compiled(compiled)?;
    let graph = compiled.source();
    let work: u64 = graph.order().iter().map(|&n| multiply_accumulates(graph, n)).sum();
    let has_samples = matches!(options.calibration, Some(Calibration::Path(_)));
    if explorer.program.is_none() || !has_samples && work > SMALL {
        return Ok(());
    }
    let (data, named) = samples(graph, options, None)?;
    explorer.samples(compiled, (&data, &named), calls, &mut Ok)
}
