//! A whole training: epochs of shuffled batches, evaluations on samples that are held out, the best parameters kept, checkpoints.
//!
//! Which samples a step sees, and in which form, follows from the seed and its number: a training that goes on from a checkpoint makes the steps
//! that it would have made.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};

use qcc_interp::in_order;
use qcc_ir::diag::Code;
use qcc_ir::{Diag, Tensor};
use qcc_num::random::Random;

use crate::augment::Augment;
use crate::checkpoint::{Checkpoint, Parameters};
use crate::gradient_noise::Descent;
use crate::loss::{Score, Target};
use crate::network::Network;
use crate::scheme::Scheme;
use crate::teacher::Teacher;
use crate::trainer::{Sample, Trainer};

/// Bytes of samples that are held out.
const HELD_BYTES: usize = 256 << 20;

/// Bytes of what the teacher said that are kept.
const KNOWN_BYTES: usize = 256 << 20;

/// What is learned from: samples by their numbers.
pub struct Material<'a> {
    /// Number of samples.
    pub count: usize,
    /// A sample.
    pub get: &'a (dyn Fn(usize) -> Result<Sample, Diag> + Sync),
    /// For each input whether its channels come last; `None` if it is no image.
    pub images: Vec<Option<bool>>,
}

/// How a training goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plan {
    /// Times that every sample is seen.
    pub epochs: usize,
    /// Samples of a step.
    pub batch: usize,
    /// From which everything random follows.
    pub seed: u64,
    /// What is done to images.
    pub augment: Augment,
    /// Evaluations without a better one after which training ends; 0 for never.
    pub patience: usize,
    /// How weights get their integers.
    pub scheme: Scheme,
    /// A part of the samples is learned from: they are halved so often.
    pub halvings: u32,
    /// Whether it is measured what the length of the training depends on.
    pub measures: bool,
    /// Whether weights are drawn anew before the first step.
    pub from_scratch: bool,
}

/// What happens, for those who watch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event {
    /// A step was made: its number, how many there are, the score of its samples.
    Step(usize, usize, Score),
    /// Held-out samples were evaluated after this many steps. How many integers of weights changed since the last time, of how many; whether nothing before was better.
    Evaluated {
        /// Steps that were made.
        step: usize,
        /// Of the held-out samples.
        score: Score,
        /// Integers that are others than at the evaluation before.
        flipped: usize,
        /// Integers in all.
        integers: usize,
        /// Whether it is the best so far.
        best: bool,
    },
}

/// Watches, and may end a training; gets the state when it is a good time to write it down.
pub trait Watch {
    /// Something happened; `Break` ends the training after a checkpoint.
    fn event(&mut self, event: &Event) -> ControlFlow<()>;

    /// The state after a step, to be written down.
    fn checkpoint(&mut self, state: &dyn Fn() -> Checkpoint, ends: bool) -> Result<(), Diag>;
}

/// How a training ended.
pub struct Outcome {
    /// The best network: the start, if nothing was better.
    pub network: Network,
    /// The network after the last step.
    pub last: Network,
    /// Held-out score of the start.
    pub start: Score,
    /// Held-out score of the best.
    pub best: Score,
    /// Steps after which it was reached.
    pub best_step: usize,
    /// Steps that were made.
    pub steps: usize,
    /// Whether the watch ended it.
    pub interrupted: bool,
    /// Samples that were learned from.
    pub samples: usize,
    /// Integers that changed in an epoch, as a part of all; `None` where no step was made since the training was resumed.
    pub flips: Option<f64>,
    /// What was measured, if that was asked for.
    pub measured: Option<Measured>,
}

/// What is measured of a training that is a point of a learning curve.
pub struct Measured {
    /// Scores of the last network, whether it is the best or not, one for each held-out sample.
    pub held: Vec<Score>,
    /// What the training's length depends on.
    pub descent: Descent,
}

/// Samples that are trained with, and those that are held out: each eighth, 1024 at most.
pub fn split(count: usize, sample_bytes: usize) -> (Vec<usize>, Vec<usize>) {
    let most = (HELD_BYTES / sample_bytes.max(1)).clamp(1, 1024);
    let step = LEAST_SAMPLES.max(count.div_ceil(most));
    (0..count).partition(|i| i % step != step - 1)
}

