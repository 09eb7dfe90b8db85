//! Lowers the bits of weights, layer by layer, where that gains most for what it loses, as far as a limit allows.
//!
//! The order in which bits go is that of `layers`. How many go is found by compiling: the model with the fewest bits in all layers first,
//! then the one that is expected to use up most of the limit, by what the last one used. It is judged on the
//! samples that choose; then on others, which say no more than yes or no: after a no fewer bits go, until it holds. Nothing is below 8 bits where
//! nothing else holds.

mod judge;
mod layers;
mod scores;

use std::fmt;
use std::str::FromStr;

use qcc_ir::Diag;
use qcc_ir::diag::Code;
use qcc_passes::{Precision, Precisions, RangeTable, Samples as _};

use super::comparison::{CompareOptions, Comparison, compare};
use super::mixed::{Mixed, Stages};
use super::raise::Limit;
use crate::data::{Dataset, spread};
use crate::engine::Engine;
use crate::{Compiled, Error, Options, Source, compile_observed};
use judge::{Figures, Judge};
use layers::Ladder;

pub use judge::Loss;

/// Models that are compiled to find the most steps that hold on the samples that choose.
const ATTEMPTS: usize = 5;

/// Models that are compiled after others said no.
const RETREATS: usize = 4;

/// The share of the limit that the next model is to use up, and from which on it is not tried to use up more.
const AIM: f64 = 0.85;
const ENOUGH: f64 = 0.7;

/// Calls that choose, and calls that say whether it holds, at most.
const MOST_CALLS: usize = 2048;

/// What is to become less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// The time of a call on the target, by the planner's estimates.
    Speed,
    /// The bytes of weights as they are stored.
    Size,
}

impl Goal {
    /// All goals.
    pub const ALL: [Goal; 2] = [Goal::Speed, Goal::Size];

    /// Spelling on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Goal::Speed => "speed",
            Goal::Size => "size",
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Goal {
    type Err = String;

    fn from_str(s: &str) -> Result<Goal, String> {
        let known = Goal::ALL.map(Goal::name).join(", ");
        Goal::ALL.into_iter().find(|goal| goal.name() == s).ok_or_else(|| format!("`{s}` is none of {known}"))
    }
}

/// Samples by what they are for.
pub struct Parts {
    /// They choose.
    pub choose: Dataset,
    /// They had no part in it and say whether the choice holds.
    pub verify: Dataset,
}

impl Parts {
    /// Of samples that the model is not calibrated with: every second one each.
    pub fn of_others(data: &Dataset) -> Result<Parts, Error> {
        let calls = data.len();
        let half = |first: usize| (first..calls).step_by(2).collect::<Vec<_>>();
        Parts::new(data, half(0), half(1))
    }

    /// Of the samples that the model is calibrated with, of which it then takes three quarters unless `options` say how many.
    pub fn of_calibration(data: &Dataset, options: &mut Options) -> Result<Parts, Error> {
        if options.samples.is_none() {
            options.samples = Some(data.len() * data.batch() * 3 / 4);
        }
        Parts::new(data, options.calibration_calls(data), options.held_out(data))
    }

    fn new(data: &Dataset, choose: Vec<usize>, verify: Vec<usize>) -> Result<Parts, Error> {
        if choose.is_empty() || verify.len() * 8 < choose.len() {
            let message = format!(
                "{} samples choose precision and {} are left to say whether it holds: that is too few",
                choose.len() * data.batch(),
                verify.len() * data.batch()
            );
            return Err(Diag::new(Code::FLAGS, message)
                .help("give more samples, other ones with --data, or calibrate with fewer (--samples N)")
                .into());
        }
        let some = |calls: Vec<usize>| spread(calls.len(), MOST_CALLS).into_iter().map(|i| calls[i]).collect();
        Ok(Parts { choose: data.clone().only(some(choose)), verify: data.clone().only(some(verify)) })
    }
}

/// A model with fewer bits.
pub struct Outcome {
    /// The model.
    pub compiled: Compiled,
    /// The options with which it was compiled: those given, and the precisions.
    pub options: Options,
    /// What has fewer than 8 bits, as `--precision` takes it.
    pub lowered: Precisions,
    /// Layers that might have fewer.
    pub layers: usize,
    /// The cost of all products by the goal's measure, as a share of that with 8 bits.
    pub cost: f64,
    /// What is lost on the samples that chose, and on those that did not.
    pub losses: [Loss; 2],
    /// The model, and that of 8 bits, on the samples that did not choose.
    pub results: [Comparison; 2],
}

/// A model that was tried.
struct Attempt {
    compiled: Compiled,
    options: Options,
    figures: Figures,
    /// What it loses on the samples that choose.
    loss: Loss,
    steps: usize,
}

struct Search<'a> {
    source: &'a Source,
    /// With the ranges of the first compilation.
    options: Options,
    choose: Judge<'a>,
}

