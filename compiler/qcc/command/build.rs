//! `qcc MODEL -o OUT`: compiles a model into a file.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use qcc::dump::Dump;
use qcc::explore::Explorer;
use qcc::ir::Graph;
use qcc::passes::Precision;
use qcc::passes::quant::precision::{ALL, WEIGHTS};
use qcc::viewers::{dot, model_explorer};
use qcc::{Compiled, Error, Event, check_places, compile_observed, header_place, reading, save_ranges, write_file};

use super::announce::announce;
use super::explore;
use super::flags::{Io, ModelFlags, TuneFlags, usage, warn_idle};
use super::limit::LimitFlags;
use super::quality::QualityFlags;
use super::{progress, terminal};

/// Compile a model.
#[derive(Args)]
pub struct Build {
    /// Model to compile: .onnx, or .qir
    #[arg(value_name = "MODEL")]
    model: Option<PathBuf>,
    /// File to write; its extension says what: .so, .o, .qir, .clif, .s, .onnx, .dot
    #[arg(short, long, value_name = "OUT")]
    output: Option<PathBuf>,
    /// What to write, whatever the extension
    #[arg(long)]
    emit: Option<Emit>,
    /// CPU on which ONNX Runtime is to run an ONNX file: every layer is rounded, as its integer kernels need it, also where qcc adds before
    /// it rounds; without VNNI it adds products in 16 bits, and weights get 7 bits
    #[arg(long, value_enum, value_name = "CPU")]
    export_for: Option<ExportFor>,
    /// Name of the model in C [default: that of the output file]
    #[arg(long)]
    name: Option<String>,
    /// Whether the model also takes and gives floats, or integers only [default: float]
    #[arg(long, value_enum)]
    io: Option<Io>,
    /// Threads of the compiler; 0 for one a core
    #[arg(long, default_value_t = 0, value_parser = super::flags::threads)]
    threads: usize,
    /// Write the ranges that were found, to be edited and given back
    #[arg(long, value_name = "FILE.json")]
    save_ranges: Option<PathBuf>,
    #[command(flatten)]
    flags: ModelFlags,
    #[command(flatten)]
    tune: TuneFlags,
    #[command(flatten)]
    limit: LimitFlags,
    #[command(flatten)]
    quality: QualityFlags,
    #[command(flatten)]
    watch: WatchFlags,
}

/// What a compilation leaves behind for those who want to see inside.
#[derive(Args)]
#[command(next_help_heading = "Looking inside")]
pub struct WatchFlags {
    /// Write the graph after every pass, what each changed, a summary, and a page that shows it all: index.html
    #[arg(long, value_name = "DIR")]
    pub dump_dir: Option<PathBuf>,
    /// Measure what every pass does to the outputs on a few of the samples; --dump-dir does so too, in its summary
    #[arg(long)]
    pub measure_passes: bool,
    /// Print the graph after every pass to stderr
    #[arg(long)]
    pub print_ir_after_all: bool,
    /// Print the graph to stderr after every pass that changed it
    #[arg(long, conflicts_with = "print_ir_after_all")]
    pub print_ir_after_change: bool,
    /// Print every change of the graph with its number
    #[arg(long)]
    pub print_edits: bool,
    /// Print what passes did not do, and why
    #[arg(long)]
    pub remarks: bool,
    /// Write where each operator went: ONNX node, integer operator, step, symbol, addresses; with a .so
    #[arg(long, value_name = "FILE.json")]
    pub trace: Option<PathBuf>,
}

/// CPUs on which other runtimes run an exported model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ExportFor {
    /// x86-64 with VNNI, Arm: sums of products have 32 bits
    Vnni,
    /// x86-64 without VNNI
    Avx2,
}

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Emit {
    /// Shared object and C header
    So,
    /// Relocatable object and C header
    Obj,
    /// Integer graph as text
    Qir,
    /// Program in Cranelift IR as text
    Clif,
    /// Machine code as text; 32-bit numbers where it is not for x86-64
    Asm,
    /// Quantized model with explicit casts, for other runtimes
    OnnxQdq,
    /// Integer graph for Graphviz
    Dot,
    /// Integer graph for Google's Model Explorer, as JSON
    ModelExplorer,
}

