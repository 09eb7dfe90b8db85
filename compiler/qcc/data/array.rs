//! NumPy arrays: `.npy` files and `.npz` archives, read a row at a time.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Mutex;

use half::f16;
use qcc_ir::{Data, Elem, Int, Tensor};

use super::npy::Header;
use crate::Error;

/// A stored array whose rows, the slices along its first axis, are read one at a time.
pub struct Array {
    dims: Vec<usize>,
    number: Number,
    big_endian: bool,
    /// Where the elements begin in the file.
    offset: u64,
    file: Mutex<File>,
}

/// Stored element types.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Number {
    F16,
    F32,
    F64,
    Signed(u8),
    Unsigned(u8),
}

impl Number {
    fn size(self) -> usize {
        match self {
            Number::F16 => 2,
            Number::F32 => 4,
            Number::F64 => 8,
            Number::Signed(n) | Number::Unsigned(n) => n.into(),
        }
    }

    fn is_real(self) -> bool {
        matches!(self, Number::F16 | Number::F32 | Number::F64)
    }

    /// As numpy spells it.
    fn name(self) -> String {
        match self {
            Number::F16 | Number::F32 | Number::F64 => format!("float{}", 8 * self.size()),
            Number::Signed(n) => format!("int{}", 8 * u32::from(n)),
            Number::Unsigned(n) => format!("uint{}", 8 * u32::from(n)),
        }
    }

    /// The type that NumPy spells so, and whether its bytes stand in big-endian order.
    fn of(descr: &str) -> Result<(Number, bool), String> {
        let refuse = || format!("elements of type {descr} are not supported: store it as float32");
        let (order, kind) = descr.split_at_checked(1).ok_or_else(refuse)?;
        let (kind, size) = kind.split_at_checked(1).ok_or_else(refuse)?;
        let number = match (order, kind, size.parse().map_err(|_| refuse())?) {
            ("<" | ">", "f", 2) => Number::F16,
            ("<" | ">", "f", 4) => Number::F32,
            ("<" | ">", "f", 8) => Number::F64,
            ("<" | ">" | "|", "i", size @ (1 | 2 | 4 | 8)) => Number::Signed(size),
            ("<" | ">" | "|", "u" | "b", size @ (1 | 2 | 4 | 8)) => Number::Unsigned(size),
            _ => return Err(refuse()),
        };
        Ok((number, order == ">"))
    }
}

/// A file that has an end, and where that is.
fn regular(path: &Path) -> std::io::Result<(File, u64)> {
    // A pipe would be waited for when it is opened.
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(std::io::Error::other("it is no regular file"));
    }
    Ok((File::open(path)?, metadata.len()))
}

/// Most bytes that the arrays of an archive of `length` bytes take: samples are not packed by more than a factor of 64, unless they are few.
fn unpacked(length: u64) -> u64 {
    length.saturating_mul(64).max(1 << 30)
}

/// Bytes of the elements that a header announces.
fn bytes_of(header: &Header) -> Result<u64, String> {
    let size = Number::of(&header.descr)?.0.size() as u64;
    let bytes = header.dims.iter().try_fold(size, |n, &d| n.checked_mul(d as u64));
    bytes.filter(|&n| n <= isize::MAX as u64).ok_or_else(|| "the shape is too large".to_string())
}

/// Reads an entry of an archive, which compares its checksum, and copies it. What its header does not need is a fault. Returns how many bytes
/// there are, unless there are more than `most`.
fn unpack(entry: &mut impl Read, copy: Option<&mut File>, most: u64) -> Result<Option<u64>, String> {
    let fail = |e: std::io::Error| e.to_string();
    let header = Header::read(entry)?;
    let (start, elements) = (header.encode(), bytes_of(&header)?);
    let Some(all) = elements.checked_add(start.len() as u64).filter(|&all| all <= most) else { return Ok(None) };
    let mut sink = std::io::sink();
    let to: &mut dyn std::io::Write = match copy {
        Some(file) => file,
        None => &mut sink,
    };
    to.write_all(&start).map_err(fail)?;
    // One more: an entry of zeros may go on for gigabytes.
    let read = std::io::copy(&mut entry.take(elements.saturating_add(1)), to).map_err(fail)?;
    match read.cmp(&elements) {
        std::cmp::Ordering::Less => {
            Err(format!("the file is truncated: shape {:?} needs {elements} bytes", header.dims))
        }
        std::cmp::Ordering::Equal => Ok(Some(all)),
        std::cmp::Ordering::Greater => {
            Err(format!("there is more than the {elements} bytes of shape {:?}", header.dims))
        }
    }
}

