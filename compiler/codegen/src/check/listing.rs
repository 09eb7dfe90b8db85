//! The machine code of a compiled model as text, function by function, in the notation of GNU tools.

use std::fmt::Write as _;

use super::contents::{Contents, contents};
use super::report::CheckError;

/// Lists every function that the symbol table names. Bytes that do not decode are written as numbers.
pub fn listing(file: &[u8]) -> Result<String, CheckError> {
    let Contents { isa, sections, mut functions, .. } = contents(file)?;
    functions.sort_by_key(|f| (f.start, std::cmp::Reverse(f.size)));
    functions.dedup_by_key(|f| f.start);
    let mut out = String::new();
    for function in functions.iter().filter(|f| f.size > 0) {
        let place = sections.iter().find_map(|s| s.bytes_from(function.start));
        let Some(bytes) = place.and_then(|bytes| bytes.get(..usize::try_from(function.size).ok()?)) else { continue };
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{:016x} <{}>:", function.start, function.name);
        let mut at = 0;
        while at < bytes.len() {
            let address = function.start + at as u64;
            let length = match (isa.decode)(&bytes[at..], address) {
                Some(decoded) if decoded.bytes > 0 && decoded.bytes <= bytes.len() - at => {
                    let _ = writeln!(out, "  {address:8x}:  {}", (isa.write)(&bytes[at..], address));
                    decoded.bytes
                }
                _ => {
                    let _ = writeln!(out, "  {address:8x}:  .byte {:#04x}", bytes[at]);
                    1
                }
            };
            at += length;
        }
        out.push('\n');
    }
    Ok(out)
}
