//! The `qcc` command as its users meet it: results, diagnostics, exit codes, and files that are left behind.

#[path = "command/calibration.rs"]
mod calibration;
#[path = "command/certificates.rs"]
mod certificates;
#[path = "command/comparison.rs"]
mod comparison;
#[path = "command/faults.rs"]
mod faults;
#[path = "command/finetuning.rs"]
mod finetuning;
#[path = "command/hosts.rs"]
mod hosts;
#[path = "command/inputs.rs"]
mod inputs;
#[path = "command/limits.rs"]
mod limits;
#[path = "command/looking.rs"]
mod looking;
#[path = "command/lowering.rs"]
mod lowering;
#[path = "command/models.rs"]
mod models;
#[path = "command/places.rs"]
mod places;
#[path = "command/reduce.rs"]
mod reduce;
#[path = "command/storage.rs"]
mod storage;
#[path = "command/trace.rs"]
mod trace;
#[path = "command/usage.rs"]
mod usage;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use qcc::data::array::to_npy;
use qcc::ir::Tensor;
use tempfile::TempDir;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/models/resnet_cifar10.onnx");

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn qcc(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qcc"));
    command.current_dir(folder).args(arguments).env_remove("QCC_LOG").output().expect("the command starts")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs, and expects success.
fn done(folder: &Path, arguments: &[&str]) -> String {
    let output = qcc(folder, arguments);
    assert_eq!(output.status.code(), Some(0), "qcc {arguments:?}: {}", stderr(&output));
    stdout(&output)
}

/// Runs, and expects one diagnostic that contains `text`, this exit code, nothing on stdout and no file `out.so`.
fn refused(folder: &Path, arguments: &[&str], code: i32, text: &str) {
    let output = qcc(folder, arguments);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "qcc {arguments:?}: {said}");
    assert_eq!(said.lines().filter(|l| l.starts_with("error")).count(), 1, "qcc {arguments:?}: {said}");
    assert!(said.contains(text), "qcc {arguments:?}: {said}");
    assert!(output.stdout.is_empty(), "qcc {arguments:?}: {}", stdout(&output));
    let left: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name()).collect();
    let is_output =
        |n: &&std::ffi::OsString| n.to_string_lossy().starts_with("out") || n.to_string_lossy().starts_with(".qcc");
    assert!(!left.iter().any(|n| is_output(&n)), "qcc {arguments:?} left {left:?}");
}

/// A model quantized to 8 bits with a sign computes with codes that are greater by 128; arrays of its own codes are taken.
#[test]
fn codes_with_a_sign_are_taken() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let ty = "tensor<1x4x!quant.uniform<u8:f32, 0.5:128>>";
    let text =
        format!("graph @codes(%x: {ty}) -> ({ty}) {{\n  %y = int.clamp(%x) {{lo = 100}} : {ty}\n  return %y\n}}\n");
    std::fs::write(folder.path().join("codes.qir"), text).expect("temporary file");
    let codes = qcc::ir::Tensor::new(&[1, 4], qcc::ir::Data::I8(vec![-128, -5, 0, 127]));
    let codes = qcc::data::array::to_npy(&codes);
    std::fs::write(folder.path().join("x.npy"), codes).expect("temporary file");
    let found = done(folder.path(), &["run", "codes.qir", "--io", "int", "--input", "x.npy"]);
    assert_eq!(found, "y [1, 4] u8: [100, 123, 128, 255]\n");
}

