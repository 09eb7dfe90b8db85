//! The float-free certificate: a disassembly of a compiled model that lists every instruction which is not integer code.
//!
//! What is decoded:
//! - Every instruction that control flow can reach from the start of any function, through direct jumps and calls. Bytes of a
//!   function that are never reached are its constants; they are counted, not decoded.
//! - Every byte outside of the functions that the symbol table names, one instruction after the other.
//!
//! What spoils the certificate ([`Finding`]): an instruction that computes with floats; one that is on no list of what qcc
//! emits; bytes that do not decode; a jump through a register, which could lead anywhere; and a reference from integer code into
//! the float edge ([`EDGE_TEXT`]), which is decoded and counted apart.
//!
//! Moves and bit operations that carry a float's name (`movups`, `xorps`, `fmov`) neither compute nor convert: they are counted as
//! neutral. The lists are allow-lists, so that an instruction which the decoder learns tomorrow is refused until it is listed.

mod aarch64;
mod flow;
mod listing;
mod x86;

pub use listing::listing;

use crate::emit::link::EDGE_TEXT;
use object::read::elf::ElfFile64;
use object::{Architecture, Endianness, Object, ObjectSection, ObjectSymbol, SectionFlags, SymbolKind, elf};
use qcc_runtime::abi::symbol;
use std::fmt;

/// What one instruction does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Integer arithmetic, addresses, control flow, loads and stores.
    Integer,
    /// Moves or combines bits under a float's name.
    Neutral,
    /// Computes, converts or compares floats, or controls how that is done.
    Float,
    /// None of what qcc emits.
    Foreign,
}

/// Why a place spoils the certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Problem {
    /// An instruction of [`Class::Float`].
    Float,
    /// An instruction of [`Class::Foreign`].
    Foreign,
    /// Bytes that are no instruction.
    Undecodable,
    /// A jump to an address that is computed at run time.
    IndirectJump,
    /// A direct jump or call to a place without code.
    LeavesCode,
    /// Integer code that refers to the float edge.
    EntersEdge,
    /// The address of something inside a function is taken as if to call it.
    InnerAddress,
}

/// One place that spoils the certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Virtual address in the file.
    pub address: u64,
    /// Function that holds it; empty outside of all functions.
    pub function: String,
    /// Why it is listed.
    pub problem: Problem,
    /// The instruction, in the notation of GNU tools, or its bytes.
    pub text: String,
}

/// Counts over some sections.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Names of the sections.
    pub sections: Vec<String>,
    /// Instructions decoded, of all classes.
    pub instructions: u64,
    /// Instructions of [`Class::Neutral`].
    pub neutral: u64,
    /// Instructions of [`Class::Float`].
    pub float: u64,
    /// Bytes of functions that control flow never reaches: constants and padding.
    pub unreached_bytes: u64,
    /// Everything that spoils the certificate, by address.
    pub findings: Vec<Finding>,
}

/// The certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// `x86_64` or `aarch64`.
    pub machine: &'static str,
    /// All executable sections but the float edge.
    pub integer: Tally,
    /// The float edge, where float instructions are at home and no finding counts.
    pub edge: Tally,
}

impl Report {
    /// True if the integer code is proved to contain no float instruction.
    pub fn is_float_free(&self) -> bool {
        self.integer.instructions > 0 && self.integer.findings.is_empty()
    }
}

/// Why a file could not be checked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// Not an ELF file, or a damaged one.
    #[error("not a readable 64-bit ELF file: {0}")]
    Elf(String),
    /// A machine that qcc does not emit for.
    #[error("code for {0} cannot be checked")]
    Machine(String),
    /// A file without executable sections.
    #[error("the file has no code")]
    NoCode,
    /// Code of some other origin.
    #[error("not a model compiled by qcc: it exports no `{}`", symbol::INFO)]
    NotAModel,
}

/// Checks a compiled model.
pub fn certify(file: &[u8]) -> Result<Report, CheckError> {
    let report = inspect(file)?;
    let elf = parse(file)?;
    let is_model = elf.dynamic_symbols().any(|s| s.is_definition() && s.name() == Ok(symbol::INFO));
    if is_model { Ok(report) } else { Err(CheckError::NotAModel) }
}

/// Checks the code of any ELF file, model or not.
pub fn inspect(file: &[u8]) -> Result<Report, CheckError> {
    let Contents { machine, isa, sections, functions } = contents(file)?;
    let (integer, edge) = flow::Walk::new(isa, sections, functions).run();
    Ok(Report { machine, integer, edge })
}

/// What of a file is code.
struct Contents<'d> {
    machine: &'static str,
    isa: flow::Isa,
    sections: Vec<flow::Section<'d>>,
    functions: Vec<flow::Function>,
}

fn contents(file: &[u8]) -> Result<Contents<'_>, CheckError> {
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

fn parse(file: &[u8]) -> Result<ElfFile64<'_, Endianness>, CheckError> {
    let elf = ElfFile64::<Endianness>::parse(file).map_err(unreadable)?;
    if elf.is_little_endian() { Ok(elf) } else { Err(CheckError::Machine("a big-endian machine".into())) }
}

fn unreadable(error: object::read::Error) -> CheckError {
    CheckError::Elf(error.to_string())
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Problem::Float => "float instruction",
            Problem::Foreign => "instruction that qcc does not emit",
            Problem::Undecodable => "undecodable bytes",
            Problem::IndirectJump => "jump to a computed address",
            Problem::LeavesCode => "jump or call to a place without code",
            Problem::EntersEdge => "reference from integer code into the float edge",
            Problem::InnerAddress => "address inside a function taken",
        })
    }
}

/// `0x1040 in conv1: float instruction: mulps %xmm1,%xmm0`
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.address)?;
        if !self.function.is_empty() {
            write!(f, " in {}", self.function)?;
        }
        write!(f, ": {}: {}", self.problem, self.text)
    }
}

#[cfg(test)]
mod tests;
