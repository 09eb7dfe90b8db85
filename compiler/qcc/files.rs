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
        let mut file = builder.tempfile_in(folder).map_err(|e| Error::file(path, "write", unnamed(&e)))?;
        file.write_all(bytes).map_err(fail)?;
        ready.push((file, path));
    }
    for (file, path) in ready {
        file.persist(path).map_err(|e| Error::file(path, "write", e.error))?;
    }
    Ok(())
}

/// What is wrong with the place; the name of the temporary file would say nothing to the user.
fn unnamed(e: &std::io::Error) -> String {
    match e.kind() {
        std::io::ErrorKind::NotFound => "there is no such folder".into(),
        kind => kind.to_string(),
    }
}

/// Writes a file so that it is there as a whole or not at all.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    write_all(&[(path, bytes)])
}
