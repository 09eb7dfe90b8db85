//! Coordinate descent over the integers of one output channel, and its scale.
//!
//! The channel gives `s q x`, with inputs `x` as the quantized network has them, and should give `t`, what the real network gives it. With
//! `H = cov(x, x)`, `g = cov(x, t)` and the real weights `w`, what is lowered is the square error of the results, their mean apart, and of the
//! weights,
//!
//! ```text
//! J(q, s) = s^2 q H q - 2 s q g + d |w - s q|^2                                                  (1)
//! ```
//!
//! The best integer `k` for given others and the best scale for given integers are
//!
//! ```text
//! q[k] + (g + d w - s (H + d I) q)[k] / (s (H[k][k] + d)),      s = q (g + d w) / q (H + d I) q            (2)
//! ```
//!
//! each integer being taken to the nearest of the format. No step is ever up.

use qcc_ir::Format;
use qcc_num::convert::{nearest_f32, nearest_i64};

/// Bits below which scales are chosen with the integers: with as many, those that cover all weights are as good.
pub(super) const FEW_BITS: u32 = 7;

/// Times that the descent passes over all integers.
const SWEEPS: usize = 4;

/// The same where the scale is chosen between them.
const SWEEPS_WITH_SCALE: usize = 8;

/// Most steps on the grid of a format of 7 or 8 bits by which an integer moves away from rounding to the nearest.
const REACH: usize = 2;

/// Scales that are tried before the descent, as shares of the one that gives the greatest weight the greatest integer.
const SHARES: std::ops::RangeInclusive<u8> = 24..=64;

/// How far the scale may go from the one at the start.
const MOST_SCALE: f32 = 1.5;

/// A channel to be rounded.
pub(super) struct Channel<'a> {
    /// `H`, a row for each weight.
    pub(super) h: &'a [f32],
    /// `g`.
    pub(super) g: &'a [f32],
    /// `w`.
    pub(super) w: &'a [f32],
    /// `d`.
    pub(super) damp: f32,
    /// Integers that may be taken.
    pub(super) format: &'a Format,
}

/// Integers of a channel, and their scale.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rounded {
    pub(super) codes: Vec<i64>,
    pub(super) scale: f32,
}

impl Channel<'_> {
    /// The integers for a scale that is given, near to rounding to the nearest.
    pub(super) fn round(&self, scale: f32) -> Rounded {
        let start = self.nearest(scale);
        let mut state = State::new(self, start.clone(), scale);
        for _ in 0..SWEEPS {
            if !state.sweep(Some(&start)) {
                break;
            }
        }
        state.rounded
    }

    /// Integers and scale, from a scale that covers all weights.
    pub(super) fn round_and_scale(&self, covering: f32) -> Rounded {
        let scale = self.start(covering);
        let mut state = State::new(self, self.nearest(scale), scale);
        let bounds = scale / MOST_SCALE..=scale * MOST_SCALE;
        for _ in 0..SWEEPS_WITH_SCALE {
            let moved = state.sweep(None);
            if !state.rescale(*bounds.start(), *bounds.end()) && !moved {
                break;
            }
        }
        state.rounded
    }

    fn nearest(&self, scale: f32) -> Vec<i64> {
        self.w.iter().map(|&w| self.format.quantize(w, scale, 0)).collect()
    }

    fn diagonal(&self, k: usize) -> f32 {
        self.h[k * self.w.len() + k] + self.damp
    }

    /// The scale for which rounding to the nearest has the least error, each weight counted by what it is multiplied with.
    fn start(&self, covering: f32) -> f32 {
        let error = |scale: f32| {
            let of_one = |(k, &w): (usize, &f32)| {
                let e = f64::from(w - self.format.fake(w, scale, 0));
                f64::from(self.diagonal(k)) * e * e
            };
            self.w.iter().enumerate().map(of_one).sum::<f64>()
        };
        let scales = SHARES.rev().map(|share| covering * f32::from(share) / f32::from(*SHARES.end()));
        let best = scales.map(|s| (error(s), s)).min_by(|a, b| a.0.total_cmp(&b.0));
        best.map_or(covering, |(_, scale)| scale)
    }
}

/// Integers and scale on the way, and half the slope of (1) against them, downwards: `g + d w - s (H + d I) q`.
struct State<'a> {
    channel: &'a Channel<'a>,
    rounded: Rounded,
    slope: Vec<f32>,
}

