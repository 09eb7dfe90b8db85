//! Choice of the register tile.
//!
//! A block of channels is cut into *panels* of one to four vectors side by side, and the pixels of a strip into tiles of at
//! most so many pixels as there are accumulators left. Both cuts come from one estimate in *slots*, the time of one dot:
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
//!
//! A *strip* joins rows so that little remains: 7 pixels are tiles of 4 and 3, seven rows of 7 are tiles of 6 and 5. A
//! tile in which a row ends has displacements, hence code, of its own. Strips are also what threads share, so one that takes
//! the whole image must be worth it for two threads as well.

use super::conv::ConvSpec;
use crate::machine::Shape;

/// Slots to begin and end a tile.
const TILE: usize = 24;
/// Most pixels of a strip.
const STRIP_PIXELS: usize = 256;
/// Most pieces of code a strip may be made of.
const STRIP_GROUPS: usize = 10;

/// Vectors side by side, and what passes over them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Panel {
    /// Equal panels in succession.
    pub count: usize,
    /// Vectors of the panel.
    pub vectors: usize,
    /// Channels of the panel that exist.
    pub channels: usize,
    /// Tiles of a strip, in order.
    pub tiles: Vec<Tiles>,
}

impl Panel {
    /// Bytes of a stored weight. Where a dot takes words, weights are stored as such, unless a single tile does all pixels:
    /// each weight is then read once, the time is that of reading them, and to widen bytes costs nothing.
    pub fn stored_weight(&self, shape: &Shape) -> usize {
        match self.tiles[..] {
            [Tiles { count: 1, height, chains, .. }]
                if (chains * height + 1) * self.vectors + shape.beside <= shape.registers =>
            {
                1
            }
            _ => shape.weight_bytes,
        }
    }

    /// Bytes of the stored weights of one vector in a step.
    pub fn weight_vector(&self, shape: &Shape) -> usize {
        shape.lanes * shape.step() * self.stored_weight(shape)
    }
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

/// The panels of a block, in channel order.
pub fn choose(spec: &ConvSpec, shape: &Shape) -> Vec<Panel> {
    (1..=shape.vectors)
        .rev()
        .filter(|&vectors| spec.panel == 0 || spec.panel == vectors)
        .map(|vectors| panels(spec, shape, vectors))
        .min_by_key(|panels| cost(spec, shape, panels))
        .expect("a machine has at least one vector")
}

/// The estimate for a strip, in eighths of a slot.
pub fn estimate(spec: &ConvSpec, shape: &Shape) -> usize {
    cost(spec, shape, &choose(spec, shape))
}

/// How many of an image's `rows` can make a strip, of which each takes `calls` leaf calls: divisors of `rows`, the best first.
/// What counts is the time of one thread and the time of two together: a few large strips cannot be shared evenly.
pub fn strips(spec: &ConvSpec, shape: &Shape, rows: usize, calls: usize) -> Vec<usize> {
    let fits = |strip: &usize| rows.is_multiple_of(*strip) && (*strip == 1 || strip * spec.width <= STRIP_PIXELS);
    let candidate = |strip: usize| {
        let spec = ConvSpec { strip, ..spec.clone() };
        let panels = choose(&spec, shape);
        let groups = panels.iter().map(|panel| panel.tiles.len()).sum::<usize>();
        let units = rows / strip * calls;
        let both = units + 2 * units.div_ceil(2);
        (strip == 1 || groups <= STRIP_GROUPS).then(|| (cost(&spec, shape, &panels) * both, strip))
    };
    let mut strips: Vec<_> = (1..=rows.max(1)).filter(fits).filter_map(candidate).collect();
    strips.sort_unstable();
    strips.into_iter().map(|(_, strip)| strip).collect()
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

/// A strip cut into tiles of two heights that differ by one.
fn tiles(spec: &ConvSpec, shape: &Shape, vectors: usize) -> Vec<Tiles> {
    let pixels = spec.strip * spec.width;
    let row = if spec.is_even() { pixels } else { spec.width };
    let highest = shape.highest(vectors);
    let count = pixels.div_ceil(highest);
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

fn chains(spec: &ConvSpec, shape: &Shape, height: usize, vectors: usize) -> usize {
    let accumulators = height * vectors;
    let wanted = shape.in_flight.div_ceil(accumulators);
    wanted.min(shape.most_accumulators(vectors) / accumulators).min(spec.run_steps(shape)).min(shape.unroll).max(1)
}

/// [`estimate`] of panels.
fn cost(spec: &ConvSpec, shape: &Shape, panels: &[Panel]) -> usize {
    panels.iter().map(|panel| panel_cost(spec, shape, panel)).sum()
}

fn panel_cost(spec: &ConvSpec, shape: &Shape, panel: &Panel) -> usize {
    let steps = spec.k_rows * spec.segments * spec.run_steps(shape);
    let epilogue = shape.epilogue[panel.vectors - 1];
    let tile = |tiles: &Tiles| {
        let dots = tiles.height * panel.vectors;
        let loads = tiles.height + panel.vectors;
        let latency = shape.in_flight.div_ceil(tiles.chains);
        let step = dots.max(loads).max(tiles.height * shape.broadcast).max(latency);
        tiles.count * (steps * (8 * step + loads) + 8 * (epilogue * dots + TILE))
    };
    panel.count * panel.tiles.iter().map(tile).sum::<usize>()
}
