//! Sums of 8-bit values times 16-bit multipliers, with one rounding.
//!
//! ```text
//! (5)  q = min(max(floor((a * Ma + b * Mb + C) / 2^n), lo), hi)
//! ```
//!
//! `Ma = round(Sa / Sy * 2^n)` and likewise `Mb`; `C = 2^(n-1) + Zy * 2^n - Za * Ma - Zb * Mb` holds the rounding and all zero
//! points. `n` is the greatest shift of at most 22 that keeps every multiplier within 16 bits. The error before rounding stays
//! below 255 / 2^(n+1) units an operand: below 1/128 where every ratio is below 2, so that `n` is at least 14. Nothing overflows 32 bits:
//! `|a * Ma| < 2^23`, `Zy * 2^n < 2^30`. One `vpmaddwd` computes both products.

use crate::ScaleError;

/// Greatest shift `n` of (5).
pub const MAX_SHIFT: u32 = 22;

/// The constants of (5) without the multipliers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Affine {
    /// Right shift `n`.
    pub shift: u32,
    /// Offset `C`.
    pub offset: i32,
    /// Least result.
    pub lo: u8,
    /// Greatest result.
    pub hi: u8,
}

impl Affine {
    /// Equation (5) for a sum of products `a * Ma + b * Mb`.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to bytes")]
    pub fn apply(&self, sum: i32) -> u8 {
        ((sum + self.offset) >> self.shift).clamp(i32::from(self.lo), i32::from(self.hi)) as u8
    }
}

/// The shift `n` and the multipliers for real factors, which may be negative or zero.
///
/// Fails if a factor is not finite or its magnitude is `2^15` or more.
#[expect(clippy::cast_possible_truncation, reason = "the shift is chosen so that the greatest fits")]
pub fn multipliers(factors: &[f64]) -> Result<(u32, Vec<i16>), ScaleError> {
    let largest = factors.iter().fold(0.0, |m: f64, s| if s.is_finite() { m.max(s.abs()) } else { f64::INFINITY });
    let scaled = |s: f64, n: u32| (s * f64::from(n).exp2()).round();
    match (0..=MAX_SHIFT).rev().find(|&n| scaled(largest, n) <= f64::from(i16::MAX)) {
        Some(n) => Ok((n, factors.iter().map(|&s| scaled(s, n) as i16).collect())),
        None => Err(ScaleError { scale: largest, limit: 32768.0 }),
    }
}

/// The shift `n` and multipliers of up to 32 bits for the sum of at most two operands: the greatest shift of at most 22 with
/// which (5) stays within 32 bits whatever the operands are, `2^n (255 sum|s| + 257) < 2^30`. The error before rounding is below
/// `255 / 2^(n+1)` units an operand: below 1/4000 for `sum|s| < 3`.
///
/// Fails if a factor is not finite or the sum of their magnitudes is `2^15` or more.
#[expect(clippy::cast_possible_truncation, reason = "the sum of magnitudes bounds each by 2^30")]
pub fn wide_multipliers(factors: &[f64]) -> Result<(u32, Vec<i32>), ScaleError> {
    let sum = factors.iter().fold(0.0, |sum: f64, s| if s.is_finite() { sum + s.abs() } else { f64::INFINITY });
    let reach = |n: u32| (255.0 * sum + 257.0) * f64::from(n).exp2();
    match (0..=MAX_SHIFT).rev().find(|&n| reach(n) < f64::from(1u32 << 30)) {
        Some(n) if sum < 32768.0 => Ok((n, factors.iter().map(|s| (s * f64::from(n).exp2()).round() as i32).collect())),
        _ => Err(ScaleError { scale: sum, limit: 32768.0 }),
    }
}

/// The offset `C` of (5) for an output zero point and `(zero point, multiplier)` of each operand.
pub fn offset<M: Into<i32> + Copy>(shift: u32, zero_point: u8, operands: &[(u8, M)]) -> i32 {
    let rounding = (1i32 << shift) >> 1;
    let zeros: i32 = operands.iter().map(|&(z, m)| i32::from(z) * m.into()).sum();
    rounding + (i32::from(zero_point) << shift) - zeros
}

/// How far from the nearest multiplier [`line`] looks.
const RADIUS: i16 = 24;

/// Greatest magnitude of an offset that [`line`] gives: with it (5) stays within 32 bits.
const GREATEST_OFFSET: i64 = 1 << 30;

