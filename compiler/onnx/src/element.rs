//! Element types of ONNX, and what they become.
//!
//! | ONNX | here |
//! |---|---|
//! | f32, f64, f16, bf16, f8, f4 | f32 |
//! | bool | bool |
//! | i4, u4, i8, u8, i16, i32, i64 | the same |
//! | i2, u2 | i4, u4 |
//! | u16 | i32 |
//! | u32, u64 | i64, as far as the values fit |
//!
//! What is lost by this is kept beside constants while a model is imported: quantization and casts to a type need it.

use qcc_ir::{Attrs, Elem, Int, Opcode, attr};

use crate::fault::{Fault, Outcome};

/// `TensorProto.DataType`, those that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DataType {
    F32,
    F64,
    F16,
    Bf16,
    F8e4m3fn,
    F8e4m3fnuz,
    F8e5m2,
    F8e5m2fnuz,
    F8e8m0,
    F4e2m1,
    Bool,
    I2,
    U2,
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
            17 => DataType::F8e4m3fn,
            18 => DataType::F8e4m3fnuz,
            19 => DataType::F8e5m2,
            20 => DataType::F8e5m2fnuz,
            21 => DataType::U4,
            22 => DataType::I4,
            23 => DataType::F4e2m1,
            24 => DataType::F8e8m0,
            25 => DataType::U2,
            26 => DataType::I2,
            0 => return Err(Fault::shape("the element type is not given")),
            8 => return Err(Fault::unsupported("element type string is not supported")),
            14 | 15 => return Err(Fault::unsupported("complex element types are not supported")),
            _ => return Err(Fault::unsupported(format!("element type number {number} is not known"))),
        })
    }

    /// What elements of this type become.
    pub(crate) fn elem(self) -> Elem {
        match self {
            DataType::F32
            | DataType::F64
            | DataType::F16
            | DataType::Bf16
            | DataType::F8e4m3fn
            | DataType::F8e4m3fnuz
            | DataType::F8e5m2
            | DataType::F8e5m2fnuz
            | DataType::F8e8m0
            | DataType::F4e2m1 => Elem::F32,
            DataType::Bool => Elem::Bool,
            DataType::I2 | DataType::I4 => Elem::Int(Int::I4),
            DataType::U2 | DataType::U4 => Elem::Int(Int::U4),
            DataType::I8 => Elem::Int(Int::I8),
            DataType::U8 => Elem::Int(Int::U8),
            DataType::I16 => Elem::Int(Int::I16),
            DataType::U16 | DataType::I32 => Elem::Int(Int::I32),
            DataType::U32 | DataType::I64 | DataType::U64 => Elem::Int(Int::I64),
        }
    }

    /// True if a host can hand over a value of this type as [`DataType::elem`] without knowing of ONNX.
    pub(crate) fn is_interface(self) -> bool {
        let wide = !matches!(self, DataType::U16 | DataType::U32 | DataType::U64);
        wide && self.bits() >= 8 && self.minifloat().is_none() && self != DataType::F8e8m0
    }

    /// Least and greatest integer of a type of integers.
    pub(crate) fn range(self) -> Option<(i64, i64)> {
        match (self, self.elem()) {
            (DataType::I2, _) => Some((-2, 1)),
            (DataType::U2, _) => Some((0, 3)),
            (DataType::U16, _) => Some((0, 0xffff)),
            (DataType::U32, _) => Some((0, 0xffff_ffff)),
            (DataType::U64, _) => Some((0, i64::MAX)),
            (_, Elem::Int(int)) => Some((Int::min(int), Int::max(int))),
            (_, Elem::F32 | Elem::Bool | Elem::Calibrated(_) | Elem::Uniform(_)) => None,
        }
    }

    /// The numbers of a float type of at most 8 bits.
    pub(crate) fn minifloat(self) -> Option<Minifloat> {
        let of = |exponent, fraction, bias, last: u8| Some(Minifloat { exponent, fraction, bias, last });
        match self {
            DataType::F8e4m3fn => of(4, 3, 7, 0x7e),
            DataType::F8e4m3fnuz => of(4, 3, 8, 0x7f),
            DataType::F8e5m2 => of(5, 2, 15, 0x7b),
            DataType::F8e5m2fnuz => of(5, 2, 16, 0x7f),
            DataType::F4e2m1 => of(2, 1, 1, 0x7),
            DataType::F32
            | DataType::F64
            | DataType::F16
            | DataType::Bf16
            | DataType::F8e8m0
            | DataType::Bool
            | DataType::I2
            | DataType::U2
            | DataType::I4
            | DataType::U4
            | DataType::I8
            | DataType::U8
            | DataType::I16
            | DataType::U16
            | DataType::I32
            | DataType::U32
            | DataType::I64
            | DataType::U64 => None,
        }
    }

    /// `nn.round_float` to this type, if it has fewer numbers than f32: numbers that are too great become the greatest one or what
    /// the type has in their place.
    pub(crate) fn rounding(self, saturate: bool) -> Option<Attrs> {
        let attrs = |fraction: i64, exponent: i64, greatest: f32, overflow: i64| {
            let attrs = Attrs::new(Opcode::RoundFloat).with(attr::FRACTION, fraction).with(attr::EXPONENT, exponent);
            attrs.with(attr::GREATEST, greatest).with(attr::OVERFLOW, overflow)
        };
        match self {
            DataType::F16 => Some(attrs(10, -14, 65504.0, 1)),
            DataType::Bf16 => Some(attrs(7, -126, half::bf16::MAX.to_f32(), 1)),
            _ => {
                let f = self.minifloat()?;
                let overflow = match self {
                    _ if saturate => 0,
                    DataType::F4e2m1 => 0,
                    DataType::F8e5m2 => 1,
                    _ => 2,
                };
                let of = attrs(i64::from(f.fraction), i64::from(1 - f.bias), f.value(f.last), overflow);
                Some(of.with(attr::NAN, self != DataType::F4e2m1))
            }
        }
    }

    /// A type of ONNX whose elements are stored as `elem`.
    pub(crate) fn of(elem: &Elem) -> Option<DataType> {
        match elem {
            Elem::F32 | Elem::Calibrated(_) => Some(DataType::F32),
            Elem::Bool => Some(DataType::Bool),
            Elem::Int(Int::I4) => Some(DataType::I4),
            Elem::Int(Int::U4) => Some(DataType::U4),
            Elem::Int(Int::I8) => Some(DataType::I8),
            Elem::Int(Int::U8) => Some(DataType::U8),
            Elem::Int(Int::I16) => Some(DataType::I16),
            Elem::Int(Int::I32) => Some(DataType::I32),
            Elem::Int(Int::I64) => Some(DataType::I64),
            Elem::Uniform(_) => None,
        }
    }

    /// Bits of an element in raw data.
    pub(crate) fn bits(self) -> usize {
        match self {
            DataType::I2 | DataType::U2 => 2,
            DataType::I4 | DataType::U4 | DataType::F4e2m1 => 4,
            DataType::Bool | DataType::I8 | DataType::U8 | DataType::F8e8m0 => 8,
            DataType::F8e4m3fn | DataType::F8e4m3fnuz | DataType::F8e5m2 | DataType::F8e5m2fnuz => 8,
            DataType::F16 | DataType::Bf16 | DataType::I16 | DataType::U16 => 16,
            DataType::F32 | DataType::I32 | DataType::U32 => 32,
            DataType::F64 | DataType::I64 | DataType::U64 => 64,
        }
    }
}

