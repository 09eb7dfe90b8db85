//! Samples from files, in the forms that people have them:
//!
//! | form | samples | labels |
//! |---|---|---|
//! | `x.npy` | its rows, already preprocessed | from a file of their own |
//! | `x.npz` | rows of the arrays named after the inputs, or of its only one | its array `labels` or `y` |
//! | text file, `path label` a line | images or `.npy` files | second column |
//! | folder | its images or `.npy` files, sorted; for several inputs a folder of `.npy` each | none |
//! | folder | ONNX test data: `test_data_set_0/input_0.pb` and so on, or one such set | none |
//! | image | the image, or one image a row where the rows are as long as the input has pixels | none |
//!
//! Nothing but one sample at a time is held in memory, apart from single images and one set of test data.

pub mod array;
mod files;
mod image;
mod npy;
mod preprocess;
mod sets;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use qcc_ir::diag::Code;
use qcc_ir::{Data, Diag, Elem, Graph, Int, Range, Tensor, Type, ValueId};
use qcc_passes::Samples;
use qcc_passes::ranges::synthesize_samples::synthesized;

use crate::Error;
use array::Array;
use files::Item;
use image::RgbImage;
use sets::Sets;

pub use files::{image, is_image_file as is_image};
pub use image::Extent;
pub use preprocess::{ChannelOrder, Layout, Preprocess, Resize};

/// Samples for a model, and their labels where they are known. Clones share the samples.
#[derive(Clone)]
pub struct Dataset {
    path: PathBuf,
    inputs: Vec<Input>,
    records: Arc<Records>,
    labels: Option<Vec<i64>>,
    preprocess: Preprocess,
    /// Samples that the model takes at once.
    batch: usize,
    /// The calls that are left, if not all are.
    chosen: Option<Vec<usize>>,
}

/// An input of the model.
#[derive(Debug, Clone)]
pub(crate) struct Input {
    pub name: String,
    pub ty: Type,
    /// Extents of one sample.
    pub sample: Vec<usize>,
}

/// Where samples are. An item of a list is one sample for the model's only input; folders of arrays may serve several.
enum Records {
    /// An array for each input, one sample a row.
    Rows(Vec<Array>),
    /// A file for each sample, per input.
    Files(Vec<Vec<Item>>),
    /// ONNX test data.
    Sets(Sets),
    /// An image for each row of this one.
    Strip(RgbImage),
    /// A tensor for each input, as often as there are samples.
    Synthesized(Vec<Vec<Tensor>>),
}

impl Dataset {
    /// Opens samples for the inputs of `graph`. Images need a `preprocess`: none could be guessed.
    pub fn open(path: &Path, graph: &Graph, preprocess: Option<&Preprocess>) -> Result<Dataset, Error> {
        let images = preprocess.is_some();
        let preprocess = &preprocess.cloned().unwrap_or_default();
        let types: Vec<&Type> = graph.inputs().iter().map(|&v| graph.ty(v)).collect();
        let batch = batch(&types);
        let inputs: Vec<Input> =
            graph.inputs().iter().map(|&v| Input::new(graph.name_of(v), graph.ty(v), batch)).collect();
        let extension = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
        if !path.exists() {
            return Err(Error::file(path, "read the samples", "there is no such file or folder"));
        }
        let (records, labels) = if path.is_dir() {
            match Sets::open(path, &inputs)? {
                Some(sets) => (Records::Sets(sets), None),
                None => (Records::Files(files::folder(path, &inputs)?), None),
            }
        } else {
            match extension.as_str() {
                "npy" => (Records::Rows(vec![Array::open(path)?]), None),
                "npz" => archive(path, &inputs)?,
                e if files::is_image(e) => (single(path, &inputs, preprocess)?, None),
                _ => {
                    let (items, labels) = files::list(path)?;
                    (Records::Files(vec![items]), labels)
                }
            }
        };
        let path = path.to_path_buf();
        let mut dataset = Dataset {
            path: path.clone(),
            inputs,
            records: Arc::new(records),
            labels,
            preprocess: preprocess.clone(),
            batch,
            chosen: None,
        };
        dataset.take_whole_inputs();
        if dataset.has_images() && !images {
            return Err(files::unknown_preprocessing(&path));
        }
        dataset.check().map_err(|d| d.in_file(path.display().to_string()))?;
        let count = dataset.samples();
        if dataset.labels.as_ref().is_some_and(|l| l.len() != count) {
            dataset.labels = None;
        }
        Ok(dataset)
    }

