//! Equations (13) and (16): values with scales of their own in a common one.

use super::{Scale, bits, leading, round_shift};

/// Binary exponent of the greatest factor of [`align`].
pub const ALIGN_BITS: u32 = 14;

/// For a sum of two values: the scale of `ka (a - Za) + kb (b - Zb)`, `ka` and `kb`. The factor of the operand with the
/// greater scale is `2^14`, the other's is rounded.
///
/// ```text
/// (13)  k = 2^14,  k' = round(floor(m' 2^16 / m) / 2^(2 + e - e')),  scale m 2^(e - 14)
/// ```
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "a ratio of mantissas has 17 bits; the constant is 14"
)]
pub fn align(a: Scale, b: Scale) -> [i32; 4] {
    let swapped = (b.exponent, b.mantissa) > (a.exponent, a.mantissa);
    let (great, small) = if swapped { (b, a) } else { (a, b) };
    let ratio = (i64::from(small.mantissa) << 16) / i64::from(great.mantissa);
    let shift = (2 + great.exponent - small.exponent).min(31);
    let factor = round_shift(ratio, shift) as i32;
    let (ka, kb) = if swapped { (factor, 1 << ALIGN_BITS) } else { (1 << ALIGN_BITS, factor) };
    [great.mantissa, great.exponent - ALIGN_BITS as i32, ka, kb]
}

/// The scale that some values can have in common, each of which uses so many `levels` of its codes to either side, and the
/// factors from their scales to it.
///
/// ```text
/// (16)  m' 2^e' = max(m 2^e levels) / n,   k = round(floor(m 2^16 / m') / 2^(2 + e' - e))
/// ```
#[expect(clippy::cast_possible_truncation, reason = "31 bits of a mantissa, and factors of 17 bits at most")]
pub fn common(scales: &[(Scale, i32)], levels: i32) -> Vec<i32> {
    let extent = |&(scale, levels): &(Scale, i32)| {
        let product = i64::from(scale.mantissa) * i64::from(levels);
        (scale.exponent + bits(product) - 31, leading(product))
    };
    let (exponent, mantissa) = scales.iter().map(extent).max().unwrap_or((0, 1 << 30));
    let quotient = (mantissa << 31) / i64::from(levels);
    let (mantissa, exponent) = (leading(quotient), exponent + bits(quotient) - 62);
    let factor = |&(scale, _): &(Scale, i32)| {
        let ratio = (i64::from(scale.mantissa) << 16) / mantissa;
        // The result's codes may have 16 bits: then they are up to 258 times finer.
        let shift = (2 + exponent - scale.exponent).clamp(-8, 31);
        let factor = if shift > 0 { round_shift(ratio, shift) } else { ratio << -shift };
        factor as i32
    };
    [mantissa as i32, exponent].into_iter().chain(scales.iter().map(factor)).collect()
}

/// A code of 8 or 16 bits in another scale: `Z' + floor(((q - Z) k + 2^13) / 2^14)`, limited to the storage of the result.
pub fn rescale(q: i32, zero: i32, factor: i32, new_zero: i32, [lo, hi]: [i32; 2]) -> i32 {
    let product = (q - zero).wrapping_mul(factor).wrapping_add(1 << (ALIGN_BITS - 1));
    ((product >> ALIGN_BITS) + new_zero).clamp(lo, hi)
}

/// The scale of a product of two values.
#[expect(clippy::cast_possible_truncation, reason = "31 bits")]
pub fn product(a: Scale, b: Scale) -> [i32; 2] {
    let product = i64::from(a.mantissa) * i64::from(b.mantissa);
    [leading(product) as i32, a.exponent + b.exponent + bits(product) - 31]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_aligned() {
        for (a, b) in [(1.0, 1.0), (1.0, 0.3), (0.001, 7.0), (1e-9, 1.0), (3.0, 2.9999)] {
            let [m, e, ka, kb] = align(Scale::nearest(a), Scale::nearest(b));
            let unit = Scale { mantissa: m, exponent: e }.real();
            assert!((f64::from(ka) * unit - a).abs() <= unit && (f64::from(kb) * unit - b).abs() <= unit, "{a} {b}");
            assert!(ka.max(kb) == 1 << ALIGN_BITS);
        }
    }

    #[test]
    fn values_get_a_common_scale() {
        for (a, b, levels) in [(1.0, 0.4, 127), (0.4, 1.0, 255), (1e-9, 1.0, 127), (0.7, 0.7, 127), (1.0, 2.01, 127)] {
            let scales = [(Scale::nearest(a), 127), (Scale::nearest(b), levels)];
            let c = common(&scales, 127);
            let unit = Scale::of(&c).real();
            let extent = (127.0 * a).max(f64::from(levels) * b) / 127.0;
            assert!((unit / extent - 1.0).abs() < 1e-8, "{a} {b}");
            for (factor, real) in c[2..].iter().zip([a, b]) {
                assert!(
                    (f64::from(*factor) * unit / f64::from(1 << ALIGN_BITS) - real).abs() <= unit / f64::from(1 << 14)
                );
            }
        }
        let byte = [0, 255];
        assert_eq!((rescale(228, 128, 1 << 14, 128, byte), rescale(255, 0, 8160, 128, byte)), (228, 255));
        // 640 beside 1 in codes of 16 bits.
        let [_, _, great, small] = common(&[(Scale::nearest(640.0), 127), (Scale::nearest(1.0), 255)], 32767)[..]
        else {
            panic!("a scale and two factors")
        };
        let wide = [-32768, 32767];
        assert!((rescale(255, 128, great, 0, wide) - 32767).abs() <= 1);
        assert_eq!(rescale(255, 0, small, 0, wide), 103);
        let p = Scale::of(&product(Scale::nearest(3.0), Scale::nearest(0.7))).real();
        assert!((p - 2.1).abs() < 1e-8);
    }
}
