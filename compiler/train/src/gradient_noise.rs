//! How noisy gradients are, and what follows for the number of steps. All by integers of weights, `w / S`, the coordinates in which rounding is a unit.
//!
//! Of a step with `B` samples, cut into chunks of `b`, with `G_B` the mean gradient of all and `G_b` of a chunk, estimates without bias are (McCandlish et al.,
//! arXiv 1812.06162, appendix A.1)
//!
//! ```text
//! |G|^2 = (B |G_B|^2 - b |G_b|^2) / (B - b)        tr(Sigma) = (|G_b|^2 - |G_B|^2) / (1/b - 1/B)
//! ```
//!
//! and their ratio, taken of sums over all steps, is the simple noise scale: a batch much smaller than it is mostly noise, one much greater wastes samples.

use crate::network::Network;
use crate::tape::Gradients;

/// Sums of estimates over steps.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct GradientNoise {
    /// Of `|G|^2`.
    pub(crate) signal: f64,
    /// Of `tr(Sigma)`.
    pub(crate) noise: f64,
    /// Steps.
    pub(crate) steps: f64,
}

impl GradientNoise {
    /// Takes note of a step: the sum of the gradients of its samples, and of chunks of equal size the squares of the sums.
    pub(crate) fn observe(&mut self, sum: &Gradients, samples: usize, chunks: &[f64], chunk: usize) {
        if chunks.len() < 2 || chunk >= samples {
            return;
        }
        let (all, part) = (samples as f64, chunk as f64);
        let large = squares(sum) / (all * all);
        let small = chunks.iter().sum::<f64>() / chunks.len() as f64 / (part * part);
        self.signal += (all * large - part * small) / (all - part);
        self.noise += (small - large) / (1.0 / part - 1.0 / all);
        self.steps += 1.0;
    }
}

/// Square of the length of a gradient by the integers of weights.
pub(crate) fn squares(gradients: &Gradients) -> f64 {
    gradients.layers.iter().flat_map(|l| &l.weights).map(|&g| f64::from(g) * f64::from(g)).sum()
}

/// What a training's length depends on.
///
/// By the bound of stochastic gradient descent with averaged iterates, `k <= (sigma^2 + L |x0 - x*|^2)^2 / eps^2` steps bring the expected loss within `eps` of the least (Nemirovski et al., SIAM J. Optim.
/// 19(4), 2009, section 2.2, up to factors).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Descent {
    /// `tr(Sigma)` of a sample by the squared length of the gradient; `None` where steps had no two chunks, or gradients are all noise.
    pub noise_scale: Option<f64>,
    /// `sigma^2`: variance of the gradient of a step.
    pub variance: f64,
    /// `L`: how much the gradient of all held-out samples changes over the way, by its length.
    pub smoothness: f64,
    /// `|x0 - x*|`: length of the way from the start to where training ended, in integers.
    pub distance: f64,
}

impl Descent {
    /// What was measured of a training from one network to another, whose gradients on the same samples these are.
    pub(crate) fn measured(
        noise: &GradientNoise,
        batch: usize,
        [start, end]: [&Network; 2],
        [at_start, at_end]: [&Gradients; 2],
        samples: usize,
    ) -> Descent {
        let mut difference = at_end.clone();
        let mut before = at_start.clone();
        before.scale(-1.0);
        difference.add(&before);
        let change = squares(&difference).sqrt() / samples.max(1) as f64;
        let distance = way(start, end).sqrt();
        let of_step = |sum: f64| if noise.steps > 0.0 { sum / noise.steps } else { 0.0 };
        let variance = (of_step(noise.noise) / batch.max(1) as f64).max(0.0);
        Descent {
            noise_scale: (noise.signal > 0.0 && noise.noise > 0.0).then(|| noise.noise / noise.signal),
            variance,
            smoothness: if distance > 0.0 { change / distance } else { 0.0 },
            distance,
        }
    }

    /// `(sigma^2 + L |x0 - x*|^2)^2`: steps for an `eps` of 1.
    pub fn steps_bound(&self) -> f64 {
        (self.variance + self.smoothness * self.distance * self.distance).powi(2)
    }
}

/// Square of the way from one network to another, in integers of the first.
fn way(start: &Network, end: &Network) -> f64 {
    let layers = start.layers.iter().zip(&end.layers);
    let of_layer = |(from, to): (&crate::TrainedLayer, &crate::TrainedLayer)| {
        let scales = from.scales(start);
        let by = |i: usize| f64::from(to.shadows[i] - from.shadows[i]) / f64::from(scales[i / from.depth]);
        (0..from.shadows.len()).map(|i| by(i).powi(2)).sum::<f64>()
    };
    layers.map(of_layer).sum()
}
