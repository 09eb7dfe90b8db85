//! Reference evaluation of `nn.*`, `tensor.*`, `quant.*` and `int.*`: what every operator of [`qcc_ir::ops`] means.
//!
//! | operands | meaning | module |
//! |---|---|---|
//! | `nn.*` on f32 | f32 arithmetic as ONNX defines it; fast enough to calibrate with | `float` |
//! | `nn.*` on plain integers | shape arithmetic, exact in 64 bits; division truncates | `plain` |
//! | `nn.*` on quantized types | operands to f32 by `qcc_num::edge` (7), the float operator, the result back by (6) | `node` |
//! | `tensor.*` | moves elements of any kind; integers that stand for real numbers move unchanged | `movement` |
//! | `quant.*` | `qcc_num::edge`, per tensor and per axis | `cast` |
//! | `int.*` | exact integer arithmetic of `qcc_num`: the oracle of every compiled kernel | `int` |
//!
//! [`eval_node`] evaluates one operation, [`Evaluator`] a graph, [`Survey`] observes its values over many samples. All of them, and
//! whoever means something else by a value, walk a graph by [`execute`]. Results do not depend on the number of threads.

mod cast;
mod context;
mod element;
mod evaluate;
mod executor;
mod float;
mod int;
mod layout;
mod movement;
mod node;
mod plain;
mod reach;
mod schedule;
mod survey;
mod threads;

pub use evaluate::Evaluator;
pub use executor::{Domain, SampleState, UNWATCHED, Watch, advance, execute};
pub use float::matrix::{Matrix, multiply_add_alone, multiply_alone};
pub use node::eval_node;
pub use schedule::{Numbering, Operand, Schedule};
pub use survey::{Statistics, Survey};
pub use threads::{Threads, in_order};
