//! `qcc opt`: passes on a graph in textual form.

use std::path::{Path, PathBuf};

use clap::Args;
use qcc::{Error, check_places};

use super::build::WatchFlags;
use super::flags::ModelFlags;
use super::terminal;

/// Run passes on a model and print the graph.
#[derive(Args)]
pub struct Opt {
    /// Graph: .qir, or .onnx
    file: PathBuf,
    /// File to write instead of stdout; a terminal is shown no constants of more than 16 elements
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// Carry out only the first changes, those with numbers below N: --print-edits tells the numbers
    #[arg(long, value_name = "N")]
    edit_limit: Option<usize>,
    #[command(flatten)]
    flags: ModelFlags,
    #[command(flatten)]
    watch: WatchFlags,
}

impl Opt {
    /// Does it.
    pub fn execute(&self) -> Result<(), Error> {
        let mut read = self.flags.files();
        read.push(("the model", self.file.as_path()));
        let written: Vec<(&str, &Path)> = self.output.iter().map(|path| ("--output", path.as_path())).collect();
        check_places(&read, &written)?;
        let mut options = self.flags.options(0)?;
        // Without `--passes` the graph is only read, verified and printed.
        options.pipeline.get_or_insert_default();
        options.edit_limit = self.edit_limit;
        let compiled = self.watch.compile(&self.file, &options)?;
        match &self.output {
            Some(path) => compiled.write_text(path),
            None => terminal::result(&terminal::graph(&compiled)?),
        }
    }
}
