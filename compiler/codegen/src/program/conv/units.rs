//! How many units a product is cut into, and which weights caches hold, whatever its microkernels.

/// Weights that stay in the second-level cache, together with some rows of activations, while all blocks pass.
pub const CACHED_WEIGHTS: usize = 384 << 10;

/// Least number of units to aim at, so that a few threads have something to share.
pub const UNITS: usize = 16;

/// Units of so many blocks, where each passes once and is decoded by its unit.
pub fn units_of_blocks(blocks: usize) -> usize {
    blocks.div_ceil(unit_blocks(blocks))
}

/// Blocks of a unit there.
pub fn unit_blocks(blocks: usize) -> usize {
    (blocks / UNITS).max(1)
}
