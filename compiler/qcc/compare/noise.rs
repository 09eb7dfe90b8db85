//! Signal and noise of values that two models give.

use qcc_ir::{Tensor, Type};

/// Sums over elements, from which ratios follow. Elements that are not finite in either model count only if they differ: as
/// noise without bound.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Noise {
    pub signal: f64,
    pub noise: f64,
    /// Sum of squares of what the integers stand for.
    pub power: f64,
}

impl Noise {
    /// Takes one element of both models.
    pub fn add(&mut self, float: f64, int: f64) {
        if !(float.is_finite() && int.is_finite()) {
            if float != int && !(float.is_nan() && int.is_nan()) {
                self.noise = f64::INFINITY;
            }
            return;
        }
        self.signal += float * float;
        self.noise += (float - int) * (float - int);
        self.power += int * int;
    }

    /// Adds other sums.
    pub fn merge(&mut self, other: Noise) {
        self.signal += other.signal;
        self.noise += other.noise;
        self.power += other.power;
    }

    /// Cosine of the angle between the two, from `2 f q = f^2 + q^2 - (f - q)^2`.
    pub fn cosine(self) -> f64 {
        let norm = (self.signal * self.power).sqrt();
        if norm > 0.0 && self.noise.is_finite() {
            (self.signal + self.power - self.noise) / (2.0 * norm)
        } else if self.noise > 0.0 {
            0.0
        } else {
            1.0
        }
    }

    /// Signal-to-noise ratio; `None` if there is no noise.
    pub fn decibels(self) -> Option<f64> {
        (self.noise > 0.0).then(|| 10.0 * (self.signal / self.noise).max(1e-30).log10())
    }

    /// Of all elements of two tensors.
    pub fn of(expected: &Tensor, found: &Tensor) -> Noise {
        let mut sum = Noise::default();
        reals(expected).iter().zip(&reals(found)).for_each(|(&a, &b)| sum.add(a, b));
        sum
    }
}

/// Whether numbers of a type are real ones, or codes of real ones.
pub(crate) fn stands_for_reals(ty: &Type) -> bool {
    ty.is_float() || ty.uniform().is_some()
}

/// Elements as real numbers.
pub(crate) fn reals(tensor: &Tensor) -> Vec<f64> {
    qcc_ir::for_data!(&tensor.data, v => v.iter().map(|&x| x as f64).collect())
}

/// The sums of all.
pub(crate) fn total(all: &[Noise]) -> Noise {
    let mut sum = Noise::default();
    all.iter().for_each(|&one| sum.merge(one));
    sum
}

/// Sums for each output over several calls.
pub(crate) fn of_outputs(expected: &[Vec<Tensor>], found: &[Vec<Tensor>]) -> Vec<Noise> {
    let mut all: Vec<Noise> = Vec::new();
    for (expected, found) in expected.iter().zip(found) {
        all.resize(all.len().max(expected.len()), Noise::default());
        for (sum, (e, f)) in all.iter_mut().zip(expected.iter().zip(found)) {
            sum.merge(Noise::of(e, f));
        }
    }
    all
}

/// The ratio of the worst of several; `None` if none of them has noise.
pub(crate) fn worst(all: &[Noise]) -> Option<f64> {
    all.iter().filter_map(|n| n.decibels()).reduce(f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_measured_against_the_signal() {
        let mut noise = Noise::default();
        noise.add(10.0, 10.0);
        assert_eq!(noise.decibels(), None);
        noise.add(0.0, 1.0);
        assert!((noise.decibels().unwrap() - 20.0).abs() < 1e-9);
        let expected = 100.0 / (100.0f64 * 101.0).sqrt();
        assert!((noise.cosine() - expected).abs() < 1e-12);
    }

    #[test]
    fn what_is_not_finite_counts_if_it_differs() {
        let mut noise = Noise::default();
        noise.add(f64::INFINITY, f64::INFINITY);
        noise.add(f64::NAN, f64::NAN);
        assert_eq!((noise.decibels(), noise.cosine()), (None, 1.0));
        noise.add(f64::NAN, 1.0);
        assert_eq!((noise.decibels(), noise.cosine()), (Some(-300.0), 0.0));
    }
}