impl Build {
    /// Does it.
    pub fn execute(&self) -> Result<(), Error> {
        let model = self.model.as_ref().ok_or_else(|| usage("no model is given").help("qcc model.onnx -o model.so"))?;
        let emit = self.emit()?;
        if self.watch.trace.is_some() && (emit != Emit::So || self.output.is_none()) {
            return Err(usage("--trace tells of addresses in a shared object").help("add -o model.so"));
        }
        self.check_places(model, emit)?;
        self.warn(model, emit);
        let mut options = self.flags.options(self.threads)?;
        options.float_interface = self.io.unwrap_or(Io::Float) == Io::Float;
        if let (Emit::OnnxQdq, Some(ExportFor::Avx2), Some(i7)) = (emit, self.export_for, Precision::named("i7")) {
            options.precision.entry(format!("{ALL}{WEIGHTS}")).or_insert(i7);
        }
        let stem = self.output.as_deref().and_then(Path::file_stem).map(|s| s.to_string_lossy().into_owned());
        options.name = self.name.clone().or(stem);
        let data = self.limit.data();
        let mut compiled = match self.limit.compile(model, &options)? {
            Some((compiled, within)) => {
                options = within;
                // Compiled once more, where someone wants to see how.
                if self.watch.is_on() { self.watch.compile(model, &options)? } else { compiled }
            }
            None => self.watch.compile(model, &options)?,
        };
        progress::report("code", 0, 0);
        self.tune.apply(&mut compiled)?;
        if let Some(path) = &self.save_ranges
            && let Some(ranges) = compiled.ranges()
        {
            save_ranges(ranges, path)?;
        }
        match (emit, &self.output) {
            (Emit::So, Some(path)) => compiled.write_so(path)?,
            (Emit::Obj, Some(path)) => compiled.write_object(path)?,
            (Emit::OnnxQdq, Some(path)) => compiled.write_onnx_qdq(path, self.export_for.is_some())?,
            (Emit::Qir, Some(path)) => compiled.write_text(path)?,
            (Emit::Clif, Some(path)) => compiled.write_clif(path)?,
            (Emit::Asm, Some(path)) => compiled.write_asm(path)?,
            (Emit::Dot, Some(path)) => qcc::write_file(path, dot(compiled.graph()).as_bytes())?,
            (Emit::ModelExplorer, Some(path)) => qcc::write_file(path, model_explorer(compiled.graph()).as_bytes())?,
            (Emit::Dot, None) => terminal::result(&dot(compiled.graph()))?,
            (Emit::ModelExplorer, None) => terminal::result(&model_explorer(compiled.graph()))?,
            (Emit::Qir, None) => terminal::result(&terminal::graph(&compiled)?)?,
            (Emit::Clif, None) => terminal::result(&compiled.clif()?)?,
            (Emit::Asm, None) => terminal::result(&compiled.asm()?)?,
            (Emit::So | Emit::Obj | Emit::OnnxQdq, None) => {
                return Err(usage("what is no text needs a file to go to").help("add -o model.so"));
            }
        }
        if let (Some(trace), Some(path)) = (&self.watch.trace, &self.output) {
            let image = reading::read(path, "read the model", reading::MODEL)?;
            write_file(trace, compiled.trace(&image)?.as_bytes())?;
        }
        announce(&compiled);
        if emit == Emit::OnnxQdq {
            self.note_saturation(&compiled);
        }
        self.quality.report(&compiled, &options, data.as_deref());
        Ok(())
    }

    /// What ONNX Runtime makes of full weights where it adds products in 16 bits.
    fn note_saturation(&self, compiled: &Compiled) {
        let given = compiled.source_is_quantized();
        let text = match self.export_for {
            Some(ExportFor::Vnni) => return,
            Some(ExportFor::Avx2) if !given => return,
            Some(ExportFor::Avx2) => {
                "warning: weights stay those of the model, which is quantized already: ONNX Runtime saturates sums of \
                 products on x86-64 CPUs without VNNI unless they have 7 bits"
            }
            None => {
                "note: on x86-64 CPUs without VNNI, ONNX Runtime saturates sums of products of 8-bit weights: --export-for avx2 writes \
                 weights of 7 bits, and --export-for vnni leaves this note out"
            }
        };
        terminal::note(text);
    }

    /// Refuses to write over what is read, or over a file beside the output that is not qcc's.
    fn check_places(&self, model: &Path, emit: Emit) -> Result<(), Error> {
        let mut read = self.flags.files();
        read.push(("the model", model));
        read.extend(self.limit.files());
        let header = match &self.output {
            Some(path) if matches!(emit, Emit::So | Emit::Obj) => header_place(path)?,
            _ => None,
        };
        let mut written: Vec<(&str, &Path)> = Vec::new();
        written.extend(self.output.as_deref().map(|path| ("--output", path)));
        written.extend(header.as_deref().map(|path| ("the C header", path)));
        written.extend(self.save_ranges.as_deref().map(|path| ("--save-ranges", path)));
        written.extend(self.watch.trace.as_deref().map(|path| ("--trace", path)));
        written.extend(self.tune.file().map(|path| ("--save-tuning", path)));
        check_places(&read, &written)
    }

