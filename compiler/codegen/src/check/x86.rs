//! x86-64 instructions by what they do.
//!
//! By the CPU features that an instruction belongs to, and within the vector extensions by its name: all packed integer operations
//! are called `p...`, with or without the `v` of the VEX and EVEX forms (Intel SDM, volume 2); what else is allowed is listed.

use super::flow::{Decoded, Flow, Isa};
use super::report::Class;
use iced_x86::{
    CpuidFeature as F, Decoder, DecoderOptions, FlowControl, Formatter, GasFormatter, Instruction, Mnemonic,
};

/// General-purpose extensions, all of whose instructions are integer code.
const GENERAL: &[F] = &[
    F::INTEL8086,
    F::INTEL186,
    F::INTEL286,
    F::INTEL386,
    F::INTEL486,
    F::X64,
    F::CMOV,
    F::CX8,
    F::CMPXCHG16B,
    F::ADX,
    F::BMI1,
    F::BMI2,
    F::LZCNT,
    F::POPCNT,
    F::MOVBE,
    F::CPUID,
    F::PAUSE,
    F::MULTIBYTENOP,
    F::CET_IBT,
    F::PREFETCHW,
];

/// Vector extensions that hold integer instructions among others.
const VECTOR: &[F] = &[
    F::SSE,
    F::SSE2,
    F::SSE3,
    F::SSSE3,
    F::SSE4_1,
    F::SSE4_2,
    F::AVX,
    F::AVX2,
    F::AVX512F,
    F::AVX512BW,
    F::AVX512DQ,
    F::AVX512VL,
    F::AVX512CD,
    F::AVX512_VBMI,
    F::AVX512_VBMI2,
    F::AVX512_VNNI,
    F::AVX512_BITALG,
    F::AVX512_VPOPCNTDQ,
    F::AVX512_IFMA,
    F::AVX_VNNI,
    F::GFNI,
];

/// Integer instructions of [`VECTOR`] whose names do not start with `p` or `vp`, without the `v`.
const INTEGER: &[&str] = &[
    "movd",
    "movq",
    "movdqa",
    "movdqu",
    "movdqa32",
    "movdqa64",
    "movdqu8",
    "movdqu16",
    "movdqu32",
    "movdqu64",
    "movntdq",
    "movntdqa",
    "movnti",
    "lddqu",
    "mpsadbw",
    "dbpsadbw",
    "alignd",
    "alignq",
    "extracti128",
    "extracti32x4",
    "extracti32x8",
    "extracti64x2",
    "extracti64x4",
    "inserti128",
    "inserti32x4",
    "inserti32x8",
    "inserti64x2",
    "inserti64x4",
    "broadcasti128",
    "broadcasti32x2",
    "broadcasti32x4",
    "broadcasti32x8",
    "broadcasti64x2",
    "broadcasti64x4",
    "shufi32x4",
    "shufi64x2",
    "zeroupper",
    "zeroall",
    "sfence",
    "lfence",
    "mfence",
    "gf2p8affineqb",
    "gf2p8affineinvqb",
    "gf2p8mulb",
];

/// Moves and bit operations of [`VECTOR`] under a float's name, without the `v`.
const NEUTRAL: &[&str] = &[
    "movaps",
    "movups",
    "movapd",
    "movupd",
    "movss",
    "movsd",
    "movlps",
    "movlpd",
    "movhps",
    "movhpd",
    "movlhps",
    "movhlps",
    "movntps",
    "movntpd",
    "movmskps",
    "movmskpd",
    "movddup",
    "movshdup",
    "movsldup",
    "andps",
    "andpd",
    "andnps",
    "andnpd",
    "orps",
    "orpd",
    "xorps",
    "xorpd",
    "shufps",
    "shufpd",
    "unpcklps",
    "unpcklpd",
    "unpckhps",
    "unpckhpd",
    "blendps",
    "blendpd",
    "blendvps",
    "blendvpd",
    "blendmps",
    "blendmpd",
    "insertps",
    "extractps",
    "broadcastss",
    "broadcastsd",
    "broadcastf128",
    "broadcastf32x2",
    "broadcastf32x4",
    "broadcastf32x8",
    "broadcastf64x2",
    "broadcastf64x4",
    "extractf128",
    "extractf32x4",
    "extractf32x8",
    "extractf64x2",
    "extractf64x4",
    "insertf128",
    "insertf32x4",
    "insertf32x8",
    "insertf64x2",
    "insertf64x4",
    "perm2f128",
    "permilps",
    "permilpd",
    "permps",
    "permpd",
    "permi2ps",
    "permi2pd",
    "permt2ps",
    "permt2pd",
    "maskmovps",
    "maskmovpd",
    "shuff32x4",
    "shuff64x2",
    "compressps",
    "compresspd",
    "expandps",
    "expandpd",
];

