//! Requantization of 32-bit accumulators to unsigned 8 bits (Jacob et al. 2018, section 2.2, in the 32-bit form).
//!
//! With accumulator `acc`, multiplier `M` (one per output channel), left shift `a` (one per operator), residual term `r`
//! and offset `C`:
//!
//! ```text
//! (1)  t = floor(shl_sat(acc, a) * M / 2^32)          32 bits; 6 of them are fraction bits
//! (2)  u = sat16(sat16(t) + r)                        r = floor(residual * R / 2^8), 0 without a residual
//! (3)  v = floor(sat16(u + C) / 2^6)                  C = 2^5 + 2^6 * Zy - floor(Zr * R / 2^8): rounding and zero points
//! (4)  q = min(max(v, lo), hi)
//! ```
//!
//! `M = round(s * 2^(38 - a))` stands for the real factor `s = Sx * Sw / Sy`, `R = round(Sr / Sy * 2^14)` for the residual's.
//! `a` is the least shift that makes every `M` fit 31 bits: 0 while all `s < 2^-7`.
//!
//! Error before the final rounding of (3), in units of the result: below 1/256 from the rounding of `M`, and with a residual 1/64
//! from each of two floors and 1/128 from the rounding of `R`. The three saturations change no value that (4) would not clamp, as
//! long as the two summands of (2) are each within 511 units.
//!
//! Every step is one vector instruction on all targets: `vpmuldq`, `vpackssdw`, `vpaddsw`, `vpsraw`, `vpackuswb` on x86-64.

use crate::ScaleError;
use crate::fixed::{mul_high, sat16, shl_sat};
use crate::requant_f32;

/// Fraction bits kept between (1) and (3).
pub const FRACTION_BITS: u32 = 6;

/// Binary exponent of a residual multiplier: `R = ratio * 2^14`.
pub const RESIDUAL_BITS: u32 = 14;

/// What is common to all channels of one requantization: the constants of (1), (3) and (4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epilogue {
    /// Left shift `a` of (1).
    pub shl: u32,
    /// Offset `C` of (3); the zero point where `f32_fraction_bits` is not 0.
    pub offset: i16,
    /// Fraction bits `n` of equation (15) of [`crate::requant_f32`], which then takes the place of (1) to (3); 0 elsewhere.
    pub f32_fraction_bits: u32,
    /// Least result.
    pub lo: u8,
    /// Greatest result.
    pub hi: u8,
}

impl Epilogue {
    /// Equations (1) to (4), or (15). `residual` is the value of [`residual_term`], 0 without a residual.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to bytes")]
    pub fn apply(&self, acc: i32, mult: i32, residual: i16) -> u8 {
        let v = match self.f32_fraction_bits {
            0 => self.before_rounding(acc, mult, residual) >> FRACTION_BITS,
            _ => self.rounded_as_f32(acc, mult, residual),
        };
        v.clamp(i16::from(self.lo), i16::from(self.hi)) as u8
    }

    /// What (3) floors, in 64ths: it has half a unit more than the real number that is rounded. By (15), which keeps no fraction, the
    /// rounded number and this half, if 16 bits hold it.
    #[inline]
    pub fn before_rounding(&self, acc: i32, mult: i32, residual: i16) -> i16 {
        if self.f32_fraction_bits > 0 {
            let v = self.rounded_as_f32(acc, mult, residual);
            return v.saturating_mul(1 << FRACTION_BITS).saturating_add(1 << (FRACTION_BITS - 1));
        }
        let t = i32::from(sat16(mul_high(shl_sat(acc, self.shl), mult)));
        let u = i32::from(sat16(t + i32::from(residual)));
        sat16(u + i32::from(self.offset))
    }

    /// Equation (15) before its clamp.
    #[inline]
    fn rounded_as_f32(&self, acc: i32, mult: i32, residual: i16) -> i16 {
        debug_assert!(residual == 0, "equation (15) has no residual");
        requant_f32::apply(acc, self.shl, mult, self.f32_fraction_bits, self.offset)
    }
}

/// The offset `C` of (3) for an output zero point and a residual (zero point, multiplier `R`).
pub fn offset(zero_point: u8, residual: Option<(u8, u16)>) -> i16 {
    let rounding = 1i32 << (FRACTION_BITS - 1);
    let base = rounding + (i32::from(zero_point) << FRACTION_BITS);
    let offset = base - residual.map_or(0, |(zp, mult)| i32::from(residual_term(zp, mult)));
    sat16(offset)
}

