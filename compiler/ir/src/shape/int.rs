//! Rules of integer operators, `int.*`: shapes, storage, and the bounds within which the rules of [`qcc_num`] are exact.

mod dynamic;

use crate::attr;
use qcc_num::single::{GREATEST_POINT, LEAST_POINT};

use super::{Call, broadcast, linear, matmul};
use crate::attrs::{Attr, Attrs};
use crate::ops::IntOp;
use crate::types::{Int, Type};

/// Storage of the operands that the operator takes.
pub(super) fn operands(kind: IntOp) -> &'static [Int] {
    match kind {
        IntOp::Conv2d | IntOp::Linear => &[Int::U8, Int::I8, Int::I32],
        IntOp::QConv2d | IntOp::QLinear => &[Int::U8, Int::I8, Int::I32, Int::I32, Int::U8],
        IntOp::Requant => &[Int::I32, Int::I32],
        IntOp::Add | IntOp::Mul | IntOp::Lut | IntOp::MatMul | IntOp::QMatMul => &[Int::U8, Int::U8],
        IntOp::Lut2 => &[Int::U8, Int::U8, Int::U8],
        IntOp::LayerNorm => &[Int::U8, Int::I32, Int::I32],
        IntOp::ScaleChannels => &[Int::U8, Int::I16, Int::I32],
        IntOp::AveragePool | IntOp::Softmax => &[Int::U8, Int::I32],
        IntOp::Rescale | IntOp::Clamp | IntOp::MaxPool | IntOp::Mean => &[Int::U8],
        IntOp::Extrema => &[Int::I32],
        IntOp::DynamicScale => &[Int::I32; 5],
        IntOp::CommonScale => &[Int::I32; dynamic::MOST_SCALES],
        IntOp::DynamicRequant | IntOp::AlignScales | IntOp::ProductScale | IntOp::DynamicTable | IntOp::ExpTable => {
            &[Int::I32; 2]
        }
        IntOp::DynamicRescale | IntOp::DynamicLut => &[Int::U8, Int::I32],
        IntOp::DynamicMul => &[Int::U8; 2],
        IntOp::DynamicNorm => &[Int::U8, Int::I32, Int::I32, Int::I32],
        IntOp::DynamicAdd => &[Int::U8, Int::U8, Int::I32],
        IntOp::Byte => &[Int::I16],
        IntOp::Combine => &[Int::I64; 3],
        IntOp::WideMul => &[Int::U8, Int::U8],
    }
}

/// Storages of operand `i` that the operator takes, the usual one first.
pub(super) fn takes(kind: IntOp, i: usize) -> &'static [Int] {
    match (kind, i) {
        (IntOp::Combine, 3..) => &[Int::U8, Int::I16, Int::I32],
        (IntOp::WideMul | IntOp::Lut, 0 | 1) | (IntOp::MaxPool | IntOp::Softmax, 0) => &[Int::U8, Int::I16],
        _ => operands(kind).get(i).map_or(&[], std::slice::from_ref),
    }
}

/// Storage of the result.
pub(super) fn result(kind: IntOp, attrs: &Attrs, operands: &[&Type]) -> Int {
    let of = |i: usize| operands.get(i).and_then(|t| t.elem.storage()).unwrap_or(Int::U8);
    match kind {
        IntOp::Lut => of(1),
        IntOp::MaxPool => of(0),
        IntOp::Combine | IntOp::WideMul | IntOp::Softmax if attrs.try_get(attr::BITS) == Some(16) => Int::I16,
        IntOp::Conv2d
        | IntOp::Linear
        | IntOp::MatMul
        | IntOp::DynamicNorm
        | IntOp::Extrema
        | IntOp::DynamicScale
        | IntOp::AlignScales
        | IntOp::DynamicAdd
        | IntOp::CommonScale
        | IntOp::ProductScale
        | IntOp::DynamicMul
        | IntOp::DynamicTable
        | IntOp::ExpTable => Int::I32,
        IntOp::DynamicRequant
        | IntOp::DynamicRescale
        | IntOp::DynamicLut
        | IntOp::Requant
        | IntOp::QConv2d
        | IntOp::QLinear
        | IntOp::QMatMul
        | IntOp::Add
        | IntOp::Mul
        | IntOp::Rescale
        | IntOp::ScaleChannels
        | IntOp::Lut2
        | IntOp::Clamp
        | IntOp::AveragePool
        | IntOp::Mean
        | IntOp::LayerNorm
        | IntOp::Byte
        | IntOp::Combine
        | IntOp::WideMul
        | IntOp::Softmax => Int::U8,
    }
}

