//! Steps of training. A batch is cut into chunks of a size that the network alone decides; threads work on chunks, whose gradients
//! are added in the order of the chunks: results do not depend on the number of threads.

use std::ops::Range;

use qcc_interp::{Threads, in_order};
use qcc_ir::diag::Code;
use qcc_ir::{Data, Diag, Tensor};

use crate::checkpoint::{Parameters, State};
use crate::gradient_noise::{GradientNoise, squares};
use crate::kernel::Workspace;
use crate::loss::{self, Kind, Score, Target, Weights};
use crate::network::Network;
use crate::optimizer::{self, Rule};
use crate::program::Program;
use crate::tape::{Gradients, Tape};
use crate::update::{Memories, Rates, Units, Update, units};

/// Most samples of a chunk.
const CHUNK: usize = 8;

/// Bytes that the values of a chunk may take.
const CHUNK_BYTES: usize = 192 << 20;

/// Real inputs of the network, and the class that they belong to.
#[derive(Debug, Clone)]
pub struct Sample {
    /// One tensor for each input.
    pub inputs: Vec<Tensor>,
    /// The class, if it is known.
    pub label: Option<i64>,
}

/// How parameters change.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// The rule of steps.
    pub rule: Rule,
    /// How fast.
    pub rates: Rates,
    /// What is learned from.
    pub weights: Weights,
    /// Whether every output is compared by its square distance, also one row of numbers, which are scores of classes as a rule.
    pub reals: bool,
    /// Threads; 0 for one a core.
    pub threads: usize,
}

/// A network in training.
pub struct Trainer {
    network: Network,
    pub(crate) memories: Memories,
    pub(crate) step: usize,
    pub(crate) noise: GradientNoise,
    /// Steps in which the rate falls to nothing, and then again.
    stage: usize,
    settings: Settings,
    pub(crate) units: Vec<Units>,
    program: Program,
    threads: Threads,
    /// Slot of each output, and how it is compared.
    outputs: Vec<(usize, Kind)>,
    chunk: usize,
}

impl Trainer {
    /// Begins with a network.
    pub fn new(network: Network, settings: Settings) -> Result<Trainer, Diag> {
        let program = network.program()?;
        let outputs = compared(&program, settings.reals);
        check_gradients(&program, &outputs)?;
        let one = program.bytes(1).max(1);
        Ok(Trainer {
            memories: Memories::new(settings.rule, &network),
            units: units(&network),
            step: 0,
            noise: GradientNoise::default(),
            stage: 1,
            threads: Threads::start(settings.threads)?,
            chunk: (CHUNK_BYTES / one).clamp(1, CHUNK),
            network,
            settings,
            program,
            outputs,
        })
    }

    /// The network as it is now.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Takes other parameters, as those of a checkpoint.
    pub fn set_network(&mut self, network: Network) -> Result<(), Diag> {
        self.network = network;
        self.lower()
    }

    /// The program of the parameters as they are now. Its steps may be others than before: passes look at weights and scales.
    fn lower(&mut self) -> Result<(), Diag> {
        self.program = self.network.program()?;
        self.outputs = compared(&self.program, self.settings.reals);
        Ok(())
    }

    /// Begins anew with a network, as if no step had been made.
    pub fn begin(&mut self, network: Network) -> Result<(), Diag> {
        self.step = 0;
        self.noise = GradientNoise::default();
        self.replace(network)
    }

    /// Takes a network with other kinds of parameters, of which no steps were made.
    pub(crate) fn replace(&mut self, network: Network) -> Result<(), Diag> {
        self.memories = Memories::new(self.settings.rule, &network);
        self.set_network(network)
    }

    /// What is remembered of parameters, to be written down with them.
    pub(crate) fn state(&self) -> State {
        State { parameters: Parameters::of(&self.network), memories: self.memories.clone() }
    }

    /// Goes on from what was written down after some steps.
    pub(crate) fn go_on(&mut self, step: usize, state: State) -> Result<(), Diag> {
        let mut network = self.network.clone();
        state.parameters.apply(&mut network);
        (self.memories, self.step) = (state.memories, step);
        self.set_network(network)
    }

    /// The rate falls to nothing in so many steps, and then begins anew.
    pub(crate) fn set_stage(&mut self, steps: usize) {
        self.stage = steps.max(1);
    }

    /// Fewest scores of an output that is one of a classifier.
    pub fn classes(&self) -> Option<usize> {
        let scores = |(_, kind): &(usize, Kind)| match kind {
            Kind::Scores(classes) => Some(*classes),
            Kind::Reals => None,
        };
        self.outputs.iter().filter_map(scores).min()
    }

    /// Steps that were made.
    pub fn steps(&self) -> usize {
        self.step
    }

