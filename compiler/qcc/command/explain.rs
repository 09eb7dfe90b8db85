//! `qcc explain`: what became of one node of a model.

use std::path::PathBuf;

use clap::Args;
use qcc::explain::explain;
use qcc::explore::Explorer;
use qcc::record::Recording;
use qcc::{Error, Options, compile_observed};

use super::announce::announce;
use super::explore::{CALLS, complete};
use super::flags::ModelFlags;
use super::terminal;

/// Tell the life of one node or value, pass by pass.
#[derive(Args)]
pub struct Explain {
    /// Model: .onnx, or .qir
    model: PathBuf,
    /// Name of an ONNX node, of a value at any stage, or the symbol of a step in the machine code
    node: String,
    /// Threads of the compiler; 0 for one a core
    #[arg(long, default_value_t = 0)]
    threads: usize,
    #[command(flatten)]
    flags: ModelFlags,
}

impl Explain {
    /// Does it.
    pub fn execute(&self) -> Result<(), Error> {
        self.flags.warn();
        let options = Options { measure_passes: true, ..self.flags.options(self.threads)? };
        let mut recording = Recording::default();
        let compiled = compile_observed(self.model.as_path(), &options, &mut |event| recording.observe(event))?;
        announce(&compiled);
        let mut explorer = Explorer::new("", recording);
        complete(&mut explorer, &compiled, &options, CALLS)?;
        let Explorer { recording, values, program, .. } = &explorer;
        terminal::result(&explain(recording, program.as_ref(), values, &self.node)?)
    }
}
