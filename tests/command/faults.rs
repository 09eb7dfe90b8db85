//! Models, flags and places at fault: one diagnostic, and nothing left behind.

use tempfile::TempDir;

use crate::models::{field, model, number};
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
    write("lfs.onnx", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n");
    write("array.onnx", b"\x93NUMPY\x01\x00v\x00");
    write("code.onnx", b"\x7fELF\x02\x01\x01\x00");
    write("image.onnx", b"\xff\xd8\xff\xe0\x00\x10JFIF");
    write("unknown.onnx", &model(&[("Frobnicate", "x", "y")], &[1, 4]));
    write("cyclic.onnx", &model(&[("Relu", "z", "y"), ("Relu", "y", "z")], &[1, 4]));
    write("zero.onnx", &model(&[("Relu", "x", "y")], &[1, 0, 4]));
    write("overflow.onnx", &model(&[("Relu", "x", "y")], &[1, 1 << 40, 1 << 40]));
    write("huge.onnx", &model(&[("Relu", "x", "y")], &[1, 1 << 60]));
    write("syntax.qir", b"graph @g() -> () {\n  return %x\n}\n");
    std::fs::create_dir(folder.path().join("folder.onnx")).unwrap();
    for (name, text) in [
        ("truncated.onnx", "not a whole ONNX model"),
        ("text.onnx", "this is no ONNX model, but text"),
        ("lfs.onnx", "git lfs pull"),
        ("array.onnx", "an array of numpy"),
        ("image.onnx", "an image"),
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
    refused(folder.path(), &["code.onnx", "-o", "out.so"], 1, "a compiled model goes to run, bench, check and inspect");
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
    // Nothing is written where a part could not be.
    refused(folder.path(), &["relu.onnx", "-o", "out.so", "--trace", "absent/t.json"], 1, "there is no such folder");
    refused(folder.path(), &["relu.onnx", "-o", "out.so", "--save-ranges", "absent/r.json"], 1, "no such folder");
    let array = qcc::ir::Tensor::f32(&[1, 4], vec![0.5; 4]);
    std::fs::write(folder.path().join("x.npy"), crate::to_npy(&array)).unwrap();
    refused(folder.path(), &["relu.onnx", "-o", "out.so", "--ranges", "x.npy"], 1, "--save-ranges");
    let run = |output| ["run", "relu.onnx", "--input", "x.npy", "--output", output];
    refused(folder.path(), &run("out.csv"), 2, "give the file the extension .npy");
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

/// What is in integer form already is proved as what passes make is.
#[test]
fn integer_graphs_are_proved() {
    let folder = TempDir::new().unwrap();
    let overflow =
        "graph @g(%x: tensor<1x2x!quant.uniform<u8:f32, 0.5:10>>) -> (tensor<1x2x!quant.uniform<u8:f32, 0.25:5>>) {
  const @w : tensor<2x2xi8> = dense<[1, 1, -1, 1]>
  const @b : tensor<2xi32> = dense<[2147483647, -2147483648]>
  const @m : tensor<1xi32> = dense<[2147483647]>
  %acc = int.linear(%x, @w, @b) : tensor<1x2xi32>
  %y = int.requant(%acc, @m) {shl = 6, offset = 352} : tensor<1x2x!quant.uniform<u8:f32, 0.25:5>>
  return %y
}
";
    let positions = "graph @g(%x: tensor<1x2x2x3xu8>) -> (tensor<1x2x1x2xi64>) {
  %y = tensor.max_pool_index(%x) {kernel = [2, 2]} : tensor<1x2x1x2xi64>
  return %y
}
";
    let x = qcc::ir::Tensor::new(&[1, 2], qcc::ir::Data::U8(vec![255, 255]));
    std::fs::write(folder.path().join("x.npy"), crate::to_npy(&x)).unwrap();
    for (text, why) in [(overflow, "more than 32 bits"), (positions, "positions in windows")] {
        std::fs::write(folder.path().join("g.qir"), text).unwrap();
        for arguments in [
            &["g.qir", "-o", "out.so"][..],
            &["g.qir", "-o", "out.o"],
            &["g.qir", "--emit", "clif"],
            &["g.qir", "-o", "out.so", "--passes", ""],
            &["run", "g.qir", "--input", "x.npy", "--io", "int"],
            &["bench", "g.qir", "--seconds", "0.1"],
        ] {
            refused(folder.path(), arguments, 1, why);
        }
        // It can still be looked at.
        let shown = qcc(folder.path(), &["opt", "g.qir"]);
        assert_eq!(shown.status.code(), Some(0), "{}", stderr(&shown));
    }
}

