//! Metrics over samples, with the intervals in which they lie with a probability of 95 %.
//!
//! Both models see the same samples, so that their difference is a paired one: samples that both get right or both get
//! wrong say nothing about it. With `b` samples that only the float model gets right and `c` that only the integer model gets
//! right, of `n`, after half a sample is added to each of the four cells (Agresti and Min, Statistics in Medicine 2005),
//!
//! ```text
//! d = (c - b) / (n + 2),    variance = ((b + c + 1) - (c - b)^2 / (n + 2)) / (n + 2)^2,    d +- 1.96 deviations    (1)
//! ```
//!
//! A single share `p` has the interval of Wilson (JASA 1927).

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

/// Quantile of the normal distribution for 95 %, on both sides.
pub(super) const QUANTILE: f64 = 1.959964;

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Fraction of samples whose class is right.
    Top1,
    /// Fraction of samples whose class is among the five greatest outputs.
    Top5,
    /// Fraction of samples for which both models give the same class.
    Agreement,
    /// Signal-to-noise ratio of the output.
    Sqnr,
    /// Cosine of the angle between the outputs.
    Cosine,
}

impl Metric {
    /// All metrics.
    pub const ALL: [Metric; 5] = [Metric::Top1, Metric::Top5, Metric::Agreement, Metric::Sqnr, Metric::Cosine];

    /// Spelling on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Top1 => "top1",
            Metric::Top5 => "top5",
            Metric::Agreement => "agreement",
            Metric::Sqnr => "sqnr",
            Metric::Cosine => "cosine",
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Metric {
    type Err = String;

    fn from_str(s: &str) -> Result<Metric, String> {
        let known = Metric::ALL.map(Metric::name).join(", ");
        Metric::ALL.into_iter().find(|m| m.name() == s).ok_or_else(|| format!("`{s}` is none of {known}"))
    }
}

/// How much better a model is than another on the same samples: the integer one than the float one, of the share of samples that
/// are right.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Difference {
    /// The difference as it was counted.
    pub value: f64,
    /// Lower end of the interval of 95 %.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Whether the interval contains zero: the samples do not tell the models apart.
    pub within_noise: bool,
}

impl Difference {
    /// By equation (1), of `samples` of which `lost` only the float model gets right and `won` only the integer model.
    pub fn paired(samples: usize, lost: usize, won: usize) -> Difference {
        let (n, b, c) = (samples as f64, lost as f64, won as f64);
        let centre = (c - b) / (n + 2.0);
        let variance = ((b + c + 1.0) - (c - b).powi(2) / (n + 2.0)).max(0.0) / (n + 2.0).powi(2);
        let half = QUANTILE * variance.sqrt();
        Difference::within((c - b) / n.max(1.0), centre - half, centre + half)
    }

    /// A difference in an interval.
    pub(super) fn within(value: f64, low: f64, high: f64) -> Difference {
        Difference { value, low, high, within_noise: low <= 0.0 && high >= 0.0 }
    }
}

/// Ends of the interval of Wilson for `hits` of `samples`.
pub fn share_interval(samples: usize, hits: usize) -> (f64, f64) {
    let (n, z) = (samples.max(1) as f64, QUANTILE);
    let p = hits as f64 / n;
    let centre = (p + z * z / (2.0 * n)) / (1.0 + z * z / n);
    let half = z / (1.0 + z * z / n) * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    ((centre - half).max(0.0), (centre + half).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_inside_the_noise_are_called_so() {
        // 1000 samples: 12 lost and 8 won are no news, 40 lost and 8 won are.
        let d = Difference::paired(1000, 12, 8);
        assert!(d.within_noise && d.low < -0.004 && d.high > 0.0, "{d:?}");
        let d = Difference::paired(1000, 40, 8);
        assert!(!d.within_noise && d.value == -0.032 && d.high < 0.0, "{d:?}");
        assert!(Difference::paired(0, 0, 0).within_noise);
    }

    /// The interval contains the true difference in 95 of 100 cases, also where few samples differ: summed exactly over all
    /// outcomes of `n` samples that are lost with probability `p` and won with probability `q`.
    #[test]
    fn intervals_cover_the_true_difference() {
        let log_factorial: Vec<f64> = std::iter::once(0.0)
            .chain((1..=200).scan(0.0, |sum, i| {
                *sum += f64::from(i).ln();
                Some(*sum)
            }))
            .collect();
        for (n, p, q) in [(20, 0.05, 0.05), (50, 0.02, 0.02), (100, 0.01, 0.03), (200, 0.02, 0.005), (200, 0.1, 0.05)] {
            let mut covered = 0.0;
            for lost in 0..=n {
                for won in 0..=n - lost {
                    let same = n - lost - won;
                    let ways = log_factorial[n] - log_factorial[lost] - log_factorial[won] - log_factorial[same];
                    let power = |p: f64, k: usize| p.ln() * k as f64;
                    let probability = (ways + power(p, lost) + power(q, won) + power(1.0 - p - q, same)).exp();
                    let d = Difference::paired(n, lost, won);
                    if d.low <= q - p && q - p <= d.high {
                        covered += probability;
                    }
                }
            }
            assert!(covered > 0.935, "{covered} for {n} samples, {p} lost, {q} won");
        }
    }

    #[test]
    fn shares_have_the_interval_of_wilson() {
        // Newcombe, Statistics in Medicine 1998, table I: 81 of 263 and 0 of 20, method 3.
        let (low, high) = share_interval(263, 81);
        assert!((low - 0.2553).abs() < 1e-4 && (high - 0.3662).abs() < 1e-4, "{low} {high}");
        let (low, high) = share_interval(20, 0);
        assert!(low == 0.0 && (high - 0.1611).abs() < 1e-4, "{low} {high}");
    }
}
