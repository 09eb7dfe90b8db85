//! Tensors of a model: raw, typed or external data, all element types, every length checked.

use half::{bf16, f16};
use onnx_protobuf::tensor_proto::DataLocation;
use onnx_protobuf::{Message as _, TensorProto};
use qcc_ir::diag::Code;
use qcc_ir::{Data, Tensor, Type};

use crate::element::DataType;
use crate::external::Folder;
use crate::fault::{Fault, Outcome};
use crate::rounding::nearest;
use crate::wire;

/// A constant with the type that its elements have; several types may share one storage.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Constant {
    pub(crate) tensor: Tensor,
    pub(crate) data_type: DataType,
}

/// Reads a tensor. External data comes from `folder`.
pub(crate) fn read(proto: &TensorProto, folder: &Folder) -> Outcome<Constant> {
    let data_type = DataType::from_onnx(proto.data_type)?;
    if proto.segment.is_some() {
        return Err(Fault::unsupported("tensors in segments are not supported"));
    }
    let dims = extents(&proto.dims)?;
    let too_large = || Fault::shape(format!("shape {:?} has too many elements", proto.dims));
    let count = Type::f32(&dims).checked_elements().ok_or_else(too_large)?;
    let bits = count.checked_mul(data_type.bits()).ok_or_else(too_large)?;
    let bytes = bits.div_ceil(8);
    let data = match proto.data_location.enum_value() {
        Ok(DataLocation::DEFAULT) if proto.raw_data.is_empty() => typed(proto, data_type, count)?,
        Ok(DataLocation::DEFAULT) => {
            if proto.raw_data.len() != bytes {
                return Err(Fault::shape(format!(
                    "{} bytes of data for shape {dims:?}, which takes {bytes}",
                    proto.raw_data.len()
                )));
            }
            raw(&proto.raw_data, data_type, count)?
        }
        Ok(DataLocation::EXTERNAL) => raw(&folder.read(&proto.external_data, bytes)?, data_type, count)?,
        Err(number) => return Err(Fault::unsupported(format!("data location {number} is not known"))),
    };
    if data.len() != count {
        return Err(Fault::shape(format!("{} elements for shape {dims:?}, which has {count}", data.len())));
    }
    Ok(Constant { tensor: Tensor { dims, data }, data_type })
}

/// Reads a tensor from the bytes of a file that holds nothing else.
pub(crate) fn from_bytes(bytes: &[u8], folder: &Folder) -> Outcome<Tensor> {
    let broken = |what: String| Fault::new(Code::FILE, format!("not a whole ONNX tensor: {what}"));
    wire::check_tensor(bytes).map_err(broken)?;
    let proto = TensorProto::parse_from_bytes(bytes).map_err(|e| broken(e.to_string()))?;
    Ok(read(&proto, folder)?.tensor)
}

/// Dimensions that are all given and not negative.
pub(crate) fn extents(dims: &[i64]) -> Outcome<Vec<usize>> {
    let extents: Option<Vec<usize>> = dims.iter().map(|&d| usize::try_from(d).ok()).collect();
    extents.ok_or_else(|| Fault::shape(format!("shape {dims:?} has a negative dimension")))
}

/// Little-endian elements, as many as their bytes say.
macro_rules! little_endian {
    ($bytes:expr, $type:ty) => {
        $bytes.as_chunks().0.iter().map(|b| <$type>::from_le_bytes(*b))
    };
}

fn raw(bytes: &[u8], data_type: DataType, count: usize) -> Outcome<Data> {
    Ok(match data_type {
        DataType::F32 => Data::F32(little_endian!(bytes, f32).collect()),
        DataType::F64 => Data::F32(little_endian!(bytes, f64).map(narrow_float).collect::<Outcome<_>>()?),
        DataType::F16 => Data::F32(little_endian!(bytes, f16).map(f16::to_f32).collect()),
        DataType::Bf16 => Data::F32(little_endian!(bytes, bf16).map(bf16::to_f32).collect()),
        DataType::Bool => Data::U8(bytes.iter().map(|&b| u8::from(b != 0)).collect()),
        DataType::I2 | DataType::I4 => {
            let bits = data_type.bits();
            Data::I8(packed(bytes, bits, count).map(|q| (q << (8 - bits)).cast_signed() >> (8 - bits)).collect())
        }
        DataType::U2 | DataType::U4 => Data::U8(packed(bytes, data_type.bits(), count).collect()),
        DataType::F8e8m0 => Data::F32(bytes.iter().map(|&b| power_of_two(b)).collect()),
        DataType::F8e4m3fn | DataType::F8e4m3fnuz | DataType::F8e5m2 | DataType::F8e5m2fnuz | DataType::F4e2m1 => {
            let format = data_type.minifloat().ok_or_else(|| Fault::shape("not a float format"))?;
            Data::F32(packed(bytes, data_type.bits(), count).map(|q| format.value(q)).collect())
        }
        DataType::I8 => Data::I8(bytes.iter().map(|b| b.cast_signed()).collect()),
        DataType::U8 => Data::U8(bytes.to_vec()),
        DataType::I16 => Data::I16(little_endian!(bytes, i16).collect()),
        DataType::U16 => Data::I32(little_endian!(bytes, u16).map(i32::from).collect()),
        DataType::I32 => Data::I32(little_endian!(bytes, i32).collect()),
        DataType::U32 => Data::I64(little_endian!(bytes, u32).map(i64::from).collect()),
        DataType::I64 => Data::I64(little_endian!(bytes, i64).collect()),
        DataType::U64 => Data::I64(checked(little_endian!(bytes, u64))?),
    })
}

