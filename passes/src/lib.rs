//! Passes and pipelines
