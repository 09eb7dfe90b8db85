//! A compiled model that can run: entry points, description, and whatever keeps its code alive.

use crate::abi::{RunF32Fn, RunF32MtFn, RunFn, RunMtFn};
use crate::cpu::CpuFeatures;
use crate::info::{InfoError, ModelInfo, TensorInfo};
use crate::manifest::Manifest;
use crate::seal::SealError;
use std::any::Any;
use std::fmt;
use std::path::PathBuf;

/// The functions of a compiled model.
#[derive(Debug, Clone, Copy)]
pub struct EntryPoints {
    /// Integers in, integers out, on the caller's thread.
    pub run: RunFn,
    /// The same over a pool. Without it a session ignores its pool.
    pub run_mt: Option<RunMtFn>,
    /// Float in, float out; exists with a float interface.
    pub run_f32: Option<RunF32Fn>,
    /// The same over a pool.
    pub run_f32_mt: Option<RunF32MtFn>,
}

/// A loaded or just-in-time compiled model. It has no state: any number of threads may run it at once.
pub struct Model {
    pub(crate) entry: EntryPoints,
    info: ModelInfo,
    manifest: Option<Manifest>,
    /// Dropped last: the entry points lead into it.
    _owner: Box<dyn Any + Send + Sync>,
}

/// Why a model cannot be used on this machine.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file is missing or unreadable.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// The file as given.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The system's loader refused the file: no ELF file, another CPU, damaged.
    #[error("cannot load {}: {}", path.display(), whole(source))]
    Load {
        /// The file as given.
        path: PathBuf,
        /// The loader's answer.
        source: libloading::Error,
    },
    /// A statically linked program cannot map the file: it asks for more than qcc's own files do, or the system refuses.
    #[error("cannot load {}: {why}", path.display())]
    Image {
        /// The file as given.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The file is not what qcc wrote.
    #[error("{}: {source}", path.display())]
    Seal {
        /// The file as given.
        path: PathBuf,
        /// What is wrong with it.
        source: SealError,
    },
    /// A file for another machine.
    #[error("{} is compiled for {found}, and this machine is {}", path.display(), std::env::consts::ARCH)]
    Machine {
        /// The file as given.
        path: PathBuf,
        /// The machine that it is for.
        found: String,
    },
    /// A shared object that qcc did not make.
    #[error("{} is not a model compiled by qcc: it exports no `{symbol}`", path.display())]
    NotAModel {
        /// The file as given.
        path: PathBuf,
        /// First symbol that is missing.
        symbol: &'static str,
    },
    /// The description is of another version, or damaged.
    #[error(transparent)]
    Info(#[from] InfoError),
    /// The manifest is damaged.
    #[error("damaged manifest: {0}")]
    Manifest(#[from] prost::DecodeError),
    /// The code needs instructions that this CPU does not have.
    #[error(
        "this CPU lacks {missing}, which the model was compiled for; compile it with `--target native` on this machine"
    )]
    MissingCpuFeatures {
        /// Features needed and not present.
        missing: CpuFeatures,
    },
}

/// An error with all that caused it: the system's loader says why in the last one.
fn whole(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |e| e.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

impl Model {
    /// A model from code that is already in memory.
    ///
    /// Fails if the description is out of range or this CPU lacks a feature.
    ///
    /// # Safety
    /// - The entry points follow the C ABI of [`crate::abi`] for exactly the tensors and the scratch that `info` describes: they
    ///   read and write nothing else, and may run on any number of threads at once.
    /// - They stay valid as long as `owner` lives.
    pub unsafe fn from_parts(
        entry: EntryPoints,
        info: ModelInfo,
        manifest: Option<Manifest>,
        owner: Box<dyn Any + Send + Sync>,
    ) -> Result<Model, LoadError> {
        info.check()?;
        let missing = info.cpu_features.minus(CpuFeatures::detect());
        if !missing.is_empty() {
            return Err(LoadError::MissingCpuFeatures { missing });
        }
        Ok(Model { entry, info, manifest, _owner: owner })
    }

    /// The description.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// How the model was made, if it says so.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// Inputs in the order of [`Model::run`].
    pub fn inputs(&self) -> &[TensorInfo] {
        &self.info.inputs
    }

    /// Outputs in the order of [`Model::run`].
    pub fn outputs(&self) -> &[TensorInfo] {
        &self.info.outputs
    }

    /// True if [`Model::run_f32`] works.
    pub fn has_float_interface(&self) -> bool {
        self.entry.run_f32.is_some()
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model").field("info", &self.info).finish_non_exhaustive()
    }
}
