//! `qcc finetune`: trains the parameters of a model with its integer arithmetic.

mod external;
mod learning_curve;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use qcc::data::Dataset;
use qcc::finetune::train::recipe::{Defaults, Situation, recipe};
use qcc::finetune::train::{self, Augment, Event, Outcome, Plan, Rates, Rule, Score, Settings, Watch, Weights};
use qcc::finetune::{Teaches, write_checkpoint};
use qcc::ir::format::Role;
use qcc::{Calibration, Compiled, Diag, Error, Options, Source, check_places, header_place};

use super::flags::{ModelFlags, usage};
use super::{progress, terminal};

/// Samples that a model is calibrated with, where `--calibrate` names no others.
const CALIBRATION: usize = 512;

/// Time between checkpoints.
const INTERVAL: Duration = Duration::from_secs(60);

/// Longest checkpoint that is read.
const CHECKPOINT: u64 = 64 << 30;

/// Fine-tune a model: train its parameters with the integer arithmetic that is deployed.
#[derive(Args)]
pub struct Finetune {
    /// Float model: .onnx, or .qir
    model: PathBuf,
    /// Samples to learn from: .npy, .npz, image, list or folder [default: those of --calibrate]
    #[arg(long, value_name = "SAMPLES")]
    data: Option<PathBuf>,
    /// Their classes: .npy or .npz [default: as the samples have them]
    #[arg(long, value_name = "LABELS")]
    labels: Option<PathBuf>,
    #[arg(long, default_value = "distill", help = recipes())]
    recipe: String,
    /// Another float network that teaches, with the same inputs and outputs [default: the model itself]
    #[arg(long, value_name = "MODEL")]
    teacher: Option<PathBuf>,
    /// How `apprentice` learns: a (the weights are drawn anew, and the teacher learns too, from labels), b (the weights are drawn anew), c (the weights are those of
    /// the calibrated model) [default: c]
    #[arg(long, value_name = "SCHEME", value_parser = ["a", "b", "c"])]
    scheme: Option<String>,
    /// Times that every sample is seen [default: as the recipe says]
    #[arg(long, value_name = "N")]
    epochs: Option<usize>,
    /// Samples of a step [default: as the recipe says]
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Rule of steps: adam, sgd [default: as the recipe says]
    #[arg(long, value_name = "RULE")]
    optimizer: Option<Rule>,
    /// Greatest rate of weights and biases; with adam in units of the root mean square of a channel's weights [default: as the recipe says]
    #[arg(long, value_name = "RATE")]
    rate: Option<f64>,
    /// Greatest rate of the logarithms of scales; 0 leaves scales alone [default: as the recipe says]
    #[arg(long, value_name = "RATE")]
    scale_rate: Option<f64>,
    /// What is done to images, so that none is seen twice alike: flip, shift
    #[arg(long, value_name = "WHAT,..", value_delimiter = ',')]
    augment: Vec<String>,
    /// What outputs are compared by: scores (of one row of numbers the softmax, of others the distance), distance (the distance of all, as of coordinates)
    #[arg(long, default_value = "scores", value_name = "LOSS", value_parser = ["scores", "distance"])]
    loss: String,
    /// End after so many evaluations without a better one; 0 for never
    #[arg(long, default_value_t = 6, value_name = "N")]
    patience: usize,
    /// From which the order of samples follows, and what is done to images
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// File of the training's state, written every minute, at the end, and when it is interrupted [default: the output with the extension .train]
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// Go on from the checkpoint
    #[arg(long)]
    resume: bool,
    /// Also train with a 16th, an 8th, a quarter and a half of the samples, and say whether more data would help
    #[arg(long)]
    learning_curve: bool,
    /// Train nothing here: write a folder with the network and a program that trains it by PyTorch, on any number of machines
    #[arg(long, value_name = "DIR", conflicts_with_all = ["output", "resume", "learning_curve", "checkpoint"])]
    emit_trainer: Option<PathBuf>,
    /// File to write: .so, .qir, or .onnx with explicit casts
    #[arg(short, long, value_name = "FILE", required_unless_present = "emit_trainer")]
    output: Option<PathBuf>,
    /// Threads; 0 for one a core. The result does not depend on it
    #[arg(long, default_value_t = 0, value_parser = super::flags::threads)]
    threads: usize,
    #[command(flatten)]
    flags: ModelFlags,
}

/// The recipes in one line.
fn recipes() -> String {
    let rows: Vec<String> = train::recipe::RECIPES.iter().map(|r| format!("{} ({})", r.name, r.summary)).collect();
    format!("How to train: {}", rows.join(", "))
}

