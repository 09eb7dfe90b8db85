//! Compilation: a source, through the passes, to an integer graph and what is made of it.

mod compiled;
mod digest;
mod export;
mod own_words;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use qcc_ir::diag::Code;
use qcc_ir::{Diag, Graph, Int, Level, Opcode, Range, check_level};
use qcc_passes::quant::precision::WEIGHTS;
use qcc_passes::{Context, Pipeline, Precisions, Property, RangeTable, Samples, Step, default_pipeline, preset};
use qcc_runtime::Manifest;
use qcc_runtime::info::MAX_TENSORS;

use crate::budget::{Budget, Effect};
use crate::data::Dataset;
use crate::options::{Calibration, Mode};
use crate::source::whole_input;
use crate::{Error, Options, Source, certificates};
pub use compiled::Compiled;
use digest::digest;
pub(crate) use digest::model_digest;

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

/// Summary of a compilation.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Report {
    /// What there is to say about the model: where its file, or the mode, leaves something to be desired.
    pub remarks_on_model: Vec<String>,
    /// What was not done that was asked for, and why.
    pub notes: Vec<String>,
    /// How the ranges of activations were found.
    pub range_source: String,
    /// Whether some were derived from the model, without samples.
    pub derived_ranges: bool,
    /// Whether weights and biases would have been corrected, had there been samples beside the range table.
    pub uncorrected: bool,
    /// Why there is no float interface although one was asked for.
    pub no_float_interface: Option<String>,
    /// The passes that ran.
    pub pipeline: String,
    /// What each did.
    pub passes: Vec<PassReport>,
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
    let qcc_onnx::Imported { graph: imported, remarks, names, budget } = source.load_with_remarks(options)?;
    let time = start.elapsed();
    tracing::info!(ms = time.as_millis(), nodes = imported.node_count(), "imported");
    observe(&Event::Imported { graph: &imported, time });
    check_interface(&imported, &source)?;
    let mut graph = imported.clone();
    let mut cx = context(&graph, options)?;
    cx.budget = budget;
    let text = pipeline_text(&graph, &cx, &source, options)?;
    let mut report = Report { remarks_on_model: remarks, ..Report::default() };
    let ran = run_pipeline(&text, &mut graph, &mut cx, options, &mut report, observe);
    let mut quantized = ran.map_err(|error| own_words::renamed(error, &names))?;
    for graph in [Some(&mut graph), quantized.as_mut()].into_iter().flatten() {
        own_words::name_outputs(graph, &imported);
    }
    if options.pipeline.is_none() && text.is_empty() {
        prove(&graph)?;
    }
    report.notes = std::mem::take(&mut cx.notes);
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
    let mut manifest = Manifest {
        options: record,
        pipeline: report.pipeline.clone(),
        preprocessing,
        ranges: report.range_source.clone(),
        source: source.file_name(),
        integer_inputs: source.declared_integers(&imported, imported.inputs()),
        integer_outputs: source.declared_integers(&imported, imported.outputs()),
        ..Manifest::default()
    };
    certificates::record(&graph, &mut manifest);
    let refusal = options.float_interface.then(|| qcc_codegen::program::float_interface_refusal(&graph)).flatten();
    report.no_float_interface = refusal.map(|diag| diag.message);
    let codegen = qcc_codegen::Options {
        target: options.target,
        name: model_name(options, &source, &imported),
        float_interface: options.float_interface && report.no_float_interface.is_none(),
        shared_from: qcc_codegen::SHARED_FROM,
        tuning: options.tuning.clone(),
        budget,
        hash,
        manifest,
    };
    Ok(Compiled {
        shadows: HashMap::new(),
        source: imported,
        quantized,
        graph,
        options: codegen,
        ranges: cx.ranges,
        report,
        threads: options.threads,
    })
}