/// The field that holds elements of a type is given by `onnx.proto`; an absent one has none.
fn typed(proto: &TensorProto, data_type: DataType, count: usize) -> Outcome<Data> {
    let ints = || proto.int32_data.iter().copied();
    Ok(match data_type {
        DataType::F32 => Data::F32(proto.float_data.clone()),
        DataType::F64 => Data::F32(proto.double_data.iter().copied().map(narrow_float).collect::<Outcome<_>>()?),
        DataType::F16 => Data::F32(checked(ints())?.into_iter().map(|b| f16::from_bits(b).to_f32()).collect()),
        DataType::Bf16 => Data::F32(checked(ints())?.into_iter().map(|b| bf16::from_bits(b).to_f32()).collect()),
        DataType::Bool => Data::U8(ints().map(|b| u8::from(b != 0)).collect()),
        DataType::I2
        | DataType::U2
        | DataType::I4
        | DataType::U4
        | DataType::F4e2m1
        | DataType::F8e8m0
        | DataType::F8e4m3fn
        | DataType::F8e4m3fnuz
        | DataType::F8e5m2
        | DataType::F8e5m2fnuz => {
            // A byte of several elements may be written sign-extended.
            let bytes: Vec<u8> = checked(ints().map(|b| if b < 0 { i64::from(b) + 256 } else { i64::from(b) }))?;
            let bits = data_type.bits();
            if bytes.len() != (count * bits).div_ceil(8) {
                return Err(Fault::shape(format!("{} bytes of {bits}-bit data for {count} elements", bytes.len())));
            }
            raw(&bytes, data_type, count)?
        }
        DataType::I8 => Data::I8(checked(ints())?),
        DataType::U8 => Data::U8(checked(ints())?),
        DataType::I16 => Data::I16(checked(ints())?),
        DataType::U16 => Data::I32(checked::<_, u16>(ints())?.into_iter().map(i32::from).collect()),
        DataType::I32 => Data::I32(proto.int32_data.clone()),
        DataType::U32 => {
            let values = checked::<_, u32>(proto.uint64_data.iter().copied())?;
            Data::I64(values.into_iter().map(i64::from).collect())
        }
        DataType::I64 => Data::I64(proto.int64_data.clone()),
        DataType::U64 => Data::I64(checked(proto.uint64_data.iter().copied())?),
    })
}

/// Each value in a narrower type, if all fit.
fn checked<A: Copy + std::fmt::Display, B: TryFrom<A>>(values: impl Iterator<Item = A>) -> Outcome<Vec<B>> {
    let narrow = |v: A| B::try_from(v).map_err(|_| Fault::shape(format!("element {v} does not fit its type")));
    values.map(narrow).collect()
}

/// The nearest f32; a finite value stays finite.
fn narrow_float(v: f64) -> Outcome<f32> {
    let narrow = nearest(v);
    if narrow.is_infinite() && v.is_finite() {
        return Err(Fault::unsupported(format!("element {v:e} does not fit f32")));
    }
    Ok(narrow)
}

/// Elements of 2, 4 or 8 bits: the first of a byte are its low bits.
fn packed(bytes: &[u8], bits: usize, count: usize) -> impl Iterator<Item = u8> {
    let mask = u8::MAX >> (8 - bits);
    bytes.iter().flat_map(move |b| (0..8).step_by(bits).map(move |shift| (b >> shift) & mask)).take(count)
}

