//! FAQ (McKinstry et al., arXiv 1809.04191, section 3): from the calibrated network, all parameters at once, a low rate that falls, few epochs. Theirs learns from
//! labels; here the float network teaches too, and alone where there are none. Scales, which they calibrate once, are learned (Esser et al., ICLR 2020). Batch
//! normalization is folded before.

use super::{Defaults, Recipe, Situation};
use crate::loss::Weights;

pub(super) const RECIPE: Recipe = Recipe {
    name: "faq",
    summary: "learns from labels and the float network with a low rate that falls",
    needs_teacher: false,
    defaults,
};

fn defaults(situation: Situation) -> Defaults {
    Defaults { rates: super::distill::rates(situation.bits), weights: weights(situation), ..Defaults::USUAL }
}

/// Labels count as much as the float network, where there are any.
pub(super) fn weights(situation: Situation) -> Weights {
    Weights { labels: if situation.labels { 1.0 } else { 0.0 }, ..Defaults::USUAL.weights }
}
