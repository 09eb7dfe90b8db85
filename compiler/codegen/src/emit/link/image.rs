//! Writing the shared object. Addresses equal file offsets throughout.

use super::input::{Home, Input, Machine, Symbol};
use super::layout::Layout;
use super::{EDGE_TEXT, LinkError, TEXT};
use object::write::elf::{FileHeader, ProgramHeader, SectionHeader, SectionIndex, Sym, Writer};
use object::{Endianness, elf};

/// Segments: three to load, then `.dynamic`, what becomes read-only, and the stack's flags.
const SEGMENTS: u32 = 6;

/// Entries of `.dynamic`.
const DYNAMIC: usize = 7;

/// Words of the Bloom filter of `.gnu.hash`.
const BLOOM_WORDS: u32 = 1;
const BLOOM_SHIFT: u32 = 6;

impl Machine {
    fn code(self) -> elf::Machine {
        match self {
            Machine::X86_64 => elf::EM_X86_64,
            Machine::Aarch64 => elf::EM_AARCH64,
        }
    }

    /// Largest page that a kernel may use: the distance between segments of different rights.
    fn page(self) -> u64 {
        match self {
            Machine::X86_64 => 0x1000,
            Machine::Aarch64 => 0x1_0000,
        }
    }

    /// Between functions: a trap.
    fn padding(self) -> [u8; 4] {
        match self {
            Machine::X86_64 => [0xcc; 4],
            // brk #0
            Machine::Aarch64 => 0xd420_0000u32.to_le_bytes(),
        }
    }
}

/// Indices of the output sections that symbols refer to, in the order of [`Home`].
type Sections = [SectionIndex; 3];

fn failed(error: object::write::Error) -> LinkError {
    LinkError::Write(error.to_string())
}