/// Numbers of the format of scales: an exponent alone.
fn power_of_two(code: u8) -> f32 {
    if code == u8::MAX { f32::NAN } else { (f32::from(code) - 127.0).exp2() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(data_type: i32, dims: &[i64]) -> TensorProto {
        TensorProto { data_type, dims: dims.to_vec(), ..TensorProto::new() }
    }

    fn data(proto: &TensorProto) -> Outcome<Data> {
        read(proto, &Folder::none()).map(|c| c.tensor.data)
    }

    #[test]
    fn raw_data_of_every_type() {
        for (number, bytes, expected) in [
            (1, vec![0, 0, 128, 63], Data::F32(vec![1.0])),
            (11, 1.5f64.to_le_bytes().to_vec(), Data::F32(vec![1.5])),
            (10, vec![0, 0x3c], Data::F32(vec![1.0])),
            (16, vec![0x80, 0x3f], Data::F32(vec![1.0])),
            (9, vec![7], Data::U8(vec![1])),
            (17, vec![0xfe], Data::F32(vec![-448.0])),
            (24, vec![128], Data::F32(vec![2.0])),
            (23, vec![0x0f], Data::F32(vec![-6.0])),
            (26, vec![0x02], Data::I8(vec![-2])),
            (25, vec![0x03], Data::U8(vec![3])),
            (22, vec![0x0f], Data::I8(vec![-1])),
            (21, vec![0x0f], Data::U8(vec![15])),
            (3, vec![255], Data::I8(vec![-1])),
            (2, vec![255], Data::U8(vec![255])),
            (5, vec![255, 255], Data::I16(vec![-1])),
            (4, vec![255, 255], Data::I32(vec![65535])),
            (6, vec![255; 4], Data::I32(vec![-1])),
            (12, vec![255; 4], Data::I64(vec![i64::from(u32::MAX)])),
            (7, vec![255; 8], Data::I64(vec![-1])),
            (13, vec![1, 0, 0, 0, 0, 0, 0, 0], Data::I64(vec![1])),
        ] {
            let proto = TensorProto { raw_data: bytes, ..of(number, &[1]) };
            assert_eq!(data(&proto), Ok(expected), "type {number}");
        }
    }

    #[test]
    fn typed_data_of_every_type() {
        let ints = |number, values: &[i32]| data(&TensorProto { int32_data: values.to_vec(), ..of(number, &[1]) });
        assert_eq!(ints(10, &[0x3c00]), Ok(Data::F32(vec![1.0])));
        assert_eq!(ints(16, &[0x3f80]), Ok(Data::F32(vec![1.0])));
        assert_eq!(ints(9, &[1]), Ok(Data::U8(vec![1])));
        assert_eq!(ints(3, &[-128]), Ok(Data::I8(vec![-128])));
        assert_eq!(ints(2, &[255]), Ok(Data::U8(vec![255])));
        assert_eq!(ints(5, &[-2]), Ok(Data::I16(vec![-2])));
        assert_eq!(ints(4, &[65535]), Ok(Data::I32(vec![65535])));
        assert_eq!(ints(6, &[-3]), Ok(Data::I32(vec![-3])));
        assert_eq!(ints(22, &[0x0e]), Ok(Data::I8(vec![-2])));
        let nibbles = TensorProto { int32_data: vec![-1, 3], ..of(21, &[3]) };
        assert_eq!(data(&nibbles), Ok(Data::U8(vec![15, 15, 3])));
        let double = TensorProto { double_data: vec![2.5], ..of(11, &[]) };
        assert_eq!(data(&double), Ok(Data::F32(vec![2.5])));
        let unsigned = TensorProto { uint64_data: vec![9], ..of(13, &[1, 1]) };
        assert_eq!(data(&unsigned), Ok(Data::I64(vec![9])));
    }

    #[test]
    fn faults() {
        let fault = |proto: &TensorProto| data(proto).expect_err("must be refused").message;
        assert!(fault(&of(1, &[2, -1])).contains("negative"));
        assert!(fault(&of(1, &[i64::MAX, 4])).contains("too many"));
        assert!(fault(&of(1, &[i64::MAX / 2])).contains("too many"));
        assert!(fault(&of(1, &[1 << 40])).contains("0 elements"));
        assert!(fault(&TensorProto { raw_data: vec![0; 5], ..of(1, &[1]) }).contains("5 bytes"));
        assert!(fault(&TensorProto { int32_data: vec![256], ..of(2, &[1]) }).contains("does not fit"));
        assert!(fault(&TensorProto { uint64_data: vec![u64::MAX], ..of(13, &[1]) }).contains("does not fit"));
        assert!(fault(&TensorProto { double_data: vec![1e300], ..of(11, &[1]) }).contains("f32"));
        assert!(fault(&of(8, &[1])).contains("string"));
        assert!(fault(&of(99, &[1])).contains("99"));
        assert!(data(&of(7, &[0])).is_ok());
    }
}
