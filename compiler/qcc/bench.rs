//! How fast a model runs, and how near that is to the machine's limit.
//!
//! The limit is measured in the same process, in slices between the runs, and both figures are medians, so that a change of
//! the clock frequency or a neighbour on the same core falls on both alike.

use std::io::BufRead;
use std::time::{Duration, Instant};

use qcc_codegen::Target;
use qcc_codegen::emit::peak::Peak;
use qcc_ir::diag::Code;
use qcc_runtime::info::real_tensors;
use qcc_runtime::manifest::Step;
use qcc_runtime::{DType, Model, Pool, RunError, Session, Tensor, TensorRef};
use serde::Serialize;

use crate::Error;
use crate::engine::Io;

mod layers;
mod peers;

pub use layers::{TaskProfile, profile};
pub use peers::{PeerResult, peers};

/// Least duration of one measurement of the limit.
const PEAK_TIME: Duration = Duration::from_millis(2);

/// Runs of this length leave no trace of what was in the caches before them.
const LONG_RUN: Duration = Duration::from_millis(500);

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measurement {
    /// Median time of a run in milliseconds.
    pub median_ms: f64,
    /// Least time of a run in milliseconds.
    pub min_ms: f64,
    /// Runs measured.
    pub runs: usize,
    /// Threads used.
    pub threads: usize,
    /// Multiply-accumulates of a run.
    pub macs: u64,
    /// Multiply-accumulates a second, in thousand millions.
    pub gmacs_per_s: f64,
    /// The most that multipliers allow: what a loop of nothing but multiplications in registers reaches on as many threads, in the median of its slices.
    /// Each layer counts with the multiplications that it does, which are fewer than its multiply-accumulates in a form of fewer and where padding is
    /// left out, and with the loop of its kind of sums.
    pub peak_gmacs_per_s: f64,
    /// The rates of both loops, of sums in 32 bits and in 16.
    #[serde(skip)]
    pub peaks: Peaks,
    /// The best slice.
    pub peak_best_gmacs_per_s: f64,
    /// The ratio of the two.
    pub peak_fraction: f64,
    /// From the file to the first result, in milliseconds.
    pub load_ms: f64,
    /// Greatest memory of the process so far, in units of 10^6 bytes.
    pub peak_rss_mb: Option<f64>,
}

/// Rates of the loops of nothing but multiplications, in thousand millions a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Peaks {
    /// Of dots that sum in 32 bits.
    pub dots: f64,
    /// Of sums in 16 bits; where the target has none, that of dots.
    pub i16_sums: f64,
}

impl Peaks {
    /// The rate for a step that sums the products of so many steps in 16 bits.
    pub fn of(&self, i16_steps: u32) -> f64 {
        if i16_steps > 0 { self.i16_sums } else { self.dots }
    }
}

/// A model with everything that a run takes, to be run again and again.
pub struct Subject<'m> {
    session: Session<'m>,
    io: Io,
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
    /// Time that making the inputs took, which is no part of loading.
    making: Duration,
}

impl<'m> Subject<'m> {
    /// Memory and inputs for runs on integers or, where the model has a float interface, on real numbers.
    pub fn new(model: &'m Model, pool: &'m Pool, io: Io) -> Result<Subject<'m>, Error> {
        let session = model.session();
        let session = if pool.threads() > 1 { session.with_pool(pool) } else { session };
        let begin = Instant::now();
        let inputs = match io {
            Io::Int => inputs(model),
            Io::Float => real_tensors(model.inputs()).iter().map(|i| reals(&i.dims)).collect::<Result<_, _>>()?,
        };
        let making = begin.elapsed();
        let views: Vec<TensorRef> = inputs.iter().map(Tensor::view).collect();
        let mut session = session;
        let outputs = match io {
            Io::Int => session.run(&views),
            Io::Float => session.run_f32(&views),
        };
        Ok(Subject { session, io, outputs: outputs.map_err(fail)?, inputs, making })
    }

    /// Runs once and says how long it took.
    pub fn run(&mut self) -> Result<Duration, Error> {
        let views: Vec<TensorRef> = self.inputs.iter().map(Tensor::view).collect();
        let start = Instant::now();
        let done = match self.io {
            Io::Int => self.session.run_into(&views, &mut self.outputs),
            Io::Float => self.session.run_f32_into(&views, &mut self.outputs),
        };
        let time = start.elapsed();
        done.map_err(fail).map(|()| time)
    }
}

