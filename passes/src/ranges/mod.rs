//! Ranges of activations: from samples, from a table, or derived, and what is known of values on the way.

pub mod calibrate;
pub mod propagate_ranges;
pub mod synthesize_samples;

pub mod method;
pub mod observations;
pub mod table;

pub(crate) mod activations;
pub(crate) mod extent;
pub(crate) mod histogram;
pub(crate) mod moments;
pub(crate) mod observed;

mod merge;
