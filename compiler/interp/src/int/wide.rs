//! Integers of 16 bits: their bytes, sums and products, requantized by `qcc_num::wide`.

use qcc_ir::diag::Code;
use qcc_ir::{Data, Diag, attr};
use qcc_num::curve;
use qcc_num::wide::{GREATEST_BIAS, GREATEST_MULTIPLIER, GREATEST_OFFSET, quotient, requantize, shift_of};

use super::Call;
use crate::layout::{broadcast_strides, gather, zip_broadcast};

/// The low or high byte of `x + 2^15`, or one of `x + 2^23`.
pub(super) fn byte(call: &Call) -> Result<Vec<u8>, Diag> {
    if let Data::I32(x) = &call.operands[0].0.data {
        let index = call.attrs.get(attr::INDEX) as usize;
        return Ok(x.iter().map(|x| x.wrapping_add(1 << 23).to_le_bytes()[index]).collect());
    }
    let high = call.attrs.get(attr::HIGH);
    let byte = |&x: &i16| (x.cast_unsigned() ^ 0x8000).to_le_bytes()[usize::from(high)];
    Ok(call.i16s(0)?.iter().map(byte).collect())
}

/// Results in the storage that `bits` says.
fn stored(call: &Call, codes: Vec<i64>) -> Data {
    match call.attrs.get(attr::BITS) {
        32 => Data::I32(codes.into_iter().map(|q| q as i32).collect()),
        16 => Data::I16(codes.into_iter().map(|q| q as i16).collect()),
        _ => Data::U8(codes.into_iter().map(|q| q as u8).collect()),
    }
}

fn bounds(call: &Call) -> [i64; 2] {
    [call.attrs.get(attr::LO), call.attrs.get(attr::HI)]
}

/// `f` of (21).
fn shift(call: &Call) -> u32 {
    shift_of(call.attrs.get(attr::BITS) as u32)
}

/// Equations (20) and (21).
pub(super) fn combine(call: &Call) -> Result<Data, Diag> {
    let stretched = |data: &[i64], i: usize| gather(data, 0, call.dims, &broadcast_strides(call.dims_of(i), call.dims));
    let constant = |i: usize, name: &str, bound: i64| {
        let data = call.i64s(i)?;
        // Constants are data and not attributes: only here can it be seen that nothing overflows.
        match data.iter().find(|x| x.unsigned_abs() > bound.unsigned_abs()) {
            Some(x) => Err(Diag::new(Code::OVERFLOW, format!("the {name} {x} of a sum exceeds {bound}"))),
            None => Ok(stretched(data, i)),
        }
    };
    let mut acc = constant(0, "bias", GREATEST_BIAS)?;
    let mult = constant(1, "multiplier", GREATEST_MULTIPLIER)?;
    let offset = constant(2, "offset", GREATEST_OFFSET)?;
    for (i, factor) in call.attrs.get(attr::FACTORS).into_iter().enumerate() {
        let x = stretched(&call.integers(3 + i)?, 3 + i);
        acc.iter_mut().zip(x).for_each(|(acc, x)| *acc += factor * x);
    }
    let (ends, shift) = (bounds(call), shift(call));
    let constants = mult.iter().zip(&offset);
    let codes = acc.iter().zip(constants).map(|(&acc, (&m, &c))| requantize(acc, m, c, shift, ends)).collect();
    Ok(stored(call, codes))
}

/// Equation (21) of `(a - zeros[0]) * (b - zeros[1])`.
pub(super) fn mul(call: &Call) -> Result<Data, Diag> {
    let (zeros, ends, shift) = (call.attrs.get(attr::ZEROS), bounds(call), shift(call));
    let (mult, offset) = (call.attrs.get(attr::MULT), call.attrs.get(attr::OFFSET));
    let (a, b) = (call.integers(0)?, call.integers(1)?);
    let product = |a: i64, b: i64| requantize((a - zeros[0]) * (b - zeros[1]), mult, offset, shift, ends);
    let codes = zip_broadcast((&a, call.dims_of(0)), (&b, call.dims_of(1)), call.dims, Vec::new(), product);
    Ok(stored(call, codes))
}

/// Equation (28).
pub(super) fn div(call: &Call) -> Result<Data, Diag> {
    let (zeros, [lo, hi]) = (call.attrs.get(attr::ZEROS), bounds(call).map(|x| x as i16));
    let (mult, shift, zero) = (call.attrs.get(attr::MULT), call.attrs.get(attr::SHIFT), call.attrs.get(attr::OFFSET));
    let (a, b) = (call.integers(0)?, call.integers(1)?);
    let one = |a: i64, b: i64| i64::from(quotient([a - zeros[0], b - zeros[1]], mult, shift as u32, zero, [lo, hi]));
    let codes = zip_broadcast((&a, call.dims_of(0)), (&b, call.dims_of(1)), call.dims, Vec::new(), one);
    Ok(stored(call, codes))
}

/// Equation (31).
pub(super) fn curve(call: &Call) -> Result<Data, Diag> {
    let (x, table, center) = (call.i32s(0)?, call.i32s(1)?, call.attrs.get(attr::CENTER));
    if table.iter().any(|v| v.unsigned_abs() > curve::GREATEST.unsigned_abs()) {
        return Err(Diag::new(Code::VERIFY, "a sample of a curve is beyond 2^29"));
    }
    let ends = if call.attrs.get(attr::BITS) == 16 { [-32768, 32767] } else { [0, 255] };
    let codes = x.iter().map(|&x| curve::apply(table, i64::from(x) - center, ends)).collect();
    Ok(stored(call, codes))
}
