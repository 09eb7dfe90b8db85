//! Writing the shared object. Addresses equal file offsets throughout.

use super::error::LinkError;
use super::input::{FLOAT_TEXT, Home, Input, Machine, Symbol, TEXT};
use super::layout::Layout;
use object::write::StringId;
use object::write::elf::{FileHeader, ProgramHeader, SectionHeader, SectionIndex, Sym, Writer};
use object::{Endianness, elf};

/// Segments: three to load, then `.dynamic`, what becomes read-only, and the stack's flags.
const SEGMENTS: u32 = 6;

/// Entries of `.dynamic`.
const DYNAMIC: usize = 7;

/// Words of the Bloom filter of `.gnu.hash`.
const BLOOM_WORDS: u32 = 1;
const BLOOM_SHIFT: u32 = 6;

/// Output sections in the order in which they lie in the file.
const HOMES: [(Home, &str); 3] = [(Home::Rodata, ".rodata"), (Home::Text, TEXT), (Home::FloatText, FLOAT_TEXT)];

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
    let exports = by_bucket(exports);
    let names = Names::reserve(&mut w, input, layout, &exports, soname);
    let places = Places::reserve(&mut w, input.machine, layout, exports.len())?;
    let image = Image { input, layout, exports: &exports, names, places };
    image.headers(&mut w)?;
    image.dynamic_symbols(&mut w);
    image.pieces(&mut w);
    image.dynamic(&mut w)?;
    image.symbols(&mut w);
    image.section_headers(&mut w);
    drop(w);
    Ok(out)
}

/// Section indices and strings, which must be known before anything has a place.
struct Names {
    /// Output sections in the order of [`Home`]; `None` for those without content.
    homes: [Option<(SectionIndex, StringId)>; 3],
    soname: StringId,
    dynamic: Vec<StringId>,
    local: Vec<StringId>,
    global: Vec<StringId>,
}

impl Names {
    fn reserve<'a>(
        w: &mut Writer<'a>,
        input: &Input<'a>,
        layout: &Layout,
        exports: &[(&'a str, usize)],
        soname: &'a str,
    ) -> Names {
        w.reserve_gnu_hash_section_index();
        w.reserve_dynsym_section_index();
        w.reserve_dynstr_section_index();
        let mut homes = [None; 3];
        for (home, name) in HOMES {
            if layout.regions[home as usize].size > 0 {
                homes[home as usize] = Some((w.reserve_section_index(), w.add_section_name(name.as_bytes())));
            }
        }
        w.reserve_dynamic_section_index();
        w.reserve_symtab_section_index();
        w.reserve_strtab_section_index();
        w.reserve_shstrtab_section_index();

        let soname = w.add_dynamic_string(soname.as_bytes());
        let dynamic: Vec<_> = exports.iter().map(|(name, _)| w.add_dynamic_string(name.as_bytes())).collect();
        dynamic.iter().for_each(|_| _ = w.reserve_dynamic_symbol_index());
        // An empty table still has its null symbol.
        if dynamic.is_empty() {
            w.reserve_null_dynamic_symbol_index();
        }
        let local: Vec<_> = input.symbols.iter().map(|s| w.add_string(s.name.as_bytes())).collect();
        let global: Vec<_> = exports.iter().map(|(name, _)| w.add_string(name.as_bytes())).collect();
        local.iter().chain(&global).for_each(|_| _ = w.reserve_symbol_index(None));
        Names { homes, soname, dynamic, local, global }
    }
}

/// Offsets in the file, which are also the addresses.
struct Places {
    gnu_hash: u64,
    dynsym: u64,
    dynstr: u64,
    constants_end: u64,
    code: std::ops::Range<u64>,
    dynamic: std::ops::Range<u64>,
}

impl Places {
    fn reserve(w: &mut Writer<'_>, machine: Machine, layout: &mut Layout, exports: usize) -> Result<Places, LinkError> {
        w.reserve_file_header();
        w.reserve_program_headers(SEGMENTS);
        let gnu_hash = w.reserve_gnu_hash(BLOOM_WORDS, bucket_count(exports), exports as u32);
        let dynsym = w.reserve_dynsym();
        let dynstr = w.reserve_dynstr().map_err(failed)?;
        let [rodata, text, float_text] = &mut layout.regions;
        rodata.start = w.reserve(rodata.size, rodata.align);
        let constants_end = w.reserved_len();
        text.start = w.reserve(text.size, machine.page().max(text.align));
        float_text.start = w.reserve(float_text.size, float_text.align);
        let code = text.start..w.reserved_len();
        w.reserve(0, machine.page());
        let dynamic = w.reserve_dynamic(DYNAMIC);
        let dynamic = dynamic..w.reserved_len();
        w.reserve_symtab();
        w.reserve_strtab().map_err(failed)?;
        w.reserve_shstrtab().map_err(failed)?;
        w.reserve_section_headers();
        Ok(Places { gnu_hash, dynsym, dynstr, constants_end, code, dynamic })
    }
}

/// Everything that the parts of the file are written from, front to back.
struct Image<'i, 'd> {
    input: &'i Input<'d>,
    layout: &'i Layout,
    exports: &'i [(&'i str, usize)],
    names: Names,
    places: Places,
}

