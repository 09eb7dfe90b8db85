//! A step of the parameters: from derivatives by integers to those by real numbers, and by the rule of the optimizer to new ones.
//!
//! With `q = round(w / S)`, straight through where `w / S` lies within the integers, `d w = d q / S`; and by the logarithm of the scale, as
//! `Sw q` is what the weight counts for, `d q (q - w / S)` inside and `d q q` where it is cut off (Esser et al., ICLR 2020, equation 3).
//!
//! What Adam makes of gradients has no unit. Weights move in units of the root mean square of their channel, biases in sixths of the extent of
//! the layer's results, scales in their logarithm: one rate serves networks of all sizes.

use qcc_ir::Format;

use crate::interval::Interval;
use crate::network::{Network, TrainedLayer};
use crate::optimizer::{Memory, Rule};
use crate::tape::Gradients;

/// How fast parameters move at the greatest rate of the schedule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Of weights and biases.
    pub weights: f64,
    /// Of the logarithms of scales.
    pub scales: f64,
}

/// What the optimizer remembers of all parameters.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Memories {
    /// Of shadows, bias, logarithms of scales, thresholds and logarithms of steps.
    pub(crate) layers: Vec<[Memory; 5]>,
    pub(crate) scales: Memory,
}

impl Memories {
    pub(crate) fn new(rule: Rule, network: &Network) -> Memories {
        let layer = |l: &TrainedLayer| {
            let channels = l.interval.as_ref().map_or(0, |i| i.thresholds.len());
            let counts = [l.shadows.len(), l.bias.len(), l.log_scales.len(), channels, channels];
            counts.map(|n| Memory::new(rule, n))
        };
        Memories { layers: network.layers.iter().map(layer).collect(), scales: Memory::new(rule, network.scales.len()) }
    }
}

/// Units in which parameters of a layer move.
#[derive(Debug, Clone)]
pub(crate) struct Units {
    /// Of the weights of each channel.
    weights: Vec<f32>,
    bias: f32,
}

impl Units {
    /// Units of the weights of each channel.
    pub(crate) fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// Unit of the bias.
    pub(crate) fn bias(&self) -> f32 {
        self.bias
    }
}

/// Units of all layers, as they are when training begins.
pub(crate) fn units(network: &Network) -> Vec<Units> {
    let rms = |row: &[f32]| (row.iter().map(|w| w * w).sum::<f32>() / row.len().max(1) as f32).sqrt();
    let layer = |l: &TrainedLayer| {
        let weights: Vec<f32> = l.shadows.chunks(l.depth).map(rms).collect();
        let most = weights.iter().fold(0.0f32, |m, &x| m.max(x));
        // Channels that almost vanish may grow.
        let weights = weights.into_iter().map(|w| w.max(0.05 * most)).collect();
        Units { weights, bias: l.output_extent(network) / 6.0 }
    };
    network.layers.iter().map(layer).collect()
}

/// One step.
pub(crate) struct Update<'a> {
    pub(crate) rule: Rule,
    pub(crate) rates: Rates,
    /// The part of the rates by the schedule.
    pub(crate) schedule: f64,
    /// Number of the step, from 1.
    pub(crate) number: usize,
    pub(crate) units: &'a [Units],
}

