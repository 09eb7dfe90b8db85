//! What outputs should be, and derivatives of how far they are from it.
//!
//! An output that is a row of at least two scores is that of a classifier, before its softmax if it has one: with `z` its scores, `t` those of the
//! teacher and the temperature `T` the loss of a row is
//!
//! ```text
//! T^2 KL(softmax(t / T) || softmax(z / T))                   Hinton et al. 2015, section 2
//! - ln softmax(z)[label]                                     where labels are given
//! ```
//!
//! each times its weight ([`Weights`]), and that of any other output the mean square of its distance from the teacher's, as a part of the teacher's mean square.

use qcc_ir::diag::Code;
use qcc_ir::{Data, Diag};

use crate::program::Program;

/// What a sample's outputs should be: one row of numbers for each output.
pub type Target = Vec<Vec<f32>>;

/// What one output is compared by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Rows of so many scores.
    Scores(usize),
    /// Real numbers.
    Reals,
}

/// How losses are weighed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weights {
    /// Of the distance to the teacher.
    pub teacher: f32,
    /// Of the distance to labels.
    pub labels: f32,
    /// Temperature of the distance to the teacher.
    pub temperature: f32,
}

impl Default for Weights {
    fn default() -> Weights {
        Weights { teacher: 1.0, labels: 0.0, temperature: 2.0 }
    }
}

/// What was found of some samples; sums, so that they add up in any grouping.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Score {
    /// Samples.
    pub samples: usize,
    /// Sum of the losses of samples.
    pub loss: f64,
    /// Rows of scores, and of these the ones whose greatest is that of the teacher.
    pub rows: usize,
    /// See `rows`.
    pub agreeing: usize,
    /// Rows with a label, and of these the right ones.
    pub labelled: usize,
    /// See `labelled`.
    pub right: usize,
}

impl Score {
    /// Of both.
    #[must_use]
    pub fn and(self, other: Score) -> Score {
        Score {
            samples: self.samples + other.samples,
            loss: self.loss + other.loss,
            rows: self.rows + other.rows,
            agreeing: self.agreeing + other.agreeing,
            labelled: self.labelled + other.labelled,
            right: self.right + other.right,
        }
    }

    /// Of all together.
    pub fn of_all(scores: &[Score]) -> Score {
        scores.iter().fold(Score::default(), |all, &score| all.and(score))
    }

    /// Mean loss of a sample.
    pub fn mean_loss(&self) -> f64 {
        self.loss / self.samples.max(1) as f64
    }

    /// Share of rows that agree with the teacher, if there are any.
    pub fn agreement(&self) -> Option<f64> {
        (self.rows > 0).then(|| self.agreeing as f64 / self.rows as f64)
    }

    /// Share of right rows, if there are labels.
    pub fn accuracy(&self) -> Option<f64> {
        (self.labelled > 0).then(|| self.right as f64 / self.labelled as f64)
    }
}

/// How an output with these extents is compared.
pub(crate) fn kind(dims: &[usize]) -> Kind {
    match dims.iter().rposition(|&d| d > 1) {
        Some(last) if dims[..last].iter().skip(1).all(|&d| d == 1) => Kind::Scores(dims[last]),
        _ => Kind::Reals,
    }
}

/// Position of the greatest, the first of several.
fn greatest(row: &[f32]) -> usize {
    row.iter().enumerate().fold(0, |best, (i, &x)| if x > row[best] { i } else { best })
}

/// Logarithms of the softmax of `row / temperature`.
fn log_softmax(row: &[f32], temperature: f32) -> Vec<f32> {
    let most = row.iter().fold(f32::NEG_INFINITY, |m, &x| m.max(x));
    let sum: f32 = row.iter().map(|&x| ((x - most) / temperature).exp()).sum();
    row.iter().map(|&x| (x - most) / temperature - sum.ln()).collect()
}

