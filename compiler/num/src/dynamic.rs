//! Requantization whose range is that of the accumulators themselves: block floating point, in integers only.
//!
//! A dynamically scaled value is codes `q` with a zero point `Z` known to the compiler (0, or 128 for values of both signs)
//! and a scale `m 2^e` that is computed at run time, `m` in `[2^30, 2^31)`: it stands for `m 2^e (q - Z)`.
//!
//! Let `acc[c]` be accumulators of an operand of scale `m 2^e`, `W[c] 2^ew` the scales of the weights and `B[c] 2^eb` the
//! bias in units of them. `bits(x)` is the length of `x` in binary. All divisions round down unless said otherwise.
//!
//! ```text
//! (8)   v[c] = floor(acc[c] 2^-d) + round(B[c] r / 2^(k + d)),  r = 2^61 / m,  k = 61 + e - eb;   max(v[c], 0) if rectified,
//!       then min(v[c], round(T[c] r / 2^(k' + d))) with k' = 61 + e - et, if there is a ceiling of T[c] 2^et
//! (9)   U = max |v[c] W[c]|, at least 1      V = max |v[c]|      over all elements, from each channel's extrema
//! (10)  m' 2^e' = U m 2^(e + ew + d) / n,    n = 255 if rectified, else 127
//! (11)  a = 31 - bits(V),  R = n 2^52 / U',  U' = U 2^(31 - bits(U)),  M[c] = round(W[c] R / 2^(a + bits(U) - 17))
//! (12)  q = Z + v[c] 2^a M[c] / 2^38, rounded by (1), (3) and (4)
//! ```
//!
//! `d`, mostly negative, is the least shift that keeps accumulators below `2^30` and biases below `2^29`, so that biases are
//! rounded far below a unit of the result. As every `W[c]` is at least `2^18`, `M[c]` fits 31 bits. The result is exact up to
//! the rounding of (3), 1/64 unit for (1) and 1/256 for `M`, as in a static requantization, and uses the whole range of codes.
//!
//! (13) and (16) bring values to one scale, (17) to (19) make tables of functions for the scale that a run finds, (22) is for
//! normalizations.

mod common;
mod curve;
mod norm;
mod requant;
mod tables;

pub use common::{ALIGN_BITS, align, common, product, rescale};
pub use curve::{Curve, OCTAVES, PART_ROW, PARTS, PER_PART, SIDE, curve_samples};
pub use norm::{DROPPED_BITS, epsilon};
pub use requant::{HEADER, Rule, epilogue, requantize, weight_scales};
pub use tables::{
    FINER, GRID, GRIDS, INTERVALS, LEAST, LOG2_E, ROW, Samples, TABLE, exponential_samples, exponentials,
    function_samples,
};

/// What is added to the name of an input or output for the name of its scale.
pub const SCALE_SUFFIX: &str = ".scale";

/// Zero point of values of both signs.
pub const SIGNED_ZERO: u8 = 128;

/// A scale `mantissa * 2^exponent`; the mantissa is in `[2^30, 2^31)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scale {
    /// `m`.
    pub mantissa: i32,
    /// `e`.
    pub exponent: i32,
}

impl Scale {
    /// From the first two values of parameters. Whatever they are, arithmetic with them overflows nowhere.
    pub fn of(values: &[i32]) -> Scale {
        let word = |i: usize| values.get(i).copied().unwrap_or(0);
        Scale { mantissa: word(0).clamp(1 << 30, i32::MAX), exponent: word(1).clamp(-(1 << 24), 1 << 24) }
    }

    /// The nearest scale to a positive real number.
    pub fn nearest(x: f64) -> Scale {
        let (mantissas, exponent) = mantissas(&[x]);
        Scale { mantissa: mantissas[0], exponent }
    }

    /// The real number.
    pub fn real(self) -> f64 {
        f64::from(self.mantissa) * f64::from(self.exponent).exp2()
    }
}

/// Exponent of mantissas that are all 0: far below all others, so that it never decides on the shift `d`.
const OF_ZEROS: i32 = -1000;

/// Real numbers as 32-bit mantissas with a common exponent; the greatest magnitude is in `[2^30, 2^31)`.
#[expect(
    clippy::cast_possible_truncation,
    reason = "an exponent of f64; the greatest mantissa is below 2^31 by the choice of the exponent"
)]
pub fn mantissas(values: &[f64]) -> (Vec<i32>, i32) {
    let greatest = values.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    if greatest == 0.0 || !greatest.is_finite() {
        return (vec![0; values.len()], OF_ZEROS);
    }
    let mut exponent = greatest.log2().floor() as i32 - 30;
    while (greatest * f64::from(-exponent).exp2()).round() > f64::from(i32::MAX) {
        exponent += 1;
    }
    let mantissa = |x: &f64| (x * f64::from(-exponent).exp2()).round() as i32;
    (values.iter().map(mantissa).collect(), exponent)
}

/// `round(x / 2^shift)`, ties upwards, for a shift of at least 1.
fn round_shift(x: i64, shift: i32) -> i64 {
    (x + (1 << (shift - 1))) >> shift
}

/// Number of bits of a number that is not negative.
#[expect(clippy::cast_possible_wrap, reason = "at most 64")]
fn bits(x: i64) -> i32 {
    64 - x.leading_zeros() as i32
}

/// The first 31 bits of a positive number.
#[expect(clippy::cast_possible_wrap, clippy::cast_sign_loss, reason = "the number is positive; 31 bits are left")]
fn leading(x: i64) -> i64 {
    (((x as u64) << x.leading_zeros()) >> 33) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mantissas_keep_31_bits() {
        assert_eq!(mantissas(&[1.0, -0.5]), (vec![1 << 30, -(1 << 29)], -30));
        assert_eq!(mantissas(&[0.0]), (vec![0], OF_ZEROS));
        assert_eq!(mantissas(&[2.0 - 1e-12]), (vec![1 << 30], -29));
    }
}
