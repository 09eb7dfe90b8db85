//! The `qcc` command as its users meet it: results, diagnostics, exit codes, and files that are left behind.

#[path = "command/calibration.rs"]
mod calibration;

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

/// Fields of the protobuf wire format.
fn field(number: u64, content: &[u8]) -> Vec<u8> {
    [varint(number << 3 | 2), varint(content.len() as u64), content.to_vec()].concat()
}

fn number(number: u64, value: u64) -> Vec<u8> {
    [varint(number << 3), varint(value)].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

/// An ONNX model with operators of one input and one output: name, input, output.
fn model(nodes: &[(&str, &str, &str)], dims: &[u64]) -> Vec<u8> {
    let value = |name: &str| {
        let dims: Vec<u8> = dims.iter().flat_map(|&d| field(1, &number(1, d))).collect();
        let tensor = [number(1, 1), field(2, &dims)].concat();
        [field(1, name.as_bytes()), field(2, &field(1, &tensor))].concat()
    };
    let nodes = nodes.iter().map(|(op, from, to)| {
        field(1, &[field(1, from.as_bytes()), field(2, to.as_bytes()), field(4, op.as_bytes())].concat())
    });
    let mut graph = nodes.collect::<Vec<_>>().concat();
    graph.extend([field(2, b"g"), field(11, &value("x")), field(12, &value("y"))].concat());
    [number(1, 8), field(8, &number(2, 17)), field(7, &graph)].concat()
}

/// Classes and the numbers of words are integers: such a model is compiled without float edge, and run as any other.
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
    assert!(stderr(&built).contains("%label of type tensor<1xi64> has no float edge"), "{}", stderr(&built));
    let x = qcc::data::array::to_npy(&qcc::ir::Tensor::f32(&[1, 4], vec![1.0, 3.0, 200.0, 2.0])).expect("an array");
    std::fs::write(folder.path().join("x.npy"), x).expect("temporary file");
    for model in ["labels.so", "labels.qir"] {
        let mut call = vec!["run", model, "--input", "x.npy"];
        call.extend(["--input-range", "0:255"].iter().filter(|_| model == "labels.qir"));
        let found = done(folder.path(), &call);
        assert_eq!(found, "y [1, 4] f32: [-1.0, -3.0, -200.0, -2.0]\nlabel [1] f32: [2.0]\n", "{model}");
    }
}

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
fn example() -> Option<TempDir> {
    if !Path::new(EXAMPLE).exists() {
        eprintln!("SKIPPED: {EXAMPLE} is missing");
        return None;
    }
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("x.npy"), to_npy(&samples(3)).unwrap()).unwrap();
    done(folder.path(), &[EXAMPLE, "-o", "example.so"]);
    Some(folder)
}

#[test]
fn every_form_of_the_model_gives_the_same_bytes() {
    let Some(folder) = example() else { return };
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
            std::fs::write(folder.path().join("x.npy"), to_npy(&tensor).unwrap()).unwrap();
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
    let Some(folder) = example() else { return };
    let checked = done(folder.path(), &["check", "example.so"]);
    assert!(checked.starts_with("0 float instructions"), "{checked}");
    let json: serde_json::Value =
        serde_json::from_str(&done(folder.path(), &["check", "example.so", "--json"])).unwrap();
    assert_eq!((&json["float_instructions"], &json["float_free"]), (&0.into(), &true.into()));
    let described = done(folder.path(), &["inspect", "example.so"]);
    assert!(described.contains("float edge            yes") && described.contains(".rodata"), "{described}");
    assert!(done(folder.path(), &["inspect", EXAMPLE]).contains("nn.conv2d"));
    let bench = done(folder.path(), &["bench", "example.so", "--seconds", "0.1", "--json"]);
    let bench: serde_json::Value = serde_json::from_str(&bench).unwrap();
    for key in ["median_ms", "macs", "gmacs_per_s", "peak_gmacs_per_s", "peak_fraction", "load_ms", "peak_rss_mb"] {
        assert!(bench[key].as_f64().is_some_and(|x| x > 0.0), "{key}: {bench}");
    }
}

#[test]
fn compilation_is_reproducible() {
    let Some(folder) = example() else { return };
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    let (first, header) = (read("example.so"), read("example.h"));
    done(folder.path(), &[EXAMPLE, "-o", "example.so", "--threads", "1"]);
    assert!(read("example.so") == first && read("example.h") == header);
}

