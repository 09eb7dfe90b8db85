//! INQ (Zhou et al., ICLR 2017, section 2.2 and algorithm 1): weights become powers of two in portions, the greatest first, and stay; the others are trained on, to make up for
//! it. Accumulated portions are those of section 3.1. Until a weight is frozen it has 8 bits on a finer grid of the same scale, so that the forward pass is one of integers throughout; in the
//! paper it is real. Values have integers from the beginning; in the paper they are real. After the last portion biases and the scales of values are still trained.

use super::{Defaults, Recipe, Situation};
use crate::scheme::Scheme;
use crate::update::Rates;

pub(super) const RECIPE: Recipe = Recipe {
    name: "inq",
    summary: "makes weights powers of two in portions, with --weights inq5, inq4, inq3 or pot4",
    needs_teacher: false,
    defaults,
};

fn defaults(situation: Situation) -> Defaults {
    Defaults {
        rates: Rates { weights: 2e-3, scales: 1e-3 },
        weights: super::faq::weights(situation),
        epochs: 8,
        scheme: Scheme::Portions(&[0.5, 0.75, 0.875, 1.0]),
        ..Defaults::USUAL
    }
}
