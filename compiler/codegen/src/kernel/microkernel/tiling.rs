//! Choice of the register tile: MR pixels by NR channels, NR in vectors.
//!
//! A block of channels is cut into *panels* of one to four vectors side by side, and the pixels of a row block into tiles of at
//! most so many pixels as there are accumulators left. Both cuts come from one estimate in *slots*, the time of one dot:
//!
//! ```text
//! step  = max(h * v, h + v, h * broadcast, independent_dots / chains) + (h + v) / 8     dots; loads, as many a cycle; latency
//! tile  = steps * step + h * v * epilogue(v) + TILE                              h pixels, v vectors
//! ```
//! Where groups of steps are summed in 16 bits, one of single steps included, each of them takes `h * v * WIDENING` beside: a multiplication
//! and an addition to 32 bits.
//!
//! Loads have ports of their own, but they are not free: vectors that come from the second-level cache wait for each
//! other.
//!
//! The weights of a step and one broadcast have registers beside the accumulators: with 32 registers that is 6 pixels by
//! 4 vectors. A seventh pixel, its fourth weights read anew for every pixel, measured 10 % less on Ice Lake.
//! Remainders are balanced: 10 pixels at most 6 high are two tiles of 5, not 6 and 4.
//!
//! A *row block* joins rows so that little remains: 7 pixels are tiles of 4 and 3, seven rows of 7 are tiles of 6 and 5. A
//! tile in which a row ends has displacements, hence code, of its own. Row blocks are also what threads share, so one that takes
//! the whole image must be worth it for two threads as well.

use super::spec::MicrokernelSpec;
use crate::machine::VectorShape;

/// Slots to begin and end a tile.
const TILE: usize = 24;
/// Eighths of a slot to widen a vector of 16-bit sums and to add it to a partial sum.
const WIDENING: usize = 6;

/// Vectors side by side, and what passes over them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Panel {
    /// Equal panels in succession.
    pub count: usize,
    /// Vectors of the panel.
    pub vectors: usize,
    /// Channels of the panel that exist.
    pub channels: usize,
    /// Tiles of a row block, in order.
    pub tiles: Vec<Tiles>,
    /// Bytes of a stored weight.
    pub weight_bytes: usize,
    /// Bytes of the stored weights of one vector in a step.
    pub vector_bytes: usize,
}

/// Equal tiles, side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tiles {
    /// How many.
    pub count: usize,
    /// Pixels of each.
    pub height: usize,
    /// Where in its row the tile begins, if the row ends before the tile does.
    pub column: Option<usize>,
    /// Whether a row ends with the last of them.
    pub ends_row: bool,
    /// Sets of accumulators, used in turn and added up at the end: more than one where a small tile would wait for its
    /// own results.
    pub chains: usize,
}

/// The panels of a block, in channel order, and the estimate for a row block in eighths of a slot.
pub fn choose(spec: &MicrokernelSpec, shape: &VectorShape) -> (Vec<Panel>, usize) {
    (1..=shape.max_vectors)
        .rev()
        .filter(|&vectors| spec.panel_vectors == 0 || spec.panel_vectors == vectors)
        .map(|vectors| panels(spec, shape, vectors))
        .map(|panels| {
            let cost = panels.iter().map(|panel| panel_cost(spec, shape, panel)).sum();
            (panels, cost)
        })
        .min_by_key(|(_, cost)| *cost)
        .expect("a machine has at least one vector")
}

/// The block cut into panels of `vectors`, the last one smaller where need be.
fn panels(spec: &MicrokernelSpec, shape: &VectorShape, vectors: usize) -> Vec<Panel> {
    let whole = vectors * shape.lanes;
    let (count, rest) = (spec.channels / whole, spec.channels % whole);
    let panel = |count, channels: usize| {
        let vectors = channels.div_ceil(shape.lanes);
        let tiles = tiles(spec, &with_codes(spec, shape, vectors), vectors);
        let weight_bytes = if spec.coded { 1 } else { stored_weight(shape, vectors, &tiles) };
        Panel {
            count,
            vectors,
            channels,
            tiles,
            weight_bytes,
            vector_bytes: shape.lanes * shape.dot_depth() * weight_bytes,
        }
    };
    let whole = (count > 0).then(|| panel(count, whole));
    let rest = (rest > 0).then(|| panel(1, rest));
    whole.into_iter().chain(rest).collect()
}