impl Finetune {
    /// Does it.
    pub fn execute(&self) -> Result<(), Error> {
        self.check()?;
        let mut options = self.flags.options(self.threads)?;
        let data = self.dataset(&mut options)?;
        let situation = Situation { labels: data.labels().is_some(), bits: bits(&options) };
        let (plan, settings) = self.settings(situation)?;
        let stem = self.output().file_stem().map(|s| s.to_string_lossy().into_owned());
        options.name = stem;
        let teaches = self.teaches()?;
        if self.recipe == "apprentice" && data.labels().is_none() {
            terminal::note("no labels: the teacher alone teaches; with --labels they have half of the loss");
        }
        let mut training = qcc::finetune::Finetune::new(self.model.as_path(), &options, data, plan, settings, teaches)?;
        super::announce::announce(training.compiled());
        describe(&training);
        if let Some(folder) = &self.emit_trainer {
            return external::write(folder, training);
        }
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            // A second one ends the process at once.
            let ends = signal_hook::flag::register_conditional_default(signal, interrupted.clone());
            let noted = ends.and_then(|_| signal_hook::flag::register(signal, interrupted.clone()));
            noted.map_err(|e| Error::new(qcc::ir::diag::Code::FLAGS, format!("cannot watch for signals: {e}")))?;
        }
        let mut outcomes = Vec::new();
        for &halvings in self.parts() {
            let outcome = self.train(&mut training, halvings, &interrupted)?;
            if outcome.interrupted {
                let error = Error::new(qcc::ir::diag::Code::INTERRUPTED, "interrupted");
                return Err(error.help("the same command with --resume goes on"));
            }
            outcomes.push(outcome);
        }
        if self.learning_curve {
            learning_curve::report(&outcomes);
        }
        let Some(outcome) = outcomes.pop() else { return Err(usage("nothing was trained")) };
        self.write(&training.finish(&outcome.network)?)?;
        // Points of the curve have no use without it.
        self.parts().iter().filter(|&&halvings| halvings > 0).for_each(|&halvings| {
            let _ = std::fs::remove_file(self.checkpoint(halvings));
        });
        Ok(())
    }

    /// The file to write, where something is trained.
    fn output(&self) -> &Path {
        self.output.as_deref().unwrap_or(Path::new(""))
    }

    /// How often samples are halved, for each of the trainings.
    fn parts(&self) -> &'static [u32] {
        if self.learning_curve { &learning_curve::PARTS } else { &[0] }
    }

    /// The file of the state of a training with a part of the samples.
    fn checkpoint(&self, halvings: u32) -> PathBuf {
        let whole = self.checkpoint.clone().unwrap_or_else(|| self.output().with_extension("train"));
        if halvings == 0 {
            return whole;
        }
        let mut name = whole.into_os_string();
        name.push(format!(".1-{}", 1u64 << halvings));
        name.into()
    }

    /// One training, from its checkpoint if that is asked for.
    fn train(
        &self,
        training: &mut qcc::finetune::Finetune,
        halvings: u32,
        interrupted: &Arc<AtomicBool>,
    ) -> Result<Outcome, Error> {
        let checkpoint = self.checkpoint(halvings);
        // Of a curve that was interrupted some trainings have no state yet.
        let begun = !self.learning_curve || checkpoint.exists();
        let resumed = match self.resume && begun {
            true => Some(qcc::reading::read(&checkpoint, "read the checkpoint", CHECKPOINT)?),
            false => None,
        };
        if self.learning_curve {
            terminal::note(&format!("learning from 1/{} of the samples", 1u64 << halvings));
        }
        let interrupted = interrupted.clone();
        let mut watcher =
            Watcher { interrupted, checkpoint, written: Instant::now(), seen: Score::default(), stop: false };
        let outcome = training.run_part(halvings, resumed.as_deref(), &mut watcher)?;
        conclude(&outcome);
        if outcome.interrupted {
            terminal::note(&format!("interrupted; the state is in {}", watcher.checkpoint.display()));
        }
        Ok(outcome)
    }

    /// Who teaches, by the scheme.
    fn teaches(&self) -> Result<Teaches, Error> {
        let scheme = self.scheme.as_deref();
        if scheme.is_some() && self.recipe != "apprentice" {
            return Err(
                usage("--scheme is one of --recipe apprentice").help("leave it out, or add --recipe apprentice")
            );
        }
        Ok(match self.teacher.as_deref().map(Source::from) {
            Some(teacher) if scheme == Some("a") => Teaches::Jointly(teacher),
            Some(teacher) => Teaches::Other(teacher),
            None => Teaches::Itself,
        })
    }

    /// Refuses outputs that are inputs, and a form in which nothing can be written.
    fn check(&self) -> Result<(), Error> {
        let mut read = self.flags.files();
        read.push(("the model", self.model.as_path()));
        read.extend(self.data.as_deref().map(|path| ("the samples", path)));
        read.extend(self.teacher.as_deref().map(|path| ("the teacher", path)));
        read.extend(self.labels.as_deref().map(|path| ("the labels", path)));
        if let Some(folder) = &self.emit_trainer {
            return external::check(folder);
        }
        let extension = self.output().extension().map(|e| e.to_string_lossy().into_owned());
        let header = match extension.as_deref() {
            Some("so") => header_place(self.output())?,
            Some("onnx" | "qir") => None,
            _ => {
                let error =
                    usage(format!("{}: the output's extension does not say what to write", self.output().display()));
                return Err(error.help("use .so, .onnx or .qir"));
            }
        };
        let checkpoints: Vec<PathBuf> = self.parts().iter().map(|&halvings| self.checkpoint(halvings)).collect();
        let mut written = vec![("--output", self.output())];
        written.extend(checkpoints.iter().map(|path| ("--checkpoint", path.as_path())));
        written.extend(header.as_deref().map(|path| ("the C header", path)));
        self.flags.warn();
        check_places(&read, &written)
    }

    /// The samples that are learned from. They also calibrate, where no others do.
    fn dataset(&self, options: &mut Options) -> Result<Dataset, Error> {
        let path = match (&self.data, &options.calibration) {
            (Some(data), _) => data.clone(),
            (None, Some(Calibration::Path(path))) => path.clone(),
            (None, _) => {
                return Err(
                    usage("there are no samples to learn from").help("add --calibrate SAMPLES, or --data SAMPLES")
                );
            }
        };
        let float = Source::from(self.model.as_path()).load(options)?;
        let data = Dataset::open(&path, &float, options.preprocess.as_ref())?;
        if options.calibration.is_none() {
            options.calibration = Some(Calibration::Path(path));
            options.samples.get_or_insert(CALIBRATION);
        } else if self.data.is_none() {
            // All of them are learned from, and none need be spared.
            options.samples.get_or_insert(data.samples());
        }
        if self.learning_curve && data.samples() < learning_curve::LEAST {
            let message = format!("--learning-curve: {} samples, and the smallest part is a 16th", data.samples());
            return Err(usage(message).help(format!("give at least {}", learning_curve::LEAST)));
        }
        match &self.labels {
            Some(labels) => data.with_labels(labels),
            None => Ok(data),
        }
    }

    /// What the flags say, and elsewhere the recipe.
    fn settings(&self, situation: Situation) -> Result<(Plan, Settings), Error> {
        let recipe = recipe(&self.recipe).map_err(|e| usage(format!("--recipe: {e}")))?;
        if recipe.needs_teacher && self.teacher.is_none() {
            let error = usage(format!("--recipe {}: another network teaches, and there is none", recipe.name));
            return Err(error.help("add --teacher MODEL"));
        }
        let defaults: Defaults = (recipe.defaults)(situation);
        let positive = |flag: &str, given: Option<usize>, usual: usize| match given.unwrap_or(usual) {
            0 => Err(usage(format!("{flag}: 0 trains nothing"))),
            n => Ok(n),
        };
        let rate = |flag: &str, given: Option<f64>, usual: f64| match given.unwrap_or(usual) {
            rate if (0.0..1.0).contains(&rate) => Ok(rate),
            rate => Err(usage(format!("{flag}: {rate} is no rate from 0 to 1"))),
        };
        let mut augment = Augment::default();
        for what in &self.augment {
            match what.as_str() {
                "flip" => augment.flip = true,
                "shift" => augment.shift = true,
                _ => return Err(usage(format!("--augment: `{what}` is none of flip, shift"))),
            }
        }
        let plan = Plan {
            epochs: positive("--epochs", self.epochs, defaults.epochs)?,
            batch: positive("--batch", self.batch, defaults.batch)?,
            seed: self.seed,
            augment,
            patience: self.patience,
            scheme: defaults.scheme,
            halvings: 0,
            measures: self.learning_curve,
            from_scratch: matches!(self.scheme.as_deref(), Some("a" | "b")),
        };
        let rates = Rates {
            weights: rate("--rate", self.rate, defaults.rates.weights)?,
            scales: rate("--scale-rate", self.scale_rate, defaults.rates.scales)?,
        };
        let weights: Weights = defaults.weights;
        let rule = self.optimizer.unwrap_or(defaults.rule);
        Ok((plan, Settings { rule, rates, weights, reals: self.loss == "distance", threads: self.threads }))
    }

    fn write(&self, compiled: &Compiled) -> Result<(), Error> {
        progress::report("code", 0, 0);
        match self.output().extension().and_then(|e| e.to_str()) {
            Some("so") => compiled.write_so(self.output()),
            Some("onnx") => compiled.write_onnx_qdq(self.output(), false),
            _ => compiled.write_text(self.output()),
        }
    }
}

