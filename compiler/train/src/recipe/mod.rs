//! Recipes: what a training is set to where nothing else is said. All are options of the one loop of [`crate::run`](fn@crate::run); each is a file with its source.

mod apprentice;
mod distill;
mod faq;
mod inq;
mod qil;
mod uniq;

use crate::loss::Weights;
use crate::optimizer::Rule;
use crate::scheme::Scheme;
use crate::update::Rates;

/// What a recipe is set for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Situation {
    /// Whether samples have labels.
    pub labels: bool,
    /// Fewest bits of weights or values.
    pub bits: u32,
}

/// Settings where nothing else is said.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Defaults {
    /// The rule of steps.
    pub rule: Rule,
    /// How fast.
    pub rates: Rates,
    /// What is learned from.
    pub weights: Weights,
    /// Times that every sample is seen.
    pub epochs: usize,
    /// Samples of a step.
    pub batch: usize,
    /// How weights get their integers.
    pub scheme: Scheme,
}

impl Defaults {
    /// What most recipes have.
    const USUAL: Defaults = Defaults {
        rule: Rule::Adam,
        rates: Rates { weights: 4e-4, scales: 1e-4 },
        weights: Weights { teacher: 1.0, labels: 0.0, temperature: 2.0 },
        epochs: 1,
        batch: 64,
        scheme: Scheme::Rounding,
    };
}

/// A row of [`RECIPES`].
pub struct Recipe {
    /// Its name after `--recipe`.
    pub name: &'static str,
    /// What it does, in one line.
    pub summary: &'static str,
    /// Whether another network than the float one itself teaches.
    pub needs_teacher: bool,
    /// Its settings.
    pub defaults: fn(Situation) -> Defaults,
}

/// All recipes; the first is what is taken where none is named.
pub static RECIPES: &[Recipe] =
    &[distill::RECIPE, faq::RECIPE, apprentice::RECIPE, inq::RECIPE, uniq::RECIPE, qil::RECIPE];

/// The recipe with this name.
pub fn recipe(name: &str) -> Result<&'static Recipe, String> {
    let known = || RECIPES.iter().map(|r| r.name).collect::<Vec<_>>().join(", ");
    RECIPES.iter().find(|r| r.name == name).ok_or_else(|| format!("`{name}` is none of {}", known()))
}
