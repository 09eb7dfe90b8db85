//! Models, flags and places at fault: one diagnostic, and nothing left behind.

use tempfile::TempDir;

use crate::models::model;
use crate::{fixture, qcc, refused, stderr};

#[test]
fn models_at_fault_give_one_diagnostic() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let write = |name: &str, bytes: &[u8]| std::fs::write(at(name), bytes).unwrap();
    let whole = std::fs::read(fixture("cnn.onnx")).unwrap();
    write("truncated.onnx", &whole[..whole.len() / 2]);
    write("text.onnx", b"this is no model, but a text\n");
    write("empty.onnx", b"");
    write("unknown.onnx", &model(&[("Frobnicate", "x", "y")], &[1, 4]));
    write("cyclic.onnx", &model(&[("Relu", "z", "y"), ("Relu", "y", "z")], &[1, 4]));
    write("zero.onnx", &model(&[("Relu", "x", "y")], &[1, 0, 4]));
    write("overflow.onnx", &model(&[("Relu", "x", "y")], &[1, 1 << 40, 1 << 40]));
    write("huge.onnx", &model(&[("Relu", "x", "y")], &[1, 1 << 60]));
    write("syntax.qir", b"graph @g() -> () {\n  return %x\n}\n");
    std::fs::create_dir(folder.path().join("folder.onnx")).unwrap();
    for (name, text) in [
        ("truncated.onnx", "not a whole ONNX model"),
        ("text.onnx", "not a whole ONNX model"),
        ("empty.onnx", "not a whole ONNX model"),
        ("folder.onnx", "folder"),
        ("absent.onnx", "cannot be read"),
        ("unknown.onnx", "Frobnicate"),
        ("cyclic.onnx", "cycle"),
        ("zero.onnx", "empty"),
        ("overflow.onnx", "too large"),
        ("huge.onnx", "too large"),
        ("syntax.qir", "syntax.qir:2"),
    ] {
        refused(folder.path(), &[name, "-o", "out.so"], 1, text);
        refused(folder.path(), &["inspect", name], 1, text);
    }
}

/// Every operator that is not supported is reported at once, each as a diagnostic of its own.
#[test]
fn all_unsupported_operators_are_reported() {
    let folder = TempDir::new().unwrap();
    let output = qcc(folder.path(), &[&fixture("unknown.onnx").to_string_lossy(), "-o", "out.so"]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.lines().filter(|l| l.starts_with("error[Q0003]")).count(), 3, "{said}");
}

#[test]
fn flags_at_fault_are_usage_errors() {
    let folder = TempDir::new().unwrap();
    let model_file = folder.path().join("relu.onnx");
    std::fs::write(&model_file, model(&[("Relu", "x", "y")], &[1, 4])).unwrap();
    for (arguments, text) in [
        (&["relu.onnx"][..], "no output file"),
        (&["relu.onnx", "-o", "out"], "does not say what to write"),
        (&["relu.onnx", "-o", "out.so", "--target", "z80"], "unknown target"),
        (&["relu.onnx", "-o", "out.so", "--passes", "fold-nb"], "no pass `fold-nb`"),
        (&["relu.onnx", "-o", "out.so", "--shape", "x"], "--shape"),
        (&["relu.onnx", "-o", "out.so", "--outputs"], "--outputs"),
        (&["relu.onnx", "-o", "out.so", "--input-range", "1:0"], "--input-range"),
        (&["relu.onnx", "-o", "out.so", "--preset", "mnist"], "--preset"),
        (&["relu.onnx", "-o", "out.so", "--std", "0"], "must not be 0"),
        (&["relu.onnx", "-o", "out.so", "--no-such-flag"], "--no-such-flag"),
        (&["run", "relu.onnx"], "--input"),
    ] {
        refused(folder.path(), arguments, 2, text);
    }
    refused(folder.path(), &["relu.onnx", "-o", "absent/out.so"], 1, "cannot write");
    refused(folder.path(), &["relu.onnx", "-o", "out.so", "--calibrate", "absent.npz"], 1, "absent.npz");
    refused(folder.path(), &["check", "relu.onnx"], 1, "ELF");
    refused(folder.path(), &["relu.onnx", "-o", "out.so", "--outputs", "z"], 1, "nothing defines output `z`");
    refused(folder.path(), &["run", "relu.onnx", "--input", "relu.onnx"], 1, "relu.onnx");
}

#[test]
fn an_unwritable_place_keeps_what_it_holds() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("relu.onnx"), model(&[("Relu", "x", "y")], &[1, 4])).unwrap();
    std::fs::create_dir(folder.path().join("model.so")).unwrap();
    refused(folder.path(), &["relu.onnx", "-o", "model.so"], 1, "cannot write");
    assert!(folder.path().join("model.so").is_dir() && !folder.path().join("model.h").exists());
}