impl<'a> State<'a> {
    fn new(channel: &'a Channel<'a>, codes: Vec<i64>, scale: f32) -> State<'a> {
        let mut slope: Vec<f32> = channel.g.iter().zip(channel.w).map(|(g, w)| g + channel.damp * w).collect();
        let depth = slope.len();
        for (k, &q) in codes.iter().enumerate().filter(|(_, q)| **q != 0) {
            let real = q as f32 * scale;
            slope.iter_mut().zip(&channel.h[k * depth..(k + 1) * depth]).for_each(|(s, h)| *s -= h * real);
            slope[k] -= channel.damp * real;
        }
        State { channel, rounded: Rounded { codes, scale }, slope }
    }

    /// Takes each integer to where (1) is least, no further than [`REACH`] steps from `near` if that is given; says whether any moved.
    fn sweep(&mut self, near: Option<&[i64]>) -> bool {
        let (mut moved, depth, scale) = (false, self.slope.len(), self.rounded.scale);
        for k in 0..depth {
            let curvature = self.channel.diagonal(k) * scale;
            if curvature <= 0.0 {
                continue;
            }
            let (now, format) = (self.rounded.codes[k], self.channel.format);
            let best = format.quantize(now as f32 + self.slope[k] / curvature, 1.0, 0);
            let best = near.map_or(best, |near| {
                let around = format.around(near[k], REACH);
                best.clamp(*around.start(), *around.end())
            });
            if best == now {
                continue;
            }
            let step = (best - now) as f32 * scale;
            self.rounded.codes[k] = best;
            moved = true;
            let row = &self.channel.h[k * depth..(k + 1) * depth];
            self.slope.iter_mut().zip(row).for_each(|(s, h)| *s -= h * step);
            self.slope[k] -= self.channel.damp * step;
        }
        moved
    }

    /// Takes the scale to where (1) is least, within bounds; says whether it moved much.
    fn rescale(&mut self, least: f32, most: f32) -> bool {
        let Channel { g, w, damp, .. } = *self.channel;
        let (mut with, mut curvature) = (0.0f64, 0.0f64);
        let base = |k: usize| g[k] + damp * w[k];
        for (k, &q) in self.rounded.codes.iter().enumerate() {
            with += q as f64 * f64::from(base(k));
            curvature += q as f64 * f64::from(base(k) - self.slope[k]);
        }
        let scale = self.rounded.scale;
        // The curvature is still in units of the scale.
        let best = nearest_f32(f64::from(scale) * with / curvature);
        if !(curvature > 0.0 && best.is_finite()) {
            return false;
        }
        let best = best.clamp(least, most);
        let factor = best / scale;
        for (k, slope) in self.slope.iter_mut().enumerate() {
            *slope = base(k) - factor * (base(k) - *slope);
        }
        self.rounded.scale = best;
        nearest_i64(f64::from(factor - 1.0) * 1e4) != 0
    }
}

#[cfg(test)]
mod tests {
    use qcc_ir::Int;

    use super::*;

    /// `J` less what does not depend on the integers.
    fn error(c: &Channel, r: &Rounded) -> f64 {
        let real: Vec<f64> = r.codes.iter().map(|&q| q as f64 * f64::from(r.scale)).collect();
        let n = real.len();
        let mut sum = 0.0;
        for i in 0..n {
            let row: f64 = (0..n).map(|j| f64::from(c.h[i * n + j]) * real[j]).sum();
            let apart = real[i] - f64::from(c.w[i]);
            sum += real[i] * (row - 2.0 * f64::from(c.g[i])) + f64::from(c.damp) * apart * apart;
        }
        sum
    }

    /// Weights, `H` of correlated inputs and `g` of results that are a little off `H w`.
    fn problem(n: usize, seed: u64) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let mut state = seed;
        let mut random = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
        };
        let x: Vec<Vec<f32>> = (0..n).map(|_| (0..3 * n).map(|_| random()).collect()).collect();
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let h: Vec<f32> = x.iter().flat_map(|a| x.iter().map(|b| dot(a, b)).collect::<Vec<_>>()).collect();
        let w: Vec<f32> = (0..n).map(|_| random()).collect();
        let g = (0..n).map(|i| dot(&h[i * n..(i + 1) * n], &w) * (1.0 + 0.05 * random())).collect();
        (h, g, w)
    }

    #[test]
    fn no_single_step_is_better() {
        let low = Format::symmetric(Int::I8, 7);
        for seed in 1..20 {
            let (h, g, w) = problem(12, seed);
            let channel = Channel { h: &h, g: &g, w: &w, damp: 0.1, format: &low };
            let found = channel.round_and_scale(0.5 / 7.0);
            let nearest = Rounded { codes: channel.nearest(0.5 / 7.0), scale: 0.5 / 7.0 };
            let least = error(&channel, &found);
            assert!(least < error(&channel, &nearest), "seed {seed}");
            for k in 0..w.len() {
                for step in [-1, 1] {
                    let mut other = found.clone();
                    other.codes[k] = low.nearest(other.codes[k] + step);
                    assert!(error(&channel, &other) >= least - 1e-3 * least.abs(), "seed {seed}, {k} by {step}");
                }
            }
            for factor in [0.99, 1.01] {
                let other = Rounded { scale: found.scale * factor, ..found.clone() };
                assert!(error(&channel, &other) >= least - 1e-4 * least.abs(), "seed {seed}, scale by {factor}");
            }
        }
    }

    /// With one input for each weight, nothing is correlated: what is nearest to the wanted results is, not what is nearest to the weights.
    #[test]
    fn results_decide_and_not_weights() {
        let h = [4.0, 0.0, 0.0, 4.0];
        // The wanted results are those of the weights 3 and -2.
        let (g, w) = ([12.0, -8.0], [2.6, -2.4]);
        let format = Format::symmetric(Int::I8, 7);
        let channel = Channel { h: &h, g: &g, w: &w, damp: 0.0, format: &format };
        assert_eq!(channel.round(1.0).codes, [3, -2]);
        let damped = Channel { damp: 1e6, ..channel };
        assert_eq!(damped.round(1.0).codes, [3, -2]);
        let far = Channel { w: &[1.4, -3.6], damp: 1e6, ..damped };
        assert_eq!(far.round(1.0).codes, [1, -4]);
    }

    #[test]
    fn levels_are_taken_as_they_are() {
        let format = Format::levels(Int::I8, vec![-64, -16, -4, -1, 0, 1, 4, 16, 64]).unwrap();
        for seed in 1..10 {
            let (h, g, w) = problem(16, seed);
            let channel = Channel { h: &h, g: &g, w: &w, damp: 0.1, format: &format };
            let found = channel.round_and_scale(0.5 / 64.0);
            assert!(found.codes.iter().all(|&q| format.contains(q)), "{:?}", found.codes);
            let nearest = Rounded { codes: channel.nearest(0.5 / 64.0), scale: 0.5 / 64.0 };
            assert!(error(&channel, &found) < error(&channel, &nearest));
        }
    }
}
