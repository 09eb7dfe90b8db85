//! The relocations that code and constants of one object have among themselves: all relative to their own place.
//!
//! With `S + A` the target and `P` the place: a field holds `S + A - P`, or for aarch64 pages `page(S + A) - page(P)` in one
//! instruction and the low 12 bits of `S + A` in the next.

use super::input::{Machine, Reloc};
use object::elf;

/// Fills in one field of `out`, where addresses are offsets. `place` and `target` are the addresses of the field and of the symbol.
pub(super) fn apply(
    machine: Machine,
    reloc: &Reloc<'_>,
    out: &mut [u8],
    place: u64,
    target: u64,
) -> Result<(), &'static str> {
    let field = out.get_mut(place as usize..).ok_or("lies beyond its section")?;
    let target = (target as i64).checked_add(reloc.addend).ok_or("has an addend out of range")?;
    let place = place as i64;
    match machine {
        Machine::X86_64 => x86_64(reloc.r_type, field, place, target),
        Machine::Aarch64 => aarch64(reloc.r_type, field, place, target),
    }
}

const NOT_RELATIVE: &str =
    "is not settled by a linker without loader: declare its target local and compile with is_pic = false";
const TOO_FAR: &str = "does not reach its target";
const BEYOND: &str = "lies beyond its section";

fn x86_64(kind: elf::RelocationType, field: &mut [u8], place: i64, target: i64) -> Result<(), &'static str> {
    match kind {
        elf::R_X86_64_PC32 | elf::R_X86_64_PLT32 => put32(field, place, target),
        elf::R_X86_64_PC64 => put64(field, place, target),
        _ => Err(NOT_RELATIVE),
    }
}

fn aarch64(kind: elf::RelocationType, field: &mut [u8], place: i64, target: i64) -> Result<(), &'static str> {
    let distance = target - place;
    let page = |address: i64| address >> 12;
    let low = target & 0xfff;
    match kind {
        elf::R_AARCH64_PREL32 => put32(field, place, target),
        elf::R_AARCH64_PREL64 => put64(field, place, target),
        elf::R_AARCH64_CALL26 | elf::R_AARCH64_JUMP26 => insert(field, instruction_offset(distance, 26)?, 0, 26),
        elf::R_AARCH64_CONDBR19 | elf::R_AARCH64_LD_PREL_LO19 => {
            insert(field, instruction_offset(distance, 19)?, 5, 19)
        }
        elf::R_AARCH64_TSTBR14 => insert(field, instruction_offset(distance, 14)?, 5, 14),
        elf::R_AARCH64_ADR_PREL_LO21 => adr(field, fits(distance, 21)?),
        elf::R_AARCH64_ADR_PREL_PG_HI21 => adr(field, fits(page(target) - page(place), 21)?),
        elf::R_AARCH64_ADD_ABS_LO12_NC | elf::R_AARCH64_LDST8_ABS_LO12_NC => insert(field, low, 10, 12),
        elf::R_AARCH64_LDST16_ABS_LO12_NC => insert(field, scaled(low, 1)?, 10, 12),
        elf::R_AARCH64_LDST32_ABS_LO12_NC => insert(field, scaled(low, 2)?, 10, 12),
        elf::R_AARCH64_LDST64_ABS_LO12_NC => insert(field, scaled(low, 3)?, 10, 12),
        elf::R_AARCH64_LDST128_ABS_LO12_NC => insert(field, scaled(low, 4)?, 10, 12),
        _ => Err(NOT_RELATIVE),
    }
}

fn put32(field: &mut [u8], place: i64, target: i64) -> Result<(), &'static str> {
    let value = i32::try_from(target - place).map_err(|_| TOO_FAR)?;
    *field.first_chunk_mut().ok_or(BEYOND)? = value.to_le_bytes();
    Ok(())
}

fn put64(field: &mut [u8], place: i64, target: i64) -> Result<(), &'static str> {
    *field.first_chunk_mut().ok_or(BEYOND)? = (target - place).to_le_bytes();
    Ok(())
}

/// `value` if it is a signed number of `bits` bits.
fn fits(value: i64, bits: u32) -> Result<i64, &'static str> {
    let limit = 1 << (bits - 1);
    if (-limit..limit).contains(&value) { Ok(value) } else { Err(TOO_FAR) }
}

/// A distance in instructions, as a signed number of `bits` bits.
fn instruction_offset(distance: i64, bits: u32) -> Result<i64, &'static str> {
    if distance % 4 == 0 { fits(distance / 4, bits) } else { Err("has a target between instructions") }
}

