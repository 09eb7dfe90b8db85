//! The folders `test_data_set_0`, `test_data_set_1`, .. that lie beside ONNX models: `input_0.pb` is a tensor for the first
//! input, `input_1.pb` for the second. One set may hold several samples along the first axis.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use qcc_ir::diag::Code;
use qcc_ir::{Data, Diag, Elem, Tensor};

use super::Input;
use super::array::elements_of;
use crate::Error;

/// Beginning of a set's name; a number follows.
const PREFIX: &str = "test_data_set_";

/// Sets of samples. Tensors are read when they are asked for, and the last one of each input stays.
pub(super) struct Sets {
    /// A file for each input, set by set.
    files: Vec<Vec<PathBuf>>,
    /// Samples up to the end of each set.
    ends: Vec<usize>,
    /// For each input, the number of the set that was read last, and its tensor.
    last: Vec<Mutex<Option<Read>>>,
}

/// The number of a set and its tensor.
type Read = (usize, Arc<Tensor>);

/// The sets that a folder has, or the one that it is, in the order of their numbers.
fn folders(path: &Path) -> Result<Vec<PathBuf>, Error> {
    if path.join("input_0.pb").is_file() {
        return Ok(vec![path.to_path_buf()]);
    }
    let fail = |e: std::io::Error| Error::file(path, "read the folder", e);
    let mut found: Vec<(u64, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir(path).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|n| n.strip_prefix(PREFIX)).and_then(|n| n.parse().ok());
        found.extend(number.filter(|_| entry.path().is_dir()).map(|number| (number, entry.path())));
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// The tensor in a file, if it holds whole samples.
fn tensor(path: &Path, input: &Input) -> Result<(Tensor, usize), Diag> {
    let tensor = qcc_onnx::read_tensor(path)?;
    if !input.takes(&tensor.dims) {
        let what = format!("a tensor of shape {:?} does not hold samples of shape {:?}", tensor.dims, input.sample);
        let diag = Diag::new(Code::DATA, what).in_file(path.display().to_string());
        return Err(diag.help(format!("it is for input `{}`", input.name)));
    }
    let integer = |data: &Data| !matches!(data, Data::F32(_));
    if integer(&tensor.data) != (input.ty.elem.storage().is_some() || input.ty.elem == Elem::Bool) {
        let [has, wants] =
            if integer(&tensor.data) { ["integers", "real numbers"] } else { ["real numbers", "integers"] };
        let what = format!("a tensor of {has}, where input `{}` wants {wants}", input.name);
        return Err(Diag::new(Code::DATA, what).in_file(path.display().to_string()));
    }
    let rows = tensor.data.len() / input.sample.iter().product::<usize>().max(1);
    Ok((tensor, rows))
}

impl Sets {
    /// The sets in a folder; `None` if it is no such folder. Every tensor is read once to see that it fits.
    pub(super) fn open(path: &Path, inputs: &[Input]) -> Result<Option<Sets>, Error> {
        let (mut files, mut ends) = (Vec::new(), Vec::new());
        let mut end = 0;
        for folder in folders(path)? {
            let mut counts = Vec::new();
            let set: Vec<PathBuf> = (0..inputs.len()).map(|i| folder.join(format!("input_{i}.pb"))).collect();
            for (file, input) in set.iter().zip(inputs) {
                if !file.is_file() {
                    let what = format!("there is no such file for input `{}`", input.name);
                    return Err(Error::file(file, "read the tensor", what));
                }
                counts.push(tensor(file, input)?.1);
            }
            let count = counts.first().copied().unwrap_or(0);
            if counts.iter().any(|&n| n != count) {
                let what = format!("the tensors of the set hold different numbers of samples: {counts:?}");
                return Err(Diag::new(Code::DATA, what).in_file(folder.display().to_string()).into());
            }
            end += count;
            files.push(set);
            ends.push(end);
        }
        Ok((!files.is_empty()).then_some(Sets { files, ends, last: inputs.iter().map(|_| Mutex::default()).collect() }))
    }

    /// Number of samples.
    pub(super) fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// The set of a sample.
    fn set(&self, i: usize) -> usize {
        self.ends.partition_point(|&end| end <= i)
    }

    /// The file of sample `i` of one input.
    pub(super) fn file(&self, index: usize, i: usize) -> Option<&PathBuf> {
        self.files.get(self.set(i)).and_then(|files| files.get(index))
    }

    fn tensor(&self, index: usize, input: &Input, set: usize, file: &Path) -> Result<Arc<Tensor>, Diag> {
        let mut last = self.last[index].lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((number, tensor)) if *number == set => Ok(tensor.clone()),
            _ => {
                let tensor = Arc::new(tensor(file, input)?.0);
                *last = Some((set, tensor.clone()));
                Ok(tensor)
            }
        }
    }

    /// Sample `i` of one input.
    pub(super) fn sample(&self, index: usize, input: &Input, i: usize) -> Result<Data, Diag> {
        let set = self.set(i);
        let missing = || Diag::new(Code::DATA, format!("there is no sample {i}"));
        let file = self.file(index, i).ok_or_else(missing)?;
        let tensor = self.tensor(index, input, set, file)?;
        let row = i - set.checked_sub(1).map_or(0, |before| self.ends[before]);
        let length: usize = input.sample.iter().product();
        let numbers: Vec<f64> = qcc_ir::for_data!(&tensor.data, v => {
            // Integers of inputs lie below 2^53.
            v.iter().skip(row * length).take(length).map(|&x| x as f64).collect()
        });
        if numbers.len() == length { Ok(elements_of(numbers.into_iter(), &input.ty.elem)) } else { Err(missing()) }
    }
}
