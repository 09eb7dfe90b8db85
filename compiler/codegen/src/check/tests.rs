use super::*;
use crate::emit::link::{FLOAT_TEXT, LinkOptions, link_shared};
use iced_x86::code_asm::*;
use object::{Architecture, Endianness, SymbolKind, elf, write};
use std::collections::HashSet;
use std::io::Write as _;

/// Name and code of a function, and where in it a call of another one is to be filled in.
type Code<'a> = (&'a str, &'a [u8], Option<(u64, &'a str)>);

/// A shared object of functions in machine code, the first of which is exported as a model's description.
fn shared(machine: Architecture, functions: &[Code<'_>], float_functions: &[&str]) -> Vec<u8> {
    let mut object = write::Object::new(object::BinaryFormat::Elf, machine, Endianness::Little);
    let text = object.section_id(write::StandardSection::Text);
    let symbols: Vec<_> = functions
        .iter()
        .map(|(name, bytes, _)| {
            let id = object.add_symbol(write::Symbol {
                name: name.as_bytes().to_vec(),
                value: 0,
                size: 0,
                kind: SymbolKind::Text,
                scope: object::SymbolScope::Compilation,
                weak: false,
                section: write::SymbolSection::Undefined,
                flags: object::SymbolFlags::None,
            });
            (id, object.add_symbol_data(id, text, bytes, 16))
        })
        .collect();
    for ((_, start), (_, _, call)) in symbols.iter().zip(functions) {
        if let Some((offset, callee)) = call {
            let callee = functions.iter().position(|(name, _, _)| name == callee).unwrap();
            let flags = object::RelocationFlags::Elf { r_type: elf::R_X86_64_PLT32 };
            let relocation = write::Relocation { offset: start + offset, symbol: symbols[callee].0, addend: -4, flags };
            object.add_relocation(text, relocation).unwrap();
        }
    }
    let exports = [(functions[0].0.to_owned(), vec![symbol::INFO.to_owned()])];
    let float_functions: HashSet<String> = float_functions.iter().map(|e| (*e).to_owned()).collect();
    let options = LinkOptions { soname: "test.so", exports: &exports, float_functions: &float_functions };
    link_shared(&object.write().unwrap(), &options).unwrap()
}

fn assemble(build: impl FnOnce(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>) -> Vec<u8> {
    let mut assembler = CodeAssembler::new(64).unwrap();
    build(&mut assembler).unwrap();
    assembler.assemble(0).unwrap()
}

/// One instruction after the other, each with its class.
#[test]
fn x86_instructions_fall_into_their_classes() {
    macro_rules! check {
        ($class:ident: $($name:ident($($operand:expr),*);)*) => {$(
            let bytes = assemble(|a| { a.set_prefer_vex(false); a.$name($($operand),*) });
            let class = (x86::ISA.decode)(&bytes, 0).unwrap().class;
            assert_eq!(class, Class::$class, stringify!($name));
        )*};
    }
    check! { Integer:
        mov(rax, rbx); lea(rax, rbx + 8); imul_2(rax, rbx); ret(); push(rbp); cmovg(eax, ebx); popcnt(eax, ebx);
        sarx(eax, ebx, ecx); prefetcht0(ptr(rax)); cpuid(); movsd(); movsx(eax, bl);
        paddd(xmm0, xmm1); pmuldq(xmm0, xmm1); pmaddubsw(xmm0, xmm1); movdqu(xmm0, xmmword_ptr(rax)); movd(xmm0, eax);
        vpaddsw(ymm0, ymm1, ymm2); vpmaddwd(ymm0, ymm1, ymm2); vextracti128(xmm0, ymm1, 1); vzeroupper();
        vpdpbusd(zmm20, zmm21, zmm22); vpbroadcastd(zmm31, dword_ptr(rax)); vpackssdw(zmm0, zmm1, zmm2);
        vmovdqu8(zmm17.k1(), zmmword_ptr(rax)); vmovdqa64(zmm1, zmm2); vpternlogd(zmm1, zmm2, zmm3, 7); vpmovdb(xmm0, zmm1);
        vpmovzxbw(ymm0, xmmword_ptr(rax)); vpmovsxbw(ymm0, xmmword_ptr(rax)); vbroadcasti128(ymm0, xmmword_ptr(rax));
        vpdpbusd(ymm0, ymm1, ymm2); vinserti64x4(zmm0, zmm1, ymm2, 1); kmovw(k1, eax); kortestd(k1, k2); vpermt2b(zmm0, zmm1, zmm2); mfence();
    }
    check! { Neutral:
        movaps(xmm0, xmm1); vmovups(ymm0, ymmword_ptr(rax)); xorps(xmm0, xmm1); andnpd(xmm0, xmm1); movss(xmm0, xmm1);
        movsd_2(xmm0, xmm1); shufps(xmm0, xmm1, 3); vpermilps(ymm0, ymm1, 3); vbroadcastss(zmm0, xmm1);
        vinsertf128(ymm0, ymm1, xmm2, 1); movhlps(xmm0, xmm1); vpermps(ymm0, ymm1, ymm2);
    }
    check! { Float:
        addss(xmm0, xmm1); mulps(xmm0, xmm1); vdivpd(ymm0, ymm1, ymm2); vaddps(zmm0, zmm1, zmm2); sqrtsd(xmm0, xmm1);
        cvtsi2ss(xmm0, eax); cvttps2dq(xmm0, xmm1); vcvtdq2ps(zmm0, zmm1); vcvtph2ps(ymm0, xmm1); ucomiss(xmm0, xmm1);
        cmpps(xmm0, xmm1, 1); maxps(xmm0, xmm1); roundps(xmm0, xmm1, 0); vfmadd231ps(zmm0, zmm1, zmm2); haddps(xmm0, xmm1);
        rcpps(xmm0, xmm1); vrndscaleps(zmm0, zmm1, 0); vscalefps(zmm0, zmm1, zmm2); vdpbf16ps(zmm0, zmm1, zmm2);
        vaddph(zmm0, zmm1, zmm2); vrangeps(zmm0, zmm1, zmm2, 1); dpps(xmm0, xmm1, 1); ldmxcsr(ptr(rax)); vgetexpps(zmm0, zmm1);
        fld1(); fadd_2(st0, st1); fxam(); pfadd(mm0, mm1); pi2fd(mm0, mm1);
    }
    check! { Foreign: syscall(); rdrand(eax); hlt(); emms(); aesenc(xmm0, xmm1); rdtsc(); fxsave(ptr(rax)); }
}

/// The dot of AVX-VNNI, which has an encoding of its own.
#[test]
fn both_encodings_of_the_dot_are_integer_code() {
    let dot = |vex| {
        assemble(|a| {
            a.set_prefer_vex(vex);
            a.vpdpbusd(ymm0, ymm1, ymm2)
        })
    };
    assert_ne!(dot(true), dot(false));
    for bytes in [dot(true), dot(false)] {
        assert_eq!((x86::ISA.decode)(&bytes, 0).unwrap().class, Class::Integer);
    }
}

/// Instructions as GNU `as` encodes them.
const A64: &[(Class, &[u32])] = &[
    (
        Class::Integer,
        &[
            0x8b020020, // add x0, x1, x2
            0x91004000, // add x0, x0, #16
            0xd65f03c0, // ret
            0x9b027c20, // mul x0, x1, x2
            0x3dc00020, // ldr q0, [x1]
            0x4cdf7820, // ld1 {v0.4s}, [x1], #16
            0x4ea28420, // add v0.4s, v1.4s, v2.4s
            0x4e829420, // sdot v0.4s, v1.16b, v2.16b
            0x6e829420, // udot v0.4s, v1.16b, v2.16b
            0x4e829c20, // usdot v0.4s, v1.16b, v2.16b
            0x4e82a420, // smmla v0.4s, v1.16b, v2.16b
            0x4fa2e820, // sdot v0.4s, v1.16b, v2.4b[3]
            0x4f000400, // movi v0.4s, #0
            0x4f3f0420, // sshr v0.4s, v1.4s, #1
            0x0e612820, // xtn v0.4h, v1.4s
            0x0e614820, // sqxtn v0.4h, v1.4s
            0x2e212820, // sqxtun v0.8b, v1.8h
            0x4ea2b420, // sqdmulh v0.4s, v1.4s, v2.4s
            0x4e22c020, // smull2 v0.8h, v1.16b, v2.16b
            0x4eb1b820, // addv s0, v1.4s
            0x4e020020, // tbl v0.16b, {v1.16b}, v2.16b
            0x4e823820, // zip1 v0.4s, v1.4s, v2.4s
            0x6e022020, // ext v0.16b, v1.16b, v2.16b, #4
            0x4e040c20, // dup v0.4s, w1
            0x0e043c20, // umov w0, v1.s[0]
            0x4ea0b820, // abs v0.4s, v1.4s
            0x6ea26420, // umax v0.4s, v1.4s, v2.4s
            0x4ea21c20, // orr v0.16b, v1.16b, v2.16b
            0x4f828020, // mul v0.4s, v1.4s, v2.s[0]
        ],
    ),
    (
        Class::Neutral,
        &[
            0x1e270020, // fmov s0, w1
            0x9e660020, // fmov x0, d1
            0x1e204020, // fmov s0, s1
            0x1e2e1000, // fmov s0, #1.0
            0x1e221c20, // fcsel s0, s1, s2, ne
            0x4f03f600, // fmov v0.4s, #1.0
        ],
    ),
    (
        Class::Float,
        &[
            0x1e222820, // fadd s0, s1, s2
            0x1e620820, // fmul d0, d1, d2
            0x1f020c20, // fmadd s0, s1, s2, s3
            0x1e222020, // fcmp s1, s2
            0x1e21c020, // fsqrt s0, s1
            0x1e220020, // scvtf s0, w1
            0x9e380020, // fcvtzs x0, s1
            0x1e02f820, // scvtf s0, w1, #2
            0x1e22c020, // fcvt d0, s1
            0x4e22d420, // fadd v0.4s, v1.4s, v2.4s
            0x6e22dc20, // fmul v0.4s, v1.4s, v2.4s
            0x4e22cc20, // fmla v0.4s, v1.4s, v2.4s
            0x4e21d820, // scvtf v0.4s, v1.4s
            0x4ea1b820, // fcvtzs v0.4s, v1.4s
            0x4ea0f820, // fabs v0.4s, v1.4s
            0x6ea1f820, // fsqrt v0.4s, v1.4s
            0x4f821020, // fmla v0.4s, v1.4s, v2.s[0]
            0x4f829020, // fmul v0.4s, v1.4s, v2.s[0]
            0x4e421420, // fadd v0.8h, v1.8h, v2.8h
            0x4e79d820, // scvtf v0.8h, v1.8h
            0x4f3fe420, // scvtf v0.4s, v1.4s, #1
            0x6e30c820, // fmaxnmv s0, v1.4s
            0x7e30d820, // faddp s0, v1.2s
            0x6e42fc20, // bfdot v0.4s, v1.8h, v2.8h
            0x6e82c420, // fcmla v0.4s, v1.4s, v2.4s, #0
            0x5e21d820, // scvtf s0, s1
        ],
    ),
    (Class::Foreign, &[0x04a00020, 0x4e284820 & !0x4000_0000 | 0x8000_0000]),
];

#[test]
fn a64_instructions_fall_into_their_classes() {
    for &(class, instructions) in A64 {
        for &instruction in instructions {
            assert_eq!(aarch64::classify(instruction), Some(class), "{instruction:#010x}");
        }
    }
    assert_eq!(aarch64::classify(0x0200_0000), None);
    let forward = |instruction: u32| (aarch64::ISA.decode)(&instruction.to_le_bytes(), 0x1000).unwrap().flow;
    assert_eq!(forward(0x1400_0002), flow::Flow::Jump(0x1008));
    assert_eq!(forward(0x97ff_ffff), flow::Flow::Call(0xffc));
    assert_eq!(forward(0x54ff_ffe0), flow::Flow::Branch(0xffc));
    assert_eq!(forward(0xb400_0040), flow::Flow::Branch(0x1008));
    assert_eq!(forward(0x3707_ffe0), flow::Flow::Branch(0xffc));
    assert_eq!([forward(0xd61f_0000), forward(0xd63f_0000)], [flow::Flow::Computed, flow::Flow::Next]);
}

#[test]
fn a_clean_model_gets_its_certificate_and_every_problem_is_placed() {
    let clean = assemble(|a| {
        a.movups(xmm0, xmmword_ptr(rdi))?;
        a.paddd(xmm0, xmm0)?;
        a.ret()
    });
    let constants = [&clean[..], &[0x0f, 0x58, 0xc1, 0x06]].concat();
    let float = assemble(|a| {
        a.mulps(xmm0, xmm1)?;
        a.ret()
    });
    let file = shared(
        Architecture::X86_64,
        &[("clean", &clean, None), ("constants", &constants, None), ("interface", &float, None)],
        &["interface"],
    );
    let report = certify(&file).unwrap();
    assert!(report.is_float_free(), "{report:?}");
    let counts = (report.integer.instructions - 2 * 3, report.integer.neutral, report.integer.unreached_bytes);
    assert!(counts.0 < 16 && counts.1 == 2 && counts.2 == 4, "traps between functions, neutral, constants: {counts:?}");
    assert_eq!(
        (report.float_interface.sections.as_slice(), report.float_interface.float),
        ([FLOAT_TEXT.to_owned()].as_slice(), 1)
    );

    let bad = [
        ("float", &float[..], None, Problem::Float, "mulps"),
        ("syscall", &[0x0f, 0x05, 0xc3], None, Problem::Foreign, "syscall"),
        ("broken", &[0x06, 0xc3], None, Problem::Undecodable, "06"),
        ("computed", &[0xff, 0xe0], None, Problem::IndirectJump, "jmp"),
        ("outside", &[0xe9, 0, 0, 0, 0x40], None, Problem::LeavesCode, "jmp"),
        ("enters", &[0xe8, 0, 0, 0, 0, 0xc3], Some((1, "interface")), Problem::EntersFloatText, "call"),
        ("takes", &[0x48, 0x8d, 0x05, 0xfa, 0xff, 0xff, 0xff, 0xc3], None, Problem::InnerAddress, "lea"),
        ("hidden", &[0xeb, 0x01, 0xb8, 0x0f, 0x59, 0xc1, 0xc3], None, Problem::Float, "mulps"),
    ];
    for (name, bytes, call, problem, text) in bad {
        let file = shared(
            Architecture::X86_64,
            &[("clean", &clean, None), (name, bytes, call), ("interface", &float, None)],
            &["interface"],
        );
        let report = certify(&file).unwrap();
        let [finding] = report.integer.findings.as_slice() else { panic!("{name}: {:?}", report.integer.findings) };
        assert_eq!((finding.problem, finding.function.as_str()), (problem, name));
        assert!(finding.to_string().contains(text) && !report.is_float_free(), "{finding}");
    }
}

#[test]
fn aarch64_models_are_checked_too() {
    let bytes = |instructions: &[u32]| instructions.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
    // A literal between a jump over it and its load, as Cranelift writes vector constants.
    let clean = bytes(&[0x1400_0002, 0x1e22_2820, 0x4ea2_8420, 0xd65f_03c0]);
    let float = bytes(&[0x1e22_2820, 0xd65f_03c0]);
    let report = certify(&shared(
        Architecture::Aarch64,
        &[("clean", &clean, None), ("interface", &float, None)],
        &["interface"],
    ));
    let report = report.unwrap();
    assert!(report.is_float_free() && report.float_interface.float == 1, "{report:?}");
    assert_eq!(report.integer.unreached_bytes, 4);
    let report = certify(&shared(Architecture::Aarch64, &[("clean", &float, None)], &[])).unwrap();
    assert_eq!(report.integer.findings[0].to_string().split(": ").nth(2), Some(".inst 0x1e222820"));
}

#[test]
fn other_files_are_refused() {
    assert!(matches!(certify(b"ELF"), Err(CheckError::Elf(_))));
    let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    assert!(matches!(parse(&own[..own.len() / 2]).map(|_| ()), Ok(()) | Err(CheckError::Elf(_))));
    let mut data_only = write::Object::new(object::BinaryFormat::Elf, Architecture::X86_64, Endianness::Little);
    let section = data_only.section_id(write::StandardSection::ReadOnlyData);
    data_only.append_section_data(section, &[1], 1);
    assert_eq!(inspect(&data_only.write().unwrap()), Err(CheckError::NoCode));
}

/// What another compiler makes of a float multiplication, in an object that is no model.
#[cfg(target_arch = "x86_64")]
#[test]
fn a_float_in_c_is_caught() {
    let folder = tempfile::tempdir().unwrap();
    let source = "float scaled(float x) { return 2.5f * x; }
int twice(int x) { return 2 * x; }
";
    std::fs::write(folder.path().join("c.c"), source).unwrap();
    let flags = ["-O2", "-shared", "-fPIC", "-nostdlib", "c.c", "-o", "c.so"];
    match std::process::Command::new("gcc").args(flags).current_dir(folder.path()).status() {
        Ok(status) => assert!(status.success()),
        // Written past the harness, which shows nothing of a test that passes.
        Err(error) => return drop(writeln!(std::io::stderr(), "skipped: no gcc: {error}")),
    }
    let file = std::fs::read(folder.path().join("c.so")).unwrap();
    assert_eq!(certify(&file), Err(CheckError::NotAModel));
    let report = inspect(&file).unwrap();
    let caught: Vec<_> = report.integer.findings.iter().map(|f| (f.function.as_str(), f.problem)).collect();
    assert_eq!(caught, [("scaled", Problem::Float)], "{report:?}");
}
