//! A compiled model and what is made of it: machine code in memory or in a file, or a text.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use qcc_codegen::emit::{jit, object};
use qcc_codegen::program::tuning::Tuning;
use qcc_interp::Evaluator;
use qcc_ir::diag::Code;
use qcc_ir::{Diag, Elem, Graph, Int, Level, check_level};
use qcc_passes::RangeTable;
use qcc_runtime::Model;

use super::Report;
use super::digest::{digest, model_digest};
use super::export;
use crate::options::tuning_record;
use crate::{Error, files};

/// A compiled model.
pub struct Compiled {
    pub(crate) source: Graph,
    /// The graph on quantized types, before it is lowered to integers; absent if the pipeline has no `fuse`.
    pub(crate) quantized: Option<Graph>,
    pub(super) graph: Graph,
    pub(crate) options: qcc_codegen::Options,
    pub(super) ranges: Option<RangeTable>,
    pub(crate) report: Report,
    /// Real numbers of which trained weights were rounded, by their names.
    pub(super) shadows: HashMap<String, Vec<f32>>,
    pub(super) threads: usize,
}

impl Compiled {
    /// The same with trained parameters, of which the record has a digest.
    pub(crate) fn trained(mut self, network: &qcc_train::Network) -> Result<Compiled, Error> {
        let quantized = network.quantized();
        let record = &mut self.options.manifest.options;
        record.insert("finetune".to_string(), model_digest(&quantized, &self.report.pipeline));
        self.graph = network.lowered()?;
        let layers = network.layers.iter().map(|layer| (layer.name.clone(), layer.shadows.clone()));
        self.shadows = layers.collect();
        self.quantized = Some(quantized);
        self.options.hash = digest(&self.source, record, self.ranges.as_ref(), &self.report.pipeline);
        Ok(self)
    }

    /// The model as it was read.
    pub fn source(&self) -> &Graph {
        &self.source
    }

    /// The model after the passes: integer-only after the usual ones.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Summary of the compilation.
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
            false => record.insert("tuning".to_string(), tuning_record(tuning)),
        };
        options.hash = digest(&self.source, record, self.ranges.as_ref(), &self.report.pipeline);
        options.tuning.clone_from(tuning);
        options
    }

    /// Takes another tuning, as if it had been given with the options.
    pub(crate) fn set_tuning(&mut self, tuning: &Tuning) {
        self.options = self.with_tuning(tuning);
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

    /// Writes a shared object, and its C header beside it with the extension `.h`, unless it goes to a device or a pipe. Both
    /// are written, or none; a header that qcc did not write is never replaced.
    pub fn write_so(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        let header = files::header_place(path)?;
        let object = self.object()?;
        let soname = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        write_with_header(path, &object.link(&soname)?, header, &object)
    }

    /// Writes a relocatable object, to be linked into a program, and its C header as [`Compiled::write_so`] does.
    pub fn write_object(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        let header = files::header_place(path)?;
        let object = self.object()?;
        write_with_header(path, &object.relocatable()?, header, &object)
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

    /// True if the model was quantized before it was compiled.
    pub fn source_is_quantized(&self) -> bool {
        self.source.values().any(|v| self.source.ty(v).uniform().is_some())
    }

    /// Writes the model on quantized types as ONNX with explicit casts (`QuantizeLinear`, `DequantizeLinear`), which other
    /// runtimes read: scales, zero points and weights are what the integer model has. With `round_all` every layer is rounded, as
    /// kernels of other runtimes need it; without, a layer whose result the integer model adds to before it rounds is not.
    pub fn write_onnx_qdq(&self, path: impl AsRef<Path>, round_all: bool) -> Result<(), Error> {
        // Integers alone are on all levels.
        let whole = |g: &&Graph| g.values().all(|v| matches!(g.ty(v).elem, Elem::Int(_) | Elem::Bool));
        let Some(graph) = self.quantized.as_ref().or_else(|| Some(&self.source).filter(whole)) else {
            let diag = Diag::new(Code::PIPELINE, "there is no graph on quantized types to be written as ONNX");
            return Err(diag.help("let the pipeline contain `fuse`").into());
        };
        let manifest = &self.options.manifest;
        let declared = manifest.integer_inputs.iter().chain(&manifest.integer_outputs).filter_map(|d| {
            let quant = (d.scale > 0.0).then_some((d.scale, d.zero_point.into()));
            Some(qcc_onnx::Declared { name: d.name.clone(), storage: Int::from_name(&d.dtype)?, quant })
        });
        let mut options = qcc_onnx::ExportOptions {
            declared: declared.collect(),
            shadows: self.shadows.clone(),
            ..qcc_onnx::ExportOptions::default()
        };
        if !round_all {
            options.unrounded = export::unrounded(graph, &self.graph);
            // Scales of a model that was quantized already are its own.
            if !self.source_is_quantized() {
                options.addends = export::addends(graph, &self.graph, &options.unrounded);
            }
        }
        files::write(path.as_ref(), &qcc_onnx::export(graph, &options)?)
    }

    /// Machine code is made of integer graphs only; another pipeline may end before that.
    pub(crate) fn check_integer(&self) -> Result<(), Error> {
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
        })?;
        // Graphs that come in integer form, and pipelines of the user's, may hold anything.
        let lowered =
            self.report.passes.iter().any(|p| ["prove-accumulators", "lower-to-dynamic"].contains(&p.text.as_str()));
        if lowered { Ok(()) } else { super::prove(&self.graph) }
    }
}

fn write_with_header(path: &Path, model: &[u8], header: Option<PathBuf>, object: &object::Object) -> Result<(), Error> {
    let text = object.header();
    let mut all = vec![(path, model)];
    all.extend(header.as_deref().map(|header| (header, text.as_bytes())));
    files::write_all(&all)
}
