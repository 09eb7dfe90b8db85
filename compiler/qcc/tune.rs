//! Choices for single layers by measurement, where the planner has only estimates.
//!
//! Every candidate of every layer is compiled into a program of its own once: program `k` takes the `k`-th choice of each layer.
//! A choice that beats the estimate's in one round must do so in a second one, in which estimate and choices run in turn.

use std::collections::BTreeMap;
use std::path::Path;

use qcc_codegen::emit::jit::{self, Jit};
use qcc_codegen::program::TaskInfo;
use qcc_codegen::program::tuning::{Choice, Tuning};
use qcc_ir::Diag;
use qcc_ir::diag::Code;
use qcc_runtime::{Tensor, TensorRef};

use crate::{Compiled, Error, bench, files, reading};

/// Runs behind the median time of a task.
const ROUNDS: usize = 15;

/// A choice is kept if the task takes at most this share of its time without it.
const BETTER: f64 = 0.98;

impl Compiled {
    /// Measures what the estimates might have chosen otherwise in each layer, and keeps what is faster here; returns it. Given
    /// back as [`crate::Options::tuning`], it makes the same model on any machine.
    pub fn tune(&mut self) -> Result<&Tuning, Error> {
        self.check_integer()?;
        let tuning = measure(self)?;
        self.set_tuning(&tuning);
        Ok(&self.codegen_options().tuning)
    }
}

/// The choices that are faster on this machine, on one thread. The target must run here.
fn measure(compiled: &Compiled) -> Result<Tuning, Error> {
    let graph = compiled.graph();
    let program = |tuning: &Tuning| jit::compile(graph, &compiled.with_tuning(tuning)).map_err(Error::from);
    let given = compiled.codegen_options().tuning.clone();
    let base = program(&given)?;
    let before = times(&base)?;
    let layers: Vec<&TaskInfo> = base.tasks.iter().filter(|task| !task.choices.is_empty()).collect();
    let most = layers.iter().map(|task| task.choices.len()).max().unwrap_or(0);
    let time_of = |times: &BTreeMap<String, f64>, task: &TaskInfo| times.get(&task.name).copied().unwrap_or(f64::MAX);
    let mut best: Vec<(f64, Option<Choice>)> =
        layers.iter().map(|task| (BETTER * time_of(&before, task), None)).collect();
    for k in 0..most {
        let chosen = |task: &&TaskInfo| Some((task.name.clone(), *task.choices.get(k)?));
        let mut tuning = given.clone();
        tuning.extend(layers.iter().filter_map(chosen));
        let times = times(&program(&tuning)?)?;
        for (best, task) in best.iter_mut().zip(&layers) {
            let time = time_of(&times, task);
            if let Some(&choice) = task.choices.get(k).filter(|_| time < best.0) {
                *best = (time, Some(choice));
            }
        }
    }
    let kept = |(task, best): (&&TaskInfo, &(f64, Option<Choice>))| Some((task.name.clone(), best.1?));
    let mut tuning = given.clone();
    tuning.extend(layers.iter().zip(&best).filter_map(kept));
    if tuning == given {
        return Ok(given);
    }
    let tuned = program(&tuning)?;
    let (before, after) = (times(&base)?, times(&tuned)?);
    for task in layers {
        if time_of(&after, task) > BETTER * time_of(&before, task) {
            match given.get(&task.name) {
                Some(&choice) => tuning.insert(task.name.clone(), choice),
                None => tuning.remove(&task.name),
            };
        }
    }
    Ok(tuning)
}

/// Seconds of what computes each value: a choice may take a task more, or one less.
fn times(program: &Jit) -> Result<BTreeMap<String, f64>, Error> {
    let inputs = bench::inputs(&program.model);
    let views: Vec<TensorRef> = inputs.iter().map(Tensor::view).collect();
    let times = program.profile(&views, ROUNDS, None).map_err(|e| Error::new(Code::DATA, e.to_string()))?;
    let mut sums = BTreeMap::new();
    for (task, time) in program.tasks.iter().zip(times) {
        *sums.entry(task.name.clone()).or_insert(0.0) += time.as_secs_f64();
    }
    Ok(sums)
}

/// Reads choices that [`save_tuning`] wrote, or that a model's manifest holds.
pub fn load_tuning(path: &Path) -> Result<Tuning, Error> {
    let fault = |code, why: String| Error::from(Diag::new(code, why).in_file(path.display().to_string()));
    let bytes = reading::bounded(path, reading::TEXT).map_err(|e| fault(Code::FILE, format!("cannot be read: {e}")))?;
    serde_json::from_slice(&bytes).map_err(|e| fault(Code::FLAGS, format!("no choices for layers: {e}")))
}

/// Writes choices, to be given back.
pub fn save_tuning(tuning: &Tuning, path: &Path) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(tuning).unwrap_or_default();
    files::write(path, format!("{text}\n").as_bytes())
}
