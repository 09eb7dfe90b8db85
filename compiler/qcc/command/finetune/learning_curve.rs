//! Says how much more data would bring: trainings with parts of the samples, the curve through their results, and what the length of a training depends on.

use qcc::finetune::train::learning_curve::{Better, Curve, Predicted};
use qcc::finetune::train::{Measured, Outcome, Score};

use crate::command::terminal;

/// How often samples are halved, for each training of a curve.
pub(super) const PARTS: [u32; 5] = [4, 3, 2, 1, 0];

/// Fewest samples of a curve: the smallest part has some then.
pub(super) const LEAST: usize = 256;

/// A part of what is lost below which more data is said to hardly help.
const HARDLY: f64 = 0.02;

/// Something that is measured of each held-out sample.
struct Measure {
    name: &'static str,
    better: Better,
    of: fn(&Score) -> f64,
    /// What 1 is called, and how many digits behind the point are shown.
    unit: (f64, &'static str, usize),
}

const LOSS: Measure = Measure { name: "loss", better: Better::Smaller, of: |s| s.loss, unit: (1.0, "", 5) };
const ACCURACY: Measure =
    Measure { name: "top-1", better: Better::Greater, of: |s| s.right as f64, unit: (100.0, " %", 2) };
const AGREEMENT: Measure =
    Measure { name: "agreement", better: Better::Greater, of: |s| s.agreeing as f64, unit: (100.0, " %", 2) };

/// Prints all of it; the trainings are those of [`PARTS`].
pub(super) fn report(outcomes: &[Outcome]) {
    let trainings: Vec<(&Outcome, &Measured)> =
        outcomes.iter().filter_map(|o| o.measured.as_ref().map(|m| (o, m))).collect();
    let Some((last, measured)) = trainings.last().copied() else { return };
    let share = if last.best.labelled > 0 {
        Some(ACCURACY)
    } else {
        (last.best.rows == last.best.samples).then_some(AGREEMENT)
    };
    let measures: Vec<Measure> = std::iter::once(LOSS).chain(share).collect();
    table(&trainings, &measures);
    for measure in &measures {
        predictions(&trainings, measure);
    }
    descent(&trainings, last, measured);
}

/// One line for each training.
fn table(trainings: &[(&Outcome, &Measured)], measures: &[Measure]) {
    let names: String = measures.iter().map(|m| format!("{:>12}", m.name)).collect();
    terminal::note(&format!("{:>9}{names}{:>20}{:>14}", "samples", "changed an epoch", "noise scale"));
    for (outcome, measured) in trainings {
        let results: String = measures.iter().map(|m| format!("{:>12}", m.text(m.mean(measured)))).collect();
        let noise = measured.descent.noise_scale.map_or("-".to_string(), |n| format!("{n:.0}"));
        let flips = outcome.flips.map_or("-".to_string(), |f| format!("{:.2} %", 100.0 * f));
        terminal::note(&format!("{:>9}{results}{flips:>20}{noise:>14}", outcome.samples));
    }
}

/// What the curve says of twice the samples, and what it said at a quarter of them.
fn predictions(trainings: &[(&Outcome, &Measured)], measure: &Measure) {
    let points: Vec<(usize, Vec<f64>)> =
        trainings.iter().map(|(o, m)| (o.samples, m.held.iter().map(measure.of).collect())).collect();
    let (Some(curve), Some(&(most, _))) = (Curve::new(&points, measure.better), points.last()) else { return };
    let [a, b, c] = curve.likeliest();
    let (name, count) = (measure.name, points.len());
    let sign = if b < 0.0 { '-' } else { '+' };
    let law = format!("{} {sign} {} (n / {most})^-{c:.2}", measure.text(a), measure.text(b.abs()));
    terminal::note(&format!("{name}: near {law}"));
    if let Some(early) = curve.up_to(points[count.saturating_sub(3)].0) {
        let (said, found) = (early.predict(most), measure.mean(trainings[count - 1].1));
        let held = if said.holds(found) { "held" } else { "did not hold" };
        let text = measure.interval(&said);
        terminal::note(&format!(
            "  what a quarter of the samples said of all, {text}, {held}: {}",
            measure.text(found)
        ));
    }
    let gain = curve.gain(2 * most);
    let [low, middle, high] = [gain.low, gain.middle, gain.high].map(|g| measure.text(g));
    let lost = measure.lost(measure.mean(trainings[count - 1].1));
    let verdict = if gain.high <= HARDLY * lost {
        "more data would hardly help"
    } else if gain.low > HARDLY * lost {
        "more data would help"
    } else {
        "more data may help"
    };
    let next = measure.interval(&curve.predict(2 * most));
    terminal::note(&format!(
        "  with {} samples: {next}; better by {low} to {high}, likely {middle}: {verdict}",
        2 * most
    ));
}

impl Measure {
    fn mean(&self, measured: &Measured) -> f64 {
        measured.held.iter().map(self.of).sum::<f64>() / measured.held.len().max(1) as f64
    }

    fn text(&self, x: f64) -> String {
        let (unit, name, digits) = self.unit;
        format!("{:.digits$}{name}", unit * x)
    }

    fn interval(&self, p: &Predicted) -> String {
        // A share is no greater than 1.
        let most = if self.better == Better::Greater { 1.0 } else { f64::INFINITY };
        format!("{} to {} (90 %)", self.text(p.low.max(0.0)), self.text(p.high.min(most)))
    }

    /// What is still to be gained.
    fn lost(&self, mean: f64) -> f64 {
        if self.better == Better::Greater { 1.0 - mean } else { mean }
    }
}

/// What the bound on the number of steps depends on, against the training with half of the samples.
fn descent(trainings: &[(&Outcome, &Measured)], last: &Outcome, measured: &Measured) {
    let d = &measured.descent;
    terminal::note(&format!(
        "steps k <= (sigma^2 + L |x0 - x*|^2)^2 / eps^2, by integers of weights: sigma^2 {:.3e}, L {:.3e}, |x0 - x*| {:.3e}",
        d.variance, d.smoothness, d.distance
    ));
    let half = trainings.len().checked_sub(2).map(|i| trainings[i]);
    if let Some((before, of_half)) = half.filter(|(_, m)| m.descent.steps_bound() > 0.0) {
        terminal::note(&format!(
            "  {:.2} times the bound of the training with {} samples, for {:.2} times its steps",
            d.steps_bound() / of_half.descent.steps_bound(),
            before.samples,
            last.steps as f64 / before.steps.max(1) as f64
        ));
    }
}
