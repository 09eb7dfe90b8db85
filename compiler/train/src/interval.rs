//! The interval in which shadows become integers, where it is learned: the formula is in `scheme`.

use qcc_num::convert::nearest_f32;

/// The interval in which shadows of a layer become integers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Interval {
    /// For each output channel the magnitude up to which shadows are 0.
    pub(crate) thresholds: Vec<f32>,
    /// For each output channel the logarithm of the step from integer to integer.
    pub(crate) log_steps: Vec<f32>,
}

impl Interval {
    /// The number that is rounded to a shadow's integer.
    pub(crate) fn unrounded(&self, w: f32, channel: usize) -> f32 {
        (w.abs() - self.thresholds[channel]).max(0.0).copysign(w) / self.step(channel)
    }

    /// The step of a channel.
    pub(crate) fn step(&self, channel: usize) -> f32 {
        nearest_f32(f64::from(self.log_steps[channel]).exp()).max(f32::MIN_POSITIVE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_its_threshold_a_shadow_is_nothing() {
        let interval = Interval { thresholds: vec![0.5], log_steps: vec![0.25f32.ln()] };
        let found = [0.3, -0.5, 0.75, -1.5].map(|w| interval.unrounded(w, 0));
        assert_eq!(found.map(f32::abs), [0.0, 0.0, 1.0, 4.0]);
        assert!(found[3] < 0.0);
    }
}
