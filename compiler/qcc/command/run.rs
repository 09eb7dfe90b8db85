//! `qcc run`: a model on arrays or images.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use qcc::data::array::to_npy;
use qcc::engine::Engine;
use qcc::ir::Tensor;
use qcc::ir::diag::Code;
use qcc::{Error, Model, Source, check_places, compile};

use super::announce::announce;
use super::flags::{Io, ModelFlags, usage};
use super::given::{Given, assign};
use super::quality::warn_of_little;
use super::terminal;
use super::top::TopFlags;

/// Elements of a result that are shown where it goes to no file.
const SHOWN: usize = 16;

/// Run a model on arrays or images.
#[derive(Args)]
pub struct Run {
    /// Model: .so, or .onnx and .qir to be compiled in memory
    file: PathBuf,
    /// Array for an input: .npy; several samples along its first axis are run one after another. Or an image; of a model with one
    /// input also a folder or list of images or arrays, or an .npz
    #[arg(long, value_name = "[INPUT=]X.npy|X.jpg")]
    input: Vec<String>,
    /// File for an output; without any, results are printed
    #[arg(long, value_name = "[OUTPUT=]Y.npy")]
    output: Vec<String>,
    /// Use the reference interpreter instead of machine code
    #[arg(long)]
    interp: bool,
    /// Evaluate the float model as it was imported; nothing is compiled
    #[arg(long, conflicts_with = "interp")]
    float: bool,
    /// Give and take real numbers, or the integers that stand for them; what the model's file declares as integers is always that
    #[arg(long, value_enum, default_value = "float")]
    io: Io,
    /// Threads of the model; 0 for one a core
    #[arg(long, default_value_t = 1, value_parser = super::flags::threads)]
    threads: usize,
    #[command(flatten)]
    top: TopFlags,
    #[command(flatten)]
    flags: ModelFlags,
}

/// True for compiled models: by the name, or by what a file begins with.
pub fn is_compiled(path: &Path) -> bool {
    let begins_so = || {
        let mut start = [0; 4];
        let file = path.is_file().then(|| std::fs::File::open(path).ok()).flatten();
        file.is_some_and(|mut file| std::io::Read::read_exact(&mut file, &mut start).is_ok() && start == *b"\x7fELF")
    };
    path.extension().is_some_and(|e| e == "so") || begins_so()
}

/// Loads a compiled model.
pub fn load(path: &Path) -> Result<Model, Error> {
    if path.extension().is_some_and(|e| e == "o") {
        let error = usage("an object file is linked into a program before it runs");
        return Err(error.help("write a .so to run it here"));
    }
    // The system's loader searches its own folders for a bare name.
    let absolute = std::path::absolute(path).map_err(|e| Error::file(path, "load the model", e))?;
    Model::load(&absolute).map_err(|e| {
        let code = match e {
            qcc::runtime::LoadError::MissingCpuFeatures { .. } => Code::TARGET,
            _ => Code::FILE,
        };
        Error::new(code, e.to_string())
    })
}

impl Run {
    /// Does it.
    pub fn execute(&self) -> Result<(), Error> {
        let engine = self.engine()?.with_threads(self.threads)?;
        let io = self.io.into();
        let given = Given::open(&self.input, &engine, io, &self.flags)?;
        let mut runner = engine.runner();
        let mut results: Vec<Option<Tensor>> = vec![None; engine.outputs(io).len()];
        for call in 0..given.calls() {
            let outputs = runner.run_as_declared(&given.inputs(call)?, io)?;
            results.iter_mut().zip(outputs).for_each(|(all, one)| stack(all, one));
        }
        let results: Vec<Tensor> = results.into_iter().flatten().collect();
        if let Some(top) = self.top.read()? {
            terminal::result(&top.text(engine.outputs(io), &results, given.calls())?)?;
        }
        match self.output.is_empty() {
            true if self.top.is_on() => Ok(()),
            true => self.print(&engine, &results),
            false => self.write(&engine, &results),
        }
    }

