//! Integer operators that treat each element, or each row, by itself.

use qcc_ir::diag::Code;
use qcc_ir::{Data, Diag, attr, map_data};
use qcc_num::norm::{FINE_ENDS, FINE_MEAN_BITS, GREATEST_OFFSET, MEAN_BITS, Row, WIDE_MEAN_BITS};

use super::{Call, accumulator};
use crate::layout::{broadcast_strides, gather, zip_broadcast};

/// `affine(a * mults[0] + b * mults[1])`.
pub(super) fn add(call: &Call) -> Result<Vec<u8>, Diag> {
    let mults = call.attrs.get(attr::MULTS);
    let (ma, mb) = (mults[0] as i32, mults[1] as i32);
    let rule = call.attrs.affine(call.attrs.get(attr::OFFSET) as i32);
    let (a, b) = ((call.u8s(0)?, call.dims_of(0)), (call.u8s(1)?, call.dims_of(1)));
    Ok(zip_broadcast(a, b, call.dims, Vec::new(), |a, b| rule.apply(i32::from(a) * ma + i32::from(b) * mb)))
}

/// `requant((a - zeros[0]) * (b - zeros[1]))`.
pub(super) fn mul(call: &Call) -> Result<Vec<u8>, Diag> {
    let zeros = call.attrs.get(attr::ZEROS);
    let (za, zb) = (zeros[0] as i32, zeros[1] as i32);
    let (rule, mult) = (call.attrs.epilogue(), call.attrs.get(attr::MULT) as i32);
    let (a, b) = ((call.u8s(0)?, call.dims_of(0)), (call.u8s(1)?, call.dims_of(1)));
    let product = |a: u8, b: u8| (i32::from(a) - za) * (i32::from(b) - zb);
    Ok(zip_broadcast(a, b, call.dims, Vec::new(), |a, b| rule.apply(product(a, b), mult, 0)))
}

/// `affine(x * mult)`.
pub(super) fn rescale(call: &Call) -> Result<Vec<u8>, Diag> {
    let mult = call.attrs.get(attr::MULT) as i32;
    let rule = call.attrs.affine(call.attrs.get(attr::OFFSET) as i32);
    Ok(call.u8s(0)?.iter().map(|&x| rule.apply(i32::from(x) * mult)).collect())
}

/// `affine(x * mult[c])` with the offset `offset[c]`.
pub(super) fn scale_channels(call: &Call) -> Result<Vec<u8>, Diag> {
    let (x, mults, offsets) = (call.u8s(0)?, call.i16s(1)?, call.i32s(2)?);
    // Offsets are data and not attributes: only here can it be seen that the sums stay within 32 bits.
    for (&m, &offset) in mults.iter().zip(offsets) {
        accumulator(255 * i64::from(m) + i64::from(offset))?;
    }
    let rules: Vec<_> =
        mults.iter().zip(offsets).map(|(&m, &offset)| (i32::from(m), call.attrs.affine(offset))).collect();
    let channel = |i: usize| rules[i % rules.len()];
    let one = |(i, &x): (usize, &u8)| {
        let (mult, rule) = channel(i);
        rule.apply(i32::from(x) * mult)
    };
    Ok(x.iter().enumerate().map(one).collect())
}

/// `table[x]`.
pub(super) fn lut(call: &Call) -> Result<Data, Diag> {
    let at: Vec<usize> = match &call.operands[0].0.data {
        // Codes of 16 bits count from the least.
        Data::I16(x) => x.iter().map(|&x| usize::from(x.cast_unsigned() ^ 0x8000)).collect(),
        _ => call.u8s(0)?.iter().map(|&x| usize::from(x)).collect(),
    };
    Ok(map_data!(&call.operands[1].0.data, table => at.into_iter().map(|i| table[i]).collect()))
}

/// `min(max(x, lo), hi)`.
pub(super) fn clamp(call: &Call) -> Result<Vec<u8>, Diag> {
    let (lo, hi) = call.attrs.byte_bounds();
    Ok(call.u8s(0)?.iter().map(|&x| x.clamp(lo, hi)).collect())
}

/// `table[256 * a + b]`.
pub(super) fn lut2(call: &Call) -> Result<Vec<u8>, Diag> {
    let table = call.u8s(2)?;
    let (a, b) = ((call.u8s(0)?, call.dims_of(0)), (call.u8s(1)?, call.dims_of(1)));
    Ok(zip_broadcast(a, b, call.dims, Vec::new(), |a, b| table[usize::from(a) * 256 + usize::from(b)]))
}

