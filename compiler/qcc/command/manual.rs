//! Completions of shells and pages of the manual, from the table of flags that reads the command line.

use std::path::PathBuf;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;
use qcc::Error;

use super::{Arguments, terminal};

/// Print a script that completes commands and flags.
#[derive(Args)]
pub struct Completions {
    /// Shell that it is for
    #[arg(value_enum)]
    shell: Shell,
}

/// Write the pages of the manual.
#[derive(Args)]
pub struct Manual {
    /// Folder that they go to: qcc.1, qcc-compile.1 and so on
    folder: PathBuf,
}

impl Completions {
    /// Does it.
    pub fn execute(&self) -> Result<(), Error> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Arguments::command(), "qcc", &mut script);
        terminal::result(&String::from_utf8_lossy(&script))
    }
}

impl Manual {
    /// Does it.
    pub fn execute(&self) -> Result<(), Error> {
        std::fs::create_dir_all(&self.folder).map_err(|e| Error::file(&self.folder, "make the folder", e))?;
        clap_mangen::generate_to(Arguments::command(), &self.folder)
            .map_err(|e| Error::file(&self.folder, "write the pages", e))
    }
}
