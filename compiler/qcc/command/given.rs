//! What `qcc run` is given for the inputs of a model: arrays, images, or samples in any other form.

use std::path::{Path, PathBuf};

use qcc::data::array::Array;
use qcc::data::{Dataset, Preprocess, image, is_image};
use qcc::engine::{Engine, Io};
use qcc::ir::diag::Code;
use qcc::ir::{Builder, Elem, Graph, Tensor, Type};
use qcc::passes::Samples as _;
use qcc::{Error, Model};

use super::flags::{ModelFlags, usage};

/// Inputs of all calls.
pub enum Given {
    /// An array or an image for each input.
    Each {
        /// Name and type of each input, and what it is given.
        inputs: Vec<(String, Type, One)>,
        calls: usize,
    },
    /// Samples for all inputs.
    Samples(Box<Dataset>),
}

/// What one input is given.
pub enum One {
    Array {
        array: Array,
        /// Whether codes with a sign stand for those without, which are greater by 128.
        shifted: bool,
    },
    Image(Tensor),
}

impl Given {
    /// Opens what `--input` names. Images become inputs as `flags` say, or else as the model records.
    pub fn open(texts: &[String], engine: &Engine, io: Io, flags: &ModelFlags) -> Result<Given, Error> {
        let names: Vec<String> = engine.inputs(io).iter().map(|(name, _)| name.clone()).collect();
        let paths = assign("--input", texts, &names, 0)?;
        let types: Vec<Type> = engine
            .inputs(io)
            .iter()
            .enumerate()
            .map(|(i, (_, dims))| {
                let elem = engine.declared_input(i).cloned().unwrap_or_else(|| engine.input_elem(i, io));
                Type { dims: dims.clone(), elem }
            })
            .collect();
        if let [Some(path)] = &paths.iter().filter(|p| p.is_some()).cloned().collect::<Vec<_>>()[..]
            && !is_array(path)
            && (names.len() == 1 || path.extension().is_some_and(|e| e == "npz"))
        {
            let preprocess = flags.preprocess(recorded(engine.model(), &names[0]))?;
            let dataset = Dataset::open(path, &inputs(&names, &types), preprocess.as_ref())?;
            return Ok(Given::Samples(Box::new(dataset)));
        }
        let missing: Vec<&str> =
            names.iter().zip(&paths).filter(|(_, p)| p.is_none()).map(|(n, _)| n.as_str()).collect();
        if !missing.is_empty() {
            let what = if missing.len() == 1 { "input" } else { "inputs" };
            let list = missing.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            let flags: Vec<String> = missing.iter().map(|name| format!("--input {name}=x.npy")).collect();
            return Err(usage(format!("there is no array for {what} {list}")).help(format!("add {}", flags.join(" "))));
        }
        let mut inputs = Vec::with_capacity(names.len());
        for (i, ((name, ty), path)) in names.into_iter().zip(types).zip(paths.into_iter().flatten()).enumerate() {
            let one = if is_image(&path) {
                let preprocess = flags.preprocess(recorded(engine.model(), &name))?;
                One::Image(image(&path, preprocess.as_ref(), &ty)?)
            } else {
                let array = Array::open(&path)?;
                let undeclared = engine.declared_input(i).is_none() && engine.is_quantized(i);
                One::Array { shifted: io == Io::Int && undeclared && array.is_i8(), array }
            };
            inputs.push((name, ty, one));
        }
        let calls = calls(&inputs)?;
        Ok(Given::Each { inputs, calls })
    }

    /// How often the model runs to take everything.
    pub fn calls(&self) -> usize {
        match self {
            Given::Each { calls, .. } => *calls,
            Given::Samples(dataset) => dataset.len(),
        }
    }