impl Array {
    /// Opens a `.npy` file.
    pub fn open(path: &Path) -> Result<Array, Error> {
        let (file, length) = regular(path).map_err(|e| Error::file(path, "read the array", e))?;
        Array::at(file, length).map_err(|e| Error::file(path, "read the array", e))
    }

    /// Opens all arrays of a `.npz` archive, by name. Those that are compressed are unpacked to a file without a name, as far as their
    /// headers say that they go, and all together within `unpacked` bytes.
    pub fn open_archive(path: &Path) -> Result<Vec<(String, Array)>, Error> {
        let fail = |e: &dyn std::fmt::Display| Error::file(path, "read the archive", e);
        let (file, length) = regular(path).map_err(|e| fail(&e))?;
        let mut archive = zip::ZipArchive::new(std::io::BufReader::new(file)).map_err(|e| fail(&e))?;
        let (most, mut left) = (unpacked(length), unpacked(length));
        let mut arrays = Vec::new();
        for i in 0..archive.len() {
            let mut entry = archive.by_index(i).map_err(|e| fail(&e))?;
            let name = entry.name().map_err(|e| fail(&e))?.into_owned();
            let Some(name) = name.strip_suffix(".npy") else { continue };
            let fail = |e: &dyn std::fmt::Display| fail(&format!("`{name}`: {e}"));
            let stored = entry.data_start().filter(|_| entry.compression() == zip::CompressionMethod::Stored);
            let mut copy = match stored {
                Some(_) => None,
                None => Some(tempfile::tempfile().map_err(|e| fail(&e))?),
            };
            let size = unpack(&mut entry, copy.as_mut(), left).map_err(|e| fail(&e))?;
            let Some(size) = size else {
                let what = format!("all arrays take more than {} MB when they are unpacked", most >> 20);
                return Err(fail(&what).help("keep them in .npy files of their own"));
            };
            left -= size;
            let (mut file, end) = match copy {
                Some(file) => (file, size),
                None => (File::open(path).map_err(|e| fail(&e))?, length),
            };
            file.seek(SeekFrom::Start(stored.unwrap_or(0))).map_err(|e| fail(&e))?;
            let array = Array::at(file, end).map_err(|e| fail(&e))?;
            arrays.push((name.to_string(), array));
        }
        Ok(arrays)
    }

    /// The array that begins where the file stands and ends before `end`.
    fn at(mut file: File, end: u64) -> Result<Array, String> {
        let header = Header::read(&mut file)?;
        let (number, big_endian) = Number::of(&header.descr)?;
        let bytes = bytes_of(&header)?;
        let Header { fortran, dims, .. } = header;
        if fortran && dims.iter().filter(|&&d| d > 1).count() > 1 {
            return Err("the array is in Fortran order: store it with numpy.ascontiguousarray".into());
        }
        let offset = file.stream_position().map_err(|e| e.to_string())?;
        match offset.checked_add(bytes) {
            Some(needed) if needed <= end => Ok(Array { dims, number, big_endian, offset, file: Mutex::new(file) }),
            _ => Err(format!("the file is truncated: shape {dims:?} needs {bytes} bytes")),
        }
    }

