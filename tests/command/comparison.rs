//! The integer model against the float one: what is reported, and limits of the loss.

use qcc::data::array::to_npy;
use qcc::ir::Tensor;
use tempfile::TempDir;

use crate::{EXAMPLE, done, example, qcc, refused, stderr};

#[test]
fn comparison_reports_as_scripts_expect() {
    let folder = example();
    let arguments = ["compare", EXAMPLE, "--data", "x.npy", "--json"];
    let json: serde_json::Value = serde_json::from_str(&done(folder.path(), &arguments)).unwrap();
    assert_eq!((&json["samples"], &json["float_top1"]), (&3.into(), &serde_json::Value::Null));
    assert!(json["agreement"].as_f64().is_some_and(|x| (0.0..=1.0).contains(&x)), "{json}");
    assert!(json["sqnr_db"].as_f64().is_some_and(f64::is_finite), "{json}");
    let labels = Tensor::new(&[3], qcc::ir::Data::I64(vec![0, 1, 2]));
    std::fs::write(folder.path().join("y.npy"), to_npy(&labels)).unwrap();
    let arguments = ["compare", EXAMPLE, "--data", "x.npy", "--labels", "y.npy", "--calibrate", "x.npy"];
    let text = done(folder.path(), &arguments);
    assert!(text.contains("integer top-1") && text.contains("layers by their share of the noise"), "{text}");
    let labels = |offset| [&arguments[..], &["--label-offset", offset]].concat();
    refused(folder.path(), &labels("8"), 1, "label 2 of sample 2 and an offset of 8: the model has 10 classes");
    refused(folder.path(), &labels("-1"), 1, "label 0 of sample 0");
    // Three samples tell no gain from chance, or it is one in all of them.
    assert!(
        text.contains("likely causes") && (text.contains("remedy") || text.contains("nothing that was tried helps")),
        "{text}"
    );
    // Three samples tell nothing apart.
    assert!(text.contains("within the noise"), "{text}");
    let arguments = ["compare", EXAMPLE, "--data", "x.npy", "--metric", "cosine"];
    let line = done(folder.path(), &arguments);
    let cosine: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!((0.9..=1.0).contains(&cosine) && line.contains("(95 %: "), "{line}");
    // Where runs find the scales, no part can be switched, but layers are compared.
    let arguments = ["compare", EXAMPLE, "--data", "x.npy", "--mode", "int8_dynamic"];
    let text = done(folder.path(), &arguments);
    assert!(text.contains("layers by damage") && text.contains("int.dynamic_requant"), "{text}");
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
    std::fs::write(folder.path().join("x.npy"), to_npy(&x)).unwrap();
    let compare = ["compare", "maps.qir", "--data", "x.npy", "--calibrate", "x.npy"];
    let with = |more: &[&'static str]| [&compare[..], more].concat();
    let text = done(folder.path(), &with(&[]));
    assert!(text.contains("no classes: no output is a row of scores"), "{text}");
    assert!(!text.contains("top-1") && text.contains("output              a: "), "{text}");
    let json: serde_json::Value = serde_json::from_str(&done(folder.path(), &with(&["--json"]))).unwrap();
    assert_eq!((&json["agreement"], json["outputs"].as_array().map(Vec::len)), (&serde_json::Value::Null, Some(2)));
    refused(folder.path(), &with(&["--metric", "agreement"]), 2, "gives classes");
    refused(folder.path(), &with(&["--max-drop", "1", "--metric", "agreement"]), 2, "cannot be measured");
    // Without classes the limit is one of the noise: 1 % of the power are 20 dB.
    let output = qcc(folder.path(), &with(&["--max-drop", "1"]));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("an SQNR of 20.0 dB"), "{}", stderr(&output));
    refused(folder.path(), &with(&["--max-drop", "0"]), 2, "no loss that can be kept to");
}

#[test]
fn a_limit_of_the_loss_is_kept_or_refused() {
    let folder = example();
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
    let folder = example();
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
