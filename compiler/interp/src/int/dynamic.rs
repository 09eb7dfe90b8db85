//! Values whose scale is found at run time: the range of accumulators, what follows from it, and sums.

use qcc_ir::diag::Code;
use qcc_ir::{Data, Diag, attr};
use qcc_num::dynamic::{self, Curve, INTERVALS, PART_ROW, ROW, Rule, Samples, Scale};
use qcc_num::norm::Row;

use super::{Call, elementwise};
use crate::layout::zip_broadcast;

/// Least and greatest of each channel over every `rows` positions: `[parts, 2, C]`.
pub(super) fn extrema(call: &Call) -> Result<Vec<i32>, Diag> {
    let channels = call.dims_of(0).last().copied().unwrap_or(1).max(1);
    let rows = usize::try_from(call.attrs.get(attr::ROWS)).unwrap_or(1).max(1);
    let mut result = Vec::with_capacity(call.dims.iter().product());
    for part in call.i32s(0)?.chunks(rows * channels) {
        let (mut least, mut greatest) = (vec![i32::MAX; channels], vec![i32::MIN; channels]);
        for position in part.chunks(channels) {
            least.iter_mut().zip(position).for_each(|(l, &x)| *l = (*l).min(x));
            greatest.iter_mut().zip(position).for_each(|(g, &x)| *g = (*g).max(x));
        }
        result.extend(least);
        result.extend(greatest);
    }
    Ok(result)
}

/// Equations (8) to (11).
pub(super) fn scale(call: &Call) -> Result<Vec<i32>, Diag> {
    let (parts, scale, weights, biases) = (call.i32s(0)?, call.i32s(1)?, call.i32s(2)?, call.i32s(3)?);
    let channels = weights.len();
    // What keeps (8) to (11) within their bits.
    if weights.iter().any(|w| !(1 << 18..).contains(w)) {
        return Err(Diag::new(Code::VERIFY, "a mantissa of a weight's scale is below 2^18"));
    }
    let mut extrema = vec![(i32::MAX, i32::MIN); channels];
    for part in parts.chunks(2 * channels) {
        for (c, (least, greatest)) in extrema.iter_mut().enumerate() {
            *least = (*least).min(part[c]);
            *greatest = (*greatest).max(part[channels + c]);
        }
    }
    let exponent = |key| call.attrs.get(key) as i32;
    let rule = Rule {
        weight_exponent: exponent(attr::WEIGHT_EXPONENT),
        bias_exponent: exponent(attr::BIAS_EXPONENT),
        rectify: call.attrs.get(attr::RECTIFY),
        ceiling_exponent: exponent(attr::CEILING_EXPONENT),
    };
    let ceilings = if call.operands.len() > 4 { call.i32s(4)? } else { &[] };
    if ceilings.iter().any(|&t| t < 0) {
        return Err(Diag::new(Code::VERIFY, "a greatest value is below 0"));
    }
    Ok(rule.parameters(&extrema, Scale::of(scale), weights, biases, ceilings))
}

/// Equation (12).
pub(super) fn requant(call: &Call) -> Result<Vec<u8>, Diag> {
    let (acc, params) = (call.i32s(0)?, call.i32s(1)?);
    let (channels, rectify) = (call.dims.last().copied().unwrap_or(1), call.attrs.get(attr::RECTIFY));
    let code = |(i, &acc): (usize, &i32)| dynamic::requantize(acc, params, i % channels, channels, rectify);
    Ok(acc.iter().enumerate().map(code).collect())
}

/// Equation (13).
pub(super) fn align(call: &Call) -> Result<Vec<i32>, Diag> {
    Ok(dynamic::align(Scale::of(call.i32s(0)?), Scale::of(call.i32s(1)?)).to_vec())
}

/// `(a - Za) * ka + (b - Zb) * kb`.
pub(super) fn add(call: &Call) -> Result<Vec<i32>, Diag> {
    let (a, b, factors) = (call.u8s(0)?, call.u8s(1)?, call.i32s(2)?);
    let zeros = call.attrs.get(attr::ZEROS);
    let term = |x: u8, i: usize| (i32::from(x) - zeros[i] as i32).wrapping_mul(factors[2 + i]);
    Ok(a.iter().zip(b).map(|(&a, &b)| term(a, 0).wrapping_add(term(b, 1))).collect())
}

/// Equation (16).
pub(super) fn common(call: &Call) -> Result<Vec<i32>, Diag> {
    let levels = call.attrs.get(attr::LEVELS);
    let scales = (0..call.operands.len()).map(|i| Ok((Scale::of(call.i32s(i)?), levels[i] as i32)));
    Ok(dynamic::common(&scales.collect::<Result<Vec<_>, Diag>>()?, levels[call.operands.len()] as i32))
}

