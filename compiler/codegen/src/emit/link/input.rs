//! Reading the relocatable object: pieces to place, symbols, and references between them.

use super::error::LinkError;
use object::read::elf::ElfFile64;
use object::read::{Object, ObjectSection, ObjectSymbol, RelocationTarget, SectionIndex, SymbolIndex};
use object::{Endianness, RelocationFlags, SectionFlags, SymbolKind, elf};
use std::collections::{HashMap, HashSet};

/// Section of the integer code.
pub const TEXT: &str = ".text";

/// Section of the float interface.
pub const FLOAT_TEXT: &str = ".text.qcc_edge";

/// Target machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Machine {
    X86_64,
    Aarch64,
}

/// Output sections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Home {
    Rodata,
    Text,
    FloatText,
}

/// What is placed as one: a section of constants, or a function.
pub(super) struct Piece<'d> {
    pub name: &'d str,
    pub home: Home,
    pub data: &'d [u8],
    pub align: u64,
}

/// A defined symbol.
pub(super) struct Symbol<'d> {
    pub name: &'d str,
    pub piece: usize,
    pub offset: u64,
    pub size: u64,
    pub function: bool,
}

/// A field to fill in.
pub(super) struct Reloc<'d> {
    pub piece: usize,
    pub offset: u64,
    pub r_type: elf::RelocationType,
    pub addend: i64,
    pub symbol: &'d str,
    pub target: Target,
}

/// What a relocation refers to.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub piece: usize,
    pub offset: u64,
}

pub(super) struct Input<'d> {
    pub machine: Machine,
    pub pieces: Vec<Piece<'d>>,
    pub symbols: Vec<Symbol<'d>>,
    pub relocs: Vec<Reloc<'d>>,
}

type File<'d> = ElfFile64<'d, Endianness>;

/// Pieces of an input section by their start, in ascending order: (start, size, index of the piece).
type Split = Vec<(u64, u64, usize)>;

pub(super) fn read<'d>(object: &'d [u8], float_functions: &HashSet<String>) -> Result<Input<'d>, LinkError> {
    let file = File::parse(object).map_err(unreadable)?;
    if file.kind() != object::ObjectKind::Relocatable || !file.is_little_endian() {
        return Err(LinkError::Object("not a little-endian relocatable file".into()));
    }
    let machine = match file.architecture() {
        object::Architecture::X86_64 => Machine::X86_64,
        object::Architecture::Aarch64 => Machine::Aarch64,
        other => return Err(LinkError::Machine(format!("{other:?}"))),
    };
    let mut reader =
        Reader { functions: functions(&file)?, file, float_functions, pieces: Vec::new(), splits: HashMap::new() };
    reader.split_sections()?;
    let symbols = reader.symbols()?;
    let relocs = reader.relocs()?;
    Ok(Input { machine, pieces: reader.pieces, symbols, relocs })
}

struct Reader<'d, 'e> {
    file: File<'d>,
    float_functions: &'e HashSet<String>,
    functions: HashMap<SectionIndex, Vec<Function<'d>>>,
    pieces: Vec<Piece<'d>>,
    splits: HashMap<SectionIndex, Split>,
}

struct Function<'d> {
    start: u64,
    size: u64,
    name: &'d str,
}

fn unreadable(error: object::read::Error) -> LinkError {
    LinkError::Object(error.to_string())
}

/// Functions of each section by their start. Several names of one function count as the first.
fn functions<'d>(file: &File<'d>) -> Result<HashMap<SectionIndex, Vec<Function<'d>>>, LinkError> {
    let mut all = HashMap::<_, Vec<Function<'d>>>::new();
    for symbol in file.symbols().filter(|s| s.kind() == SymbolKind::Text) {
        let Some(section) = symbol.section_index() else { continue };
        let name = symbol.name().map_err(unreadable)?;
        all.entry(section).or_default().push(Function { start: symbol.address(), size: symbol.size(), name });
    }
    for list in all.values_mut() {
        // A stable sort keeps the order of the symbol table among equal starts.
        list.sort_by_key(|f| f.start);
        list.dedup_by_key(|f| f.start);
    }
    Ok(all)
}