    /// The inputs of one call.
    pub fn inputs(&self, call: usize) -> Result<Vec<Tensor>, Error> {
        match self {
            Given::Samples(dataset) => Ok(dataset.get(call)?),
            Given::Each { inputs, .. } => inputs.iter().map(|(name, ty, one)| one.tensor(name, ty, call)).collect(),
        }
    }
}

impl One {
    fn tensor(&self, name: &str, ty: &Type, call: usize) -> Result<Tensor, Error> {
        match self {
            One::Image(tensor) => Ok(tensor.clone()),
            One::Array { array, shifted } => {
                let count: usize = ty.dims.iter().product();
                let data = match shifted {
                    true => array.codes(call * count, count, &ty.elem),
                    false => array.elements(call * count, count, &ty.elem),
                };
                let data = data.map_err(|e| Error::new(Code::DATA, format!("cannot read input `{name}`: {e}")))?;
                Ok(Tensor { dims: ty.dims.clone(), data })
            }
        }
    }
}

fn is_array(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("npy"))
}

/// How a compiled model records that images become its input.
fn recorded(model: Option<&Model>, input: &str) -> Option<Preprocess> {
    let all = &model?.manifest()?.preprocessing;
    all.iter().find(|p| p.input == input || all.len() == 1).map(Preprocess::of_record)
}

/// A graph with nothing but inputs.
fn inputs(names: &[String], types: &[Type]) -> Graph {
    let mut graph = Graph::new("inputs");
    let mut builder = Builder::new(&mut graph);
    for (name, ty) in names.iter().zip(types) {
        let elem = if let Elem::Uniform(u) = &ty.elem { Elem::Int(u.storage()) } else { ty.elem.clone() };
        builder.add_input(name, Type { dims: ty.dims.clone(), elem });
    }
    graph
}

/// How often the model runs to take all samples of all arrays.
fn calls(inputs: &[(String, Type, One)]) -> Result<usize, Error> {
    let mut common = None;
    for (name, ty, one) in inputs {
        let (dims, One::Array { array, .. }) = (&ty.dims, one) else {
            if *common.get_or_insert(1) != 1 {
                return Err(Error::new(Code::DATA, "the inputs are given different numbers of samples"));
            }
            continue;
        };
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

/// Paths for names: `NAME=PATH`, or a path for the first name that has none. `extra` more may be given by position.
pub fn assign(flag: &str, texts: &[String], names: &[String], extra: usize) -> Result<Vec<Option<PathBuf>>, Error> {
    let mut paths: Vec<Option<PathBuf>> = vec![None; names.len() + extra];
    let listed = || format!("names are {}", names.join(", "));
    for text in texts {
        let named = names
            .iter()
            .enumerate()
            .filter_map(|(i, n)| Some((i, text.strip_prefix(n.as_str())?.strip_prefix('=')?)))
            .max_by_key(|&(i, _)| names[i].len());
        let (i, path) = match named {
            Some(found) => found,
            None => {
                if let Some((name, path)) = text.split_once('=').filter(|_| extra == 0 && !leads_somewhere(text)) {
                    let message = format!("{flag} {text}: the model has no such tensor, `{name}`");
                    return Err(usage(message).help(format!("{}; a path is ./{name}={path}", listed())));
                }
                (paths.iter().position(Option::is_none).unwrap_or(paths.len()), text.as_str())
            }
        };
        let Some(slot) = paths.get_mut(i) else {
            let message = format!("{flag} is given {} times for {} tensors", texts.len(), names.len());
            return Err(usage(message).help(listed()));
        };
        if slot.is_some() {
            return Err(usage(format!("{flag} is given twice for `{}`", names[i])));
        }
        *slot = Some(path.into());
    }
    Ok(paths)
}

/// Whether a text with `=` in it is a path for all that: that of a file, or one into a folder that exists.
fn leads_somewhere(text: &str) -> bool {
    let path = Path::new(text);
    path.exists() || path.parent().is_some_and(|folder| !folder.as_os_str().is_empty() && folder.is_dir())
}
