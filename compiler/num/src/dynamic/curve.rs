//! Equations (29) and (30): tables of functions that are steep, or bent far from 0, from samples in every octave.

use super::tables::{Results, codes_of};
use super::{Scale, bits, leading, mantissas};

/// Parts of an octave, each with a unit of its own: an exponential changes by 46 bits within an octave.
pub const PARTS: usize = 8;

/// Samples of a part, without the first of the next.
pub const PER_PART: usize = 16;

/// Exponents of the first octave, and of the one behind the last.
pub const OCTAVES: [i32; 2] = [-40, 24];

/// Numbers of a part: samples at `2^o (1 + k / 8 + j / 128)`, `j` from 0 to 16, and the exponent of their unit.
pub const PART_ROW: usize = PER_PART + 2;

/// Numbers for operands of one sign.
#[expect(clippy::cast_sign_loss, reason = "the first octave is before the last")]
pub const SIDE: usize = (OCTAVES[1] - OCTAVES[0]) as usize * PARTS * PART_ROW;

/// Bits of a mantissa behind those that tell the sample.
const REST: u32 = 23;

/// A function by samples in every octave: [`SIDE`] numbers for positive operands, as many for negative ones if there are any, then
/// mantissa and exponent of its value at 0. Samples are below `2^30`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Curve<'a> {
    /// The numbers.
    pub numbers: &'a [i32],
    /// Whether 0 counts as half a code: the function has no value there.
    pub half: bool,
}

impl Curve<'_> {
    /// The table of the function of codes with a scale `m 2^e` known at run time only, and the scale of its results. Only codes from
    /// `least` to `greatest` occur: what the function is elsewhere, where it may be far greater or nothing, takes no part.
    ///
    /// ```text
    /// (29)  u = |q - Z| m,  n = bits(u),  o = e + n - 1, limited to the octaves;  w = the first 31 bits of u, or the least or the
    ///       greatest such number where o was limited,  k = floor(w / 2^27) - 8,  j = floor(w / 2^23) mod 16
    ///       y = F[o, k, j] + floor((F[o, k, j + 1] - F[o, k, j]) (w mod 2^23) / 2^23), in units of 2^E[o, k]
    /// (30)  T = max(E + bits(|y|)) - 40 over all codes that occur,  y' = floor(y 2^(E - T)); then (18) with T in place of E[i] + e - e*
    /// ```
    ///
    /// Codes that do not occur have `y' = 0`. For `q = Z`, `y` is the value at 0, or `u = m` and `e` is one less where that is to count as half a code.
    pub fn table(&self, scale: Scale, zero: i32, new_zero: i32, [least, greatest]: [u8; 2]) -> Vec<i32> {
        let occurs = |q: i32| (i32::from(least)..=i32::from(greatest)).contains(&q);
        let value = |q: i32| if occurs(q) { self.at(scale, q - zero) } else { (0, 0) };
        let values: Vec<(i64, i32)> = (0..256).map(value).collect();
        let unit = values.iter().filter(|v| v.0 != 0).map(|&(y, e)| e + bits(y.abs())).max().unwrap_or(0) - 40;
        let common = |&(y, e): &(i64, i32)| {
            let shift = e - unit;
            if shift >= 0 { y << shift.min(40) } else { y >> (-shift).min(63) }
        };
        codes_of(&Results { values: values.iter().map(common).collect(), unit }, new_zero)
    }

    /// A result and its exponent.
    #[expect(clippy::cast_sign_loss, reason = "limited to the octaves; a mantissa is positive")]
    fn at(&self, scale: Scale, centred: i32) -> (i64, i32) {
        let last = self.numbers.len() - 2;
        if centred == 0 && !self.half {
            return (i64::from(self.numbers[last]), self.numbers[last + 1]);
        }
        let u = i64::from(centred.unsigned_abs().max(1)) * i64::from(scale.mantissa);
        let octave = scale.exponent + bits(u) - 1 - i32::from(centred == 0);
        let w = match octave {
            o if o < OCTAVES[0] => 1 << 30,
            o if o >= OCTAVES[1] => (1 << 31) - 1,
            _ => leading(u),
        };
        let octave = (octave.clamp(OCTAVES[0], OCTAVES[1] - 1) - OCTAVES[0]) as usize;
        // Without numbers for negative operands there are none.
        let side = if centred < 0 && last > SIDE { SIDE } else { 0 };
        let sample = (w >> REST) as usize;
        let part = octave * PARTS + sample / PER_PART - PARTS;
        let (row, j) = (&self.numbers[side + part * PART_ROW..][..PART_ROW], sample % PER_PART);
        let (first, next) = (i64::from(row[j]), i64::from(row[j + 1]));
        (first + (((next - first) * (w & ((1 << REST) - 1))) >> REST), row[PART_ROW - 1])
    }
}

