//! Machine code that tells whether the CPU has what the model needs, so that a model on the wrong machine returns an error
//! instead of trapping.
//!
//! `fn(scratch, mark) -> i32`: 1 if all features are there and the operating system saves their registers, else 0. It uses no instruction
//! beyond the baseline of x86-64. What does not find `mark` at the start of the scratch asks the CPU, sets the scratch to 0, so that nothing depends on what was
//! in it, and stores the mark. Bits are those of `cpuid` leaves 1 and 7, the latter with two subleaves, and of `xgetbv` (Intel SDM volume 2, CPUID; volume 1,
//! chapter 13).

use iced_x86::IcedError;
use iced_x86::code_asm::{CodeAssembler, eax, ebx, ecx, edx, qword_ptr, rax, rbx, rcx, rdi, rdx, rsi, rsp};
use qcc_runtime::CpuFeatures;

/// Bits of leaf 1 ecx, leaf 7 ebx, leaf 7 ecx, leaf 7 subleaf 1 eax and xcr0 that a set of features stands for.
fn needed_bits(features: CpuFeatures) -> [u32; 5] {
    type F = CpuFeatures;
    const OSXSAVE: u32 = 1 << 27;
    const YMM: u32 = 0b110;
    const ZMM: u32 = 0b1110_0110;
    let rows = [
        (F::SSSE3, [1 << 9, 0, 0, 0, 0]),
        (F::SSE41, [1 << 19, 0, 0, 0, 0]),
        (F::SSE42, [1 << 20, 0, 0, 0, 0]),
        (F::POPCNT, [1 << 23, 0, 0, 0, 0]),
        (F::AVX, [OSXSAVE | 1 << 28, 0, 0, 0, YMM]),
        (F::AVX2, [OSXSAVE, 1 << 5, 0, 0, YMM]),
        (F::BMI1, [0, 1 << 3, 0, 0, 0]),
        (F::BMI2, [0, 1 << 8, 0, 0, 0]),
        (F::AVXVNNI, [OSXSAVE, 0, 0, 1 << 4, YMM]),
        (F::AVX512F, [OSXSAVE, 1 << 16, 0, 0, ZMM]),
        (F::AVX512DQ, [OSXSAVE, 1 << 17, 0, 0, ZMM]),
        (F::AVX512BW, [OSXSAVE, 1 << 30, 0, 0, ZMM]),
        (F::AVX512VL, [OSXSAVE, 1 << 31, 0, 0, ZMM]),
        (F::AVX512VNNI, [OSXSAVE, 0, 1 << 11, 0, ZMM]),
    ];
    let chosen = rows.iter().filter(|(f, _)| features.contains(*f));
    chosen.fold([0; 5], |mut all, (_, bits)| {
        all.iter_mut().zip(bits).for_each(|(a, b)| *a |= b);
        all
    })
}

/// `VALGRIND_MAKE_MEM_DEFINED` of `valgrind/memcheck.h`.
const MAKE_MEM_DEFINED: i32 = 0x4d43_0002;

/// Bytes of a request: its code and five arguments.
const REQUEST: i32 = 48;

/// Tells valgrind, if the process runs under it, that the mark may be read whatever it is: fresh memory differs from it. To a CPU these are rotations that
/// cancel and an exchange of a register with itself (valgrind manual, section 3.1, client requests).
fn allow_reading_the_mark(a: &mut CodeAssembler) -> Result<(), IcedError> {
    for (at, number) in [(0, MAKE_MEM_DEFINED), (16, size_of::<u64>() as i32), (24, 0), (32, 0), (40, 0)] {
        a.mov(qword_ptr(rsp + at), number)?;
    }
    a.mov(qword_ptr(rsp + 8), rdi)?;
    a.mov(rax, rsp)?;
    a.xor(edx, edx)?;
    for bits in [3, 13, 61, 51] {
        a.rol(rdi, bits)?;
    }
    a.xchg(rbx, rbx)
}

/// The function for a set of x86-64 features and this much scratch memory.
pub fn emit(features: CpuFeatures, scratch_bytes: u64) -> Result<Vec<u8>, IcedError> {
    let [leaf1_ecx, leaf7_ebx, leaf7_ecx, leaf7_1_eax, xcr0] = needed_bits(features);
    let mut a = CodeAssembler::new(64)?;
    let (mut fail, mut known, mut end) = (a.create_label(), a.create_label(), a.create_label());
    a.push(rbx)?;
    a.sub(rsp, REQUEST)?;
    allow_reading_the_mark(&mut a)?;
    a.cmp(qword_ptr(rdi), rsi)?;
    a.je(known)?;
    a.xor(eax, eax)?;
    a.cpuid()?;
    a.cmp(eax, 7)?;
    a.jb(fail)?;
    a.mov(eax, 1)?;
    a.cpuid()?;
    a.and(ecx, leaf1_ecx as i32)?;
    a.cmp(ecx, leaf1_ecx as i32)?;
    a.jne(fail)?;
    if xcr0 != 0 {
        a.xor(ecx, ecx)?;
        a.xgetbv()?;
        a.and(eax, xcr0 as i32)?;
        a.cmp(eax, xcr0 as i32)?;
        a.jne(fail)?;
    }
    a.mov(eax, 7)?;
    a.xor(ecx, ecx)?;
    a.cpuid()?;
    // How many subleaves there are.
    a.mov(edx, eax)?;
    a.and(ebx, leaf7_ebx as i32)?;
    a.cmp(ebx, leaf7_ebx as i32)?;
    a.jne(fail)?;
    a.and(ecx, leaf7_ecx as i32)?;
    a.cmp(ecx, leaf7_ecx as i32)?;
    a.jne(fail)?;
    if leaf7_1_eax != 0 {
        a.test(edx, edx)?;
        a.je(fail)?;
        a.mov(eax, 7)?;
        a.mov(ecx, 1)?;
        a.cpuid()?;
        a.and(eax, leaf7_1_eax as i32)?;
        a.cmp(eax, leaf7_1_eax as i32)?;
        a.jne(fail)?;
    }
    a.mov(rdx, rdi)?;
    a.mov(rcx, scratch_bytes)?;
    a.xor(eax, eax)?;
    a.rep().stosb()?;
    a.mov(qword_ptr(rdx), rsi)?;
    a.set_label(&mut known)?;
    a.mov(eax, 1)?;
    a.jmp(end)?;
    a.set_label(&mut fail)?;
    a.xor(eax, eax)?;
    a.set_label(&mut end)?;
    a.add(rsp, REQUEST)?;
    a.pop(rbx)?;
    a.ret()?;
    a.assemble(0)
}
