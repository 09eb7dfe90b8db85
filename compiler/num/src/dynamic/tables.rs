//! Equations (17) to (19): tables of functions from samples, for the scale that a value turns out to have.

use super::{Scale, bits, leading, mantissas};

/// Intervals between the samples of a function.
pub const INTERVALS: usize = 1024;

/// Numbers of a table: mantissa and exponent of its scale, and 256 codes, four in each, the first in the lowest byte.
pub const TABLE: usize = 2 + 256 / 4;

/// Exponent of the distance of neighbours on the coarsest grid, which reaches to 16 on both sides.
pub const GRID: i32 = -5;

/// How much finer, as an exponent, each grid is than the one before.
pub const FINER: i32 = 4;

/// Grids on which a function is sampled.
pub const GRIDS: usize = 5;

/// Numbers of a grid: samples at `(j - 512) 2^grid`, and the exponent of their unit.
pub const ROW: usize = INTERVALS + 2;

/// A function by samples on several grids, the coarsest first; between samples, and beyond the first and the last two, it is
/// linear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Samples<'a> {
    /// [`GRIDS`] rows of [`ROW`] numbers; samples are below `2^30`.
    pub rows: &'a [i32],
}

/// A scale below which a function that is 0 at 0 is a line: exponent of the least scale that the finest grid is for.
#[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "few grids")]
pub const LEAST: i32 = GRID - FINER * (GRIDS as i32 - 1) - 30;

/// Greatest `t` of (17).
const FARTHEST: i64 = 1 << 36;

impl Samples<'_> {
    /// The table of a function of codes with a scale known at run time only, and the scale of its results.
    ///
    /// ```text
    /// (17)  i = floor((-35 - e) / 4), from 0 to 4: the finest grid 2^(-5 - 4 i) that reaches farther than all codes
    ///       e* = max(e, -51) if F[i, 512] = 0, else e
    ///       t = floor((q - Z) m 2^(e* + 4 i + 21)), at most 2^36 in magnitude,   j = floor(t / 2^16) + 512, from 0 to 1023
    ///       y = F[i, j] + floor((F[i, j + 1] - F[i, j]) (t - (j - 512) 2^16) / 2^16)
    /// (18)  m' 2^e' = Y 2^(E[i] + e - e*) / n,   code = Z' + round(y n / Y)
    ///       Y = max y, n = 255 - Z' if that has all results fit, else Y = -min y, n = Z'
    /// ```
    ///
    /// `Z'` is 0, if no result is negative, or 32 and more.
    #[expect(
        clippy::cast_possible_wrap,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "few grids"
    )]
    pub fn table(&self, scale: Scale, zero: i32, new_zero: i32) -> Vec<i32> {
        let finest = GRIDS as i32 - 1;
        let i = (GRID - 30 - scale.exponent).div_euclid(FINER).clamp(0, finest);
        let row = &self.rows[i as usize * ROW..][..ROW];
        let near =
            Scale { exponent: scale.exponent.max(if row[INTERVALS / 2] == 0 { LEAST } else { i32::MIN }), ..scale };
        let values: Vec<i64> = (0..256).map(|q| at(row, GRID - FINER * i, i64::from(q - zero), near)).collect();
        codes_of(&Results { values, unit: row[ROW - 1] + scale.exponent - near.exponent }, new_zero)
    }
}

/// The results of a function for all codes, and the exponent of their unit.
pub(super) struct Results {
    pub(super) values: Vec<i64>,
    pub(super) unit: i32,
}

/// Equation (18): the scale of the results and their codes.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "codes are clamped to bytes, mantissas have 31 bits"
)]
pub(super) fn codes_of(results: &Results, new_zero: i32) -> Vec<i32> {
    let Results { values, unit } = results;
    let above = values.iter().copied().max().unwrap_or(0).max(1);
    let below = values.iter().map(|y| -y).max().unwrap_or(0).max(0);
    // 40 bits of the greatest are more than codes can show.
    let dropped = (bits(above.max(below)) - 40).max(0);
    let [up, down] = [i64::from(255 - new_zero), i64::from(new_zero)];
    let fits = down == 0 || (above >> dropped) * down >= (below >> dropped) * up;
    let (greatest, levels) = if fits { (above, up) } else { (below, down) };
    let length = bits(greatest);
    let quotient = (leading(greatest) << 31) / levels;
    let exponent = unit + length + bits(quotient) - 93;
    let divisor = (greatest >> dropped).max(1);
    let code = |&y: &i64| {
        // The longer side has at most seven times the codes of the other.
        let shifted = (y >> dropped).clamp(-8 * divisor, 8 * divisor);
        let quotient = (2 * (shifted + 8 * divisor) * levels + divisor) / (2 * divisor) - 8 * levels;
        (quotient + i64::from(new_zero)).clamp(0, 255) as u8
    };
    let codes: Vec<u8> = values.iter().map(code).collect();
    let word = |four: &[u8]| i32::from_le_bytes([four[0], four[1], four[2], four[3]]);
    [leading(quotient) as i32, exponent].into_iter().chain(codes.chunks(4).map(word)).collect()
}