/// Shape of the result.
pub(super) fn dims(kind: IntOp, call: &Call) -> Result<Vec<usize>, String> {
    check_attrs(kind, call)?;
    match kind {
        IntOp::Conv2d => conv2d(call),
        IntOp::QConv2d => with_epilogue(call, conv2d(call)?),
        IntOp::Linear => linear(call),
        IntOp::QLinear => with_epilogue(call, linear(call)?),
        IntOp::Requant => {
            check_mult(call, 1, call.dims(0))?;
            Ok(call.dims(0).to_vec())
        }
        IntOp::MatMul | IntOp::QMatMul => matmul(call),
        IntOp::Add | IntOp::Mul => call.broadcast(0, 1),
        IntOp::Lut2 => {
            call.expect_dims(2, &[1 << 16])?;
            call.broadcast(0, 1)
        }
        IntOp::LayerNorm => normalized(call, [1, 2]),
        IntOp::Rescale | IntOp::Clamp => Ok(call.dims(0).to_vec()),
        IntOp::ScaleChannels => {
            let Some(&channels) = call.dims(0).last() else {
                return Err(call.expected(0, "a rank of at least 1"));
            };
            call.expect_dims(1, &[channels])?;
            call.expect_dims(2, &[channels])?;
            Ok(call.dims(0).to_vec())
        }
        IntOp::Lut => {
            call.expect_dims(1, &[codes(call, 0)])?;
            Ok(call.dims(0).to_vec())
        }
        IntOp::Softmax => {
            if call.dims(0).is_empty() {
                return Err(call.expected(0, "a rank of at least 1"));
            }
            call.expect_dims(1, &[codes(call, 0)])?;
            Ok(call.dims(0).to_vec())
        }
        IntOp::Byte => Ok(call.dims(0).to_vec()),
        IntOp::WideMul => call.broadcast(0, 1),
        IntOp::Combine => {
            let Some((first, rest)) = call.operands.get(3..).and_then(<[_]>::split_first) else {
                return Err("expected at least one summand".to_string());
            };
            let dims = rest.iter().try_fold(first.dims.clone(), |dims, t| broadcast(&dims, &t.dims))?;
            for i in 0..3 {
                if broadcast(call.dims(i), &dims).as_ref() != Ok(&dims) {
                    return Err(call.expected(i, format_args!("a shape that broadcasts to {dims:?}")));
                }
            }
            Ok(dims)
        }
        IntOp::MaxPool => {
            let [n, h, w, c] = call.of_rank(0)?;
            if call.operands[0].elem.storage() == Some(Int::I16) && call.attrs.get(attr::PADS) != [0; 4] {
                return Err("expected no `pads` on elements of 16 bits".to_string());
            }
            let [h, w] = call.pool_window()?.output_nonempty(h, w)?;
            Ok(vec![n, h, w, c])
        }
        IntOp::AveragePool => {
            let [n, h, w, c] = call.of_rank(0)?;
            let [h, w] = call.pool_window()?.output(h, w)?;
            if call.operands[1].elements() != 1 {
                call.expect_dims(1, &[h, w])?;
            }
            Ok(vec![n, h, w, c])
        }
        IntOp::Mean => call.reduced(),
        IntOp::Extrema => dynamic::extrema(call),
        IntOp::DynamicScale => dynamic::scale(call),
        IntOp::DynamicRequant => dynamic::requant(call),
        IntOp::AlignScales => dynamic::align_scales(call),
        IntOp::DynamicAdd => dynamic::add(call),
        IntOp::CommonScale => dynamic::common_scale(call),
        IntOp::DynamicRescale => dynamic::rescale(call),
        IntOp::ProductScale => dynamic::product_scale(call),
        IntOp::DynamicMul => call.broadcast(0, 1),
        IntOp::ExpTable => dynamic::exponentials(call),
        IntOp::DynamicTable => dynamic::table(call),
        IntOp::DynamicLut => dynamic::look_up(call),
        IntOp::DynamicNorm => {
            dynamic::expect_scale(call, 1)?;
            normalized(call, [2, 3])
        }
    }
}

