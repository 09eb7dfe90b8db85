//! What a check finds.

use std::fmt;

use qcc_runtime::abi::symbol;

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

/// Why a location spoils the certificate.
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
    /// Integer code that refers to the float interface.
    EntersFloatText,
    /// The address of something inside a function is taken as if to call it.
    InnerAddress,
}

/// One location that spoils the certificate.
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
    /// All executable sections but the float interface.
    pub integer: Tally,
    /// The float interface, where float instructions are at home and no finding counts.
    pub float_interface: Tally,
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
    /// A file that a loader would see otherwise than its section headers say, or that does more than a model may.
    #[error("not as qcc writes models: {0}")]
    Mapping(String),
    /// A file without executable sections.
    #[error("the file has no code")]
    NoCode,
    /// Code of some other origin.
    #[error("not a model compiled by qcc: it exports no `{}`", symbol::INFO)]
    NotAModel,
}

pub(super) fn unreadable(error: object::read::Error) -> CheckError {
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
            Problem::EntersFloatText => "reference from integer code into the float interface",
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
