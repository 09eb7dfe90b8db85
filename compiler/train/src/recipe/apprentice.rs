//! Apprentice (Mishra and Marr, ICLR 2018, equation 1 and section 5.3, scheme C): another network, a greater one as a rule, teaches by its scores, and labels do; the
//! student starts from its own calibrated weights. The paper's weights: 1/2 for labels, 1/2 for the teacher, whose own loss has no effect on the student. Schemes A (both are
//! trained) and B (the student begins from nothing) are not here.

use super::{Defaults, Recipe, Situation};
use crate::loss::Weights;

pub(super) const RECIPE: Recipe = Recipe {
    name: "apprentice",
    summary: "learns from another network, --teacher, and from labels",
    needs_teacher: true,
    defaults,
};

fn defaults(situation: Situation) -> Defaults {
    let weights = match situation.labels {
        true => Weights { teacher: 0.5, labels: 0.5, temperature: 1.0 },
        false => Weights { teacher: 1.0, labels: 0.0, temperature: 1.0 },
    };
    Defaults { rates: super::distill::rates(situation.bits), weights, ..Defaults::USUAL }
}
