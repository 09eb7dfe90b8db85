//! A64 instructions by what they do, from the encoding tables of the Arm Architecture Reference Manual (DDI 0487, chapter C4).
//!
//! The main table (C4.1) splits by bits 28:25. All floating-point arithmetic of the base architecture lies in one of its groups,
//! "Data Processing -- Scalar Floating-Point and Advanced SIMD" (`x111`), whose subgroups are told apart below in the manual's order.
//! SVE and SME (`0010`, `0000` with bit 31) are none of what qcc emits.

use super::flow::{Decoded, Flow, Isa};
use super::report::Class;

/// Instructions of four bytes.
pub(super) const ISA: Isa = Isa { decode, write };

fn decode(bytes: &[u8], address: u64) -> Option<Decoded> {
    let w = instruction(bytes)?;
    Some(Decoded { bytes: 4, class: classify(w)?, flow: flow(w, address), address: None })
}

fn instruction(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|b| u32::from_le_bytes(*b))
}

fn write(bytes: &[u8], _: u64) -> String {
    match instruction(bytes) {
        Some(bits) => format!(".inst {bits:#010x}"),
        None => format!("{bytes:02x?}"),
    }
}

/// Bits `high..=low` of an instruction.
fn bits(instruction: u32, high: u32, low: u32) -> u32 {
    instruction >> low & ((1 << (high - low + 1)) - 1)
}

/// Branches, exception generation and system instructions (C4.1.93).
fn flow(w: u32, address: u64) -> Flow {
    // An immediate counts instructions and is signed.
    let target = |high, low| {
        let width = high - low + 1;
        let distance = i64::from((bits(w, high, low) << (32 - width)) as i32 >> (32 - width)) * 4;
        address.wrapping_add_signed(distance)
    };
    match () {
        // UDF
        () if w < 0x1_0000 => Flow::Stop,
        () if bits(w, 31, 26) == 0b000101 => Flow::Jump(target(25, 0)),
        () if bits(w, 31, 26) == 0b100101 => Flow::Call(target(25, 0)),
        // B.cond; CBZ, CBNZ; TBZ, TBNZ
        () if bits(w, 31, 25) == 0b0101010 || bits(w, 30, 25) == 0b011010 => Flow::Branch(target(23, 5)),
        () if bits(w, 30, 25) == 0b011011 => Flow::Branch(target(18, 5)),
        // BRK
        () if bits(w, 31, 21) == 0b110_1010_0001 => Flow::Stop,
        // Unconditional branch (register), by opc: BLR (1, 9) comes back, RET (2) leaves, the others go anywhere.
        () if bits(w, 31, 25) == 0b1101011 => match bits(w, 24, 21) {
            0b0001 | 0b1001 => Flow::Next,
            0b0010 => Flow::Stop,
            _ => Flow::Computed,
        },
        () => Flow::Next,
    }
}

/// The class of an instruction; `None` for those that the manual leaves unallocated.
pub(super) fn classify(w: u32) -> Option<Class> {
    match bits(w, 28, 25) {
        // Data processing with an immediate; branches and system; loads and stores; data processing in registers.
        0b1000 | 0b1001 | 0b1010 | 0b1011 | 0b0100 | 0b0110 | 0b1100 | 0b1110 | 0b0101 | 0b1101 => Some(Class::Integer),
        0b0111 | 0b1111 => Some(simd_or_float(w)),
        0b0010 => Some(Class::Foreign),
        0b0000 if w < 0x1_0000 => Some(Class::Integer),
        0b0000 if bits(w, 31, 31) == 1 => Some(Class::Foreign),
        _ => None,
    }
}

/// Group `x111`. Bit 30 with bits 28:24 tells scalar float (`0`), scalar SIMD (`1`) and vectors (bit 28 clear) apart.
fn simd_or_float(w: u32) -> Class {
    let scalar = bits(w, 28, 28) == 1;
    if bits(w, 31, 31) == 1 {
        // Only the conversions between float and 64-bit integer registers have bit 31 here; cryptography has it too.
        return if scalar && bits(w, 30, 29) == 0 { scalar_float(w) } else { Class::Foreign };
    }
    match (scalar, bits(w, 30, 30)) {
        (true, 0) => scalar_float(w),
        // Scalar SIMD shares the opcodes of its vector forms.
        _ => vector(w),
    }
}