/// Fewest bits that weights or values are to have.
fn bits(options: &Options) -> u32 {
    let overall = [(options.overall.weights, Role::Weights), (options.overall.activations, Role::Values)];
    let overall = overall.into_iter().filter_map(|(precision, role)| precision?.format(role));
    let named = options.precision.values().filter_map(|p| p.format(Role::Weights).or_else(|| p.format(Role::Values)));
    overall.chain(named).map(|format| format.bits()).min().unwrap_or(8)
}

/// Says what will be trained, and what it takes.
fn describe(training: &qcc::finetune::Finetune) {
    let trainer = training.trainer();
    let network = trainer.network();
    let weights: usize = network.layers.iter().map(|l| l.shadows.len()).sum();
    let text = format!(
        "training {} layers with {weights} weights and {} scales of values; a step takes at most {:.0} MB beside the samples",
        network.layers.len(),
        network.scales.len(),
        training.memory() as f64 / 1e6
    );
    terminal::note(&text);
    if let Some(classes) = trainer.classes() {
        terminal::note(&format!(
            "an output of {classes} numbers is compared as the scores of classes; if it is none, say --loss distance"
        ));
    }
}

/// A score in words.
fn words(score: &Score) -> String {
    let share =
        |what: &str, share: Option<f64>| share.map(|s| format!(", {what} {:.2} %", 100.0 * s)).unwrap_or_default();
    let (agreement, accuracy) = (share("agreement", score.agreement()), share("top-1", score.accuracy()));
    format!("loss {:.5}{agreement}{accuracy}", score.mean_loss())
}