    /// Samples that are synthesized, as the pass `synthesize-samples` does.
    pub fn synthesized(graph: &Graph, ranges: &HashMap<String, Range>, count: usize) -> Dataset {
        let whole = |&v: &ValueId| {
            let ty = graph.ty(v).clone();
            Input { name: graph.name_of(v).to_string(), sample: ty.dims.clone(), ty }
        };
        Dataset {
            path: PathBuf::new(),
            inputs: graph.inputs().iter().map(whole).collect(),
            records: Arc::new(Records::Synthesized((0..count).map(|i| synthesized(graph, ranges, i)).collect())),
            labels: None,
            preprocess: Preprocess::default(),
            batch: 1,
            chosen: None,
        }
    }

    /// Where every array holds whole inputs, `[N, 4, 16]` for an input `[4, 16]`, the first extent of the inputs is no batch.
    fn take_whole_inputs(&mut self) {
        let whole = match &*self.records {
            Records::Rows(arrays) => {
                let holds = |(a, i): (&Array, &Input)| a.dims().get(1..) == Some(&i.ty.dims);
                arrays.len() == self.inputs.len() && arrays.iter().zip(&self.inputs).all(holds)
            }
            Records::Files(lists) => {
                let holds = |(list, i): (&Vec<Item>, &Input)| list.first().is_some_and(|f| f.holds(&i.ty.dims));
                lists.len() == self.inputs.len() && lists.iter().zip(&self.inputs).all(holds)
            }
            Records::Sets(_) | Records::Strip(_) | Records::Synthesized(_) => false,
        };
        if whole && self.batch > 1 {
            self.batch = 1;
            self.inputs.iter_mut().for_each(|input| input.sample.clone_from(&input.ty.dims));
        }
    }

    /// Takes labels from a `.npy` or `.npz` file, instead of those found with the samples.
    pub fn with_labels(mut self, path: &Path) -> Result<Dataset, Error> {
        let labels = if path.extension().is_some_and(|e| e == "npz") {
            let mut arrays = Array::open_archive(path)?;
            let named = arrays.iter().position(|(name, _)| is_label_name(name)).unwrap_or(0);
            if arrays.is_empty() {
                return Err(Error::file(path, "read the labels", "the archive has no array"));
            }
            arrays.swap_remove(named).1
        } else {
            Array::open(path)?
        };
        let labels = integers(&labels).map_err(|e| Error::file(path, "read the labels", e))?;
        if labels.len() != self.samples() {
            let what = format!("{} labels for {} samples", labels.len(), self.samples());
            return Err(Error::from(Diag::new(Code::DATA, what).in_file(path.display().to_string())));
        }
        self.labels = Some(labels);
        Ok(self)
    }

    /// Leaves only some calls of the model, each of as many samples as its batch, and their labels.
    #[must_use]
    pub fn only(mut self, calls: Vec<usize>) -> Dataset {
        let batch = self.batch;
        let label = |labels: &Vec<i64>| -> Vec<i64> {
            calls.iter().flat_map(|&c| labels.iter().skip(c * batch).take(batch).copied()).collect()
        };
        self.labels = self.labels.as_ref().map(label);
        self.chosen = Some(match self.chosen {
            Some(before) => calls.iter().filter_map(|&c| before.get(c).copied()).collect(),
            None => calls,
        });
        self
    }

    /// Number of samples, the model's batch not considered.
    pub fn samples(&self) -> usize {
        match &self.chosen {
            Some(calls) => calls.len() * self.batch,
            None => self.all(),
        }
    }

