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

use crate::requant::Epilogue;

/// A scale `mantissa * 2^exponent`; the mantissa is in `[2^30, 2^31)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scale {
    /// `m`.
    pub mantissa: i32,
    /// `e`.
    pub exponent: i32,
}

/// Number of values before the biases in the parameters of a requantization: mantissa, exponent, `-d` and `d` where they are
/// positive and else 0, and `a`.
pub const HEADER: usize = 5;

/// What is added to the name of an input or output for the name of its scale.
pub const SCALE_SUFFIX: &str = ".scale";

/// Zero point of values of both signs.
pub const SIGNED_ZERO: u8 = 128;

/// Binary exponent of the greatest factor of [`align`].
pub const ALIGN_BITS: u32 = 14;

/// Channels whose weights are smaller than the greatest by more than this exponent share its scale.
const SPREAD: f64 = 4096.0;

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

/// The scales of weights that (9) and (11) can take: none is below the greatest by more than 12 bits.
pub fn weight_scales(scales: &mut [f64]) {
    let greatest = scales.iter().copied().fold(0.0, f64::max);
    let least = if greatest > 0.0 { greatest / SPREAD } else { 1.0 };
    scales.iter_mut().for_each(|s| *s = s.max(least));
}

/// What is known of a requantization at compile time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// `ew`.
    pub weight_exponent: i32,
    /// `eb`.
    pub bias_exponent: i32,
    /// Whether negative values become 0.
    pub rectify: bool,
    /// `et`, which counts only where there are ceilings.
    pub ceiling_exponent: i32,
}

/// Number of bits of a number that is not negative.
fn bits(x: i64) -> i32 {
    64 - x.leading_zeros() as i32
}

/// The first 31 bits of a positive number.
fn leading(x: i64) -> i64 {
    (((x as u64) << x.leading_zeros()) >> 33) as i64
}

impl Rule {
    /// Equations (8) to (11): `[mantissa, exponent, left, right, a, biases.., multipliers..]` from the least and greatest
    /// accumulator of each channel. A shift to the right by more than 31 bits is told as 31: accumulators do not count then.
    /// With `ceilings`, empty if there are none, that of each channel follows at the end.
    pub fn parameters(
        &self,
        extrema: &[(i32, i32)],
        scale: Scale,
        weights: &[i32],
        biases: &[i32],
        ceilings: &[i32],
    ) -> Vec<i32> {
        let magnitude = |x: i32| i64::from(x).abs();
        let greatest = extrema.iter().map(|&(lo, hi)| magnitude(lo).max(magnitude(hi))).max().unwrap_or(0);
        let inverse = (1i64 << 61) / i64::from(scale.mantissa);
        let k = 61 + scale.exponent - self.bias_exponent;
        let dropped = (33 - k).max(bits(greatest) - 30);
        let shift = (k + dropped).min(63);
        let (left, right) = ((-dropped).max(0), dropped.clamp(0, 31));
        let bias_of = |&b: &i32| ((i64::from(b) * inverse + (1i64 << (shift - 1))) >> shift) as i32;
        let shifted: Vec<i32> = biases.iter().map(bias_of).collect();
        let down = 61 + scale.exponent - self.ceiling_exponent + dropped;
        let ceiling = |&t: &i32| match down {
            // Far above all values.
            ..1 => i32::MAX,
            _ => {
                let down = down.min(63);
                ((i64::from(t) * inverse + (1i64 << (down - 1))) >> down).min(i64::from(i32::MAX)) as i32
            }
        };
        let ceilings: Vec<i32> = ceilings.iter().map(ceiling).collect();
        let (mut product, mut value) = (1i64, 0i64);
        for (c, ((&(lo, hi), &bias), &w)) in extrema.iter().zip(&shifted).zip(weights).enumerate() {
            let top = ceilings.get(c).copied().unwrap_or(i32::MAX);
            let ends = [(lo << left >> right) + bias, (hi << left >> right) + bias].map(|v| v.min(top));
            for end in ends.map(|v| magnitude(if self.rectify { v.max(0) } else { v })) {
                product = product.max(end * i64::from(w));
                value = value.max(end);
            }
        }
        let levels = if self.rectify { 255 } else { 127 };
        let length = bits(product);
        let quotient = i64::from(scale.mantissa) * leading(product) / levels;
        let exponent = scale.exponent + self.weight_exponent + dropped + (length - 31) + (bits(quotient) - 31);
        let shl = (31 - bits(value)).min(30);
        let ratio = (levels << 52) / leading(product);
        let down = shl + length - 17;
        let multiplier =
            |&w: &i32| ((i64::from(w) * ratio + (1i64 << (down - 1))) >> down).min(i64::from(i32::MAX)) as i32;
        let header = [leading(quotient) as i32, exponent, left, right, shl];
        header.into_iter().chain(shifted).chain(weights.iter().map(multiplier)).chain(ceilings).collect()
    }
}

