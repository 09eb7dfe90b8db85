//! Element types of ONNX, and what they become.
//!
//! | ONNX | here |
//! |---|---|
//! | f32, f64, f16, bf16 | f32 |
//! | bool | bool |
//! | i4, u4, i8, u8, i16, i32, i64 | the same |
//! | u16 | i32 |
//! | u32, u64 | i64, as far as the values fit |

use qcc_ir::{Elem, Int};

use crate::fault::{Fault, Outcome};

/// `TensorProto.DataType`, those that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DataType {
    F32,
    F64,
    F16,
    Bf16,
    Bool,
    I4,
    U4,
    I8,
    U8,
    I16,
    U16,
    I32,
    U32,
    I64,
    U64,
}

impl DataType {
    /// The type with this number in `TensorProto.DataType`.
    pub(crate) fn from_onnx(number: i32) -> Outcome<DataType> {
        Ok(match number {
            1 => DataType::F32,
            2 => DataType::U8,
            3 => DataType::I8,
            4 => DataType::U16,
            5 => DataType::I16,
            6 => DataType::I32,
            7 => DataType::I64,
            9 => DataType::Bool,
            10 => DataType::F16,
            11 => DataType::F64,
            12 => DataType::U32,
            13 => DataType::U64,
            16 => DataType::Bf16,
            21 => DataType::U4,
            22 => DataType::I4,
            0 => return Err(Fault::shape("the element type is not given")),
            8 => return Err(Fault::unsupported("element type string is not supported")),
            14 | 15 => return Err(Fault::unsupported("complex element types are not supported")),
            17..=20 | 23 | 24 => return Err(Fault::unsupported("element types f4 and f8 are not supported")),
            25 | 26 => return Err(Fault::unsupported("2-bit element types are not supported")),
            _ => return Err(Fault::unsupported(format!("element type number {number} is not known"))),
        })
    }

    /// What elements of this type become.
    pub(crate) fn elem(self) -> Elem {
        match self {
            DataType::F32 | DataType::F64 | DataType::F16 | DataType::Bf16 => Elem::F32,
            DataType::Bool => Elem::Bool,
            DataType::I4 => Elem::Int(Int::I4),
            DataType::U4 => Elem::Int(Int::U4),
            DataType::I8 => Elem::Int(Int::I8),
            DataType::U8 => Elem::Int(Int::U8),
            DataType::I16 => Elem::Int(Int::I16),
            DataType::U16 | DataType::I32 => Elem::Int(Int::I32),
            DataType::U32 | DataType::I64 | DataType::U64 => Elem::Int(Int::I64),
        }
    }

    /// True if a host can hand over a value of this type as [`DataType::elem`] without knowing of ONNX.
    pub(crate) fn is_interface(self) -> bool {
        !matches!(self, DataType::U16 | DataType::U32 | DataType::U64 | DataType::I4 | DataType::U4)
    }

    /// Bits of an element in raw data.
    pub(crate) fn bits(self) -> usize {
        match self {
            DataType::I4 | DataType::U4 => 4,
            DataType::Bool | DataType::I8 | DataType::U8 => 8,
            DataType::F16 | DataType::Bf16 | DataType::I16 | DataType::U16 => 16,
            DataType::F32 | DataType::I32 | DataType::U32 => 32,
            DataType::F64 | DataType::I64 | DataType::U64 => 64,
        }
    }
}
