//! Where the time of a program goes, and what keeps each of its tasks from being faster.
//!
//! For each task four least times follow from what it has to do and from what the machine was measured to do:
//!
//! | bound | least time |
//! |---|---|
//! | compute | the multiplications that it does, of products in a form of fewer these, at the measured rate of the dot, or of sums in 16 bits where the task has them |
//! | weights | bytes of constants at the measured rate of reading as many bytes as the whole model's |
//! | activations | bytes read and written at the measured rate of reading as many |
//! | epilogue | results, each with [`EPILOGUE_MACS`], at the rate of the dot instruction |
//!
//! The greatest of them bounds the task; what is missing to it is the kernel's fault.

use std::hint::black_box;
use std::time::{Duration, Instant};

use qcc_codegen::emit::jit::Jit;
use qcc_codegen::program::TaskInfo;
use qcc_runtime::{Tensor, TensorRef};
use serde::Serialize;

use super::{Peaks, fail, inputs, median, pool};
use crate::Error;

/// Requantization takes 6.5 vector operations for a vector of accumulators, in the time of each of which the dot instruction
/// does four multiplications a lane.
const EPILOGUE_MACS: f64 = 6.5 * 4.0;

/// How long each rate of reading is measured.
const READ_TIME: Duration = Duration::from_millis(10);

/// Most bytes whose reading is measured.
const MOST_BYTES: usize = 128 << 20;

/// One task of a program.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TaskProfile {
    /// Value that it computes.
    pub name: String,
    /// Kernel with its parameters.
    pub kernel: String,
    /// Median time in milliseconds.
    pub ms: f64,
    /// Multiply-accumulates.
    pub macs: u64,
    /// Multiply-accumulates a second, in thousand millions.
    pub gmacs_per_s: f64,
    /// Steps whose products are summed in 16 bits; 0 where sums have 32.
    pub i16_steps: u32,
    /// Multiplications that it really does.
    pub products: u64,
    /// Their rate as a share of the measured limit, that of its own kind of sums.
    pub peak_fraction: f64,
    /// Bytes of constants read.
    pub weight_bytes: u64,
    /// Bytes of activations read, each once.
    pub input_bytes: u64,
    /// Bytes written.
    pub output_bytes: u64,
    /// Multiply-accumulates for each byte read or written.
    pub intensity: f64,
    /// What bounds it: `compute`, `weights`, `activations` or `epilogue`.
    pub bound: &'static str,
    /// The least time by that bound, as a share of the time taken.
    pub bound_fraction: f64,
}

/// Measures every task of a program on its own, over `rounds` runs, against the limits `peaks`.
pub fn profile(program: &Jit, threads: usize, rounds: usize, peaks: Peaks) -> Result<Vec<TaskProfile>, Error> {
    let pool = pool(threads)?;
    let inputs = inputs(&program.model);
    let views: Vec<TensorRef> = inputs.iter().map(Tensor::view).collect();
    let threads = pool.threads();
    let times = program.profile(&views, rounds, (threads > 1).then_some(&pool)).map_err(fail)?;
    let constants: u64 = program.tasks.iter().map(|t| t.weight_bytes).sum();
    let machine = Machine { peaks, threads: threads as f64, weights: read_rate(constants as usize) };
    Ok(program.tasks.iter().zip(times).map(|(task, time)| machine.judge(task, time)).collect())
}

/// What the machine was measured to do.
struct Machine {
    /// On all threads.
    peaks: Peaks,
    threads: f64,
    /// Bytes a second of reading the constants of the model one after another, on one thread.
    weights: f64,
}

impl Machine {
    fn judge(&self, task: &TaskInfo, time: Duration) -> TaskProfile {
        let seconds = time.as_secs_f64().max(1e-9);
        let activations = task.input_bytes + task.output_bytes;
        let peak = self.peaks.of(task.i16_steps);
        let compute = |macs: f64| macs / (peak * 1e9);
        // The sum of a multiplication ends in an epilogue only where it is requantized at once.
        let results = if task.macs > 0 { task.output_bytes as f64 } else { 0.0 };
        let bounds = [
            ("compute", compute(task.products as f64)),
            ("weights", task.weight_bytes as f64 / (self.weights * self.threads)),
            ("activations", activations as f64 / (read_rate(activations as usize) * self.threads)),
            ("epilogue", compute(results * EPILOGUE_MACS)),
        ];
        let (bound, least) = bounds.into_iter().fold(("compute", 0.0), |a, b| if b.1 > a.1 { b } else { a });
        let rate = task.macs as f64 / seconds / 1e9;
        TaskProfile {
            name: task.name.clone(),
            kernel: task.kernel.clone(),
            ms: seconds * 1e3,
            macs: task.macs,
            gmacs_per_s: rate,
            i16_steps: task.i16_steps,
            products: task.products,
            peak_fraction: task.products as f64 / seconds / 1e9 / peak,
            weight_bytes: task.weight_bytes,
            input_bytes: task.input_bytes,
            output_bytes: task.output_bytes,
            intensity: task.macs as f64 / (task.weight_bytes + activations).max(1) as f64,
            bound,
            bound_fraction: least / seconds,
        }
    }
}

/// Bytes a second of reading `bytes` again and again on one thread. Sizes are rounded up to powers of two, each of which is
/// measured once in a process.
fn read_rate(bytes: usize) -> f64 {
    static RATES: std::sync::Mutex<Vec<(usize, f64)>> = std::sync::Mutex::new(Vec::new());
    let size = bytes.clamp(1 << 12, MOST_BYTES).next_power_of_two();
    let mut rates = RATES.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some((_, rate)) = rates.iter().find(|(known, _)| *known == size) {
        return *rate;
    }
    let rate = measure_read(size);
    rates.push((size, rate));
    rate
}

fn measure_read(bytes: usize) -> f64 {
    const LANES: usize = 16;
    let data = vec![1u64; bytes / 8];
    let sum = || {
        let mut lanes = [0u64; LANES];
        for part in data.chunks_exact(LANES) {
            lanes.iter_mut().zip(part).for_each(|(l, x)| *l ^= x);
        }
        black_box(lanes);
    };
    sum();
    let (begin, mut times) = (Instant::now(), Vec::new());
    while times.is_empty() || begin.elapsed() < READ_TIME {
        // Short enough for the clock to be coarse.
        let rounds = (1 << 20) / bytes + 1;
        let start = Instant::now();
        (0..rounds).for_each(|_| sum());
        times.push(start.elapsed().as_secs_f64() / rounds as f64);
    }
    bytes as f64 / median(&mut times).max(1e-12)
}