    /// The model in the form that runs; names that it does not have are reported before anything is compiled.
    fn engine(&self) -> Result<Engine, Error> {
        if is_compiled(&self.file) {
            self.flags.warn_compiled();
            return match (self.interp, self.float) {
                (true, _) => Err(usage("the interpreter cannot run machine code").help("give the .onnx or .qir file")),
                (_, true) => Err(usage("machine code is no float model").help("give the .onnx or .qir file")),
                _ => {
                    let engine = Engine::of_model(load(&self.file)?);
                    self.check_names(engine.inputs(self.io.into()), engine.outputs(self.io.into()))?;
                    Ok(engine)
                }
            };
        }
        let mut options = self.flags.options(self.threads)?;
        if self.float {
            self.flags.warn_not_compiled();
        } else {
            self.flags.warn();
        }
        let source = Source::from(self.file.as_path());
        let graph = source.load(&options)?;
        let names = |values: &[qcc::ir::ValueId]| -> Vec<(String, Vec<usize>)> {
            values.iter().map(|&v| (graph.name_of(v).to_string(), graph.ty(v).dims.clone())).collect()
        };
        self.check_names(&names(graph.inputs()), &names(graph.outputs()))?;
        if self.float {
            return Ok(Engine::of_graph(&graph).of_source(&source, &graph));
        }
        options.float_interface = self.io == Io::Float;
        let compiled = compile(source.clone(), &options)?;
        announce(&compiled);
        let engine = match self.interp {
            true => Engine::of_graph(compiled.graph()).of_source(&source, compiled.source()),
            false => Engine::jit(&compiled)?,
        };
        warn_of_little(&compiled, &options, &engine);
        Ok(engine)
    }

    /// Refuses arrays for what the model does not have, and results in files that are read.
    fn check_names(&self, inputs: &[(String, Vec<usize>)], outputs: &[(String, Vec<usize>)]) -> Result<(), Error> {
        let names = |list: &[(String, Vec<usize>)]| list.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        // Integers of dynamic models have scales beside them, which only the compiled model knows.
        let extra = if self.io == Io::Int && self.flags.is_dynamic() { inputs.len() + outputs.len() } else { 0 };
        let given = assign("--input", &self.input, &names(inputs), extra)?;
        let written = assign("--output", &self.output, &names(outputs), extra)?;
        let mut read = vec![("the model", self.file.as_path())];
        read.extend(given.iter().flatten().map(|path| ("an input", path.as_path())));
        let written: Vec<(&str, &Path)> = written.iter().flatten().map(|path| ("--output", path.as_path())).collect();
        check_places(&read, &written)?;
        let other = |path: &Path| path.extension().is_some_and(|e| e != "npy");
        if let Some((_, path)) = written.iter().find(|(_, path)| other(path)) {
            let error = usage(format!("--output {}: a result is written as an array of numpy", path.display()));
            return Err(error.help("give the file the extension .npy"));
        }
        Ok(())
    }

    fn write(&self, engine: &Engine, results: &[Tensor]) -> Result<(), Error> {
        let names: Vec<String> = engine.outputs(self.io.into()).iter().map(|(name, _)| name.clone()).collect();
        for (path, result) in assign("--output", &self.output, &names, 0)?.iter().zip(results) {
            if let Some(path) = path {
                qcc::write_file(path, &to_npy(result))?;
            }
        }
        Ok(())
    }

    fn print(&self, engine: &Engine, results: &[Tensor]) -> Result<(), Error> {
        let mut text = String::new();
        for ((name, _), result) in engine.outputs(self.io.into()).iter().zip(results) {
            let shown = qcc::ir::for_data!(&result.data, v => format!("{:?}", &v[..v.len().min(SHOWN)]));
            let more = if result.data.len() > SHOWN { " .." } else { "" };
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name} {:?} {}: {shown}{more}", result.dims, result.data.kind());
        }
        terminal::result(&text)
    }
}

/// Appends along the first axis.
fn stack(all: &mut Option<Tensor>, one: Tensor) {
    let Some(all) = all else {
        *all = Some(one);
        return;
    };
    // An output has one type.
    if !all.data.append(one.data) {
        return;
    }
    match all.dims.first_mut() {
        Some(first) => *first += one.dims[0],
        None => all.dims = vec![all.data.len()],
    }
}
