//! Statistics of a graph's values over many samples, each of which passes the graph on its own, several at the same time.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};

use qcc_ir::{Diag, Graph, Tensor, ValueId};

use crate::evaluate::Evaluator;
use crate::executor::Watch;
use crate::threads::{Threads, in_order};

/// What is learnt from the values of samples.
pub trait Statistics: Send {
    /// Takes a value of the sample that is in the graph now.
    fn observe(&mut self, v: ValueId, tensor: &Tensor);
}

/// Samples to be taken through a graph.
pub struct Survey<'a> {
    /// The graph.
    pub graph: &'a Graph,
    /// Number of samples.
    pub count: usize,
    /// Fetches a sample: one tensor an input.
    pub sample: &'a (dyn Fn(usize) -> Result<Vec<Tensor>, Diag> + Sync),
    /// Told how many samples are done.
    pub watch: Watch<'a>,
}

impl Survey<'_> {
    /// One for each sample, in their order: for sums that depend on the order in which they are added up.
    pub fn each<S: Statistics>(&self, threads: &Threads, new: impl Fn() -> S + Sync + Send) -> Result<Vec<S>, Diag> {
        self.parts(self.count, threads, new)
    }

    /// One for each of a few parts of the samples, as many as there are threads: for what comes out the same however samples are
    /// divided.
    pub fn few<S: Statistics>(&self, threads: &Threads, new: impl Fn() -> S + Sync + Send) -> Result<Vec<S>, Diag> {
        self.parts(threads.count().min(self.count), threads, new)
    }

    /// Part `p` has the samples `p`, `p + parts`, ..
    fn parts<S: Statistics>(
        &self,
        parts: usize,
        threads: &Threads,
        new: impl Fn() -> S + Sync + Send,
    ) -> Result<Vec<S>, Diag> {
        let evaluator = Evaluator::new(self.graph).with_threads(threads.count() / parts.max(1));
        let done = AtomicUsize::new(0);
        let part = |p: usize| {
            let mut statistics = new();
            for i in (p..self.count).step_by(parts) {
                evaluator.run_observed(&(self.sample)(i)?, &mut |v, tensor| statistics.observe(v, tensor))?;
                let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                if let ControlFlow::Break(stop) = (self.watch)(done, self.count) {
                    return Err(stop);
                }
            }
            Ok(statistics)
        };
        threads.run(|| in_order(0..parts, part))
    }
}
