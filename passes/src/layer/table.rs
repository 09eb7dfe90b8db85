//! Tables of weights: 16 bytes for a layer, chosen so that its weights are as near as can be.
//!
//! Levels and scales are bettered in turns (Lloyd 1982): each weight takes the nearest level of its channel's scale, each level becomes the
//! mean of the weights that took it, in units of their scales, and each scale the one of least square error. Weights count alike in these
//! units, or, where samples tell, as much as they change the layer's results. 0 is always a level: what is pruned stays so.

use qcc_ir::format::Grid;
use qcc_ir::{Format, Int};
use qcc_num::convert::{nearest_f32, nearest_i32, nearest_i64};
use rayon::prelude::*;

/// Rounds of levels and scales.
const ROUNDS: usize = 8;

/// Rounds of levels alone.
const SWEEPS: usize = 32;

/// Bins of a unit of a level, in which weights are gathered.
const BINS: i32 = 16;

/// Units from the middle that bins reach.
const REACH: i32 = 192;

/// Channels whose points are gathered by one thread: what threads gather is added in one order.
const CHANNELS: usize = 16;

/// A scale may become so much smaller: the bounds that biases and requantization set it have that much to spare.
const LEAST: f32 = 0.5;

/// What weighs on a table: numbers in units of its levels, each with its weight.
#[derive(Clone)]
pub(crate) struct Points {
    /// Of each bin: the sum of weights, and of numbers times weights.
    bins: Vec<[f64; 2]>,
}

impl Points {
    pub(crate) fn new() -> Points {
        let bins = (-REACH * BINS..=REACH * BINS).map(|_| [0.0; 2]).collect();
        Points { bins }
    }

    /// Adds a number.
    pub(crate) fn add(&mut self, x: f64, weight: f64) {
        let at = nearest_i32(x * f64::from(BINS)).saturating_add(REACH * BINS).clamp(0, 2 * REACH * BINS);
        if let Some(bin) = usize::try_from(at).ok().and_then(|at| self.bins.get_mut(at)) {
            bin[0] += weight;
            bin[1] += weight * x;
        }
    }

    fn merge(mut self, other: &Points) -> Points {
        for (a, b) in self.bins.iter_mut().zip(&other.bins) {
            a[0] += b[0];
            a[1] += b[1];
        }
        self
    }

    /// The levels of a byte that are best for the points, with 0 among them, from `start` on.
    pub(crate) fn levels(&self, start: &[i64]) -> Vec<i64> {
        let mut levels: Vec<f64> = start.iter().map(|&q| q as f64).collect();
        for _ in 0..SWEEPS {
            let before = levels.clone();
            let mut sums = vec![[0.0f64; 2]; levels.len()];
            let mut at = 0;
            for (bin, &[weight, sum]) in (-REACH * BINS..).zip(&self.bins) {
                let x = f64::from(bin) / f64::from(BINS);
                while at + 1 < levels.len() && (levels[at + 1] - x).abs() < (levels[at] - x).abs() {
                    at += 1;
                }
                sums[at][0] += weight;
                sums[at][1] += sum;
            }
            for (level, [weight, sum]) in levels.iter_mut().zip(sums) {
                // 0 stays, and so does what no point has taken.
                if *level != 0.0 && weight > 0.0 {
                    *level = sum / weight;
                }
            }
            if levels == before {
                break;
            }
        }
        let mut levels: Vec<i64> = levels.iter().map(|x| nearest_i64(x.clamp(-127.0, 127.0))).chain([0]).collect();
        levels.sort_unstable();
        levels.dedup();
        levels
    }
}

/// The table of a layer and the scales of its channels, from those of the row's table on. `importance` is what the square of the error of
/// weight `k` of a channel counts, in units of its scale.
pub(crate) fn fit(
    w: &[f32],
    start: &[f32],
    row: &Format,
    importance: impl Fn(usize, usize) -> f64 + Sync,
) -> (Format, Vec<f32>) {
    let depth = (w.len() / start.len().max(1)).max(1);
    let mut scales = start.to_vec();
    let mut format = row.clone();
    for _ in 0..ROUNDS {
        let gather = |(part, (w, scales)): (usize, (&[f32], &[f32]))| {
            let mut points = Points::new();
            for (c, (w, &s)) in (part * CHANNELS..).zip(w.chunks(depth).zip(scales)) {
                let add = |(k, &x): (usize, &f32)| points.add(f64::from(x) / f64::from(s), importance(c, k));
                w.iter().enumerate().for_each(add);
            }
            points
        };
        let channels = w.par_chunks(depth * CHANNELS).zip(scales.par_chunks(CHANNELS));
        let parts: Vec<Points> = channels.enumerate().map(gather).collect();
        let points = parts.iter().fold(Points::new(), Points::merge);
        let Grid::Levels(levels) = format.grid() else { break };
        let Some(next) = Format::levels(Int::I8, points.levels(levels)) else { break };
        let settled = next == format;
        format = next;
        let better = |(c, ((w, &s), &start)): (usize, ((&[f32], &f32), &f32))| {
            let [mut cross, mut square] = [0.0f64; 2];
            for (k, &x) in w.iter().enumerate() {
                let (q, counts) = (format.quantize(x, s, 0) as f64, importance(c, k));
                cross += counts * f64::from(x) * q;
                square += counts * q * q;
            }
            if cross > 0.0 { nearest_f32(cross / square).max(LEAST * start) } else { s }
        };
        scales = w.par_chunks(depth).zip(&scales).zip(start).enumerate().map(better).collect();
        if settled {
            break;
        }
    }
    (format, scales)
}

