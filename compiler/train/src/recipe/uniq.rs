//! UNIQ (Baskin et al., arXiv 1804.10969, section 3): noise as wide as the cells of the format takes the place of rounding, in one group of layers after the other; those in front have their
//! format already and stay. With `--weights table4` cells are equally probable (k-quantiles), by the weights of the layer instead of a normal distribution. Weights under noise
//! and behind it have 8 bits, so that the forward pass is one of integers throughout; in the paper they are real. In the last part of the training biases and the scales of values follow.

use super::{Defaults, Recipe, Situation};
use crate::scheme::Scheme;

pub(super) const RECIPE: Recipe = Recipe {
    name: "uniq",
    summary: "puts noise in place of rounding, in one group of layers after the other, with --weights 6 to 3 or table4",
    needs_teacher: false,
    defaults,
};

fn defaults(situation: Situation) -> Defaults {
    Defaults {
        rates: super::distill::rates(situation.bits),
        weights: super::faq::weights(situation),
        epochs: 5,
        scheme: Scheme::Noise(4),
        ..Defaults::USUAL
    }
}
