//! Values whose scale is found at run time: the range of accumulators, what follows from it, and sums.

use qcc_ir::Diag;
use qcc_ir::diag::Code;
use qcc_num::dynamic::{self, Rule, Scale};

use super::Call;

/// Least and greatest of each channel over every `rows` positions: `[parts, 2, C]`.
pub(super) fn extrema(call: &Call) -> Result<Vec<i32>, Diag> {
    let channels = call.dims_of(0).last().copied().unwrap_or(1).max(1);
    let rows = usize::try_from(call.attrs.int("rows")).unwrap_or(1).max(1);
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
    let exponent = |name: &str| call.attrs.int(name) as i32;
    let rule = Rule {
        weight_exponent: exponent("weight_exponent"),
        bias_exponent: exponent("bias_exponent"),
        rectify: call.attrs.bool("rectify"),
    };
    Ok(rule.parameters(&extrema, Scale::of(scale), weights, biases))
}

/// Equation (12).
pub(super) fn requant(call: &Call) -> Result<Vec<u8>, Diag> {
    let (acc, params) = (call.i32s(0)?, call.i32s(1)?);
    let (channels, rectify) = ((params.len() - dynamic::HEADER) / 2, call.attrs.bool("rectify"));
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
    let zeros = call.attrs.ints("zeros");
    let term = |x: u8, i: usize| (i32::from(x) - zeros[i] as i32).wrapping_mul(factors[2 + i]);
    Ok(a.iter().zip(b).map(|(&a, &b)| term(a, 0).wrapping_add(term(b, 1))).collect())
}