#[cfg(test)]
mod tests {
    use super::*;
    use qcc_ir::format;

    /// Decibels between weights and what is left of them.
    fn sqnr(w: &[f32], format: &Format, scales: &[f32]) -> f64 {
        let depth = w.len() / scales.len();
        let error = |(i, &x): (usize, &f32)| f64::from(x - format.fake(x, scales[i / depth], 0)).powi(2);
        let signal: f64 = w.iter().map(|&x| f64::from(x).powi(2)).sum();
        10.0 * (signal / w.iter().enumerate().map(error).sum::<f64>()).log10()
    }

    fn greatest(w: &[f32], channels: usize) -> Vec<f64> {
        w.chunks(w.len() / channels).map(|w| w.iter().fold(0.0f64, |m, &x| m.max(f64::from(x).abs()))).collect()
    }

    #[test]
    fn a_table_is_nearer_than_any_other_of_4_bits() {
        // Sums of uniform numbers are nearly normal; channels have different magnitudes.
        let mut state = 1u32;
        let mut uniform = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 16_777_216.0 - 0.5
        };
        let mut w: Vec<f32> = (0..32 * 576).map(|_| (0..6).map(|_| uniform()).sum()).collect();
        w.iter_mut().enumerate().for_each(|(i, w)| *w *= 1.0 + (i / 576) as f32);
        let greatest = greatest(&w, 32);
        let row = |format: &Format| sqnr(&w, format, &format.scales(&greatest, &[0.0; 32]));
        let (table, scales) = fit(&w, &format::TABLE4.scales(&greatest, &[0.0; 32]), &format::TABLE4, |_, _| 1.0);
        let found = sqnr(&w, &table, &scales);
        assert!(found > row(&format::I4) + 1.5 && found > row(&format::POT4) + 3.0, "{found} {table}");
        assert!(table.bits() == 4 && table.contains(0) && table.min() >= -127, "{table}");
        let again = fit(&w, &format::TABLE4.scales(&greatest, &[0.0; 32]), &format::TABLE4, |_, _| 1.0);
        assert_eq!(again, (table, scales));
    }

    #[test]
    fn what_counts_more_is_nearer() {
        let w: Vec<f32> = (0..2 * 200).map(|i| ((i * 7919 % 997) as f32 / 997.0 - 0.5) * 2.0).collect();
        let start = format::TABLE4.scales(&greatest(&w, 2), &[0.0; 2]);
        let error = |counts: &(dyn Fn(usize, usize) -> f64 + Sync)| {
            let (table, scales) = fit(&w, &start, &format::TABLE4, counts);
            let of_one = |k: usize| f64::from(w[k] - table.fake(w[k], scales[0], 0)).powi(2);
            (0..20).map(of_one).sum::<f64>()
        };
        let first = |_: usize, k: usize| if k < 20 { 1000.0 } else { 1.0 };
        let (alike, apart) = (error(&|_, _| 1.0), error(&first));
        assert!(apart < 0.7 * alike, "{apart} {alike}");
    }

    #[test]
    fn weights_of_few_values_are_exact() {
        let values = [0.0f32, 0.5, -1.0, 0.25, 2.0, -0.125];
        let w: Vec<f32> = (0..4 * 60).map(|i| values[i * 7 % 6] * (1 + i / 60) as f32).collect();
        let start = format::TABLE4.scales(&greatest(&w, 4), &[0.0; 4]);
        let (table, scales) = fit(&w, &start, &format::TABLE4, |_, _| 1.0);
        assert!(sqnr(&w, &table, &scales) > 40.0, "{table} {scales:?}");
        let (table, _) = fit(&[0.0; 64], &[1.0], &format::TABLE4, |_, _| 1.0);
        assert!(table.contains(0), "{table}");
    }
}
