//! What each layer gains by fewer bits and what it loses, and in which order bits are best taken away.
//!
//! The loss of a layer is the noise that its weights alone make in the outputs, measured with the fewest bits, fitted as they will be. A
//! step of the grid makes it: with `M` the greatest integer of a format, noise is proportional to `1 / M^2`. The gain is the difference of
//! the planner's estimates, or of the stored bytes.
//!
//! Of each layer those formats are kept that lie on the lower convex hull of cost over noise. Steps from one to the next are taken in the
//! order of gain for noise, so that the first `k` of them cost the least for the noise that they make (Fox, Operations Research 1966).

use std::collections::HashMap;

use qcc_ir::format::Role;
use qcc_passes::{Precision, Precisions, RangeTable};

use super::super::account::measure;
use super::super::mixed::{Mixed, Side};
use super::super::remedy::item;
use super::Goal;
use crate::data::Dataset;
use crate::{Compiled, Error, Options, Source, compile};

/// Calls on which noise is measured.
const CALLS: usize = 8;

/// Formats of weights that are tried, from the most to the fewest bits, behind the usual one.
const FOR_SPEED: [&str; 4] = ["i7", "i6", "i5", "i4"];
/// Where bytes alone count, those between 4 and 8 bits take as many as 8.
const FOR_SIZE: [&str; 1] = ["i4"];

/// A format has to bring a layer to so many hundredths of its cost with 8 bits: costs of time are estimates.
const WORTH: u64 = 95;

/// A format that a layer may have.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Choice {
    precision: Precision,
    noise: f64,
    cost: u64,
}

/// A layer whose weights may have fewer bits.
#[derive(Debug, Clone)]
struct LowerableLayer {
    /// Its weights, as `--precision` calls them.
    name: String,
    /// From 8 bits on, on the hull.
    choices: Vec<Choice>,
}

/// One format less for a layer.
#[derive(Debug, Clone, Copy)]
struct Step {
    layer: usize,
    /// Position among its choices.
    to: usize,
    noise: f64,
}

/// All layers, and the order in which bits are taken away.
pub(super) struct Ladder {
    layers: Vec<LowerableLayer>,
    steps: Vec<Step>,
    /// The cost of all products with 8 bits.
    whole: u64,
    /// The noise of all layers with the fewest bits.
    most_noise: f64,
}

/// The format with the fewest bits that a goal knows.
pub(super) fn fewest(goal: Goal) -> Option<Precision> {
    formats(goal).last().copied()
}

fn formats(goal: Goal) -> Vec<Precision> {
    let names: &[&str] = if goal == Goal::Speed { &FOR_SPEED } else { &FOR_SIZE };
    names.iter().filter_map(|name| Precision::named(name)).collect()
}

impl Ladder {
    /// Measures the layers. `base` has 8 bits and these `ranges`; `lowest` was compiled with the fewest bits for all layers, and `mixed` is made of it.
    pub(super) fn new(
        source: &Source,
        options: &Options,
        goal: Goal,
        (base, ranges): (&Compiled, Option<&RangeTable>),
        mixed: &Mixed,
        data: &Dataset,
    ) -> Result<Ladder, Error> {
        let first = costs(base, mixed, goal)?;
        let mut each: Vec<(Precision, HashMap<usize, u64>)> = Vec::new();
        for precision in formats(goal) {
            each.push((precision, costs(&quick(source, options, precision, ranges)?, mixed, goal)?));
        }
        let accounts = measure(mixed, data, CALLS, options.progress.as_ref())?;
        let (mut layers, mut most_noise) = (Vec::new(), 0.0);
        for (p, account) in accounts.iter().enumerate() {
            let name = item(&mixed.parts[p].name, Side::Weights);
            let Some(own) = mixed.layer(p).and_then(|(_, all)| all.first().map(|w| w.uniform.format.clone())) else {
                continue;
            };
            let is_low = own.bits() < 8 && !options.precision.contains_key(&name);
            let (true, Some(&at_8_bits)) = (is_low, first.get(&p)) else { continue };
            let Some(usual) = Precision::named("i8") else { continue };
            let (noise, step) = (account.power(Side::Weights), own.magnitude() as f64);
            most_noise += noise;
            let mut choices = vec![Choice { precision: usual, noise: 0.0, cost: at_8_bits }];
            for (precision, costs) in &each {
                let magnitude = precision.format(Role::Weights).map_or(step, |format| format.magnitude() as f64);
                let (noise, cost) = (noise * (step / magnitude).powi(2), costs.get(&p).copied().unwrap_or(at_8_bits));
                choices.push(Choice { precision: *precision, noise, cost });
            }
            layers.push(LowerableLayer { name, choices: hull(choices) });
        }
        let steps = steps(&layers);
        Ok(Ladder { layers, steps, whole: first.values().sum::<u64>(), most_noise })
    }