/// Lowers the bits of a model's weights within a limit; see the header.
pub fn lower(
    source: &Source,
    options: &Options,
    goal: Goal,
    limit: Limit,
    parts: &Parts,
    how: &CompareOptions,
) -> Result<Outcome, Error> {
    let base = compile_observed(source.clone(), options, &mut |_| {})?;
    if base.source_is_quantized() {
        return Err(refused("the model brings its own scales and formats").into());
    }
    let ranges: Option<RangeTable> = base.ranges().cloned();
    let mut search =
        Search { source, options: options.clone(), choose: Judge::new(base.source(), limit, &parts.choose, how)? };
    // Ranges do not depend on the precision of weights: they are found once.
    if options.calibration.is_some() && options.ranges.is_none() {
        search.options.ranges.clone_from(&ranges);
    }
    let figures = search.choose.figures(&base)?;
    let loss = search.choose.loss(&figures, &figures)?;
    let base = Attempt { compiled: base, options: search.options.clone(), figures, loss, steps: 0 };
    if base.loss.used > 1.0 {
        return Err(refused("8 bits are beyond the limit already").help("leave --lower out to raise precision").into());
    }
    let mut stages = Stages::default();
    let mut lowest = search.options.clone();
    lowest.overall.weights = layers::fewest(goal);
    let compiled = compile_observed(source.clone(), &lowest, &mut |event| stages.observe(event))?;
    let Some(mixed) = Mixed::new(&stages, compiled.graph())? else {
        return Err(refused("a model with scales of run time, or of other passes").into());
    };
    let ladder = Ladder::new(source, &search.options, goal, (&base.compiled, ranges.as_ref()), &mixed, &parts.choose)?;
    let used = search.choose.loss(&base.figures, &search.choose.figures(&compiled)?)?.used;
    drop((compiled, mixed, stages));
    let found = search.most(&base, &ladder, expected(&ladder, ladder.most_noise(), used))?;
    let verify = Judge::new(base.compiled.source(), limit, &parts.verify, how)?;
    let before = verify.figures(&base.compiled)?;
    let (chosen, unseen) = search.verified(&base, &ladder, found, &verify, &before)?;
    let first = compare(&base.compiled, &Engine::measuring(&base.compiled)?, &parts.verify, how)?;
    let chosen = chosen.unwrap_or(base);
    let result = compare(&chosen.compiled, &Engine::measuring(&chosen.compiled)?, &parts.verify, how)?;
    let mut options = Options { ranges: options.ranges.clone(), ..chosen.options };
    let lowered = ladder.precisions(chosen.steps);
    options.precision.extend(lowered.clone());
    Ok(Outcome {
        compiled: chosen.compiled,
        options,
        lowered,
        layers: ladder.layers(),
        cost: ladder.cost(chosen.steps),
        losses: [chosen.loss, unseen],
        results: [result, first],
    })
}

/// The steps that are expected to use up the share of the limit that is aimed at, if so much noise uses up so much: a loss grows about as the
/// root of noise.
fn expected(ladder: &Ladder, noise: f64, used: f64) -> usize {
    ladder.within(noise * (AIM / used.max(1e-3)).powi(2))
}

fn refused(why: &str) -> Diag {
    Diag::new(Code::FLAGS, format!("--lower: bits cannot be taken away: {why}"))
}

impl Search<'_> {
    /// Compiles with the first so many steps, and judges that.
    fn attempt(&self, ladder: &Ladder, steps: usize, base: &Figures) -> Result<Attempt, Error> {
        let mut options = self.options.clone();
        options.precision.extend(ladder.precisions(steps));
        let compiled = compile_observed(self.source.clone(), &options, &mut |_| {})?;
        let figures = self.choose.figures(&compiled)?;
        let loss = self.choose.loss(base, &figures)?;
        tracing::info!(steps, of = ladder.len(), used = loss.used, "compared");
        Ok(Attempt { compiled, options, figures, loss, steps })
    }

    /// The most steps that hold on the samples that choose; `None` if none do. The first that are tried are so many.
    fn most(&self, base: &Attempt, ladder: &Ladder, first: usize) -> Result<Option<Attempt>, Error> {
        let (mut best, mut failed, mut next) = (None::<Attempt>, ladder.len() + 1, first.max(1));
        for _ in 0..ATTEMPTS {
            let known = best.as_ref().map_or(0, |best| best.steps);
            if next <= known || next >= failed {
                break;
            }
            let attempt = self.attempt(ladder, next, &base.figures)?;
            let used = attempt.loss.used;
            let wanted = expected(ladder, ladder.noise(next), used);
            if used <= 1.0 {
                let enough = used >= ENOUGH;
                // At least a step more, and none that is known to be too much.
                next = wanted.clamp(next + 1, (failed - 1).max(next + 1));
                best = Some(attempt);
                if enough {
                    break;
                }
            } else {
                failed = next;
                let known = best.as_ref().map_or(0, |best| best.steps);
                next = wanted.clamp((known + 1).min(failed - 1), failed - 1);
            }
        }
        Ok(best)
    }

    /// What holds on the samples that did not choose as well, and what it loses there.
    fn verified(
        &self,
        base: &Attempt,
        ladder: &Ladder,
        found: Option<Attempt>,
        verify: &Judge,
        before: &Figures,
    ) -> Result<(Option<Attempt>, Loss), Error> {
        let mut found = found;
        for retreat in 0.. {
            let Some(attempt) = found else { break };
            let loss = verify.loss(before, &verify.figures(&attempt.compiled)?)?;
            if loss.used <= 1.0 && attempt.loss.used <= 1.0 {
                return Ok((Some(attempt), loss));
            }
            let used = loss.used.max(attempt.loss.used);
            let fewer = expected(ladder, ladder.noise(attempt.steps), used).min(attempt.steps - 1);
            tracing::info!(steps = attempt.steps, used, fewer, "does not hold");
            found = match fewer {
                1.. if retreat < RETREATS => Some(self.attempt(ladder, fewer, &base.figures)?),
                _ => None,
            };
        }
        let loss = verify.loss(before, before)?;
        if loss.used > 1.0 {
            let why = "8 bits are beyond the limit already on the samples that did not choose";
            return Err(refused(why).help("give more samples, or leave --lower out to raise precision").into());
        }
        Ok((None, loss))
    }
}

/// Text of precisions as the flag takes it.
pub fn precision_text(precisions: &Precisions) -> String {
    let text = |(name, precision): (&String, &Precision)| format!("{name}={}", precision.name());
    precisions.iter().map(text).collect::<Vec<_>>().join(",")
}