    fn all(&self) -> usize {
        match &*self.records {
            Records::Rows(_) | Records::Files(_) => self.counts().into_iter().min().unwrap_or(0),
            Records::Sets(sets) => sets.len(),
            Records::Strip(image) => image.height(),
            Records::Synthesized(samples) => samples.len(),
        }
    }

    /// Samples that there are for each input, where they are apart.
    fn counts(&self) -> Vec<usize> {
        match &*self.records {
            Records::Rows(arrays) => arrays.iter().zip(&self.inputs).map(|(a, i)| i.rows(a)).collect(),
            Records::Files(lists) => lists.iter().map(Vec::len).collect(),
            Records::Sets(_) | Records::Strip(_) | Records::Synthesized(_) => Vec::new(),
        }
    }

    fn has_images(&self) -> bool {
        match &*self.records {
            Records::Files(lists) => lists.iter().flatten().any(Item::is_image),
            Records::Strip(_) => true,
            Records::Rows(_) | Records::Sets(_) | Records::Synthesized(_) => false,
        }
    }

    /// Samples that one call of the model takes.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// How images become inputs.
    pub fn preprocessing(&self) -> &Preprocess {
        &self.preprocess
    }

    /// Labels, one for each sample.
    pub fn labels(&self) -> Option<&[i64]> {
        self.labels.as_deref()
    }

    fn check(&self) -> Result<(), Diag> {
        let fault = |what: String| Err(Diag::new(Code::DATA, what));
        if let Records::Rows(arrays) = &*self.records {
            if arrays.len() != self.inputs.len() {
                let names: Vec<_> = self.inputs.iter().map(|i| i.name.as_str()).collect();
                let what = format!("{} inputs and {} arrays", self.inputs.len(), arrays.len());
                return fault(what).map_err(|d| d.help(format!("give a .npz with the arrays {}", names.join(", "))));
            }
            for (array, input) in arrays.iter().zip(&self.inputs) {
                if !input.takes(array.dims()) {
                    let wanted = &input.sample;
                    let what =
                        format!("an array of shape {:?} does not hold samples of shape {wanted:?}", array.dims());
                    return fault(what).map_err(|d| d.help(format!("it is for input `{}`", input.name)));
                }
            }
        }
        if let Records::Files(lists) = &*self.records
            && lists.len() != self.inputs.len()
        {
            let what = format!("samples for one input, and the model has {}", self.inputs.len());
            return fault(what).map_err(|d| d.help("give a .npz, or a folder of .npy files for each input"));
        }
        let counts = self.counts();
        if counts.iter().any(|n| Some(n) != counts.first()) {
            let each: Vec<_> = self.inputs.iter().zip(&counts).map(|(i, n)| format!("{n} for `{}`", i.name)).collect();
            return fault(format!("inputs have different numbers of samples: {}", each.join(", ")));
        }
        match self.samples() {
            0 => fault("there are no samples".into()),
            n if n < self.batch => fault(format!("{n} samples for a model that takes {} at once", self.batch)),
            _ => Ok(()),
        }
    }

    /// Sample `i` of one input, all of whose numbers are finite.
    fn sample(&self, input: usize, i: usize) -> Result<Data, Diag> {
        let data = self.read(input, i)?;
        let strange = match &data {
            Data::F32(v) => v.iter().find(|x| !x.is_finite()),
            _ => None,
        };
        let Some(x) = strange else { return Ok(data) };
        let what = format!("sample {i} of input `{}` is not finite: {x}", self.inputs[input].name);
        let file = match &*self.records {
            Records::Files(lists) => lists[input][i].path(),
            Records::Sets(sets) => sets.file(input, i).unwrap_or(&self.path),
            Records::Rows(_) | Records::Strip(_) | Records::Synthesized(_) => &self.path,
        };
        let diag = Diag::new(Code::DATA, what).in_file(file.display().to_string());
        Err(diag.help("check how the samples are made"))
    }