#[test]
fn more_tensors_than_the_interface_holds_are_refused() {
    let folder = TempDir::new().unwrap();
    let inputs: Vec<String> = (0..4097).map(|i| format!("%x{i}: tensor<1x1xf32>")).collect();
    let text = format!(
        "graph @g({}) -> (tensor<1x1xf32>) {{\n  %y = nn.relu(%x0) : tensor<1x1xf32>\n  return %y\n}}\n",
        inputs.join(", ")
    );
    std::fs::write(folder.path().join("g.qir"), text).unwrap();
    refused(folder.path(), &["g.qir", "-o", "out.so"], 1, "the model has 4097 inputs");
}

/// All dimensions that are open are named at once, with the flags that close them; a bound input is none.
#[test]
fn open_dimensions_and_bound_inputs() {
    let folder = TempDir::new().unwrap();
    let value = |name: &str, ty: u64, dims: &[&str]| {
        let dim = |d: &&str| match d.parse() {
            Ok(n) => field(1, &number(1, n)),
            Err(_) => field(1, &field(2, d.as_bytes())),
        };
        let dims: Vec<u8> = dims.iter().flat_map(dim).collect();
        let tensor = [number(1, ty), field(2, &dims)].concat();
        [field(1, name.as_bytes()), field(2, &field(1, &tensor))].concat()
    };
    let node = |op: &str, inputs: &[&str], output: &str, attribute: &[u8]| {
        let inputs: Vec<u8> = inputs.iter().flat_map(|i| field(1, i.as_bytes())).collect();
        field(1, &[inputs, field(2, output.as_bytes()), field(4, op.as_bytes()), attribute.to_vec()].concat())
    };
    // y = x * float(sr), as detectors of voices take the sampling rate.
    let to = field(5, &[field(1, b"to"), number(3, 1), number(20, 2)].concat());
    let graph = [
        node("Cast", &["sr"], "rate", &to),
        node("Mul", &["x", "rate"], "y", &[]),
        field(2, b"g"),
        field(11, &value("x", 1, &["batch", "height", "width"])),
        field(11, &value("sr", 7, &[])),
        field(12, &value("y", 1, &["batch", "height", "width"])),
    ]
    .concat();
    let whole = [number(1, 8), field(8, &number(2, 17)), field(7, &graph)].concat();
    std::fs::write(folder.path().join("m.onnx"), whole).unwrap();
    let output = qcc(folder.path(), &["m.onnx", "-o", "out.so", "--bind", "sr=2"]);
    let said = stderr(&output);
    assert!(said.contains("`height`, dimension 1, and `width`, dimension 2 of input `x` are not known"), "{said}");
    assert!(said.contains("--dim height=NUMBER --dim width=NUMBER, or --shape x=1xNUMBERxNUMBER"), "{said}");
    let sized = ["--dim", "height=1", "--dim", "width=3", "--input-range", "0:1", "--bind", "sr=2"];
    let x = qcc::ir::Tensor::f32(&[1, 1, 3], vec![0.0, 0.5, 1.0]);
    std::fs::write(folder.path().join("x.npy"), crate::to_npy(&x)).unwrap();
    let y = crate::done(
        folder.path(),
        &[&["run", "m.onnx", "--float", "--input", "x.npy"], &sized[..6], &["--bind", "sr=2"]].concat(),
    );
    assert_eq!(y, "y [1, 1, 3] f32: [0.0, 1.0, 2.0]\n");
    crate::done(folder.path(), &[&["m.onnx", "-o", "m.so"], &sized[..]].concat());
    assert!(crate::done(folder.path(), &["inspect", "m.so"]).contains("sr=2"));
    let bind = |text: &str, code: i32, why: &str| {
        refused(folder.path(), &[&["m.onnx", "-o", "out.so"], &sized[..4], &["--bind", text]].concat(), code, why);
    };
    bind("rate=2", 2, "inputs are x, sr");
    bind("sr=0.5", 2, "which does not hold it");
    bind("sr=1,2", 2, "2 numbers are given for input `sr`");
    bind("sr", 2, "--bind: expected INPUT=NUMBER");
}

/// Padding beyond what offsets hold is no fault of qcc, nor is a negative number under a root.
#[test]
fn padding_has_an_end() {
    let folder = TempDir::new().unwrap();
    let text = "graph @g(%x: tensor<1x1x4x4xf32>) -> (tensor<1x1x4x4xf32>) {
  const @w : tensor<1x1x3x3xf32> = dense<[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]>
  %y = nn.conv2d(%x, @w) {pads = [20000, 20000, 20000, 20000], dilations = [20000, 20000]} : tensor<1x1x4x4xf32>
  return %y
}
";
    std::fs::write(folder.path().join("g.qir"), text).unwrap();
    refused(folder.path(), &["g.qir", "-o", "out.so"], 1, "padding included, is too large");
}