/// Score of one output of one sample, and the derivative of its loss by the output, which is the same as that of `z`.
pub(crate) fn compare(
    kind: Kind,
    z: &[f32],
    target: &[f32],
    label: Option<i64>,
    weights: &Weights,
) -> (Score, Vec<f32>) {
    let mut score = Score { samples: 1, ..Score::default() };
    let mut gradient = vec![0.0; z.len()];
    match kind {
        Kind::Reals => {
            let power = target.iter().map(|t| t * t).sum::<f32>().max(f32::MIN_POSITIVE);
            for ((g, &z), &t) in gradient.iter_mut().zip(z).zip(target) {
                score.loss += f64::from((z - t) * (z - t) / power);
                *g = 2.0 * (z - t) / power;
            }
        }
        Kind::Scores(classes) => {
            let rows = z.chunks(classes).zip(target.chunks(classes)).zip(gradient.chunks_mut(classes));
            let count = z.len() as f32 / classes as f32;
            for ((z, t), gradient) in rows {
                score.rows += 1;
                score.agreeing += usize::from(greatest(z) == greatest(t));
                let temperature = weights.temperature;
                let (own, wanted) = (log_softmax(z, temperature), log_softmax(t, temperature));
                for ((g, own), wanted) in gradient.iter_mut().zip(&own).zip(&wanted) {
                    let p = wanted.exp();
                    score.loss += f64::from(weights.teacher * temperature * temperature * p * (wanted - own) / count);
                    *g += weights.teacher * temperature * (own.exp() - p) / count;
                }
                let label = label.and_then(|l| usize::try_from(l).ok()).filter(|&l| l < classes);
                let Some(label) = label else { continue };
                score.labelled += 1;
                score.right += usize::from(greatest(z) == label);
                let own = log_softmax(z, 1.0);
                score.loss -= f64::from(weights.labels * own[label] / count);
                for (i, (g, own)) in gradient.iter_mut().zip(&own).enumerate() {
                    *g += weights.labels * (own.exp() - f32::from(u8::from(i == label))) / count;
                }
            }
        }
    }
    (score, gradient)
}

/// What the codes of one sample stand for, with the scale.
#[expect(clippy::unnecessary_cast, reason = "one of the kinds of data has 64 bits already")]
pub(crate) fn real(program: &Program, slot: usize, codes: &Data, sample: usize) -> Result<(Vec<f32>, f32), Diag> {
    let ty = &program.slots[slot].ty;
    let Some(u) = ty.uniform().filter(|u| u.axis.is_none()) else {
        let diag = Diag::new(Code::UNSUPPORTED, format!("an output of type {ty} stands for no real numbers"));
        return Err(diag.help("train a model whose outputs are real numbers: --outputs takes other values"));
    };
    let (n, zero, scale) = (ty.elements(), u.zero_point(), u.scale());
    let real = qcc_ir::for_data!(codes, v => {
        v[sample * n..(sample + 1) * n].iter().map(|&q| (q as i64 - zero) as f32 * scale).collect()
    });
    Ok((real, scale))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derivatives_are_differences_of_the_loss() {
        let (z, t) = ([0.3f32, -1.2, 2.0, 0.7], [1.0f32, 0.5, 1.5, -0.5]);
        let weights = Weights { teacher: 0.7, labels: 0.4, temperature: 2.0 };
        for (kind, label) in [(Kind::Scores(4), Some(1)), (Kind::Scores(2), None), (Kind::Reals, None)] {
            let (_, gradient) = compare(kind, &z, &t, label, &weights);
            for i in 0..z.len() {
                let loss = |d: f32| {
                    let mut z = z;
                    z[i] += d;
                    compare(kind, &z, &t, label, &weights).0.loss
                };
                let difference = (loss(1e-2) - loss(-1e-2)) / 2e-2;
                assert!(
                    (difference - f64::from(gradient[i])).abs() < 2e-4,
                    "{kind:?} {i}: {difference} {}",
                    gradient[i]
                );
            }
        }
    }

    #[test]
    fn outputs_of_classifiers_are_known_by_their_extents() {
        assert_eq!(kind(&[1, 10]), Kind::Scores(10));
        assert_eq!(kind(&[2, 1, 1, 1000]), Kind::Scores(1000));
        assert_eq!(kind(&[1, 1000, 1, 1]), Kind::Scores(1000));
        assert_eq!(kind(&[1, 3, 32, 32]), Kind::Reals);
        assert_eq!(kind(&[1, 1]), Kind::Reals);
    }
}
