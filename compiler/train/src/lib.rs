//! Fine-tuning: what training computes is what runs, bit for bit.
//!
//! A [`Network`] is a graph on quantized types with float shadows of its weights. In each step it is lowered to integers by the passes that compile models, and the
//! forward pass is that integer graph: `program` makes a kernel of each node, which gives the bits of `qcc_interp`. Backwards
//! each kernel has the derivative of its formula without the rounding. So there is no simulation that could differ from what is deployed, and no
//! operator whose training form would have to be kept in step.
//!
//! | | |
//! |---|---|
//! | `network` | parameters, and the graphs that they stand for |
//! | `kernel` | integer operators with their derivatives |
//! | `tape` | samples through the kernels, and back |
//! | `loss`, `scores`, `teacher` | what outputs should be: what a teacher says, or labels |
//! | `update`, `optimizer` | from gradients to other parameters |
//! | `trainer` | a step over a batch, on several threads |
//! | `recipe` | what a training is set to, by name |
//! | `scheme`, `interval` | integers that are more than rounded: intervals, noise, portions |
//! | `run`, `checkpoint`, `augment` | a whole training, and its state |
//! | `external` | the same training by PyTorch, on other machines |
//! | `learning_curve`, `gradient_noise` | how much data is enough |

#![deny(clippy::undocumented_unsafe_blocks)]

mod augment;
mod checkpoint;
pub mod external;
mod gradient_noise;
mod interval;
mod kernel;
pub mod learning_curve;
mod loss;
mod network;
mod optimizer;
mod program;
pub mod recipe;
mod run;
mod scheme;
mod scores;
mod tape;
mod teacher;
#[cfg(test)]
mod tests;
mod trainer;
mod update;

pub use augment::Augment;
pub use checkpoint::{Checkpoint, Parameters};
pub use gradient_noise::Descent;
pub use loss::{Kind, Score, Target, Weights};
pub use network::{Network, TrainedLayer, ValueScale};
pub use optimizer::Rule;
pub use run::{Event, Material, Measured, Outcome, Plan, Watch, check_count, run};
pub use scheme::Scheme;
pub use teacher::Teacher;
pub use trainer::{Sample, Settings, Trainer};
pub use update::Rates;
