//! QIL (Jung et al., CVPR 2019, section 3): the interval in which weights become integers is learned with them, its centre and its width; what is below it is pruned, what is above it is cut
//! off. Here each output channel has one, at first that of the calibrated network; the exponent of the paper's transformer is 1, which it takes for all but its lowest bits. For values the
//! width is the scale that every recipe learns, and the centre is the layer's bias.

use super::{Defaults, Recipe, Situation};
use crate::scheme::Scheme;

pub(super) const RECIPE: Recipe = Recipe {
    name: "qil",
    summary: "learns for weights of few bits the interval that they are quantized in, with --weights 6 to 3",
    needs_teacher: false,
    defaults,
};

fn defaults(situation: Situation) -> Defaults {
    Defaults {
        rates: super::distill::rates(situation.bits),
        weights: super::faq::weights(situation),
        scheme: Scheme::Intervals,
        ..Defaults::USUAL
    }
}
