//! NumPy arrays: `.npy` files, read a row at a time, and `.npz` archives.

use std::fs::File;
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Mutex;

use npyz::{DType, NpyFile, Order, TypeChar, WriterBuilder};
use qcc_ir::{Data, Elem, Int, Tensor};

use crate::Error;

/// A stored array whose rows, the slices along its first axis, are read one at a time.
pub struct Array {
    dims: Vec<usize>,
    number: Number,
    big_endian: bool,
    offset: u64,
    bytes: Bytes,
}

/// Where the elements are.
enum Bytes {
    File(Mutex<File>),
    Memory(Vec<u8>),
}

/// Stored element types.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Number {
    F32,
    F64,
    Signed(u8),
    Unsigned(u8),
}

impl Number {
    fn size(self) -> usize {
        match self {
            Number::F32 => 4,
            Number::F64 => 8,
            Number::Signed(n) | Number::Unsigned(n) => n.into(),
        }
    }

    fn of(dtype: &DType) -> Result<(Number, bool), String> {
        let refuse = || format!("elements of type {} are not supported", dtype.descr());
        let DType::Plain(ty) = dtype else { return Err(refuse()) };
        let size = u8::try_from(ty.size_field()).map_err(|_| refuse())?;
        let number = match (ty.type_char(), size) {
            (TypeChar::Float, 4) => Number::F32,
            (TypeChar::Float, 8) => Number::F64,
            (TypeChar::Int, 1 | 2 | 4 | 8) => Number::Signed(size),
            (TypeChar::Uint | TypeChar::Bool, 1 | 2 | 4 | 8) => Number::Unsigned(size),
            _ => return Err(refuse()),
        };
        Ok((number, matches!(ty.endianness(), npyz::Endianness::Big)))
    }
}

impl Array {
    /// Opens a `.npy` file.
    pub fn open(path: &Path) -> Result<Array, Error> {
        let fail = |e: &dyn std::fmt::Display| Error::file(path, "read the array", e);
        let mut file = File::open(path).map_err(|e| fail(&e))?;
        let length = file.metadata().map_err(|e| fail(&e))?.len();
        let (mut array, offset) = Array::header(&mut file).map_err(|e| fail(&e))?;
        array.check_length(offset, length).map_err(|e| fail(&e))?;
        array.bytes = Bytes::File(Mutex::new(file));
        Ok(array)
    }

