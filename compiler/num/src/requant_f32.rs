//! Requantization as runtimes do it that compute with floats of single precision: the accumulator times an f32, rounded to an
//! f32, rounded to an integer. In integers, bit for bit.
//!
//! ```text
//! (15)  p = shl_sat(acc, a) * M                                     64 bits, exact; n of them are fraction bits
//!       d = floor(2^floor(log2 |p|) / 2^24)                         half the distance of the f32 next to p; 0 for p = 0
//!       r = floor((p + 2^(n-1) + e) / 2^n)                          e = d if floor(p / 2^n) is odd, else -1 - d
//!       q = min(max(sat16(sat16(r) + Zy), lo), hi)
//! ```
//!
//! `M 2^(a-n)` is the f32 itself, not an approximation: 24 bits of a significand times a power of two. `r` is `p / 2^n`
//! rounded to 24 significant bits and then to an integer, both to nearest with ties to even: the second rounding sees a tie
//! wherever `p / 2^n` is at most `d` away from one, and sends it to the even neighbour. Runtimes convert the accumulator to an
//! f32 first, which changes nothing below `2^24`.
//!
//! `n` is at least 33, so that `2^(n-1)` can be added to the high halves of products alone.

use crate::ScaleError;
use crate::fixed::{sat16, shl_sat};

/// Bits of a significand.
const SIGNIFICAND: u32 = 24;

/// Least number `n` of fraction bits.
pub const LEAST_FRACTION_BITS: u32 = 33;

/// Greatest number `n` of fraction bits.
pub const GREATEST_FRACTION_BITS: u32 = 61;

/// The integer `r` of (15).
pub fn round(acc: i32, shl: u32, mult: i32, fraction_bits: u32) -> i64 {
    let p = i64::from(shl_sat(acc, shl)) * i64::from(mult);
    let d = match p.unsigned_abs().checked_ilog2() {
        Some(log) => (1i64 << log) >> SIGNIFICAND,
        None => 0,
    };
    let odd = (p >> fraction_bits) & 1 == 1;
    (p + (1i64 << (fraction_bits - 1)) + if odd { d } else { -1 - d }) >> fraction_bits
}

/// Equation (15) without the last clamp.
#[expect(clippy::cast_possible_truncation, reason = "clamped")]
pub fn apply(acc: i32, shl: u32, mult: i32, fraction_bits: u32, zero_point: i16) -> i16 {
    let r = round(acc, shl, mult, fraction_bits).clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32;
    sat16(r).saturating_add(zero_point)
}

/// The constants of (15) for several factors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Multipliers {
    /// Left shift `a`.
    pub shl: u32,
    /// Fraction bits `n`.
    pub fraction_bits: u32,
    /// `M` of each factor.
    pub mult: Vec<i32>,
    /// Positions of factors that `M` stands for with fewer than 24 bits, because they are too small beside the greatest.
    pub rounded: Vec<usize>,
}

/// `a`, `n` and the multipliers for f32 factors: `M` of the greatest has 31 bits.
///
/// Fails if a factor is not a normal positive number or is `2^24` or more.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "a significand of 24 bits moved so that the greatest has 31; exponents of f32; fraction bits are positive"
)]
pub fn multipliers(factors: &[f32]) -> Result<Multipliers, ScaleError> {
    let limit = 16_777_216.0;
    if let Some(&scale) = factors.iter().find(|s| !(s.is_normal() && **s > 0.0 && **s < limit)) {
        return Err(ScaleError { scale: f64::from(scale), limit: f64::from(limit) });
    }
    // A factor is `significand * 2^exponent`.
    let parts = |s: f32| (i64::from(s.to_bits() & 0x7f_ffff | 0x80_0000), (s.to_bits() >> 23) as i32 - 150);
    let greatest = factors.iter().map(|&s| parts(s).1).max().unwrap_or(0);
    let bits = (7 - greatest).min(GREATEST_FRACTION_BITS as i32);
    let fraction_bits = bits.max(LEAST_FRACTION_BITS as i32);
    let mut rounded = Vec::new();
    let mut multiplier = |(i, &s): (usize, &f32)| {
        let (significand, exponent) = parts(s);
        match exponent + bits {
            left @ 0.. => (significand << left) as i32,
            // Below one unit of M nothing is left.
            ..-32 => {
                rounded.push(i);
                0
            }
            right => {
                let lost = (1i64 << -right) - 1;
                if significand & lost != 0 {
                    rounded.push(i);
                }
                ((significand + (lost >> 1) + 1) >> -right) as i32
            }
        }
    };
    let mult = factors.iter().enumerate().map(&mut multiplier).collect();
    Ok(Multipliers { shl: (fraction_bits - bits) as u32, fraction_bits: fraction_bits as u32, mult, rounded })
}