/// `qcc_num::norm` of each row, which are the dimensions from `axis` on.
pub(super) fn layer_norm(call: &Call) -> Result<Data, Diag> {
    let epsilon = call.attrs.get(attr::INT_EPSILON);
    if call.attrs.get(attr::BITS) == 16 {
        let ends = [i32::from(i16::MIN), i32::from(i16::MAX)];
        return Ok(Data::I16(rows(call, [1, 2], epsilon, |row, x, m, c| row.apply(x, m, c, ends) as i16)?));
    }
    let (lo, hi) = call.attrs.byte_bounds();
    let ends = [i32::from(lo), i32::from(hi)];
    Ok(Data::U8(rows(call, [1, 2], epsilon, |row, x, m, c| row.apply(x, m, c, ends) as u8)?))
}

/// What `one` makes of each element of a row, its multiplier and its offset, which are the operands given.
pub(super) fn rows<T>(
    call: &Call,
    [mult, offset]: [usize; 2],
    epsilon: i64,
    one: impl Fn(&Row, i64, i32, i32) -> T,
) -> Result<Vec<T>, Diag> {
    let dims = [mult, offset].map(|i| call.dims_of(i));
    let (x, mult, offset) = (call.integers(0)?, call.i32s(mult)?, call.i32s(offset)?);
    if offset.iter().any(|c| c.unsigned_abs() > GREATEST_OFFSET.unsigned_abs()) {
        return Err(Diag::new(Code::OVERFLOW, "an offset of a normalization exceeds 2^30"));
    }
    let (mean_bits, [least, greatest]) = match call.operands[0].0.data {
        Data::I32(_) => (FINE_MEAN_BITS, FINE_ENDS),
        Data::I16(_) => (WIDE_MEAN_BITS, [i64::from(i16::MIN), i64::from(i16::MAX)]),
        _ => (MEAN_BITS, [0, 255]),
    };
    let x: Vec<i64> = x.into_iter().map(|x| x.clamp(least, greatest)).collect();
    let stretched = |data: &[i32], dims: &[usize]| gather(data, 0, call.dims, &broadcast_strides(dims, call.dims));
    let (mult, offset) = (stretched(mult, dims[0]), stretched(offset, dims[1]));
    let length = call.dims[call.attrs.get(attr::AXIS) as usize..].iter().product();
    // It counts from the least code; -1 stands for the mean.
    let center = Some(call.attrs.get(attr::CENTER)).filter(|&c| c >= 0).map(|c| c + least);
    let mut out = Vec::with_capacity(x.len());
    for (row, parameters) in x.chunks(length).zip(mult.chunks(length).zip(offset.chunks(length))) {
        let rule = Row::new(row.iter().copied(), mean_bits, center, epsilon);
        let constants = parameters.0.iter().zip(parameters.1);
        out.extend(row.iter().zip(constants).map(|(&x, (&m, &c))| one(&rule, x, m, c)));
    }
    Ok(out)
}

/// `e = table[max - x]`, `s = sum(e)`, `r = floor(mult * 2^32 / s)`, `min(255, floor((e * r + 2^39) / 2^40))` along the last
/// dimension; with `masked`, `e = 0` for the least code below others.
pub(super) fn softmax(call: &Call) -> Result<Data, Diag> {
    let (x, table) = (call.integers(0)?, call.i32s(1)?);
    let wide = call.attrs.get(attr::BITS) == 16;
    let greatest = if wide { 65535 } else { 255 };
    // `table[0]` is a term of every sum.
    if table[0] <= 0 || table.iter().any(|&e| e < 0) {
        return Err(Diag::new(Code::VERIFY, "the table of a softmax has a negative entry or begins with 0"));
    }
    let row_length = call.dims.last().copied().unwrap_or(1).max(1);
    let one = (call.attrs.get(attr::MULT) as u64) << 32;
    let masked = call.attrs.get(attr::MASKED);
    let least = if matches!(call.operands[0].0.data, Data::I16(_)) { i64::from(i16::MIN) } else { 0 };
    let mut out = Vec::with_capacity(x.len());
    for row in x.chunks(row_length) {
        let max = row.iter().copied().max().unwrap_or(0);
        let term = |x: i64| if masked && x == least && max > least { 0 } else { table[(max - x) as usize] as u64 };
        let reciprocal = one / row.iter().map(|&x| term(x)).sum::<u64>();
        // No term exceeds the sum, so that the product stays below 2^63.
        out.extend(row.iter().map(|&x| ((term(x) * reciprocal + (1 << 39)) >> 40).min(greatest) as u16));
    }
    Ok(match wide {
        true => Data::I16(out.into_iter().map(|q| (q ^ 0x8000).cast_signed()).collect()),
        false => Data::U8(out.into_iter().map(|q| q as u8).collect()),
    })
}
