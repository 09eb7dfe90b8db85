//! What share of samples a model is expected to get right, from few samples.
//!
//! Of some hundreds of samples only a few change their class with the integers of a model, and counts of these say little. But the errors
//! of scores are known from every sample, and so is how far each sample is from another class. Errors of samples alike take their turn on each.
//! With float scores `f_i[r]` in descending order, `r` the rank, and errors `e_j[r] = q_j[r] - f_j[r]` in the ranks of the sample `j` that they are from,
//!
//! ```text
//! share = 1/n sum over i of 1/|N(i)| sum over j in N(i) of [argmax over r of (f_i[r] + e_j[r]) = k_i]                (1)
//! ```
//!
//! `N(i)` are the [`ALIKE`] samples before and behind `i` in the order of `f[0] - f[1]`, and `i` itself. For agreement `k_i = 0`, for top-1 it is the
//! rank of the label.

use qcc_ir::Tensor;

use super::super::noise::reals;

/// Neighbours on each side.
const ALIKE: usize = 16;

/// Ranks that are looked at: what is further behind becomes the first by no error that a useful model makes.
const RANKS: usize = 10;

/// A sample as the float model sees it.
struct Sample {
    /// The classes by rank.
    classes: Vec<usize>,
    /// Their scores.
    scores: Vec<f64>,
    /// The rank that counts as right, if it is one of these.
    right: Option<usize>,
    /// The class that does.
    class: usize,
}

/// What the float model gives, and what counts as right.
pub(super) struct Reference {
    samples: Vec<Sample>,
    /// Samples in the order of how far they are from another class.
    order: Vec<usize>,
}

/// A model on the samples of a reference.
pub(super) struct Scored {
    /// The share by equation (1).
    pub expected: f64,
    /// Which samples are right.
    pub right: Vec<bool>,
}

/// The position of the greatest number, the first of several.
fn greatest(row: impl Iterator<Item = f64>) -> usize {
    row.enumerate().fold((0, f64::NEG_INFINITY), |best, (i, x)| if x > best.1 { (i, x) } else { best }).0
}

impl Reference {
    /// Of the rows of scores of all samples; without labels the float model's own class is right.
    pub(super) fn new(rows: impl Iterator<Item = Vec<f64>>, labels: Option<&[i64]>) -> Reference {
        let sample = |(i, row): (usize, Vec<f64>)| {
            let mut classes: Vec<usize> = (0..row.len()).collect();
            classes.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
            classes.truncate(RANKS);
            let label = labels.and_then(|labels| labels.get(i));
            // No class has the number of a label that is none.
            let class = match label {
                Some(&label) => usize::try_from(label).unwrap_or(usize::MAX),
                None => classes.first().copied().unwrap_or(0),
            };
            let scores = classes.iter().map(|&c| row[c]).collect();
            let right = classes.iter().position(|&c| c == class);
            Sample { classes, scores, right, class }
        };
        let samples: Vec<Sample> = rows.enumerate().map(sample).collect();
        let margin = |i: usize| samples[i].scores.iter().take(2).copied().reduce(|a, b| a - b).unwrap_or(0.0);
        let mut order: Vec<usize> = (0..samples.len()).collect();
        order.sort_by(|&a, &b| margin(a).total_cmp(&margin(b)));
        Reference { samples, order }
    }

    /// Judges the rows of scores that a model gives for the same samples.
    pub(super) fn judge(&self, rows: &[Vec<f64>]) -> Scored {
        let right = self.samples.iter().zip(rows).map(|(s, row)| greatest(row.iter().copied()) == s.class).collect();
        let errors: Vec<Vec<f64>> = self
            .samples
            .iter()
            .zip(rows)
            .map(|(s, row)| s.classes.iter().zip(&s.scores).map(|(&c, f)| row.get(c).map_or(0.0, |q| q - f)).collect())
            .collect();
        let share = |(place, &i): (usize, &usize)| {
            let alike = &self.order[place.saturating_sub(ALIKE)..(place + ALIKE + 1).min(self.order.len())];
            let sample = &self.samples[i];
            let stays = |&&j: &&usize| {
                let moved = sample.scores.iter().zip(&errors[j]).map(|(f, e)| f + e);
                Some(greatest(moved)) == sample.right
            };
            alike.iter().filter(stays).count() as f64 / alike.len().max(1) as f64
        };
        let sum: f64 = self.order.iter().enumerate().map(share).sum();
        Scored { expected: sum / self.samples.len().max(1) as f64, right }
    }
}

/// The rows of scores, one for each of `batch` samples, in an output.
pub(super) fn rows(output: &Tensor, batch: usize) -> Vec<Vec<f64>> {
    let values = reals(output);
    let row = (values.len() / batch.max(1)).max(1);
    values.chunks(row).map(<[f64]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Uniform in -1 to 1.
    fn unit(state: &mut u32) -> f64 {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(*state >> 8) / f64::from(1u32 << 23) - 1.0
    }

    /// Scores of ten classes, and the same with errors.
    fn scores(count: usize, noise: f64, state: &mut u32) -> (Vec<Vec<f64>>, Vec<Vec<f64>>) {
        let float: Vec<Vec<f64>> = (0..count).map(|_| (0..10).map(|_| 4.0 * unit(state)).collect()).collect();
        let int = float.iter().map(|row| row.iter().map(|x| x + noise * unit(state)).collect()).collect();
        (float, int)
    }

    /// Of many sets of 200 samples the expected share scatters less around the true one than the counted one does, and is not
    /// beside it.
    #[test]
    fn exchanged_errors_say_more_than_counts() {
        let mut state = 3;
        let truth = {
            let (float, int) = scores(100_000, 0.1, &mut state);
            let right = Reference::new(float.into_iter(), None).judge(&int).right;
            right.iter().filter(|r| **r).count() as f64 / right.len() as f64
        };
        assert!((0.9..0.99).contains(&truth), "{truth}");
        let (mut expected, mut counted, mut mean) = (0.0, 0.0, 0.0);
        for _ in 0..100 {
            let (float, int) = scores(200, 0.1, &mut state);
            let found = Reference::new(float.into_iter(), None).judge(&int);
            let count = found.right.iter().filter(|r| **r).count() as f64 / 200.0;
            expected += (found.expected - truth).powi(2);
            counted += (count - truth).powi(2);
            mean += found.expected / 100.0;
        }
        assert!(expected < 0.8 * counted, "{expected} of {counted}");
        assert!((mean - truth).abs() < 0.002, "{mean} for {truth}");
    }

    #[test]
    fn labels_say_what_is_right() {
        let float = vec![vec![3.0, 1.0, 0.0], vec![0.0, 2.0, 1.0], vec![1.0, 1.5, 0.0]];
        let labels = [0, 2, -1];
        let reference = Reference::new(float.clone().into_iter(), Some(&labels));
        let same = reference.judge(&float);
        assert_eq!((same.right, same.expected), (vec![true, false, false], 1.0 / 3.0));
        let other = reference.judge(&[vec![0.0, 1.0, 0.0], vec![0.0, 2.0, 3.0], vec![9.0, 1.5, 0.0]]);
        assert_eq!(other.right, [false, true, false]);
        let own = Reference::new(float.clone().into_iter(), None);
        assert_eq!(own.judge(&float).expected, 1.0);
    }
}
