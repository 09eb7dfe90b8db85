//! Constant tensors, and the values that the interpreter computes with.

use crate::types::{Elem, Int, Type};

/// A dense tensor in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Extent of each dimension.
    pub dims: Vec<usize>,
    /// The elements, as many as the product of `dims`.
    pub data: Data,
}

/// Elements of a [`Tensor`]. 4-bit integers are held as 8-bit ones, truth values as `U8`.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    /// Single precision.
    F32(Vec<f32>),
    /// Signed bytes.
    I8(Vec<i8>),
    /// Unsigned bytes.
    U8(Vec<u8>),
    /// 16 bits, signed.
    I16(Vec<i16>),
    /// 32 bits, signed.
    I32(Vec<i32>),
    /// 64 bits, signed.
    I64(Vec<i64>),
}

/// Applies one expression to whichever vector a [`Data`] holds.
#[macro_export]
macro_rules! for_data {
    ($data:expr, $v:ident => $body:expr) => {
        match $data {
            $crate::Data::F32($v) => $body,
            $crate::Data::I8($v) => $body,
            $crate::Data::U8($v) => $body,
            $crate::Data::I16($v) => $body,
            $crate::Data::I32($v) => $body,
            $crate::Data::I64($v) => $body,
        }
    };
}

/// Applies one expression that keeps the element type: the result is again a [`Data`] of the same kind.
#[macro_export]
macro_rules! map_data {
    ($data:expr, $v:ident => $body:expr) => {
        match $data {
            $crate::Data::F32($v) => $crate::Data::F32($body),
            $crate::Data::I8($v) => $crate::Data::I8($body),
            $crate::Data::U8($v) => $crate::Data::U8($body),
            $crate::Data::I16($v) => $crate::Data::I16($body),
            $crate::Data::I32($v) => $crate::Data::I32($body),
            $crate::Data::I64($v) => $crate::Data::I64($body),
        }
    };
}

impl Data {
    /// Number of elements.
    pub fn len(&self) -> usize {
        for_data!(self, v => v.len())
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Name of the stored element type, as in text.
    pub fn kind(&self) -> &'static str {
        match self {
            Data::F32(_) => "f32",
            Data::I8(_) => "i8",
            Data::U8(_) => "u8",
            Data::I16(_) => "i16",
            Data::I32(_) => "i32",
            Data::I64(_) => "i64",
        }
    }