/// Number of codes of an operand of 8 or 16 bits.
fn codes(call: &Call, i: usize) -> usize {
    if call.operands[i].elem.storage() == Some(Int::I16) { 1 << 16 } else { 256 }
}

/// Rows from `axis` on, and the parameters that broadcast to them.
fn normalized(call: &Call, parameters: [usize; 2]) -> Result<Vec<usize>, String> {
    let axis = call.axis(0)?;
    parameters.into_iter().try_for_each(|i| call.broadcasts_to(i, 0))?;
    let row = call.dims(0)[axis..].iter().fold(1usize, |n, &d| n.saturating_mul(d));
    match row {
        1..=qcc_num::norm::LONGEST_ROW => Ok(call.dims(0).to_vec()),
        n => Err(format!("a row of {n} elements cannot be normalized")),
    }
}

fn conv2d(call: &Call) -> Result<Vec<usize>, String> {
    let [n, h, w, c] = call.of_rank(0)?;
    let [o, kh, kw, per_group] = call.of_rank(1)?;
    call.check_groups(c, o, per_group)?;
    call.expect_dims(2, &[o])?;
    let [h, w] = call.conv_window([kh, kw])?.output(h, w)?;
    Ok(vec![n, h, w, o])
}

/// Checks multipliers and residual of a contraction whose result is `dims`.
fn with_epilogue(call: &Call, dims: Vec<usize>) -> Result<Vec<usize>, String> {
    check_mult(call, 3, &dims)?;
    call.expect_optional(4, &dims)?;
    if call.attrs.get(attr::SINGLE) > 0 && call.operands.len() > 4 {
        return Err("expected no residual beside `single`".to_string());
    }
    Ok(dims)
}

/// Multipliers: one, or one for each index of the last dimension of `dims`.
fn check_mult(call: &Call, i: usize, dims: &[usize]) -> Result<(), String> {
    match dims.last() {
        _ if call.operands[i].elements() == 1 => Ok(()),
        Some(&channels) => call.expect_dims(i, &[channels]),
        None => call.expect_dims(i, &[1]),
    }
}

