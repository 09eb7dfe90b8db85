//! A model's file in memory without the system's loader, which statically linked programs do not have.
//!
//! That is little work, because a file of qcc's needs no relocation, no other file and no code that runs at the start: its segments are
//! mapped from the file to where they belong, and symbols are read from its table. A file that would need more is refused.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use object::read::elf::{Dyn as _, ElfFile64, ProgramHeader as _};
use object::{Endianness, Object as _, ObjectSymbol as _, elf};

/// Entries of the dynamic section that ask a loader for nothing.
const HARMLESS: [elf::DynamicTag; 7] =
    [elf::DT_NULL, elf::DT_SONAME, elf::DT_GNU_HASH, elf::DT_STRTAB, elf::DT_SYMTAB, elf::DT_STRSZ, elf::DT_SYMENT];

/// Permissions of a segment as `mmap` has them.
const PERMISSIONS: [(u32, libc::c_int); 3] =
    [(elf::PF_R.0, libc::PROT_READ), (elf::PF_W.0, libc::PROT_WRITE), (elf::PF_X.0, libc::PROT_EXEC)];

/// A model's segments in memory, until it is dropped.
pub(crate) struct Image {
    base: *mut u8,
    bytes: usize,
    symbols: Vec<(String, usize)>,
}

// SAFETY: the memory is code and constants, which nobody writes once the image is made.
unsafe impl Send for Image {}
// SAFETY: as above.
unsafe impl Sync for Image {}

/// A part of the file, which becomes memory at the same offset.
struct Segment {
    offset: usize,
    bytes: usize,
    protection: libc::c_int,
}

impl Image {
    /// Maps a file whose content is given too. It is a shared object for this machine, and nobody writes to it while it is mapped.
    pub(crate) fn map(path: &Path, content: &[u8]) -> Result<Image, String> {
        let elf = ElfFile64::<Endianness>::parse(content).map_err(|e| e.to_string())?;
        let segments = segments(&elf)?;
        let symbols = symbols(&elf, &segments)?;
        let bytes = segments.iter().map(|s| s.offset + s.bytes).max().unwrap_or(0);
        if bytes == 0 {
            return Err("nothing of it is to be mapped".to_string());
        }
        let file = File::open(path).map_err(|e| e.to_string())?;
        let refused = || Err(format!("cannot be mapped: {}", std::io::Error::last_os_error()));
        // All addresses at once, so that segments lie at the right distance of each other.
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new private mapping at an address of the system's choice.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_NONE, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return refused();
        }
        let image = Image { base: base.cast(), bytes, symbols };
        for s in segments.iter().filter(|s| s.bytes > 0) {
            let offset = libc::off_t::try_from(s.offset).map_err(|e| e.to_string())?;
            let (at, flags) = (image.base.wrapping_add(s.offset), libc::MAP_PRIVATE | libc::MAP_FIXED);
            // SAFETY: the segment lies within the mapping above, which is this image's own; where it is not aligned to a page, the
            // system refuses.
            let mapped = unsafe { libc::mmap(at.cast(), s.bytes, s.protection, flags, file.as_raw_fd(), offset) };
            if mapped == libc::MAP_FAILED {
                return refused();
            }
        }
        Ok(image)
    }

    /// The address of an exported symbol.
    pub(crate) fn symbol(&self, name: &str) -> Option<*const u8> {
        let found = self.symbols.iter().find(|(known, _)| known == name);
        found.map(|&(_, offset)| self.base.wrapping_add(offset).cast_const())
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // SAFETY: the mapping of `map`; the owner of what was taken from it drops it last.
        unsafe { libc::munmap(self.base.cast(), self.bytes) };
    }
}

/// What is to be mapped. Refuses what asks a loader for more.
fn segments(elf: &ElfFile64<'_, Endianness>) -> Result<Vec<Segment>, String> {
    let (mut found, endian) = (Vec::new(), elf.endian());
    for header in elf.elf_program_headers() {
        for entry in header.dynamic(endian, elf.data()).map_err(|e| e.to_string())?.unwrap_or_default() {
            let tag = entry.tag(endian);
            if !HARMLESS.contains(&tag) {
                return Err(format!(
                    "its dynamic section has the entry {:#x}, for which a statically linked program has no loader",
                    tag.0
                ));
            }
        }
        if header.p_type(endian) != elf::PT_LOAD {
            continue;
        }
        // Qcc places a segment at the address that is its offset in the file.
        let content = header.data(endian, elf.data()).map_err(|()| "a segment lies outside of the file")?;
        let (offset, flags) = (header.p_offset(endian), header.p_flags(endian).0);
        if offset != header.p_vaddr(endian) {
            return Err(format!("a segment at {offset:#x} is to be mapped elsewhere"));
        }
        let protection = PERMISSIONS.iter().filter(|(flag, _)| flags & flag != 0).fold(0, |all, (_, one)| all | one);
        let offset = usize::try_from(offset).map_err(|e| e.to_string())?;
        found.push(Segment { offset, bytes: content.len(), protection });
    }
    Ok(found)
}

/// Names and places of what the file exports.
fn symbols(elf: &ElfFile64<'_, Endianness>, segments: &[Segment]) -> Result<Vec<(String, usize)>, String> {
    let mut found = Vec::new();
    for symbol in elf.dynamic_symbols() {
        let name = symbol.name().map_err(|e| e.to_string())?;
        let place = usize::try_from(symbol.address()).map_err(|e| e.to_string())?;
        if !segments.iter().any(|s| (s.offset..s.offset + s.bytes).contains(&place)) {
            return Err(format!("its symbol `{name}` lies outside of what is mapped"));
        }
        found.push((name.to_string(), place));
    }
    Ok(found)
}