/// Scalar floating point: conversions, one to three sources, compare, select, immediate (C4.1.96, last tables).
fn scalar_float(w: u32) -> Class {
    let moves = bits(w, 24, 24) == 0 && bits(w, 21, 21) == 1 && bits(w, 29, 29) == 0;
    // Between a general and a float register: opcode 11x with rmode 0x moves, the others convert.
    let general = bits(w, 15, 10) == 0 && bits(w, 18, 17) == 0b11 && bits(w, 20, 20) == 0;
    // One source: opcode 0 is FMOV.
    let register = bits(w, 14, 10) == 0b10000 && bits(w, 20, 15) == 0;
    let immediate = bits(w, 12, 10) == 0b100;
    let select = bits(w, 11, 10) == 0b11;
    if moves && (general || register || immediate || select) { Class::Neutral } else { Class::Float }
}

/// Advanced SIMD, vector and scalar forms. What no table below knows is foreign.
fn vector(w: u32) -> Class {
    let integer_if = |integer| if integer { Class::Integer } else { Class::Float };
    if bits(w, 24, 24) == 1 {
        return if bits(w, 10, 10) == 0 {
            by_element(w)
        } else if bits(w, 23, 23) == 0 {
            shift_or_immediate(w)
        } else {
            Class::Foreign
        };
    }
    match (bits(w, 21, 21), bits(w, 11, 10)) {
        // Three registers of one type: opcodes from 11000 are float, 00011 are the logical operations.
        (1, 0b01 | 0b11) => integer_if(bits(w, 15, 11) < 0b11000),
        // Three registers of different types.
        (1, 0b00) => Class::Integer,
        (1, 0b10) => match bits(w, 20, 17) {
            // Two registers: below 01100 and 10010..10100 are integer, the others compare, round or convert floats.
            0b0000 => integer_if(matches!(bits(w, 16, 12), 0..=0b01011 | 0b10010..=0b10100)),
            // Across lanes and scalar pairs: SADDLV, SMAXV, SMINV, ADDV and ADDP.
            0b1000 => integer_if(matches!(bits(w, 16, 12), 0b00011 | 0b01010 | 0b11010 | 0b11011)),
            // Half precision.
            0b1100 => Class::Float,
            _ => Class::Foreign,
        },
        // Half precision; then SQRDMLAH, dot products (0010, 0011) and SMMLA (0100, 0101) before complex and BF16.
        (0, 0b01 | 0b11) if bits(w, 15, 15) == 1 => integer_if(bits(w, 14, 11) <= 0b0101),
        (0, 0b01 | 0b11) if bits(w, 23, 22) == 0 => Class::Integer,
        (0, 0b01 | 0b11) if bits(w, 22, 22) == 1 || bits(w, 15, 14) == 0 => Class::Float,
        // Table lookup and permutation; extraction.
        (0, 0b00 | 0b10) if bits(w, 15, 15) == 0 => Class::Integer,
        _ => Class::Foreign,
    }
}

/// Vector times one element: bit 29 and the opcode.
fn by_element(w: u32) -> Class {
    let (unsigned, opcode, size) = (bits(w, 29, 29), bits(w, 15, 12), bits(w, 23, 22));
    let integer = match (unsigned, opcode) {
        // SUDOT (00) and USDOT (10) between BF16 forms.
        (0, 0b1111) => matches!(size, 0b00 | 0b10),
        (0, 0b0010 | 0b0011 | 0b0110 | 0b0111 | 0b1000 | 0b1010 | 0b1011 | 0b1100 | 0b1101 | 0b1110) => true,
        (1, 0b0000 | 0b0010 | 0b0100 | 0b0110 | 0b1010 | 0b1101 | 0b1110 | 0b1111) => true,
        _ => false,
    };
    if integer { Class::Integer } else { Class::Float }
}

/// Shift by an immediate, or with `immh` 0 a modified immediate, whose `cmode` 1111 is FMOV.
fn shift_or_immediate(w: u32) -> Class {
    if bits(w, 22, 19) == 0 {
        return if bits(w, 15, 12) == 0b1111 { Class::Neutral } else { Class::Integer };
    }
    // SCVTF and FCVTZS with fraction bits.
    if matches!(bits(w, 15, 11), 0b11100 | 0b11111) { Class::Float } else { Class::Integer }
}
