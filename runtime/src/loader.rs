//! Loading `model.so`.

use crate::abi::{InfoFn, symbol};
use crate::info::ModelInfo;
use crate::library::Library;
use crate::manifest::Manifest;
use crate::model::{EntryPoints, LoadError, Model};
use crate::seal::{ReadError, Seal};
use std::path::Path;

/// Longest manifest that is believed, in bytes.
const MAX_MANIFEST: u64 = 64 << 20;

impl Model {
    /// Loads a model compiled by qcc, and checks that its ABI and this CPU fit.
    ///
    /// Before any of its code can run, the file is read and compared with its seal ([`crate::seal`]): a damaged file, one that is cut
    /// short and one that qcc did not write are refused. A shared object is code all the same, and a seal is no signature: load only files
    /// that you would also run. The file must not be written to while it is loaded.
    pub fn load(path: impl AsRef<Path>) -> Result<Model, LoadError> {
        let path = path.as_ref();
        let (file, _) = Seal::read(path).map_err(|e| unsealed(path, e))?;
        if let Some(found) = other_machine(&file) {
            return Err(LoadError::Machine { path: path.into(), found });
        }
        Model::open(path)
    }

    /// Loads a model that was linked by another linker from the object file that qcc wrote, and has no seal, or was stripped.
    ///
    /// # Safety
    /// The file is a shared object whose code, also that which runs when it is loaded, may run in this process; and it is not damaged.
    pub unsafe fn load_unchecked(path: impl AsRef<Path>) -> Result<Model, LoadError> {
        Model::open(path.as_ref())
    }

    fn open(path: &Path) -> Result<Model, LoadError> {
        // SAFETY: objects written by qcc have no initialization code; the caller answers for others.
        let library = unsafe { Library::open(path) }?;
        let missing = |symbol| LoadError::NotAModel { path: path.into(), symbol };

        let info = optional::<InfoFn>(&library, symbol::INFO).ok_or_else(|| missing(symbol::INFO))?;
        // SAFETY: the symbol is qcc's own; `read` checks the version before anything else.
        let info = unsafe { ModelInfo::read(info()) }?;
        let entry = EntryPoints {
            run: optional(&library, symbol::RUN).ok_or_else(|| missing(symbol::RUN))?,
            run_mt: optional(&library, symbol::RUN_MT),
            run_f32: optional(&library, symbol::RUN_F32),
            run_f32_mt: optional(&library, symbol::RUN_F32_MT),
        };
        let manifest = manifest(&library)?;
        // SAFETY: the entry points belong to this description in a file of qcc's, and live as long as the library.
        unsafe { Model::from_parts(entry, info, manifest, Box::new(library)) }
    }
}

/// Checks that a file is a whole model compiled by qcc, for this ABI: nothing of it is loaded or run.
pub fn check_file(path: impl AsRef<Path>) -> Result<Seal, LoadError> {
    let path = path.as_ref();
    Seal::read(path).map(|(_, seal)| seal).map_err(|e| unsealed(path, e))
}

fn unsealed(path: &Path, error: ReadError) -> LoadError {
    match error {
        ReadError::File(source) => LoadError::Open { path: path.into(), source },
        ReadError::Seal(source) => LoadError::Seal { path: path.into(), source },
    }
}

/// The machine that an ELF file is for, unless it is this one: the system's loader says of such a file that it does not exist.
fn other_machine(file: &[u8]) -> Option<String> {
    let header = file.get(..20)?;
    let machine = u16::from_le_bytes([header[18], header[19]]);
    let known = [(62, "x86_64"), (183, "aarch64"), (3, "x86"), (40, "arm"), (243, "riscv64")];
    let found = known.iter().find(|(code, _)| *code == machine).map(|(_, name)| *name);
    let is_elf = header.starts_with(b"\x7fELF");
    let known_here = known.iter().any(|(_, name)| *name == std::env::consts::ARCH);
    let here = found == Some(std::env::consts::ARCH) || !known_here;
    (is_elf && !here).then(|| found.map_or_else(|| format!("machine {machine}"), str::to_string))
}

/// The function behind a symbol. `F` must be the function pointer type that [`symbol`] names for it.
fn optional<F: Copy>(library: &Library, name: &str) -> Option<F> {
    const { assert!(size_of::<F>() == size_of::<*const u8>()) };
    let address = library.symbol(name)?;
    // SAFETY: the callers above pair names and types as the ABI does; the copy is kept beside the library.
    Some(unsafe { std::mem::transmute_copy(&address) })
}

fn manifest(library: &Library) -> Result<Option<Manifest>, LoadError> {
    let Some(address) = library.symbol(symbol::MANIFEST) else { return Ok(None) };
    // SAFETY: the symbol's data starts with its length.
    let length = u64::from_le_bytes(unsafe { address.cast::<[u8; 8]>().read() });
    let bytes = usize::try_from(length.min(MAX_MANIFEST)).unwrap_or(0) + 8;
    // SAFETY: the data goes on for `length` bytes and is never written.
    let section = unsafe { std::slice::from_raw_parts(address, bytes) };
    Ok(Some(Manifest::from_section(section)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_no_models_are_refused_by_name() {
        let missing = Model::load("/nonexistent/model.so").unwrap_err();
        assert!(missing.to_string().starts_with("cannot open /nonexistent/model.so"), "{missing}");
        let own = std::env::current_exe().unwrap().with_extension("d");
        let text = if own.exists() { own } else { "Cargo.toml".into() };
        let refused = Model::load(text).unwrap_err();
        assert!(matches!(refused, LoadError::Seal { .. }), "{refused}");
    }
}
