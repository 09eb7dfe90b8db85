//! The float network itself teaches, by its softened scores; labels are not needed and only reported on (Hinton et al. 2015, section 2; for quantized students
//! Polino et al., ICLR 2018, section 3, whose term of hard labels is left out).

use super::{Defaults, Recipe, Situation};
use crate::update::Rates;

pub(super) const RECIPE: Recipe = Recipe {
    name: "distill",
    summary: "learns from the float network's outputs, without labels",
    needs_teacher: false,
    defaults,
};

fn defaults(situation: Situation) -> Defaults {
    Defaults { rates: rates(situation.bits), ..Defaults::USUAL }
}

/// Few bits need longer steps: a weight must cross half of one of theirs before its integer changes.
pub(super) fn rates(bits: u32) -> Rates {
    match bits {
        ..=4 => Rates { weights: 1e-3, scales: 5e-4 },
        5..=6 => Rates { weights: 7e-4, scales: 3e-4 },
        _ => Defaults::USUAL.rates,
    }
}
