//! Compilation: a source, through the passes, to an integer graph and what is made of it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use qcc_codegen::emit::{jit, object};
use qcc_codegen::program::tuning::Tuning;
use qcc_interp::Evaluator;
use qcc_ir::diag::Code;
use qcc_ir::{Diag, Elem, Graph, Level, check_level};
use qcc_passes::{Context, Pipeline, Property, RangeTable, Samples, Step, default_pipeline, preset};
use qcc_runtime::{Manifest, Model};
use sha2::{Digest, Sha256};

use crate::budget::{Budget, Effect};
use crate::data::Dataset;
use crate::files;
use crate::options::{Calibration, Mode};
use crate::{Error, Options, Source};

/// A stage that has just ended, for those who watch.
pub enum Event<'a> {
    /// The model was read.
    Imported {
        /// The model as it was read.
        graph: &'a Graph,
        /// How long it took.
        time: Duration,
    },
    /// A pass ran.
    Pass {
        /// The pass, and the graph after it.
        step: &'a Step<'a>,
        /// What it did to the outputs, if that is measured.
        effect: Option<Effect>,
    },
}

/// What one pass did.
#[derive(Debug, Clone, PartialEq)]
pub struct PassReport {
    /// The pass with its options, as in a pipeline.
    pub text: String,
    /// Number of edits.
    pub edits: usize,
    /// Nodes in the graph afterwards.
    pub nodes: usize,
    /// How long it took, without verification.
    pub time: Duration,
    /// What was not done and why.
    pub remarks: Vec<String>,
}

/// What a compilation has to say.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Report {
    /// How the ranges of activations were found.
    pub range_source: String,
    /// Whether some were derived from the model, without samples.
    pub derived_ranges: bool,
    /// Whether weights and biases would have been corrected, had there been samples beside the range table.
    pub uncorrected: bool,
    /// Why there is no float edge although one was asked for.
    pub no_float_edge: Option<String>,
    /// The passes that ran.
    pub pipeline: String,
    /// What each did.
    pub passes: Vec<PassReport>,
}

/// A compiled model.
pub struct Compiled {
    source: Graph,
    /// The graph on quantized types, before it is lowered to integers; absent if the pipeline has no `fuse`.
    quantized: Option<Graph>,
    graph: Graph,
    options: qcc_codegen::Options,
    ranges: Option<RangeTable>,
    report: Report,
    threads: usize,
}

/// Compiles a model down to integer operators; machine code is made by the methods of the result.
pub fn compile(source: impl Into<Source>, options: &Options) -> Result<Compiled, Error> {
    compile_observed(source, options, &mut |_| {})
}

/// [`compile`], showing every stage to `observe`.
pub fn compile_observed(
    source: impl Into<Source>,
    options: &Options,
    observe: &mut dyn FnMut(&Event),
) -> Result<Compiled, Error> {
    let source = source.into();
    let start = Instant::now();
    let imported = source.load(options)?;
    let time = start.elapsed();
    tracing::info!(ms = time.as_millis(), nodes = imported.node_count(), "imported");
    observe(&Event::Imported { graph: &imported, time });
    check_outputs(&imported, &source)?;
    let mut graph = imported.clone();
    let mut cx = context(&graph, options)?;
    let text = pipeline_text(&graph, &cx, &source, options)?;
    let mut report = Report::default();
    let quantized = run_pipeline(&text, &mut graph, &mut cx, options, &mut report, observe)?;
    report.range_source.clone_from(&cx.range_source);
    report.derived_ranges = cx.derived_ranges;
    let ran = |name: &str| report.passes.iter().any(|p| p.text.starts_with(name));
    report.uncorrected =
        options.ranges.is_some() && cx.samples.is_none() && (ran("round-weights") || ran("correct-bias"));
    let record = options.record();
    let inputs = imported.inputs().iter();
    let preprocessing = options.preprocess.as_ref().map_or(Vec::new(), |p| {
        let images = inputs.filter(|&&v| p.layout_of(imported.ty(v)).is_some());
        images.map(|&v| p.record(imported.name_of(v), imported.ty(v))).collect()
    });
    let hash = digest(&imported, &record, cx.ranges.as_ref(), &report.pipeline);
    let manifest = Manifest {
        options: record,
        pipeline: report.pipeline.clone(),
        preprocessing,
        ranges: report.range_source.clone(),
        source: source.file_name(),
        ..Manifest::default()
    };
    let refusal = options.float_edge.then(|| qcc_codegen::program::no_float_edge(&graph)).flatten();
    report.no_float_edge = refusal.map(|diag| diag.message);
    let codegen = qcc_codegen::Options {
        target: options.target,
        name: model_name(options, &source, &imported),
        float_edge: options.float_edge && report.no_float_edge.is_none(),
        shared_from: qcc_codegen::SHARED_FROM,
        tuning: options.tuning.clone(),
        hash,
        manifest,
    };
    Ok(Compiled {
        source: imported,
        quantized,
        graph,
        options: codegen,
        ranges: cx.ranges,
        report,
        threads: options.threads,
    })
}

