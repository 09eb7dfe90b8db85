//! The float network itself teaches, by its softened scores; labels are not needed and only reported on (Hinton et al. 2015, section 2; for quantized students
//! Polino et al., ICLR 2018, section 3, whose term of hard labels is left out).

use super::{Defaults, Recipe, Situation};
use crate::loss::Weights;
use crate::optimizer::Rule;
use crate::update::Rates;

pub(super) const RECIPE: Recipe = Recipe {
    name: "distill",
    summary: "learns from the float network's outputs, without labels",
    needs_teacher: false,
    defaults,
};

fn defaults(situation: Situation) -> Defaults {
    Defaults {
        rule: Rule::Adam,
        rates: rates(situation.bits),
        weights: Weights { teacher: 1.0, labels: 0.0, temperature: 2.0 },
        epochs: 1,
        batch: 64,
        portions: &[],
    }
}

/// Few bits need longer steps: a weight must cross half of one of theirs before its integer changes.
pub(super) fn rates(bits: u32) -> Rates {
    match bits {
        ..=4 => Rates { weights: 1e-3, scales: 5e-4 },
        5..=6 => Rates { weights: 7e-4, scales: 3e-4 },
        _ => Rates { weights: 4e-4, scales: 1e-4 },
    }
}
