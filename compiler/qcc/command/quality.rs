//! What a calibrated compilation ends with: how near the result is to the float model, and what to do where that is not near enough.

use std::path::Path;

use clap::Args;
use qcc::compare::{CompareOptions, Comparison, Engine, compare};
use qcc::cost::multiply_accumulates;
use qcc::data::{Dataset, spread};
use qcc::passes::Samples as _;
use qcc::{Calibration, Compiled, Error, Options};

use super::flags::Switch;
use super::{progress, terminal};

/// Agreement, in percent, below which there is a warning.
const AGREEMENT: f64 = 95.0;

/// Signal-to-noise ratio in decibels below which there is a warning.
const SQNR: f64 = 20.0;

/// Samples that the result is measured on, at most.
const SAMPLES: usize = 64;

/// Multiply-accumulates of a call from which on a quarter of the samples has to do.
const LARGE: u64 = 1 << 30;

/// Samples from which on an agreement below the level is no chance.
const ENOUGH: usize = 32;

/// Multiply-accumulates of a call up to which it is measured on synthesized inputs.
const SMALL: u64 = 1 << 28;

/// How many of them.
const SYNTHESIZED: usize = 4;

/// The ratio that stands for noise without bound.
const UNBOUNDED: f64 = -300.0;

/// Samples where the model is compiled for another machine, and interpreted, or is to be run at once.
const INTERPRETED: usize = 8;

/// Whether a compilation says how good it is.
#[derive(Args)]
#[command(next_help_heading = "Accuracy")]
pub struct QualityFlags {
    /// With --calibrate or --data: say at the end how near the model is to the float one, over at most 64 samples, and warn of an
    /// agreement below 95 %, or an SQNR below 20 dB. Without samples: warn of an SQNR below 20 dB on
    /// synthesized inputs, for models of at most 268 million multiply-accumulates
    #[arg(long, value_enum, default_value = "on", value_name = "on|off")]
    quality: Switch,
}

/// Measures a model that was compiled to be run at once by `engine`, and warns if little is left of it.
pub fn warn_of_little(compiled: &Compiled, options: &Options, engine: &Engine) {
    let integer = qcc::ir::check_level(compiled.graph(), qcc::ir::Level::Int).is_ok();
    if integer && let Err(error) = measure(compiled, options, None, Some(engine)) {
        terminal::warn(&format!("how good the model is could not be measured: {error}"));
    }
}

impl QualityFlags {
    /// Measures a compiled model and says what was found. The model is there: what keeps it from being measured is no error.
    pub fn report(&self, compiled: &Compiled, options: &Options, data: Option<&Path>) {
        let integer = qcc::ir::check_level(compiled.graph(), qcc::ir::Level::Int).is_ok();
        if self.quality == Switch::On
            && integer
            && let Err(error) = measure(compiled, options, data, None)
        {
            terminal::warn(&format!("how good the model is could not be measured: {error}"));
        }
    }
}

/// Without samples: what is lost on synthesized ones, said only where it is much. They are not what the model was trained with; but
/// what computes little of them right does so of nothing.
fn measure_unseen(compiled: &Compiled, options: &Options, work: u64, engine: Option<&Engine>) -> Result<(), Error> {
    if options.ranges.is_some() || work > SMALL || compiled.source_is_quantized() {
        return Ok(());
    }
    let ranges = qcc::declared_ranges(compiled.source(), options)?;
    let dataset = Dataset::synthesized(compiled.source(), &ranges, SYNTHESIZED);
    let how = CompareOptions { threads: options.threads, ..CompareOptions::default() };
    let result = compared(compiled, engine, &dataset, &how)?;
    // A float model that gives no finite numbers there says nothing.
    if let Some(db) = result.sqnr_db.filter(|db| (UNBOUNDED + 1.0..SQNR).contains(db)) {
        terminal::warn(&format!(
            "the SQNR is {db:.1} dB on synthesized inputs: give samples (--calibrate) to find ranges with, and to see how good the model is"
        ));
    }
    Ok(())
}

