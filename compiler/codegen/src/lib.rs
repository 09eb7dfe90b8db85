//! Integer graphs into machine code.
//!
//! ```text
//! graph (int.*, tensor.*) --plan--> views and steps --program--> tasks, kernels, entry points --emit--> JIT | model.so
//! ```
//! [`plan`] decides where every value lies; [`program`] writes one function for each step in Cranelift IR; the steps that
//! multiply call microkernels, described once against the vector machine of [`machine`] and encoded by it for wide registers
//! or as Cranelift IR; [`emit`] turns the module into a running model or into files. The only crate that knows Cranelift.

pub mod check;
mod clif;
pub mod emit;
pub mod kernel;
pub mod machine;
pub mod plan;
pub mod program;
pub mod target;

pub use target::Target;

/// What [`Options::shared_from`] usually is: handing a task over and waiting for its end takes half a microsecond or more.
pub const SHARED_FROM: u64 = 2000;

/// How a graph is compiled.
#[derive(Debug, Clone)]
pub struct Options {
    /// What the code is made for.
    pub target: Target,
    /// Name of the model: the part of exported symbols between `qcc_` and `_run`.
    pub name: String,
    /// Whether `run_f32` exists.
    pub float_interface: bool,
    /// Least time of a task, by a rough estimate in nanoseconds, for which other threads are called in; see [`SHARED_FROM`].
    pub shared_from: u64,
    /// What the model may ask of the memory of the process that runs it.
    pub budget: qcc_ir::Budget,
    /// Digest of the source model and of the options that it was compiled with.
    pub hash: [u8; 32],
    /// What measurements chose otherwise than the estimates.
    pub tuning: program::tuning::Tuning,
    /// What the earlier stages have to say of the model's making; steps and memory are added.
    pub manifest: qcc_runtime::Manifest,
}

impl Options {
    /// Codes in and out, every task shared however small, and nothing known of the model's making.
    pub fn new(target: Target, name: &str) -> Options {
        Options {
            target,
            name: name.to_string(),
            float_interface: false,
            shared_from: 0,
            budget: qcc_ir::Budget::default(),
            hash: [0; 32],
            tuning: Default::default(),
            manifest: Default::default(),
        }
    }
}
