//! What operators mean: against cases worked out by hand, and against formulations that share no code with the crate, on
//! random shapes whose seed a failure prints.

mod evaluator;
mod executor;
mod float;
mod integer;
mod movement;
mod pooling;
mod quantized;
mod support;
