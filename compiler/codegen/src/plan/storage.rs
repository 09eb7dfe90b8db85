//! How the weights of products are stored.

use std::collections::HashMap;
use std::fmt;

use qcc_ir::NodeId;

/// The products whose weights are codes of 4 bits: see [`crate::kernel::microkernel::codes`]. The weights of all others are bytes, or what a
/// dot takes.
pub type Storages = HashMap<NodeId, Decoding>;

/// Where codes of 4 bits are decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Decoding {
    /// Where they are multiplied: they are read about once.
    Inside,
    /// Into memory of the step, of at most so many bytes, from where they are read as often as there are tiles of pixels.
    Scratch(usize),
}

impl fmt::Display for Decoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Decoding::Inside => "codes of 4 bits, decoded where they are multiplied",
            Decoding::Scratch(_) => "codes of 4 bits, decoded into scratch",
        })
    }
}
