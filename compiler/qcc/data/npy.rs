//! The header of a `.npy` file: a magic number, a version, and a Python dictionary in text.

use std::io::Read;

const MAGIC: &[u8] = b"\x93NUMPY";

/// Longest header that is read; those of plain arrays have some hundred bytes.
const MAX_HEADER: usize = 1 << 20;

/// What a header says.
#[derive(Debug, PartialEq)]
pub(super) struct Header {
    /// Element type as NumPy spells it: `<f4`.
    pub(super) descr: String,
    /// The first index runs fastest.
    pub(super) fortran: bool,
    /// Extents.
    pub(super) dims: Vec<usize>,
}

impl Header {
    /// Reads a header; the elements begin where it ends.
    pub(super) fn read(file: &mut impl Read) -> Result<Header, String> {
        let mut take = |length: usize| {
            let mut bytes = vec![0; length];
            file.read_exact(&mut bytes).map(|()| bytes).map_err(|e| match e.kind() {
                std::io::ErrorKind::UnexpectedEof => "the file is truncated".to_string(),
                _ => e.to_string(),
            })
        };
        if take(MAGIC.len())? != MAGIC {
            return Err("it does not begin like an array of NumPy".into());
        }
        let version = take(2)?;
        // Version 1 has 16 bits for the length.
        let length = match version[0] {
            1 => take(2)?,
            2 | 3 => take(4)?,
            other => return Err(format!("version {other} of the format is not known")),
        };
        let length = length.iter().rev().fold(0usize, |n, &byte| n << 8 | usize::from(byte));
        if length > MAX_HEADER {
            return Err(format!("a header of {length} bytes is too long"));
        }
        let text = take(length)?;
        Header::parse(&String::from_utf8_lossy(&text)).ok_or_else(|| "the header cannot be understood".into())
    }

    fn parse(text: &str) -> Option<Header> {
        let descr = field(text, "descr")?;
        let unquoted = |quote| descr.strip_prefix(quote)?.strip_suffix(quote);
        let descr = unquoted('\'').or(unquoted('"')).unwrap_or(descr);
        let fortran = match field(text, "fortran_order")? {
            "True" => true,
            "False" => false,
            _ => return None,
        };
        let extents = field(text, "shape")?.strip_prefix('(')?.strip_suffix(')')?.split(',').map(str::trim);
        // Python 2 marked long integers.
        let extent = |e: &str| e.strip_suffix('L').unwrap_or(e).parse().ok();
        let dims = extents.filter(|e| !e.is_empty()).map(extent).collect::<Option<_>>()?;
        Some(Header { descr: descr.to_string(), fortran, dims })
    }

    /// Everything before the elements. They begin at a multiple of 64 bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        let fortran = if self.fortran { "True" } else { "False" };
        let mut dims = self.dims.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
        if self.dims.len() == 1 {
            dims.push(',');
        }
        let text = format!("{{'descr': '{}', 'fortran_order': {fortran}, 'shape': ({dims}), }}", self.descr);
        // Two bytes of version, two or four of length, and a line feed at the end.
        let wide = text.len() + 64 > usize::from(u16::MAX);
        let before = MAGIC.len() + if wide { 6 } else { 4 };
        let length = (before + text.len() + 1).next_multiple_of(64) - before;
        let size = (length as u32).to_le_bytes();
        let mut bytes = MAGIC.to_vec();
        bytes.extend([1 + u8::from(wide), 0]);
        bytes.extend(&size[..if wide { 4 } else { 2 }]);
        bytes.extend(text.bytes());
        bytes.resize(before + length - 1, b' ');
        bytes.push(b'\n');
        bytes
    }
}

/// The value of a key of a dictionary, as it is written.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let found = [format!("'{key}'"), format!("\"{key}\"")].into_iter().find_map(|k| Some(text.split_once(&k)?.1));
    let value = found?.trim_start().strip_prefix(':')?.trim_start();
    let mut depth = 0usize;
    let end = value.find(|c| match c {
        '(' | '[' | '{' => {
            depth += 1;
            false
        }
        ')' | ']' | '}' if depth > 0 => {
            depth -= 1;
            false
        }
        ',' | '}' => depth == 0,
        _ => false,
    });
    Some(value[..end?].trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(descr: &str, dims: &[usize]) -> Header {
        Header { descr: descr.into(), fortran: false, dims: dims.to_vec() }
    }

    #[test]
    fn headers_survive_the_round_trip() {
        for header in [header("<f4", &[]), header("|u1", &[7]), header("<i8", &[2, 3]), header("<f4", &[1; 30_000])] {
            let bytes = header.encode();
            assert_eq!(bytes.len() % 64, 0);
            assert_eq!(Header::read(&mut bytes.as_slice()), Ok(header));
        }
    }

    #[test]
    fn spellings_of_python_are_understood() {
        let read = |text: &str| Header::parse(text);
        assert_eq!(read("{'shape': (3L, 4L), 'descr':'<f4', 'fortran_order':False}"), Some(header("<f4", &[3, 4])));
        assert_eq!(read("{\"descr\": \"<f4\", \"fortran_order\": False, \"shape\": ()}"), Some(header("<f4", &[])));
        let fields = "{'descr': [('a', '<f4'), ('b', '<i4')], 'fortran_order': False, 'shape': (2,), }";
        assert_eq!(read(fields).unwrap().descr, "[('a', '<f4'), ('b', '<i4')]");
        for text in ["", "{", "{'descr'", "{'descr': '<f4'}", "{'descr': '<f4', 'fortran_order': 0, 'shape': (1,)}"] {
            assert_eq!(read(text), None, "{text}");
        }
        assert_eq!(read("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}"), None);
    }

    #[test]
    fn other_files_are_refused() {
        assert!(Header::read(&mut &b"PK\x03\x04 not an array"[..]).unwrap_err().contains("NumPy"));
        assert_eq!(Header::read(&mut &b"\x93NUMPY\x01"[..]).unwrap_err(), "the file is truncated");
        assert!(Header::read(&mut &b"\x93NUMPY\x09\0\0\0"[..]).unwrap_err().contains("version 9"));
        assert!(Header::read(&mut &b"\x93NUMPY\x02\0\xff\xff\xff\xff"[..]).unwrap_err().contains("too long"));
    }
}
