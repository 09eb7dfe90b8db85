//! Normalization of a row of values of 8, 16 or 24 bits to mean 0 and deviation 1 in integers, with an exact square root.
//!
//! For a row `x` of `n` codes, multipliers `M` and offsets `C`, with `f` of 10 for codes of 8 bits, of 2 for 16 and of 0 for 24:
//!
//! ```text
//! (23)  m = floor((2^f * sum(x) + floor(n / 2)) / n)        the mean, with f fraction bits
//!       or m = 2^f * center, where deviations are from a code that is given: root mean square normalization
//! (24)  d = 2^f * x - m,  w = max(1, E + sum(d^2))          64 bits; E = round(epsilon / Sx^2 * 2^(2 f) * n)
//! (25)  t = floor(leading_zeros(w) / 2),  g = floor(2^63 / floor(sqrt(w * 4^t)))
//! (26)  u = floor(d * g / 2^(33 - t))                       d / sqrt(w), in [-1, 1], with 30 fraction bits
//! (27)  q = min(max(floor((floor(u * M / 2^32) + C) / 2^6), lo), hi)
//! ```
//!
//! `(x - mean) / sqrt(var + epsilon)` is `d * sqrt(n) / sqrt(w)`, so that `M = round(gamma * sqrt(n) / Sy * 2^8)` and
//! `C = 2^5 + 2^6 * (Zy + beta / Sy)` give `gamma * normal + beta` in units of `Sy`. The result's error before the rounding of
//! (27): 1/64 from its inner floor, and `gamma / Sy` times the relative errors of `g` (2^-31) and of the mean, half of 2^-f
//! of a code over the row's deviation.
//!
//! `|d| < 2^18`, so that rows of up to 2^26 elements keep `w` below `2^63`; `|u| <= 2^30 + 1` fits 32 bits.

use crate::ScaleError;
use crate::fixed::mul_high;
use crate::requant::FRACTION_BITS;

/// Longest row for which (24) fits 64 bits.
pub const LONGEST_ROW: usize = 1 << 26;

/// The same for codes of 24 bits.
pub const LONGEST_FINE_ROW: usize = 1 << 13;

/// Greatest `E`.
pub const GREATEST_EPSILON: i64 = 1 << 62;

/// Greatest magnitude of an offset `C`.
pub const GREATEST_OFFSET: i32 = 1 << 30;

/// Fraction bits of the mean of codes of 8 bits.
pub const MEAN_BITS: u32 = 10;

/// Those of codes of 16 bits, whose deviations have as many bits then.
pub const WIDE_MEAN_BITS: u32 = 2;

/// Those of codes of 24 bits. What is beyond them counts as their least or greatest.
pub const FINE_MEAN_BITS: u32 = 0;

/// The least and the greatest code of 24 bits.
pub const FINE_ENDS: [i64; 2] = [-(1 << 23), (1 << 23) - 1];

/// What (23) to (25) find out about a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Fraction bits `f`.
    pub mean_bits: u32,
    /// Mean `m`.
    pub mean: i64,
    /// Reciprocal `g`.
    pub reciprocal: i64,
    /// Right shift `33 - t` of (26).
    pub shift: u32,
}

impl Row {
    /// Equations (23) to (25), deviations being from the row's mean or from `center`. The row is not empty and not longer than
    /// [`LONGEST_ROW`]; with [`MEAN_BITS`] codes have 8 bits, with [`WIDE_MEAN_BITS`] 16, and with
    /// [`FINE_MEAN_BITS`] 24.
    #[expect(
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss,
        reason = "the variance is positive and below 2^63; its reciprocal has 32 bits"
    )]
    pub fn new(x: impl Iterator<Item = i64> + Clone, mean_bits: u32, center: Option<i64>, epsilon: i64) -> Row {
        let (sum, n) = x.clone().fold((0i64, 0i64), |(s, n), x| (s + x, n + 1));
        let mean = match center {
            None => ((sum << mean_bits) + n / 2).div_euclid(n.max(1)),
            Some(center) => center << mean_bits,
        };
        let square = |x: i64| ((x << mean_bits) - mean).pow(2);
        let w = (epsilon + x.map(square).sum::<i64>()).max(1) as u64;
        let t = w.leading_zeros() / 2;
        let reciprocal = (1u64 << 63) / (w << (2 * t)).isqrt();
        Row { mean_bits, mean, reciprocal: reciprocal as i64, shift: 33 - t }
    }

    /// Equation (26), and of (27) `floor(u * M / 2^32) + C`.
    #[expect(clippy::cast_possible_truncation, reason = "a normalized element of a row has 31 bits: equation (26)")]
    pub fn scaled(&self, x: i64, mult: i32, offset: i32) -> i32 {
        let d = (x << self.mean_bits) - self.mean;
        let u = (d * self.reciprocal) >> self.shift;
        mul_high(u as i32, mult) + offset
    }

    /// Equations (26) and (27).
    pub fn apply(&self, x: i64, mult: i32, offset: i32, [lo, hi]: [i32; 2]) -> i32 {
        (self.scaled(x, mult, offset) >> FRACTION_BITS).clamp(lo, hi)
    }
}

