//! External tensor data. A model names a file; only regular files inside the model's own folder are read, wherever links
//! may point, and never more than the tensor needs.

use std::collections::BTreeSet;
use std::fs::{File, Metadata};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use onnx_protobuf::tensor_proto::DataLocation;
use onnx_protobuf::{GraphProto, StringStringEntryProto, TensorProto};
use qcc_ir::diag::Code;

use crate::fault::{Fault, Outcome};

/// The folder of a model, or none for a model that comes from memory.
#[derive(Debug, Clone)]
pub(crate) struct Folder(Option<PathBuf>);

impl Folder {
    /// External data is looked for here.
    pub(crate) fn at(path: &Path) -> Folder {
        Folder(Some(if path.as_os_str().is_empty() { PathBuf::from(".") } else { path.to_path_buf() }))
    }

    /// There is no external data.
    pub(crate) fn none() -> Folder {
        Folder(None)
    }

    /// Exactly `length` bytes, at the place that the entries `location`, `offset` and `length` of a tensor say.
    pub(crate) fn read(&self, entries: &[StringStringEntryProto], length: usize) -> Outcome<Vec<u8>> {
        let entry = |key: &str| entries.iter().find(|e| e.key == key).map(|e| e.value.as_str());
        let number = |key: &str| match entry(key).map(str::parse::<u64>) {
            Some(Err(_)) => Err(external(format!("`{key}` is not a number"))),
            Some(Ok(n)) => Ok(Some(n)),
            None => Ok(None),
        };
        let location = entry("location").filter(|l| !l.is_empty());
        let location = location.ok_or_else(|| external("the file is not named"))?;
        let wanted = u64::try_from(length).map_err(|_| external("the tensor is too large"))?;
        let offset = number("offset")?.unwrap_or(0);
        if let Some(given) = number("length")?.filter(|&given| given != wanted) {
            return Err(external(format!("{given} bytes in `{location}` for a tensor of {wanted} bytes")));
        }
        let mut file = self.open(location)?;
        let unreadable = |e: std::io::Error| external(format!("`{location}` cannot be read: {e}"));
        let size = file.metadata().map_err(unreadable)?.len();
        if offset.checked_add(wanted).is_none_or(|end| end > size) {
            return Err(external(format!("`{location}` has {size} bytes, but {wanted} from {offset} on are needed")));
        }
        file.seek(SeekFrom::Start(offset)).map_err(unreadable)?;
        let mut bytes = vec![0; length];
        file.read_exact(&mut bytes).map_err(unreadable)?;
        Ok(bytes)
    }

    /// Bytes of the files in which tensors of a model lie, each counted once; those that cannot be read have none.
    pub(crate) fn bytes(&self, graph: &GraphProto) -> u64 {
        let external = |t: &&TensorProto| t.data_location.enum_value() == Ok(DataLocation::EXTERNAL);
        let entries = graph.initializer.iter().filter(external).flat_map(|t| &t.external_data);
        let files: BTreeSet<&str> = entries.filter(|e| e.key == "location").map(|e| e.value.as_str()).collect();
        let length = |file: &str| self.open(file).ok().and_then(|file| file.metadata().ok()).map_or(0, |m| stored(&m));
        files.into_iter().map(length).fold(0, u64::saturating_add)
    }

    fn open(&self, location: &str) -> Outcome<File> {
        let Some(folder) = &self.0 else {
            return Err(external(format!("`{location}` is needed, but the model does not come from a file")));
        };
        let relative = Path::new(location);
        let inside = relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
        if !inside || location.contains('\\') {
            return Err(external(format!("`{location}` is not a path inside the model's folder")));
        }
        let missing = |e: std::io::Error| {
            external(format!("`{location}` cannot be opened: {e}")).help("keep it in the folder of the model")
        };
        let folder = folder.canonicalize().map_err(missing)?;
        let path = folder.join(relative).canonicalize().map_err(missing)?;
        if !path.starts_with(&folder) {
            return Err(external(format!("`{location}` is a link out of the model's folder")));
        }
        if !path.is_file() {
            return Err(external(format!("`{location}` is not a regular file")));
        }
        File::open(&path).map_err(missing)
    }
}

/// Bytes of a file that were written: those of its holes cost nothing.
fn stored(metadata: &Metadata) -> u64 {
    #[cfg(unix)]
    return metadata.len().min(std::os::unix::fs::MetadataExt::blocks(metadata).saturating_mul(512));
    #[cfg(not(unix))]
    metadata.len()
}

fn external(message: impl Into<String>) -> Fault {
    Fault::new(Code::EXTERNAL_DATA, message.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(list: &[(&str, &str)]) -> Vec<StringStringEntryProto> {
        let entry = |(key, value): &(&str, &str)| StringStringEntryProto {
            key: key.to_string(),
            value: value.to_string(),
            ..StringStringEntryProto::new()
        };
        list.iter().map(entry).collect()
    }

    #[test]
    fn only_the_own_folder_is_read() {
        let root = std::env::temp_dir().join(format!("qcc-external-{}", std::process::id()));
        let inner = root.join("model");
        std::fs::create_dir_all(inner.join("sub")).unwrap();
        std::fs::write(root.join("secret"), [9; 8]).unwrap();
        std::fs::write(inner.join("sub/w.bin"), [1, 2, 3, 4]).unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink("../secret", inner.join("link")).unwrap();
        let folder = Folder::at(&inner);
        let read = |list: &[(&str, &str)], n| folder.read(&entries(list), n);
        assert_eq!(read(&[("location", "sub/w.bin")], 4), Ok(vec![1, 2, 3, 4]));
        assert_eq!(read(&[("location", "./sub/w.bin"), ("offset", "2"), ("length", "2")], 2), Ok(vec![3, 4]));
        let secret = root.join("secret");
        for (list, text) in [
            (&[("location", "../secret")][..], "inside"),
            (&[("location", "sub/../../secret")], "inside"),
            (&[("location", secret.to_str().unwrap())], "inside"),
            (&[("location", "..\\secret")], "inside"),
            #[cfg(unix)]
            (&[("location", "link")], "link out"),
            (&[("location", "sub")], "regular"),
            (&[("location", "absent")], "cannot be opened"),
            (&[("location", "")], "not named"),
            (&[], "not named"),
            (&[("location", "sub/w.bin"), ("offset", "3")], "4 bytes"),
            (&[("location", "sub/w.bin"), ("offset", "18446744073709551615")], "4 bytes"),
            (&[("location", "sub/w.bin"), ("offset", "-1")], "not a number"),
            (&[("location", "sub/w.bin"), ("length", "3")], "3 bytes"),
        ] {
            let fault = read(list, 4).expect_err("must be refused");
            assert_eq!(fault.code, Code::EXTERNAL_DATA);
            assert!(fault.message.contains(text), "{list:?}: {}", fault.message);
        }
        std::fs::remove_dir_all(&root).unwrap();
    }
}