    /// Extents.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// Elements `first..first + count` as elements of type `elem`. Real numbers may lose digits; an integer stays what it is, or the
    /// array is refused: one of real numbers where integers are wanted, and one with an integer that the type does not hold.
    pub fn elements(&self, first: usize, count: usize, elem: &Elem) -> std::io::Result<Data> {
        let size = self.number.size();
        let (start, length) = (self.offset + (first * size) as u64, count * size);
        let mut raw = vec![0; length];
        {
            let mut file = self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            file.seek(SeekFrom::Start(start))?;
            file.read_exact(&mut raw)?;
        }
        if self.big_endian {
            raw.chunks_exact_mut(size).for_each(<[u8]>::reverse);
        }
        if self.number == Number::F32 && matches!(elem, Elem::F32 | Elem::Calibrated(_)) {
            return Ok(Data::from_bytes(elem, &raw).unwrap_or(Data::F32(Vec::new())));
        }
        let numbers = || raw.chunks_exact(size).map(|b| self.number.value(b));
        if let Some((name, least, greatest)) = integers_of(elem) {
            if self.number.is_real() {
                let what = format!("real numbers ({}) where {name} is wanted", self.number.name());
                return Err(std::io::Error::other(what));
            }
            if let Some(x) = numbers().find(|x| !(least..=greatest).contains(x)) {
                return Err(std::io::Error::other(format!("{x} is no {name}: those are {least} to {greatest}")));
            }
        }
        Ok(elements_of(numbers(), elem))
    }

    /// Elements as codes without a sign, where `elem` says so and the array has codes with one, which are less by 128.
    pub fn codes(&self, first: usize, count: usize, elem: &Elem) -> std::io::Result<Data> {
        match (self.number, elem.storage()) {
            (Number::Signed(1), Some(Int::U8)) => {
                let Data::I8(codes) = self.elements(first, count, &Elem::Int(Int::I8))? else {
                    return Ok(Data::U8(Vec::new()));
                };
                Ok(Data::U8(codes.into_iter().map(|x| x.cast_unsigned() ^ 0x80).collect()))
            }
            _ => self.elements(first, count, elem),
        }
    }

    /// Whether the elements are 8-bit integers with a sign.
    pub fn is_i8(&self) -> bool {
        self.number == Number::Signed(1)
    }

    /// Name of the type of the elements, as numpy has it.
    pub fn type_name(&self) -> String {
        self.number.name()
    }

    /// Whether the elements are integers, or truth values.
    pub fn is_integer(&self) -> bool {
        !self.number.is_real()
    }

    /// The whole array, as it is stored.
    pub fn tensor(&self) -> std::io::Result<Tensor> {
        let elem = match self.number {
            Number::F16 | Number::F32 | Number::F64 => Elem::F32,
            Number::Signed(1) => Elem::Int(Int::I8),
            Number::Unsigned(1) => Elem::Int(Int::U8),
            Number::Signed(2) => Elem::Int(Int::I16),
            Number::Unsigned(2) | Number::Signed(4) => Elem::Int(Int::I32),
            Number::Unsigned(_) | Number::Signed(_) => Elem::Int(Int::I64),
        };
        self.tensor_as(&elem)
    }

    /// The whole array as elements of type `elem`, under the rule of [`Array::elements`].
    pub fn tensor_as(&self, elem: &Elem) -> std::io::Result<Tensor> {
        let data = self.elements(0, self.dims.iter().product(), elem)?;
        Ok(Tensor { dims: self.dims.clone(), data })
    }
}

