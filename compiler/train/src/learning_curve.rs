//! How much data is enough: the curve of held-out results over the number of samples that were learned from, and what it says of more.
//!
//! Results of trainings with `n` samples lie near `y(n) = a + b n^-c` (Hestness et al., arXiv 1712.00409, section 3; with a share of right answers `b` is negative). For
//! each of some exponents `c` the other two are a weighted linear regression, whose prediction is normal; predictions are mixed by the likelihoods of their exponents, as nothing
//! else is known of these. Where more data would be worse by the regression, `b` is 0.

/// Exponents that are thought of, all equally likely before anything is measured: of test errors Hestness et al. found 0.07 to 0.35; those of what training adds to
/// a network that knows its task are greater.
const EXPONENTS: [f64; 2] = [0.05, 1.5];

/// Exponents between these, at equal distances.
const STEPS: u32 = 58;

/// Probability that lies below and above an interval.
const TAIL: f64 = 0.05;

/// Whether greater or smaller results are better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// As of a share of right answers.
    Greater,
    /// As of a loss.
    Smaller,
}

/// A number with the interval in which it lies with a probability of 90 %.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Predicted {
    /// Its middle.
    pub middle: f64,
    /// What it is below with a probability of 5 %.
    pub low: f64,
    /// What it is above with a probability of 5 %.
    pub high: f64,
}

impl Predicted {
    /// Whether a number lies in the interval.
    pub fn holds(&self, y: f64) -> bool {
        (self.low..=self.high).contains(&y)
    }
}

/// Results over numbers of samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    better: Better,
    /// Number of samples, and the result.
    points: Vec<(f64, f64)>,
    /// Variance of one result about the curve.
    variance: f64,
}

/// The regression with one exponent.
struct Fit {
    exponent: f64,
    likelihood: f64,
    /// `a` and `b`.
    by: [f64; 2],
    /// Variances of `a` and `b`, and their covariance.
    spread: [f64; 3],
}

impl Curve {
    /// A curve through trainings: how many samples each had, and its result on each of the held-out samples, the same for all. From what samples say differently of the trainings
    /// follows how far one lies from the curve by chance. `None` of fewer than two trainings or two held-out samples.
    pub fn new(trainings: &[(usize, Vec<f64>)], better: Better) -> Option<Curve> {
        let (count, held) = (trainings.len(), trainings.first()?.1.len());
        if count < 2 || held < 2 || trainings.iter().any(|(n, y)| *n == 0 || y.len() != held) {
            return None;
        }
        let mean = |y: &[f64]| y.iter().sum::<f64>() / y.len() as f64;
        let points: Vec<(f64, f64)> = trainings.iter().map(|(n, y)| (*n as f64, mean(y))).collect();
        let all = points.iter().map(|p| p.1).sum::<f64>() / count as f64;
        let mut squares = 0.0;
        for sample in 0..held {
            let of_sample = trainings.iter().map(|(_, y)| y[sample]).sum::<f64>() / count as f64;
            let rest = trainings.iter().zip(&points).map(|((_, y), p)| (y[sample] - of_sample - (p.1 - all)).powi(2));
            squares += rest.sum::<f64>();
        }
        let variance = squares / ((held - 1) * (count - 1)) as f64 / held as f64;
        Some(Curve { better, points, variance })
    }

    /// The curve of the trainings with no more than so many samples.
    pub fn up_to(&self, samples: usize) -> Option<Curve> {
        let points: Vec<_> = self.points.iter().copied().filter(|(n, _)| *n <= samples as f64).collect();
        (points.len() >= 2).then(|| Curve { points, ..self.clone() })
    }

    /// The result that a training with so many samples would have.
    pub fn predict(&self, samples: usize) -> Predicted {
        let fits = self.fits();
        let parts = fits.iter().map(|fit| {
            let x = self.term(samples as f64, fit.exponent);
            let variance = fit.spread[0] + x * x * fit.spread[1] + 2.0 * x * fit.spread[2];
            (fit.likelihood, fit.by[0] + fit.by[1] * x, (variance + self.variance).max(0.0).sqrt())
        });
        mixture(&parts.collect::<Vec<_>>())
    }

