//! `qcc reduce`, and changes of a graph by their numbers.

use std::path::Path;

use super::{done, models, qcc, refused, stderr};

/// A network of which one operator has no integer form.
const NET: &str = "graph @net(%x: tensor<1x4x8x8xf32>) -> (tensor<1x4x8x8xf32>, tensor<1x4x4x4xi64>) {
  const @w : tensor<4x4x1x1xf32> = dense<[0.5, -1.0, 0.25, 1.0, 1.0, 0.5, -0.5, 0.25, 0.5, -1.0, 0.25, 1.0, 1.0, 0.5, -0.5, 0.25]>
  %a = nn.conv2d(%x, @w) : tensor<1x4x8x8xf32>
  %b = nn.relu(%a) : tensor<1x4x8x8xf32>
  %c = tensor.max_pool_index(%b) {kernel = [2, 2], strides = [2, 2]} : tensor<1x4x4x4xi64>
  %d = nn.sigmoid(%b) : tensor<1x4x8x8xf32>
  %e = nn.add(%d, %x) : tensor<1x4x8x8xf32>
  return %e, %c
}
";

fn folder(text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("temporary folder");
    std::fs::write(folder.path().join("net.qir"), text).expect("temporary file");
    folder
}

fn files(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

#[test]
fn the_operator_at_fault_is_left() {
    let folder = folder(NET);
    let own = env!("CARGO_BIN_EXE_qcc");
    let fault = "positions in windows";
    let call = ["reduce", "net.qir", "-o", "small.qir", "--stderr", fault, "--", own, "{}", "--emit", "qir"];
    let output = qcc(folder.path(), &call);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("runs"), "{}", stderr(&output));
    assert_eq!(files(folder.path()), ["net.qir", "small.qir"]);
    let small = std::fs::read_to_string(folder.path().join("small.qir")).unwrap();
    let nodes: Vec<&str> = small.lines().filter(|l| l.contains(" = ")).collect();
    assert!(nodes.len() == 1 && nodes[0].contains("tensor.max_pool_index"), "{small}");
    // What is left fails alike, and nothing of it can be taken away.
    refused(folder.path(), &["small.qir", "--emit", "qir"], 1, fault);
    let again = done(folder.path(), &["reduce", "small.qir", "--stderr", fault, "--", own, "{}", "--emit", "qir"]);
    assert_eq!(again, small);
}

#[test]
#[cfg(unix)]
fn onnx_becomes_text() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let model = models::model(&[("Relu", "x", "a"), ("Tanh", "a", "b"), ("Sigmoid", "b", "y")], &[1, 6]);
    std::fs::write(folder.path().join("net.onnx"), model).expect("temporary file");
    let call = ["reduce", "net.onnx", "--exit", "7", "--", "sh", "-c", "grep -q nn.tanh {} && exit 7"];
    let small = done(folder.path(), &call);
    assert_eq!(small.matches("nn.").count(), 1, "{small}");
    assert!(small.contains("tensor<1x1xf32>)") && small.contains("nn.tanh"), "{small}");
}

#[test]
#[cfg(unix)]
fn a_command_that_does_not_fail_is_refused() {
    let folder = folder(NET);
    refused(folder.path(), &["reduce", "net.qir", "-o", "out.qir", "--", "true", "{}"], 2, "does not fail");
    refused(
        folder.path(),
        &["reduce", "net.qir", "-o", "./net.qir", "--", "false", "{}"],
        2,
        "this file is also the model",
    );
    refused(folder.path(), &["reduce", "net.qir", "-o", "out.qir", "--", "true"], 2, "`{}`");
    let text = ["reduce", "net.qir", "-o", "out.qir", "--stderr", "no such words", "--", "cat", "{}", "missing"];
    refused(folder.path(), &text, 2, "does not fail");
    refused(folder.path(), &["reduce", "net.qir", "-o", "out.qir", "--", "./no-such-command", "{}"], 2, "cannot run");
}

#[test]
fn edits_are_counted_and_limited() {
    let folder = folder(
        "graph @net(%x: tensor<1x4xf32>) -> (tensor<1x4xf32>) {
  %a = nn.relu(%x) : tensor<1x4xf32>
  %b = nn.relu(%a) : tensor<1x4xf32>
  %c = nn.relu(%b) : tensor<1x4xf32>
  return %c
}
",
    );
    let opt = |more: &[&str]| {
        let output =
            qcc(folder.path(), &[&["opt", "net.qir", "--passes", "canonicalize", "--print-edits"][..], more].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        (String::from_utf8_lossy(&output.stdout).matches("nn.relu").count(), stderr(&output))
    };
    assert_eq!(opt(&[]).0, 1);
    assert!(opt(&[]).1.contains("edit #1 canonicalize: drop "), "{}", opt(&[]).1);
    assert_eq!(opt(&["--edit-limit", "1"]).0, 2);
    assert_eq!(opt(&["--edit-limit", "0"]), (3, String::new()));
    // A pipeline ends where its edits do: passes behind would miss what those before them did not do.
    let whole = ["opt", "net.qir", "--passes=-O1", "--edit-limit", "1"];
    assert_eq!(done(folder.path(), &whole).matches("nn.relu").count(), 2);
}
