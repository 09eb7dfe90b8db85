//! Equations (8) to (12): a requantization whose constants follow from the extrema of its accumulators.

use super::{SIGNED_ZERO, Scale, bits, leading, round_shift};
use crate::requant::Epilogue;

/// Number of values before the biases in the parameters of a requantization: mantissa, exponent, `-d` and `d` where they are
/// positive and else 0, and `a`.
pub const HEADER: usize = 5;

/// Channels whose weights are smaller than the greatest by more than this exponent share its scale.
const SPREAD: f64 = 4096.0;

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

impl Rule {
    /// Equations (8) to (11): `[mantissa, exponent, left, right, a, biases.., multipliers..]` from the least and greatest
    /// accumulator of each channel. A shift to the right by more than 31 bits is told as 31: accumulators do not count then.
    /// With `ceilings`, empty if there are none, that of each channel follows at the end.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a bias in units of accumulators fits by the choice of `dropped`, mantissas have 31 bits, the rest is limited"
    )]
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
        let bias_of = |&b: &i32| round_shift(i64::from(b) * inverse, shift) as i32;
        let shifted: Vec<i32> = biases.iter().map(bias_of).collect();
        let down = 61 + scale.exponent - self.ceiling_exponent + dropped;
        let ceiling = |&t: &i32| match down {
            // Far above all values.
            ..1 => i32::MAX,
            _ => round_shift(i64::from(t) * inverse, down.min(63)).min(i64::from(i32::MAX)) as i32,
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
        let multiplier = |&w: &i32| round_shift(i64::from(w) * ratio, down).min(i64::from(i32::MAX)) as i32;
        let header = [leading(quotient) as i32, exponent, left, right, shl];
        header.into_iter().chain(shifted).chain(weights.iter().map(multiplier)).chain(ceilings).collect()
    }
}

/// The epilogue of (12).
pub fn epilogue(rectify: bool) -> Epilogue {
    let zero = if rectify { 0 } else { SIGNED_ZERO };
    Epilogue { shl: 0, offset: crate::requant::offset(zero, None), f32_fraction_bits: 0, lo: 0, hi: 255 }
}

/// Equations (8) and (12) for one accumulator of channel `c`, with the parameters of [`Rule::parameters`].
#[expect(clippy::cast_sign_loss, reason = "shifts of a parameter block are not negative")]
pub fn requantize(acc: i32, parameters: &[i32], c: usize, channels: usize, rectify: bool) -> u8 {
    let shifted = acc.wrapping_shl(parameters[2] as u32).wrapping_shr(parameters[3] as u32);
    let v = shifted.wrapping_add(parameters[HEADER + c]);
    let v = if rectify { v.max(0) } else { v };
    let v = v.min(parameters.get(HEADER + 2 * channels + c).copied().unwrap_or(i32::MAX));
    let v = v.wrapping_shl(parameters[4] as u32);
    epilogue(rectify).apply(v, parameters[HEADER + channels + c], 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dynamic::mantissas;

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
}
