//! What a graph is: types with their quantization, the operator table, the graph and the one door for editing it, the
//! verifier, the textual form (`.qir`) in both directions, and diagnostics.
//!
//! Later stages know this crate; it knows only [`qcc_num`].

pub mod attr;
pub mod attrs;
pub mod diag;
pub mod edit;
pub mod function;
pub mod graph;
pub(crate) mod lex;
pub mod ops;
pub mod parse;
pub mod print;
pub mod shape;
pub mod tensor;
pub mod types;
pub mod verify;
pub mod window;

pub use attrs::{Attr, AttrKind, Attrs};
pub use diag::{Diag, Diags, Place};
pub use edit::Edit;
pub use function::Function;
pub use graph::{Def, Graph, NodeId, Origin, ValueId};
pub use ops::{Class, Dialect, OpInfo, Opcode};
pub use parse::parse;
pub use print::print;
pub use shape::{infer_dims, infer_elem};
pub use tensor::{Data, Tensor};
pub use types::{Elem, Int, Range, Type, Uniform};
pub use verify::{Level, check_level, verify};
pub use window::Window;
