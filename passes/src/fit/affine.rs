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
    /// Of each channel `plane` elements follow one another.
    pub(super) fn of_channels(
        targets: &[Tensor],
        found: &[Tensor],
        channels: usize,
        plane: usize,
    ) -> Vec<AffineCorrection> {
        // Sums of x, y, x^2 and x y, x being what was found.
        let one = |(a, b): (&Tensor, &Tensor)| {
            let mut sums = vec![[0.0f64; 4]; channels];
            let (Some(y), Some(x)) = (a.as_f32(), b.as_f32()) else { return sums };
            for (i, (x, y)) in x.chunks(plane).zip(y.chunks(plane)).enumerate() {
                let sums = &mut sums[i % channels];
                for (x, y) in x.iter().zip(y).map(|(&x, &y)| (f64::from(x), f64::from(y))) {
                    *sums = [sums[0] + x, sums[1] + y, sums[2] + x * x, sums[3] + x * y];
                }
            }
            sums
        };
        let sums: Vec<Vec<[f64; 4]>> = targets.par_iter().zip(found).map(one).collect();
        let elements: usize = targets.iter().map(|t| t.data.len()).sum();
        let count = (elements / channels.max(1)).max(1) as f64;
        let mean = |c: usize, i: usize| sums.iter().map(|s| s[c][i]).sum::<f64>() / count;
        let correction = |c: usize| {
            let (x, y) = (mean(c, 0), mean(c, 1));
            let (variance, covariance) = (mean(c, 2) - x * x, mean(c, 3) - x * y);
            // As if a few positions more agreed.
            let ratio = if variance > 0.0 { covariance / variance } else { 1.0 };
            let gain = (ratio * count + AGREEING) / (count + AGREEING);
            let gain = if gain.is_finite() { gain.clamp(1.0 / MOST_GAIN, MOST_GAIN) } else { 1.0 };
            AffineCorrection { gain, shift: y - gain * x, moved: y - x }
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
