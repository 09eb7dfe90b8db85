//! Threads, and results that do not depend on how many there are.

use std::sync::atomic::{AtomicUsize, Ordering};

use qcc_ir::Diag;
use qcc_ir::diag::Code;
use rayon::prelude::*;

/// Threads that work together.
#[derive(Debug)]
pub struct Threads(rayon::ThreadPool);

impl Threads {
    /// Starts `count` threads; 0 for as many as there are cores.
    pub fn start(count: usize) -> Result<Threads, Diag> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(count).build();
        pool.map(Threads).map_err(|e| Diag::new(Code::PIPELINE, format!("cannot start threads: {e}")))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.current_num_threads().max(1)
    }

    /// Runs `work` on them: what is parallel in it uses these threads.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.0.install(work)
    }
}

/// The results of `one` for each item, in the order of the items, computed on the threads that this is called on. Of several
/// faults that of the first item is returned, and what comes after it need not be computed. A single item never leaves its thread.
pub fn in_order<I: Send, T: Send, E: Send>(
    items: impl IntoIterator<Item = I>,
    one: impl Fn(I) -> Result<T, E> + Sync + Send,
) -> Result<Vec<T>, E> {
    let items: Vec<I> = items.into_iter().collect();
    if items.len() < 2 {
        return items.into_iter().map(one).collect();
    }
    let failed = AtomicUsize::new(usize::MAX);
    let guarded = |(i, item): (usize, I)| {
        if i > failed.load(Ordering::Relaxed) {
            return None;
        }
        let result = one(item);
        if result.is_err() {
            failed.fetch_min(i, Ordering::Relaxed);
        }
        Some(result)
    };
    let results: Vec<Option<Result<T, E>>> = items.into_par_iter().enumerate().map(guarded).collect();
    // What was left out lies behind a fault.
    results.into_iter().flatten().collect()
}