    /// How much better the curve is at so many samples than at the most that it knows; never less than 0.
    pub fn gain(&self, samples: usize) -> Predicted {
        let sign = if self.better == Better::Greater { 1.0 } else { -1.0 };
        let parts = self.fits().into_iter().map(|fit| {
            let x = self.term(samples as f64, fit.exponent) - 1.0;
            (fit.likelihood, sign * fit.by[1] * x, (x * x * fit.spread[1]).max(0.0).sqrt())
        });
        let Predicted { middle, low, high } = mixture(&parts.collect::<Vec<_>>());
        Predicted { middle: middle.max(0.0), low: low.max(0.0), high: high.max(0.0) }
    }

    /// The likeliest `a`, `b` and `c` of `a + b (n / N)^-c`, `N` the most samples of a training.
    pub fn likeliest(&self) -> [f64; 3] {
        let best = self.fits().into_iter().max_by(|p, q| p.likelihood.total_cmp(&q.likelihood));
        best.map_or([0.0; 3], |fit| [fit.by[0], fit.by[1], fit.exponent])
    }

    /// `(n / N)^-c`.
    fn term(&self, samples: f64, exponent: f64) -> f64 {
        let most = self.points.iter().fold(0.0f64, |m, p| m.max(p.0));
        (samples / most).powf(-exponent)
    }

    /// One regression for each exponent.
    fn fits(&self) -> Vec<Fit> {
        let mut found: Vec<(f64, Fit)> = exponents().map(|c| self.fit(c)).collect();
        // Where no curve passes the points as near as their variance says, this is too small.
        let freedom = self.points.len().saturating_sub(2).max(1) as f64;
        let least = found.iter().fold(f64::INFINITY, |m, f| m.min(f.0));
        let unit = self.floor();
        let excess = (least / unit / freedom).max(1.0);
        for (squares, fit) in &mut found {
            fit.likelihood = (-(*squares - least) / (2.0 * unit * excess)).exp();
            fit.spread = fit.spread.map(|s| s * excess);
        }
        found.into_iter().map(|(_, fit)| fit).collect()
    }

    /// The variance of a result, above 0.
    fn floor(&self) -> f64 {
        let size = self.points.iter().fold(0.0f64, |m, p| m.max(p.1.abs()));
        self.variance.max((1e-6 * size).powi(2)).max(f64::MIN_POSITIVE)
    }

    /// Sum of the squares that remain, and the regression; its likelihood is still to be found.
    fn fit(&self, exponent: f64) -> (f64, Fit) {
        let n = self.points.len() as f64;
        let rows: Vec<(f64, f64)> = self.points.iter().map(|&(m, y)| (self.term(m, exponent), y)).collect();
        let (sx, sy) = rows.iter().fold((0.0, 0.0), |s, r| (s.0 + r.0, s.1 + r.1));
        let (mx, my) = (sx / n, sy / n);
        let sxx: f64 = rows.iter().map(|r| (r.0 - mx).powi(2)).sum();
        let sxy: f64 = rows.iter().map(|r| (r.0 - mx) * (r.1 - my)).sum();
        let slope = if sxx > 0.0 { sxy / sxx } else { 0.0 };
        // `n^-c` falls: a slope of the wrong sign says that more data is worse.
        let wrong = if self.better == Better::Greater { slope > 0.0 } else { slope < 0.0 };
        let unit = self.floor();
        let spread_b = if sxx > 0.0 { unit / sxx } else { 0.0 };
        let b = if wrong { 0.0 } else { slope };
        let a = my - b * mx;
        let squares = rows.iter().map(|r| (r.1 - a - b * r.0).powi(2)).sum();
        let spread = [unit / n + mx * mx * spread_b, spread_b, -mx * spread_b];
        (squares, Fit { exponent, likelihood: 0.0, by: [a, b], spread })
    }
}

fn exponents() -> impl Iterator<Item = f64> {
    let [least, greatest] = EXPONENTS;
    (0..=STEPS).map(move |i| least + (greatest - least) * f64::from(i) / f64::from(STEPS))
}