    fn read(&self, input: usize, i: usize) -> Result<Data, Diag> {
        let spec = &self.inputs[input];
        match &*self.records {
            Records::Rows(arrays) => {
                let count = spec.sample.iter().product();
                arrays[input]
                    .elements(i * count, count, &spec.ty.elem)
                    .map_err(|e| Diag::new(Code::FILE, format!("cannot read sample {i}: {e}")))
            }
            Records::Files(lists) => lists[input][i].load(spec, &self.preprocess),
            Records::Sets(sets) => sets.sample(input, spec, i),
            Records::Synthesized(samples) => Ok(samples[i][input].data.clone()),
            Records::Strip(image) => {
                let (height, width) = pixels(&spec.ty, &self.preprocess).unwrap_or_default();
                let row = width * height * 3;
                let raw = image.pixels()[i * row..][..row].to_vec();
                let fault = |what: String| Diag::new(Code::DATA, format!("sample {i}: {what}"));
                let image = RgbImage::new(width, height, raw);
                let image = image.ok_or_else(|| fault("the row is too short".into()))?;
                self.preprocess.apply(&image, &spec.ty).map_err(fault)
            }
        }
    }
}

/// `count` of `all` calls, spread evenly; all of them if there are no more.
pub fn spread(all: usize, count: usize) -> Vec<usize> {
    let count = count.min(all);
    (0..count).map(|i| i * all / count.max(1)).collect()
}

/// One call of the model is one item here: as many samples as its batch. A rest that fills no batch is left out.
impl Samples for Dataset {
    fn len(&self) -> usize {
        self.samples() / self.batch
    }

    fn get(&self, i: usize) -> Result<Vec<Tensor>, Diag> {
        let i = self.chosen.as_ref().and_then(|calls| calls.get(i)).copied().unwrap_or(i);
        let one = |input: usize| -> Result<Tensor, Diag> {
            let mut data = self.sample(input, i * self.batch)?;
            for b in 1..self.batch {
                if !data.append(self.sample(input, i * self.batch + b)?) {
                    let what = format!("samples of input `{}` have several types", self.inputs[input].name);
                    return Err(Diag::new(Code::DATA, what).in_file(self.path.display().to_string()));
                }
            }
            Ok(Tensor { dims: self.inputs[input].ty.dims.clone(), data })
        };
        (0..self.inputs.len()).map(one).collect()
    }
}

impl Input {
    /// An input of a model that takes `batch` samples at once. One whose first extent is not the batch is a sample as a whole.
    fn new(name: &str, ty: &Type, batch: usize) -> Input {
        let batched = ty.rank() > 1 && ty.dims[0] == batch;
        let sample = if batched { ty.dims[1..].to_vec() } else { ty.dims.clone() };
        Input { name: name.to_string(), ty: ty.clone(), sample }
    }

    /// True if an array holds whole samples: rows of a sample's shape, perhaps each with a batch axis of 1.
    fn takes(&self, dims: &[usize]) -> bool {
        let rest = dims.get(1..).unwrap_or_default();
        // A first extent that looks like a batch may be none: then an array holds whole inputs.
        let whole = rest == self.ty.dims;
        let sample = rest == self.sample || whole || rest.first() == Some(&1) && rest[1..] == self.sample;
        !dims.is_empty() && (sample || dims == self.sample)
    }

    fn rows(&self, array: &Array) -> usize {
        let elements: usize = array.dims().iter().product();
        elements / self.sample.iter().product::<usize>().max(1)
    }
}

/// Samples at once: the first extent of all inputs, if it is the same and all have a rank of 2 or more.
fn batch(types: &[&Type]) -> usize {
    let Some(first) = types.first().and_then(|ty| ty.dims.first()).copied() else { return 1 };
    if types.iter().all(|ty| ty.rank() > 1 && ty.dims[0] == first) { first.max(1) } else { 1 }
}

