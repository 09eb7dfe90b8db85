//! Element types, so that one generic function serves every kind of [`Data`].

use qcc_ir::{Data, Elem, Int};

/// A type that [`Data`] holds.
pub(crate) trait Element: Copy + Send + Sync + 'static {
    /// The elements, if they are of this type.
    fn slice(data: &Data) -> Option<&[Self]>;
    /// The nearest value to a float, as `as` converts it.
    fn from_f32(x: f32) -> Self;
    /// As `as f32`: rounded to nearest.
    fn to_f32(self) -> f32;
    /// As `as i64`: floats truncate and saturate.
    fn to_i64(self) -> i64;
    /// As `as i32`: floats truncate and saturate, wide integers keep their low bits.
    fn to_i32(self) -> i32;
}

macro_rules! element {
    ($($ty:ty, $variant:ident;)*) => {
        $(impl Element for $ty {
            fn slice(data: &Data) -> Option<&[Self]> {
                if let Data::$variant(v) = data { Some(v) } else { None }
            }
            fn from_f32(x: f32) -> Self {
                x as $ty
            }
            fn to_f32(self) -> f32 {
                self as f32
            }
            fn to_i64(self) -> i64 {
                self as i64
            }
            fn to_i32(self) -> i32 {
                self as i32
            }
        })*
    };
}

element! {
    f32, F32;
    i8, I8;
    u8, U8;
    i16, I16;
    i32, I32;
    i64, I64;
}

/// The elements of an integer tensor in 64 bits; `None` for floats.
pub(crate) fn widen(data: &Data) -> Option<Vec<i64>> {
    match data {
        Data::F32(_) => None,
        Data::I8(v) => Some(v.iter().map(|&x| i64::from(x)).collect()),
        Data::U8(v) => Some(v.iter().map(|&x| i64::from(x)).collect()),
        Data::I16(v) => Some(v.iter().map(|&x| i64::from(x)).collect()),
        Data::I32(v) => Some(v.iter().map(|&x| i64::from(x)).collect()),
        Data::I64(v) => Some(v.clone()),
    }
}

/// 64-bit integers in the storage of `elem`; `None` if it stores floats. Values outside the storage keep their low bits.
pub(crate) fn narrow(values: Vec<i64>, elem: &Elem) -> Option<Data> {
    let storage = match elem {
        Elem::F32 | Elem::Calibrated(_) => return None,
        Elem::Bool => Int::U8,
        Elem::Int(i) => *i,
        Elem::Uniform(u) => u.storage(),
    };
    Some(Data::integers(storage, values))
}