    /// Reads all arrays of a `.npz` archive, by name.
    pub fn open_archive(path: &Path) -> Result<Vec<(String, Array)>, Error> {
        let fail = |e: &dyn std::fmt::Display| Error::file(path, "read the archive", e);
        let file = File::open(path).map_err(|e| fail(&e))?;
        let mut archive = zip::ZipArchive::new(std::io::BufReader::new(file)).map_err(|e| fail(&e))?;
        let mut arrays = Vec::new();
        for i in 0..archive.len() {
            let mut entry = archive.by_index(i).map_err(|e| fail(&e))?;
            let name = entry.name().map_err(|e| fail(&e))?.into_owned();
            let Some(name) = name.strip_suffix(".npy") else { continue };
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).map_err(|e| fail(&e))?;
            let array = Array::from_bytes(bytes).map_err(|e| fail(&format!("`{name}`: {e}")))?;
            arrays.push((name.to_string(), array));
        }
        Ok(arrays)
    }

    /// An array from the contents of a `.npy` file.
    fn from_bytes(bytes: Vec<u8>) -> Result<Array, String> {
        let (mut array, offset) = Array::header(&mut Cursor::new(&bytes))?;
        array.check_length(offset, bytes.len() as u64)?;
        array.bytes = Bytes::Memory(bytes);
        Ok(array)
    }

    fn header(reader: &mut (impl Read + Seek)) -> Result<(Array, u64), String> {
        let npy = NpyFile::new(&mut *reader).map_err(|e| e.to_string())?;
        let (number, big_endian) = Number::of(&npy.dtype())?;
        let dims: Option<Vec<usize>> = npy.shape().iter().map(|&d| usize::try_from(d).ok()).collect();
        let dims = dims.ok_or("the shape is too large")?;
        if npy.order() == Order::Fortran && dims.iter().filter(|&&d| d > 1).count() > 1 {
            return Err("the array is in Fortran order: store it with numpy.ascontiguousarray".into());
        }
        drop(npy);
        let offset = reader.stream_position().map_err(|e| e.to_string())?;
        Ok((Array { dims, number, big_endian, offset, bytes: Bytes::Memory(Vec::new()) }, offset))
    }

    fn check_length(&self, offset: u64, found: u64) -> Result<(), String> {
        let elements = self.dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let bytes = elements.and_then(|n| n.checked_mul(self.number.size())).ok_or("the shape is too large")?;
        match offset.checked_add(bytes as u64) {
            Some(needed) if needed <= found => Ok(()),
            _ => Err(format!("the file is truncated: shape {:?} needs {bytes} bytes", self.dims)),
        }
    }

    /// Extents.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// Elements `first..first + count` as elements of type `elem`; numbers are rounded and saturated where they must be.
    pub fn elements(&self, first: usize, count: usize, elem: &Elem) -> std::io::Result<Data> {
        let size = self.number.size();
        let (start, length) = (self.offset + (first * size) as u64, count * size);
        let mut raw = vec![0; length];
        match &self.bytes {
            Bytes::Memory(all) => {
                let from = usize::try_from(start).unwrap_or(usize::MAX);
                let part = all.get(from..from.saturating_add(length)).ok_or(std::io::ErrorKind::UnexpectedEof)?;
                raw.copy_from_slice(part);
            }
            Bytes::File(file) => {
                let mut file = file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                file.seek(SeekFrom::Start(start))?;
                file.read_exact(&mut raw)?;
            }
        }
        if self.big_endian {
            raw.chunks_exact_mut(size).for_each(<[u8]>::reverse);
        }
        if self.number == Number::F32 && matches!(elem, Elem::F32 | Elem::Calibrated(_)) {
            return Ok(Data::from_bytes(elem, &raw).unwrap_or(Data::F32(Vec::new())));
        }
        let numbers = raw.chunks_exact(size).map(|b| self.number.value(b));
        Ok(elements_of(numbers, elem))
    }

    /// The whole array, as it is stored.
    pub fn tensor(&self) -> std::io::Result<Tensor> {
        let elem = match self.number {
            Number::F32 | Number::F64 => Elem::F32,
            Number::Signed(1) => Elem::Int(Int::I8),
            Number::Unsigned(1) => Elem::Int(Int::U8),
            Number::Signed(2) => Elem::Int(Int::I16),
            Number::Unsigned(2) | Number::Signed(4) => Elem::Int(Int::I32),
            Number::Unsigned(_) | Number::Signed(_) => Elem::Int(Int::I64),
        };
        self.tensor_as(&elem)
    }

    /// The whole array as elements of type `elem`.
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
pub fn to_npy(tensor: &Tensor) -> Result<Vec<u8>, Error> {
    let shape: Vec<u64> = tensor.dims.iter().map(|&d| d as u64).collect();
    let mut out = Vec::new();
    let result = qcc_ir::for_data!(&tensor.data, v => {
        let options = npyz::WriteOptions::new().default_dtype().shape(&shape);
        options.writer(&mut out).begin_nd().and_then(|mut w| {
            w.extend(v.iter().copied())?;
            w.finish()
        })
    });
    result.map_err(|e| Error::new(qcc_ir::diag::Code::FILE, format!("cannot encode an array: {e}")))?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_survive_the_round_trip() {
        for data in [Data::F32(vec![-1.5, 2.0]), Data::I8(vec![-128, 127]), Data::I64(vec![-3, 1 << 40])] {
            let tensor = Tensor { dims: vec![2, 1], data };
            let bytes = to_npy(&tensor).unwrap();
            assert_eq!(Array::from_bytes(bytes.clone()).unwrap().tensor().unwrap(), tensor);
            assert!(Array::from_bytes(bytes[..bytes.len() - 1].to_vec()).is_err());
        }
    }

    #[test]
    fn numbers_round_and_saturate() {
        let numbers = || [-200.0, -0.5, 1.5, 300.0, f64::NAN].into_iter();
        assert_eq!(elements_of(numbers(), &Elem::Int(Int::I8)), Data::I8(vec![-128, 0, 2, 127, 0]));
        assert_eq!(elements_of(numbers(), &Elem::Int(Int::U4)), Data::U8(vec![0, 0, 2, 15, 0]));
    }
}