/// Low bits of an address as a count of `2^shift` bytes.
fn scaled(low: i64, shift: u32) -> Result<i64, &'static str> {
    if low & ((1 << shift) - 1) == 0 { Ok(low >> shift) } else { Err("has a target that is not aligned to its access") }
}

/// Replaces bits `at .. at + bits` of the instruction.
fn insert(field: &mut [u8], value: i64, at: u32, bits: u32) -> Result<(), &'static str> {
    let bytes = field.first_chunk_mut::<4>().ok_or(BEYOND)?;
    let mask = ((1u32 << bits) - 1) << at;
    let field = u32::from_le_bytes(*bytes) & !mask | (value as u32) << at & mask;
    *bytes = field.to_le_bytes();
    Ok(())
}

/// The immediate of `adr` and `adrp`: low two bits at 29, the rest at 5.
fn adr(field: &mut [u8], value: i64) -> Result<(), &'static str> {
    insert(field, value & 3, 29, 2)?;
    insert(field, value >> 2, 5, 19)
}

/// Name of a relocation type, for messages.
pub(super) fn name(machine: Machine, kind: elf::RelocationType) -> String {
    let known: &[(elf::RelocationType, &str)] = match machine {
        Machine::X86_64 => &[
            (elf::R_X86_64_64, "R_X86_64_64"),
            (elf::R_X86_64_PC32, "R_X86_64_PC32"),
            (elf::R_X86_64_PLT32, "R_X86_64_PLT32"),
            (elf::R_X86_64_GOTPCREL, "R_X86_64_GOTPCREL"),
            (elf::R_X86_64_GOTPCRELX, "R_X86_64_GOTPCRELX"),
            (elf::R_X86_64_REX_GOTPCRELX, "R_X86_64_REX_GOTPCRELX"),
            (elf::R_X86_64_32, "R_X86_64_32"),
            (elf::R_X86_64_32S, "R_X86_64_32S"),
        ],
        Machine::Aarch64 => &[
            (elf::R_AARCH64_ABS64, "R_AARCH64_ABS64"),
            (elf::R_AARCH64_CALL26, "R_AARCH64_CALL26"),
            (elf::R_AARCH64_ADR_PREL_PG_HI21, "R_AARCH64_ADR_PREL_PG_HI21"),
            (elf::R_AARCH64_ADR_GOT_PAGE, "R_AARCH64_ADR_GOT_PAGE"),
            (elf::R_AARCH64_LD64_GOT_LO12_NC, "R_AARCH64_LD64_GOT_LO12_NC"),
        ],
    };
    known.iter().find(|(k, _)| *k == kind).map_or_else(|| format!("type {}", kind.0), |(_, name)| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Encodings from the Arm ARM, section C6: the field is set, the rest of the instruction stays.
    #[test]
    fn instruction_fields_are_filled_as_the_manual_says() {
        let filled = |kind, field: u32, place, target| {
            let mut bytes = field.to_le_bytes();
            aarch64(kind, &mut bytes, place, target).map(|()| u32::from_le_bytes(bytes))
        };
        assert_eq!(filled(elf::R_AARCH64_CALL26, 0x9400_0000, 0x1000, 0x1008), Ok(0x9400_0002));
        assert_eq!(filled(elf::R_AARCH64_CALL26, 0x9400_0000, 0x1000, 0x0ffc), Ok(0x97ff_ffff));
        assert_eq!(filled(elf::R_AARCH64_CALL26, 0x9400_0000, 0, 1 << 27), Err(TOO_FAR));
        assert!(filled(elf::R_AARCH64_CALL26, 0x9400_0000, 0, 2).is_err());
        // adrp x0, +3 pages; add x0, x0, #0x238; ldr q0, [x0, #0x230]
        assert_eq!(filled(elf::R_AARCH64_ADR_PREL_PG_HI21, 0x9000_0000, 0x1ffc, 0x4238), Ok(0xf000_0000));
        assert_eq!(filled(elf::R_AARCH64_ADD_ABS_LO12_NC, 0x9100_0000, 0, 0x4238), Ok(0x9108_e000));
        assert_eq!(filled(elf::R_AARCH64_LDST128_ABS_LO12_NC, 0x3dc0_0000, 0, 0x4230), Ok(0x3dc0_8c00));
        assert!(filled(elf::R_AARCH64_LDST128_ABS_LO12_NC, 0x3dc0_0000, 0, 0x4238).is_err());
        assert_eq!(filled(elf::R_AARCH64_CONDBR19, 0x5400_0000, 0, 8), Ok(0x5400_0040));
        assert_eq!(filled(elf::R_AARCH64_ABS64, 0, 0, 0), Err(NOT_RELATIVE));
    }
}
