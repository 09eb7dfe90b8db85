//! Requantization of sums of 64 bits to 8, 16 or 24: what has more than 8 bits on either side.
//!
//! ```text
//! (20)  acc = bias + sum of factor[i] * x[i]                          exact, 64 bits
//! (21)  q   = min(max(floor((min(max(acc, -A), A) * M + C) / 2^f), lo), hi)      A = floor(2^62 / |M|)
//! ```
//!
//! `f` is 45, and 37 for results of 24 bits. `M = round(s * 2^f)` stands for the real factor `s`, which may be negative, and `C = 2^(f - 1) + Zy * 2^f`, plus a constant in units
//! of the result where the operator has one, for rounding and zero point. There is one rounding, to nearest with ties upwards;
//! `M` is wrong by at most 1/2, so that
//!
//! ```text
//! |q - (Zy + s acc)|  <=  1/2 + |acc| / 2^(f + 1)          where the right value lies in [lo, hi]
//! ```
//!
//! Nothing overflows: `|x| < 2^31`, `|factor| < 2^24` and at most 8 terms keep the sum of (20) below `2^58`, `|bias| < 2^60`; the
//! product of (21) is at most `2^62` by the choice of `A`, and `|C| < 2^62`. `A` cuts off only what (21) clamps anyway: with
//! `|s| < 2^16`, `|s| A >= 2^16`, and no result of 16 bits or fewer is as far as that from its zero point.
//!
//! Quotients of two values, with `M = round(s * 2^k)` of 45 bits and `trunc` towards 0:
//!
//! ```text
//! (28)  q = min(max(floor((trunc(M (a - Za) / (b - Zb)) + 2^(k - 1)) / 2^k) + Zy, lo), hi)
//! ```
//!
//! What is divided by 0 is `hi`, `lo`, or `Zy` for 0. `|M (a - Za)| < 2^61`, and the quotient keeps `k` fraction bits.

use crate::ScaleError;

/// Binary exponent `f` of `M`.
pub const SHIFT: u32 = 45;

/// The same for results of 24 bits.
pub const FINE_SHIFT: u32 = 37;

/// The least code of 24 bits is the negated one of these.
pub const FINE_CODES: i64 = 1 << 23;

/// `f` for results of so many bits.
pub fn shift_of(bits: u32) -> u32 {
    if bits > 16 { FINE_SHIFT } else { SHIFT }
}

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

/// Greatest `k` of (28).
pub const GREATEST_QUOTIENT_SHIFT: u32 = 61;

/// Greatest `M` of (28).
pub const GREATEST_QUOTIENT_MULTIPLIER: i64 = 1 << 45;

/// `A` of (21): the magnitude beyond which a sum saturates.
pub fn limit(mult: i64) -> i64 {
    (1i64 << 62).checked_div(mult.saturating_abs()).unwrap_or(1 << 62)
}

/// Equation (21).
pub fn requantize(acc: i64, mult: i64, offset: i64, shift: u32, [lo, hi]: [i64; 2]) -> i64 {
    let limit = limit(mult);
    let scaled = acc.clamp(-limit, limit) * mult + offset;
    (scaled >> shift).clamp(lo, hi)
}

/// `M` for a real factor, or an error if it is not finite or its magnitude is `2^16` or more.
#[expect(clippy::cast_possible_truncation, reason = "checked to be below 2^16 before the shift by 45")]
pub fn multiplier(factor: f64, shift: u32) -> Result<i64, ScaleError> {
    let limit = f64::from(1u32 << 16);
    if factor.is_finite() && factor.abs() < limit {
        Ok((factor * f64::from(shift).exp2()).round() as i64)
    } else {
        Err(ScaleError { scale: factor, limit })
    }
}

/// `C` for a zero point and a real constant in units of the result.
#[expect(clippy::cast_possible_truncation, reason = "17 bits before a shift by 45, or 25 before one by 37")]
pub fn offset(zero_point: i64, constant: f64, shift: u32) -> i64 {
    // What is further away than any result saturates the same.
    let most = f64::from(61 - shift).exp2();
    let units = (constant.clamp(-most, most - 1.0) * f64::from(shift).exp2()).round() as i64;
    (1i64 << (shift - 1)) + (zero_point << shift) + units
}

/// `M` and `k` of (28) for a real factor `s` that is positive: `M = round(s * 2^k)` with 45 bits, or fewer where `k` would exceed 61.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "45 bits, and a shift of 1 at least")]
pub fn quotient_multiplier(factor: f64) -> Result<(i64, u32), ScaleError> {
    let limit = f64::from(1u32 << 31);
    if !(factor > 0.0 && factor < limit) {
        return Err(ScaleError { scale: factor, limit });
    }
    let shift = (44 - factor.log2().floor() as i64).clamp(1, i64::from(GREATEST_QUOTIENT_SHIFT));
    let mult = (factor * (shift as f64).exp2()).round().min(GREATEST_QUOTIENT_MULTIPLIER as f64);
    Ok((mult as i64, shift as u32))
}

