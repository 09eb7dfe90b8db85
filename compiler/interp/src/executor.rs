//! The one walk through a graph. Order, lifetimes, faults with the step that they belong to, and progress are here; what a value
//! is and what a step computes is said by a [`Domain`].
//!
//! All samples of a run pass a step before the next, so that a domain can learn from all of them at once; a run of one sample
//! is the plain case. A step may share its work among threads, by [`in_order`](crate::in_order) over the samples or inside of an operator: either way
//! the result is the same bits.
//!
//! | domain | a value is | a step |
//! |---|---|---|
//! | [`Evaluator`](crate::Evaluator) | a tensor | evaluates its node, and shows the result to an observer |
//! | `qcc-passes`, `fit` | a pair, real and quantized | evaluates both, or fits a layer to what all samples show |
//! | `qcc-passes`, `synthesize-samples` | a tensor | evaluates; normalizations take the statistics of the samples |
//! | `qcc`, `compare/mixed` | a tensor that may be rounded | goes by switches, and computes only what a switch changed |
//!
//! A domain may keep what it evaluated: it sees every operand and result, in order, and gets what is no longer needed by
//! [`Domain::release`]. One that walks back, for gradients, does so over what it kept, from the last step to the first.

use std::ops::{ControlFlow, Range};

use qcc_ir::Diag;
use qcc_ir::diag::Code;

use crate::schedule::Schedule;

/// What a value is, and what a step makes of values.
pub trait Domain {
    /// A value of one sample.
    type Value;

    /// The result of a step in each sample, in their order.
    fn step(&mut self, step: usize, samples: &[SampleState<Self::Value>]) -> Result<Vec<Self::Value>, Diag>;

    /// Takes a value of one sample that nothing needs any more.
    fn release(&mut self, value: Self::Value) {
        drop(value);
    }
}

/// The values of one sample that are alive.
#[derive(Debug, Clone)]
pub struct SampleState<V> {
    values: Vec<Option<V>>,
}

impl<V> SampleState<V> {
    /// A sample before the first step: the values of its inputs.
    pub fn enter(schedule: &Schedule, inputs: Vec<V>) -> SampleState<V> {
        let mut values: Vec<Option<V>> = inputs.into_iter().map(Some).collect();
        values.resize_with(schedule.slots(), || None);
        SampleState { values }
    }

    /// The value of a slot.
    pub fn get(&self, slot: usize) -> Result<&V, Diag> {
        self.values.get(slot).and_then(Option::as_ref).ok_or_else(absent)
    }

    /// Takes the value of a slot out.
    pub fn take(&mut self, slot: usize) -> Result<V, Diag> {
        self.values.get_mut(slot).and_then(Option::take).ok_or_else(absent)
    }
}

fn absent() -> Diag {
    Diag::new(Code::VERIFY, "a value is used before it is computed, or after it was dropped")
}

/// Told after each step how many are done, and of how many; breaks to end the run with a diagnostic.
pub type Watch<'w> = &'w (dyn Fn(usize, usize) -> ControlFlow<Diag> + Sync);

/// Nobody watches.
pub const UNWATCHED: Watch<'static> = &|_, _| ControlFlow::Continue(());

/// Takes samples, each the values of its inputs, through all steps. What is left of each is what the schedule keeps. A fault
/// names its step, unless it names a node already.
pub fn execute<D: Domain>(
    schedule: &Schedule,
    domain: &mut D,
    inputs: Vec<Vec<D::Value>>,
    watch: Watch,
) -> Result<Vec<SampleState<D::Value>>, Diag> {
    let mut samples: Vec<SampleState<D::Value>> =
        inputs.into_iter().map(|inputs| SampleState::enter(schedule, inputs)).collect();
    advance(schedule, domain, &mut samples, 0..schedule.steps(), watch)?;
    Ok(samples)
}

/// Takes samples that have passed all steps before `steps` through these.
pub fn advance<D: Domain>(
    schedule: &Schedule,
    domain: &mut D,
    samples: &mut [SampleState<D::Value>],
    steps: Range<usize>,
    watch: Watch,
) -> Result<(), Diag> {
    for i in steps {
        let name = |d: Diag| if d.place.node.is_none() { d.at(schedule.name(i)) } else { d };
        let results = domain.step(i, samples).map_err(name)?;
        debug_assert_eq!(results.len(), samples.len(), "a result for each sample");
        for (sample, result) in samples.iter_mut().zip(results) {
            sample.values[schedule.result(i)] = Some(result);
            for &slot in schedule.last_used(i) {
                if let Some(value) = sample.values[slot].take() {
                    domain.release(value);
                }
            }
        }
        if let ControlFlow::Break(stop) = watch(i + 1, schedule.steps()) {
            return Err(stop);
        }
    }
    Ok(())
}