fn fail(error: RunError) -> Error {
    Error::new(Code::DATA, error.to_string())
}

/// A pool of threads for measurements, 0 for one a core.
pub fn pool(threads: usize) -> Result<Pool, Error> {
    Pool::new(threads).map_err(|e| Error::new(Code::TARGET, format!("cannot start threads: {e}")))
}

/// Next number of a fixed sequence.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 40
}

/// Real numbers from a fixed sequence, between -2 and 2.
fn reals(dims: &[usize]) -> Result<Tensor, Error> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let values: Vec<f32> =
        (0..dims.iter().product()).map(|_| next(&mut state) as f32 / (1 << 22) as f32 - 2.0).collect();
    Tensor::from_slice(dims, &values).ok_or_else(|| Error::new(Code::DATA, format!("no tensor of shape {dims:?}")))
}

/// Inputs of stored integers from a fixed sequence: the time of integer code does not depend on them.
pub fn inputs(model: &Model) -> Vec<Tensor> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let fill = |info: &qcc_runtime::TensorInfo| {
        let mut tensor = Tensor::zeros(info.dtype, &info.dims);
        // Indices of plain integer inputs stay 0, which is always within range.
        if matches!(info.dtype, DType::U8 | DType::I8) {
            for byte in tensor.bytes_mut() {
                *byte = (next(&mut state) >> 16) as u8;
            }
        }
        tensor
    };
    model.inputs().iter().map(fill).collect()
}

/// Measures runs for about `time`, and the limit of the instruction set that the model is made for. `started` is when loading began.
pub fn measure(model: &Model, threads: usize, io: Io, time: Duration, started: Instant) -> Result<Measurement, Error> {
    let pool = pool(threads)?;
    let mut subject = Subject::new(model, &pool, io)?;
    let load = started.elapsed().saturating_sub(subject.making);
    let level = Target::with_features(model.info().cpu_features).filter(Target::runs_here);
    let target = level.unwrap_or_else(Target::native);
    let peak = Peak::new(target)?;
    let limit = Limit::new(&peak, &pool);
    let work = Work::of(model);
    let peak_of_sums = if work.i16_sums > 0.0 { Peak::of_i16_sums(target)? } else { None };
    let limit_of_sums = peak_of_sums.as_ref().map(|peak| Limit::new(peak, &pool));
    let (mut times, mut peaks, mut of_sums) = (Vec::new(), Vec::new(), Vec::new());
    let (begin, mut since) = (Instant::now(), Duration::ZERO);
    while begin.elapsed() < time || peaks.is_empty() {
        let once = subject.run()?;
        since += once;
        times.push(once.as_secs_f64() * 1e3);
        // As much time for the limit as for runs that are short, one slice a run for longer ones.
        if since >= PEAK_TIME {
            peaks.push(limit.slice());
            of_sums.extend(limit_of_sums.as_ref().map(Limit::slice));
            since = Duration::ZERO;
        }
    }
    let (median_ms, dots) = (median(&mut times), median(&mut peaks));
    let i16_sums = if of_sums.is_empty() { dots } else { median(&mut of_sums) };
    let together = |dots: f64, i16_sums: f64| 1.0 / (work.dots / dots + work.i16_sums / i16_sums);
    let limit = together(dots, i16_sums);
    let best = |slices: &[f64], otherwise: f64| slices.last().copied().unwrap_or(otherwise);
    let macs = model.info().macs;
    let rate = macs as f64 / median_ms / 1e6;
    Ok(Measurement {
        median_ms,
        min_ms: times.first().copied().unwrap_or(0.0),
        runs: times.len(),
        threads: pool.threads(),
        macs,
        gmacs_per_s: rate,
        peak_gmacs_per_s: limit,
        peaks: Peaks { dots, i16_sums },
        peak_best_gmacs_per_s: together(best(&peaks, dots), best(&of_sums, best(&peaks, dots))),
        peak_fraction: rate / limit,
        load_ms: load.as_secs_f64() * 1e3,
        peak_rss_mb: peak_rss_mb(),
    })
}

