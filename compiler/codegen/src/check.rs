//! The float-free certificate: a disassembly of a compiled model that lists every instruction which is not integer code.
//!
//! What is decoded:
//! - Every instruction that control flow can reach from the start of any function, through direct jumps and calls. Bytes of a
//!   function that are never reached are its constants; they are counted, not decoded.
//! - Every byte outside of the functions that the symbol table names, one instruction after the other.
//!
//! What spoils the certificate ([`Finding`]): an instruction that computes with floats; one that is on no list of what qcc
//! emits; bytes that do not decode; a jump through a register, which could lead anywhere; and a reference from integer code into
//! the float interface ([`FLOAT_TEXT`](crate::emit::link::FLOAT_TEXT)), which is decoded and counted apart.
//!
//! What is code follows from the program headers, as a loader sees the file. A file whose section headers say otherwise, in which anything runs
//! when it is loaded, which needs symbols or files from elsewhere, or has a page that is writable and executable, is refused.
//!
//! Moves and bit operations that carry a float's name (`movups`, `xorps`, `fmov`) neither compute nor convert: they are counted as
//! neutral. The lists are allow-lists, so that an instruction which the decoder learns tomorrow is refused until it is listed.

mod aarch64;
mod claims;
mod contents;
mod flow;
mod listing;
mod mapping;
mod report;
mod x86;

use object::{Object, ObjectKind, ObjectSymbol};
use qcc_runtime::abi::symbol;
use std::collections::HashSet;

use crate::emit::link::{LinkOptions, link_shared};
pub use claims::{Claims, SumClaim, claims, manifest};
use contents::{Contents, contents, parse};
pub use listing::listing;
pub use report::{CheckError, Class, Finding, Problem, Report, Tally};

/// Checks a compiled model: a shared object, or a relocatable one, which is linked first.
pub fn certify(file: &[u8]) -> Result<Report, CheckError> {
    let linked;
    let file = match parse(file)?.kind() {
        ObjectKind::Relocatable => {
            linked = link_model(file)?;
            &linked
        }
        _ => file,
    };
    let report = inspect(file)?;
    let elf = parse(file)?;
    let is_model = elf.dynamic_symbols().any(|s| s.is_definition() && s.name() == Ok(symbol::INFO));
    if !is_model {
        return Err(CheckError::NotAModel);
    }
    mapping::check(&elf)?;
    Ok(report)
}

/// The shared object that a model's relocatable object makes.
fn link_model(file: &[u8]) -> Result<Vec<u8>, CheckError> {
    let is_model = parse(file)?.symbols().any(|s| s.is_definition() && s.name() == Ok(symbol::INFO));
    if !is_model {
        return Err(CheckError::NotAModel);
    }
    let exports = [(symbol::INFO.to_string(), vec![symbol::INFO.to_string()])];
    let options = LinkOptions { soname: "", exports: &exports, float_functions: &HashSet::new() };
    link_shared(file, &options).map_err(|e| CheckError::Elf(e.to_string()))
}

/// Checks the code of any ELF file, model or not.
pub fn inspect(file: &[u8]) -> Result<Report, CheckError> {
    let Contents { machine, isa, sections, functions } = contents(file)?;
    let (integer, float_interface) = flow::Walk::new(isa, sections, functions).run();
    Ok(Report { machine, integer, float_interface })
}

#[cfg(test)]
mod tests;