impl Multipliers {
    /// More fraction bits by a greater shift, up to `most`, as far as accumulators of magnitude `reach` stay within 32 bits.
    /// Results are the same; a kernel sees ties in more bits of the high halves of products.
    pub fn refine(mut self, reach: u64, most: u32) -> Multipliers {
        let room = reach.leading_zeros().saturating_sub(33 + self.shl);
        let more = room.min(most.saturating_sub(self.fraction_bits));
        self.shl += more;
        self.fraction_bits += more;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a runtime computes.
    fn float(acc: i32, factor: f32) -> i64 {
        (acc as f32 * factor).round_ties_even() as i64
    }

    fn assert_equal(factor: f32, accs: impl Iterator<Item = i32>) {
        let m = multipliers(&[factor]).unwrap();
        assert!(m.rounded.is_empty(), "{factor}");
        for acc in accs {
            let wanted = float(acc, factor).clamp(-32768, 32767);
            let got = round(acc, m.shl, m.mult[0], m.fraction_bits).clamp(-32768, 32767);
            assert_eq!(got, wanted, "{acc} * {factor:?}, {m:?}");
        }
    }

    /// All accumulators up to 2^21 for factors over the range of shifts; ones with ties among them.
    #[test]
    fn equals_single_precision_on_ranges() {
        for factor in [0.001, 0.001_234_567, 0.007_812_5, 0.3, 0.5, 1.0, 1.5, 3.75, 100.3, 1e-5, 2f32.powi(-20), 3.5e-9]
        {
            assert_equal(factor, -(1 << 21)..1 << 21);
        }
    }

    /// Accumulators next to every tie below 300, where the two roundings differ from one.
    #[test]
    fn equals_single_precision_next_to_ties() {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        for _ in 0..4000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let factor = f32::from_bits((110 + (state >> 60) as u32) << 23 | (state >> 35) as u32 & 0x7f_ffff);
            let near = (-300..300).flat_map(|k| {
                let acc = ((f64::from(k) + 0.5) / f64::from(factor)) as i64;
                (acc - 1..=acc + 1).filter(|a| a.abs() < 1 << 24).map(|a| a as i32)
            });
            assert_equal(factor, near);
        }
    }

    #[test]
    fn small_factors_beside_great_ones_are_told() {
        let m = multipliers(&[0.5, 0.5 / 100.0, 0.3e-3, 1e-30]).unwrap();
        assert_eq!(m.rounded, vec![2, 3]);
        assert_eq!((m.shl, m.fraction_bits, m.mult[0], m.mult[3]), (2, 33, 1 << 30, 0));
        for bad in [0.0, -1.0, f32::NAN, f32::INFINITY, 16_777_216.0, 1e-40] {
            assert!(multipliers(&[0.1, bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn refined_constants_mean_the_same() {
        let (plain, reach) = (multipliers(&[0.001_234_5]).unwrap(), 1u64 << 20);
        let fine = plain.clone().refine(reach, 48);
        assert_eq!((fine.shl - plain.shl, fine.fraction_bits), (48 - plain.fraction_bits, 48));
        assert!(reach << fine.shl <= i32::MAX as u64);
        let tight = plain.clone().refine(1 << 30, 48);
        assert_eq!(tight, plain);
        for acc in -(1 << 20)..1 << 20 {
            let (a, b) = (&plain, &fine);
            assert_eq!(round(acc, a.shl, a.mult[0], a.fraction_bits), round(acc, b.shl, b.mult[0], b.fraction_bits));
        }
    }

    #[test]
    fn extremes_saturate() {
        let m = multipliers(&[1000.0]).unwrap();
        assert_eq!(apply(i32::MAX, m.shl, m.mult[0], m.fraction_bits, 255), i16::MAX);
        assert_eq!(apply(i32::MIN, m.shl, m.mult[0], m.fraction_bits, 0), i16::MIN);
        assert_eq!(apply(0, m.shl, m.mult[0], m.fraction_bits, 7), 7);
    }
}
