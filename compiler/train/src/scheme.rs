//! How integers follow from shadows while a training goes on, where that is more than rounding.
//!
//! *Intervals* (QIL, Jung et al., CVPR 2019, section 3.1, equations 2 and 3): with a threshold `t` and a step `d` for each output channel, the integer of a shadow `w` is
//! `q = round(sign(w) max(|w| - t, 0) / d)`, cut off at the format's ends: `t` is the paper's `c - d`, what is below it is pruned, and `t` plus the greatest integer steps is its `c + d`.
//! What an integer counts for is a scale of its own, as in the paper, where batch normalization has it.
//!
//! *Noise* (UNIQ, Baskin et al., arXiv 1804.10969, sections 3.2 and 3.3): a layer has weights of 8 bits to which noise as wide as their cell of the format is added; those in front
//! have the format already and stay, those behind have 8 bits without noise. Cells of a list of levels are equally probable.

use qcc_ir::format::Grid;
use qcc_ir::{Format, Int, format};
use qcc_num::convert::nearest_f32;
use qcc_num::random::Random;

use crate::interval::Interval;
use crate::network::{Network, TrainedLayer};

/// How weights get their integers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scheme {
    /// By rounding, all the time.
    Rounding,
    /// Portions of the weights get their levels for good, each at the beginning of an equal part of the training.
    Portions(&'static [f64]),
    /// By intervals that are learned.
    Intervals,
    /// Layers get their format for good in so many groups, one after the other, each after noise.
    Noise(usize),
}

impl Scheme {
    /// Equal parts of the training, in each of which the rate falls to nothing.
    pub(crate) fn parts(self) -> usize {
        match self {
            Scheme::Rounding | Scheme::Intervals => 1,
            Scheme::Portions(portions) => portions.len(),
            // In the last part all have their format, and what else is trained follows.
            Scheme::Noise(groups) => groups + 1,
        }
        .max(1)
    }
}

impl Network {
    /// From now on weights get their integers by intervals. At first these give the same integers. Says whether there are any weights of few bits.
    pub fn begin_intervals(&mut self) -> bool {
        let scales: Vec<Vec<f32>> = self.layers.iter().map(|l| l.scales(self)).collect();
        for (layer, scales) in self.layers.iter_mut().zip(scales).filter(|(layer, _)| has_few_bits(layer)) {
            if let Grid::Linear { .. } = layer.format.grid() {
                let log_steps = scales.iter().map(|s| s.ln()).collect();
                layer.interval = Some(Interval { thresholds: vec![0.0; scales.len()], log_steps });
            }
        }
        self.layers.iter().any(|l| l.interval.is_some())
    }

    /// From now on weights get their format in groups of layers, by [`Network::set_noise`]. Lists of levels become equally probable. Says whether there are any weights of few bits.
    pub fn begin_noise(&mut self) -> bool {
        let scales: Vec<Vec<f32>> = self.layers.iter().map(|l| l.scales(self)).collect();
        for (layer, scales) in self.layers.iter_mut().zip(scales).filter(|(layer, _)| has_few_bits(layer)) {
            if let Grid::Levels(levels) = layer.format.grid() {
                let count = levels.len();
                layer.format = quantiles(layer, &scales, count).unwrap_or(layer.format.clone());
            }
            layer.frozen = vec![false; layer.shadows.len()];
        }
        self.layers.iter().any(|l| !l.frozen.is_empty())
    }

    /// The layers of the groups before `group`, of so many, have their format; those of it have the noise of a step; those behind have neither.
    pub fn set_noise(&mut self, group: usize, groups: usize, seed: u64, step: usize) {
        let scales: Vec<Vec<f32>> = self.layers.iter().map(|l| l.scales(self)).collect();
        let layers = self.layers.iter().filter(|l| !l.frozen.is_empty()).count();
        let few = self.layers.iter_mut().zip(scales).filter(|(l, _)| !l.frozen.is_empty());
        for (i, (layer, scales)) in few.enumerate() {
            let own = i * groups / layers.max(1);
            layer.noise = (own == group).then(|| {
                let number = (step as u64) << 24 ^ i as u64;
                Random::new(seed ^ number.wrapping_mul(0xa076_1d64_78bd_642f)).bits()
            });
            if own < group {
                layer.freeze(1.0, &scales);
            }
        }
    }
}

fn has_few_bits(layer: &TrainedLayer) -> bool {
    layer.format.bits() < 8
}

/// So many levels of bytes at the middles of equally probable cells of a layer's weights, 0 among them.
fn quantiles(layer: &TrainedLayer, scales: &[f32], count: usize) -> Option<Format> {
    let mut all: Vec<f32> = layer.shadows.iter().enumerate().map(|(i, w)| w / scales[i / layer.depth]).collect();
    all.sort_by(f32::total_cmp);
    let middle = |i: usize| all.get((2 * i + 1) * all.len() / (2 * count)).copied();
    let mut levels: Vec<i64> = (0..count).filter_map(middle).map(|v| format::I8.quantize(v, 1.0, 0)).collect();
    if let Some(least) = levels.iter_mut().min_by_key(|level| level.abs()) {
        *least = 0;
    }
    levels.dedup();
    Format::levels(Int::I8, levels)
}

impl TrainedLayer {
    /// Shadows with the noise of the step, if they have any: uniform, as wide as the cell of the format that a shadow lies in.
    pub(crate) fn noisy(&self, scales: &[f32]) -> Option<Vec<f32>> {
        let mut random = Random::new(self.noise?);
        let one = |(i, &w): (usize, &f32)| {
            let scale = scales[i / self.depth];
            let width = cell(&self.format, self.format.quantize(w, scale, 0));
            w + scale * nearest_f32(width * (random.unit() - 0.5))
        };
        Some(self.shadows.iter().enumerate().map(one).collect())
    }
}

/// How wide the numbers are that an integer of a format stands for: half the distance of its neighbours, at an end the distance of the only one.
fn cell(format: &Format, q: i64) -> f64 {
    let Grid::Levels(levels) = format.grid() else { return 1.0 };
    let at = levels.binary_search(&q).unwrap_or_else(|at| at.min(levels.len() - 1));
    let (below, above) = (at.saturating_sub(1), (at + 1).min(levels.len() - 1));
    (levels[above] - levels[below]) as f64 / (above - below).max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_of_levels_lie_between_their_middles() {
        let format = Format::levels(Int::I8, vec![-10, -2, 0, 1, 7]).expect("levels");
        let widths = [-10, -2, 0, 1, 7].map(|q| cell(&format, q));
        assert_eq!(widths, [8.0, 5.0, 1.5, 3.5, 6.0]);
        assert_eq!(cell(&format::I4, 3), 1.0);
    }
}
