//! Corrections of a layer's channels by a gain and a shift, from what the samples give and should give.

use qcc_ir::{Data, Tensor};
use qcc_num::convert::nearest_f32;
use rayon::prelude::*;

/// Positions that count as agreeing exactly beside those that are seen, when a gain is estimated.
const AGREEING: f64 = 32.0;

/// Greatest gain, and the inverse of the least.
const MOST_GAIN: f64 = 1.25;

/// How the results of a channel are corrected: `gain * result + shift`.
pub(super) struct AffineCorrection {
    pub(super) gain: f64,
    pub(super) shift: f64,
    /// What the mean of the channel moves by.
    pub(super) moved: f64,
}

impl AffineCorrection {
    /// What moves the mean to the same value without a gain.
    pub(super) fn without_gain(&mut self) {
        (self.gain, self.shift) = (1.0, self.moved);
    }

    /// The correction of each channel that brings `found` nearest to `targets`: noise in front of a layer makes its results
    /// smaller than they should be, and in deep networks these losses multiply.
    /// Of each channel `plane` elements follow one another. With `bounds` results are clipped to them: elements of which both are beyond
    /// the same one do not count, and what should lie beyond one should lie on it.
    pub(super) fn of_channels(
        targets: &[Tensor],
        found: &[Tensor],
        channels: usize,
        plane: usize,
        bounds: Option<[f32; 2]>,
    ) -> Vec<AffineCorrection> {
        let [lo, hi] = bounds.unwrap_or([f32::NEG_INFINITY, f32::INFINITY]);
        // Sums of x, y, x^2 and x y, x being what was found, and their number.
        let one = |(a, b): (&Tensor, &Tensor)| {
            let mut sums = vec![[0.0f64; 5]; channels];
            let (Some(y), Some(x)) = (a.as_f32(), b.as_f32()) else { return sums };
            for (i, (x, y)) in x.chunks(plane).zip(y.chunks(plane)).enumerate() {
                let sums = &mut sums[i % channels];
                let counts = |(x, y): &(&f32, &f32)| !(**x <= lo && **y <= lo || **x >= hi && **y >= hi);
                for (x, y) in x.iter().zip(y).filter(counts) {
                    let (x, y) = (f64::from(*x), f64::from(y.clamp(lo, hi)));
                    *sums = [sums[0] + x, sums[1] + y, sums[2] + x * x, sums[3] + x * y, sums[4] + 1.0];
                }
            }
            sums
        };
        let sums: Vec<Vec<[f64; 5]>> = targets.par_iter().zip(found).map(one).collect();
        let correction = |c: usize| {
            let sum = |i: usize| sums.iter().map(|s| s[c][i]).sum::<f64>();
            let count = sum(4).max(1.0);
            let mean = |i: usize| sum(i) / count;
            let (x, y) = (mean(0), mean(1));
            let (variance, covariance) = (mean(2) - x * x, mean(3) - x * y);
            // As if a few positions more agreed.
            let ratio = if variance > 0.0 { covariance / variance } else { 1.0 };
            let gain = (ratio * count + AGREEING) / (count + AGREEING);
            let gain = if gain.is_finite() { gain.clamp(1.0 / MOST_GAIN, MOST_GAIN) } else { 1.0 };
            // Which results lie beyond a bound changes with the shift.
            let share = if bounds.is_some() { count / (count + AGREEING) } else { 1.0 };
            let kept = (1.0 - share) * (y - x);
            AffineCorrection { gain, shift: y - gain * x - kept, moved: y - x - kept }
        };
        (0..channels).map(correction).collect()
    }
}

/// Corrects the results of one sample, of whose channels `plane` elements follow one another.
pub(super) fn correct(t: &mut Tensor, corrections: &[AffineCorrection], plane: usize) {
    let Data::F32(data) = &mut t.data else { return };
    for (i, part) in data.chunks_mut(plane).enumerate() {
        let correction = &corrections[i % corrections.len()];
        let (gain, shift) = (nearest_f32(correction.gain), nearest_f32(correction.shift));
        part.iter_mut().for_each(|x| *x = *x * gain + shift);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn correction(targets: Vec<f32>, found: Vec<f32>, bounds: Option<[f32; 2]>) -> AffineCorrection {
        let tensor = |x: Vec<f32>| [Tensor::f32(&[1, 1, x.len()], x)];
        let plane = targets.len();
        AffineCorrection::of_channels(&tensor(targets), &tensor(found), 1, plane, bounds).remove(0)
    }

    #[test]
    fn what_a_bound_hides_does_not_count() {
        // Most results are far below the bound, and too low there; those that are read are too high by 1.
        let target = |i: usize| if i.is_multiple_of(4) { 10.0 + i as f32 } else { -50.0 };
        let found = |i: usize| if i.is_multiple_of(4) { 11.0 + i as f32 } else { -90.0 };
        let (targets, found): (Vec<f32>, Vec<f32>) = (0..4000).map(|i| (target(i), found(i))).unzip();
        let all = correction(targets.clone(), found.clone(), None);
        assert!(all.moved > 25.0, "{}", all.moved);
        let clipped = correction(targets, found, Some([0.0, 1e6]));
        assert!((-1.0..-0.9).contains(&clipped.moved), "{}", clipped.moved);
    }

    #[test]
    fn few_results_move_little_and_a_gain_moves_no_mean() {
        let bounds = Some([0.0, 1e6]);
        let one = correction(vec![10.0], vec![12.0], bounds);
        assert!((-0.1..0.0).contains(&one.moved), "{}", one.moved);
        let found: Vec<f32> = (0..8).map(|i| 100.0 + i as f32).collect();
        let targets: Vec<f32> = (0..8).map(|i| 100.0 + 7.0 - i as f32).collect();
        let turned = correction(targets, found, bounds);
        assert!(turned.gain < 1.0 && (turned.gain * 103.5 + turned.shift - 103.5).abs() < 1e-9, "{}", turned.gain);
    }

    #[test]
    fn a_result_that_should_be_at_a_bound_is_moved_no_further() {
        let clipped = correction(vec![-100.0; 1000], vec![2.0; 1000], Some([0.0, 10.0]));
        assert!((-2.0..-1.9).contains(&clipped.moved), "{}", clipped.moved);
        let dead = correction(vec![-100.0; 1000], vec![-2.0; 1000], Some([0.0, 10.0]));
        assert_eq!(dead.moved, 0.0);
    }
}