/// Registers beside accumulators and weights while codes are decoded: the table, and the mask of a code.
const CODE_REGISTERS: usize = 2;

/// What codes leave of a machine to a panel: weights are in registers, those of two steps where a pair of vectors belongs to both.
fn with_codes(spec: &MicrokernelSpec, shape: &VectorShape, vectors: usize) -> VectorShape {
    if !spec.coded {
        return *shape;
    }
    let next_step = if vectors.is_multiple_of(2) { 0 } else { vectors };
    VectorShape {
        scratch_registers: shape.scratch_registers + CODE_REGISTERS + next_step,
        weights_in_registers: true,
        ..*shape
    }
}

/// Bytes of a stored weight. Where a dot takes 16-bit pairs, weights are stored as such, unless a single tile does all pixels: each weight
/// is then read once, the time is that of reading them, and to widen bytes costs nothing.
fn stored_weight(shape: &VectorShape, vectors: usize, tiles: &[Tiles]) -> usize {
    match *tiles {
        [Tiles { count: 1, height, chains, .. }]
            if !shape.fast_inner && (chains * height + 1) * vectors + shape.scratch_registers <= shape.registers =>
        {
            1
        }
        _ => shape.weight_bytes,
    }
}

/// A row block cut into tiles of two heights that differ by one.
fn tiles(spec: &MicrokernelSpec, shape: &VectorShape, vectors: usize) -> Vec<Tiles> {
    let pixels = spec.block_rows * spec.width;
    let row = if spec.is_even() { pixels } else { spec.width };
    let count = pixels.div_ceil(shape.max_rows(vectors));
    let (height, higher) = (pixels / count, pixels % count);
    let mut groups: Vec<Tiles> = Vec::new();
    let mut first = 0;
    for height in std::iter::repeat_n(height + 1, higher).chain(std::iter::repeat_n(height, count - higher)) {
        let column = first % row;
        let column = column..column + height;
        let crosses = column.end > row;
        let ends_row = column.end.is_multiple_of(row);
        match groups.last_mut() {
            Some(last) if !crosses && last.column.is_none() && last.height == height && !last.ends_row => {
                last.count += 1;
                last.ends_row = ends_row;
            }
            _ => {
                let chains = chains(spec, shape, height, vectors);
                let column = crosses.then_some(column.start);
                groups.push(Tiles { count: 1, height, column, ends_row, chains });
            }
        }
        first += height;
    }
    groups
}

fn chains(spec: &MicrokernelSpec, shape: &VectorShape, height: usize, vectors: usize) -> usize {
    let accumulators = height * vectors;
    let wanted = shape.independent_dots.div_ceil(accumulators);
    wanted.min(shape.most_accumulators(vectors) / accumulators).min(spec.run_steps(shape)).min(shape.unroll).max(1)
}

/// The estimate for a panel.
fn panel_cost(spec: &MicrokernelSpec, shape: &VectorShape, panel: &Panel) -> usize {
    let steps = spec.k_rows * spec.segments * spec.run_steps(shape);
    let groups = match spec.i16_steps {
        0 => 0,
        group => spec.k_rows * spec.segments * spec.run_steps(shape).div_ceil(group),
    };
    let epilogue = shape.epilogue[panel.vectors - 1];
    let tile = |tiles: &Tiles| {
        let dots = tiles.height * panel.vectors;
        let loads = tiles.height + panel.vectors;
        let latency = shape.independent_dots.div_ceil(tiles.chains);
        let step = dots.max(loads).max(tiles.height * shape.broadcast).max(latency);
        tiles.count * (steps * (8 * step + loads) + groups * WIDENING * dots + 8 * (epilogue * dots + TILE))
    };
    panel.count * panel.tiles.iter().map(tile).sum::<usize>()
}