/// Bounds of the attributes by their meaning in the operator. Beyond them the arithmetic of [`qcc_num`] could overflow.
fn check_attrs(kind: IntOp, call: &Call) -> Result<(), String> {
    let affine = matches!(kind, IntOp::Add | IntOp::Rescale | IntOp::ScaleChannels);
    let wide = matches!(kind, IntOp::Combine | IntOp::WideMul);
    for schema in call.info.attrs {
        let (least, greatest) = match schema.name {
            "lo" | "hi" if wide && call.attrs.get(attr::BITS) == 16 => (i64::from(i16::MIN), i64::from(i16::MAX)),
            "zeros" if wide => (i64::from(i16::MIN), i64::from(i16::MAX)),
            "mult" if wide => (-qcc_num::wide::GREATEST_MULTIPLIER, qcc_num::wide::GREATEST_MULTIPLIER),
            "offset" if wide => (-qcc_num::wide::GREATEST_OFFSET, qcc_num::wide::GREATEST_OFFSET),
            "factors" => (-qcc_num::wide::GREATEST_FACTOR, qcc_num::wide::GREATEST_FACTOR),
            "bits" if ![8, 16].contains(&call.attrs.get(attr::BITS)) => {
                return Err(format!("expected `bits` of 8 or 16, found {}", call.attrs.get(attr::BITS)));
            }
            "center" => (-1, 255),
            "lo" | "hi" | "zero" | "zeros" | "result_zero" | "pad_value" => (0, 255),
            "shl" => (0, 31),
            "single" => (0, i64::from(GREATEST_POINT)),
            "shift" => (0, i64::from(qcc_num::affine::MAX_SHIFT)),
            "residual_mult" => (0, (1 << 15) - 1),
            "mults" => (-(1 << 23), 1 << 23),
            "mult" if kind == IntOp::Softmax => (1, i64::from(i32::MAX)),
            "epsilon" if kind == IntOp::DynamicNorm => (0, i64::from(i32::MAX)),
            "epsilon" => (0, qcc_num::norm::GREATEST_EPSILON),
            "mult" if affine => (i64::from(i16::MIN), i64::from(i16::MAX)),
            "mult" => (i64::from(i32::MIN), i64::from(i32::MAX)),
            // Real numbers of type f32 and their quotients have no others.
            "weight_exponent" | "bias_exponent" | "ceiling_exponent" | "grid" | "exponent" => (-1000, 1000),
            // A product below 2^23, or two below 2^31 together with it, are added to it in 32 bits.
            "offset" if affine => (-AFFINE_OFFSET, AFFINE_OFFSET),
            "offset" => (i64::from(i16::MIN), i64::from(i16::MAX)),
            _ => continue,
        };
        let terms = call.operands.len().saturating_sub(3);
        if kind == IntOp::Combine && terms > qcc_num::wide::MOST_TERMS {
            return Err(format!("expected at most {} summands, found {terms}", qcc_num::wide::MOST_TERMS));
        }
        let (numbers, length) = match call.attrs.of_schema(schema) {
            Some(Attr::Ints(list)) if attr::FACTORS.is(schema) => (list, terms),
            Some(Attr::Ints(list)) => (list, 2),
            Some(Attr::Int(v)) => (vec![v], 1),
            Some(Attr::Float(_) | Attr::Bool(_) | Attr::Function(_)) | None => continue,
        };
        if numbers.len() != length || numbers.iter().any(|v| !(least..=greatest).contains(v)) {
            let name = schema.name;
            return Err(match numbers[..] {
                [v] if length == 1 => format!("expected `{name}` in {least}..={greatest}, found {v}"),
                _ => format!("expected `{name}` of {length} numbers in {least}..={greatest}, found {numbers:?}"),
            });
        }
    }
    if call.attrs.has(attr::LO) && call.attrs.get(attr::LO) > call.attrs.get(attr::HI) {
        let (lo, hi) = (call.attrs.get(attr::LO), call.attrs.get(attr::HI));
        return Err(format!("expected `lo` not above `hi`, found {lo} and {hi}"));
    }
    if call.attrs.has(attr::SINGLE) && (1..i64::from(LEAST_POINT)).contains(&call.attrs.get(attr::SINGLE)) {
        let found = call.attrs.get(attr::SINGLE);
        return Err(format!("expected `single` of 0 or in {LEAST_POINT}..={GREATEST_POINT}, found {found}"));
    }
    if kind == IntOp::Add {
        let products: i64 = call.attrs.get(attr::MULTS).iter().map(|m| 255 * m.abs()).sum();
        if products + call.attrs.get(attr::OFFSET).abs() > i64::from(i32::MAX) {
            return Err("expected `mults` and `offset` whose sums fit 32 bits".to_string());
        }
    }
    Ok(())
}

/// Greatest offset of equation (5): rounding, zero point and the operands' zero points, `2^21 + 255 * 2^22 + 2 * 255 * 2^15`,
/// is below it, and it leaves room for the two products.
pub(crate) const AFFINE_OFFSET: i64 = (1 << 30) + (1 << 26);