/// The epilogue of (12).
pub fn epilogue(rectify: bool) -> Epilogue {
    let zero = if rectify { 0 } else { SIGNED_ZERO };
    Epilogue { shl: 0, offset: crate::requant::offset(zero, None), single: 0, lo: 0, hi: 255 }
}

/// Equations (8) and (12) for one accumulator of channel `c`, with the parameters of [`Rule::parameters`].
pub fn requantize(acc: i32, parameters: &[i32], c: usize, channels: usize, rectify: bool) -> u8 {
    let shifted = acc.wrapping_shl(parameters[2] as u32).wrapping_shr(parameters[3] as u32);
    let v = shifted.wrapping_add(parameters[HEADER + c]);
    let v = if rectify { v.max(0) } else { v };
    let v = v.min(parameters.get(HEADER + 2 * channels + c).copied().unwrap_or(i32::MAX));
    let v = v.wrapping_shl(parameters[4] as u32);
    epilogue(rectify).apply(v, parameters[HEADER + channels + c], 0)
}

/// For a sum of two values: the scale of `ka (a - Za) + kb (b - Zb)`, `ka` and `kb`. The factor of the operand with the
/// greater scale is `2^14`, the other's is rounded.
///
/// ```text
/// (13)  k = 2^14,  k' = round(floor(m' 2^16 / m) / 2^(2 + e - e')),  scale m 2^(e - 14)
/// ```
pub fn align(a: Scale, b: Scale) -> [i32; 4] {
    let swapped = (b.exponent, b.mantissa) > (a.exponent, a.mantissa);
    let (great, small) = if swapped { (b, a) } else { (a, b) };
    let ratio = (i64::from(small.mantissa) << 16) / i64::from(great.mantissa);
    let shift = (2 + great.exponent - small.exponent).min(31);
    let factor = ((ratio + (1i64 << (shift - 1))) >> shift) as i32;
    let (ka, kb) = if swapped { (factor, 1 << ALIGN_BITS) } else { (1 << ALIGN_BITS, factor) };
    [great.mantissa, great.exponent - ALIGN_BITS as i32, ka, kb]
}

/// The scale that some values can have in common, each of which uses so many `levels` of its codes to either side, and the
/// factors from their scales to it.
///
/// ```text
/// (16)  m' 2^e' = max(m 2^e levels) / n,   k = round(floor(m 2^16 / m') / 2^(2 + e' - e))
/// ```
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
        let shift = (2 + exponent - scale.exponent).clamp(1, 31);
        ((ratio + (1i64 << (shift - 1))) >> shift) as i32
    };
    [mantissa as i32, exponent].into_iter().chain(scales.iter().map(factor)).collect()
}

/// A code in another scale: `Z' + floor(((q - Z) k + 2^13) / 2^14)`, limited to 8 bits.
pub fn rescale(q: u8, zero: i32, factor: i32, new_zero: i32) -> u8 {
    let product = (i32::from(q) - zero).wrapping_mul(factor).wrapping_add(1 << (ALIGN_BITS - 1));
    ((product >> ALIGN_BITS) + new_zero).clamp(0, 255) as u8
}