impl<'d> Reader<'d, '_> {
    fn split_sections(&mut self) -> Result<(), LinkError> {
        let sections: Vec<_> = self.file.sections().map(|s| s.index()).collect();
        for index in sections {
            let section = self.file.section_by_index(index).map_err(unreadable)?;
            let name = section.name().map_err(unreadable)?;
            let fail = |problem| Err(LinkError::Section { name: name.to_owned(), problem });
            let SectionFlags::Elf { sh_type, sh_flags } = section.flags() else { continue };
            let has = |flag: elf::SectionFlags| sh_flags.0 & flag.0 != 0;
            if !has(elf::SHF_ALLOC) || section.size() == 0 || name == ".eh_frame" {
                continue;
            }
            // Constants with references count as writable until a dynamic loader has settled them; here nothing is left to it.
            let constant = !has(elf::SHF_WRITE) || name.starts_with(".data.rel.ro");
            if !constant || has(elf::SHF_TLS) || sh_type == elf::SHT_NOBITS {
                return fail("holds writable data; a compiled model has no global state");
            }
            let (data, align) = (section.data().map_err(unreadable)?, section.align().max(1));
            if !align.is_power_of_two() {
                return fail("has an alignment that is no power of two");
            }
            let split = if has(elf::SHF_EXECINSTR) {
                self.split_text(index, name, data, align)?
            } else {
                self.pieces.push(Piece { name, home: Home::Rodata, data, align });
                vec![(0, data.len() as u64, self.pieces.len() - 1)]
            };
            self.splits.insert(index, split);
        }
        Ok(())
    }

    fn split_text(
        &mut self,
        index: SectionIndex,
        section: &str,
        data: &'d [u8],
        align: u64,
    ) -> Result<Split, LinkError> {
        let functions = self.functions.remove(&index).unwrap_or_default();
        if functions.is_empty() {
            return Err(LinkError::Section { name: section.to_owned(), problem: "has code without a function symbol" });
        }
        let mut split: Split = Vec::with_capacity(functions.len());
        for Function { start, size, name } in functions {
            let fail = |problem| LinkError::Symbol { name: name.to_owned(), problem };
            if size == 0 {
                return Err(fail("is a function of unknown size"));
            }
            if split.last().is_some_and(|(s, n, _)| start - s < *n) {
                return Err(fail("overlaps the function before it"));
            }
            let range = usize::try_from(start).ok().zip(start.checked_add(size).and_then(|e| usize::try_from(e).ok()));
            let data = range.and_then(|(begin, end)| data.get(begin..end));
            let data = data.ok_or_else(|| fail("reaches beyond its section"))?;
            let is_float = self.float_functions.contains(name) || section == FLOAT_TEXT;
            let home = if is_float { Home::FloatText } else { Home::Text };
            // As aligned as it was in its section.
            let align = if start == 0 { align } else { align.min(1 << start.trailing_zeros()) };
            split.push((start, size, self.pieces.len()));
            self.pieces.push(Piece { name, home, data, align });
        }
        Ok(split)
    }

    /// The piece that holds an offset of an input section.
    fn find(&self, section: SectionIndex, offset: u64) -> Option<Target> {
        let split = self.splits.get(&section)?;
        let (start, size, piece) = split[split.partition_point(|(start, _, _)| *start <= offset).checked_sub(1)?];
        // A constant without bytes may stand at the end of its section.
        (offset - start <= size).then_some(Target { piece, offset: offset - start })
    }

    fn symbols(&self) -> Result<Vec<Symbol<'d>>, LinkError> {
        let mut all = Vec::new();
        for symbol in self.file.symbols() {
            let function = symbol.kind() == SymbolKind::Text;
            if !function && symbol.kind() != SymbolKind::Data {
                continue;
            }
            let place = symbol.section_index().and_then(|s| self.find(s, symbol.address()));
            if let Some(Target { piece, offset }) = place {
                let name = symbol.name().map_err(unreadable)?;
                all.push(Symbol { name, piece, offset, size: symbol.size(), function });
            }
        }
        Ok(all)
    }

    fn relocs(&self) -> Result<Vec<Reloc<'d>>, LinkError> {
        let mut all = Vec::new();
        for section in self.file.sections().filter(|s| self.splits.contains_key(&s.index())) {
            let section_name = section.name().map_err(unreadable)?;
            for (offset, relocation) in section.relocations() {
                let RelocationFlags::Elf { r_type } = relocation.flags() else {
                    return Err(LinkError::Object("a relocation without an ELF type".into()));
                };
                let place = self.find(section.index(), offset).ok_or(LinkError::Section {
                    name: section_name.to_owned(),
                    problem: "has a relocation outside of every function",
                })?;
                let RelocationTarget::Symbol(index) = relocation.target() else {
                    return Err(LinkError::Object("a relocation without a symbol".into()));
                };
                let (symbol, target) = self.target(index)?;
                let (piece, offset, addend) = (place.piece, place.offset, relocation.addend());
                all.push(Reloc { piece, offset, r_type, addend, symbol, target });
            }
        }
        Ok(all)
    }

    fn target(&self, index: SymbolIndex) -> Result<(&'d str, Target), LinkError> {
        let symbol = self.file.symbol_by_index(index).map_err(unreadable)?;
        let section = symbol.section_index();
        let is_section = symbol.kind() == SymbolKind::Section;
        let name = match section.filter(|_| is_section) {
            Some(section) => self.file.section_by_index(section).and_then(|s| s.name()),
            None => symbol.name(),
        };
        let name = name.map_err(unreadable)?;
        let fail = |problem| LinkError::Symbol { name: name.to_owned(), problem };
        let section = section.ok_or_else(|| fail("is not defined; a compiled model calls nothing outside itself"))?;
        // The addend of a section symbol also holds the distance to the next instruction, so that the piece is unknown.
        if is_section && self.splits.get(&section).is_some_and(|split| split.len() > 1) {
            return Err(fail("is a section of several functions; refer to a function by its own symbol"));
        }
        let target = self.find(section, symbol.address());
        Ok((name, target.ok_or_else(|| fail("lies in a section that is not loaded"))?))
    }
}
