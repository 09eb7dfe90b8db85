//! Samples that are files of their own: lists and folders of them.

use std::path::{Path, PathBuf};

use qcc_ir::diag::Code;
use qcc_ir::{Data, Diag, Tensor, Type};

use super::array::Array;
use super::image::RgbImage;
use super::{Input, Preprocess};
use crate::{Error, reading};

/// A file with one sample.
pub(super) struct Item {
    path: PathBuf,
}

impl Item {
    pub(super) fn new(path: PathBuf) -> Item {
        Item { path }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Anything but an array is taken for an image.
    pub(super) fn is_image(&self) -> bool {
        extension(&self.path) != "npy"
    }

    /// Whether it is an array of this shape, perhaps with extents of 1 before it.
    pub(super) fn holds(&self, dims: &[usize]) -> bool {
        let ends_so = |array: Array| {
            let before = array.dims().len().checked_sub(dims.len());
            before.is_some_and(|n| array.dims()[n..] == *dims && array.dims()[..n].iter().all(|&d| d == 1))
        };
        !self.is_image() && Array::open(&self.path).is_ok_and(ends_so)
    }

    /// The sample for one input.
    pub(super) fn load(&self, input: &Input, preprocess: &Preprocess) -> Result<Data, Diag> {
        let fault = |code: Code, what: String| Diag::new(code, what).in_file(self.path.display().to_string());
        let first = |e: Error| e.diags().first().cloned().unwrap_or_else(|| fault(Code::FILE, "unreadable".into()));
        if self.is_image() {
            let image = RgbImage::open(&self.path).map_err(first)?;
            return preprocess.apply(&image, &input.ty).map_err(|e| fault(Code::DATA, e));
        }
        let array = Array::open(&self.path).map_err(first)?;
        let count = input.sample.iter().product();
        let ones = |dims: &[usize]| dims.iter().copied().skip_while(|&d| d == 1).collect::<Vec<_>>();
        if ones(array.dims()) != ones(&input.sample) {
            let what = format!("an array of shape {:?} is no sample of shape {:?}", array.dims(), input.sample);
            return Err(fault(Code::DATA, what));
        }
        array.elements(0, count, &input.ty.elem).map_err(|e| fault(Code::FILE, format!("cannot read the array: {e}")))
    }
}

pub(super) fn is_image(extension: &str) -> bool {
    matches!(extension, "png" | "jpg" | "jpeg")
}

fn extension(path: &Path) -> String {
    path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default()
}

/// Whether a path is that of an image, by its extension.
pub fn is_image_file(path: &Path) -> bool {
    is_image(&extension(path))
}

/// An image as an input of this type.
pub fn image(path: &Path, preprocess: Option<&Preprocess>, ty: &Type) -> Result<Tensor, Error> {
    let preprocess = preprocess.ok_or_else(|| unknown_preprocessing(path))?;
    let fault = |e: String| Error::from(Diag::new(Code::DATA, e).in_file(path.display().to_string()));
    let data = preprocess.apply(&RgbImage::open(path)?, ty).map_err(fault)?;
    Ok(Tensor { dims: ty.dims.clone(), data })
}

/// Images need numbers that nobody can guess.
pub(super) fn unknown_preprocessing(path: &Path) -> Error {
    let diag = Diag::new(Code::FLAGS, "the samples are images, and nothing says how they become inputs");
    let help = "say it with --preset, or with --scale, --mean and --std: value = (pixel / scale - mean) / std";
    diag.in_file(path.display().to_string()).help(help).into()
}

/// A list: `path label` a line, the label being optional. Paths are relative to the list's folder or to the current one.
pub(super) fn list(path: &Path) -> Result<(Vec<Item>, Option<Vec<i64>>), Error> {
    let text = reading::text(path, "read the list of samples")?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let (mut items, mut labels) = (Vec::new(), Vec::new());
    let lines = text.lines().enumerate().map(|(i, line)| (i + 1, line.trim()));
    for (number, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        // Paths may contain blanks: only a last word that is a number is a label.
        let labelled = line.rsplit_once(char::is_whitespace).and_then(|(p, l)| Some((p.trim_end(), l.parse().ok()?)));
        let name = match labelled {
            Some((name, label)) => {
                labels.push(label);
                name
            }
            None => line,
        };
        let found = [folder.join(name), PathBuf::from(name)].into_iter().find(|p| p.is_file());
        let Some(found) = found else {
            let diag = Diag::new(Code::FILE, format!("there is no file `{name}`"));
            return Err(diag.in_file(path.display().to_string()).on_line(number, 1).into());
        };
        items.push(Item::new(found));
    }
    let all_labelled = labels.len() == items.len() && !items.is_empty();
    Ok((items, all_labelled.then_some(labels)))
}

/// The files of a folder, sorted by name, or those of its subfolders named after the inputs.
pub(super) fn folder(path: &Path, inputs: &[Input]) -> Result<Vec<Vec<Item>>, Error> {
    let per_input = inputs.iter().all(|i| path.join(&i.name).is_dir());
    if per_input && !inputs.is_empty() {
        return inputs.iter().map(|i| samples_in(&path.join(&i.name))).collect();
    }
    if inputs.len() != 1 {
        let names: Vec<_> = inputs.iter().map(|i| i.name.as_str()).collect();
        let what = format!("a folder of samples for several inputs has a folder for each: {}", names.join(", "));
        return Err(Diag::new(Code::DATA, what).in_file(path.display().to_string()).into());
    }
    Ok(vec![samples_in(path)?])
}

fn samples_in(path: &Path) -> Result<Vec<Item>, Error> {
    let fail = |e: std::io::Error| Error::file(path, "read the folder", e);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let extension = extension(&path);
        if path.is_file() && (extension == "npy" || is_image(&extension)) {
            found.push(path);
        }
    }
    found.sort();
    if found.is_empty() {
        return Err(Error::file(
            path,
            "read the samples",
            "the folder itself has no .npy, .png or .jpg file, and no test_data_set_0",
        ));
    }
    Ok(found.into_iter().map(Item::new).collect())
}