/// A float format of a sign, `exponent` bits and `fraction` bits: codes up to `last` are numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Minifloat {
    pub(crate) exponent: u32,
    pub(crate) fraction: u32,
    pub(crate) bias: i32,
    /// Code of the greatest number.
    pub(crate) last: u8,
}

impl Minifloat {
    /// The number of a code.
    pub(crate) fn value(self, code: u8) -> f32 {
        let sign_bit = 1u8 << (self.exponent + self.fraction);
        let magnitude = code & (sign_bit - 1);
        let negative = code & sign_bit != 0;
        if magnitude > self.last {
            let infinite = self.last == 0x7b && magnitude == 0x7c;
            let beyond = if infinite { f32::INFINITY } else { f32::NAN };
            return if negative { -beyond } else { beyond };
        }
        // The formats without a negative zero have one number that is none in its place.
        if negative && magnitude == 0 && self.last == 0x7f {
            return f32::NAN;
        }
        let (e, f) = (i32::from(magnitude >> self.fraction), magnitude & ((1u8 << self.fraction) - 1));
        let one = f32::from(1u8 << self.fraction);
        let significand = if e == 0 { f32::from(f) / one } else { 1.0 + f32::from(f) / one };
        let value = significand * ((e.max(1) - self.bias) as f32).exp2();
        if negative { -value } else { value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Greatest, least and least normal numbers by the OCP specification of 8-bit floats (2023), tables 1 and 2, and by
    /// `onnx.proto`.
    #[test]
    fn minifloats_have_their_numbers() {
        for (ty, greatest, least) in [
            (DataType::F8e4m3fn, 448.0, (-9f32).exp2()),
            (DataType::F8e4m3fnuz, 240.0, (-10f32).exp2()),
            (DataType::F8e5m2, 57344.0, (-16f32).exp2()),
            (DataType::F8e5m2fnuz, 57344.0, (-17f32).exp2()),
            (DataType::F4e2m1, 6.0, 0.5),
        ] {
            let format = ty.minifloat().unwrap();
            assert_eq!((format.value(format.last), format.value(1)), (greatest, least), "{ty:?}");
        }
        assert!(DataType::F8e4m3fn.minifloat().unwrap().value(0x7f).is_nan());
        assert!(DataType::F8e4m3fnuz.minifloat().unwrap().value(0x80).is_nan());
        assert_eq!(DataType::F8e5m2.minifloat().unwrap().value(0xfc), f32::NEG_INFINITY);
        assert!(DataType::F8e5m2.minifloat().unwrap().value(0x7d).is_nan());
        assert_eq!(DataType::F4e2m1.minifloat().unwrap().value(0x9), -0.5);
    }

    /// Every number of a format is its own nearest, and what lies between two goes to the nearer one.
    #[test]
    fn rounding_finds_the_numbers() {
        let qcc_ir::Class::Unary(round) = Opcode::RoundFloat.info().class else { panic!("a function") };
        for ty in [DataType::F8e4m3fn, DataType::F8e4m3fnuz, DataType::F8e5m2, DataType::F8e5m2fnuz, DataType::F4e2m1] {
            let (format, attrs) = (ty.minifloat().unwrap(), ty.rounding(true).unwrap());
            let numbers: Vec<f32> = (0..=format.last).map(|q| format.value(q)).collect();
            for pair in numbers.windows(2) {
                let middle = (pair[0] + pair[1]) / 2.0;
                assert_eq!(round(&attrs, pair[0]), pair[0], "{ty:?}");
                assert_eq!(round(&attrs, -(middle * 0.999_9 + pair[0] * 0.000_1)), -pair[0], "{ty:?}");
                assert_eq!(round(&attrs, middle * 0.999_9 + pair[1] * 0.000_1), pair[1], "{ty:?}");
            }
            assert_eq!(round(&attrs, f32::INFINITY), format.value(format.last));
        }
    }
}