/// Classes and the numbers of words are integers: such a model is compiled without a float interface, and run as any other.
#[test]
fn plain_integers_need_no_flag() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let text = "graph @labels(%x: tensor<1x4xf32>) -> (tensor<1x4xf32>, tensor<1xi64>) {
  %y = nn.neg(%x) : tensor<1x4xf32>
  %label = tensor.arg_max(%x) {axis = 1, keepdims = false} : tensor<1xi64>
  return %y, %label
}
";
    std::fs::write(folder.path().join("labels.qir"), text).expect("temporary file");
    let built = qcc(folder.path(), &["labels.qir", "-o", "labels.so", "--input-range", "0:255"]);
    assert_eq!(built.status.code(), Some(0), "{}", stderr(&built));
    assert!(stderr(&built).contains("%label of type tensor<1xi64> has no float interface"), "{}", stderr(&built));
    let x = qcc::data::array::to_npy(&qcc::ir::Tensor::f32(&[1, 4], vec![1.0, 3.0, 200.0, 2.0]));
    std::fs::write(folder.path().join("x.npy"), x).expect("temporary file");
    for model in ["labels.so", "labels.qir"] {
        let mut call = vec!["run", model, "--input", "x.npy"];
        call.extend(["--input-range", "0:255"].iter().filter(|_| model == "labels.qir"));
        let found = done(folder.path(), &call);
        assert_eq!(found, "y [1, 4] f32: [-1.0, -3.0, -200.0, -2.0]\nlabel [1] i64: [2]\n", "{model}");
    }
}

/// A batch of inputs between -1 and 1 for the example model.
fn samples(count: usize) -> Tensor {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    Tensor::f32(&[count, 3, 32, 32], (0..count * 3 * 32 * 32).map(|_| next()).collect())
}

/// The example model compiled in a new folder, with inputs in `x.npy`.
fn example() -> TempDir {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("x.npy"), to_npy(&samples(3))).unwrap();
    done(folder.path(), &[EXAMPLE, "-o", "example.so"]);
    folder
}

#[test]
fn every_form_of_the_model_gives_the_same_bytes() {
    let folder = example();
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    for io in ["float", "int"] {
        let run = |file: &str, more: &[&str]| {
            let mut arguments = vec!["run", file, "--input", "x.npy", "--output", "y.npy", "--io", io];
            arguments.extend(more);
            done(folder.path(), &arguments);
            read("y.npy")
        };
        // Integers are taken as they are stored, so raw runs are given bytes.
        if io == "int" {
            let bytes = (0..3 * 3 * 32 * 32).map(|i| (i * 37 % 256) as u8).collect();
            let tensor = Tensor::new(&[3, 3, 32, 32], qcc::ir::Data::U8(bytes));
            std::fs::write(folder.path().join("x.npy"), to_npy(&tensor)).unwrap();
        }
        let compiled = run("example.so", &[]);
        assert_eq!(run(EXAMPLE, &[]), compiled, "JIT, {io}");
        assert_eq!(run(EXAMPLE, &["--interp"]), compiled, "interpreter, {io}");
        assert_eq!(run("example.so", &["--threads", "3"]), compiled, "threads, {io}");
        assert_eq!(run(EXAMPLE, &["--vectors", "128"]), compiled, "vectors of 128 bits, {io}");
    }
}

#[test]
fn the_compiled_example_is_certified_and_described() {
    let folder = example();
    let checked = done(folder.path(), &["check", "example.so"]);
    assert!(checked.starts_with("0 float instructions"), "{checked}");
    let json: serde_json::Value =
        serde_json::from_str(&done(folder.path(), &["check", "example.so", "--json"])).unwrap();
    assert_eq!((&json["float_instructions"], &json["float_free"]), (&0.into(), &true.into()));
    let described = done(folder.path(), &["inspect", "example.so"]);
    assert!(described.contains("float interface       yes") && described.contains(".rodata"), "{described}");
    assert!(done(folder.path(), &["inspect", EXAMPLE]).contains("nn.conv2d"));
    let bench = done(folder.path(), &["bench", "example.so", "--seconds", "0.1", "--json"]);
    let bench: serde_json::Value = serde_json::from_str(&bench).unwrap();
    for key in ["median_ms", "macs", "gmacs_per_s", "peak_gmacs_per_s", "peak_fraction", "load_ms", "peak_rss_mb"] {
        assert!(bench[key].as_f64().is_some_and(|x| x > 0.0), "{key}: {bench}");
    }
}

#[test]
fn compilation_is_reproducible() {
    let folder = example();
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    let (first, header) = (read("example.so"), read("example.h"));
    done(folder.path(), &[EXAMPLE, "-o", "example.so", "--threads", "1"]);
    assert!(read("example.so") == first && read("example.h") == header);
}