    /// Bytes that a step takes beside the samples: parameters and what is remembered of them, and for each thread the values and gradients of a
    /// chunk.
    pub fn memory(&self) -> usize {
        let parameters: usize = self.network.layers.iter().map(|l| l.shadows.len() + l.bias.len()).sum();
        let remembered = if self.settings.rule == Rule::Adam { 2 } else { 1 };
        // Shadows, their order, integers, integers as real numbers, sums of gradients, and their intermediate forms.
        let fixed = parameters * (4 * (remembered + 6) + 2);
        fixed + self.threads.count() * (self.program.bytes(self.chunk) + 4 * parameters)
    }

    /// Runs `work` on the threads of the trainer.
    pub fn on_threads<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.threads.run(work)
    }

    /// One step with the gradient of all samples of a batch. Returns their score before the step.
    pub fn train(&mut self, batch: &[(Sample, Target)]) -> Result<Score, Diag> {
        let (score, mut gradients, lengths) = self.gradients_of(batch)?;
        if batch.len().is_multiple_of(self.chunk) {
            self.noise.observe(&gradients, batch.len(), &lengths, self.chunk);
        }
        gradients.scale(1.0 / batch.len().max(1) as f32);
        let update = Update {
            rule: self.settings.rule,
            rates: self.settings.rates,
            schedule: self.schedule(),
            number: self.step + 1,
            units: &self.units,
        };
        update.apply(&mut self.network, &mut self.memories, &gradients);
        self.step += 1;
        self.lower()?;
        Ok(score)
    }

    /// The part of the rates at this step.
    fn schedule(&self) -> f64 {
        optimizer::rate(self.step % self.stage, self.stage)
    }

    /// Gives the greatest weights their levels for good, until a portion of each layer has them.
    pub fn freeze(&mut self, portion: f64) -> Result<(), Diag> {
        self.network.freeze(portion);
        self.lower()
    }

    /// Layers of the groups before one of so many have their format, those of it the noise of this step.
    pub fn set_noise(&mut self, group: usize, groups: usize, seed: u64) -> Result<(), Diag> {
        self.network.set_noise(group, groups, seed, self.step);
        self.lower()
    }

    /// Sums of the gradients of samples.
    pub(crate) fn gradients(&self, batch: &[(Sample, Target)]) -> Result<(Score, Gradients), Diag> {
        self.gradients_of(batch).map(|(score, sum, _)| (score, sum))
    }

    /// The same, and of each chunk the square of the length of its part.
    fn gradients_of(&self, batch: &[(Sample, Target)]) -> Result<(Score, Gradients, Vec<f64>), Diag> {
        let empty = || Gradients::zeros(&self.program, self.network.layers.len(), self.network.scales.len());
        let (mut score, mut sum, mut lengths) = (Score::default(), empty(), Vec::new());
        for chunks in chunks(batch.len(), self.chunk).chunks(self.threads.count()) {
            let one = |chunk: Range<usize>| {
                let mut own = empty();
                let scores = self.chunk(&batch[chunk], Some(&mut own))?;
                Ok::<_, Diag>((Score::of_all(&scores), squares(&own), own))
            };
            for (own, length, gradients) in self.threads.run(|| in_order(chunks.iter().cloned(), one))? {
                score = score.and(own);
                lengths.push(length);
                sum.add(&gradients);
            }
        }
        Ok((score, sum, lengths))
    }

    /// The score of samples as the network is now.
    pub fn evaluate(&self, samples: &[(Sample, Target)]) -> Result<Score, Diag> {
        Ok(Score::of_all(&self.evaluate_each(samples)?))
    }

    /// The score of each sample.
    pub fn evaluate_each(&self, samples: &[(Sample, Target)]) -> Result<Vec<Score>, Diag> {
        let one = |chunk: Range<usize>| self.chunk(&samples[chunk], None);
        let scores = self.threads.run(|| in_order(chunks(samples.len(), self.chunk), one))?;
        Ok(scores.concat())
    }

    /// What outputs are compared by, in real numbers, for each sample.
    pub(crate) fn scores(&self, samples: &[(Sample, Target)]) -> Result<Vec<Target>, Diag> {
        let slots: Vec<usize> = self.outputs.iter().map(|(slot, _)| *slot).collect();
        let one = |chunk: Range<usize>| {
            let samples = &samples[chunk];
            let inputs = self.inputs(samples.iter().map(|(sample, _)| sample))?;
            let tape = Tape::run(&self.program, inputs, samples.len(), false, &slots, &Workspace::default())?;
            let real = |slot: usize, i: usize| Ok(loss::real(&self.program, slot, tape.codes(slot)?, i)?.0);
            (0..samples.len()).map(|i| slots.iter().map(|&slot| real(slot, i)).collect()).collect()
        };
        let scores: Vec<Vec<Target>> = self.threads.run(|| in_order(chunks(samples.len(), self.chunk), one))?;
        Ok(scores.concat())
    }

    /// Codes of all outputs of samples.
    pub fn outputs(&self, samples: &[Sample]) -> Result<Vec<Vec<Data>>, Diag> {
        let outputs = &self.program.outputs;
        let one = |sample: &Sample| {
            let inputs = self.inputs(std::iter::once(sample))?;
            let tape = Tape::run(&self.program, inputs, 1, false, outputs, &Workspace::default())?;
            outputs.iter().map(|&slot| tape.codes(slot).cloned()).collect()
        };
        self.threads.run(|| in_order(samples, one))
    }

    /// The integers that stand for the inputs of samples, one behind the other.
    fn inputs<'s>(&self, samples: impl Iterator<Item = &'s Sample> + Clone) -> Result<Vec<Data>, Diag> {
        let wrong = |what: &str| Diag::new(Code::DATA, format!("a sample {what}"));
        let one = |i: usize| {
            let ty = &self.program.slots[i].ty;
            let storage = ty.elem.storage().unwrap_or(qcc_ir::Int::U8);
            let mut data = Data::integers(storage, std::iter::empty());
            for sample in samples.clone() {
                let tensor = sample.inputs.get(i).ok_or_else(|| wrong("has too few inputs"))?;
                if tensor.data.len() != ty.elements() {
                    return Err(wrong("has another shape than the network's inputs"));
                }
                let own = match (&tensor.data, ty.uniform()) {
                    (Data::F32(v), Some(u)) => {
                        let code = |&x: &f32| u.format.quantize(x, u.scale(), u.zero_point());
                        Data::integers(storage, v.iter().map(code))
                    }
                    (other, _) => other.clone(),
                };
                if !data.append(own) {
                    return Err(wrong("has an input of another type"));
                }
            }
            Ok(data)
        };
        (0..self.program.schedule.inputs()).map(one).collect()
    }

    /// The score of each sample of a chunk, and the gradients of all.
    fn chunk(&self, samples: &[(Sample, Target)], into: Option<&mut Gradients>) -> Result<Vec<Score>, Diag> {
        let space = Workspace::default();
        let inputs = self.inputs(samples.iter().map(|(sample, _)| sample))?;
        let slots: Vec<usize> = self.outputs.iter().map(|(slot, _)| *slot).collect();
        let tape = Tape::run(&self.program, inputs, samples.len(), into.is_some(), &slots, &space)?;
        let mut scores = vec![Score { samples: 1, ..Score::default() }; samples.len()];
        let mut from = Vec::new();
        for (number, &(slot, kind)) in self.outputs.iter().enumerate() {
            let codes = tape.codes(slot)?;
            let mut gradient = Vec::with_capacity(codes.len());
            for (i, (sample, target)) in samples.iter().enumerate() {
                let (z, scale) = loss::real(&self.program, slot, codes, i)?;
                let target = target.get(number).filter(|t| t.len() == z.len());
                let target = target
                    .ok_or_else(|| Diag::new(Code::DATA, "the teacher's outputs are not those of the network"))?;
                let (score, own) = loss::compare(kind, &z, target, sample.label, &self.settings.weights);
                scores[i] = scores[i].and(Score { samples: 0, ..score });
                gradient.extend(own.into_iter().map(|g| g * scale));
            }
            from.push((slot, gradient));
        }
        if let Some(into) = into {
            tape.back(&self.program, from, into, &space)?;
        }
        Ok(scores)
    }
}