/// `y` of (17).
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "limited to the intervals, of which there are 1024"
)]
fn at(row: &[i32], grid: i32, centred: i64, scale: Scale) -> i64 {
    let half = INTERVALS as i64 / 2;
    let product = centred * i64::from(scale.mantissa);
    let shift = scale.exponent - grid + 16;
    let t = if shift < 0 { product >> (-shift).min(63) } else { product << shift.min(20) };
    let t = t.clamp(-FARTHEST, FARTHEST);
    let j = ((t >> 16) + half).clamp(0, INTERVALS as i64 - 1);
    let (first, next) = (i64::from(row[j as usize]), i64::from(row[j as usize + 1]));
    first + (((next - first) * (t - ((j - half) << 16))) >> 16)
}

/// The samples of a function.
#[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "few grids")]
pub fn function_samples(f: impl Fn(f64) -> f64) -> Vec<i32> {
    let row = |i: usize| {
        let step = f64::from(GRID - FINER * i as i32).exp2();
        let reals: Vec<f64> = (0..=INTERVALS).map(|j| f((j as f64 - (INTERVALS / 2) as f64) * step)).collect();
        let (values, exponent) = mantissas(&reals);
        values.into_iter().map(|v| v >> 1).chain([exponent + 1])
    };
    (0..GRIDS).flat_map(row).collect()
}

/// The exponentials of a softmax, `2^30 exp(-S d)` for differences `d` of codes with the scale `S = m 2^e`, from samples
/// `F[j] = round(2^30 2^(-j / 1024))`.
///
/// ```text
/// (19)  y = floor(d m round(log2(e) 2^20) 2^(e + 6)), log2 of the reciprocal with 26 fraction bits;   n = floor(y / 2^26),
///       f = y mod 2^26,   j = floor(f / 2^16),   table[d] = floor((F[j] + floor((F[j + 1] - F[j]) (f mod 2^16) / 2^16)) / 2^n)
/// ```
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "26 bits, not negative; a table value is at most 2^30"
)]
pub fn exponentials(scale: Scale, samples: &[i32]) -> Vec<i32> {
    let shift = scale.exponent + 6;
    let entry = |d: i64| {
        let product = d * i64::from(scale.mantissa) * LOG2_E;
        // A product is 0 or has 51 bits: shifted to the left by 12 it is beyond all digits.
        let y = match shift {
            ..0 => product >> (-shift).min(63),
            _ if product == 0 => 0,
            _ => i64::MAX,
        };
        let (n, f) = ((y >> 26).min(31), y & ((1 << 26) - 1));
        let j = (f >> 16) as usize;
        let (first, next) = (i64::from(samples[j]), i64::from(samples[j + 1]));
        ((first + (((next - first) * (f & 0xffff)) >> 16)) >> n) as i32
    };
    (0..256).map(entry).collect()
}

/// `log2(e) 2^20`, rounded.
pub const LOG2_E: i64 = 1_512_775;

/// The samples of [`exponentials`].
#[expect(clippy::cast_possible_truncation, reason = "at most 2^30")]
pub fn exponential_samples() -> Vec<i32> {
    let sample = |j: usize| (f64::from(1 << 30) * (-(j as f64) / INTERVALS as f64).exp2()).round() as i32;
    (0..=INTERVALS).map(sample).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Functions that bend, saturate, and go on as lines, at scales from where they are a line to far beyond the samples.
    #[test]
    fn tables_stand_for_functions() {
        let swish = |x: f64| x / (1.0 + (-x).exp());
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let functions: [(&dyn Fn(f64) -> f64, i32); 4] =
            [(&swish, 128), (&swish, 32), (&sigmoid, 0), (&|x| x.clamp(-1.0, 1.0), 128)];
        for (f, new_zero) in functions {
            let rows = function_samples(f);
            let samples = Samples { rows: &rows };
            for step in [1e-30, 1e-12, 3e-7, 1e-5, 2e-4, 0.003, 0.05, 0.1, 0.9, 40.0] {
                for zero in [0, 128] {
                    let scale = Scale::nearest(step);
                    let table = samples.table(scale, zero, new_zero);
                    let unit = Scale::of(&table).real();
                    let codes: Vec<u8> = table[2..].iter().flat_map(|w| w.to_le_bytes()).collect();
                    for q in 0..256 {
                        let wanted = f(f64::from(q - zero) * scale.real());
                        let found = f64::from(i32::from(codes[q as usize]) - new_zero) * unit;
                        assert!((found - wanted).abs() <= 0.6 * unit, "{step} {zero} {q}: {found} for {wanted}");
                    }
                }
            }
        }
    }

    #[test]
    fn exponentials_fall() {
        let samples = exponential_samples();
        for step in [1e-30, 1e-4, 0.01, 0.0271, 0.3, 5.0, 1e9] {
            let table = exponentials(Scale::nearest(step), &samples);
            assert_eq!(table[0], 1 << 30);
            for (d, &found) in table.iter().enumerate() {
                let wanted = (-(d as f64) * step).exp() * f64::from(1 << 30);
                assert!((f64::from(found) - wanted).abs() <= wanted * 3e-4 + 2.0, "{step} {d}: {found} for {wanted}");
            }
        }
    }
}
