//! What is planned: buffers, and steps between barriers.

use std::collections::HashMap;

use qcc_ir::NodeId;

use super::buffer::{Buffer, BufferId};
use super::halo::Halo;
use super::storage::Storages;
use super::view::BufferView;

/// One unit of work between two barriers.
#[derive(Debug, Clone)]
pub struct Step {
    /// Name of the value it computes.
    pub name: String,
    /// What it does.
    pub kind: StepKind,
}

/// What a step does.
#[derive(Debug, Clone)]
pub enum StepKind {
    /// Computes a node. Operands that are windowed over are given as the views that have the halo.
    Node {
        /// The node.
        node: NodeId,
        /// Views of its operands; constants too.
        operands: Vec<BufferView>,
        /// BufferView of its result.
        result: BufferView,
    },
    /// Fills the halo around a view.
    Fill {
        /// The interior.
        view: BufferView,
        /// Its extent on each side.
        halo: Halo,
    },
    /// Copies between two views of the same shape.
    Copy {
        /// Source.
        from: BufferView,
        /// Destination.
        to: BufferView,
    },
}

/// The finished plan.
#[derive(Debug, Clone)]
pub struct Plan {
    /// All buffers.
    pub buffers: Vec<Buffer>,
    /// All steps, in order.
    pub steps: Vec<Step>,
    /// Size of the arena in bytes, slack included.
    pub arena_bytes: usize,
    /// Offsets in their buffers, behind accumulators whose extrema are wanted, of room for those of parts of them:
    /// [`PART_EXTREMA`] bytes for each row and each block of channels.
    pub part_extrema: HashMap<BufferId, usize>,
    /// Memory that a node's step needs for itself.
    pub scratch: HashMap<NodeId, BufferId>,
    /// Products whose weights are codes, or transformed.
    pub storages: Storages,
}

/// Bytes of the extrema of one part of a product: least and greatest of up to [`PART_CHANNELS`] channels.
pub const PART_EXTREMA: usize = 2 * 4 * PART_CHANNELS;

/// Channels of one part of a product.
pub const PART_CHANNELS: usize = crate::kernel::microkernel::MAX_CHANNELS;