/// Each so manyth sample is held out, and so many there must be.
const LEAST_SAMPLES: usize = 8;

/// Refuses so few samples that none would be held out.
pub fn check_count(count: usize) -> Result<(), Diag> {
    if count >= LEAST_SAMPLES {
        return Ok(());
    }
    let message = format!("{count} samples to learn from, of which each eighth is held out");
    Err(Diag::new(Code::DATA, message).help(format!("give at least {LEAST_SAMPLES}")))
}

/// True if a score is better than another: nearer to what is wanted, and no fewer rows right.
fn is_better(score: &Score, than: &Score) -> bool {
    let counts = |s: &Score| if s.labelled > 0 { s.right } else { s.agreeing };
    score.loss < than.loss && counts(score) >= counts(than)
}

/// A training under way.
struct Run<'a> {
    trainer: &'a mut Trainer,
    teacher: &'a mut Teacher,
    material: &'a Material<'a>,
    plan: Plan,
    train: Vec<usize>,
    held: Vec<(Sample, Target)>,
    digest: [u8; 32],
    start: Score,
    best: (usize, Score, Parameters),
    idle: usize,
    /// The step that this process began with, and the parts of the integers that changed from one evaluation to the next since then, added up.
    since: usize,
    flips: f64,
    /// Integers at the last evaluation.
    integers: Vec<Vec<i64>>,
    /// What the teacher said of samples that do not change.
    known: Mutex<HashMap<usize, Target>>,
}

/// Trains, from the beginning or from a checkpoint.
pub fn run(
    trainer: &mut Trainer,
    teacher: &mut Teacher,
    material: &Material,
    plan: Plan,
    resumed: Option<&[u8]>,
    digest: [u8; 32],
    watch: &mut dyn Watch,
) -> Result<Outcome, Diag> {
    check_count(material.count)?;
    let bytes = (material.get)(0)?.inputs.iter().map(|t| t.data.bytes() as usize).sum();
    let (mut train, held) = split(material.count, bytes);
    halve(&mut train, plan);
    let held = trainer.on_threads(|| {
        in_order(held.iter().copied(), |i| {
            let sample = (material.get)(i)?;
            let target = teacher.target(&sample.inputs)?;
            Ok::<_, Diag>((sample, target))
        })
    })?;
    let start = (trainer.evaluate(&held)?, trainer.network().clone());
    if plan.from_scratch {
        let mut network = trainer.network().clone();
        network.draw(plan.seed);
        trainer.set_network(network)?;
    }
    begin(trainer, plan.scheme)?;
    let mut run = Run {
        best: (0, start.0, Parameters::of(trainer.network())),
        integers: integers(trainer.network()),
        start: start.0,
        trainer,
        teacher,
        material,
        plan,
        train,
        held,
        digest,
        idle: 0,
        since: 0,
        flips: 0.0,
        known: Mutex::default(),
    };
    if let Some(bytes) = resumed {
        run.resume(bytes)?;
    }
    let interrupted = run.all(watch)?;
    let last = run.trainer.network().clone();
    let mut network = last.clone();
    run.best.2.apply(&mut network);
    if run.best.0 == 0 {
        network = start.1.clone();
    }
    let measured = if plan.measures && !interrupted { Some(run.measure(&start.1, &last)?) } else { None };
    Ok(Outcome {
        network,
        last,
        start: run.start,
        best: run.best.1,
        best_step: run.best.0,
        steps: run.trainer.steps(),
        interrupted,
        samples: run.train.len(),
        flips: run.epochs().map(|epochs| run.flips / epochs),
        measured,
    })
}

/// Leaves a part of the samples, drawn by the seed: the smaller parts are parts of the greater ones.
fn halve(train: &mut Vec<usize>, plan: Plan) {
    if plan.halvings > 0 {
        let left = (train.len() >> plan.halvings).max(1);
        shuffle(train, plan.seed);
        train.truncate(left);
        train.sort_unstable();
    }
}

/// Brings samples into an order that the seed draws (Fisher and Yates).
fn shuffle(samples: &mut [usize], seed: u64) {
    let mut random = Random::new(seed);
    (1..samples.len()).rev().for_each(|i| samples.swap(i, random.below(i + 1)));
}

