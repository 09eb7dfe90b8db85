//! What a loader makes of a file: it reads program headers, not section headers, and these must not tell another story.

use std::ops::Range;

use object::read::elf::{Dyn as _, ElfFile64, ProgramHeader as _};
use object::{Endianness, Object as _, ObjectSection as _, ObjectSymbol as _, SectionFlags, elf};
use qcc_runtime::abi::symbol;

use super::report::{CheckError, unreadable};
use crate::emit::link::FLOAT_TEXT;

/// Entries of the dynamic section that a compiled model has: none that runs code, names another file or relocates.
const HARMLESS: [elf::DynamicTag; 7] =
    [elf::DT_NULL, elf::DT_SONAME, elf::DT_GNU_HASH, elf::DT_STRTAB, elf::DT_SYMTAB, elf::DT_STRSZ, elf::DT_SYMENT];

fn refuse<T>(what: String) -> Result<T, CheckError> {
    Err(CheckError::Mapping(what))
}

/// Addresses of a segment, and its bytes in the file.
pub(super) type Segment<'d> = (Range<u64>, &'d [u8]);

/// What a loader maps executable.
pub(super) fn executable<'d>(elf: &ElfFile64<'d, Endianness>) -> Result<Vec<Segment<'d>>, CheckError> {
    let (mut found, endian) = (Vec::new(), elf.endian());
    for header in elf.elf_program_headers() {
        if header.p_type(endian) == elf::PT_LOAD && header.p_flags(endian).0 & elf::PF_X.0 != 0 {
            let damaged = || CheckError::Elf("a segment lies outside of the file".into());
            let data = header.data(endian, elf.data()).map_err(|()| damaged())?;
            let start = header.p_vaddr(endian);
            found.push((start..start.checked_add(data.len() as u64).ok_or_else(damaged)?, data));
        }
    }
    Ok(found)
}

/// Addresses equal file offsets, as qcc writes them: so sections that say the same of both show what is mapped. No page is both writable and
/// executable.
fn check_segments(elf: &ElfFile64<'_, Endianness>) -> Result<(), CheckError> {
    let endian = elf.endian();
    for header in elf.elf_program_headers() {
        if header.p_type(endian) != elf::PT_LOAD {
            continue;
        }
        let (offset, address, size) = (header.p_offset(endian), header.p_vaddr(endian), header.p_filesz(endian));
        let (flags, memory) = (header.p_flags(endian).0, header.p_memsz(endian));
        if offset != address {
            return refuse(format!("a segment at {offset:#x} is mapped to {address:#x}"));
        }
        if flags & elf::PF_X.0 != 0 && (flags & elf::PF_W.0 != 0 || memory != size) {
            return refuse(format!("the segment at {offset:#x} is both writable and executable"));
        }
    }
    Ok(())
}

/// Checks that section headers agree with what is mapped, that nothing runs or is fetched when the model is loaded, and that integers enter
/// integer code.
pub(super) fn check(elf: &ElfFile64<'_, Endianness>) -> Result<(), CheckError> {
    let (endian, segments) = (elf.endian(), executable(elf)?);
    check_segments(elf)?;
    let mut float = 0..0;
    for section in elf.sections() {
        let SectionFlags::Elf { sh_flags, .. } = section.flags() else { continue };
        if sh_flags.0 & elf::SHF_ALLOC.0 == 0 || section.size() == 0 {
            continue;
        }
        let name = section.name().map_err(unreadable)?;
        let start = section.address();
        if section.file_range().is_none_or(|(offset, size)| offset != start || size != section.size()) {
            return refuse(format!("the section `{name}` lies elsewhere than what is mapped"));
        }
        if name == FLOAT_TEXT {
            float = start..start.saturating_add(section.size());
        }
    }
    let mut tables = Vec::new();
    for header in elf.elf_program_headers() {
        if header.p_type(endian) == elf::PT_GNU_STACK && header.p_flags(endian).0 & elf::PF_X.0 != 0 {
            return refuse("it asks for an executable stack".into());
        }
        if header.p_type(endian) == elf::PT_INTERP {
            return refuse("it asks for an interpreter".into());
        }
        let entries = header.dynamic(endian, elf.data()).map_err(unreadable)?.unwrap_or_default();
        for entry in entries {
            let tag = entry.tag(endian);
            if !HARMLESS.contains(&tag) {
                return refuse(format!("its dynamic section has the entry {:#x}, which no model has", tag.0));
            }
            if [elf::DT_SYMTAB, elf::DT_STRTAB].contains(&tag) {
                tables.push(entry.val(endian));
            }
        }
    }
    let section = |name: &str| elf.section_by_name(name).map(|s| s.address());
    if tables.len() != 2 || [".dynsym", ".dynstr"].iter().any(|n| section(n).is_none_or(|at| !tables.contains(&at))) {
        return refuse("its symbols are not where a loader finds them".into());
    }
    for entry in elf.dynamic_symbols() {
        let name = entry.name().map_err(unreadable)?;
        if !entry.is_definition() {
            return refuse(format!("it needs `{name}` from elsewhere"));
        }
        let runs_integers = [symbol::RUN, symbol::RUN_MT, symbol::INFO].contains(&name);
        let at = entry.address();
        if runs_integers && (float.contains(&at) || !segments.iter().any(|(s, _)| s.contains(&at))) {
            return refuse(format!("`{name}` is not in integer code"));
        }
    }
    Ok(())
}
