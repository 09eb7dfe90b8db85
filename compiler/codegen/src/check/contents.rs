//! What of a file is code.

use std::ops::Range;

use object::read::elf::ElfFile64;
use object::{Architecture, Endianness, Object, ObjectSection, ObjectSymbol, SectionFlags, SymbolKind, elf};

use super::report::{CheckError, unreadable};
use super::{aarch64, flow, mapping, x86};

/// Executable bytes of no section.
const UNNAMED: &str = "(no section)";

/// The code of a file, and what decodes it.
pub(super) struct Contents<'d> {
    pub machine: &'static str,
    pub isa: flow::Isa,
    pub sections: Vec<flow::Section<'d>>,
    pub functions: Vec<flow::Function>,
}

/// Finds the code of a file.
pub(super) fn contents(file: &[u8]) -> Result<Contents<'_>, CheckError> {
    let elf = parse(file)?;
    let (machine, isa) = match elf.architecture() {
        Architecture::X86_64 => ("x86_64", x86::ISA),
        Architecture::Aarch64 => ("aarch64", aarch64::ISA),
        other => return Err(CheckError::Machine(format!("{other:?}"))),
    };
    let (mut sections, mut named) = (Vec::new(), Vec::new());
    for section in elf.sections() {
        let executable =
            matches!(section.flags(), SectionFlags::Elf { sh_flags, .. } if sh_flags.0 & elf::SHF_EXECINSTR.0 != 0);
        if executable && section.size() > 0 {
            let name = section.name().map_err(unreadable)?.to_owned();
            let data = section.data().map_err(unreadable)?;
            named.push(section.address()..section.address().saturating_add(data.len() as u64));
            sections.push(flow::Section::new(name, section.address(), data));
        }
    }
    // What is mapped executable and in no such section is code all the same.
    named.sort_by_key(|range| range.start);
    for (segment, bytes) in mapping::executable(&elf)? {
        let mut at = segment.start;
        let end = segment.end..segment.end;
        for next in named.iter().filter(|n| segment.contains(&n.start)).cloned().chain(std::iter::once(end)) {
            // Zeros fill what is between sections.
            let part = at.saturating_sub(segment.start)..next.start.saturating_sub(segment.start);
            if let Some(data) = slice(bytes, part).filter(|data| data.iter().any(|&b| b != 0)) {
                sections.push(flow::Section::new(UNNAMED.to_string(), at, data));
            }
            at = at.max(next.end);
        }
    }
    if sections.is_empty() {
        return Err(CheckError::NoCode);
    }
    let mut functions = Vec::new();
    for symbol in elf.symbols().chain(elf.dynamic_symbols()) {
        if symbol.kind() == SymbolKind::Text && symbol.is_definition() {
            let name = symbol.name().map_err(unreadable)?.to_owned();
            functions.push(flow::Function { start: symbol.address(), size: symbol.size(), name });
        }
    }
    Ok(Contents { machine, isa, sections, functions })
}

/// A part of a segment.
fn slice(bytes: &[u8], range: Range<u64>) -> Option<&[u8]> {
    bytes.get(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?)
}

/// Reads the file as ELF.
pub(super) fn parse(file: &[u8]) -> Result<ElfFile64<'_, Endianness>, CheckError> {
    let elf = ElfFile64::<Endianness>::parse(file).map_err(unreadable)?;
    if elf.is_little_endian() { Ok(elf) } else { Err(CheckError::Machine("a big-endian machine".into())) }
}