#[test]
fn comparison_reports_as_scripts_expect() {
    let Some(folder) = example() else { return };
    let arguments = ["compare", EXAMPLE, "--data", "x.npy", "--json"];
    let json: serde_json::Value = serde_json::from_str(&done(folder.path(), &arguments)).unwrap();
    assert_eq!((&json["samples"], &json["float_top1"]), (&3.into(), &serde_json::Value::Null));
    assert!(json["agreement"].as_f64().is_some_and(|x| (0.0..=1.0).contains(&x)), "{json}");
    assert!(json["sqnr_db"].as_f64().is_some_and(f64::is_finite), "{json}");
    let labels = Tensor::new(&[3], qcc::ir::Data::I64(vec![0, 1, 2]));
    std::fs::write(folder.path().join("y.npy"), to_npy(&labels).unwrap()).unwrap();
    let arguments = ["compare", EXAMPLE, "--data", "x.npy", "--labels", "y.npy", "--calibrate", "x.npy"];
    let text = done(folder.path(), &arguments);
    assert!(text.contains("integer top-1") && text.contains("layers by their share of the noise"), "{text}");
    // Three samples tell no gain from chance, or it is one in all of them.
    assert!(text.contains("likely causes") && text.contains("mend"), "{text}");
    // Three samples tell nothing apart.
    assert!(text.contains("within the noise"), "{text}");
    let arguments = ["compare", EXAMPLE, "--data", "x.npy", "--metric", "cosine"];
    let line = done(folder.path(), &arguments);
    let cosine: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!((0.9..=1.0).contains(&cosine) && line.contains("(95 %: "), "{line}");
    refused(folder.path(), &["compare", EXAMPLE, "--data", "x.npy", "--metric", "top5"], 2, "needs labels");
    refused(folder.path(), &["compare", EXAMPLE, "--data", "x.npy", "--metric", "sqnr", "--json"], 2, "--json");
    let arguments = ["compare", EXAMPLE, "--data", "x.npy", "--json", "--calibrate", "x.npy", "--layers", "2"];
    let json: serde_json::Value = serde_json::from_str(&done(folder.path(), &arguments)).unwrap();
    let layers = json["layers"].as_array().unwrap();
    let shares = layers.iter().filter_map(|l| l["damage"]["share"].as_f64());
    assert!((shares.sum::<f64>() - 1.0).abs() < 1e-9, "{json}");
    assert!(layers[0]["damage"]["cause"]["kind"].is_string(), "{json}");
}

/// A model whose outputs are no scores, as text: two maps, as detectors have them.
const MAPS: &str = "graph @maps(%x: tensor<1x2x4x4xf32>) -> (tensor<1x2x4x4xf32>, tensor<1x2x2x2xf32>) {
  %a = nn.relu(%x) : tensor<1x2x4x4xf32>
  %b = nn.max_pool(%x) {kernel = [2, 2], strides = [2, 2]} : tensor<1x2x2x2xf32>
  return %a, %b
}
";

#[test]
fn where_there_are_no_classes_none_are_compared() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("maps.qir"), MAPS).unwrap();
    let x = Tensor::f32(&[2, 2, 4, 4], (0..64).map(|i| (i * 37 % 64) as f32 / 32.0 - 1.0).collect());
    std::fs::write(folder.path().join("x.npy"), to_npy(&x).unwrap()).unwrap();
    let compare = ["compare", "maps.qir", "--data", "x.npy", "--calibrate", "x.npy"];
    let with = |more: &[&'static str]| [&compare[..], more].concat();
    let text = done(folder.path(), &with(&[]));
    assert!(text.contains("no classes: no output is a row of scores"), "{text}");
    assert!(!text.contains("top-1") && text.contains("output              a: "), "{text}");
    let json: serde_json::Value = serde_json::from_str(&done(folder.path(), &with(&["--json"]))).unwrap();
    assert_eq!((&json["agreement"], json["outputs"].as_array().map(Vec::len)), (&serde_json::Value::Null, Some(2)));
    refused(folder.path(), &with(&["--metric", "agreement"]), 2, "gives classes");
    refused(folder.path(), &with(&["--max-drop", "1"]), 2, "cannot be measured");
}

#[test]
fn a_limit_of_the_loss_is_kept_or_refused() {
    let Some(folder) = example() else { return };
    let build = [EXAMPLE, "-o", "out.so", "--calibrate", "x.npy"];
    let with = |more: &[&'static str]| [&build[..], more].concat();
    refused(folder.path(), &[EXAMPLE, "-o", "out.so", "--max-drop", "1"], 2, "needs samples");
    refused(folder.path(), &with(&["--max-drop", "-1"]), 2, "no loss that can be kept to");
    refused(folder.path(), &with(&["--metric", "sqnr"]), 2, "--max-drop");
    refused(folder.path(), &with(&["--max-drop", "0.5", "--metric", "top1"]), 2, "cannot be measured");
    refused(folder.path(), &with(&["--max-drop", "200", "--metric", "sqnr"]), 1, "is not reached");
    let output = qcc(folder.path(), &with(&["--max-drop", "5", "--metric", "sqnr"]));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("nothing had to be raised") && folder.path().join("out.so").exists());
    let output = qcc(folder.path(), &with(&["--max-drop", "45", "--metric", "sqnr"]));
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("raised to 16 bits: ") && said.contains("cost: "), "{said}");
    // What is printed gives the same model without a search.
    let found = std::fs::read(folder.path().join("out.so")).unwrap();
    let flag = said.lines().find_map(|l| l.split_once("--precision ")).unwrap().1.to_string();
    done(folder.path(), &[&build[..], &["--precision", &flag]].concat());
    assert!(std::fs::read(folder.path().join("out.so")).unwrap() == found);
}

