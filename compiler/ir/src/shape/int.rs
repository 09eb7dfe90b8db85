//! Rules of integer operators, `int.*`: shapes, storage, and the bounds within which the rules of [`qcc_num`] are exact.

mod dynamic;

use crate::attr;
use qcc_num::requant_f32::{GREATEST_FRACTION_BITS, LEAST_FRACTION_BITS};

use super::{Call, broadcast, linear, matmul};
use crate::attrs::Attr;
use crate::ops::{Attrs, Gives, IntOp};
use crate::types::{Int, Type};

/// Storage of the result.
pub(super) fn result(kind: IntOp, attrs: &Attrs, operands: &[&Type]) -> Int {
    match kind.form().gives {
        Gives::Always(storage) => storage,
        Gives::Operand(i) => operands.get(i).and_then(|t| t.elem.storage()).unwrap_or(Int::U8),
        Gives::Bits if attrs.try_get(attr::BITS) == Some(16) => Int::I16,
        Gives::Bits if attrs.try_get(attr::BITS) == Some(32) => Int::I32,
        Gives::Bits => Int::U8,
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
        IntOp::Curve => {
            call.expect_dims(1, &[2 * qcc_num::curve::SIDE])?;
            Ok(call.dims(0).to_vec())
        }
        IntOp::WideMul | IntOp::WideDiv => call.broadcast(0, 1),
        IntOp::Combine => combined(call),
        IntOp::MaxPool => max_pool(call),
        IntOp::AveragePool => average_pool(call),
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
        IntOp::DynamicCurve => dynamic::curve(call),
        IntOp::DynamicLut => dynamic::look_up(call),
        IntOp::DynamicNorm => {
            dynamic::expect_scale(call, 1)?;
            normalized(call, [2, 3])
        }
    }
}

/// Summands behind three operands that broadcast to what they broadcast to together.
fn combined(call: &Call) -> Result<Vec<usize>, String> {
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

/// No window may lie in the padding alone.
fn max_pool(call: &Call) -> Result<Vec<usize>, String> {
    let [n, h, w, c] = call.of_rank(0)?;
    if call.operands[0].elem.storage() == Some(Int::I16) && call.attrs.get(attr::PADS) != [0; 4] {
        return Err("expected no `pads` on elements of 16 bits".to_string());
    }
    let [h, w] = call.pool_window()?.output_nonempty(h, w)?;
    Ok(vec![n, h, w, c])
}

/// The factors are one, or one for each position.
fn average_pool(call: &Call) -> Result<Vec<usize>, String> {
    let [n, h, w, c] = call.of_rank(0)?;
    let [h, w] = call.pool_window()?.output(h, w)?;
    if call.operands[1].elements() != 1 {
        call.expect_dims(1, &[h, w])?;
    }
    Ok(vec![n, h, w, c])
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
    let longest = match call.operands[0].elem.storage() {
        Some(Int::I32) => qcc_num::norm::LONGEST_FINE_ROW,
        _ => qcc_num::norm::LONGEST_ROW,
    };
    match row {
        1.. if row <= longest => Ok(call.dims(0).to_vec()),
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
    if call.attrs.get(attr::F32_FRACTION_BITS) > 0 && call.operands.len() > 4 {
        return Err("expected no residual beside `f32_fraction_bits`".to_string());
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

/// Bounds of the attributes, as the operator's row says them. Beyond them the arithmetic of [`qcc_num`] could overflow.
fn check_attrs(kind: IntOp, call: &Call) -> Result<(), String> {
    let terms = call.operands.len().saturating_sub(3);
    if kind == IntOp::Combine && terms > qcc_num::wide::MOST_TERMS {
        return Err(format!("expected at most {} summands, found {terms}", qcc_num::wide::MOST_TERMS));
    }
    let bits = call.attrs.try_get(attr::BITS);
    let has_24 = matches!(kind, IntOp::Combine | IntOp::WideMul);
    if let Some(bits) = bits.filter(|&bits| !([8, 16].contains(&bits) || bits == 32 && has_24)) {
        return Err(format!("expected `bits` of 8 or 16, found {bits}"));
    }
    for schema in call.info.attrs {
        let Some(range) = schema.range else { continue };
        let is_bound = attr::LO.is(schema) || attr::HI.is(schema);
        let (least, greatest) = match bits {
            Some(8) if is_bound => (0, 255),
            Some(32) if is_bound => (-qcc_num::wide::FINE_CODES, qcc_num::wide::FINE_CODES - 1),
            _ => range,
        };
        let (numbers, length) = match call.attrs.of_schema(schema) {
            Some(Attr::Ints(list)) if attr::FACTORS.is(schema) => (list, terms),
            Some(Attr::Ints(list)) => (list, 2),
            Some(Attr::Int(v)) => (vec![v], 1),
            Some(Attr::Float(_) | Attr::Bool(_) | Attr::Format(_) | Attr::Function(_)) | None => continue,
        };
        if numbers.len() != length || numbers.iter().any(|v| !(least..=greatest).contains(v)) {
            let name = schema.name;
            return Err(match numbers[..] {
                [v] if length == 1 => format!("expected `{name}` in {least}..={greatest}, found {v}"),
                _ => format!("expected `{name}` of {length} numbers in {least}..={greatest}, found {numbers:?}"),
            });
        }
    }
    check_together(kind, call)
}

/// What several attributes, or several values of one, may not be.
fn check_together(kind: IntOp, call: &Call) -> Result<(), String> {
    if let (Some(lo), Some(hi)) = (call.attrs.try_get(attr::LO), call.attrs.try_get(attr::HI))
        && lo > hi
    {
        return Err(format!("expected `lo` not above `hi`, found {lo} and {hi}"));
    }
    let fraction_bits = call.attrs.try_get(attr::F32_FRACTION_BITS);
    if let Some(found) = fraction_bits.filter(|bits| (1..i64::from(LEAST_FRACTION_BITS)).contains(bits)) {
        return Err(format!(
            "expected `f32_fraction_bits` of 0 or in {LEAST_FRACTION_BITS}..={GREATEST_FRACTION_BITS}, found {found}"
        ));
    }
    if kind == IntOp::LayerNorm {
        let codes = match call.operands[0].elem.storage() {
            Some(Int::U8) => 1i64 << 8,
            Some(Int::I16) => 1 << 16,
            _ => 1 << 24,
        };
        if call.attrs.get(attr::CENTER) >= codes {
            return Err(format!("expected a `center` below {codes}, the number of codes"));
        }
    }
    if kind == IntOp::Add {
        let products: i64 = call.attrs.get(attr::MULTS).iter().map(|m| 255 * m.abs()).sum();
        if products + call.attrs.get(attr::OFFSET).abs() > i64::from(i32::MAX) {
            return Err("expected `mults` and `offset` whose sums fit 32 bits".to_string());
        }
    }
    Ok(())
}
