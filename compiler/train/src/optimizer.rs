//! From gradients to steps: Adam, and gradient descent with momentum; the rate falls with a cosine.

use std::f64::consts::PI;
use std::str::FromStr;

/// Which rule makes steps of gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rule {
    /// Kingma and Ba, ICLR 2015, algorithm 1.
    #[default]
    Adam,
    /// Gradient descent with momentum 0.9.
    Sgd,
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(s: &str) -> Result<Rule, String> {
        match s {
            "adam" => Ok(Rule::Adam),
            "sgd" => Ok(Rule::Sgd),
            _ => Err(format!("`{s}` is none of adam, sgd")),
        }
    }
}

/// Decay of the mean of gradients, and of that of their squares.
const DECAY: [f64; 2] = [0.9, 0.999];

/// What a mean square is at least.
const LEAST: f64 = 1e-16;

/// What a rule remembers of some parameters.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Memory {
    pub(crate) means: Vec<f32>,
    pub(crate) squares: Vec<f32>,
}

impl Memory {
    /// Of so many parameters, of which no step was made.
    pub(crate) fn new(rule: Rule, count: usize) -> Memory {
        let squares = if rule == Rule::Adam { count } else { 0 };
        Memory { means: vec![0.0; count], squares: vec![0.0; squares] }
    }

    /// The steps of number `number`, from 1, that the gradients ask for at rate 1. By Adam, gradients of another size give the same.
    pub(crate) fn steps(&mut self, rule: Rule, number: usize, gradient: impl Iterator<Item = f32>) -> Vec<f32> {
        let [first, second] = DECAY;
        let correction = DECAY.map(|d| 1.0 - d.powi(i32::try_from(number).unwrap_or(i32::MAX)));
        let mut steps = Vec::with_capacity(self.means.len());
        for (i, g) in gradient.enumerate() {
            let g = f64::from(g);
            let mean = &mut self.means[i];
            match rule {
                Rule::Sgd => {
                    *mean = (first * f64::from(*mean) + g) as f32;
                    steps.push(*mean);
                }
                Rule::Adam => {
                    let square = &mut self.squares[i];
                    *mean = (first * f64::from(*mean) + (1.0 - first) * g) as f32;
                    *square = (second * f64::from(*square) + (1.0 - second) * g * g) as f32;
                    let scale = (f64::from(*square) / correction[1]).sqrt().max(LEAST);
                    steps.push((f64::from(*mean) / correction[0] / scale) as f32);
                }
            }
        }
        steps
    }
}

/// The part of the greatest rate at step `number` of `all`, from 0: half a cosine, after a short rise.
pub(crate) fn rate(number: usize, all: usize) -> f64 {
    let rise = (all / 50).clamp(1, 100);
    if number < rise {
        return (number + 1) as f64 / (rise + 1) as f64;
    }
    let done = (number - rise) as f64 / (all - rise).max(1) as f64;
    0.5 * (1.0 + (PI * done.min(1.0)).cos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_rules_find_the_bottom_of_a_bowl() {
        for (rule, step) in [(Rule::Adam, 0.05f32), (Rule::Sgd, 0.05)] {
            let mut x = [3.0f32, -2.0];
            let mut memory = Memory::new(rule, 2);
            for number in 1..500 {
                let steps = memory.steps(rule, number, [x[0] - 1.0, 4.0 * (x[1] + 1.0)].into_iter());
                let rate = rate(number, 500) as f32;
                x.iter_mut().zip(steps).for_each(|(x, s)| *x -= step * rate * s);
            }
            assert!((x[0] - 1.0).abs() < 0.01 && (x[1] + 1.0).abs() < 0.01, "{rule:?} {x:?}");
        }
    }

    #[test]
    fn the_rate_rises_shortly_and_falls_to_nothing() {
        assert!(rate(0, 1000) < 0.1 && rate(20, 1000) == 1.0 && rate(999, 1000) < 1e-5 && rate(0, 1) > 0.0);
    }
}
