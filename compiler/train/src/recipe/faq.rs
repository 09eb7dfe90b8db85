//! FAQ (McKinstry et al., arXiv 1809.04191, section 3): from the calibrated network, all parameters at once, a low rate that falls, few epochs. Theirs learns from
//! labels; here the float network teaches too, and alone where there are none. Scales, which they calibrate once, are learned (Esser et al., ICLR 2020). Batch
//! normalization is folded before.

use super::{Defaults, Recipe, Situation};
use crate::loss::Weights;
use crate::optimizer::Rule;

pub(super) const RECIPE: Recipe = Recipe {
    name: "faq",
    summary: "learns from labels and the float network with a low rate that falls",
    needs_teacher: false,
    defaults,
};

fn defaults(situation: Situation) -> Defaults {
    let labels = if situation.labels { 1.0 } else { 0.0 };
    Defaults {
        rule: Rule::Adam,
        rates: super::distill::rates(situation.bits),
        weights: Weights { teacher: 1.0, labels, temperature: 2.0 },
        epochs: 1,
        batch: 64,
        portions: &[],
    }
}
