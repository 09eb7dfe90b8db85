//! Reading files whole: only so much of them as one of their kind can have, and nothing that never ends.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use crate::Error;

/// Most bytes of a table, a list or a text of other kind.
pub const TEXT: u64 = 256 << 20;

/// Most bytes of a model, graph or checkpoint: a message of protobuf has no more.
pub const MODEL: u64 = 2 << 30;

/// The bytes of a file or a pipe; `what` is what could not be done otherwise.
pub fn read(path: &Path, what: &str, most: u64) -> Result<Vec<u8>, Error> {
    bounded(path, most).map_err(|e| Error::file(path, what, e))
}

/// The same for text.
pub fn text(path: &Path, what: &str) -> Result<String, Error> {
    String::from_utf8(read(path, what, TEXT)?).map_err(|_| Error::file(path, what, "it is not text"))
}

/// The bytes of a file, if there are no more than that.
pub fn bounded(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::Error::other("it is a folder"));
    }
    let too_long = || io::Error::other(format!("it has more than {} MB", most >> 20));
    if metadata.len() > most {
        return Err(too_long());
    }
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(usize::try_from(metadata.len()).map_err(|_| too_long())?)?;
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most { Err(too_long()) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_read_without_end() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [7; 100]).unwrap();
        assert_eq!(bounded(file.path(), 100).unwrap(), [7; 100]);
        assert!(bounded(file.path(), 99).is_err());
        assert!(bounded(Path::new("/"), 99).is_err());
        #[cfg(target_os = "linux")]
        assert!(bounded(Path::new("/dev/zero"), 1 << 20).unwrap_err().to_string().contains("more than 1 MB"));
    }
}
