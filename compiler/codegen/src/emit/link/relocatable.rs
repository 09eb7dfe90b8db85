//! Writing a relocatable object that any linker takes into a program or a library.
//!
//! What the compiler's own object holds is sorted as in a shared object: constants, integer code, float interface. Only the exported
//! names are global; those that all models share are weak, so that several models can be linked together. References go to
//! local symbols, and therefore never through a table of the loader: the object can become part of a shared library too.

use object::write::{Object, Relocation, SectionId, StandardSection, Symbol, SymbolSection};
use object::{
    Architecture, BinaryFormat, Endianness, RelocationFlags, SectionFlags, SectionKind, SymbolFlags, SymbolKind,
    SymbolScope, elf,
};

use super::input::{self, Home, Machine};
use super::layout::Layout;
use super::{FLOAT_TEXT, LinkError, LinkOptions, exports};

/// Says that the code needs no executable stack; without it linkers warn and make one.
const STACK_NOTE: &str = ".note.GNU-stack";

/// Sorts the compiler's object into one for other linkers. Exported names for which `weak` holds may be defined by several models.
pub fn link_relocatable(
    object: &[u8],
    options: &LinkOptions<'_>,
    weak: impl Fn(&str) -> bool,
) -> Result<Vec<u8>, LinkError> {
    let input = input::read(object, options.float_functions)?;
    let layout = Layout::new(&input);
    let exports = exports(&input, options)?;
    let architecture = match input.machine {
        Machine::X86_64 => Architecture::X86_64,
        Machine::Aarch64 => Architecture::Aarch64,
    };
    let mut out = Object::new(BinaryFormat::Elf, architecture, Endianness::Little);
    let sections = sections(&mut out, &layout);
    for (home, section) in [(Home::Rodata, sections[0]), (Home::Text, sections[1]), (Home::FloatText, sections[2])] {
        for (piece, _) in layout.pieces(home) {
            let Some(section) = section else { continue };
            // The layout placed pieces by the same rule.
            out.append_section_data(section, input.pieces[piece].data, input.pieces[piece].align);
        }
    }
    let section_of = |piece: usize| {
        let section = sections[input.pieces[piece].home as usize];
        section.ok_or_else(|| LinkError::Write("a piece without a section".into()))
    };
    let mut symbol = |name: &str, index: usize, scope: SymbolScope, weak: bool| -> Result<_, LinkError> {
        let s = &input.symbols[index];
        Ok(out.add_symbol(Symbol {
            name: name.as_bytes().to_vec(),
            value: layout.address(s.piece, s.offset),
            size: s.size,
            kind: if s.function { SymbolKind::Text } else { SymbolKind::Data },
            scope,
            weak,
            section: SymbolSection::Section(section_of(s.piece)?),
            flags: SymbolFlags::None,
        }))
    };
    let mut locals = Vec::with_capacity(input.symbols.len());
    for (i, s) in input.symbols.iter().enumerate() {
        locals.push(symbol(s.name, i, SymbolScope::Compilation, false)?);
    }
    for (name, index) in exports {
        symbol(name, index, SymbolScope::Dynamic, weak(name))?;
    }
    for field in &input.relocs {
        let target = (field.target.piece, field.target.offset);
        let named = input.symbols.iter().position(|s| (s.piece, s.offset) == target);
        let (symbol, distance) = match named {
            Some(index) => (locals[index], 0),
            None => {
                let section = out.section_symbol(section_of(target.0)?);
                (section, layout.address(target.0, target.1).cast_signed())
            }
        };
        let relocation = Relocation {
            offset: layout.address(field.piece, field.offset),
            symbol,
            addend: field.addend + distance,
            flags: RelocationFlags::Elf { r_type: field.r_type },
        };
        out.add_relocation(section_of(field.piece)?, relocation).map_err(|e| LinkError::Write(e.to_string()))?;
    }
    out.write().map_err(|e| LinkError::Write(e.to_string()))
}

/// The sections of [`Home::Rodata`], [`Home::Text`] and [`Home::FloatText`]; `None` for those without content.
fn sections(out: &mut Object<'_>, layout: &Layout) -> [Option<SectionId>; 3] {
    let note = out.add_section(Vec::new(), STACK_NOTE.as_bytes().to_vec(), SectionKind::Other);
    out.section_mut(note).flags = SectionFlags::Elf { sh_type: elf::SHT_PROGBITS, sh_flags: elf::SectionFlags(0) };
    let mut sections = [None; 3];
    if layout.regions[Home::Rodata as usize].size > 0 {
        sections[Home::Rodata as usize] = Some(out.section_id(StandardSection::ReadOnlyData));
    }
    if layout.regions[Home::Text as usize].size > 0 {
        sections[Home::Text as usize] = Some(out.section_id(StandardSection::Text));
    }
    if layout.regions[Home::FloatText as usize].size > 0 {
        sections[Home::FloatText as usize] =
            Some(out.add_section(Vec::new(), FLOAT_TEXT.as_bytes().to_vec(), SectionKind::Text));
    }
    sections
}
