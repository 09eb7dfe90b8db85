//! Intervals in which ratios of sums over calls lie with a probability of 95 %.
//!
//! Of `n` calls, call `i` has the signal `s[i]`, the power `p[i]` of what the integers stand for, and the noise `n[i]`; `S`, `P` and `N` are
//! their sums. To first order (the delta method; Cochran, Sampling Techniques, 3rd edition, 6.3) a call moves
//!
//! ```text
//! ln(S / N)                   by  s[i] / S - n[i] / N                                     (1)
//! ln((S + P - N) / sqrt(S P)) by  (s[i] + p[i] - n[i]) / (S + P - N) - s[i] / 2 S - p[i] / 2 P       (2)
//! ```
//!
//! and the variance of either is `n / (n - 1)` times the sum of the squares. Two models on the same calls are a pair: what a call
//! moves in the one is taken from what it moves in the other. The quantile is Student's.

use super::metrics::{Difference, QUANTILE};
use super::noise::{Noise, total};

/// Decibels of a unit of the natural logarithm of a ratio.
const DECIBELS: f64 = 10.0 / std::f64::consts::LN_10;

/// Student's quantile for 95 % on both sides, by the expansion of Cornish and Fisher; exact for few degrees of freedom.
fn quantile(freedom: usize) -> f64 {
    match freedom {
        1 => 12.706,
        2 => 4.303,
        3 => 3.182,
        _ => {
            let (z, v) = (QUANTILE, freedom as f64);
            let third = (3.0 * z.powi(7) + 19.0 * z.powi(5) + 17.0 * z.powi(3) - 15.0 * z) / (384.0 * v.powi(3));
            z + (z.powi(3) + z) / (4.0 * v) + (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / (96.0 * v * v) + third
        }
    }
}

/// Half of the interval of what moves by `by`; `None` of fewer than two calls, and of what is not finite.
fn half(by: impl Iterator<Item = f64>, calls: usize) -> Option<f64> {
    let freedom = calls.checked_sub(1).filter(|&f| f > 0)?;
    let squares: f64 = by.map(|u| u * u).sum();
    Some(quantile(freedom) * (squares * calls as f64 / freedom as f64).sqrt()).filter(|h| h.is_finite())
}

/// By equation (1), what call `i` moves.
fn ratio(calls: &[Noise], all: Noise, i: usize) -> f64 {
    calls[i].signal / all.signal - calls[i].noise / all.noise
}

/// The interval of the signal-to-noise ratio, in decibels.
pub(crate) fn decibels(calls: &[Noise]) -> Option<(f64, f64)> {
    let all = total(calls);
    let half = DECIBELS * half((0..calls.len()).map(|i| ratio(calls, all, i)), calls.len())?;
    let centre = all.decibels()?;
    Some((centre - half, centre + half))
}

/// The interval of the cosine.
pub(crate) fn cosine(calls: &[Noise]) -> Option<(f64, f64)> {
    let all = total(calls);
    let product = |n: &Noise| n.signal + n.power - n.noise;
    let by =
        calls.iter().map(|n| product(n) / product(&all) - n.signal / (2.0 * all.signal) - n.power / (2.0 * all.power));
    let centre = all.cosine();
    let half = centre.abs() * half(by, calls.len())?;
    Some(((centre - half).max(-1.0), (centre + half).min(1.0)))
}

/// Decibels that the second of two models is above the first on the same calls, with their interval.
pub(crate) fn gain(first: &[Noise], second: &[Noise]) -> Option<Difference> {
    let (a, b) = (total(first), total(second));
    let by = (0..first.len().min(second.len())).map(|i| ratio(second, b, i) - ratio(first, a, i));
    let half = DECIBELS * half(by, first.len())?;
    let value = b.decibels()? - a.decibels()?;
    Some(Difference::within(value, value - half, value + half))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Normal numbers, nearly: sums of 12 uniform ones.
    fn normal(state: &mut u32) -> f64 {
        let mut unit = || {
            *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(*state >> 8) / f64::from(1u32 << 24)
        };
        (0..12).map(|_| unit()).sum::<f64>() - 6.0
    }

    /// Calls of 16 elements whose noise differs from call to call.
    fn calls(count: usize, noise: f64, state: &mut u32) -> Vec<Noise> {
        let call = |state: &mut u32| {
            let level = noise * (0.5 * normal(state)).exp();
            let mut sum = Noise::default();
            for _ in 0..16 {
                let x = normal(state);
                sum.add(x, x + level * normal(state));
            }
            sum
        };
        (0..count).map(|_| call(state)).collect()
    }

    #[test]
    fn intervals_cover_what_many_calls_show() {
        let mut state = 5;
        let truth = total(&calls(200_000, 0.1, &mut state));
        let trials = 400;
        for count in [8, 40] {
            let (mut ratios, mut cosines) = (0, 0);
            for _ in 0..trials {
                let calls = calls(count, 0.1, &mut state);
                let covers =
                    |interval: Option<(f64, f64)>, x: f64| interval.is_some_and(|(low, high)| low <= x && x <= high);
                ratios += usize::from(covers(decibels(&calls), truth.decibels().unwrap()));
                cosines += usize::from(covers(cosine(&calls), truth.cosine()));
            }
            // Few calls whose noise differs this much seldom have the loudest among them: 95 % are not quite reached.
            let least = if count == 8 { 330 } else { 350 };
            assert!(
                ratios >= least && cosines >= least && ratios <= 395,
                "{ratios} and {cosines} of {trials} with {count} calls"
            );
        }
    }

    #[test]
    fn a_gain_is_told_from_the_noise_where_calls_agree() {
        let mut state = 9;
        let first = calls(16, 0.1, &mut state);
        // The same calls with a tenth less noise: 0.46 dB, of which pairs leave no doubt, and others of the same kind.
        let less = |n: &Noise| Noise { noise: 0.9 * n.noise, ..*n };
        let second: Vec<Noise> = first.iter().map(less).collect();
        let found = gain(&first, &second).unwrap();
        assert!(!found.within_noise && (found.value - 0.4576).abs() < 1e-3, "{found:?}");
        let other: Vec<Noise> = calls(16, 0.1, &mut state);
        assert!(gain(&first, &other).unwrap().within_noise);
        assert_eq!(gain(&first[..1], &second[..1]), None);
        assert_eq!(decibels(&[Noise { signal: 1.0, noise: 0.0, power: 1.0 }; 3]), None);
    }

    #[test]
    fn quantiles_are_those_of_student() {
        for (freedom, wanted) in [(1, 12.706), (4, 2.776), (7, 2.365), (30, 2.042), (100_000, 1.960)] {
            assert!((quantile(freedom) - wanted).abs() < 0.02, "{freedom}: {}", quantile(freedom));
        }
    }
}
