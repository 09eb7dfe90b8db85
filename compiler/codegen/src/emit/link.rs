//! A relocatable object into a shared object, without any linker.
//!
//! What comes out is the smallest thing that a dynamic loader accepts, and its bytes depend on nothing but the input:
//!
//! ```text
//! R    ELF header, .gnu.hash, .dynsym, .dynstr, .rodata      weights: mapped, never copied
//! R X  .text, .text.qcc_edge                                 integer code; float interface
//! RW   .dynamic                                              read-only after loading (PT_GNU_RELRO)
//! -    .symtab, .strtab                                      names of all functions, for disassembly
//! ```
//!
//! - No `DT_NEEDED`, no dynamic relocation, no writable data: the object may refer to itself only, by PC-relative relocations.
//!   Anything else is an error that names the relocation and where it stands.
//! - `.dynamic` alone lies in a writable page, because glibc before 2.35 stores into it while it loads.
//! - Functions are moved one by one (by their symbols), so that those of the float interface get a section of their own.
//!
//! The object is one that `cranelift-object` writes with `is_pic = false`, for x86-64 or aarch64.

mod error;
mod image;
mod input;
mod layout;
mod reloc;
mod relocatable;

use std::collections::HashSet;

pub use error::LinkError;
pub use input::{FLOAT_TEXT, TEXT};
pub use relocatable::link_relocatable;

/// What [`link_shared`] needs to know beside the object.
#[derive(Debug, Clone, Copy)]
pub struct LinkOptions<'a> {
    /// `DT_SONAME`: the file name of the shared object.
    pub soname: &'a str,
    /// Symbols of the object with the names that they are exported by, in any order. Nothing else is exported.
    pub exports: &'a [(String, Vec<String>)],
    /// Functions of the object that belong to the float interface.
    pub float_functions: &'a HashSet<String>,
}

/// Links a relocatable object into the bytes of a shared object.
///
/// Constants are copied once, from `object` into the result.
pub fn link_shared(object: &[u8], options: &LinkOptions<'_>) -> Result<Vec<u8>, LinkError> {
    let input = input::read(object, options.float_functions)?;
    if input.pieces.iter().all(|piece| piece.home == input::Home::Rodata) {
        return Err(LinkError::Object("it has no code".into()));
    }
    let mut layout = layout::Layout::new(&input);
    let exports = exports(&input, options)?;
    let mut out = image::write(&input, &mut layout, &exports, options.soname)?;
    for field in &input.relocs {
        let place = layout.address(field.piece, field.offset);
        let target = layout.address(field.target.piece, field.target.offset);
        reloc::apply(input.machine, field, &mut out, place, target).map_err(|problem| LinkError::Relocation {
            kind: reloc::name(input.machine, field.r_type),
            symbol: field.symbol.to_owned(),
            place: input.pieces[field.piece].name.to_owned(),
            problem,
        })?;
    }
    Ok(out)
}

/// Exported name and the symbol behind it (an index into [`input::Input::symbols`]), sorted by name.
fn exports<'a>(input: &input::Input<'_>, options: &LinkOptions<'a>) -> Result<Vec<(&'a str, usize)>, LinkError> {
    let mut all = Vec::new();
    for (symbol, names) in options.exports {
        let index = input.symbols.iter().position(|s| s.name == symbol);
        let index = index.ok_or(LinkError::Symbol { name: symbol.clone(), problem: "is exported but not defined" })?;
        all.extend(names.iter().map(|name| (name.as_str(), index)));
    }
    all.sort_unstable();
    let invalid = |name: &str, problem| Err(LinkError::Symbol { name: name.to_owned(), problem });
    if let Some((name, _)) = all.iter().find(|(name, _)| name.is_empty() || name.contains('\0')) {
        return invalid(name, "is no name");
    }
    match all.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => invalid(pair[0].0, "is exported twice"),
        None => Ok(all),
    }
}

#[cfg(test)]
mod tests;