    /// Warns of flags that change nothing in what is written.
    fn warn(&self, model: &Path, emit: Emit) {
        let what = match emit {
            Emit::So | Emit::Obj | Emit::Clif | Emit::Asm => None,
            Emit::Qir | Emit::Dot | Emit::ModelExplorer => Some("a graph as text"),
            Emit::OnnxQdq => Some("an ONNX file"),
        };
        if let Some(what) = what {
            self.flags.warn_no_code(what);
            let own =
                [self.name.as_ref().map(|_| "--name"), self.io.map(|_| "--io"), self.tune.is_on().then_some("--tune")];
            warn_idle(&own.into_iter().flatten().collect::<Vec<_>>(), &format!("{what} holds no machine code"));
        }
        if self.export_for.is_some() && emit != Emit::OnnxQdq {
            warn_idle(&["--export-for"], "no ONNX file is written");
        }
        self.flags.warn();
        if model.extension().is_some_and(|e| e == "qir") {
            self.flags.warn_text();
        }
    }

    fn emit(&self) -> Result<Emit, Error> {
        let extension = self.output.as_deref().and_then(Path::extension).map(|e| e.to_string_lossy().into_owned());
        match (self.emit, extension.as_deref()) {
            (Some(emit @ (Emit::Qir | Emit::Clif | Emit::Asm | Emit::Dot | Emit::ModelExplorer)), _) => Ok(emit),
            (_, None) if self.output.is_none() => {
                Err(usage("there is no output file").help("add -o model.so, or --emit qir for text on stdout"))
            }
            (Some(emit), _) => Ok(emit),
            (None, Some("so")) => Ok(Emit::So),
            (None, Some("o")) => Ok(Emit::Obj),
            (None, Some("qir")) => Ok(Emit::Qir),
            (None, Some("clif")) => Ok(Emit::Clif),
            (None, Some("s")) => Ok(Emit::Asm),
            (None, Some("onnx")) => Ok(Emit::OnnxQdq),
            (None, Some("dot" | "gv")) => Ok(Emit::Dot),
            (None, other) => {
                let what = other.map_or("no extension".to_string(), |e| format!("the extension `.{e}`"));
                Err(usage(format!("an output file with {what} does not say what to write"))
                    .help("use .so, .o, .qir, .clif, .s, .onnx or .dot, or say it with --emit"))
            }
        }
    }
}

impl WatchFlags {
    /// Whether anything is to be seen.
    fn is_on(&self) -> bool {
        let prints = self.print_ir_after_all || self.print_ir_after_change || self.print_edits || self.remarks;
        self.dump_dir.is_some() || self.measure_passes || prints
    }

    /// Compiles under observation.
    pub fn compile(&self, model: &Path, options: &qcc::Options) -> Result<Compiled, Error> {
        let mut dump = self.dump_dir.as_deref().map(Dump::new).transpose()?;
        let measure_passes = self.measure_passes || dump.is_some();
        let options = qcc::Options { measure_passes, ..options.clone() };
        let result = compile_observed(model, &options, &mut |event| {
            if let Some(dump) = &mut dump {
                dump.observe(event);
            }
            self.print(event);
        });
        // What was reached before a fault is what one wants to look at.
        let plan = match (&dump, &result) {
            (Some(dump), Ok(compiled)) => dump.plan(compiled),
            _ => Ok(()),
        };
        let file = model.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let page = |explorer: &mut Explorer| {
            let completed = result.as_ref().map(|c| explore::complete(explorer, c, &options, explore::CALLS));
            if let Ok(Err(error)) = completed {
                terminal::warn(&format!("index.html has no machine code, or no values: {error}"));
            }
        };
        let written = plan.and(dump.map_or(Ok(()), |dump| dump.finish(&file, page)));
        let compiled = result?;
        written?;
        Ok(compiled)
    }

    fn print(&self, event: &Event) {
        let show = |title: &str, graph: &Graph| terminal::note(&format!("// after {title}\n{graph}"));
        match event {
            Event::Imported { graph, .. } if self.print_ir_after_all || self.print_ir_after_change => {
                show("import", graph)
            }
            Event::Imported { .. } => {}
            Event::Pass { step, effect } => {
                if self.print_ir_after_all || self.print_ir_after_change && !step.labels.is_empty() {
                    show(&step.text, step.graph);
                }
                if self.measure_passes
                    && let Some(effect) = effect
                {
                    let ratio = |r: Option<f64>| r.map_or("same".to_string(), |r| format!("{r:.1} dB"));
                    let (model, previous) = (ratio(effect.against_model), ratio(effect.against_previous));
                    terminal::note(&format!("{:<28} against the model {model}, the pass before {previous}", step.text));
                }
                if self.print_edits {
                    let numbered = step.labels.iter().enumerate();
                    numbered.for_each(|(i, label)| terminal::note(&format!("edit #{} {label}", step.first_edit + i)));
                }
                if self.remarks {
                    step.remarks.iter().for_each(|r| terminal::note(&format!("remark: {}: {r}", step.info.name)));
                }
            }
        }
    }
}