/// The term `r` of (2): `floor(residual * R / 2^8)`, which fits 16 bits because `R < 2^15`.
#[expect(clippy::cast_possible_truncation, reason = "8 bits times 15, less 8")]
pub fn residual_term(residual: u8, mult: u16) -> i16 {
    debug_assert!(mult < 1 << 15, "a residual multiplier has 15 bits");
    ((u32::from(residual) * u32::from(mult)) >> 8) as i16
}

/// The residual multiplier `R` for a ratio of scales, or an error if the ratio is not in (0, 2).
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be positive and of 15 bits")]
pub fn residual_multiplier(ratio: f64) -> Result<u16, ScaleError> {
    let m = (ratio * f64::from(1u32 << RESIDUAL_BITS)).round();
    if ratio > 0.0 && m < 32768.0 { Ok(m as u16) } else { Err(ScaleError { scale: ratio, limit: 2.0 }) }
}

/// The shift `a` and the multipliers `M` for real factors `s`, one per channel.
///
/// Fails if a factor is not finite and positive or is `2^24` or more.
#[expect(clippy::cast_possible_truncation, reason = "the shift is chosen so that the greatest has 31 bits")]
pub fn multipliers(factors: &[f64]) -> Result<(u32, Vec<i32>), ScaleError> {
    let limit = f64::from(1u32 << 24);
    if let Some(&scale) = factors.iter().find(|s| !(s.is_finite() && **s > 0.0 && **s < limit)) {
        return Err(ScaleError { scale, limit });
    }
    let scaled = |s: f64, a: u32| (s * (38.0 - f64::from(a)).exp2()).round();
    let largest = factors.iter().copied().fold(0.0, f64::max);
    let shl = (0..32).find(|&a| scaled(largest, a) <= f64::from(i32::MAX)).unwrap_or(31);
    Ok((shl, factors.iter().map(|&s| scaled(s, shl) as i32).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every accumulator of a 17-bit range against the real value, for factors over the whole range of shifts.
    #[test]
    fn stays_within_the_stated_error() {
        for (factor, zero_point) in [(0.0003, 0u8), (0.0077, 128), (0.0079, 3), (0.9, 10), (3.5, 255), (1e-6, 7)] {
            let (shl, mult) = multipliers(&[factor]).unwrap();
            let e = Epilogue { shl, offset: offset(zero_point, None), f32_fraction_bits: 0, lo: 0, hi: 255 };
            for acc in -70_000..70_000 {
                let real = f64::from(acc) * factor + f64::from(zero_point);
                let got = f64::from(e.apply(acc, mult[0], 0));
                let want = real.clamp(0.0, 255.0);
                assert!((got - want).abs() <= 0.5 + 1.0 / 256.0, "{acc} * {factor}: {got} for {want}");
            }
        }
    }

    /// All residuals with a sweep of ratios: the term and its zero point cancel where the residual is zero.
    #[test]
    fn residual_adds_its_real_value() {
        for ratio in [0.01, 0.5, 1.0, 1.99] {
            let r = residual_multiplier(ratio).unwrap();
            for zr in [0u8, 7, 128, 255] {
                let e = Epilogue { shl: 0, offset: offset(100, Some((zr, r))), f32_fraction_bits: 0, lo: 0, hi: 255 };
                for res in 0..=255u8 {
                    let want = (100.0 + ratio * (f64::from(res) - f64::from(zr))).clamp(0.0, 255.0);
                    let got = f64::from(e.apply(0, 1, residual_term(res, r)));
                    assert!(
                        (got - want).abs() <= 0.5 + 2.0 / 64.0 + 255.0 / 32768.0,
                        "{res} {zr} {ratio}: {got} for {want}"
                    );
                }
            }
        }
    }

    #[test]
    fn multipliers_fit_and_refuse() {
        assert_eq!(multipliers(&[0.5, 0.25]).unwrap(), (7, vec![1 << 30, 1 << 29]));
        assert_eq!(multipliers(&[2f64.powi(-8)]).unwrap(), (0, vec![1 << 30]));
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY, 2f64.powi(24)] {
            assert!(multipliers(&[0.1, bad]).is_err(), "{bad}");
        }
        assert!(residual_multiplier(2.0).is_err() && residual_multiplier(0.0).is_err());
    }

    #[test]
    fn extremes_saturate() {
        let e = Epilogue { shl: 31, offset: offset(255, None), f32_fraction_bits: 0, lo: 0, hi: 255 };
        assert_eq!(e.apply(i32::MAX, i32::MAX, i16::MAX), 255);
        assert_eq!(e.apply(i32::MIN, i32::MAX, 0), 0);
        assert_eq!(Epilogue { lo: 10, hi: 20, ..e }.apply(i32::MIN, i32::MAX, 0), 10);
        assert_eq!(Epilogue { lo: 10, hi: 20, ..e }.apply(i32::MAX, i32::MAX, 0), 20);
    }
}