impl Update<'_> {
    /// Changes all parameters.
    pub(crate) fn apply(&self, network: &mut Network, memories: &mut Memories, gradients: &Gradients) {
        let trained = |i: &usize| !gradients.layers[*i].weights.is_empty();
        let layers: Vec<usize> = (0..network.layers.len()).filter(trained).collect();
        let found: Vec<[Vec<f32>; 5]> = layers.iter().map(|&i| by_real_numbers(network, i, gradients)).collect();
        for (i, found) in layers.into_iter().zip(found) {
            self.layer(&mut network.layers[i], &mut memories.layers[i], &self.units[i], found);
        }
        let by_scales = gradients.scales.iter().map(|&g| g as f32);
        let steps = memories.scales.steps(self.rule, self.number, by_scales);
        for (scale, step) in network.scales.iter_mut().zip(steps) {
            scale.log_scale -= self.step(self.rates.scales, 1.0, step);
        }
    }

    /// A step in a unit. Gradient descent has the unit of its gradients.
    fn step(&self, rate: f64, unit: f32, step: f32) -> f32 {
        let unit = if self.rule == Rule::Adam { unit } else { 1.0 };
        (rate * self.schedule) as f32 * unit * step
    }

    fn layer(
        &self,
        layer: &mut TrainedLayer,
        [weights, bias, scales, thresholds, log_steps]: &mut [Memory; 5],
        units: &Units,
        [by_weights, by_bias, by_scales, by_thresholds, by_log_steps]: [Vec<f32>; 5],
    ) {
        let depth = layer.depth;
        let steps = weights.steps(self.rule, self.number, by_weights.into_iter());
        let frozen = &layer.frozen;
        let free = |i: &usize| !frozen.get(*i).copied().unwrap_or(false);
        for (i, (w, step)) in layer.shadows.iter_mut().zip(steps).enumerate().filter(|(i, _)| free(i)) {
            *w -= self.step(self.rates.weights, units.weights[i / depth], step);
        }
        let steps = bias.steps(self.rule, self.number, by_bias.into_iter());
        for (b, step) in layer.bias.iter_mut().zip(steps) {
            *b -= self.step(self.rates.weights, units.bias, step);
        }
        if let Some(interval) = &mut layer.interval {
            let steps = thresholds.steps(self.rule, self.number, by_thresholds.into_iter());
            for ((t, step), &unit) in interval.thresholds.iter_mut().zip(steps).zip(&units.weights) {
                *t = (*t - self.step(self.rates.weights, unit, step)).max(0.0);
            }
            let steps = log_steps.steps(self.rule, self.number, by_log_steps.into_iter());
            for (s, step) in interval.log_steps.iter_mut().zip(steps) {
                *s -= self.step(self.rates.scales, 1.0, step);
            }
        }
        // Weights that are frozen stay what they are.
        if layer.learns_scales && layer.frozen.is_empty() {
            let steps = scales.steps(self.rule, self.number, by_scales.into_iter());
            for (s, step) in layer.log_scales.iter_mut().zip(steps) {
                *s -= self.step(self.rates.scales, 1.0, step);
            }
        }
    }
}

/// Derivatives by shadows, bias, logarithms of scales, and, where a layer has intervals, by thresholds and logarithms of steps, from those by integers.
pub(crate) fn by_real_numbers(network: &Network, layer: usize, gradients: &Gradients) -> [Vec<f32>; 5] {
    let (own, gradient) = (&network.layers[layer], &gradients.layers[layer]);
    let (scales, codes) = own.rounded(network);
    let mut by_codes = vec![0.0f32; codes.len()];
    network.order(layer).iter().zip(&gradient.weights).for_each(|(&o, &g)| by_codes[o as usize] = g);
    let (weights, by_scales, [thresholds, log_steps]) = match &own.interval {
        None => {
            let (weights, by_scales) = straight_through(own, &scales, &codes, &by_codes);
            (weights, by_scales, [Vec::new(), Vec::new()])
        }
        Some(interval) => through_interval(&own.shadows, own.depth, &own.format, interval, &codes, &by_codes),
    };
    let input = own.input_scale(network);
    let bias = gradient.bias.iter().zip(&scales).map(|(g, s)| g / (s * input)).collect();
    [weights, bias, by_scales, thresholds, log_steps]
}

/// Derivatives by shadows, by logarithms of scales, and by thresholds and logarithms of steps. The scale is only what an integer counts for. Shadows below
/// the threshold have the derivative of those above: else none would come back.
fn through_interval(
    shadows: &[f32],
    depth: usize,
    format: &Format,
    interval: &Interval,
    codes: &[i64],
    by_codes: &[f32],
) -> (Vec<f32>, Vec<f32>, [Vec<f32>; 2]) {
    let (least, greatest) = (format.min() as f32 - 0.5, format.max() as f32 + 0.5);
    let channels = interval.thresholds.len();
    let mut by_weights = vec![0.0f32; codes.len()];
    let [mut by_scales, mut by_thresholds, mut by_log_steps] = [(); 3].map(|()| vec![0.0f32; channels]);
    for (i, (&w, &q)) in shadows.iter().zip(codes).enumerate() {
        let (c, g) = (i / depth, by_codes[i]);
        let (v, step) = (interval.unrounded(w, c), interval.step(c));
        by_scales[c] += g * q as f32;
        if (least..=greatest).contains(&v) {
            by_weights[i] = g / step;
            if v != 0.0 {
                by_thresholds[c] -= g.copysign(g * w) / step;
                by_log_steps[c] -= g * v;
            }
        }
    }
    (by_weights, by_scales, [by_thresholds, by_log_steps])
}

