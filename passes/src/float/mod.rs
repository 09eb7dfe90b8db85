//! Real numbers: equal things are written in one way, constants and batch normalization are folded.

pub mod canonicalize;
pub mod compose_functions;
pub mod fold_bn;
pub mod fold_constants;