/// The scale of a product of two values.
pub fn product(a: Scale, b: Scale) -> [i32; 2] {
    let product = i64::from(a.mantissa) * i64::from(b.mantissa);
    [leading(product) as i32, a.exponent + b.exponent + bits(product) - 31]
}

/// Intervals between the samples of a function.
pub const INTERVALS: usize = 1024;

/// Numbers of a table: mantissa and exponent of its scale, and 256 codes, four in each, the first in the lowest byte.
pub const TABLE: usize = 2 + 256 / 4;

/// A function by samples at `(j - 512) 2^grid`; between them, and beyond the first and the last two, it is linear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Samples<'a> {
    /// [`INTERVALS`] and one, below `2^30`.
    pub values: &'a [i32],
    /// Exponent of the distance of neighbours.
    pub grid: i32,
    /// Exponent of a unit of the values.
    pub exponent: i32,
}

impl Samples<'_> {
    /// The table of a function of codes with a scale known at run time only, and the scale of its results.
    ///
    /// ```text
    /// (17)  t = floor((q - Z) m 2^(e - grid + 16)), at most 2^36 in magnitude,   j = floor(t / 2^16) + 512, from 0 to 1023
    ///       y = F[j] + floor((F[j + 1] - F[j]) (t - (j - 512) 2^16) / 2^16)
    /// (18)  m' 2^e' = Y 2^exponent / n,   code = Z' + round(y n / Y)
    ///       Y = max y, n = 255 - Z' if that has all results fit, else Y = -min y, n = Z'
    /// ```
    ///
    /// `Z'` is 0, if no result is negative, or 32 and more.
    pub fn table(&self, scale: Scale, zero: i32, new_zero: i32) -> Vec<i32> {
        let values: Vec<i64> = (0..256).map(|q| self.at(i64::from(q - zero), scale)).collect();
        let above = values.iter().copied().max().unwrap_or(0).max(1);
        let below = values.iter().map(|y| -y).max().unwrap_or(0).max(0);
        // 40 bits of the greatest are more than codes can show.
        let dropped = (bits(above.max(below)) - 40).max(0);
        let [up, down] = [i64::from(255 - new_zero), i64::from(new_zero)];
        let fits = down == 0 || (above >> dropped) * down >= (below >> dropped) * up;
        let (greatest, levels) = if fits { (above, up) } else { (below, down) };
        let length = bits(greatest);
        let quotient = (leading(greatest) << 31) / levels;
        let exponent = self.exponent + length + bits(quotient) - 93;
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

    fn at(&self, centred: i64, scale: Scale) -> i64 {
        let half = INTERVALS as i64 / 2;
        let product = centred * i64::from(scale.mantissa);
        let shift = scale.exponent - self.grid + 16;
        let t = if shift < 0 { product >> (-shift).min(63) } else { product << shift.min(20) };
        let t = t.clamp(-FARTHEST, FARTHEST);
        let j = ((t >> 16) + half).clamp(0, INTERVALS as i64 - 1);
        let (first, next) = (i64::from(self.values[j as usize]), i64::from(self.values[j as usize + 1]));
        first + (((next - first) * (t - ((j - half) << 16))) >> 16)
    }
}

/// The exponentials of a softmax, `2^30 exp(-S d)` for differences `d` of codes with the scale `S = m 2^e`, from samples
/// `F[j] = round(2^30 2^(-j / 1024))`.
///
/// ```text
/// (19)  y = floor(d m round(log2(e) 2^20) 2^(e + 6)), log2 of the reciprocal with 26 fraction bits;   n = floor(y / 2^26),
///       f = y mod 2^26,   j = floor(f / 2^16),   table[d] = floor((F[j] + floor((F[j + 1] - F[j]) (f mod 2^16) / 2^16)) / 2^n)
/// ```
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
pub fn exponential_samples() -> Vec<i32> {
    let sample = |j: usize| (f64::from(1 << 30) * (-(j as f64) / INTERVALS as f64).exp2()).round() as i32;
    (0..=INTERVALS).map(sample).collect()
}

