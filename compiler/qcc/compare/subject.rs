//! What a report on layers is made of.

use std::path::Path;

use super::mixed::Stages;
use crate::data::Dataset;
use crate::{Compiled, Options, Source};

/// A model, what it became, and what it is looked at with.
pub struct Subject<'a> {
    /// The model, to be compiled again where remedies are tried.
    pub source: &'a Source,
    /// How it was compiled.
    pub options: &'a Options,
    /// What it became.
    pub compiled: &'a Compiled,
    /// The stages on the way.
    pub stages: &'a Stages,
    /// The samples, and where they are.
    pub data: (&'a Dataset, &'a Path),
    /// Calls that are looked at.
    pub calls: usize,
    /// Whether remedies are tried; by default where that takes little time.
    pub verify: bool,
}
