//! A microkernel for a machine: the one value that says how its weights are packed, how its code is made and what it costs.

use super::codes;
use super::spec::MicrokernelSpec;
use super::tiling::{self, Panel};
use crate::machine::VectorShape;

/// Most pixels of a row block.
const ROW_BLOCK_PIXELS: usize = 256;
/// Most pieces of code a row block may be made of.
const ROW_BLOCK_TILES: usize = 10;

/// A description with what follows from it for a machine. It is computed once, and read by those who choose between microkernels, who
/// pack their operands, who emit and who call them.
#[derive(Debug, Clone)]
pub struct Microkernel {
    spec: MicrokernelSpec,
    shape: &'static VectorShape,
    panels: Vec<Panel>,
    cost: usize,
}

impl Microkernel {
    /// Chooses the register tiles for a machine.
    pub fn new(spec: MicrokernelSpec, shape: &'static VectorShape) -> Microkernel {
        let (panels, cost) = tiling::choose(&spec, shape);
        Microkernel { spec, shape, panels, cost }
    }

    /// The microkernels whose row blocks divide an image's `rows`, the best first; each row block takes `calls` calls. What counts is the
    /// time of one thread and the time of two together: a few large row blocks cannot be shared evenly.
    pub fn row_blocks(
        spec: &MicrokernelSpec,
        shape: &'static VectorShape,
        rows: usize,
        calls: usize,
    ) -> Vec<Microkernel> {
        let fits =
            |&block: &usize| rows.is_multiple_of(block) && (block == 1 || block * spec.width <= ROW_BLOCK_PIXELS);
        let candidate = |block_rows: usize| {
            let kernel = Microkernel::new(MicrokernelSpec { block_rows, ..spec.clone() }, shape);
            let pieces = kernel.panels.iter().map(|panel| panel.tiles.len()).sum::<usize>();
            let units = rows / block_rows * calls;
            let both = units + 2 * units.div_ceil(2);
            (block_rows == 1 || pieces <= ROW_BLOCK_TILES).then_some((kernel.cost * both, kernel))
        };
        let mut kernels: Vec<_> = (1..=rows.max(1)).filter(fits).filter_map(candidate).collect();
        kernels.sort_by_key(|(cost, kernel)| (*cost, kernel.spec.block_rows));
        kernels.into_iter().map(|(_, kernel)| kernel).collect()
    }

    /// The same microkernel with so many bytes to prefetch in a row block, on which no other choice depends.
    pub fn with_prefetch(self, prefetch_bytes: usize) -> Microkernel {
        Microkernel { spec: MicrokernelSpec { prefetch_bytes, ..self.spec }, ..self }
    }

    /// What it computes.
    pub fn spec(&self) -> &MicrokernelSpec {
        &self.spec
    }

    /// The machine that it is for.
    pub fn shape(&self) -> &'static VectorShape {
        self.shape
    }

    /// The panels of the block, in channel order.
    pub fn panels(&self) -> &[Panel] {
        &self.panels
    }

    /// The estimate for a row block, in eighths of a slot: see `tiling`.
    pub fn cost(&self) -> usize {
        self.cost
    }

    /// Steps in a run.
    pub fn run_steps(&self) -> usize {
        self.spec.run_steps(self.shape)
    }

    /// Vectors of 32-bit lanes that hold a value for each channel.
    pub fn vectors(&self) -> usize {
        self.panels.iter().map(|panel| panel.count * panel.vectors).sum()
    }

    /// Bytes of a panel's packed weights of so many kernel rows, without the header of codes.
    pub fn panel_bytes(&self, panel: &Panel, k_rows: usize) -> usize {
        let vectors = self.run_steps() * panel.vectors;
        let stored = if self.spec.coded { vectors.div_ceil(2) } else { vectors };
        k_rows * self.spec.segments * stored * panel.vector_bytes
    }

    /// Bytes in front of a panel's packed weights.
    pub(crate) fn header_bytes(&self) -> usize {
        if self.spec.coded { codes::HEADER } else { 0 }
    }

    /// Bytes of the packed weights of the block.
    pub fn packed_bytes(&self) -> usize {
        let whole = |panel| self.header_bytes() + self.panel_bytes(panel, self.spec.packed_rows());
        self.panels.iter().map(|panel| panel.count * whole(panel)).sum()
    }

    /// Whether every run of every panel is made of pairs of vectors, or a panel has one run: codes need that.
    pub fn pairs_up(&self) -> bool {
        let runs = self.spec.packed_rows() * self.spec.segments;
        runs == 1 || self.panels.iter().all(|panel| (self.run_steps() * panel.vectors).is_multiple_of(2))
    }

    /// Bytes that all panels have for a stored weight, if they agree.
    pub fn weight_bytes(&self) -> Option<usize> {
        let (first, others) = self.panels.split_first()?;
        others.iter().all(|panel| panel.weight_bytes == first.weight_bytes).then_some(first.weight_bytes)
    }

    /// Whether both read the same packed weights.
    pub fn packs_like(&self, other: &Microkernel) -> bool {
        let stored = |kernel: &Microkernel| kernel.panels.iter().map(|p| p.weight_bytes).collect::<Vec<_>>();
        stored(self) == stored(other)
    }
}
