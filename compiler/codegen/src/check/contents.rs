//! What of a file is code.

use object::read::elf::ElfFile64;
use object::{Architecture, Endianness, Object, ObjectSection, ObjectSymbol, SectionFlags, SymbolKind, elf};

use super::report::CheckError;
use super::{aarch64, flow, x86};

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
    let mut sections = Vec::new();
    for section in elf.sections() {
        let executable =
            matches!(section.flags(), SectionFlags::Elf { sh_flags, .. } if sh_flags.0 & elf::SHF_EXECINSTR.0 != 0);
        if executable && section.size() > 0 {
            let name = section.name().map_err(unreadable)?.to_owned();
            let data = section.data().map_err(unreadable)?;
            sections.push(flow::Section::new(name, section.address(), data));
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

/// Reads the file as ELF.
pub(super) fn parse(file: &[u8]) -> Result<ElfFile64<'_, Endianness>, CheckError> {
    let elf = ElfFile64::<Endianness>::parse(file).map_err(unreadable)?;
    if elf.is_little_endian() { Ok(elf) } else { Err(CheckError::Machine("a big-endian machine".into())) }
}

fn unreadable(error: object::read::Error) -> CheckError {
    CheckError::Elf(error.to_string())
}