/// Outputs that no input decides on, and empty ones, are no results of a network; nor has the interface room for any number of
/// tensors.
fn check_interface(imported: &Graph, source: &Source) -> Result<(), Error> {
    for (what, count) in [("inputs", imported.inputs().len()), ("outputs", imported.outputs().len())] {
        if count > MAX_TENSORS as usize {
            let message = format!("the model has {count} {what}, and a compiled one has at most {MAX_TENSORS}");
            let diag = Diag::new(Code::UNSUPPORTED, message).in_file(source.file_name());
            return Err(diag.help("let it take and give fewer tensors").into());
        }
    }
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

/// Proves of a graph that came in integer form what passes see to in others: that it has no operator which they do not lower, and
/// that no sum leaves its type.
fn prove(graph: &Graph) -> Result<(), Error> {
    if let Some(n) = graph.order().into_iter().find(|&n| graph.op(n) == Opcode::MaxPoolIndex) {
        let diag = Diag::new(Code::NO_INTEGER_FORM, "positions in windows are evaluated in float only");
        return Err(diag.at(graph.describe(n)).help("cut the graph before it").into());
    }
    Pipeline::parse("prove-accumulators")?.run(&mut graph.clone(), &mut Context::default())?;
    Ok(())
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
    let pipeline = Pipeline::parse_with(text, options.own_passes)?;
    report.pipeline = pipeline.to_string();
    let samples = [&cx.samples, &options.watched].into_iter().flatten().find(|s| !s.is_empty()).cloned();
    let mut budget = samples.map(|s| Budget::new(graph, &s, options.measure_passes)).transpose()?;
    let limit = options.edit_limit.unwrap_or(usize::MAX);
    pipeline.run_observed(graph, cx, limit, &mut |step| {
        tracing::info!(pass = step.text, ms = step.time.as_millis(), edits = step.labels.len(), "ran");
        report.passes.push(PassReport {
            text: step.text.clone(),
            edits: step.labels.len(),
            nodes: step.graph.node_count(),
            time: step.time,
            remarks: step.remarks.to_vec(),
        });
        if step.info.name == "lower-to-dynamic" {
            report.remarks_on_model.extend(step.remarks.iter().cloned());
        }
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

/// Names as graphs spell them, for those that are spelled as in the ONNX file.
fn graph_names(graph: &Graph, precision: &Precisions) -> Precisions {
    let spelled = |name: &String| {
        let (value, behind) = name.strip_suffix(WEIGHTS).map_or((name.as_str(), ""), |value| (value, WEIGHTS));
        let own = qcc_onnx::value_name(value);
        let is_known = [name.as_str(), value].iter().any(|n| graph.find(n).is_some());
        // Names of nodes are known to the passes.
        if is_known || graph.find(&own).is_none() { name.clone() } else { format!("{own}{behind}") }
    };
    precision.iter().map(|(name, &precision)| (spelled(name), precision)).collect()
}

/// A table of ranges whose rows may be named as in the ONNX file.
fn named_ranges(graph: &Graph, mut table: RangeTable) -> RangeTable {
    let spelled: Vec<(String, String)> = table
        .values
        .keys()
        .filter(|name| graph.find(name).is_none())
        .map(|name| (name.clone(), qcc_onnx::value_name(name)))
        .filter(|(_, own)| graph.find(own).is_some() && !table.values.contains_key(own))
        .collect();
    for (name, own) in spelled {
        if let Some(row) = table.values.remove(&name) {
            table.values.insert(own, row);
        }
    }
    table
}

pub(crate) fn context(graph: &Graph, options: &Options) -> Result<Context, Error> {
    let samples: Option<Arc<dyn Samples>> = match &options.calibration {
        None => None,
        Some(Calibration::Samples(samples)) => Some(samples.clone()),
        Some(Calibration::Path(path)) => {
            let dataset = Dataset::open(path, graph, options.preprocess.as_ref())?;
            let calls = options.calibration_calls(&dataset);
            Some(Arc::new(if calls.len() < dataset.len() { dataset.only(calls) } else { dataset }))
        }
    };
    let input_ranges = declared_ranges(graph, options)?;
    Ok(Context {
        samples,
        input_ranges,
        ranges: options.ranges.clone().map(|table| named_ranges(graph, table)),
        corrections: options.corrections,
        precision: graph_names(graph, &options.precision),
        overall: options.overall,
        states: options.states.clone(),
        method: options.method,
        progress: options.progress.clone(),
        budget: options.shapes.budget,
        threads: options.threads,
        ..Context::default()
    })
}

/// Ranges of inputs by what is said of them: by options, by the preprocessing of images, by the model's integers.
pub fn declared_ranges(graph: &Graph, options: &Options) -> Result<HashMap<String, Range>, Error> {
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
        let whole = whole_input(graph, v).map(|int| Range { min: Int::min(int) as f32, max: Int::max(int) as f32 });
        if let Some(range) = whole.or(fallback).or(images.map(|p| p.range())).filter(|_| ty.is_float()) {
            input_ranges.entry(graph.name_of(v).to_string()).or_insert(range);
        }
    }
    Ok(input_ranges)
}
