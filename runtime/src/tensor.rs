//! Dense row-major tensors at the boundary of a model: owned, and borrowed for a call.

use crate::arena::Arena;
use std::fmt;

/// Element types at the boundary of a model. The discriminants are the codes of the C ABI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum DType {
    /// IEEE single precision.
    F32 = 1,
    /// Unsigned 8 bits.
    U8 = 2,
    /// Signed 8 bits.
    I8 = 3,
    /// Signed 16 bits.
    I16 = 4,
    /// Signed 32 bits.
    I32 = 5,
    /// Signed 64 bits.
    I64 = 6,
}

impl DType {
    /// All types in the order of their codes.
    pub const ALL: [DType; 6] = [DType::F32, DType::U8, DType::I8, DType::I16, DType::I32, DType::I64];

    /// The type of a code of the C ABI.
    pub fn from_code(code: u32) -> Option<DType> {
        Self::ALL.into_iter().find(|&d| d as u32 == code)
    }

    /// Bytes of one element, which is also its alignment.
    pub fn size(self) -> usize {
        match self {
            DType::U8 | DType::I8 => 1,
            DType::I16 => 2,
            DType::F32 | DType::I32 => 4,
            DType::I64 => 8,
        }
    }

    /// Name as in `.qir`: `f32`, `u8`, ...
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::U8 => "u8",
            DType::I8 => "i8",
            DType::I16 => "i16",
            DType::I32 => "i32",
            DType::I64 => "i64",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

mod sealed {
    pub trait Sealed {}
}

/// Rust types that are elements of a tensor.
pub trait Element: sealed::Sealed + Copy + 'static {
    /// The element's type code.
    const DTYPE: DType;
}

macro_rules! elements {
    ($($rust:ty => $dtype:ident),*) => {$(
        impl sealed::Sealed for $rust {}
        impl Element for $rust {
            const DTYPE: DType = DType::$dtype;
        }
    )*};
}
elements!(f32 => F32, u8 => U8, i8 => I8, i16 => I16, i32 => I32, i64 => I64);

/// Number of elements of a shape; `None` on overflow.
pub(crate) fn elements(dims: &[usize]) -> Option<usize> {
    dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d))
}

/// The bytes of a slice of elements.
fn bytes_of<T: Element>(data: &[T]) -> &[u8] {
    // SAFETY: elements are plain numbers without padding, so all their bytes are initialized; `u8` has alignment 1.
    unsafe { std::slice::from_raw_parts(data.as_ptr().cast(), size_of_val(data)) }
}

/// The elements of bytes, or `None` if type, length or alignment do not fit.
fn elements_of<T: Element>(dtype: DType, bytes: &[u8]) -> Option<&[T]> {
    if dtype != T::DTYPE || !bytes.len().is_multiple_of(size_of::<T>()) || !bytes.as_ptr().cast::<T>().is_aligned() {
        return None;
    }
    // SAFETY: length and alignment were checked, and every bit pattern is a valid number.
    Some(unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size_of::<T>()) })
}

/// A borrowed tensor: the input of a call.
///
/// Whether the data has the length that `dims` ask for is checked by the call.
#[derive(Debug, Clone, Copy)]
pub struct TensorRef<'a> {
    dtype: DType,
    dims: &'a [usize],
    data: &'a [u8],
}

impl<'a> TensorRef<'a> {
    /// A view of typed elements.
    pub fn new<T: Element>(dims: &'a [usize], data: &'a [T]) -> Self {
        TensorRef { dtype: T::DTYPE, dims, data: bytes_of(data) }
    }

    /// A view of bytes in the machine's byte order.
    pub fn from_bytes(dtype: DType, dims: &'a [usize], data: &'a [u8]) -> Self {
        TensorRef { dtype, dims, data }
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Extents, outermost first.
    pub fn dims(&self) -> &'a [usize] {
        self.dims
    }

    /// Content as bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.data
    }

    /// Content as elements, or `None` if `T` is another type.
    pub fn as_slice<T: Element>(&self) -> Option<&'a [T]> {
        elements_of(self.dtype, self.data)
    }
}

/// An owned tensor, aligned to [`crate::arena::ALIGN`] bytes.
#[derive(Clone)]
pub struct Tensor {
    dtype: DType,
    dims: Vec<usize>,
    data: Arena,
}

impl Tensor {
    /// A tensor of zeros.
    ///
    /// Panics if its size exceeds the address space.
    pub fn zeros(dtype: DType, dims: &[usize]) -> Self {
        let bytes =
            elements(dims).and_then(|n| n.checked_mul(dtype.size())).expect("a tensor within the address space");
        Tensor { dtype, dims: dims.to_vec(), data: Arena::new(bytes) }
    }

    /// A copy of `data`; `None` if its length is not the product of `dims`.
    pub fn from_slice<T: Element>(dims: &[usize], data: &[T]) -> Option<Self> {
        if elements(dims) != Some(data.len()) {
            return None;
        }
        let mut tensor = Self::zeros(T::DTYPE, dims);
        tensor.bytes_mut().copy_from_slice(bytes_of(data));
        Some(tensor)
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Extents, outermost first.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// Content as bytes.
    pub fn bytes(&self) -> &[u8] {
        self.data.as_slice()
    }

    /// Content as bytes.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.data.as_mut_slice()
    }

    /// Content as elements, or `None` if `T` is another type.
    pub fn as_slice<T: Element>(&self) -> Option<&[T]> {
        elements_of(self.dtype, self.bytes())
    }

    /// A view for a call.
    pub fn view(&self) -> TensorRef<'_> {
        TensorRef { dtype: self.dtype, dims: &self.dims, data: self.bytes() }
    }
}

/// Equal type, shape and bytes.
impl PartialEq for Tensor {
    fn eq(&self, other: &Self) -> bool {
        self.dtype == other.dtype && self.dims == other.dims && self.bytes() == other.bytes()
    }
}

/// Type and shape, not the content.
impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({} {:?})", self.dtype, self.dims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_keep_type_and_content() {
        let t = Tensor::from_slice(&[2, 2], &[1i16, -2, 3, -4]).unwrap();
        assert_eq!(t.as_slice::<i16>(), Some(&[1i16, -2, 3, -4][..]));
        assert_eq!(t.as_slice::<u8>(), None);
        assert_eq!(t.view().as_slice::<i16>(), t.as_slice::<i16>());
        assert_eq!((t.bytes().len(), t.dims()), (8, &[2, 2][..]));
        assert!(Tensor::from_slice(&[3], &[1u8]).is_none());
        assert_eq!(Tensor::zeros(DType::I64, &[0, 4]).as_slice::<i64>(), Some(&[][..]));
    }

    #[test]
    fn misaligned_bytes_have_no_typed_view() {
        let store = [0i32; 3];
        let bytes = &bytes_of(&store)[1..9];
        assert!(TensorRef::from_bytes(DType::I32, &[2], bytes).as_slice::<i32>().is_none());
        assert!(TensorRef::from_bytes(DType::I8, &[8], bytes).as_slice::<i8>().is_some());
    }

    #[test]
    fn codes_round_trip() {
        assert!(DType::ALL.into_iter().all(|d| DType::from_code(d as u32) == Some(d)));
        assert_eq!(DType::from_code(0), None);
    }
}