/// Multiplications that a model really does, of each kind of sums, for one of its multiply-accumulates.
struct Work {
    dots: f64,
    i16_sums: f64,
}

impl Work {
    fn of(model: &Model) -> Work {
        let steps = model.manifest().map_or(&[][..], |manifest| &manifest.steps);
        let macs = steps.iter().map(|step| step.macs).sum::<u64>() as f64;
        let products = |of: fn(&&Step) -> bool| steps.iter().filter(of).map(|step| step.products).sum::<u64>() as f64;
        match macs > 0.0 {
            true => {
                Work { dots: products(|s| s.i16_steps == 0) / macs, i16_sums: products(|s| s.i16_steps > 0) / macs }
            }
            false => Work { dots: 1.0, i16_sums: 0.0 },
        }
    }
}

/// Runs on request, for benchmarks that let several programs take turns: every line of `requests` is a number of
/// milliseconds to run for, and is answered by one line of JSON, `{"times_ms": [..]}`, after one run that is not counted
/// unless runs are long.
/// First comes `{"load_ms": .., "macs": ..}`, and last, when there are no more requests, `{"peak_rss_mb": ..}`.
pub fn take_turns(
    model: &Model,
    threads: usize,
    io: Io,
    started: Instant,
    requests: impl BufRead,
    mut answer: impl FnMut(&serde_json::Value) -> Result<(), Error>,
) -> Result<(), Error> {
    let pool = pool(threads)?;
    let mut subject = Subject::new(model, &pool, io)?;
    let load_ms = started.elapsed().saturating_sub(subject.making).as_secs_f64() * 1e3;
    let mut last = Duration::ZERO;
    answer(&serde_json::json!({"load_ms": load_ms, "macs": model.info().macs, "threads": pool.threads()}))?;
    for line in requests.lines() {
        let line = line.map_err(|e| Error::new(Code::DATA, format!("cannot read a request: {e}")))?;
        let ms = line.trim().parse::<f64>().ok().and_then(|ms| Duration::try_from_secs_f64(ms / 1e3).ok());
        let turn = ms.ok_or_else(|| Error::new(Code::DATA, format!("expected milliseconds, found `{line}`")))?;
        if last < LONG_RUN {
            subject.run()?;
        }
        let (begin, mut times) = (Instant::now(), Vec::new());
        while times.is_empty() || begin.elapsed() < turn {
            last = subject.run()?;
            times.push(last.as_secs_f64() * 1e3);
        }
        answer(&serde_json::json!({"times_ms": times}))?;
    }
    answer(&serde_json::json!({"peak_rss_mb": peak_rss_mb()}))
}

/// The loop of nothing but multiplications, in slices of [`PEAK_TIME`] on all threads of a pool.
struct Limit<'a> {
    peak: &'a Peak,
    pool: &'a Pool,
    iterations: usize,
}

impl Limit<'_> {
    fn new<'a>(peak: &'a Peak, pool: &'a Pool) -> Limit<'a> {
        let mut limit = Limit { peak, pool, iterations: 1 << 8 };
        while limit.time() < PEAK_TIME {
            limit.iterations *= 2;
        }
        limit
    }

    fn time(&self) -> Duration {
        let start = Instant::now();
        self.pool.for_each(self.pool.threads(), |part| part.for_each(|_| _ = self.peak.run(self.iterations)));
        start.elapsed()
    }

    /// Thousand millions of multiply-accumulates a second.
    fn slice(&self) -> f64 {
        let macs = self.peak.run(1) as f64 * self.iterations as f64 * self.pool.threads() as f64;
        macs / self.time().as_secs_f64() / 1e9
    }
}

/// Sorts, and takes the middle.
fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// The high-water mark that Linux keeps; nothing elsewhere.
fn peak_rss_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024.0 / 1e6)
}