/// Codes in another scale.
pub(super) fn rescale(call: &Call) -> Result<Data, Diag> {
    let number = |key| call.attrs.get(key) as i32;
    let factor = call.i32s(1)?[2 + number(attr::INDEX) as usize];
    let (zero, new_zero) = (number(attr::ZERO), number(attr::RESULT_ZERO));
    let x = call.integers(0)?.into_iter();
    let code = |q: i64, ends| dynamic::rescale(q as i32, zero, factor, new_zero, ends);
    Ok(match call.attrs.get(attr::BITS) {
        16 => Data::I16(x.map(|q| code(q, [i32::from(i16::MIN), i32::from(i16::MAX)]) as i16).collect()),
        _ => Data::U8(x.map(|q| code(q, [0, 255]) as u8).collect()),
    })
}

/// The scale of a product.
pub(super) fn product_scale(call: &Call) -> Result<Vec<i32>, Diag> {
    Ok(dynamic::product(Scale::of(call.i32s(0)?), Scale::of(call.i32s(1)?)).to_vec())
}

/// `(a - Za) * (b - Zb)`, operands broadcast.
pub(super) fn multiply(call: &Call) -> Result<Vec<i32>, Diag> {
    let (a, b, zeros) = (call.u8s(0)?, call.u8s(1)?, call.attrs.get(attr::ZEROS));
    let centred = |x: u8, i: usize| i32::from(x) - zeros[i] as i32;
    let (a, b) = ((a, call.dims_of(0)), (b, call.dims_of(1)));
    Ok(zip_broadcast(a, b, call.dims, Vec::new(), |a, b| centred(a, 0) * centred(b, 1)))
}

/// Equations (17) and (18).
pub(super) fn table(call: &Call) -> Result<Vec<i32>, Diag> {
    let (scale, rows) = (Scale::of(call.i32s(0)?), call.i32s(1)?);
    // What keeps (17) within 64 bits: only the coarsest grid goes on beyond its ends.
    let steep = |i: usize| (i64::from(rows[i + 1]) - i64::from(rows[i])).abs() > 1 << 22;
    let is_far = |row: &[i32]| {
        row[..=INTERVALS].iter().any(|v| v.unsigned_abs() > 1 << 30) || row[INTERVALS + 1].unsigned_abs() > 1 << 24
    };
    if rows.chunks(ROW).any(is_far) || steep(0) || steep(INTERVALS - 1) {
        return Err(Diag::new(Code::VERIFY, "a sample is beyond 2^30, or a function too steep at its end"));
    }
    let number = |key| call.attrs.get(key) as i32;
    Ok(Samples { rows }.table(scale, number(attr::ZERO), number(attr::RESULT_ZERO)))
}

/// Equations (29) and (30).
pub(super) fn curve(call: &Call) -> Result<Vec<i32>, Diag> {
    let (scale, numbers, x) = (Scale::of(call.i32s(0)?), call.i32s(1)?, call.u8s(2)?);
    // What keeps (29) and (30) within 64 bits.
    let (samples, at_zero) = numbers.split_at(numbers.len() - 2);
    let rows = samples.chunks(PART_ROW).map(|row| row.split_at(PART_ROW - 1)).chain([at_zero.split_at(1)]);
    let is_far = |(values, exponent): (&[i32], &[i32])| {
        values.iter().any(|v| v.unsigned_abs() > 1 << 30) || exponent[0].unsigned_abs() > 1 << 24
    };
    if rows.into_iter().any(is_far) {
        return Err(Diag::new(Code::VERIFY, "a sample of a curve is beyond 2^30"));
    }
    let number = |key| call.attrs.get(key) as i32;
    let codes = [x.iter().copied().min().unwrap_or(0), x.iter().copied().max().unwrap_or(0)];
    let curve = Curve { numbers, half: call.attrs.get(attr::HALF) };
    Ok(curve.table(scale, number(attr::ZERO), number(attr::RESULT_ZERO), codes))
}

/// Equation (19).
pub(super) fn exponentials(call: &Call) -> Result<Vec<i32>, Diag> {
    let samples = call.i32s(1)?;
    if samples.iter().any(|&x| x <= 0) {
        return Err(Diag::new(Code::VERIFY, "a sample of a power of 2 is not positive"));
    }
    Ok(dynamic::exponentials(Scale::of(call.i32s(0)?), samples))
}

/// `qcc_num::norm` of each row with the `E` of equation (22).
pub(super) fn norm(call: &Call) -> Result<Vec<i32>, Diag> {
    let number = |key| call.attrs.get(key) as i32;
    let epsilon = dynamic::epsilon(number(attr::INT_EPSILON), number(attr::EXPONENT), Scale::of(call.i32s(1)?));
    elementwise::rows(call, [2, 3], epsilon, Row::scaled)
}

/// A code for each code.
pub(super) fn look_up(call: &Call) -> Result<Vec<u8>, Diag> {
    let table = &call.i32s(1)?[2..];
    Ok(call.u8s(0)?.iter().map(|&q| table[usize::from(q / 4)].to_le_bytes()[usize::from(q % 4)]).collect())
}