/// Writes everything but the relocated fields, and settles where the regions of `layout` start.
pub(super) fn write(
    input: &Input<'_>,
    layout: &mut Layout,
    exports: &[(&str, usize)],
    soname: &str,
) -> Result<Vec<u8>, LinkError> {
    let mut out = Vec::new();
    let mut w = Writer::new(Endianness::Little, true, &mut out);
    let page = input.machine.page();
    let exports = by_bucket(exports);
    let (buckets, count) = (bucket_count(exports.len()), exports.len() as u32);

    // Sections, in the order of their headers.
    w.reserve_gnu_hash_section_index();
    w.reserve_dynsym_section_index();
    w.reserve_dynstr_section_index();
    let home_names: [&[u8]; 3] = [b".rodata", TEXT.as_bytes(), EDGE_TEXT.as_bytes()];
    let present = layout.regions.map(|r| r.size > 0);
    let mut sections: Sections = Default::default();
    let mut names = [None; 3];
    for home in (0..3).filter(|&h| present[h]) {
        names[home] = Some(w.add_section_name(home_names[home]));
        sections[home] = w.reserve_section_index();
    }
    w.reserve_dynamic_section_index();
    w.reserve_symtab_section_index();
    w.reserve_strtab_section_index();
    w.reserve_shstrtab_section_index();

    // Symbols.
    let soname = w.add_dynamic_string(soname.as_bytes());
    let dynamic_names: Vec<_> = exports.iter().map(|(name, _)| w.add_dynamic_string(name.as_bytes())).collect();
    exports.iter().for_each(|_| _ = w.reserve_dynamic_symbol_index());
    let local_names: Vec<_> = input.symbols.iter().map(|s| w.add_string(s.name.as_bytes())).collect();
    let global_names: Vec<_> = exports.iter().map(|(name, _)| w.add_string(name.as_bytes())).collect();
    for _ in 0..local_names.len() + global_names.len() {
        w.reserve_symbol_index(None);
    }

    // The file, front to back.
    w.reserve_file_header();
    w.reserve_program_headers(SEGMENTS);
    let gnu_hash = w.reserve_gnu_hash(BLOOM_WORDS, buckets, count);
    let dynsym = w.reserve_dynsym();
    let dynstr = w.reserve_dynstr().map_err(failed)?;
    let [rodata, text, edge] = &mut layout.regions;
    rodata.start = w.reserve(rodata.size, rodata.align);
    let constants_end = w.reserved_len();
    text.start = w.reserve(text.size, page.max(text.align));
    let code_start = text.start;
    edge.start = w.reserve(edge.size, edge.align);
    let code_end = w.reserved_len();
    w.reserve(0, page);
    let dynamic = w.reserve_dynamic(DYNAMIC);
    let dynamic_size = w.reserved_len() - dynamic;
    w.reserve_symtab();
    w.reserve_strtab().map_err(failed)?;
    w.reserve_shstrtab().map_err(failed)?;
    w.reserve_section_headers();

    w.write_file_header(&FileHeader { e_type: elf::ET_DYN, e_machine: input.machine.code(), ..Default::default() })
        .map_err(failed)?;
    w.write_align_program_headers();
    let segment = |p_type, p_flags, start: u64, size: u64, memory: u64, p_align| ProgramHeader {
        p_type,
        p_flags,
        p_offset: start,
        p_vaddr: start,
        p_paddr: start,
        p_filesz: size,
        p_memsz: memory,
        p_align,
    };
    let (read, write, execute) = (elf::PF_R, elf::PF_R | elf::PF_W, elf::PF_R | elf::PF_X);
    let code = code_end - code_start;
    let constants_align = page.max(layout.regions[0].align);
    let code_align = page.max(layout.regions[1].align).max(layout.regions[2].align);
    w.write_program_header(&segment(elf::PT_LOAD, read, 0, constants_end, constants_end, constants_align));
    w.write_program_header(&segment(elf::PT_LOAD, execute, code_start, code, code, code_align));
    // A whole page in memory: a loader rounds the end of what becomes read-only down to a page.
    w.write_program_header(&segment(elf::PT_LOAD, write, dynamic, dynamic_size, page, page));
    w.write_program_header(&segment(elf::PT_DYNAMIC, write, dynamic, dynamic_size, dynamic_size, 8));
    w.write_program_header(&segment(elf::PT_GNU_RELRO, read, dynamic, dynamic_size, page, 1));
    w.write_program_header(&segment(elf::PT_GNU_STACK, write, 0, 0, 0, 16));

    let symbol = |symbol: &Symbol<'_>, name: u32, bind| {
        let kind = if symbol.function { elf::STT_FUNC } else { elf::STT_OBJECT };
        Sym {
            section: Some(sections[input.pieces[symbol.piece].home as usize].0),
            st_name: name,
            st_info: elf::SymbolInfo::new(bind, kind),
            st_value: layout.address(symbol.piece, symbol.offset),
            st_size: symbol.size,
            st_other: elf::SymbolOther(0),
            st_shndx: elf::SymbolSection(0),
        }
    };
    w.write_gnu_hash(1, BLOOM_SHIFT, BLOOM_WORDS, buckets, count, |i| {
        exports.get(i as usize).map_or(0, |(name, _)| elf::gnu_hash(name.as_bytes()))
    });
    w.write_null_dynamic_symbol();
    for ((_, index), name) in exports.iter().zip(&dynamic_names) {
        let name = w.dynamic_string_offset(Some(*name));
        w.write_dynamic_symbol(&symbol(&input.symbols[*index], name, elf::STB_GLOBAL));
    }
    w.write_dynstr();

    for home in [Home::Rodata, Home::Text, Home::Edge] {
        let region = layout.regions[home as usize];
        w.pad_until(region.start);
        for (piece, address) in layout.pieces(home) {
            if home != Home::Rodata {
                let gap = (address - w.offset()) as usize;
                let padding: Vec<u8> = input.machine.padding().into_iter().cycle().take(gap).collect();
                w.write(&padding);
            }
            w.pad_until(address);
            w.write(input.pieces[piece].data);
        }
    }

    w.pad_until(dynamic);
    w.write_align_dynamic();
    w.write_dynamic_string(elf::DT_SONAME, soname).map_err(failed)?;
    let dynstr_size = w.dynstr_len().into();
    for (tag, value) in [
        (elf::DT_GNU_HASH, gnu_hash),
        (elf::DT_STRTAB, dynstr),
        (elf::DT_SYMTAB, dynsym),
        (elf::DT_STRSZ, dynstr_size),
        (elf::DT_SYMENT, size_of::<elf::Sym64<Endianness>>() as u64),
        (elf::DT_NULL, 0),
    ] {
        w.write_dynamic(tag, value).map_err(failed)?;
    }

    w.write_null_symbol();
    for (local, name) in input.symbols.iter().zip(&local_names) {
        let name = w.string_offset(Some(*name));
        w.write_symbol(&symbol(local, name, elf::STB_LOCAL));
    }
    for ((_, index), name) in exports.iter().zip(&global_names) {
        let name = w.string_offset(Some(*name));
        w.write_symbol(&symbol(&input.symbols[*index], name, elf::STB_GLOBAL));
    }
    w.write_strtab();
    w.write_shstrtab();

    w.write_null_section_header();
    w.write_gnu_hash_section_header(gnu_hash);
    w.write_dynsym_section_header(dynsym, 1);
    w.write_dynstr_section_header(dynstr);
    for home in (0..3).filter(|&h| present[h]) {
        let region = layout.regions[home];
        let code = if home == Home::Rodata as usize { elf::SectionFlags(0) } else { elf::SHF_EXECINSTR };
        w.write_section_header(&SectionHeader {
            sh_name: w.section_name_offset(names[home]),
            sh_type: elf::SHT_PROGBITS,
            sh_flags: elf::SHF_ALLOC | code,
            sh_addr: region.start,
            sh_offset: region.start,
            sh_size: region.size,
            sh_addralign: region.align,
            ..SectionHeader::default()
        });
    }
    w.write_dynamic_section_header(dynamic);
    w.write_symtab_section_header(1 + local_names.len() as u32);
    w.write_strtab_section_header();
    w.write_shstrtab_section_header();
    drop(w);
    Ok(out)
}

fn bucket_count(symbols: usize) -> u32 {
    (symbols as u32 / 2).max(1)
}

/// Exports in the order that `.gnu.hash` demands: by bucket, then by name.
fn by_bucket<'a>(exports: &[(&'a str, usize)]) -> Vec<(&'a str, usize)> {
    let buckets = bucket_count(exports.len());
    let mut sorted = exports.to_vec();
    sorted.sort_by_key(|(name, _)| (elf::gnu_hash(name.as_bytes()) % buckets, *name));
    sorted
}