    /// The elements in little-endian order.
    pub fn to_bytes(&self) -> Vec<u8> {
        for_data!(self, v => v.iter().flat_map(|x| x.to_le_bytes()).collect())
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> u64 {
        for_data!(self, v => size_of_val(v.as_slice()) as u64)
    }

    /// Elements of type `elem` from little-endian bytes; `None` if the last one is not whole.
    pub fn from_bytes(elem: &Elem, bytes: &[u8]) -> Option<Data> {
        macro_rules! whole {
            ($int:ty) => {{
                let (elements, rest) = bytes.as_chunks::<{ size_of::<$int>() }>();
                rest.is_empty().then(|| elements.iter().map(|b| <$int>::from_le_bytes(*b)).collect())
            }};
        }
        Some(match elem {
            Elem::F32 | Elem::Calibrated(_) => Data::F32(whole!(f32)?),
            Elem::Bool => Data::U8(whole!(u8)?),
            Elem::Int(_) | Elem::Uniform(_) => match elem.storage()? {
                Int::I4 | Int::I8 => Data::I8(whole!(i8)?),
                Int::U4 | Int::U8 => Data::U8(whole!(u8)?),
                Int::I16 => Data::I16(whole!(i16)?),
                Int::I32 => Data::I32(whole!(i32)?),
                Int::I64 => Data::I64(whole!(i64)?),
            },
        })
    }

    /// Integers in this storage, which holds them: of others the low bits are kept.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the caller vouches for the range")]
    pub fn integers(storage: Int, integers: impl IntoIterator<Item = i64>) -> Data {
        let integers = integers.into_iter();
        match storage {
            Int::I4 | Int::I8 => Data::I8(integers.map(|q| q as i8).collect()),
            Int::U4 | Int::U8 => Data::U8(integers.map(|q| q as u8).collect()),
            Int::I16 => Data::I16(integers.map(|q| q as i16).collect()),
            Int::I32 => Data::I32(integers.map(|q| q as i32).collect()),
            Int::I64 => Data::I64(integers.collect()),
        }
    }

    /// Appends the elements, if they are of the same variant; says whether they are.
    pub fn append(&mut self, more: Data) -> bool {
        match (self, more) {
            (Data::F32(a), Data::F32(b)) => a.extend(b),
            (Data::I8(a), Data::I8(b)) => a.extend(b),
            (Data::U8(a), Data::U8(b)) => a.extend(b),
            (Data::I16(a), Data::I16(b)) => a.extend(b),
            (Data::I32(a), Data::I32(b)) => a.extend(b),
            (Data::I64(a), Data::I64(b)) => a.extend(b),
            _ => return false,
        }
        true
    }

    /// True if elements of type `elem` are held in this variant.
    pub fn holds(&self, elem: &Elem) -> bool {
        match (self, elem) {
            (Data::F32(_), Elem::F32 | Elem::Calibrated(_)) | (Data::U8(_), Elem::Bool) => true,
            (data, elem) => match elem.storage() {
                Some(Int::I4 | Int::I8) => matches!(data, Data::I8(_)),
                Some(Int::U4 | Int::U8) => matches!(data, Data::U8(_)),
                Some(Int::I16) => matches!(data, Data::I16(_)),
                Some(Int::I32) => matches!(data, Data::I32(_)),
                Some(Int::I64) => matches!(data, Data::I64(_)),
                None => false,
            },
        }
    }
}

impl Tensor {
    /// A float tensor. Panics if `data` does not fit `dims`: a bug of the caller, never of a model.
    pub fn f32(dims: &[usize], data: Vec<f32>) -> Tensor {
        Tensor::new(dims, Data::F32(data))
    }

    /// A tensor of any kind. Panics if `data` does not fit `dims`: a bug of the caller, never of a model.
    pub fn new(dims: &[usize], data: Data) -> Tensor {
        assert_eq!(dims.iter().product::<usize>(), data.len(), "elements do not fit the shape {dims:?}");
        Tensor { dims: dims.to_vec(), data }
    }

    /// The plain type of the tensor, without any quantization.
    pub fn plain_type(&self) -> Type {
        let elem = match &self.data {
            Data::F32(_) => Elem::F32,
            Data::I8(_) => Elem::Int(Int::I8),
            Data::U8(_) => Elem::Int(Int::U8),
            Data::I16(_) => Elem::Int(Int::I16),
            Data::I32(_) => Elem::Int(Int::I32),
            Data::I64(_) => Elem::Int(Int::I64),
        };
        Type { dims: self.dims.clone(), elem }
    }

    /// The floats, if these are floats.
    pub fn as_f32(&self) -> Option<&[f32]> {
        if let Data::F32(v) = &self.data { Some(v) } else { None }
    }

    /// The unsigned bytes, if these are such.
    pub fn as_u8(&self) -> Option<&[u8]> {
        if let Data::U8(v) = &self.data { Some(v) } else { None }
    }

    /// The signed bytes, if these are such.
    pub fn as_i8(&self) -> Option<&[i8]> {
        if let Data::I8(v) = &self.data { Some(v) } else { None }
    }

    /// The 16-bit integers, if these are such.
    pub fn as_i16(&self) -> Option<&[i16]> {
        if let Data::I16(v) = &self.data { Some(v) } else { None }
    }

    /// The 32-bit integers, if these are such.
    pub fn as_i32(&self) -> Option<&[i32]> {
        if let Data::I32(v) = &self.data { Some(v) } else { None }
    }

    /// The 64-bit integers, if these are such.
    pub fn as_i64(&self) -> Option<&[i64]> {
        if let Data::I64(v) = &self.data { Some(v) } else { None }
    }
}
