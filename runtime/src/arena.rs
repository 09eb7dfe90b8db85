//! Aligned memory for scratch and tensors.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// Alignment of every [`Arena`] in bytes, at least: a cache line, and the widest vector register.
pub const ALIGN: usize = 64;

/// Size of a huge page of most systems. Faults of 4 KiB each took 1 of 22 ms of ResNet-50's first run on a Zen 4.
const HUGE: usize = 2 << 20;

/// A zeroed block of memory with a chosen alignment. Its size never changes.
#[derive(Debug)]
pub struct Arena {
    /// First aligned byte.
    start: NonNull<u8>,
    bytes: usize,
    align: usize,
    /// What was allocated, unless the arena is empty.
    block: NonNull<u8>,
    layout: Layout,
}

impl Arena {
    /// A block of `bytes` zeros, aligned to [`ALIGN`].
    ///
    /// Panics if `bytes` exceeds `isize::MAX`; aborts when memory is exhausted, like every Rust collection.
    pub fn new(bytes: usize) -> Self {
        Self::with_align(bytes, ALIGN).expect("a size within isize::MAX")
    }

    /// A block of `bytes` zeros, aligned to `align` or [`ALIGN`], whichever is greater.
    ///
    /// `None` if `align` is not a power of two or the block would exceed `isize::MAX` bytes.
    pub fn with_align(bytes: usize, align: usize) -> Option<Self> {
        let align = align.max(ALIGN);
        let aligned = Layout::from_size_align(bytes, align).ok()?;
        if bytes == 0 {
            // Dangling but aligned: no byte of it is ever read or freed.
            let start = NonNull::new(std::ptr::without_provenance_mut(align))?;
            return Some(Arena { start, bytes, align, block: start, layout: aligned });
        }
        // Fresh pages of the system are zeros that nothing has touched yet. An allocator that is asked to align clears them
        // once more.
        let block_align = if bytes < HUGE { align } else { align.max(HUGE) };
        let layout = Layout::from_size_align(bytes.checked_add(block_align)?, 1).ok()?;
        // SAFETY: the layout's size is not zero.
        let Some(block) = NonNull::new(unsafe { alloc_zeroed(layout) }) else { handle_alloc_error(layout) };
        let skip = block.addr().get().wrapping_neg() & (block_align - 1);
        // SAFETY: fewer than `block_align` bytes are skipped, and there are so many more.
        let start = unsafe { block.add(skip) };
        in_huge_pages(start, bytes);
        Some(Arena { start, bytes, align, block, layout })
    }

    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// True for a block of no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// First byte.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// All bytes.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: `start` is valid for `len` initialized bytes (they were zeroed), owned by `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len()) }
    }

    /// All bytes.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len()) }
    }
}

/// Asks for huge pages where whole ones are covered, and does without them where the system has none.
fn in_huge_pages(start: NonNull<u8>, bytes: usize) {
    let whole = bytes / HUGE * HUGE;
    // Miri knows no such advice.
    #[cfg(all(target_os = "linux", not(miri)))]
    if whole > 0 {
        // SAFETY: whole pages of memory that belongs to the caller; the call does not change what they hold.
        unsafe { libc::madvise(start.as_ptr().cast(), whole, libc::MADV_HUGEPAGE) };
    }
    #[cfg(not(all(target_os = "linux", not(miri))))]
    let _ = (start, whole);
}

impl Drop for Arena {
    fn drop(&mut self) {
        if !self.is_empty() {
            // SAFETY: the block came from `alloc_zeroed` with this layout and is freed once.
            unsafe { dealloc(self.block.as_ptr(), self.layout) }
        }
    }
}

impl Clone for Arena {
    fn clone(&self) -> Self {
        let mut copy = Self::with_align(self.len(), self.align).expect("a layout that exists already");
        copy.as_mut_slice().copy_from_slice(self.as_slice());
        copy
    }
}

// SAFETY: an arena owns its memory and hands out references by Rust's borrowing rules only.
unsafe impl Send for Arena {}
// SAFETY: as for `Send`; `&Arena` gives read access only.
unsafe impl Sync for Arena {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "reads megabytes byte by byte")]
    fn blocks_are_aligned_and_zeroed() {
        for (bytes, align) in [(0, 1), (1, 1), (100, 64), (5000, 4096), (2 * HUGE + 1, 64)] {
            let mut arena = Arena::with_align(bytes, align).unwrap();
            assert_eq!(arena.as_mut_ptr().addr() % align.max(ALIGN), 0);
            assert!(arena.as_slice().iter().all(|&b| b == 0) && arena.len() == bytes);
            arena.as_mut_slice().fill(7);
            assert_eq!(arena.clone().as_slice(), arena.as_slice());
        }
        assert!(Arena::with_align(1, 3 * ALIGN).is_none());
        assert!(Arena::with_align(usize::MAX, 1).is_none());
    }
}
