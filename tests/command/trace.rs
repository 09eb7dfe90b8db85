//! The trace from ONNX nodes to addresses.

use serde_json::Value;

use super::{done, fixture, qcc, stderr};

#[test]
fn a_trace_leads_from_nodes_to_addresses() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let model = fixture("cnn.onnx");
    let model = model.to_str().expect("a path");
    done(folder.path(), &[model, "-o", "net.so", "--trace", "trace.json"]);
    let text = std::fs::read_to_string(folder.path().join("trace.json")).expect("it was written");
    let trace: Value = serde_json::from_str(&text).expect("JSON");
    let steps = trace["steps"].as_array().expect("a list");
    let mut ends = 0;
    for step in steps {
        let address =
            |key: &str| u64::from_str_radix(step[key].as_str().unwrap_or("")[2..].trim(), 16).expect("an address");
        assert!(address("start") >= ends && address("end") > address("start"), "{step}");
        ends = address("end");
    }
    let of_conv = |s: &&Value| s["operator"].as_str().is_some_and(|o| o.contains("int.qconv2d"));
    let conv = steps.iter().find(of_conv).unwrap_or_else(|| panic!("no convolution: {text}"));
    assert_eq!((&conv["onnx"]["operator"], &conv["onnx"]["node"]), (&"Conv".into(), &"/conv/Conv".into()));
    assert!(trace["shared_functions"].as_array().is_some_and(|f| !f.is_empty()));
    let refused = qcc(folder.path(), &[model, "-o", "net.o", "--trace", "other.json"]);
    assert_eq!(refused.status.code(), Some(2), "{}", stderr(&refused));
}