/// Slots of the outputs, and how each is compared.
fn compared(program: &Program, reals: bool) -> Vec<(usize, Kind)> {
    let one = |&slot: &usize| (slot, if reals { Kind::Reals } else { loss::kind(&program.slots[slot].ty.dims) });
    program.compared.iter().map(one).collect()
}

/// Parts of a batch.
fn chunks(all: usize, size: usize) -> Vec<Range<usize>> {
    (0..all).step_by(size).map(|first| first..(first + size).min(all)).collect()
}

/// Refuses what has no derivative between a parameter and an output.
fn check_gradients(program: &Program, outputs: &[(usize, Kind)]) -> Result<(), Diag> {
    let mut needed = vec![false; program.slots.len()];
    outputs.iter().for_each(|&(slot, _)| needed[slot] = true);
    for (i, step) in program.steps.iter().enumerate().rev() {
        if !needed[program.schedule.result(i)] || !program.slots[program.schedule.result(i)].trained {
            continue;
        }
        let reads = step.operands.iter().filter_map(|o| match o {
            crate::program::Source::Slot(s) => Some(*s),
            crate::program::Source::Constant(_) => None,
        });
        for slot in reads {
            if program.slots[slot].trained && !step.kernel.has_gradient() {
                let message =
                    format!("`{}` has no derivative, and parameters that are trained lie before it", step.op.name());
                let diag = Diag::new(Code::UNSUPPORTED, message).at(program.schedule.name(i));
                return Err(diag.help("cut the model before it: --outputs"));
            }
            needed[slot] = true;
        }
    }
    Ok(())
}
