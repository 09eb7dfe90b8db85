//! The integer model against the float one: accuracy on labelled samples, agreement, and noise.
//!
//! Signal-to-quantization-noise ratio: `SQNR = 10 log10(sum f^2 / sum (f - q)^2)` in decibels, over all samples, `f` being
//! the float result and `q` the real number that the integer result stands for. Of several outputs the worst counts; one that
//! is no real number, such as the index of a class, counts only if no other is.

mod account;
mod cause;
pub(crate) mod classes;
mod comparison;
mod damage;
mod interval;
mod layers;
mod lower;
mod metrics;
mod mixed;
pub(crate) mod noise;
mod raise;
mod remedy;
mod report;
mod seen;
mod subject;
mod trials;

pub use crate::engine::{Engine, Io, Runner};
pub use cause::Cause;
pub use classes::has_classes;
pub use comparison::{CompareOptions, Comparison, OutputNoise, compare};
pub use damage::{affordable_calls, damage};
pub use layers::layers;
pub use lower::{Goal, Loss, Outcome as LoweredOutcome, Parts, lower, precision_text};
pub use metrics::{Difference, Metric};
pub use mixed::{Side, Stages};
pub use raise::{Limit, Outcome as RaisedOutcome, Raised, raise};
pub use remedy::Remedy;
pub use report::{Advice, Damage, LayerReport};
pub use subject::Subject;
