//! What a compiled model's file says of it, read as data: nothing in it is loaded or run, so that it may be for another machine
//! or come from anywhere.

use std::path::Path;

use object::read::elf::ElfFile64;
use object::{Architecture, Endianness, Object as _, ObjectKind, ObjectSection as _, ObjectSymbol as _};
use qcc::runtime::abi::symbol;
use qcc::runtime::{InfoError, Manifest, ModelInfo, Seal};
use qcc::{Error, reading};

/// A compiled model's file.
pub struct Binary {
    /// `x86_64` or `aarch64`, or what else it is for.
    pub machine: String,
    /// The description, or why it cannot be read.
    pub info: Result<ModelInfo, InfoError>,
    /// How it was made, if it says so.
    pub manifest: Option<Manifest>,
    /// Names and sizes of its sections.
    pub sections: Vec<(String, u64)>,
}

impl Binary {
    /// Reads a file that qcc wrote.
    pub fn read(path: &Path) -> Result<Binary, Error> {
        let fail = |e: &dyn std::fmt::Display| Error::file(path, "read the model", e);
        let bytes = reading::read(path, "read the model", reading::MODEL)?;
        let elf = ElfFile64::<Endianness>::parse(&*bytes).map_err(|e| fail(&format!("no 64-bit ELF file: {e}")))?;
        let exported =
            |name: &str| elf.symbols().chain(elf.dynamic_symbols()).any(|s| s.is_definition() && s.name() == Ok(name));
        if !exported(symbol::INFO) {
            return Err(fail(&format!("it is no model compiled by qcc: it defines no `{}`", symbol::INFO)));
        }
        let info = data(&elf, symbol::DESCRIPTION).map(ModelInfo::decode);
        let info = info.unwrap_or(Err(InfoError::Header { field: "the address", value: 0 }));
        let manifest = data(&elf, symbol::MANIFEST).and_then(|bytes| Manifest::from_section(bytes).ok());
        let sections = elf.sections().filter(|s| s.size() > 0);
        let machine = match elf.architecture() {
            Architecture::X86_64 => "x86_64".to_string(),
            Architecture::Aarch64 => "aarch64".to_string(),
            other => format!("{other:?}"),
        };
        if elf.kind() == ObjectKind::Dynamic {
            Seal::check(&bytes).map_err(|e| fail(&e))?;
        }
        let kind = if elf.kind() == ObjectKind::Relocatable { ", relocatable" } else { "" };
        Ok(Binary {
            machine: format!("{machine}{kind}"),
            info,
            manifest,
            sections: sections.map(|s| (s.name().unwrap_or("?").to_string(), s.size())).collect(),
        })
    }
}

/// The bytes from a symbol of constants on, up to the end of its section.
fn data<'d>(elf: &ElfFile64<'d, Endianness>, name: &str) -> Option<&'d [u8]> {
    let symbol = elf.symbols().chain(elf.dynamic_symbols()).find(|s| s.is_definition() && s.name() == Ok(name))?;
    let section = elf.section_by_index(symbol.section_index()?).ok()?;
    let start = usize::try_from(symbol.address().checked_sub(section.address())?).ok()?;
    section.data().ok()?.get(start..)
}
