//! `qcc run`: a model on arrays.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use qcc::data::array::{Array, to_npy};
use qcc::engine::Engine;
use qcc::ir::Tensor;
use qcc::ir::diag::Code;
use qcc::{Error, Model, compile};

use super::build::announce;
use super::flags::{Io, ModelFlags, usage};
use super::terminal;

/// Elements of a result that are shown where it goes to no file.
const SHOWN: usize = 16;

/// Run a model on an array.
#[derive(Args)]
pub struct Run {
    /// Model: .so, or .onnx and .qir to be compiled in memory
    file: PathBuf,
    /// Array for an input: .npy; several samples along its first axis are run one after another
    #[arg(long, value_name = "[INPUT=]X.npy")]
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
    /// Give and take real numbers, or the integers that stand for them
    #[arg(long, value_enum, default_value = "float")]
    io: Io,
    /// Threads of the model; 0 for one a core
    #[arg(long, default_value_t = 1)]
    threads: usize,
    #[command(flatten)]
    flags: ModelFlags,
}

/// True for compiled models.
pub fn is_compiled(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "so")
}

/// Loads a compiled model.
pub fn load(path: &Path) -> Result<Model, Error> {
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
        let arrays = self.arrays(&engine)?;
        let calls = calls(engine.inputs(self.io.into()), &arrays)?;
        let mut runner = engine.runner();
        let mut results: Vec<Option<Tensor>> = vec![None; engine.outputs(self.io.into()).len()];
        for call in 0..calls {
            let mut inputs = Vec::with_capacity(arrays.len());
            for (i, (array, (name, dims))) in arrays.iter().zip(engine.inputs(self.io.into())).enumerate() {
                let count: usize = dims.iter().product();
                let elem = engine.input_elem(i, self.io.into());
                let data = match self.io {
                    Io::Int if engine.is_quantized(i) => array.codes(call * count, count, &elem),
                    Io::Int | Io::Float => array.elements(call * count, count, &elem),
                };
                let data = data.map_err(|e| Error::new(Code::FILE, format!("cannot read input `{name}`: {e}")))?;
                inputs.push(Tensor { dims: dims.clone(), data });
            }
            let outputs = runner.run(&inputs, self.io.into())?;
            results.iter_mut().zip(outputs).for_each(|(all, one)| stack(all, one));
        }
        let results: Vec<Tensor> = results.into_iter().flatten().collect();
        if self.output.is_empty() { self.print(&engine, &results) } else { self.write(&engine, &results) }
    }

    fn engine(&self) -> Result<Engine, Error> {
        if is_compiled(&self.file) {
            return match self.interp {
                true => Err(usage("the interpreter cannot run machine code").help("give the .onnx or .qir file")),
                false => Ok(Engine::of_model(load(&self.file)?)),
            };
        }
        let mut options = self.flags.options(self.threads)?;
        if self.float {
            let graph = qcc::Source::from(self.file.as_path()).load(&options)?;
            return Ok(Engine::of_graph(&graph));
        }
        options.float_interface = self.io == Io::Float;
        let compiled = compile(self.file.as_path(), &options)?;
        announce(&compiled);
        if self.interp { Ok(Engine::of_graph(compiled.graph())) } else { Engine::jit(&compiled) }
    }

    /// The array of each input.
    fn arrays(&self, engine: &Engine) -> Result<Vec<Array>, Error> {
        let names: Vec<&str> = engine.inputs(self.io.into()).iter().map(|(name, _)| name.as_str()).collect();
        let assigned = assign("--input", &self.input, &names)?;
        let missing = names.iter().zip(&assigned).find(|(_, path)| path.is_none());
        if let Some((name, _)) = missing {
            return Err(
                usage(format!("there is no array for input `{name}`")).help(format!("add --input {name}=x.npy"))
            );
        }
        assigned.into_iter().flatten().map(|path| Array::open(&path)).collect()
    }

    fn write(&self, engine: &Engine, results: &[Tensor]) -> Result<(), Error> {
        let names: Vec<&str> = engine.outputs(self.io.into()).iter().map(|(name, _)| name.as_str()).collect();
        for (path, result) in assign("--output", &self.output, &names)?.iter().zip(results) {
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
        terminal::result(&text);
        Ok(())
    }
}

/// Paths for names: `NAME=PATH`, or a path for the first name that has none.
fn assign(flag: &str, texts: &[String], names: &[&str]) -> Result<Vec<Option<PathBuf>>, Error> {
    let mut paths: Vec<Option<PathBuf>> = vec![None; names.len()];
    for text in texts {
        let named = names.iter().enumerate().find_map(|(i, n)| Some((i, text.strip_prefix(n)?.strip_prefix('=')?)));
        let (i, path) = match named {
            Some(found) => found,
            None => (paths.iter().position(Option::is_none).unwrap_or(names.len()), text.as_str()),
        };
        let Some(slot) = paths.get_mut(i) else {
            let message = format!("{flag} is given {} times for {} tensors", texts.len(), names.len());
            return Err(usage(message).help(format!("names are {}", names.join(", "))));
        };
        *slot = Some(path.into());
    }
    Ok(paths)
}

/// How often the model runs to take all samples.
fn calls(inputs: &[(String, Vec<usize>)], arrays: &[Array]) -> Result<usize, Error> {
    let mut common = None;
    for (array, (name, dims)) in arrays.iter().zip(inputs) {
        let given = array.dims();
        let ends_alike = |d: &[usize]| given.len() >= d.len() && given[given.len() - d.len()..] == *d;
        let fits = given == dims
            || ends_alike(dims)
            || ends_alike(dims.get(1..).unwrap_or(dims)) && given.len() >= dims.len().max(2) - 1;
        let (all, one) = (given.iter().product::<usize>(), dims.iter().product::<usize>().max(1));
        if !fits || !all.is_multiple_of(one) || all == 0 {
            let message = format!("an array of shape {given:?} does not fit input `{name}` of shape {dims:?}");
            return Err(Error::new(Code::DATA, message));
        }
        if *common.get_or_insert(all / one) != all / one {
            return Err(Error::new(Code::DATA, "the arrays of the inputs hold different numbers of samples"));
        }
    }
    Ok(common.unwrap_or(1))
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