impl Number {
    /// One little-endian element. 64-bit integers beyond 2^53 lose their last bits, which no input of a network has.
    fn value(self, bytes: &[u8]) -> f64 {
        let mut wide = [0; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        let unsigned = u64::from_le_bytes(wide);
        match self {
            Number::F16 => f16::from_le_bytes([wide[0], wide[1]]).into(),
            Number::F32 => f32::from_bits(unsigned as u32).into(),
            Number::F64 => f64::from_bits(unsigned),
            Number::Unsigned(_) => unsigned as f64,
            Number::Signed(size) => {
                let unused = 64 - 8 * u32::from(size);
                ((unsigned << unused) as i64 >> unused) as f64
            }
        }
    }
}

/// The name of a type of integers, and the least and the greatest of them; `None` for types of real numbers.
fn integers_of(elem: &Elem) -> Option<(String, f64, f64)> {
    match elem.storage() {
        Some(i) => {
            let (least, greatest) = match elem {
                Elem::Uniform(u) => (u.min(), u.max()),
                _ => (i.min(), i.max()),
            };
            Some((i.name().to_string(), least as f64, greatest as f64))
        }
        None => (*elem == Elem::Bool).then(|| ("bool".to_string(), 0.0, 1.0)),
    }
}

/// Numbers as elements of a type; integers are rounded and saturated.
pub(crate) fn elements_of(numbers: impl Iterator<Item = f64>, elem: &Elem) -> Data {
    // Conversions with `as` from f64 saturate; 4-bit integers have bounds of their own.
    let int = |i: Int| move |x: f64| x.round_ties_even().clamp(i.min() as f64, i.max() as f64);
    match elem.storage() {
        None if *elem == Elem::Bool => Data::U8(numbers.map(|x| u8::from(x != 0.0)).collect()),
        None => Data::F32(numbers.map(|x| x as f32).collect()),
        Some(i @ (Int::I4 | Int::I8)) => Data::I8(numbers.map(int(i)).map(|x| x as i8).collect()),
        Some(i @ (Int::U4 | Int::U8)) => Data::U8(numbers.map(int(i)).map(|x| x as u8).collect()),
        Some(i @ Int::I16) => Data::I16(numbers.map(int(i)).map(|x| x as i16).collect()),
        Some(i @ Int::I32) => Data::I32(numbers.map(int(i)).map(|x| x as i32).collect()),
        Some(Int::I64) => Data::I64(numbers.map(|x| x.round_ties_even() as i64).collect()),
    }
}

/// The contents of a `.npy` file.
pub fn to_npy(tensor: &Tensor) -> Vec<u8> {
    let descr = match &tensor.data {
        Data::F32(_) => "<f4",
        Data::I8(_) => "|i1",
        Data::U8(_) => "|u1",
        Data::I16(_) => "<i2",
        Data::I32(_) => "<i4",
        Data::I64(_) => "<i8",
    };
    let mut out = Header { descr: descr.into(), fortran: false, dims: tensor.dims.clone() }.encode();
    qcc_ir::for_data!(&tensor.data, v => v.iter().for_each(|x| out.extend(x.to_le_bytes())));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(bytes: &[u8]) -> Result<Array, String> {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, bytes).unwrap();
        file.rewind().unwrap();
        Array::at(file, bytes.len() as u64)
    }

    #[test]
    fn arrays_survive_the_round_trip() {
        for data in [Data::F32(vec![-1.5, 2.0]), Data::I8(vec![-128, 127]), Data::I64(vec![-3, 1 << 40])] {
            let tensor = Tensor { dims: vec![2, 1], data };
            let bytes = to_npy(&tensor);
            assert_eq!(array(&bytes).unwrap().tensor().unwrap(), tensor);
            assert!(array(&bytes[..bytes.len() - 1]).is_err());
        }
    }

    #[test]
    fn halves_are_numbers_too() {
        let mut bytes = to_npy(&Tensor { dims: vec![2], data: Data::I16(vec![0x3c00, 0x3555]) });
        let at = bytes.windows(3).position(|w| w == b"<i2").unwrap();
        bytes[at + 1] = b'f';
        assert_eq!(array(&bytes).unwrap().tensor().unwrap().data, Data::F32(vec![1.0, 0.333_251_95]));
    }

    #[test]
    fn integers_stay_what_they_are() {
        let of = |data: Data| array(&to_npy(&Tensor { dims: vec![data.len()], data })).unwrap();
        let read =
            |data: Data, int: Int| of(data).tensor_as(&Elem::Int(int)).map(|t| t.data).map_err(|e| e.to_string());
        assert_eq!(read(Data::I64(vec![0, 255]), Int::U8), Ok(Data::U8(vec![0, 255])));
        assert_eq!(read(Data::I64(vec![3, 256]), Int::U8), Err("256 is no u8: those are 0 to 255".to_string()));
        assert_eq!(read(Data::I8(vec![-1]), Int::U8), Err("-1 is no u8: those are 0 to 255".to_string()));
        assert!(read(Data::F32(vec![1.0]), Int::I64).is_err_and(|e| e.contains("float32")));
    }

    #[test]
    fn numbers_round_and_saturate() {
        let numbers = || [-200.0, -0.5, 1.5, 300.0, f64::NAN].into_iter();
        assert_eq!(elements_of(numbers(), &Elem::Int(Int::I8)), Data::I8(vec![-128, 0, 2, 127, 0]));
        assert_eq!(elements_of(numbers(), &Elem::Int(Int::U4)), Data::U8(vec![0, 0, 2, 15, 0]));
    }
}
