//! ONNX files into graphs of `nn.*`, `tensor.*` and `quant.*`, and quantized graphs into ONNX files. No other crate knows ONNX.
//!
//! ```text
//! bytes --wire, model--> ModelProto --functions, structure--> ordered nodes --import/table--> Graph
//! ```
//!
//! Everything in a file is taken for hostile: lengths, nesting, numbers and paths are checked before they are used, and a file
//! that is not a whole model gives one diagnostic. A model that cannot be compiled gives all its faults at once, each with
//! the node, its operator and operator set, and the shapes that it was given.

#![deny(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap)]

mod bind;
mod element;
mod export;
mod external;
mod fault;
mod functions;
#[cfg(test)]
mod hostile;
mod import;
mod model;
mod options;
mod rounding;
mod structure;
mod tensor;
#[cfg(test)]
mod tests;
mod wire;

use std::path::Path;

use qcc_ir::diag::Code;
use qcc_ir::{Diag, Diags, Graph, Tensor};

use crate::external::Folder;
use crate::fault::Fault;

pub use crate::export::{Addend, Declared, ExportOptions, export};
pub use crate::import::{Importable, Imported, importable};
pub use crate::options::ImportOptions;

/// Longest file of one tensor: a message of protobuf has no more.
const MAX_TENSOR: u64 = 2 << 30;

/// Imports a model from a file. External data must lie in the file's folder.
pub fn import(path: &Path, options: &ImportOptions) -> Result<Graph, Diags> {
    import_with_remarks(path, options).map(|imported| imported.graph)
}

/// The same with what there is to say about the model.
pub fn import_with_remarks(path: &Path, options: &ImportOptions) -> Result<Imported, Diags> {
    let named = |diags: Diags| diags.in_file(&path.display().to_string());
    let unreadable = |what: String| named(Diag::new(Code::FILE, what).into());
    let metadata = std::fs::metadata(path).map_err(|e| unreadable(format!("the model cannot be read: {e}")))?;
    if !metadata.is_file() {
        let what = if metadata.is_dir() { "a folder" } else { "no regular file" };
        return Err(unreadable(format!("the model cannot be read: it is {what}")));
    }
    options.budget.check_memory("the model's file", metadata.len()).map_err(|d| named(d.into()))?;
    let bytes = std::fs::read(path).map_err(|e| unreadable(format!("the model cannot be read: {e}")))?;
    let folder = path.parent().map_or_else(Folder::none, Folder::at);
    import_from(bytes, &folder, options).map_err(named)
}

fn import_from(bytes: impl AsRef<[u8]>, folder: &Folder, options: &ImportOptions) -> Result<Imported, Diags> {
    let length = bytes.as_ref().len() as u64;
    let model = model::read(bytes.as_ref(), &options.budget.for_file(length)).map_err(Fault::into_diag)?;
    // The message holds all that is wanted of the file; with the graph's constants there would be three copies of every weight.
    drop(bytes);
    let budget = options.budget.for_file(length.saturating_add(folder.bytes(&model.graph)));
    import::import(model, folder, &ImportOptions { budget, ..options.clone() })
}

/// Reads a tensor that lies in a file of its own, as in the folders `test_data_set_0` beside a model.
pub fn read_tensor(path: &Path) -> Result<Tensor, Diag> {
    let named = |diag: Diag| diag.in_file(path.display().to_string());
    let unreadable = |e: &dyn std::fmt::Display| named(Diag::new(Code::FILE, format!("cannot read the tensor: {e}")));
    let metadata = std::fs::metadata(path).map_err(|e| unreadable(&e))?;
    if !metadata.is_file() || metadata.len() > MAX_TENSOR {
        return Err(unreadable(&format!("it is no file of at most {} MB", MAX_TENSOR >> 20)));
    }
    let bytes = std::fs::read(path).map_err(|e| unreadable(&e))?;
    tensor::from_bytes(&bytes, &path.parent().map_or_else(Folder::none, Folder::at)).map_err(|f| named(f.into_diag()))
}

/// How graphs spell the ONNX name of a value that is neither input nor output: `/layer1/conv` reads `layer1.conv`.
pub fn value_name(onnx: &str) -> String {
    import::value_name(onnx)
}

/// Imports a model from memory. Without a `folder` it can have no external data.
pub fn import_bytes(bytes: &[u8], folder: Option<&Path>, options: &ImportOptions) -> Result<Graph, Diags> {
    import_bytes_with_remarks(bytes, folder, options).map(|imported| imported.graph)
}

/// The same with what there is to say about the model.
pub fn import_bytes_with_remarks(
    bytes: &[u8],
    folder: Option<&Path>,
    options: &ImportOptions,
) -> Result<Imported, Diags> {
    import_from(bytes, &folder.map_or_else(Folder::none, Folder::at), options)
}