/// Extensions that only compute with floats.
const FLOAT: &[F] = &[
    F::FPU,
    F::FPU287,
    F::FPU387,
    F::D3NOW,
    F::D3NOWEXT,
    F::FMA,
    F::FMA4,
    F::F16C,
    F::AVX512_BF16,
    F::AVX512_FP16,
    F::AVX512ER,
    F::AVX512_4FMAPS,
];

/// 64-bit mode.
pub(super) const ISA: Isa = Isa { decode, write };

fn decode(bytes: &[u8], address: u64) -> Option<Decoded> {
    let instruction = first(bytes, address);
    if instruction.is_invalid() {
        return None;
    }
    let leads = instruction.near_branch_target();
    let flow = match instruction.flow_control() {
        FlowControl::Next | FlowControl::IndirectCall | FlowControl::XbeginXabortXend => Flow::Next,
        FlowControl::UnconditionalBranch => Flow::Jump(leads),
        FlowControl::ConditionalBranch => Flow::Branch(leads),
        FlowControl::Call if instruction.is_call_near() => Flow::Call(leads),
        // System calls come back.
        FlowControl::Call => Flow::Next,
        FlowControl::Return | FlowControl::Exception => Flow::Stop,
        FlowControl::Interrupt if instruction.mnemonic() == Mnemonic::Int3 => Flow::Stop,
        FlowControl::Interrupt => Flow::Next,
        FlowControl::IndirectBranch => Flow::Computed,
    };
    let own = instruction.mnemonic() == Mnemonic::Lea && instruction.is_ip_rel_memory_operand();
    let address = own.then(|| instruction.ip_rel_memory_address());
    Some(Decoded { bytes: instruction.len(), class: classify(&instruction), flow, address })
}

fn first(bytes: &[u8], address: u64) -> Instruction {
    Decoder::with_ip(64, bytes, address, DecoderOptions::NONE).decode()
}

fn write(bytes: &[u8], address: u64) -> String {
    let instruction = first(bytes, address);
    if instruction.is_invalid() {
        return format!("{:02x?}", &bytes[..bytes.len().min(8)]);
    }
    let mut text = String::new();
    GasFormatter::new().format(&instruction, &mut text);
    text
}

/// The class of an instruction.
fn classify(instruction: &Instruction) -> Class {
    let features = instruction.cpuid_features();
    let among = |list: &[F]| features.iter().all(|f| list.contains(f));
    if features.iter().any(|f| FLOAT.contains(f)) {
        return Class::Float;
    }
    if among(GENERAL) {
        return if instruction.is_privileged() { Class::Foreign } else { Class::Integer };
    }
    if !among(VECTOR) {
        return if instruction.mnemonic() == Mnemonic::Xgetbv { Class::Integer } else { Class::Foreign };
    }
    let full = format!("{:?}", instruction.mnemonic()).to_ascii_lowercase();
    let name = full.strip_prefix('v').unwrap_or(&full);
    if NEUTRAL.contains(&name) {
        Class::Neutral
    } else if name.starts_with('p') || full.starts_with('k') || INTEGER.contains(&name) {
        Class::Integer
    } else {
        Class::Float
    }
}
