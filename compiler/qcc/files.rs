//! Writing files so that a reader never sees half of one.

use std::io::Write as _;
use std::path::Path;

use crate::Error;

/// Writes all files or none: each is written beside its place first, then all are renamed.
pub(crate) fn write_all(files: &[(&Path, &[u8])]) -> Result<(), Error> {
    let mut ready = Vec::with_capacity(files.len());
    for &(path, bytes) in files {
        if path.is_dir() {
            return Err(Error::file(path, "write", "it is a folder"));
        }
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let fail = |e: std::io::Error| Error::file(path, "write", e);
        let mut builder = tempfile::Builder::new();
        builder.prefix(".qcc-");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            // What the umask leaves of it, as for any other new file.
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let mut file = builder.tempfile_in(folder).map_err(|e| fail(unnamed(e)))?;
        file.write_all(bytes).map_err(fail)?;
        ready.push((file, path));
    }
    for (file, path) in ready {
        file.persist(path).map_err(|e| Error::file(path, "write", e.error))?;
    }
    Ok(())
}

/// The error without the name of the temporary file, which says nothing to the user.
fn unnamed(e: std::io::Error) -> std::io::Error {
    e.raw_os_error().map_or_else(|| e.kind().into(), std::io::Error::from_raw_os_error)
}

/// Writes a file so that it is there as a whole or not at all.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    write_all(&[(path, bytes)])
}
