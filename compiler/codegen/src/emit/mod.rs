//! From a compiled program to something that runs or can be shipped.

pub mod header;
pub mod jit;
pub mod link;
pub mod object;
pub mod peak;
mod profile;