/// Quantiles of a mixture of normal distributions: weights, means, standard deviations.
fn mixture(parts: &[(f64, f64, f64)]) -> Predicted {
    let all: f64 = parts.iter().map(|p| p.0).sum();
    let below = |y: f64| parts.iter().map(|&(w, mean, deviation)| w * normal(y - mean, deviation)).sum::<f64>() / all;
    let least = parts.iter().fold(f64::INFINITY, |m, p| m.min(p.1 - 8.0 * p.2));
    let most = parts.iter().fold(f64::NEG_INFINITY, |m, p| m.max(p.1 + 8.0 * p.2));
    let quantile = |q: f64| {
        let (mut low, mut high) = (least, most);
        for _ in 0..60 {
            let middle = f64::midpoint(low, high);
            if below(middle) < q { low = middle } else { high = middle }
        }
        f64::midpoint(low, high)
    };
    Predicted { middle: quantile(0.5), low: quantile(TAIL), high: quantile(1.0 - TAIL) }
}

/// The normal distribution function, to 1e-7 (Abramowitz and Stegun, 7.1.26).
fn normal(x: f64, deviation: f64) -> f64 {
    if deviation <= 0.0 {
        return if x < 0.0 { 0.0 } else { 1.0 };
    }
    let z = x / deviation / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z.abs());
    let series = ((((1.061_405_429 * t - 1.453_152_027) * t) + 1.421_413_741) * t - 0.284_496_736) * t + 0.254_829_592;
    let upper = 0.5 * series * t * (-z * z).exp();
    if z < 0.0 { upper } else { 1.0 - upper }
}

#[cfg(test)]
mod tests {
    use qcc_num::random::Random;

    use super::*;

    /// Trainings on a known curve whose held-out results differ by chance.
    fn drawn(random: &mut Random, counts: &[usize], y: impl Fn(f64) -> f64) -> Vec<(usize, Vec<f64>)> {
        let hard: Vec<f64> = (0..512).map(|_| random.unit() - 0.5).collect();
        let mut one = |&n: &usize| (n, hard.iter().map(|h| y(n as f64) + h + 0.4 * (random.unit() - 0.5)).collect());
        counts.iter().map(&mut one).collect()
    }

    #[test]
    fn nine_of_ten_predictions_hold() {
        let mut random = Random::new(7);
        let (mut held, mut of) = (0, 0);
        for exponent in [0.25, 0.5, 1.0] {
            for _ in 0..60 {
                let curve = |n: f64| 0.8 + 1.5 * (n / 100.0).powf(-exponent);
                let seen = drawn(&mut random, &[100, 200, 400, 800], curve);
                let found = Curve::new(&seen, Better::Smaller).expect("four trainings").predict(3200);
                held += usize::from(found.holds(curve(3200.0)));
                of += 1;
            }
        }
        assert!(10 * held >= 8 * of, "{held} of {of}");
    }

    #[test]
    fn a_flat_curve_has_no_gain_and_a_steep_one_has() {
        let mut random = Random::new(3);
        let counts = [1000, 2000, 4000, 8000];
        let flat = Curve::new(&drawn(&mut random, &counts, |_| 0.9), Better::Greater).expect("a curve");
        assert!(flat.gain(16000).high < 0.03, "{:?}", flat.gain(16000));
        let steep = Curve::new(&drawn(&mut random, &counts, |n| 0.9 - 20.0 / n.sqrt()), Better::Greater);
        let gain = steep.expect("a curve").gain(16000);
        assert!(gain.low > 0.01 && gain.holds(20.0 * (1.0 / 8000f64.sqrt() - 1.0 / 16000f64.sqrt())), "{gain:?}");
        assert!(Curve::new(&[(10, vec![1.0, 2.0])], Better::Greater).is_none());
    }

    #[test]
    fn quantiles_of_one_normal_distribution_are_its_own() {
        let found = mixture(&[(1.0, 2.0, 3.0)]);
        assert!((found.middle - 2.0).abs() < 1e-6);
        assert!(
            (found.high - (2.0 + 3.0 * 1.644_853_6)).abs() < 1e-4
                && (found.low - (2.0 - 3.0 * 1.644_853_6)).abs() < 1e-4
        );
    }
}
