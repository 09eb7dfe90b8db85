//! What a graph is: types with their quantization, the operator table, the graph, its builder and its numbered changes, the
//! verifier, the textual form (`.qir`) in both directions, and diagnostics.
//!
//! Later stages know this crate; it knows only [`qcc_num`].

#![cfg_attr(not(test), deny(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap))]

pub mod attr;
pub mod attrs;
pub mod budget;
mod build;
pub mod diag;
pub mod edit;
pub mod function;
pub mod graph;
pub(crate) mod lex;
pub mod metadata;
pub(crate) mod name;
pub mod ops;
pub mod parse;
pub mod print;
pub mod rounding;
pub mod shape;
pub mod tensor;
pub mod types;
pub mod verify;
pub mod window;

pub use attrs::{Attr, AttrKind};
pub use budget::Budget;
pub use build::Builder;
pub use diag::{Diag, Diags, Place};
pub use edit::{Change, Edit};
pub use function::Function;
pub use graph::{Def, Graph, NodeId, Origin, ValueId};
pub use metadata::{Fact, Metadata};
pub use ops::{Attrs, Class, Dialect, OpInfo, Opcode};
pub use parse::parse;
pub use print::print;
pub use qcc_num::format;
pub use shape::{infer_dims, infer_elem};
pub use tensor::{Data, Tensor};
pub use types::{Elem, Format, Int, Range, Type, Uniform};
pub use verify::{Level, check_level, verify};
pub use window::Window;