/// Outputs that no input decides on, and empty ones, are no results of a network.
fn check_outputs(imported: &Graph, source: &Source) -> Result<(), Error> {
    for &v in imported.outputs() {
        let constant = imported.constant(v).is_some() && imported.ty(v).is_float();
        if constant || imported.ty(v).elements() == 0 {
            let what = if constant { "depends on no input" } else { "has no element" };
            let diag = Diag::new(Code::NO_INTEGER_FORM, format!("output `{}` {what}", imported.name_of(v)));
            return Err(diag.in_file(source.file_name()).help("take it out of the model's outputs").into());
        }
    }
    Ok(())
}

/// The pipeline that is asked for, or the one that the model and what is known of its values ask for.
fn pipeline_text(graph: &Graph, cx: &Context, source: &Source, options: &Options) -> Result<String, Error> {
    Ok(match &options.pipeline {
        Some(text) => text.clone(),
        // What is in integer form already needs no passes.
        None if check_level(graph, Level::Int).is_ok() => String::new(),
        None if options.mode == Mode::Int8Dynamic && !Property::Float.holds(graph) => {
            let diag = Diag::new(
                Code::UNSUPPORTED,
                "the model brings its own scales, and `int8_dynamic` has others in each run",
            );
            return Err(diag.in_file(source.file_name()).help("leave `--mode` out, or give the float model").into());
        }
        None if options.mode == Mode::Int8Dynamic => preset("-dynamic").unwrap_or_default().to_string(),
        None => default_pipeline(graph, cx),
    })
}

/// Runs the passes, if there are any; returns the graph at the quant level, if they come by it.
fn run_pipeline(
    text: &str,
    graph: &mut Graph,
    cx: &mut Context,
    options: &Options,
    report: &mut Report,
    observe: &mut dyn FnMut(&Event),
) -> Result<Option<Graph>, Error> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    let mut quantized = None;
    let pipeline = Pipeline::parse(text)?;
    report.pipeline = pipeline.to_string();
    let samples = cx.samples.clone().filter(|s| !s.is_empty());
    let mut budget = samples.map(|s| Budget::new(graph, &s, options.measure_passes)).transpose()?;
    pipeline.run_observed(graph, cx, usize::MAX, &mut |step| {
        tracing::info!(pass = step.text, ms = step.time.as_millis(), edits = step.labels.len(), "ran");
        report.passes.push(PassReport {
            text: step.text.clone(),
            edits: step.labels.len(),
            nodes: step.graph.node_count(),
            time: step.time,
            remarks: step.remarks.to_vec(),
        });
        if step.info.name == "fuse" {
            quantized = Some(step.graph.clone());
        }
        // What failed is shown too: it is what one wants to look at.
        let effect = budget.as_mut().map_or(Ok(None), |b| b.pass(step));
        observe(&Event::Pass { step, effect: effect.as_ref().ok().copied().flatten() });
        effect.map(|_| ())
    })?;
    budget.as_mut().map_or(Ok(()), Budget::settle)?;
    Ok(quantized)
}

fn model_name(options: &Options, source: &Source, imported: &Graph) -> String {
    match (&options.name, Path::new(&source.file_name()).file_stem()) {
        (Some(name), _) => name.clone(),
        (None, Some(stem)) => stem.to_string_lossy().into_owned(),
        (None, None) => imported.name.clone(),
    }
}