/// Says what came out.
fn conclude(outcome: &Outcome) {
    let held = outcome.start.samples;
    terminal::note(&format!("held out, {held} samples, before: {}", words(&outcome.start)));
    if outcome.best_step == 0 {
        terminal::note("nothing that training found is better on what is held out: the model stays as it was");
    } else {
        terminal::note(&format!(
            "held out, after step {} of {}: {}",
            outcome.best_step,
            outcome.steps,
            words(&outcome.best)
        ));
    }
}

/// Shows how training goes, and writes checkpoints.
struct Watcher {
    interrupted: Arc<AtomicBool>,
    checkpoint: PathBuf,
    written: Instant,
    /// Of the last steps.
    seen: Score,
    stop: bool,
}

impl Watch for Watcher {
    fn event(&mut self, event: &Event) -> ControlFlow<()> {
        match *event {
            Event::Step(step, all, score) => {
                self.seen = self.seen.and(score);
                progress::report("finetune", step, all);
            }
            Event::Evaluated { step, score, flipped, integers, best } => {
                let flips = 100.0 * flipped as f64 / integers.max(1) as f64;
                let seen = words(&std::mem::take(&mut self.seen));
                let mark = if best { "; best so far" } else { "" };
                terminal::note(&format!(
                    "step {step}: seen {seen}; held out {}; {flips:.2} % of the integers changed{mark}",
                    words(&score)
                ));
            }
        }
        self.stop = self.interrupted.load(Ordering::Relaxed);
        if self.stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn checkpoint(&mut self, state: &dyn Fn() -> train::Checkpoint, ends: bool) -> Result<(), Diag> {
        if ends || self.written.elapsed() >= INTERVAL {
            self.written = Instant::now();
            let one = |error: Error| {
                error
                    .diags()
                    .first()
                    .cloned()
                    .unwrap_or_else(|| Diag::new(qcc::ir::diag::Code::FILE, "cannot write the checkpoint"))
            };
            write_checkpoint(&self.checkpoint, &state()).map_err(one)?;
        }
        Ok(())
    }
}