/// Height and width of an image input.
fn pixels(ty: &Type, preprocess: &Preprocess) -> Option<(usize, usize)> {
    match preprocess.layout_of(ty)? {
        Layout::Nchw => Some((ty.dims[2], ty.dims[3])),
        Layout::Nhwc => Some((ty.dims[1], ty.dims[2])),
    }
}

fn is_label_name(name: &str) -> bool {
    matches!(name, "labels" | "label" | "y")
}

/// Labels; real numbers that are whole are taken too.
fn integers(array: &Array) -> std::io::Result<Vec<i64>> {
    if array.is_integer() {
        let tensor = array.tensor_as(&Elem::Int(Int::I64))?;
        return Ok(tensor.as_i64().map(<[i64]>::to_vec).unwrap_or_default());
    }
    let tensor = array.tensor_as(&Elem::F32)?;
    let whole = |&x: &f32| (x.fract() == 0.0).then_some(x as i64);
    let labels = tensor.as_f32().unwrap_or_default().iter().map(whole).collect::<Option<Vec<i64>>>();
    labels.ok_or_else(|| std::io::Error::other("a label is no whole number"))
}

/// Arrays of an archive by input name, or its only array for the only input.
fn archive(path: &Path, inputs: &[Input]) -> Result<(Records, Option<Vec<i64>>), Error> {
    let (labels, mut arrays): (Vec<_>, Vec<_>) = Array::open_archive(path)?
        .into_iter()
        .partition(|(n, _)| is_label_name(n) && inputs.iter().all(|i| i.name != *n));
    let labels = match labels.first() {
        Some((_, array)) => Some(integers(array).map_err(|e| Error::file(path, "read the labels", e))?),
        None => None,
    };
    if let ([input], [(name, _)]) = (inputs, arrays.as_mut_slice()) {
        name.clone_from(&input.name);
    }
    let names: Vec<_> = arrays.iter().map(|(n, _)| format!("`{n}`")).collect();
    let mut found = Vec::with_capacity(inputs.len());
    for input in inputs {
        let Some(i) = arrays.iter().position(|(name, _)| *name == input.name) else {
            let names = if names.is_empty() { "none".to_string() } else { names.join(", ") };
            let what = format!("the archive has no array `{}`; it has {names}", input.name);
            return Err(Diag::new(Code::DATA, what).in_file(path.display().to_string()).into());
        };
        found.push(arrays.swap_remove(i).1);
    }
    Ok((Records::Rows(found), labels))
}

/// One image, or a strip of images one a row.
fn single(path: &Path, inputs: &[Input], preprocess: &Preprocess) -> Result<Records, Error> {
    let image = RgbImage::open(path)?;
    let strip = match inputs {
        [input] => pixels(&input.ty, preprocess).is_some_and(|(h, w)| h > 1 && h * w == image.width()),
        _ => false,
    };
    if strip {
        return Ok(Records::Strip(image));
    }
    Ok(Records::Files(vec![vec![Item::new(path.to_path_buf())]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(shapes: &[&[usize]]) -> (usize, Vec<Vec<usize>>) {
        let types: Vec<Type> = shapes.iter().map(|dims| Type::f32(dims)).collect();
        let batch = batch(&types.iter().collect::<Vec<_>>());
        (batch, types.iter().map(|ty| Input::new("x", ty, batch).sample).collect())
    }

    #[test]
    fn inputs_without_a_common_batch_are_samples_as_a_whole() {
        assert_eq!(samples(&[&[2, 3, 4], &[2, 5]]), (2, vec![vec![3, 4], vec![5]]));
        assert_eq!(samples(&[&[1, 3, 4], &[1, 5]]), (1, vec![vec![3, 4], vec![5]]));
        assert_eq!(samples(&[&[3, 6], &[6, 4]]), (1, vec![vec![3, 6], vec![6, 4]]));
        assert_eq!(samples(&[&[3, 4, 5], &[5]]), (1, vec![vec![3, 4, 5], vec![5]]));
        assert_eq!(samples(&[&[7]]), (1, vec![vec![7]]));
    }
}
