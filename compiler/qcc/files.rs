//! Writing files so that a reader never sees half of one, and nothing is replaced that is no file.
//!
//! | what stands at the path | what is done |
//! |---|---|
//! | nothing, or a file | written beside its place, then renamed |
//! | a link | the same at its end |
//! | a character device or a pipe | written to as it is |
//! | standard output, by any of its names | written to, behind what is there |
//! | a folder, a socket or a disk | refused |

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use qcc_ir::Diag;
use qcc_ir::diag::Code;

use crate::Error;

/// Links that are followed from one path.
const MAX_LINKS: usize = 40;

/// How long someone is waited for who reads from a named pipe.
const READER: Duration = Duration::from_secs(5);

/// Begins the description in every header that qcc writes, after the model's name.
const HEADER_MARK: &str = "a neural network in integer code, compiled by qcc";

/// Where bytes go.
enum Place {
    /// A file at this path, which is no link.
    File(PathBuf),
    /// A device or a pipe.
    Stream(PathBuf),
    /// Standard output.
    Stdout,
}

/// Follows links, and says what is at their end.
fn place(path: &Path) -> Result<Place, Error> {
    let mut end = path.to_path_buf();
    for _ in 0..MAX_LINKS {
        if is_stdout(&end) {
            return Ok(Place::Stdout);
        }
        let Ok(metadata) = fs::symlink_metadata(&end) else { return Ok(Place::File(end)) };
        if metadata.is_symlink() {
            // What `/proc` shows of an open file is not the way to another one: it is opened as it is.
            if ["/proc", "/dev/fd"].iter().any(|folder| end.starts_with(folder)) {
                return Ok(Place::Stream(end));
            }
            let target = fs::read_link(&end).map_err(|e| Error::file(path, "write", e))?;
            end = end.parent().unwrap_or(Path::new("")).join(target);
            continue;
        }
        return match kind(&metadata) {
            Standing::File => Ok(Place::File(end)),
            Standing::Stream => Ok(Place::Stream(end)),
            Standing::Other(what) => Err(Error::file(path, "write", format!("it is a {what}"))),
        };
    }
    Err(Error::file(path, "write", "it is a link to a link to a link, without end"))
}

/// What stands at a path.
enum Standing {
    File,
    Stream,
    Other(&'static str),
}

fn kind(metadata: &fs::Metadata) -> Standing {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt as _;
        let ty = metadata.file_type();
        if ty.is_fifo() || ty.is_char_device() {
            return Standing::Stream;
        }
        if ty.is_block_device() {
            return Standing::Other("disk");
        }
        if ty.is_socket() {
            return Standing::Other("socket");
        }
    }
    if metadata.is_dir() { Standing::Other("folder") } else { Standing::File }
}

/// Standard output by the names that systems give it.
fn is_stdout(path: &Path) -> bool {
    let own = format!("/proc/{}/fd/1", std::process::id());
    ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/proc/thread-self/fd/1", &own].iter().any(|p| path == Path::new(p))
}

/// Whether a path is that of a file, or of none yet: what is written there can have another file beside it.
pub(crate) fn is_file_place(path: &Path) -> bool {
    matches!(place(path), Ok(Place::File(_)))
}

/// A file that is written and not yet in its place.
struct Ready<'a> {
    file: tempfile::NamedTempFile,
    end: PathBuf,
    path: &'a Path,
}

/// Writes all files or none: each is written beside its place first, then all are renamed. Streams come last.
pub(crate) fn write_all(files: &[(&Path, &[u8])]) -> Result<(), Error> {
    let (mut ready, mut streams) = (Vec::with_capacity(files.len()), Vec::new());
    for &(path, bytes) in files {
        match place(path)? {
            Place::File(end) => ready.push(beside(path, end, bytes)?),
            stream => streams.push((stream, path, bytes)),
        }
    }
    for Ready { file, end, path } in ready {
        file.persist(end).map_err(|e| Error::file(path, "write", e.error))?;
    }
    for (stream, path, bytes) in streams {
        let written = match stream {
            Place::Stream(end) => open_stream(&end).and_then(|mut file| write_patiently(&mut file, bytes)),
            Place::Stdout | Place::File(_) => {
                let mut out = io::stdout().lock();
                out.write_all(bytes).and_then(|()| out.flush())
            }
        };
        written.map_err(|e| Error::file(path, "write", e))?;
    }
    Ok(())
}

/// Writes a file beside the place that it is for, with the rights of the one that it replaces.
fn beside<'a>(path: &'a Path, end: PathBuf, bytes: &[u8]) -> Result<Ready<'a>, Error> {
    let folder = folder_of(&end);
    let fail = |e: io::Error| Error::file(path, "write", e);
    let mut builder = tempfile::Builder::new();
    builder.prefix(".qcc-");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        // What the umask leaves of it, as for any other new file.
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    let mut file = builder.tempfile_in(folder).map_err(|e| Error::file(path, "write", unnamed(&e)))?;
    file.write_all(bytes).map_err(fail)?;
    if let Ok(old) = fs::metadata(&end) {
        file.as_file().set_permissions(old.permissions()).map_err(fail)?;
    }
    Ok(Ready { file, end, path })
}

