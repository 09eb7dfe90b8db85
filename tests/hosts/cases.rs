//! Random graphs as files that a host in C runs: see `tests/hosts/guard.c`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use qcc_codegen::{Options, Target, emit};
use qcc_interp::Evaluator;
use qcc_ir::{Data, Graph, Tensor};
use qcc_num::random::Random;

use crate::graphs::{random_graph, random_low_bits, random_matrices};

/// Writes the models of these seeds with their inputs and what the interpreter makes of these; returns the list of cases.
pub fn write(folder: &Path, target: Target, seeds: std::ops::Range<u64>) -> PathBuf {
    let mut list = String::new();
    for seed in seeds {
        let makers: [fn(u64) -> Graph; 3] = [random_graph, random_matrices, random_low_bits];
        let graph = makers[(seed % 3) as usize](seed);
        let ty = graph.ty(graph.inputs()[0]);
        let mut random = Random::new(seed ^ 0xABCD);
        let input: Vec<u8> = (0..ty.elements()).map(|_| random.below(256) as u8).collect();
        let outputs = Evaluator::new(&graph).run(&[Tensor::new(&ty.dims, Data::U8(input.clone()))]).expect("runs");
        let outputs: Vec<Vec<u8>> = outputs.iter().map(|t| t.as_u8().expect("u8").to_vec()).collect();
        let options = Options { float_interface: false, ..Options::new(target, "random") };
        let object = emit::object::compile(&graph, &options).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        let model = folder.join(format!("{seed}.so"));
        std::fs::write(&model, object.link("random.so").expect("links")).expect("temporary file");
        std::fs::write(folder.join(format!("{seed}.so.in")), &input).expect("temporary file");
        std::fs::write(folder.join(format!("{seed}.so.out")), outputs.concat()).expect("temporary file");
        let lengths: Vec<String> = outputs.iter().map(|o| o.len().to_string()).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(list, "{} {} {} {}", model.display(), input.len(), lengths.len(), lengths.join(" "));
    }
    let path = folder.join("cases");
    std::fs::write(&path, list).expect("temporary file");
    path
}

/// The host, compiled by a compiler for C.
pub fn compile(compiler: &str, folder: &Path) -> PathBuf {
    let (source, out) = (concat!(env!("CARGO_MANIFEST_DIR"), "/tests/hosts/guard.c"), folder.join("guard"));
    let flags = ["-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", source, "-ldl", "-o"];
    let built = std::process::Command::new(compiler).args(flags).arg(&out).output().expect("the compiler starts");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    out
}

/// Number of cases that an environment variable asks for.
pub fn count(usual: u64) -> u64 {
    number("QCC_CASES").unwrap_or(usual)
}

/// The number in an environment variable.
pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|n| n.parse().ok())
}
