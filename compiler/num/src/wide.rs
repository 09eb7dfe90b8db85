//! Requantization of sums of 64 bits to 8 or 16: what has more than 8 bits on either side.
//!
//! ```text
//! (20)  acc = bias + sum of factor[i] * x[i]                          exact, 64 bits
//! (21)  q   = min(max(floor((min(max(acc, -A), A) * M + C) / 2^45), lo), hi)      A = floor(2^62 / |M|)
//! ```
//!
//! `M = round(s * 2^45)` stands for the real factor `s`, which may be negative, and `C = 2^44 + Zy * 2^45`, plus a constant in units
//! of the result where the operator has one, for rounding and zero point. There is one rounding, to nearest with ties upwards;
//! `M` is wrong by at most 1/2, so that
//!
//! ```text
//! |q - (Zy + s acc)|  <=  1/2 + |acc| / 2^46          where the right value lies in [lo, hi]
//! ```
//!
//! Nothing overflows: `|x| < 2^31`, `|factor| < 2^24` and at most 8 terms keep the sum of (20) below `2^58`, `|bias| < 2^60`; the
//! product of (21) is at most `2^62` by the choice of `A`, and `|C| < 2^62`. `A` cuts off only what (21) clamps anyway: with
//! `|s| < 2^16`, `|s| A >= 2^16`, and no result of 16 bits or fewer is as far as that from its zero point.

use crate::ScaleError;

/// Binary exponent of `M`.
pub const SHIFT: u32 = 45;

/// Least magnitude of a factor `s` that is not 0: its multiplier has 10 bits.
pub const LEAST_FACTOR: f64 = 1.0 / (1u64 << 36) as f64;

/// Greatest magnitude of `bias`.
pub const GREATEST_BIAS: i64 = 1 << 60;

/// Greatest magnitude of `C`.
pub const GREATEST_OFFSET: i64 = (1 << 62) - 1;

/// Greatest magnitude of `M`.
pub const GREATEST_MULTIPLIER: i64 = 1 << 61;

/// Greatest magnitude of a factor of (20).
pub const GREATEST_FACTOR: i64 = 1 << 24;

/// Most terms of (20).
pub const MOST_TERMS: usize = 8;

/// `A` of (21): the magnitude beyond which a sum saturates.
pub fn limit(mult: i64) -> i64 {
    (1i64 << 62).checked_div(mult.saturating_abs()).unwrap_or(1 << 62)
}

/// Equation (21).
#[expect(clippy::cast_possible_truncation, reason = "clamped to two i16")]
pub fn requantize(acc: i64, mult: i64, offset: i64, lo: i16, hi: i16) -> i16 {
    let limit = limit(mult);
    let scaled = acc.clamp(-limit, limit) * mult + offset;
    (scaled >> SHIFT).clamp(i64::from(lo), i64::from(hi)) as i16
}

/// `M` for a real factor, or an error if it is not finite or its magnitude is `2^16` or more.
#[expect(clippy::cast_possible_truncation, reason = "checked to be below 2^16 before the shift by 45")]
pub fn multiplier(factor: f64) -> Result<i64, ScaleError> {
    let limit = f64::from(1u32 << 16);
    if factor.is_finite() && factor.abs() < limit {
        Ok((factor * f64::from(SHIFT).exp2()).round() as i64)
    } else {
        Err(ScaleError { scale: factor, limit })
    }
}

/// `C` for a zero point and a real constant in units of the result.
#[expect(clippy::cast_possible_truncation, reason = "17 bits before the shift by 45")]
pub fn offset(zero_point: i64, constant: f64) -> i64 {
    // What is further away than any result of 16 bits saturates the same.
    let units = (constant.clamp(-65536.0, 65535.0) * f64::from(SHIFT).exp2()).round() as i64;
    (1i64 << (SHIFT - 1)) + (zero_point << SHIFT) + units
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sweep of sums over the whole range, and around each tie, against real numbers.
    #[test]
    fn stays_within_the_stated_error() {
        for (factor, zero, lo, hi) in [
            (1.7e-7, -32768i64, -32768i16, 32767i16),
            (3.1e-3, 0, -32768, 32767),
            (-0.37, 100, 0, 255),
            (0.5, 128, 0, 255),
            (1.0, -5, -32768, 32767),
            (1234.5, 3, 0, 255),
            (40000.0, 0, -32768, 32767),
        ] {
            let (mult, c) = (multiplier(factor).unwrap(), offset(zero, 0.0));
            for step in -40_000i64..=40_000 {
                // Two results outside of the range on either side as well.
                let acc = (step as f64 / factor).round() as i64 + step % 3;
                let real = (zero as f64 + factor * acc as f64).clamp(f64::from(lo), f64::from(hi));
                let got = f64::from(requantize(acc, mult, c, lo, hi));
                let bound = 0.5 + acc.unsigned_abs() as f64 / 46f64.exp2() + 1e-9 * real.abs();
                assert!((got - real).abs() <= bound, "{acc} * {factor}: {got} for {real}");
            }
            for acc in [i64::MAX / 16, -(i64::MAX / 16), 1 << 47, -(1 << 47)] {
                let end = if (acc > 0) == (factor > 0.0) { hi } else { lo };
                assert_eq!(requantize(acc, mult, c, lo, hi), end, "{acc} * {factor}");
            }
        }
    }

    /// The greatest of everything at once stays within 64 bits; debug builds would panic.
    #[test]
    fn nothing_overflows() {
        let terms = (MOST_TERMS as i64) * GREATEST_FACTOR * (1 << 31);
        let acc = terms + GREATEST_BIAS;
        for mult in [0, 1, -1, 3, GREATEST_MULTIPLIER, -GREATEST_MULTIPLIER, (1 << 31) + 1] {
            for offset in [GREATEST_OFFSET, -GREATEST_OFFSET] {
                for acc in [acc, -acc] {
                    requantize(acc, mult, offset, i16::MIN, i16::MAX);
                }
            }
        }
        for constant in [f64::INFINITY, f64::NEG_INFINITY] {
            for zero in [-32768, 32767] {
                assert!(offset(zero, constant).abs() <= GREATEST_OFFSET);
            }
        }
        assert!(multiplier(65536.0).is_err() && multiplier(f64::NAN).is_err());
        assert!(multiplier(65535.9).unwrap() <= GREATEST_MULTIPLIER);
    }

    #[test]
    fn ties_go_upwards_and_constants_add() {
        let half = multiplier(0.5).unwrap();
        assert_eq!(requantize(3, half, offset(0, 0.0), -10, 10), 2);
        assert_eq!(requantize(-3, half, offset(0, 0.0), -10, 10), -1);
        assert_eq!(requantize(100, 0, offset(7, -2.25), 0, 255), 5);
    }
}