/// Derivatives by shadows and by logarithms of scales.
fn straight_through(layer: &TrainedLayer, scales: &[f32], codes: &[i64], by_codes: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let format = layer.present_format();
    let (least, greatest) = (format.min() as f32 - 0.5, format.max() as f32 + 0.5);
    let mut by_weights = vec![0.0f32; codes.len()];
    let mut by_scales = vec![0.0f32; scales.len()];
    for (i, (&w, &q)) in layer.shadows.iter().zip(codes).enumerate() {
        let channel = i / layer.depth;
        let (v, g) = (w / scales[channel], by_codes[i]);
        if (least..=greatest).contains(&v) {
            by_weights[i] = g / scales[channel];
            by_scales[channel] += g * (q as f32 - v);
        } else {
            by_scales[channel] += g * q as f32;
        }
    }
    (by_weights, by_scales)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a sum of the numbers that are rounded, each with a factor: inside of the interval its derivatives are differences.
    #[test]
    fn derivatives_by_intervals_are_differences() {
        let shadows = [0.9f32, -1.3, 0.02, 0.6, -0.7, 1.1];
        let factors = [0.5f32, 1.5, 1.0, -2.0, 0.25, -1.0];
        let interval = Interval { thresholds: vec![0.1, 0.3], log_steps: vec![0.3f32.ln(), 0.2f32.ln()] };
        let depth = 3;
        let sum = |shadows: &[f32], interval: &Interval| -> f64 {
            let term =
                |(i, (&w, &g)): (usize, (&f32, &f32))| f64::from(g) * f64::from(interval.unrounded(w, i / depth));
            shadows.iter().zip(&factors).enumerate().map(term).sum()
        };
        let codes: Vec<i64> = (0..6).map(|i| interval.unrounded(shadows[i], i / depth).round() as i64).collect();
        let format = qcc_ir::format::I4.clone();
        let found = through_interval(&shadows, depth, &format, &interval, &codes, &factors);
        let (weights, scales, [thresholds, log_steps]) = found;
        let near = |found: f32, before: f64, after: f64, what: &str| {
            let wanted = (after - before) / 2e-3;
            assert!((f64::from(found) - wanted).abs() < 0.02 * (1.0 + wanted.abs()), "{what}: {found} for {wanted}");
        };
        let moved = |by: f32, change: &dyn Fn(&mut Vec<f32>, &mut Interval, f32)| {
            let (mut shadows, mut interval) = (shadows.to_vec(), interval.clone());
            change(&mut shadows, &mut interval, by);
            sum(&shadows, &interval)
        };
        let check = |found: f32, what: &str, change: &dyn Fn(&mut Vec<f32>, &mut Interval, f32)| {
            near(found, moved(-1e-3, change), moved(1e-3, change), what);
        };
        // The third shadow is below its threshold: its derivative is that of those above.
        for i in (0..6).filter(|&i| i != 2) {
            check(weights[i], "shadow", &|shadows, _, by| shadows[i] += by);
        }
        assert!((weights[2] - factors[2] / 0.3).abs() < 1e-4);
        for c in 0..2 {
            check(thresholds[c], "threshold", &|_, interval, by| interval.thresholds[c] += by);
            check(log_steps[c], "step", &|_, interval, by| interval.log_steps[c] += by);
            let wanted: f32 = (c * depth..(c + 1) * depth).map(|i| factors[i] * codes[i] as f32).sum();
            assert_eq!(scales[c], wanted);
        }
    }
}