/// The multiplier `M` and offset `C` with which `floor((x * M + C) / 2^shift)`, clamped, is `round_half_even(factor * x + term)`, clamped,
/// for each of the 256 codes `x`, so that one operand has no error beside its rounding: the nearest multiplier, and the offset in the
/// middle of those that suit it. `None` where neither this nor a neighbour gives all of them.
#[expect(clippy::cast_possible_truncation, reason = "codes are bytes, offsets are limited")]
pub fn line(shift: u32, factor: f64, term: f64) -> Option<(i16, i32)> {
    let nearest = (factor * f64::from(shift).exp2()).round();
    let nearest = if nearest.abs() <= f64::from(i16::MAX) { nearest as i16 } else { return None };
    let wanted = |x: i64| (factor * x as f64 + term).round_ties_even().clamp(0.0, 255.0) as i64;
    let offset = |m: i16| {
        let (mut least, mut beyond) = (-GREATEST_OFFSET, GREATEST_OFFSET);
        for x in 0..256 {
            let (y, product) = (wanted(x), x * i64::from(m));
            if y > 0 {
                least = least.max((y << shift) - product);
            }
            if y < 255 {
                beyond = beyond.min(((y + 1) << shift) - product);
            }
        }
        (least < beyond).then(|| ((least + beyond - 1) >> 1) as i32)
    };
    let near = (0..=RADIUS).flat_map(|d| [nearest.checked_add(d), nearest.checked_sub(d)]).flatten();
    near.into_iter().find_map(|m| Some((m, offset(m)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All pairs of 8-bit operands for several ratios and zero points.
    #[test]
    fn addition_is_within_its_error_on_all_pairs() {
        for (ra, rb, za, zb, zy) in
            [(0.5, 0.7, 0u8, 0u8, 0u8), (1.3, 0.01, 128, 3, 77), (90.0, 1.0, 254, 0, 255), (-0.4, 0.4, 9, 9, 128)]
        {
            let (shift, m) = multipliers(&[ra, rb]).unwrap();
            let rule = Affine { shift, offset: offset(shift, zy, &[(za, m[0]), (zb, m[1])]), lo: 0, hi: 255 };
            for a in 0..=255u8 {
                for b in 0..=255u8 {
                    let got = f64::from(rule.apply(i32::from(a) * i32::from(m[0]) + i32::from(b) * i32::from(m[1])));
                    let real =
                        f64::from(zy) + ra * (f64::from(a) - f64::from(za)) + rb * (f64::from(b) - f64::from(zb));
                    let bound = 0.5 + 2.0 * 255.0 * 0.5 / f64::from(shift).exp2() + 1e-9;
                    assert!((got - real.clamp(0.0, 255.0)).abs() <= bound, "{a} {b}: {got} for {real}");
                }
            }
        }
    }

    /// With wide multipliers the sum is the rounded real one wherever that is not within 1/1000 of a tie.
    #[test]
    fn wide_addition_rounds_the_real_sum() {
        for (ra, rb, za, zb, zy) in [(0.5123, 0.7321, 0u8, 0u8, 0u8), (1.3, 0.01, 128, 3, 77), (-0.4, 0.41, 9, 9, 128)]
        {
            let (shift, m) = wide_multipliers(&[ra, rb]).unwrap();
            let rule = Affine { shift, offset: offset(shift, zy, &[(za, m[0]), (zb, m[1])]), lo: 0, hi: 255 };
            for a in 0..=255u8 {
                for b in 0..=255u8 {
                    let got = f64::from(rule.apply(i32::from(a) * m[0] + i32::from(b) * m[1]));
                    let real =
                        f64::from(zy) + ra * (f64::from(a) - f64::from(za)) + rb * (f64::from(b) - f64::from(zb));
                    assert!((got - real.clamp(0.0, 255.0)).abs() <= 0.501, "{a} {b}: {got} for {real}");
                }
            }
        }
        assert!(wide_multipliers(&[f64::NAN, 1.0]).is_err() && wide_multipliers(&[20000.0, 20000.0]).is_err());
        let (shift, m) = wide_multipliers(&[16000.0, -16000.0]).unwrap();
        assert!(255 * (i64::from(m[0]) - i64::from(m[1])) + (257 << shift) < 1 << 31);
    }

    /// Every code of a line that was found is the rounded real one; lines are found for nearly all types.
    #[test]
    fn lines_round_every_code_as_real_numbers() {
        let mut found = 0;
        for i in 0..64u8 {
            let wave = |k: f64| (k * (f64::from(i) + 0.7)).sin();
            let (factor, term) = (0.05 + 2.0 * wave(1.3), 128.0 + 200.0 * wave(2.7));
            let (shift, _) = multipliers(&[factor]).unwrap();
            let Some((m, offset)) = line(shift, factor, term) else { continue };
            found += 1;
            let rule = Affine { shift, offset, lo: 0, hi: 255 };
            for x in 0..=255u8 {
                let real = (factor * f64::from(x) + term).round_ties_even().clamp(0.0, 255.0);
                assert!((f64::from(rule.apply(i32::from(x) * i32::from(m))) - real).abs() < 0.1, "{x} {factor} {term}");
            }
        }
        assert!(found >= 58, "{found} of 64");
        // A term far beyond the bytes, a factor beyond the multipliers.
        let (m, offset) = line(14, 1.0, 1e30).unwrap();
        assert_eq!(Affine { shift: 14, offset, lo: 0, hi: 255 }.apply(255 * i32::from(m)), 255);
        assert!(line(14, 3.0, 0.0).is_none());
    }

    #[test]
    fn factors_outside_the_rule_are_refused() {
        assert!(multipliers(&[40000.0]).is_err());
        assert!(multipliers(&[f64::NAN, 1.0]).is_err());
        assert_eq!(multipliers(&[1.0]).unwrap(), (14, vec![1 << 14]));
        assert_eq!(multipliers(&[0.0]).unwrap(), (MAX_SHIFT, vec![0]));
    }
}