/// A model that is to be run at once has its `engine`: few samples, and warnings alone.
fn measure(compiled: &Compiled, options: &Options, data: Option<&Path>, engine: Option<&Engine>) -> Result<(), Error> {
    let work: u64 = compiled.source().order().iter().map(|&n| multiply_accumulates(compiled.source(), n)).sum();
    let Some((dataset, which)) = samples(compiled, options, data)? else {
        return measure_unseen(compiled, options, work, engine);
    };
    let most = match (compiled.codegen_options().target.runs_here(), work) {
        _ if engine.is_some() => INTERPRETED,
        (false, _) => INTERPRETED,
        (true, LARGE..) => SAMPLES / 4,
        (true, _) => SAMPLES,
    };
    let calls = spread(dataset.len(), most.div_ceil(dataset.batch().max(1)));
    let dataset = dataset.only(calls);
    let how = CompareOptions { threads: options.threads, progress: progress::progress(), ..CompareOptions::default() };
    let result = compared(compiled, engine, &dataset, &how)?;
    if engine.is_none() {
        terminal::note(&format!("quality: {} on {} {which}", figures(&result), counted(result.samples)));
    }
    if let Some(what) = shortfall(&result) {
        terminal::warn(&what);
    }
    Ok(())
}

/// Compares by the engine that there is, or one for this alone.
fn compared(
    compiled: &Compiled,
    engine: Option<&Engine>,
    dataset: &Dataset,
    how: &CompareOptions,
) -> Result<Comparison, Error> {
    match engine {
        Some(engine) => compare(compiled, engine, dataset, how),
        None => compare(compiled, &Engine::measuring(compiled)?, dataset, how),
    }
}

/// The samples to measure with, and how they stand to those that the model was calibrated with.
fn samples(
    compiled: &Compiled,
    options: &Options,
    data: Option<&Path>,
) -> Result<Option<(Dataset, &'static str)>, Error> {
    let open = |path: &Path| Dataset::open(path, compiled.source(), options.preprocess.as_ref());
    if let Some(path) = data {
        return Ok(Some((open(path)?, "of --data")));
    }
    let Some(Calibration::Path(path)) = &options.calibration else { return Ok(None) };
    let dataset = open(path)?;
    let held_out = options.held_out(&dataset);
    Ok(Some(match held_out.is_empty() {
        true => (dataset, "that it was calibrated with"),
        false => (dataset.only(held_out), "that it was not calibrated with"),
    }))
}

fn figures(result: &Comparison) -> String {
    let sqnr = result.sqnr_db.map_or("no noise at all".to_string(), |db| format!("SQNR {db:.1} dB"));
    match result.agreement {
        Some(share) => format!("agreement {:.1} %, {sqnr}", 100.0 * share),
        None => sqnr,
    }
}

fn counted(samples: usize) -> String {
    if samples == 1 { "1 sample".to_string() } else { format!("{samples} samples") }
}

/// What falls short of the stated levels, and the flag that helps.
fn shortfall(result: &Comparison) -> Option<String> {
    let db = result.sqnr_db.unwrap_or(f64::INFINITY);
    let likely = result.agreement_interval.map_or(0.0, |(_, high)| high);
    let (what, flags) = match result.agreement {
        Some(share) if 100.0 * share < AGREEMENT && (result.samples >= ENOUGH || likely < AGREEMENT / 100.0) => {
            (format!("the agreement with the float model is below {AGREEMENT} %"), "--max-drop 1")
        }
        _ if db < SQNR => (format!("the SQNR is below {SQNR} dB"), "--max-drop 20 --metric sqnr"),
        _ => return None,
    };
    Some(format!("{what}: {flags} raises to 16 bits what does the most damage; qcc compare says where it is lost"))
}
