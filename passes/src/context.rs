//! What passes share besides the graph: what the user gave, what the user gets beside the result, and how to report on long work.
//! What one pass leaves to another is in the graph: its types and [`qcc_ir::Metadata`].

use std::collections::HashMap;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use qcc_ir::diag::Code;
use qcc_ir::format::Role;
use qcc_ir::{Budget, Diag, Range, Tensor};

use crate::quant::precision::{Overall, Precisions};
use crate::ranges::method::Method;
use crate::ranges::observations::Observing;
use crate::ranges::table::RangeTable;

/// Told what is worked on, how much of it is done, and of how much; 0 of 0 at the start of what cannot say.
pub type Progress = Arc<dyn Fn(&str, usize, usize) + Send + Sync>;

/// Samples to calibrate with. They are fetched one at a time, from several threads.
pub trait Samples: Send + Sync {
    /// Number of samples.
    fn len(&self) -> usize;

    /// True if there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One tensor for each graph input.
    fn get(&self, i: usize) -> Result<Vec<Tensor>, Diag>;
}

/// Samples that are all in memory.
impl Samples for Vec<Vec<Tensor>> {
    fn len(&self) -> usize {
        Vec::len(self)
    }

    fn get(&self, i: usize) -> Result<Vec<Tensor>, Diag> {
        <[_]>::get(self, i).cloned().ok_or_else(|| Diag::new(Code::DATA, format!("there is no sample {i}")))
    }
}

/// Which of the passes that better the result belong to the usual pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Corrections {
    /// The pass `synthesize-samples`.
    pub synthesize_samples: bool,
    /// The pass `equalize`.
    pub equalize: bool,
    /// The pass `round-weights`.
    pub round_weights: bool,
    /// The pass `correct-bias`; with samples `round-weights` does its work too, so that it runs only without that.
    pub correct_bias: bool,
}

impl Default for Corrections {
    fn default() -> Corrections {
        Corrections { synthesize_samples: true, equalize: false, round_weights: true, correct_bias: true }
    }
}

impl Corrections {
    /// Names of the passes that are left out of a pipeline; `rounding` says that `round-weights` is in it.
    pub fn off(self, rounding: bool) -> Vec<&'static str> {
        let all = [
            ("synthesize-samples", self.synthesize_samples),
            ("equalize", self.equalize),
            ("round-weights", self.round_weights),
            ("correct-bias", self.correct_bias && !(rounding && self.round_weights)),
        ];
        all.into_iter().filter(|(_, on)| !on).map(|(name, _)| name).collect()
    }
}

/// What passes share besides the graph: no pass reads what another one wrote here.
#[derive(Clone, Default)]
pub struct Context {
    /// Samples for `calibrate`.
    pub samples: Option<Arc<dyn Samples>>,
    /// Declared ranges of graph inputs, by name.
    pub input_ranges: HashMap<String, Range>,
    /// Ranges given by the user before; for the user, those found by `calibrate` or `propagate-ranges` after.
    pub ranges: Option<RangeTable>,
    /// Lets `calibrate` keep its observations, to be merged with those of other shards.
    pub observing: Option<Observing>,
    /// Corrections that the usual pipeline makes.
    pub corrections: Corrections,
    /// Formats by name.
    pub precision: Precisions,
    /// Formats of what has no other by name.
    pub overall: Overall,
    /// Inputs and outputs that are the same state, before and after a call, beside those that are known by their names.
    pub states: Vec<(String, String)>,
    /// How `calibrate` chooses a range, unless its options say otherwise.
    pub method: Method,
    /// Where to report progress.
    pub progress: Option<Progress>,
    /// The pass that runs.
    pub stage: &'static str,
    /// What the model may ask of the passes.
    pub budget: Budget,
    /// Threads to use; 0 for as many as there are cores.
    pub threads: usize,
    /// How ranges were obtained, for the user.
    pub range_source: String,
    /// Whether some were derived from the model, without samples.
    pub derived_ranges: bool,
    /// For the user: what was not done that was asked for.
    pub notes: Vec<String>,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("samples", &self.samples.as_ref().map(|s| s.len()))
            .field("input_ranges", &self.input_ranges)
            .field("ranges", &self.ranges)
            .field("method", &self.method)
            .field("threads", &self.threads)
            .field("range_source", &self.range_source)
            .finish_non_exhaustive()
    }
}

impl Context {
    /// Adds to the account of how ranges were obtained.
    pub(crate) fn note_source(&mut self, source: &str) {
        if !self.range_source.is_empty() {
            self.range_source.push_str("; ");
        }
        self.range_source.push_str(source);
    }

    /// Whether some values are to have so few bits that their ranges are chosen for these.
    pub(crate) fn has_few_bits(&self) -> bool {
        let all = self.precision.values().copied().chain(self.overall.activations);
        all.filter_map(|p| p.format(Role::Values)).any(|format| format.bits() < 7)
    }

    /// Reports progress, if anyone listens.
    pub(crate) fn report(&self, done: usize, total: usize) {
        if let Some(progress) = &self.progress {
            progress(self.stage, done, total);
        }
    }

    /// [`Context::report`] for the executor, which it stops when time is over.
    pub(crate) fn watch(&self, done: usize, total: usize) -> ControlFlow<Diag> {
        self.report(done, total);
        match self.budget.check_time() {
            Ok(()) => ControlFlow::Continue(()),
            Err(diag) => ControlFlow::Break(diag),
        }
    }
}
