//! Where each piece lies in its output section, and each section in the file.

use super::input::{Home, Input};

/// Least alignment of an output section: a cache line, and the widest vector register.
const SECTION_ALIGN: u64 = 64;

/// One of the sections that pieces are placed in. Addresses equal file offsets.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Region {
    pub start: u64,
    pub size: u64,
    pub align: u64,
}

/// Offsets of pieces in their regions; the starts of the regions follow once the tables before them are sized.
pub(super) struct Layout {
    homes: Vec<Home>,
    offsets: Vec<u64>,
    /// Sizes of [`Home::Rodata`], [`Home::Text`] and [`Home::FloatText`].
    pub regions: [Region; 3],
}

impl Layout {
    /// Places the pieces of each region in the order of the object.
    pub fn new(input: &Input<'_>) -> Layout {
        let mut regions = [Region { start: 0, size: 0, align: SECTION_ALIGN }; 3];
        let mut offsets = Vec::with_capacity(input.pieces.len());
        for piece in &input.pieces {
            let region = &mut regions[piece.home as usize];
            region.align = region.align.max(piece.align);
            let offset = region.size.next_multiple_of(piece.align);
            region.size = offset + piece.data.len() as u64;
            offsets.push(offset);
        }
        Layout { homes: input.pieces.iter().map(|p| p.home).collect(), offsets, regions }
    }

    /// Address of a byte of a piece, which is also its offset in the file.
    pub fn address(&self, piece: usize, offset: u64) -> u64 {
        self.regions[self.homes[piece] as usize].start + self.offsets[piece] + offset
    }

    /// Pieces of a region with their addresses, ascending.
    pub fn pieces(&self, home: Home) -> impl Iterator<Item = (usize, u64)> + '_ {
        let of_home = self.homes.iter().enumerate().filter(move |(_, h)| **h == home);
        of_home.map(|(piece, _)| (piece, self.address(piece, 0)))
    }
}