#[test]
fn passes_are_measured_on_samples() {
    let Some(folder) = example() else { return };
    done(folder.path(), &[EXAMPLE, "-o", "out.so", "--calibrate", "x.npy", "--dump-dir", "dump"]);
    let summary = std::fs::read_to_string(folder.path().join("dump/summary.txt")).unwrap();
    let columns = |pass: &str| -> Vec<String> {
        let line = summary.lines().find(|l| l.split_whitespace().nth(1) == Some(pass)).unwrap_or_default();
        line.split_whitespace().skip(5).take(2).map(str::to_string).collect()
    };
    let model_db: f64 = columns("fold-bn")[0].parse().unwrap();
    assert!(model_db > 90.0, "{summary}");
    assert_eq!(columns("calibrate")[1], "same", "{summary}");
    let last: f64 = columns("check-integer-only")[0].parse().unwrap();
    assert!((15.0..60.0).contains(&last), "{summary}");
    let output = qcc(folder.path(), &[EXAMPLE, "-o", "out.so", "--calibrate", "x.npy", "--measure-passes"]);
    assert!(stderr(&output).contains("against the model"), "{}", stderr(&output));
}

#[test]
fn tuning_is_recorded_and_can_be_given_back() {
    let Some(folder) = example() else { return };
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
        (r#"{"layers.layers.2.bn2.BatchNormalization_output_0": {"strip": 3}}"#, "strip of 3 rows"),
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
    let Some(folder) = example() else { return };
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
    let Some(folder) = example() else { return };
    let clif = done(folder.path(), &[EXAMPLE, "--emit", "clif"]);
    assert!(clif.contains("\nfunction ") && clif.contains("block0("), "{}", &clif[..200]);
    done(folder.path(), &[EXAMPLE, "-o", "code.s", "--target", "x86-64-v3"]);
    let asm = std::fs::read_to_string(folder.path().join("code.s")).unwrap();
    assert!(asm.contains("<run>:") && asm.contains("vpmaddwd"), "{}", &asm[..200]);
    done(folder.path(), &[EXAMPLE, "--emit", "asm", "-o", "arm.txt", "--target", "aarch64"]);
    let arm = std::fs::read_to_string(folder.path().join("arm.txt")).unwrap();
    assert!(arm.contains("<run>:"), "{}", &arm[..200]);
}

/// Whether a program can be started here; a test that needs it says so where it cannot.
fn available(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success());
    if !found {
        eprintln!("SKIPPED: {program} is missing");
    }
    found
}

#[test]
fn c_programs_link_the_model() {
    let Some(folder) = example().filter(|_| available("gcc")) else { return };
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/call_from_c/main.c");
    let flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-I.", "-o", "main", source, "./example.so"];
    let gcc = Command::new("gcc").current_dir(folder.path()).args(flags).output().unwrap();
    assert!(gcc.status.success(), "{}", stderr(&gcc));
    let run = Command::new(folder.path().join("main")).env("LD_LIBRARY_PATH", folder.path()).output().unwrap();
    assert!(run.status.success() && stdout(&run).starts_with("class "), "{}{}", stdout(&run), stderr(&run));
}

#[test]
fn python_loads_the_model() {
    let Some(folder) = example().filter(|_| available("python3")) else { return };
    let script = "
import ctypes, re
model = ctypes.CDLL('./example.so')
header = open('example.h').read()
size = lambda name: int(re.search(r'_' + name + r' (?:UINT64_C\\()?(\\d+)', header).group(1))
store = ctypes.create_string_buffer(size('SCRATCH_BYTES') + 64)
scratch = ctypes.c_void_p((ctypes.addressof(store) + 63) // 64 * 64)
x = (ctypes.c_float * size('IN0_ELEMENTS'))(*([0.25] * size('IN0_ELEMENTS')))
y = (ctypes.c_float * size('OUT0_ELEMENTS'))()
one = lambda a: (ctypes.c_void_p * 1)(ctypes.addressof(a))
assert model.qcc_example_run_f32(one(x), one(y), scratch) == 0
assert any(v != 0 for v in y), list(y)
print(list(y))
";
    let run = Command::new("python3").current_dir(folder.path()).args(["-c", script]).output().unwrap();
    assert!(run.status.success(), "{}", stderr(&run));
}
