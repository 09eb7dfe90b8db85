//! `--emit-trainer`: a folder from which PyTorch trains.

use std::path::Path;

use qcc::Error;
use qcc::finetune::Finetune;

use crate::command::flags::usage;
use crate::command::terminal;

/// Refuses a folder in which something lies.
pub(super) fn check(folder: &Path) -> Result<(), Error> {
    match std::fs::read_dir(folder).map(|mut entries| entries.next().is_some()) {
        Ok(true) => {
            let error = usage(format!("--emit-trainer: {} is not empty", folder.display()));
            Err(error.help("name another folder"))
        }
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::file(folder, "read the folder", e)),
        Ok(false) | Err(_) => Ok(()),
    }
}

/// Writes the files.
pub(super) fn write(folder: &Path, training: Finetune) -> Result<(), Error> {
    training.write_external(folder)?;
    let program = folder.join("train.py");
    terminal::note(&format!(
        "python {0} --data X.npy -o trained.onnx trains it; torchrun --nproc-per-node N {0} with N processes",
        program.display()
    ));
    Ok(())
}