pub(crate) fn context(graph: &Graph, options: &Options) -> Result<Context, Error> {
    let samples: Option<Arc<dyn Samples>> = match &options.calibration {
        None => None,
        Some(Calibration::Samples(samples)) => Some(samples.clone()),
        Some(Calibration::Path(path)) => Some(Arc::new(Dataset::open(path, graph, options.preprocess.as_ref())?)),
    };
    let mut input_ranges = options.input_ranges.clone();
    let fallback = input_ranges.remove("");
    let known = |name: &str| graph.inputs().iter().any(|&v| graph.name_of(v) == name);
    if let Some(name) = input_ranges.keys().filter(|n| !known(n)).min() {
        let names: Vec<_> = graph.inputs().iter().map(|&v| graph.name_of(v)).collect();
        let message = format!("a range is given for `{name}`, which is no input");
        return Err(Error::new(Code::DATA, message).help(format!("inputs are {}", names.join(", "))));
    }
    for &v in graph.inputs() {
        let ty = graph.ty(v);
        let images = options.preprocess.as_ref().filter(|p| p.layout_of(ty).is_some());
        if let Some(range) = fallback.or(images.map(|p| p.range())).filter(|_| ty.is_float()) {
            input_ranges.entry(graph.name_of(v).to_string()).or_insert(range);
        }
    }
    Ok(Context {
        samples,
        input_ranges,
        ranges: options.ranges.clone(),
        source_names: graph.values().map(|v| graph.name_of(v).to_string()).collect(),
        corrections: options.corrections,
        precision: options.precision.clone(),
        method: options.method,
        progress: options.progress.clone(),
        threads: options.threads,
        ..Context::default()
    })
}

/// Digest of everything that shapes the result: model, options, ranges, passes and the compiler's version.
pub(crate) fn digest(
    graph: &Graph,
    record: &std::collections::BTreeMap<String, String>,
    ranges: Option<&RangeTable>,
    pipeline: &str,
) -> [u8; 32] {
    let mut hash = Sha256::new();
    put(&mut hash, env!("CARGO_PKG_VERSION").as_bytes());
    put_model(&mut hash, graph);
    let mut put = |bytes: &[u8]| put(&mut hash, bytes);
    for (name, value) in record {
        put(name.as_bytes());
        put(value.as_bytes());
    }
    put(ranges.map(RangeTable::to_json).unwrap_or_default().as_bytes());
    put(pipeline.as_bytes());
    hash.finalize().into()
}

