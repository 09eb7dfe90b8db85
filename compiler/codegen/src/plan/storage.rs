//! How the weights of products are stored.

use std::collections::HashMap;
use std::fmt;

use qcc_ir::NodeId;

/// The products whose weights are codes of 4 bits ([`crate::kernel::microkernel::codes`]) or transformed ([`crate::kernel::winograd`]), or whose activations are
/// widened ([`crate::kernel::microkernel::fast_inner`]). The weights of all others are bytes, or what a dot takes.
pub type Storages = HashMap<NodeId, Decoding>;

/// Where codes of 4 bits are decoded, or for what weights are transformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Decoding {
    /// Where they are multiplied: they are read about once.
    Inside,
    /// Into memory of the step, of at most so many bytes, from where they are read as often as there are tiles of pixels.
    Scratch(usize),
    /// Nowhere: the weights are those of a form of fewer multiplications ([`crate::kernel::winograd`]), with so many rows and columns of results in a tile.
    Transformed {
        /// Rows and columns.
        tile: [usize; 2],
        /// Bytes of memory of the step, for transformed tiles.
        bytes: usize,
        /// Bytes of the transformed weights.
        weights: usize,
    },
    /// Nowhere: they are multiplied in fast inner products with activations in 16 bits, for which the step has so many bytes of memory.
    Widened {
        /// Bytes.
        bytes: usize,
    },
}

impl fmt::Display for Decoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Decoding::Inside => f.write_str("codes of 4 bits, decoded where they are multiplied"),
            Decoding::Scratch(_) => f.write_str("codes of 4 bits, decoded into scratch"),
            Decoding::Transformed { tile: [rows, columns], .. } => {
                write!(f, "transformed for tiles of {rows}x{columns}")
            }
            Decoding::Widened { .. } => f.write_str("16 bits, for fast inner products"),
        }
    }
}
