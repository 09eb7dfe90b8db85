//! What runs a compiled model: the C ABI, a loader, scratch memory, threads and tensors.
//!
//! ```no_run
//! use qcc_runtime::{Model, Pool, TensorRef};
//!
//! let model = Model::load("resnet50.so")?;
//! let image = vec![0u8; model.inputs()[0].elements()];
//! let pool = Pool::new(0)?;
//! let mut session = model.session().with_pool(&pool);
//! let logits = session.run(&[TensorRef::new(&model.inputs()[0].dims, &image)])?;
//! println!("{:?}", logits[0].as_slice::<u8>());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | module | concept |
//! |---|---|
//! | [`abi`] | structures and functions as C sees them |
//! | [`info`] | a model's description as Rust data |
//! | [`cpu`] | CPU features: needed and present |
//! | [`manifest`] | how a model was made |
//! | [`seal`] | whether a file is what was written |
//! | [`model`], `loader` | a model that can run, from a file or from memory |
//! | `library`, `image` | the system's loader, and what takes its place in statically linked programs |
//! | [`session`] | checked runs without allocation |
//! | [`pool`], `host` | spin-then-park threads, and those of the host |
//! | [`arena`], [`tensor`] | aligned memory, tensors |
//!
//! The crate depends on no compiler crate: it is all that a program needs beside `model.so`.

#![deny(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap)]

pub mod abi;
pub mod arena;
pub mod cpu;
mod host;
#[cfg(all(target_env = "musl", target_feature = "crt-static"))]
mod image;
pub mod info;
mod library;
mod loader;
pub mod manifest;
pub mod model;
pub mod pool;
pub mod seal;
pub mod session;
pub mod tensor;

pub use cpu::CpuFeatures;
pub use info::{InfoError, ModelInfo, Quant, TensorInfo};
pub use loader::check_file;
pub use manifest::Manifest;
pub use model::{EntryPoints, LoadError, Model};
pub use pool::Pool;
pub use seal::{ReadError, Seal, SealError};
pub use session::{RunError, Session};
pub use tensor::{DType, Element, Tensor, TensorRef};