/// Greatest `t` of (17).
const FARTHEST: i64 = 1 << 36;

#[cfg(test)]
mod tests {
    use super::*;

    /// A fixed sequence of numbers.
    fn random(state: &mut u64) -> u64 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *state >> 33
    }

    /// Accumulators of all magnitudes, biases from nothing to far more than the accumulators, against real numbers.
    #[test]
    fn codes_stand_for_the_real_numbers() {
        let mut state = 7;
        for case in 0..4000 {
            let channels = 1 + random(&mut state) as usize % 5;
            let span = 1i64 << (random(&mut state) % 31);
            let x = Scale::nearest(
                f64::from(random(&mut state) as u32 % 100 + 1) * (random(&mut state) as f64 % 40.0 - 30.0).exp2(),
            );
            let mut scales: Vec<f64> = (0..channels)
                .map(|_| (0.1 + random(&mut state) as f64 % 7.0) * (-(random(&mut state) as f64 % 9.0)).exp2())
                .collect();
            weight_scales(&mut scales);
            let bias_size = if case % 8 == 0 { 0.0 } else { (random(&mut state) as f64 % 60.0 - 30.0).exp2() };
            let bias: Vec<f64> =
                (0..channels).map(|_| (random(&mut state) as f64 / f64::from(1u32 << 30) - 1.0) * bias_size).collect();
            let accs: Vec<Vec<i32>> = (0..channels)
                .map(|_| (0..20).map(|_| (random(&mut state) as i64 % (2 * span) - span) as i32).collect())
                .collect();
            let (w, weight_exponent) = mantissas(&scales);
            let units: Vec<f64> = bias.iter().zip(&scales).map(|(b, s)| b / s).collect();
            let (b, bias_exponent) = mantissas(&units);
            let sizes = accs.iter().zip(&scales).flat_map(|(a, s)| a.iter().map(move |&a| f64::from(a).abs() * s));
            let largest = sizes.fold(0.0, f64::max) * x.real();
            for rectify in [false, true] {
                let rule = Rule { weight_exponent, bias_exponent, rectify, ceiling_exponent: 0 };
                let extrema: Vec<_> =
                    accs.iter().map(|a| (*a.iter().min().unwrap(), *a.iter().max().unwrap())).collect();
                let p = rule.parameters(&extrema, x, &w, &b, &[]);
                let step = Scale::of(&p).real();
                assert_eq!(Scale::of(&p), Scale { mantissa: p[0], exponent: p[1] }, "case {case}");
                let zero = if rectify { 0.0 } else { f64::from(SIGNED_ZERO) };
                let mut widest = 0.0f64;
                for (c, accs) in accs.iter().enumerate() {
                    for &acc in accs {
                        let real = x.real() * scales[c] * f64::from(acc) + bias[c];
                        let real = if rectify { real.max(0.0) } else { real };
                        let code = f64::from(requantize(acc, &p, c, channels, rectify)) - zero;
                        // Where nearly all is cut off or cancelled, what is left has the precision of the accumulators.
                        let floor = largest / f64::from(1 << 24);
                        assert!(
                            (code * step - real).abs() <= 0.53 * step + floor,
                            "case {case}: {code} for {}",
                            real / step
                        );
                        widest = widest.max(code.abs());
                    }
                }
                let all_zero =
                    extrema.iter().zip(&bias).all(|(&(_, hi), &b)| rectify && f64::from(hi) * x.real() + b <= 0.0);
                assert!(all_zero || widest >= 125.0 || widest == 0.0, "case {case}: only {widest} codes are used");
            }
        }
    }

    #[test]
    fn sums_are_aligned() {
        for (a, b) in [(1.0, 1.0), (1.0, 0.3), (0.001, 7.0), (1e-9, 1.0), (3.0, 2.9999)] {
            let [m, e, ka, kb] = align(Scale::nearest(a), Scale::nearest(b));
            let unit = Scale { mantissa: m, exponent: e }.real();
            assert!((f64::from(ka) * unit - a).abs() <= unit && (f64::from(kb) * unit - b).abs() <= unit, "{a} {b}");
            assert!(ka.max(kb) == 1 << ALIGN_BITS);
        }
    }

    /// A ceiling below, amidst and far above the values.
    #[test]
    fn ceilings_are_the_greatest_code() {
        let (x, scales, bias) = (Scale::nearest(0.01), [0.5, 0.02], [0.3, -0.1]);
        let (w, weight_exponent) = mantissas(&scales);
        let units: Vec<f64> = bias.iter().zip(&scales).map(|(b, s)| b / s).collect();
        let (b, bias_exponent) = mantissas(&units);
        let accs = [vec![-900, 0, 40, 100, 1300], vec![-3000, 7, 20_000, 33_000]];
        for ceiling in [1e-3, 0.5, 2.0, 6.0, 1e9] {
            let tops: Vec<f64> = scales.iter().map(|s| ceiling / s).collect();
            let (t, ceiling_exponent) = mantissas(&tops);
            let rule = Rule { weight_exponent, bias_exponent, rectify: true, ceiling_exponent };
            let extrema = accs.each_ref().map(|a| (*a.iter().min().unwrap(), *a.iter().max().unwrap()));
            let p = rule.parameters(&extrema, x, &w, &b, &t);
            let step = Scale::of(&p).real();
            let mut greatest = 0;
            for (c, accs) in accs.iter().enumerate() {
                for &acc in accs {
                    let real = (x.real() * scales[c] * f64::from(acc) + bias[c]).clamp(0.0, ceiling);
                    let code = requantize(acc, &p, c, 2, true);
                    assert!(
                        (f64::from(code) * step - real).abs() <= 0.53 * step,
                        "{ceiling}: {code} for {}",
                        real / step
                    );
                    greatest = greatest.max(code);
                }
            }
            assert_eq!(greatest, 255, "{ceiling}");
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
        assert_eq!((rescale(228, 128, 1 << 14, 128), rescale(255, 0, 8160, 128)), (228, 255));
        let p = Scale::of(&product(Scale::nearest(3.0), Scale::nearest(0.7))).real();
        assert!((p - 2.1).abs() < 1e-8);
    }

    /// Functions that bend, saturate, and go on as lines, at scales from where they are a line to far beyond the samples.
    #[test]
    fn tables_stand_for_functions() {
        let swish = |x: f64| x / (1.0 + (-x).exp());
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let functions: [(&dyn Fn(f64) -> f64, i32); 4] =
            [(&swish, 128), (&swish, 32), (&sigmoid, 0), (&|x| x.clamp(-1.0, 1.0), 128)];
        for (f, new_zero) in functions {
            let reals: Vec<f64> = (0..=INTERVALS).map(|j| f((j as f64 - 512.0) / 32.0)).collect();
            let (mut values, mut exponent) = mantissas(&reals);
            values.iter_mut().for_each(|v| *v >>= 1);
            exponent += 1;
            let samples = Samples { values: &values, grid: -5, exponent };
            for step in [0.003, 0.05, 0.1, 0.9, 40.0] {
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

    #[test]
    fn mantissas_keep_31_bits() {
        assert_eq!(mantissas(&[1.0, -0.5]), (vec![1 << 30, -(1 << 29)], -30));
        assert_eq!(mantissas(&[0.0]), (vec![0], OF_ZEROS));
        assert_eq!(mantissas(&[2.0 - 1e-12]), (vec![1 << 30], -29));
    }
}