/// Equation (28). The differences are below `2^16` in magnitude.
#[expect(clippy::cast_possible_truncation, reason = "clamped to two i16")]
pub fn quotient([a, b]: [i64; 2], mult: i64, shift: u32, zero: i64, [lo, hi]: [i16; 2]) -> i16 {
    let numerator = a * mult;
    match (b, numerator.signum()) {
        (0, 1) => hi,
        (0, -1) => lo,
        (0, _) => zero.clamp(i64::from(lo), i64::from(hi)) as i16,
        _ => {
            let units = (numerator / b + (1 << (shift - 1))) >> shift;
            (units + zero).clamp(i64::from(lo), i64::from(hi)) as i16
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sweep of sums over the whole range, and around each tie, against real numbers.
    #[test]
    fn stays_within_the_stated_error() {
        for (factor, zero, lo, hi) in [
            (1.7e-7, -32768i64, -32768i64, 32767i64),
            (3.1e-3, 0, -32768, 32767),
            (-0.37, 100, 0, 255),
            (0.5, 128, 0, 255),
            (1.0, -5, -32768, 32767),
            (1234.5, 3, 0, 255),
            (40000.0, 0, -32768, 32767),
        ] {
            let (mult, c) = (multiplier(factor, SHIFT).unwrap(), offset(zero, 0.0, SHIFT));
            for step in -40_000i64..=40_000 {
                // Two results outside of the range on either side as well.
                let acc = (step as f64 / factor).round() as i64 + step % 3;
                let real = (zero as f64 + factor * acc as f64).clamp(lo as f64, hi as f64);
                let got = requantize(acc, mult, c, SHIFT, [lo, hi]) as f64;
                let bound = 0.5 + acc.unsigned_abs() as f64 / 46f64.exp2() + 1e-9 * real.abs();
                assert!((got - real).abs() <= bound, "{acc} * {factor}: {got} for {real}");
            }
            for acc in [i64::MAX / 16, -(i64::MAX / 16), 1 << 47, -(1 << 47)] {
                let end = if (acc > 0) == (factor > 0.0) { hi } else { lo };
                assert_eq!(requantize(acc, mult, c, SHIFT, [lo, hi]), end, "{acc} * {factor}");
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
                    requantize(acc, mult, offset, SHIFT, [-32768, 32767]);
                    requantize(acc, mult, offset, FINE_SHIFT, [-FINE_CODES, FINE_CODES - 1]);
                }
            }
        }
        for constant in [f64::INFINITY, f64::NEG_INFINITY] {
            for zero in [-32768, 32767] {
                assert!(offset(zero, constant, SHIFT).abs() <= GREATEST_OFFSET);
            }
        }
        for zero in [-FINE_CODES, FINE_CODES - 1] {
            assert!(offset(zero, f64::INFINITY, FINE_SHIFT).abs() <= GREATEST_OFFSET);
        }
        assert!(multiplier(65536.0, SHIFT).is_err() && multiplier(f64::NAN, SHIFT).is_err());
        assert!(multiplier(65535.9, SHIFT).unwrap() <= GREATEST_MULTIPLIER);
    }

    #[test]
    fn quotients_are_rounded_once() {
        for (factor, zero) in [(0.37, -32768i64), (1e-5, 0), (250.0, 17), (1e9, 0), (1e-12, 3)] {
            let (mult, shift) = quotient_multiplier(factor).unwrap();
            for a in (-65535i64..=65535).step_by(977) {
                for b in (-65535i64..=65535).step_by(1023).chain(-4..=4).filter(|&b| b != 0) {
                    let real = (zero as f64 + factor * a as f64 / b as f64).clamp(-32768.0, 32767.0);
                    let got = f64::from(quotient([a, b], mult, shift, zero, [i16::MIN, i16::MAX]));
                    assert!((got - real).abs() <= 0.5 + 1e-3, "{a} / {b} * {factor}: {got} for {real}");
                }
            }
        }
        let (mult, shift) = quotient_multiplier(1.0).unwrap();
        assert_eq!([-1, 0, 1].map(|a| quotient([a, 0], mult, shift, 5, [-100, 100])), [-100, 5, 100]);
        assert!(quotient_multiplier(0.0).is_err() && quotient_multiplier(f64::NAN).is_err());
    }

    #[test]
    fn ties_go_upwards_and_constants_add() {
        for shift in [SHIFT, FINE_SHIFT] {
            let half = multiplier(0.5, shift).unwrap();
            assert_eq!(requantize(3, half, offset(0, 0.0, shift), shift, [-10, 10]), 2);
            assert_eq!(requantize(-3, half, offset(0, 0.0, shift), shift, [-10, 10]), -1);
            assert_eq!(requantize(100, 0, offset(7, -2.25, shift), shift, [0, 255]), 5);
        }
    }
}
