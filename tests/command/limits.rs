//! What a small file may ask of the compiler, and damaged compiled files.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Output;

use super::{EXAMPLE, done, models, qcc, refused, stderr, stdout};

fn folder(name: &str, text: impl AsRef<[u8]>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("temporary folder");
    std::fs::write(folder.path().join(name), text).expect("temporary file");
    folder
}

/// A graph whose one constant is computed with `operators`, each with the type of its result.
fn constant(operators: &[(&str, &str)]) -> String {
    let mut text =
        "graph @net(%x: tensor<1x4xf32>) -> (tensor<1x4xf32>) {\n  const @one : tensor<1x1xf32> = dense<[1.0]>\n"
            .to_string();
    for (i, (operator, ty)) in operators.iter().enumerate() {
        let _ = writeln!(text, "  %c{i} = {operator} : {ty}");
    }
    let last = operators.len() - 1;
    let _ = writeln!(text, "  %y = nn.add(%x, %c{last}) : tensor<1x4xf32>\n  return %y\n}}");
    text
}

/// A chain of so many operators.
fn chain(length: usize, operator: &str) -> Vec<u8> {
    let names: Vec<String> = (0..=length).map(|i| if i == length { "y".into() } else { format!("v{i}") }).collect();
    let nodes: Vec<(&str, &str, &str)> =
        (0..length).map(|i| (operator, if i == 0 { "x" } else { &*names[i] }, &*names[i + 1])).collect();
    models::model(&nodes, &[1, 4])
}

#[test]
fn a_constant_that_takes_too_much_memory_is_refused() {
    let sum = [
        ("tensor.expand(@one) {shape = [1048576, 4096]}", "tensor<1048576x4096xf32>"),
        ("nn.reduce_sum(%c0) {axes = [0, 1], keepdims = true}", "tensor<1x1xf32>"),
    ];
    let folder = folder("net.qir", constant(&sum));
    refused(folder.path(), &["net.qir", "-o", "out.so"], 1, "--max-memory 17180MB");
    refused(folder.path(), &["net.qir", "-o", "out.so", "--max-memory", "17GB"], 1, "more than 17.0 GB");
}

#[test]
fn a_constant_that_takes_too_much_work_is_refused() {
    let product = [
        ("tensor.expand(@one) {shape = [6000, 6000]}", "tensor<6000x6000xf32>"),
        ("nn.matmul(%c0, %c0)", "tensor<6000x6000xf32>"),
        ("nn.reduce_sum(%c1) {axes = [0, 1], keepdims = true}", "tensor<1x1xf32>"),
    ];
    let folder = folder("net.qir", constant(&product));
    refused(folder.path(), &["net.qir", "-o", "out.so"], 1, "--max-work 216000000000");
}

#[test]
fn many_nodes_are_refused_and_named_by_their_flag() {
    let folder = folder("net.onnx", chain(33_000, "Neg"));
    refused(folder.path(), &["net.onnx", "-o", "out.so"], 1, "--max-nodes 33000");
}

#[test]
fn time_is_limited() {
    let folder = folder("net.onnx", chain(3, "Neg"));
    refused(folder.path(), &["net.onnx", "-o", "out.so", "--max-time", "0"], 1, "--max-time");
    done(folder.path(), &["net.onnx", "-o", "out.so", "--max-time", "600"]);
}

/// Compiles in a thread with little stack, as hosts have them.
#[test]
fn long_chains_take_little_stack() {
    let models = [chain(2500, "Neg"), chain(2500, "LeakyRelu"), chain(1500, "Tanh")];
    let compile = move || {
        for model in models {
            let options = qcc::Options { threads: 1, ..qcc::Options::default() };
            qcc::compile(model, &options).expect("compiles");
        }
    };
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(compile).expect("a thread starts");
    thread.join().expect("it ends");
}

fn ended_well(output: &Output, what: &str) -> bool {
    let code = output.status.code();
    assert!(matches!(code, Some(0..=3)), "{what}: {code:?}, {}", stderr(output));
    code == Some(0)
}

#[test]
#[cfg(target_arch = "x86_64")]
fn a_damaged_model_is_refused_before_anything_of_it_runs() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path();
    done(path, &[EXAMPLE, "-o", "good.so", "--quality", "off"]);
    let good = std::fs::read(path.join("good.so")).expect("it was written");
    let damage = |at: usize, file: &[u8]| {
        let mut file = file.to_vec();
        file[at] ^= 0x10;
        file
    };
    let places = [7, 18, 0x28, 0x40, 0x60, 0x100, good.len() / 3, good.len() / 2, good.len() - 57, good.len() - 1];
    let cut = [10, 4096, good.len() - 56, good.len() - 1].map(|length| good[..length].to_vec());
    let all = places.iter().map(|&at| damage(at, &good)).chain(cut);
    for (i, file) in all.enumerate() {
        std::fs::write(path.join("bad.so"), file).expect("temporary file");
        for call in [&["inspect", "bad.so"][..], &["check", "bad.so"], &["bench", "bad.so", "--seconds", "0.01"]] {
            let output = qcc(path, call);
            assert!(!ended_well(&output, &format!("{call:?} {i}")), "{i}: {}", stdout(&output));
            assert!(output.stdout.is_empty(), "{i}: {}", stdout(&output));
        }
    }
}

/// A shared object of another compiler, whose constructor leaves a trace.
#[test]
#[cfg(target_arch = "x86_64")]
fn nothing_of_a_foreign_file_runs() {
    let folder = folder(
        "foreign.c",
        "#include <stdio.h>\n__attribute__((constructor)) static void c(void) { fclose(fopen(\"ran\", \"w\")); }\n",
    );
    let path = folder.path();
    let built = std::process::Command::new("gcc")
        .current_dir(path)
        .args(["-shared", "-fPIC", "foreign.c", "-o", "foreign.so"])
        .status();
    assert!(built.unwrap().success());
    for call in [
        &["inspect", "foreign.so"][..],
        &["bench", "foreign.so"],
        &["check", "foreign.so"],
        &["run", "foreign.so", "--input", "x.npy"],
    ] {
        assert!(!ended_well(&qcc(path, call), "foreign"), "{call:?}");
    }
    assert!(!Path::new(path).join("ran").exists());
}
