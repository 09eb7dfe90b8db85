//! Apprentice (Mishra and Marr, ICLR 2018, equation 1 and sections 5.1 to 5.3): another network, a greater one as a rule, teaches by its scores, and labels do. The paper's
//! weights: 1 for the teacher's own loss, 1/2 for labels, 1/2 for the teacher. By scheme C the student starts from its own calibrated weights, by B from weights that are drawn;
//! by A they are drawn, and the teacher learns too, from labels. In the paper teacher and student of A begin from nothing together; here the teacher is a trained network,
//! with 8 bits as it learns.

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