#[test]
fn tuning_is_recorded_and_can_be_given_back() {
    let folder = example();
    // The name of the file is in it.
    ["tuned", "again"].iter().for_each(|name| std::fs::create_dir(folder.path().join(name)).unwrap());
    done(folder.path(), &[EXAMPLE, "-o", "tuned/net.so", "--tune", "--save-tuning", "t.json"]);
    done(folder.path(), &[EXAMPLE, "-o", "again/net.so", "--tuning", "t.json"]);
    let bytes = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    assert!(bytes("tuned/net.so") == bytes("again/net.so"), "the choices found make the same model");

    // A choice unlike the estimate: other code, the same results, and inspection shows it.
    done(folder.path(), &[EXAMPLE, "-o", "plain.so"]);
    let choice = r#"{"layers.layers.2.bn2.BatchNormalization_output_0": {"panel": 1, "strip": 1, "outer": "chunks"}}"#;
    std::fs::write(folder.path().join("c.json"), choice).unwrap();
    done(folder.path(), &[EXAMPLE, "-o", "other.so", "--tuning", "c.json"]);
    assert!(done(folder.path(), &["inspect", "other.so"]).contains(r#""panel":1"#));
    let run = |model: &str| done(folder.path(), &["run", model, "--input", "x.npy"]);
    assert_eq!(run("plain.so"), run("other.so"));
    let code = |model: &str| {
        let described = done(folder.path(), &["inspect", model]);
        described.lines().find(|line| line.contains(".text ")).map(str::to_string)
    };
    assert_ne!(code("plain.so"), code("other.so"), "other code");

    for (text, why) in [
        (r#"{"nowhere": {}}"#, "nowhere"),
        (r#"{"layers.layers.2.bn2.BatchNormalization_output_0": {"strip": 7}}"#, "row block of 7 rows"),
        (r#"{"layers.layers.2.bn2.BatchNormalization_output_0": {"panel": 9}}"#, "panel of 9"),
        (r#"{"nowhere": {"height": 3}}"#, "height"),
        ("nothing", "no choices for layers"),
    ] {
        std::fs::write(folder.path().join("c.json"), text).unwrap();
        refused(folder.path(), &[EXAMPLE, "-o", "out.so", "--tuning", "c.json"], 2, why);
    }
    refused(folder.path(), &[EXAMPLE, "-o", "out.so", "--tuning", "absent.json"], 1, "absent.json");
}

#[test]
fn dumps_can_be_resumed() {
    let folder = example();
    done(folder.path(), &[EXAMPLE, "--emit", "qir", "-o", "int.qir", "--dump-dir", "dump", "--save-ranges", "r.json"]);
    let summary = std::fs::read_to_string(folder.path().join("dump/summary.txt")).unwrap();
    assert!(summary.contains("lower-to-int"), "{summary}");
    // A stage of the dump, its constants beside it, is a model like any other.
    done(folder.path(), &["dump/00-import.qir", "-o", "example.so"]);
    done(folder.path(), &["run", "int.qir", "--input", "x.npy"]);
    done(folder.path(), &[EXAMPLE, "-o", "example.so", "--ranges", "r.json"]);
    let printed = done(folder.path(), &["opt", "dump/00-import.qir", "--passes", "canonicalize, fold-bn"]);
    assert!(printed.starts_with('!') || printed.starts_with("graph"), "{}", &printed[..80]);
}

#[test]
fn code_is_shown_as_text() {
    let folder = example();
    let clif = done(folder.path(), &[EXAMPLE, "--emit", "clif"]);
    assert!(clif.contains("\nfunction ") && clif.contains("block0("), "{}", &clif[..200]);
    done(folder.path(), &[EXAMPLE, "-o", "code.s", "--target", "x86-64-v3"]);
    let asm = std::fs::read_to_string(folder.path().join("code.s")).unwrap();
    assert!(asm.contains("<run>:") && asm.contains("vpmaddwd"), "{}", &asm[..200]);
    done(folder.path(), &[EXAMPLE, "--emit", "asm", "-o", "arm.txt", "--target", "aarch64"]);
    let arm = std::fs::read_to_string(folder.path().join("arm.txt")).unwrap();
    assert!(arm.contains("<run>:"), "{}", &arm[..200]);
}