impl Image<'_, '_> {
    fn headers(&self, w: &mut Writer<'_>) -> Result<(), LinkError> {
        let machine = self.input.machine;
        let header = FileHeader { e_type: elf::ET_DYN, e_machine: machine.code(), ..FileHeader::default() };
        w.write_file_header(&header).map_err(failed)?;
        w.write_align_program_headers();
        let Places { constants_end, code, dynamic, .. } = &self.places;
        let (read, write, execute) = (elf::PF_R, elf::PF_R | elf::PF_W, elf::PF_R | elf::PF_X);
        let page = machine.page();
        let [rodata, text, float_text] = self.layout.regions.map(|r| page.max(r.align));
        // The writable segment has a whole page in memory: a loader rounds the end of what becomes read-only down to a page.
        for (p_type, p_flags, range, memory, p_align) in [
            (elf::PT_LOAD, read, 0..*constants_end, 0, rodata),
            (elf::PT_LOAD, execute, code.clone(), 0, text.max(float_text)),
            (elf::PT_LOAD, write, dynamic.clone(), page, page),
            (elf::PT_DYNAMIC, write, dynamic.clone(), 0, 8),
            (elf::PT_GNU_RELRO, read, dynamic.clone(), page, 1),
            (elf::PT_GNU_STACK, write, 0..0, 0, 16),
        ] {
            let (start, size) = (range.start, range.end - range.start);
            w.write_program_header(&ProgramHeader {
                p_type,
                p_flags,
                p_offset: start,
                p_vaddr: start,
                p_paddr: start,
                p_filesz: size,
                p_memsz: size.max(memory),
                p_align,
            });
        }
        Ok(())
    }

    fn symbol(&self, symbol: &Symbol<'_>, name: u32, bind: elf::SymbolBind) -> Sym {
        let kind = if symbol.function { elf::STT_FUNC } else { elf::STT_OBJECT };
        let home = self.names.homes[self.input.pieces[symbol.piece].home as usize];
        Sym {
            section: home.map(|(section, _)| section.0),
            st_name: name,
            st_info: elf::SymbolInfo::new(bind, kind),
            st_other: elf::SymbolOther(0),
            st_shndx: elf::SymbolSection(0),
            st_value: self.layout.address(symbol.piece, symbol.offset),
            st_size: symbol.size,
        }
    }

    fn dynamic_symbols(&self, w: &mut Writer<'_>) {
        let count = self.exports.len();
        w.write_gnu_hash(1, BLOOM_SHIFT, BLOOM_WORDS, bucket_count(count), count as u32, |i| {
            self.exports.get(i as usize).map_or(0, |(name, _)| elf::gnu_hash(name.as_bytes()))
        });
        w.write_null_dynamic_symbol();
        for ((_, index), name) in self.exports.iter().zip(&self.names.dynamic) {
            let name = w.dynamic_string_offset(Some(*name));
            w.write_dynamic_symbol(&self.symbol(&self.input.symbols[*index], name, elf::STB_GLOBAL));
        }
        w.write_dynstr();
    }

    fn pieces(&self, w: &mut Writer<'_>) {
        for (home, _) in HOMES {
            w.pad_until(self.layout.regions[home as usize].start);
            for (piece, address) in self.layout.pieces(home) {
                if home != Home::Rodata {
                    let gap = (address - w.offset()) as usize;
                    let padding: Vec<u8> = self.input.machine.padding().into_iter().cycle().take(gap).collect();
                    w.write(&padding);
                }
                w.pad_until(address);
                w.write(self.input.pieces[piece].data);
            }
        }
    }

    fn dynamic(&self, w: &mut Writer<'_>) -> Result<(), LinkError> {
        w.pad_until(self.places.dynamic.start);
        w.write_align_dynamic();
        w.write_dynamic_string(elf::DT_SONAME, self.names.soname).map_err(failed)?;
        let dynstr_size = w.dynstr_len().into();
        for (tag, value) in [
            (elf::DT_GNU_HASH, self.places.gnu_hash),
            (elf::DT_STRTAB, self.places.dynstr),
            (elf::DT_SYMTAB, self.places.dynsym),
            (elf::DT_STRSZ, dynstr_size),
            (elf::DT_SYMENT, size_of::<elf::Sym64<Endianness>>() as u64),
            (elf::DT_NULL, 0),
        ] {
            w.write_dynamic(tag, value).map_err(failed)?;
        }
        Ok(())
    }

    fn symbols(&self, w: &mut Writer<'_>) {
        w.write_null_symbol();
        for (local, name) in self.input.symbols.iter().zip(&self.names.local) {
            let name = w.string_offset(Some(*name));
            w.write_symbol(&self.symbol(local, name, elf::STB_LOCAL));
        }
        for ((_, index), name) in self.exports.iter().zip(&self.names.global) {
            let name = w.string_offset(Some(*name));
            w.write_symbol(&self.symbol(&self.input.symbols[*index], name, elf::STB_GLOBAL));
        }
        w.write_strtab();
        w.write_shstrtab();
    }

    fn section_headers(&self, w: &mut Writer<'_>) {
        w.write_null_section_header();
        w.write_gnu_hash_section_header(self.places.gnu_hash);
        w.write_dynsym_section_header(self.places.dynsym, 1);
        w.write_dynstr_section_header(self.places.dynstr);
        for (home, _) in HOMES {
            let Some((_, name)) = self.names.homes[home as usize] else { continue };
            let region = self.layout.regions[home as usize];
            let code = if home == Home::Rodata { elf::SectionFlags(0) } else { elf::SHF_EXECINSTR };
            w.write_section_header(&SectionHeader {
                sh_name: w.section_name_offset(Some(name)),
                sh_type: elf::SHT_PROGBITS,
                sh_flags: elf::SHF_ALLOC | code,
                sh_addr: region.start,
                sh_offset: region.start,
                sh_size: region.size,
                sh_addralign: region.align,
                ..SectionHeader::default()
            });
        }
        w.write_dynamic_section_header(self.places.dynamic.start);
        w.write_symtab_section_header(1 + self.names.local.len() as u32);
        w.write_strtab_section_header();
        w.write_shstrtab_section_header();
    }
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