/// The constant `E` of (24) for rows of `n` elements.
#[expect(clippy::cast_possible_truncation, reason = "clamped to less than 2^62")]
pub fn epsilon(epsilon: f64, scale: f64, mean_bits: u32, n: usize) -> i64 {
    let e = epsilon / (scale * scale) * f64::from(1u32 << (2 * mean_bits)) * n as f64;
    e.round().clamp(0.0, GREATEST_EPSILON as f64 / 2.0) as i64
}

/// The multiplier `M` for `gamma / Sy` and rows of `n` elements.
#[expect(clippy::cast_possible_truncation, reason = "checked to be below 2^31")]
pub fn multiplier(ratio: f64, n: usize) -> Result<i32, ScaleError> {
    let m = (ratio * (n as f64).sqrt() * 256.0).round();
    if m.abs() < f64::from(i32::MAX) { Ok(m as i32) } else { Err(ScaleError { scale: ratio, limit: 8388608.0 }) }
}

/// The offset `C` for a zero point and `beta / Sy`.
#[expect(clippy::cast_possible_truncation, reason = "clamped to less than 2^31")]
pub fn offset(zero_point: i32, ratio: f64) -> i32 {
    let c = 32.0 + 64.0 * f64::from(zero_point) + (64.0 * ratio).round();
    c.clamp(-f64::from(GREATEST_OFFSET), f64::from(GREATEST_OFFSET)) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(x: &[i64], eps: f64, bound: f64) {
        let (wide, n) = (x.iter().any(|x| !(0..256).contains(x)), x.len() as f64);
        let (scale, out, zero, ends, bits) = match wide {
            false => (0.02, 0.03, 120, [0, 255], MEAN_BITS),
            true => (0.02 / 256.0, 0.03 / 256.0, -300, [-32768, 32767], WIDE_MEAN_BITS),
        };
        let mean = x.iter().map(|&x| x as f64).sum::<f64>() / n;
        let var = x.iter().map(|&x| (x as f64 - mean).powi(2)).sum::<f64>() / n;
        let row = Row::new(x.iter().copied(), bits, None, epsilon(eps, scale, bits, x.len()));
        for (gamma, beta) in [(1.0, 0.0), (-0.3, 0.5), (0.01, -1.0)] {
            let (m, c) = (multiplier(gamma / out, x.len()).unwrap(), offset(zero, beta / out));
            for &x in x {
                let real = gamma * (x as f64 - mean) * scale / (var * scale * scale + eps).sqrt() + beta;
                let wanted = (f64::from(zero) + real / out).clamp(f64::from(ends[0]), f64::from(ends[1]));
                let got = f64::from(row.apply(x, m, c, ends));
                assert!((got - wanted).abs() <= 0.5 + bound, "{got} for {wanted}");
            }
        }
    }

    #[test]
    fn rows_against_real_numbers() {
        let mut state = 1u32;
        let mut next = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            i64::from(state >> 16)
        };
        for n in [1, 2, 3, 7, 64, 197, 768, 5000] {
            let x: Vec<i64> = (0..n).map(|_| next() >> 8).collect();
            check(&x, 1e-5, 0.05);
            let narrow: Vec<i64> = x.iter().map(|x| 100 + x % 3).collect();
            check(&narrow, 1e-5, 0.1);
            let wide: Vec<i64> = (0..n).map(|_| next() - 32768).collect();
            check(&wide, 1e-5, 0.1);
        }
        check(&[7; 30], 1e-12, 0.05);
        check(&[0, 255], 0.0, 0.05);
        check(&[-32768, 32767], 0.0, 0.1);
    }

    #[test]
    fn extremes_fit() {
        let row = Row::new([0i64; 9].into_iter(), MEAN_BITS, None, 0);
        assert_eq!((row.mean, row.shift), (0, 2));
        let all = Row::new((0..100_000i64).map(|i| i % 2 * 255), MEAN_BITS, None, GREATEST_EPSILON);
        assert_eq!(all.apply(255, i32::MAX, GREATEST_OFFSET, [0, 255]), 255);
        let wide = Row::new((0..100_000i64).map(|i| i % 2 * 65535 - 32768), WIDE_MEAN_BITS, None, GREATEST_EPSILON);
        assert_eq!(wide.apply(32767, i32::MAX, GREATEST_OFFSET, [-32768, 32767]), 32767);
        assert!(multiplier(1e9, 4).is_err());
    }
}
