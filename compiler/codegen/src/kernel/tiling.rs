//! Choice of the register tile.
//!
//! A block of channels is cut into *panels* of one to four vectors side by side, and a row of pixels into tiles of at most
//! so many pixels as there are accumulators left. Both cuts come from one estimate in *slots*, the time of one dot:
//!
//! ```text
//! step  = max(h * v, h + v, h * broadcast, in_flight / chains) + (h + v) / 8     dots; loads, as many a cycle; latency
//! tile  = steps * step + h * v * epilogue(v) + TILE                              h pixels, v vectors
//! ```
//! Loads have ports of their own, but they are not free: vectors that come from the second-level cache wait for each
//! other.
//!
//! The weights of a step and one broadcast have registers beside the accumulators: with 32 registers that is 6 pixels by
//! 4 vectors. A seventh pixel, its fourth weights read anew for every pixel, measured 10 % less on Ice Lake.
//! Remainders are balanced: 10 pixels at most 6 high are two tiles of 5, not 6 and 4.

use super::conv::ConvSpec;
use crate::machine::Shape;

/// Slots to requantize one vector of accumulators, four of them being narrowed and stored at once.
const EPILOGUE: usize = 6;
/// The same where a pixel has fewer than four vectors.
const EPILOGUE_PARTS: usize = 8;
/// Slots to begin and end a tile.
const TILE: usize = 24;

/// Vectors side by side, and what passes over them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Panel {
    /// Equal panels in succession.
    pub count: usize,
    /// Vectors of the panel.
    pub vectors: usize,
    /// Channels of the panel that exist.
    pub channels: usize,
    /// Tiles of a row, in order.
    pub tiles: Vec<Tiles>,
}

/// Tiles of one height, side by side in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tiles {
    /// How many.
    pub count: usize,
    /// Pixels of each.
    pub height: usize,
    /// Sets of accumulators, used in turn and added up at the end: more than one where a small tile would wait for its
    /// own results.
    pub chains: usize,
}

/// The panels of a block, in channel order.
pub fn choose(spec: &ConvSpec, shape: &Shape) -> Vec<Panel> {
    (1..=shape.vectors)
        .rev()
        .map(|vectors| panels(spec, shape, vectors))
        .min_by_key(|panels| panels.iter().map(|panel| cost(spec, shape, panel)).sum::<usize>())
        .expect("a machine has at least one vector")
}

/// The block cut into panels of `vectors`, the last one smaller where need be.
fn panels(spec: &ConvSpec, shape: &Shape, vectors: usize) -> Vec<Panel> {
    let whole = vectors * shape.lanes;
    let (count, rest) = (spec.channels / whole, spec.channels % whole);
    let panel = |count, channels: usize| {
        let vectors = channels.div_ceil(shape.lanes);
        Panel { count, vectors, channels, tiles: tiles(spec, shape, vectors) }
    };
    let whole = (count > 0).then(|| panel(count, whole));
    let rest = (rest > 0).then(|| panel(1, rest));
    whole.into_iter().chain(rest).collect()
}

/// A row cut into tiles of two heights that differ by one.
fn tiles(spec: &ConvSpec, shape: &Shape, vectors: usize) -> Vec<Tiles> {
    let highest = shape.accumulators.min(shape.registers - vectors - 1) / vectors;
    let count = spec.width.div_ceil(highest);
    let (height, higher) = (spec.width / count, spec.width % count);
    [(higher, height + 1), (count - higher, height)]
        .into_iter()
        .filter(|&(count, _)| count > 0)
        .map(|(count, height)| Tiles { count, height, chains: chains(spec, shape, height * vectors) })
        .collect()
}

fn chains(spec: &ConvSpec, shape: &Shape, accumulators: usize) -> usize {
    let wanted = shape.in_flight.div_ceil(accumulators);
    wanted.min(shape.accumulators / accumulators).min(spec.run_steps()).min(shape.unroll).max(1)
}

/// The estimate, in eighths of a slot.
fn cost(spec: &ConvSpec, shape: &Shape, panel: &Panel) -> usize {
    let steps = spec.k_rows * spec.segments * spec.run_steps();
    let epilogue = if panel.vectors == 4 { EPILOGUE } else { EPILOGUE_PARTS };
    let tile = |tiles: &Tiles| {
        let dots = tiles.height * panel.vectors;
        let loads = tiles.height + panel.vectors;
        let latency = shape.in_flight.div_ceil(tiles.chains);
        let step = dots.max(loads).max(tiles.height * shape.broadcast).max(latency);
        tiles.count * (steps * (8 * step + loads) + 8 * (epilogue * dots + TILE))
    };
    panel.count * panel.tiles.iter().map(tile).sum::<usize>()
}