    /// Number of layers.
    pub(super) fn layers(&self) -> usize {
        self.layers.len()
    }

    /// Number of steps.
    pub(super) fn len(&self) -> usize {
        self.steps.len()
    }

    /// The position of each layer's choice after the first `count` steps.
    fn taken(&self, count: usize) -> Vec<usize> {
        let mut taken = vec![0; self.layers.len()];
        self.steps[..count].iter().for_each(|step| taken[step.layer] = step.to);
        taken
    }

    /// What layers have after the first `count` steps, those that keep 8 bits left out.
    pub(super) fn precisions(&self, count: usize) -> Precisions {
        let chosen = self.layers.iter().zip(self.taken(count)).filter(|(_, at)| *at > 0);
        chosen.map(|(layer, at)| (layer.name.clone(), layer.choices[at].precision)).collect()
    }

    /// The expected noise after the first `count` steps, relative to the outputs.
    pub(super) fn noise(&self, count: usize) -> f64 {
        self.steps[..count].iter().map(|step| step.noise).sum()
    }

    /// The expected noise where all layers have the fewest bits that there are.
    pub(super) fn most_noise(&self) -> f64 {
        self.most_noise
    }

    /// The most steps that are expected to make no more than so much noise.
    pub(super) fn within(&self, noise: f64) -> usize {
        let mut sum = 0.0;
        self.steps
            .iter()
            .take_while(|step| {
                sum += step.noise;
                sum <= noise
            })
            .count()
    }

    /// The cost of all products after the first `count` steps, as a share of that with 8 bits.
    pub(super) fn cost(&self, count: usize) -> f64 {
        let saved =
            |(layer, at): (&LowerableLayer, usize)| layer.choices[0].cost.saturating_sub(layer.choices[at].cost);
        let saved: u64 = self.layers.iter().zip(self.taken(count)).map(saved).sum();
        1.0 - saved as f64 / self.whole.max(1) as f64
    }
}

/// The model with so many bits in all layers, without fitting anything: what its products cost.
fn quick(
    source: &Source,
    options: &Options,
    precision: Precision,
    ranges: Option<&RangeTable>,
) -> Result<Compiled, Error> {
    let mut options = options.clone();
    if ranges.is_some() {
        (options.ranges, options.calibration) = (ranges.cloned(), None);
    }
    options.overall.weights = Some(precision);
    compile(source.clone(), &options)
}

/// What the products of each part cost.
fn costs(compiled: &Compiled, mixed: &Mixed, goal: Goal) -> Result<HashMap<usize, u64>, Error> {
    let mut costs = HashMap::new();
    for task in compiled.object()?.tasks {
        let cost = if goal == Goal::Speed { task.estimate } else { task.weight_bytes };
        let part = task.weights.and_then(|weights| mixed.part_of_constant(&weights));
        if let (Some(p), true) = (part, cost > 0) {
            *costs.entry(p).or_insert(0) += cost;
        }
    }
    Ok(costs)
}

/// The choices on the lower convex hull of cost over noise, from the first, which has no noise, to the cheapest.
fn hull(choices: Vec<Choice>) -> Vec<Choice> {
    let mut kept: Vec<Choice> = Vec::new();
    for choice in choices {
        let dearer = |to: &Choice| choice.cost >= to.cost;
        if kept.last().is_some_and(dearer) || kept.first().is_some_and(|usual| choice.cost * 100 > usual.cost * WORTH) {
            continue;
        }
        while let [.., a, b] = kept.as_slice() {
            if ratio(b, &choice) <= ratio(a, b) {
                break;
            }
            kept.pop();
        }
        kept.push(choice);
    }
    kept
}

/// What going from one to the other gains for the noise that it makes.
fn ratio(from: &Choice, to: &Choice) -> f64 {
    from.cost.saturating_sub(to.cost) as f64 / (to.noise - from.noise).max(f64::MIN_POSITIVE)
}

/// All steps of all layers, the best first.
fn steps(layers: &[LowerableLayer]) -> Vec<Step> {
    let mut all: Vec<(f64, Step)> = Vec::new();
    for (i, layer) in layers.iter().enumerate() {
        for (to, pair) in layer.choices.windows(2).enumerate() {
            let noise = pair[1].noise - pair[0].noise;
            all.push((ratio(&pair[0], &pair[1]), Step { layer: i, to: to + 1, noise }));
        }
    }
    all.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1.layer, a.1.to).cmp(&(b.1.layer, b.1.to))));
    all.into_iter().map(|(_, step)| step).collect()
}