/// Prepares the network for how its weights get their integers.
fn begin(trainer: &mut Trainer, scheme: Scheme) -> Result<(), Diag> {
    let mut network = trainer.network().clone();
    let (begun, what, help) = match scheme {
        Scheme::Rounding => return Ok(()),
        Scheme::Portions(_) => (
            network.begin_portions(),
            "a format of levels, which they could get in portions",
            "inq5, inq4, inq3 or pot4",
        ),
        Scheme::Intervals => (
            network.begin_intervals(),
            "fewer than 8 bits that are linear, for which intervals are learned",
            "4, 3, 5 or 6",
        ),
        Scheme::Noise(_) => {
            (network.begin_noise(), "fewer than 8 bits, for which they could have noise", "4, 3, 5, 6 or table4")
        }
    };
    if !begun {
        let diag = Diag::new(Code::FLAGS, format!("no weights have {what}"));
        return Err(diag.help(format!("add --weights {help}")));
    }
    trainer.replace(network)
}

fn integers(network: &Network) -> Vec<Vec<i64>> {
    network.layers.iter().map(|l| l.rounded(network).1).collect()
}

impl Run<'_> {
    fn resume(&mut self, bytes: &[u8]) -> Result<(), Diag> {
        let teacher = self.teacher.trainer().map(Trainer::state);
        let state = Checkpoint::from_bytes(bytes, self.trainer.state(), teacher)?;
        if state.digest != self.digest {
            let diag = Diag::new(Code::DATA, "the checkpoint is of another model, other samples or other settings");
            return Err(diag.help("resume with the flags that the training began with, or begin anew without --resume"));
        }
        self.trainer.go_on(state.step, state.state)?;
        self.trainer.noise = state.noise;
        if let (Some(trainer), Some(own)) = (self.teacher.trainer_mut(), state.teacher) {
            trainer.go_on(state.step, own)?;
        }
        self.since = state.step;
        self.idle = state.idle;
        self.best = (state.best.0, state.best.1, state.best_parameters);
        self.integers = integers(self.trainer.network());
        Ok(())
    }

    /// Makes all steps that are left; says whether the watch ended it.
    fn all(&mut self, watch: &mut dyn Watch) -> Result<bool, Diag> {
        let of_epoch = self.train.len().div_ceil(self.plan.batch.max(1)).max(1);
        let all = self.plan.epochs * of_epoch;
        let part = self.part(all);
        self.trainer.set_stage(part);
        self.teacher.trainer_mut().into_iter().for_each(|t| t.set_stage(part));
        // A few evaluations, in an epoch or after some.
        let parts = if self.plan.epochs <= 2 { 4 } else { 1 };
        let between = of_epoch.div_ceil(parts).max(1);
        let mut order = (usize::MAX, Vec::new());
        while self.trainer.steps() < all {
            let step = self.trainer.steps();
            let (epoch, number) = (step / of_epoch, step % of_epoch);
            self.enter(step, all)?;
            if order.0 != epoch {
                order = (epoch, self.shuffled(epoch));
            }
            let first = number * self.plan.batch;
            let chosen = &order.1[first..(first + self.plan.batch).min(order.1.len())];
            let mut batch = self.batch(chosen, epoch)?;
            self.teacher.learn(&mut batch)?;
            let score = self.trainer.train(&batch)?;
            let mut ends = watch.event(&Event::Step(step + 1, all, score)).is_break();
            let done = step + 1;
            if (done % of_epoch).is_multiple_of(between) || done == all {
                let event = self.evaluate(done)?;
                ends |= watch.event(&event).is_break();
                if self.plan.patience > 0 && self.idle >= self.plan.patience {
                    watch.checkpoint(&|| self.state(), true)?;
                    return Ok(false);
                }
            }
            watch.checkpoint(&|| self.state(), ends || done == all)?;
            if ends {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Steps of a part of the training, in which the rate falls to nothing.
    fn part(&self, all: usize) -> usize {
        all.div_ceil(self.plan.scheme.parts()).max(1)
    }

    /// Weights get what they have in a step: at the beginning of a part of the training another portion its levels, or the layers of a group their
    /// noise.
    fn enter(&mut self, step: usize, all: usize) -> Result<(), Diag> {
        let part = self.part(all);
        match self.plan.scheme {
            Scheme::Portions(portions) => match portions.get(step / part) {
                Some(&portion) if step.is_multiple_of(part) => self.trainer.freeze(portion),
                _ => Ok(()),
            },
            Scheme::Noise(groups) => self.trainer.set_noise(step / part, groups, self.plan.seed),
            Scheme::Rounding | Scheme::Intervals => Ok(()),
        }
    }

    fn state(&self) -> Checkpoint {
        Checkpoint {
            digest: self.digest,
            step: self.trainer.steps(),
            idle: self.idle,
            best: (self.best.0, self.best.1),
            noise: self.trainer.noise,
            best_parameters: self.best.2.clone(),
            state: self.trainer.state(),
            teacher: self.teacher.trainer().map(Trainer::state),
        }
    }

    fn evaluate(&mut self, step: usize) -> Result<Event, Diag> {
        let score = self.trainer.evaluate(&self.held)?;
        // What does not have its format yet is no result.
        let is_result = self.trainer.network().is_final();
        let best = is_result && is_better(&score, &self.best.1) && is_better(&score, &self.start);
        if best {
            self.best = (step, score, Parameters::of(self.trainer.network()));
        }
        self.idle = if best || !is_result { 0 } else { self.idle + 1 };
        let now = integers(self.trainer.network());
        let pairs = || now.iter().flatten().zip(self.integers.iter().flatten());
        let (flipped, integers) = (pairs().filter(|(a, b)| a != b).count(), pairs().count());
        self.integers = now;
        self.flips += flipped as f64 / integers.max(1) as f64;
        Ok(Event::Evaluated { step, score, flipped, integers, best })
    }

    /// The samples in the order of an epoch.
    fn shuffled(&self, epoch: usize) -> Vec<usize> {
        let mut order = self.train.clone();
        shuffle(&mut order, self.plan.seed ^ (epoch as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        order
    }

    /// Epochs that were made by this process.
    fn epochs(&self) -> Option<f64> {
        let made = self.trainer.steps() - self.since;
        (made > 0).then(|| made as f64 / self.train.len().div_ceil(self.plan.batch.max(1)).max(1) as f64)
    }

    /// What a point of a learning curve needs.
    fn measure(&mut self, start: &Network, last: &Network) -> Result<Measured, Diag> {
        let noise = self.trainer.noise;
        self.trainer.set_network(start.clone())?;
        let (_, at_start) = self.trainer.gradients(&self.held)?;
        self.trainer.set_network(last.clone())?;
        let (_, at_last) = self.trainer.gradients(&self.held)?;
        let descent = Descent::measured(&noise, self.plan.batch, [start, last], [&at_start, &at_last], self.held.len());
        Ok(Measured { held: self.trainer.evaluate_each(&self.held)?, descent })
    }

    /// Samples as a step sees them, with what the teacher says of them unless it learns too.
    fn batch(&self, chosen: &[usize], epoch: usize) -> Result<Vec<(Sample, Target)>, Diag> {
        let changes = self.plan.augment.is_on() && self.material.images.iter().any(Option::is_some);
        let one = |i: usize| {
            let mut sample = (self.material.get)(i)?;
            if changes {
                self.change(&mut sample.inputs, i, epoch);
            }
            if !self.teacher.is_fixed() {
                return Ok((sample, Target::new()));
            }
            if changes {
                let target = self.teacher.target(&sample.inputs)?;
                return Ok((sample, target));
            }
            let lock = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let known = lock().get(&i).cloned();
            let target = match known {
                Some(target) => target,
                None => {
                    let target = self.teacher.target(&sample.inputs)?;
                    let bytes = target.iter().map(|t| 4 * t.len()).sum::<usize>();
                    if self.plan.epochs > 1 && lock().len() * bytes < KNOWN_BYTES {
                        lock().insert(i, target.clone());
                    }
                    target
                }
            };
            Ok((sample, target))
        };
        self.trainer.on_threads(|| in_order(chosen.iter().copied(), one))
    }

    fn change(&self, inputs: &mut [Tensor], sample: usize, epoch: usize) {
        let number = (epoch as u64) << 40 ^ sample as u64;
        let mut random = Random::new(self.plan.seed ^ number.wrapping_mul(0xd134_2543_de82_ef95));
        for (tensor, layout) in inputs.iter_mut().zip(&self.material.images) {
            if let Some(channels_last) = layout {
                self.plan.augment.apply(tensor, *channels_last, &mut random);
            }
        }
    }
}
