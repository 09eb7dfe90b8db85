//! The memory of a model.

use qcc_ir::ValueId;

/// Bytes that may be read, never written, past the end of a view in the arena: kernels load four bytes at a time.
pub const SLACK: usize = 64;

/// Alignment of buffers, in bytes: one AVX-512 register and one cache line.
pub const ALIGN: usize = 64;

/// Names a buffer of one plan.
pub type BufferId = usize;

/// What memory a buffer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Storage {
    /// At this offset of the arena.
    Arena(usize),
    /// The caller's input with this number.
    Input(usize),
    /// The caller's output with this number.
    Output(usize),
    /// The contents of a constant of the graph.
    Const(ValueId),
}

/// A stretch of memory.
#[derive(Debug, Clone)]
pub struct Buffer {
    /// Where.
    pub storage: Storage,
    /// Length.
    pub bytes: usize,
    /// First and last step that touch it.
    pub life: (usize, usize),
    /// Name of the value it was made for.
    pub name: String,
}
