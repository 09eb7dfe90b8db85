//! A compiled model asks the CPU itself, whatever its host knows: it runs where its level does, and says so elsewhere.

#![cfg(target_arch = "x86_64")]

use std::ffi::c_void;

use qcc_codegen::target::{LEVELS, Level, Target};
use qcc_codegen::{Options, emit};
use qcc_ir::parse;
use qcc_runtime::abi::{RunFn, code, symbol};

const MODEL: &str = "graph @clamp(%x: tensor<80xu8>) -> (tensor<80xu8>) {
  %y = int.clamp(%x) {lo = 10, hi = 20} : tensor<80xu8>
  return %y
}
";

/// Memory with the alignment of an arena.
#[repr(align(64))]
struct Scratch([u8; 1 << 16]);

#[test]
fn a_model_answers_for_the_cpu_it_is_on() {
    let folder = tempfile::tempdir().unwrap();
    let graph = parse::parse(MODEL, &parse::no_files).unwrap();
    for level in LEVELS.iter().map(|l| l.0).filter(|&level| level != Level::Aarch64) {
        let target = Target::of(level);
        let options = Options::new(target, "clamp");
        let path = folder.path().join(format!("{target}.so"));
        let file = emit::object::compile(&graph, &options).unwrap().link("clamp.so").unwrap();
        std::fs::write(&path, file).unwrap();
        // SAFETY: a file of qcc's has no initializers.
        let library = unsafe { libloading::Library::new(&path) }.unwrap();
        // SAFETY: the symbol has this type in every model.
        let run = unsafe { library.get::<RunFn>(symbol::RUN) }.unwrap();
        let (input, mut output, mut scratch) = ([0u8; 80], [0u8; 80], Box::new(Scratch([0; 1 << 16])));
        let (inputs, outputs) = ([input.as_ptr().cast::<c_void>()], [output.as_mut_ptr().cast::<c_void>()]);
        // SAFETY: the tensors are the model's, the scratch is greater than it asks for.
        let answer = unsafe { run(inputs.as_ptr(), outputs.as_ptr(), scratch.0.as_mut_ptr().cast()) };
        match target.runs_here() {
            true => assert_eq!((answer, output), (code::OK, [10; 80]), "{target}"),
            false => assert_eq!((answer, output), (code::ERR_CPU, [0; 80]), "{target}"),
        }
    }
}

/// Levels are found again by what they need.
#[test]
fn features_name_their_level() {
    for (level, name) in LEVELS {
        assert_eq!(Target::with_features(Target::of(*level).features()), Some(Target::of(*level)), "{name}");
    }
}