/// Opens a device or a pipe, which is neither created nor cut. A named pipe that nobody reads from would block for ever.
fn open_stream(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
        if fs::metadata(path)?.file_type().is_fifo() {
            options.custom_flags(libc::O_NONBLOCK);
            let start = Instant::now();
            loop {
                match options.open(path) {
                    Err(e) if e.raw_os_error() == Some(libc::ENXIO) => {
                        if start.elapsed() > READER {
                            return Err(io::Error::other("nobody reads from this pipe"));
                        }
                        std::thread::sleep(Duration::from_millis(20));
                    }
                    opened => return opened,
                }
            }
        }
    }
    options.open(path)
}

/// Writes to a stream that may not be able to take everything at once.
fn write_patiently(file: &mut File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(2)),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// What is wrong with the place; the name of the temporary file would say nothing to the user.
fn unnamed(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::NotFound => "there is no such folder".into(),
        kind => kind.to_string(),
    }
}

/// Writes a file so that it is there as a whole or not at all. Devices and pipes are written to, and links are followed.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    write_all(&[(path, bytes)])
}

/// Where the C header of a compiled model goes: beside it, unless the model goes to a device or a pipe. Refused where a file
/// stands that qcc did not write.
pub fn header_place(path: &Path) -> Result<Option<PathBuf>, Error> {
    if !is_file_place(path) {
        return Ok(None);
    }
    let header = path.with_extension("h");
    let refuse = |why: &str| {
        let diag = Diag::new(Code::FLAGS, format!("the model's C header would be written here, {why}"));
        let help = "give the output another name: the header has the same one with the extension .h";
        Err(Error::from(diag.in_file(header.display().to_string()).help(help)))
    };
    if header == path {
        return refuse("and so would the model");
    }
    if !is_file_place(&header) {
        return refuse("where something else stands than a file");
    }
    match File::open(&header) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Some(header)),
        Err(e) => Err(Error::file(&header, "write the C header", e)),
        Ok(file) => {
            let mut start = Vec::new();
            let read = io::Read::read_to_end(&mut io::Read::take(file, 1 << 10), &mut start);
            let own = start.windows(HEADER_MARK.len()).any(|w| w == HEADER_MARK.as_bytes());
            match read {
                Ok(0) => Ok(Some(header)),
                Ok(_) if own => Ok(Some(header)),
                Ok(_) => refuse("where a file stands that is not qcc's"),
                Err(e) => Err(Error::file(&header, "write the C header", e)),
            }
        }
    }
}

/// Refuses outputs that are inputs, or each other, and those for which there is no place. All are given with the names of their flags.
pub fn check_places(inputs: &[(&str, &Path)], outputs: &[(&str, &Path)]) -> Result<(), Error> {
    for (i, (flag, output)) in outputs.iter().enumerate() {
        let same = |(_, other): &&(&str, &Path)| same_file(output, other);
        let found = inputs.iter().find(same).map(|(what, _)| format!("is also {what}"));
        let found =
            found.or_else(|| outputs[..i].iter().find(same).map(|(what, _)| format!("is also written by {what}")));
        if let Some(why) = found {
            let diag = Diag::new(Code::FLAGS, format!("{flag}: this file {why}"));
            return Err(diag.in_file(output.display().to_string()).help("write to another file").into());
        }
        if let Place::File(end) = place(output)?
            && !folder_of(&end).is_dir()
        {
            return Err(Error::file(output, "write", "there is no such folder"));
        }
    }
    Ok(())
}

/// The folder that a file is in.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Whether two paths lead to the same file, existing or not. Streams may be named as often as one likes.
fn same_file(a: &Path, b: &Path) -> bool {
    let (Ok(Place::File(a)), Ok(Place::File(b))) = (place(a), place(b)) else { return false };
    #[cfg(unix)]
    if let (Ok(a), Ok(b)) = (fs::metadata(&a), fs::metadata(&b)) {
        use std::os::unix::fs::MetadataExt as _;
        return (a.dev(), a.ino()) == (b.dev(), b.ino());
    }
    let whole =
        |p: &Path| fs::canonicalize(folder_of(p)).ok().map(|folder| (folder, p.file_name().map(ToOwned::to_owned)));
    a == b || whole(&a).is_some_and(|a| Some(a) == whole(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_qcc_are_known_by_their_first_line() {
        let folder = tempfile::tempdir().unwrap();
        let (model, header) = (folder.path().join("m.so"), folder.path().join("m.h"));
        assert_eq!(header_place(&model).unwrap(), Some(header.clone()));
        fs::write(&header, format!("/* m: {HEADER_MARK} qcc 0.1.0.\n")).unwrap();
        assert_eq!(header_place(&model).unwrap(), Some(header.clone()));
        fs::write(&header, "#pragma once\n").unwrap();
        assert!(header_place(&model).is_err() && header_place(&header).is_err());
        assert_eq!(header_place(Path::new("/dev/stdout")).unwrap(), None);
    }

    #[cfg(unix)]
    #[test]
    fn links_stay_and_their_ends_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::os::unix::fs::symlink("end", at("first")).unwrap();
        std::os::unix::fs::symlink("first", at("link")).unwrap();
        for text in ["new", "old"] {
            write(&at("link"), text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(at("end")).unwrap(), text);
        }
        assert!(fs::symlink_metadata(at("link")).unwrap().is_symlink());
        assert!(same_file(&at("link"), &at("./end")) && !same_file(&at("link"), &at("other")));
        std::os::unix::fs::symlink("turn", at("turn")).unwrap();
        assert!(write(&at("turn"), b"x").is_err());
    }
}
