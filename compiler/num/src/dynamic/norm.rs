//! Equation (22): what a normalization adds to the squares of codes whose scale a run finds.

use super::{Scale, bits};
use crate::norm::GREATEST_EPSILON;

/// Bits that the quotients of (22) lack.
pub const DROPPED_BITS: i32 = 91;

/// `E` of [`crate::norm`] equation (24) for codes of scale `m 2^e`, where `A 2^a` is `epsilon * 2^20 * n` and `A` below `2^31`.
///
/// ```text
/// (22)  r = floor(2^61 / m),  p = floor(A r / 2^31) r,  E = floor(p 2^(a - 2e - 91)), at most 2^62
/// ```
///
/// `p` keeps 30 bits, and of them `E` those that are at least 1.
pub fn epsilon(mantissa: i32, exponent: i32, scale: Scale) -> i64 {
    let inverse = (1i64 << 61) / i64::from(scale.mantissa);
    let product = ((i64::from(mantissa) * inverse) >> 31) * inverse;
    let shift = exponent - 2 * scale.exponent - DROPPED_BITS;
    if product > 0 && bits(product) + shift > bits(GREATEST_EPSILON) - 1 {
        return GREATEST_EPSILON;
    }
    product << shift.clamp(0, 63) >> (-shift).clamp(0, 63)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dynamic::mantissas;

    #[test]
    fn follows_the_real_quotient() {
        for scale in [1.0, 0.37, 1e-4, 900.0] {
            for (eps, n) in [(1e-5, 768), (1e-12, 64), (1e-3, 5), (0.0, 9)] {
                let (a, exponent) = mantissas(&[eps * 1048576.0 * f64::from(n)]);
                let found = epsilon(a[0], exponent, Scale::nearest(scale));
                let wanted = crate::norm::epsilon(eps, scale, crate::norm::MEAN_BITS, n as usize);
                assert!((found - wanted).abs() <= 1 + (wanted >> 27), "{scale} {eps} {n}: {found} for {wanted}");
            }
        }
    }

    #[test]
    fn extremes_fit() {
        let scale = |mantissa, exponent| Scale { mantissa, exponent };
        assert_eq!(epsilon(i32::MAX, 1000, scale(1 << 30, -(1 << 24))), GREATEST_EPSILON);
        assert_eq!(epsilon(i32::MAX, -1000, scale(i32::MAX, 1 << 24)), 0);
        assert_eq!(epsilon(0, 0, scale(1 << 30, -(1 << 24))), 0);
        // 2^30 * 2^31 / 2^31 * 2^31 = 2^61, one bit below the greatest.
        assert_eq!(epsilon(1 << 30, 0, scale(1 << 30, -46)), GREATEST_EPSILON);
        assert_eq!(epsilon(1 << 30, -1, scale(1 << 30, -45)), 1 << 59);
    }
}
