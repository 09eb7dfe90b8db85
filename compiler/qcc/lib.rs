//! qcc compiles a float network (ONNX) into integer-only machine code.
//!
//! No data is needed: ranges come from the model's own statistics, unless samples are given.
//!
//! ```
//! use qcc::{Options, compile};
//! # use qcc::ir::{Attrs, Builder, Graph, Opcode, Tensor, Type};
//! # let mut model = Graph::new("tiny");
//! # let mut builder = Builder::new(&mut model);
//! # let x = builder.add_input("x", Type::f32(&[1, 4]));
//! # let w = builder.add_const("w", Tensor::f32(&[2, 4], vec![0.5, -1.0, 0.25, 1.0, 1.0, 0.5, -0.5, 0.25]));
//! # let y = builder.add_inferred(Opcode::Linear, &[x, w], Attrs::new(Opcode::Linear), "y", None).unwrap();
//! # builder.set_outputs(vec![y]);
//! let compiled = compile(model, &Options::default())?; // or compile("model.onnx", ..)
//! let model = compiled.jit()?;
//! let x = qcc::TensorRef::new(&[1, 4], &[1.0f32, 2.0, -1.0, 0.5]);
//! let y = model.run_f32(&[x])?;
//! assert!((y[0].as_slice::<f32>().unwrap()[0] + 1.25).abs() < 0.1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | | |
//! |---|---|
//! | [`compile`], [`Options`], [`Source`] | a model in, a [`Compiled`] model out |
//! | [`Compiled::jit`], [`Compiled::write_so`], [`Compiled::interpreter`] | run it here, ship it, look up what it means |
//! | [`calibrate`], [`Observations::merge`] | ranges alone, of a share of the samples, and all shares together |
//! | [`data`] | samples from files: arrays, images, lists |
//! | [`compare`] | the integer model against the float one, layer by layer |
//! | [`engine`] | the forms of an integer model behind one way to run it |
//! | [`Compiled::tune`] | measured choices for single layers, kept with the model |
//! | [`finetune`] | parameters trained on samples, with the integer arithmetic itself |
//! | [`record`], [`explore`], [`explain`](mod@explain) | what every pass did, as a page and as text |
//! | [`report`] | what was compared or measured, as pages |
//! | [`bench`](mod@bench) | how fast, and how near the machine's limit |
//! | [`reduce`](mod@reduce) | the smallest graph that still shows a fault |
//! | [`ir`], [`passes`], [`runtime`], [`codegen`] | the crates behind it |

pub mod bench;
mod budget;
mod calibrate;
mod certificates;
pub mod compare;
mod compile;
pub mod cost;
pub mod data;
pub mod dump;
pub mod engine;
mod error;
pub mod explain;
pub mod explore;
mod files;
pub mod finetune;
mod float_interface;
mod options;
pub mod reading;
pub mod record;
pub mod reduce;
pub mod report;
mod source;
mod trace;
mod tune;
pub mod viewers;

pub use budget::Effect;
pub use calibrate::{calibrate, save_ranges};
pub use compile::{Compiled, Event, PassReport, Report, compile, compile_observed, declared_ranges};
pub use error::{Error, Kind};
pub use files::{check_places, header_place, write as write_file};
pub use options::{Calibration, Mode, Options};
pub use source::Source;
pub use tune::{load_tuning, save_tuning};

pub use qcc_codegen as codegen;
pub use qcc_codegen::Target;
pub use qcc_codegen::program::tuning::Tuning;
pub use qcc_interp::Evaluator;
pub use qcc_ir as ir;
pub use qcc_ir::{Diag, Graph};
pub use qcc_onnx::ImportOptions;
pub use qcc_passes as passes;
pub use qcc_passes::{Corrections, Method, Observations, Overall, Precision, Precisions, RangeTable, Samples, Shard};
pub use qcc_runtime as runtime;
pub use qcc_runtime::{Model, Pool, Session, Tensor, TensorRef};

/// The Rust of the README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

/// The Rust of the book's first chapter.
#[cfg(doctest)]
#[doc = include_str!("../../docs/getting-started.md")]
struct GettingStarted;