/// The numbers of a function; `negative`: its operand can be. What is not finite anywhere is what it is at the nearest
/// operand where it is, the greater one first; a function without a value at 0 gives `true` beside them.
pub fn curve_samples(f: impl Fn(f64) -> f64, negative: bool) -> (Vec<i32>, bool) {
    let limited = |y: f64| y.clamp(-f64::from(f32::MAX), f64::from(f32::MAX));
    let points = |sign: f64| {
        let parts = (OCTAVES[0]..OCTAVES[1]).flat_map(|o| (0..PARTS).map(move |k| (o, k * PER_PART)));
        let all = (PARTS * PER_PART) as f64;
        parts.flat_map(move |(o, first)| {
            (first..=first + PER_PART).map(move |j| sign * f64::from(o).exp2() * (1.0 + j as f64 / all))
        })
    };
    // From the greatest operand to the least, so that a function which ends somewhere goes on as it was before.
    let mut known = points(1.0).map(&f).find(|y| y.is_finite()).unwrap_or(0.0);
    let mut side = |sign: f64| {
        let mut reals: Vec<f64> = points(sign).map(&f).collect();
        let mut fill = |y: &mut f64| {
            if y.is_nan() || y.is_infinite() && sign < 0.0 {
                *y = known;
            }
            *y = limited(*y);
            known = *y;
        };
        if sign > 0.0 {
            reals.iter_mut().rev().for_each(&mut fill)
        } else {
            reals.iter_mut().for_each(&mut fill)
        }
        reals
    };
    let mut sides = vec![side(1.0)];
    if negative {
        sides.push(side(-1.0));
    }
    let row = |reals: &[f64]| {
        let (values, exponent) = mantissas(reals);
        values.into_iter().map(|v| v >> 1).chain([exponent + 1]).collect::<Vec<i32>>()
    };
    let mut numbers: Vec<i32> = sides.iter().flat_map(|reals| reals.chunks(PER_PART + 1)).flat_map(row).collect();
    let at_zero = f(0.0);
    let (mantissa, exponent) = mantissas(&[if at_zero.is_finite() { at_zero } else { 0.0 }]);
    numbers.extend([mantissa[0] >> 1, exponent + 1]);
    (numbers, !at_zero.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_stand_for_functions() {
        let functions: [(&dyn Fn(f64) -> f64, i32); 7] = [
            (&f64::sqrt, 0),
            (&f64::ln, 128),
            (&|x| 1.0 / x, 128),
            (&f64::exp, 0),
            (&|x| (x - 2.0).exp(), 0),
            (&|x| x.powi(3), 128),
            (&|x| x.max(1e-5).ln(), 128),
        ];
        for (f, new_zero) in functions {
            for zero in [0, 128] {
                let (numbers, half) = curve_samples(f, zero > 0);
                let curve = Curve { numbers: &numbers, half };
                for step in [1e-9, 3e-7, 2e-4, 0.003, 0.05, 0.17] {
                    let scale = Scale::nearest(step);
                    let table = curve.table(scale, zero, new_zero, [0, 255]);
                    let unit = Scale::of(&table).real();
                    let codes: Vec<u8> = table[2..].iter().flat_map(|w| w.to_le_bytes()).collect();
                    for q in 0..256 {
                        let x = f64::from(q - zero) * scale.real();
                        let wanted = if q == zero && half { f(scale.real() / 2.0) } else { f(x) };
                        let found = f64::from(i32::from(codes[q as usize]) - new_zero) * unit;
                        if wanted.is_finite() {
                            assert!((found - wanted).abs() <= 2.0 * unit, "{step} {zero} {q}: {found} for {wanted}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_overflows() {
        let (numbers, half) = curve_samples(|x| x.powi(9), true);
        for exponent in [-(1 << 24), -200, 0, 200, 1 << 24] {
            for mantissa in [1 << 30, i32::MAX] {
                Curve { numbers: &numbers, half }.table(Scale { mantissa, exponent }, 128, 128, [0, 255]);
            }
        }
    }
}