fn put(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

/// Adds a model and its constants to a digest.
fn put_model(hash: &mut Sha256, graph: &Graph) {
    put(hash, graph.to_string().as_bytes());
    for (_, tensor) in graph.constants() {
        qcc_ir::for_data!(&tensor.data, v => for part in v.chunks(1 << 14) {
            let bytes: Vec<u8> = part.iter().flat_map(|x| x.to_le_bytes()).collect();
            put(hash, &bytes);
        });
    }
}

/// Digest of a model and of the passes that it goes through, in hexadecimal.
pub(crate) fn model_digest(graph: &Graph, pipeline: &str) -> String {
    let mut hash = Sha256::new();
    put_model(&mut hash, graph);
    put(&mut hash, pipeline.as_bytes());
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Compiled {
    /// The model as it was read.
    pub fn source(&self) -> &Graph {
        &self.source
    }

    /// The model after the passes: integer-only after the usual ones.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// What the compilation has to say.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The range of every activation: can be saved, edited and given back.
    pub fn ranges(&self) -> Option<&RangeTable> {
        self.ranges.as_ref()
    }

    /// How machine code is made of it.
    pub fn codegen_options(&self) -> &qcc_codegen::Options {
        &self.options
    }

    /// The same with another tuning, recorded as if it had been given with the options.
    pub(crate) fn with_tuning(&self, tuning: &Tuning) -> qcc_codegen::Options {
        let mut options = self.options.clone();
        let record = &mut options.manifest.options;
        match tuning.is_empty() {
            true => record.remove("tuning"),
            false => record.insert("tuning".to_string(), crate::tune::to_json(tuning)),
        };
        options.hash = digest(&self.source, record, self.ranges.as_ref(), &self.report.pipeline);
        options.tuning.clone_from(tuning);
        options
    }

    /// Measures what the estimates might have chosen otherwise in each layer, and keeps what is faster here; returns it. Given
    /// back as [`Options::tuning`], it makes the same model on any machine.
    pub fn tune(&mut self) -> Result<&Tuning, Error> {
        self.check_integer()?;
        let tuning = crate::tune::measure(self)?;
        self.options = self.with_tuning(&tuning);
        Ok(&self.options.tuning)
    }

    /// The exact meaning of the compiled model: evaluates the integer graph operation by operation.
    pub fn interpreter(&self) -> Evaluator {
        Evaluator::new(&self.graph).with_threads(self.threads.max(1))
    }

    /// Compiles into the memory of this process.
    pub fn jit(&self) -> Result<Model, Error> {
        Ok(self.jit_program()?.model)
    }

    /// [`Compiled::jit`], with the tasks that the program consists of.
    pub fn jit_program(&self) -> Result<jit::Jit, Error> {
        self.check_integer()?;
        let start = Instant::now();
        let program = jit::compile(&self.graph, &self.options)?;
        tracing::info!(ms = start.elapsed().as_millis(), tasks = program.tasks.len(), "compiled in memory");
        Ok(program)
    }

    /// Compiles into a relocatable object.
    pub fn object(&self) -> Result<object::Object, Error> {
        self.check_integer()?;
        let start = Instant::now();
        let object = object::compile(&self.graph, &self.options)?;
        tracing::info!(ms = start.elapsed().as_millis(), bytes = object.object.len(), "compiled");
        Ok(object)
    }

    /// Writes a shared object, and its C header beside it with the extension `.h`. Both are written, or none.
    pub fn write_so(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        let object = self.object()?;
        let soname = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let image = object.link(&soname)?;
        files::write_all(&[(path, &image), (&path.with_extension("h"), object.header().as_bytes())])
    }

    /// Writes a relocatable object and its C header, as [`Compiled::write_so`] does.
    pub fn write_object(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        let object = self.object()?;
        files::write_all(&[(path, &object.object), (&path.with_extension("h"), object.header().as_bytes())])
    }

    /// The program in Cranelift IR, as text.
    pub fn clif(&self) -> Result<String, Error> {
        self.check_integer()?;
        Ok(object::clif(&self.graph, &self.options)?)
    }

    /// Writes [`Compiled::clif`].
    pub fn write_clif(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        files::write(path.as_ref(), self.clif()?.as_bytes())
    }

    /// Writes [`Compiled::asm`].
    pub fn write_asm(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        files::write(path.as_ref(), self.asm()?.as_bytes())
    }

    /// The machine code of the shared object, disassembled.
    pub fn asm(&self) -> Result<String, Error> {
        let image = self.object()?.link("model.so")?;
        qcc_codegen::check::listing(&image).map_err(|e| Error::new(Code::CODEGEN, e.to_string()))
    }

    /// Writes the integer graph as text, all constants inline.
    pub fn write_text(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        files::write(path.as_ref(), qcc_ir::print(&self.graph).as_bytes())
    }

    /// Writes the model on quantized types as ONNX with explicit casts (`QuantizeLinear`, `DequantizeLinear`), which other
    /// runtimes read: scales, zero points and weights are what the integer model has.
    pub fn write_onnx_qdq(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let Some(graph) = &self.quantized else {
            let diag = Diag::new(Code::PIPELINE, "there is no graph on quantized types to be written as ONNX");
            return Err(diag.help("let the pipeline contain `fuse`").into());
        };
        files::write(path.as_ref(), &qcc_onnx::export(graph)?)
    }

    /// Machine code is made of integer graphs only; another pipeline may end before that.
    fn check_integer(&self) -> Result<(), Error> {
        let float = self.graph.values().find(|&v| matches!(self.graph.ty(v).elem, Elem::F32 | Elem::Calibrated(_)));
        if let (Some(v), false) = (float, self.report.passes.iter().any(|p| p.text.starts_with("check-integer-only"))) {
            let message =
                format!("there is no machine code for %{} of type {}", self.graph.name_of(v), self.graph.ty(v));
            let diag = Diag::new(Code::PIPELINE, message);
            return Err(diag.help("end the pipeline with `check-integer-only`, or write a .qir file").into());
        }
        check_level(&self.graph, Level::Int).map_err(|mut diags| {
            diags.0.truncate(1);
            diags.0.iter_mut().for_each(|d| d.code = Code::PIPELINE);
            Error::from(diags)
        })
    }
}
