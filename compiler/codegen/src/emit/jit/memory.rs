//! Memory of a program in this process: constants side by side in the order of their definition, as in `model.so`, because a
//! layer's kernel asks for the first weights of the next one, which it expects behind its own.

use std::io;

use cranelift_jit::{ArenaMemoryProvider, BranchProtection, JITMemoryKind, JITMemoryProvider};
use cranelift_module::ModuleResult;

use crate::plan::ALIGN;

/// One reservation with a part for constants that code does not interrupt.
pub(super) struct Separate {
    arena: ArenaMemoryProvider,
    constants: Option<*mut u8>,
    used: usize,
    size: usize,
}

// SAFETY: the pointer is one into the arena, which may change threads.
unsafe impl Send for Separate {}

impl Separate {
    /// Address space for so many bytes of each kind. Only what is used becomes memory.
    pub(super) fn new(code: usize, constants: usize) -> io::Result<Separate> {
        let arena = ArenaMemoryProvider::new_with_size(code + constants).map_err(io::Error::other)?;
        Ok(Separate { arena, constants: None, used: 0, size: constants })
    }
}

impl JITMemoryProvider for Separate {
    fn allocate(&mut self, size: usize, align: u64, kind: JITMemoryKind) -> io::Result<*mut u8> {
        let JITMemoryKind::ReadOnly = kind else { return self.arena.allocate(size, align, kind) };
        let start = match self.constants {
            Some(start) => start,
            None => {
                let start = self.arena.allocate(self.size, ALIGN as u64, JITMemoryKind::ReadOnly)?;
                want_large_pages(start, self.size);
                *self.constants.insert(start)
            }
        };
        let view = usize::try_from(align).ok().and_then(|align| self.used.checked_next_multiple_of(align));
        let end = view.and_then(|view| view.checked_add(size));
        match (view, end) {
            (Some(view), Some(end)) if end <= self.size && align <= ALIGN as u64 => {
                self.used = end;
                Ok(start.wrapping_add(view))
            }
            _ => Err(io::Error::other("constants take more memory than was reserved for them")),
        }
    }

    unsafe fn free_memory(&mut self) {
        // SAFETY: the caller's promise.
        unsafe { self.arena.free_memory() }
    }

    fn finalize(&mut self, protection: BranchProtection) -> ModuleResult<()> {
        self.arena.finalize(protection)
    }
}

/// Asks the system for large pages: the weights of a network have more small ones than the CPU keeps addresses of, and each
/// passes once a run. ResNet-50's last layers took 15 % longer with small pages on a Zen 4.
fn want_large_pages(start: *mut u8, bytes: usize) {
    #[cfg(target_os = "linux")]
    {
        // Larger than any page that is not a large one, so that whole pages remain.
        let page = 1 << 16;
        let first = start.align_offset(page);
        if let Some(bytes) = bytes.checked_sub(first) {
            // SAFETY: the range lies in one reservation of this process, and the advice changes no content. It may be refused.
            unsafe { libc::madvise(start.wrapping_add(first).cast(), bytes / page * page, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (start, bytes);
}
