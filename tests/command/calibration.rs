//! Samples in all their forms, shards, and tables of ranges.

use super::*;

/// Six samples of four numbers.
fn rows() -> Vec<f32> {
    (0..24u8).map(|i| (f32::from(i) * 1.7).sin() * f32::from(i)).collect()
}

#[test]
fn shards_merge_into_one_run() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    let relu = model(&[("Neg", "x", "n"), ("Relu", "n", "y")], &[1, 4]);
    std::fs::write(at("m.onnx"), relu).unwrap();
    std::fs::write(at("other.onnx"), model(&[("Abs", "x", "n"), ("Relu", "n", "y")], &[1, 4])).unwrap();
    std::fs::write(at("x.npy"), to_npy(&Tensor::f32(&[6, 4], rows())).unwrap()).unwrap();
    for method in ["minmax", "percentile", "mse", "kl", "auto"] {
        let calibrate = |model: &str, out: &str, more: &[&str]| {
            let flags = ["calibrate", model, "--data", "x.npy", "--method", method, "-o", out];
            done(folder.path(), &[&flags[..], more].concat());
        };
        calibrate("m.onnx", "whole.json", &[]);
        for i in ["1", "2", "3"] {
            calibrate("m.onnx", &format!("{i}.json"), &["--shard", &format!("{i}/3")]);
        }
        calibrate("other.onnx", "other.json", &["--shard", "3/3"]);
        let whole = std::fs::read_to_string(at("whole.json")).unwrap();
        for order in [["1.json", "2.json", "3.json"], ["3.json", "1.json", "2.json"]] {
            done(folder.path(), &[&["ranges", "merge", "-o", "merged.json"], &order[..]].concat());
            assert_eq!(std::fs::read_to_string(at("merged.json")).unwrap(), whole, "{method}");
        }
    }
    let merge = |tables: &[&str], text: &str| {
        refused(folder.path(), &[&["ranges", "merge", "-o", "out.json"], tables].concat(), 1, text);
    };
    merge(&["1.json", "2.json"], "shard 3/3 is missing");
    merge(&["1.json", "2.json", "1.json"], "tables 1 and 3 are both of shard 1/3");
    merge(&["whole.json", "whole.json"], "the same samples");
    merge(&["1.json", "2.json", "other.json"], "tables 1 and 3 are of different models");
    let third = std::fs::read_to_string(at("3.json")).unwrap();
    let counts = third.find("\"counts\"").unwrap();
    let damaged = format!("{}{}", &third[..counts], third[counts..].replacen(": \"", ": \"no ", 1));
    for (text, message) in [(&third[..third.len() / 2], "damaged.json"), (&damaged, "not in the form that qcc writes")]
    {
        std::fs::write(at("damaged.json"), text).unwrap();
        merge(&["1.json", "2.json", "damaged.json"], message);
    }
    // A table is given back as it is or edited.
    done(folder.path(), &["m.onnx", "-o", "a.qir", "--ranges", "whole.json"]);
    let mut table: serde_json::Value = serde_json::from_str(&third).unwrap();
    table["values"]["x"]["max"] = 1000.0.into();
    std::fs::write(at("edited.json"), table.to_string()).unwrap();
    done(folder.path(), &["m.onnx", "-o", "b.qir", "--ranges", "edited.json"]);
    assert_ne!(std::fs::read(at("a.qir")).unwrap(), std::fs::read(at("b.qir")).unwrap());
}

#[test]
fn test_data_of_onnx_calibrates() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("m.onnx"), model(&[("Neg", "x", "n"), ("Relu", "n", "y")], &[1, 4])).unwrap();
    std::fs::write(at("x.npy"), to_npy(&Tensor::f32(&[6, 4], rows())).unwrap()).unwrap();
    let tensor = |dims: &[u64], kind: u64, raw: &[u8]| {
        let dims: Vec<u8> = dims.iter().flat_map(|&d| number(1, d)).collect();
        [dims, number(2, kind), field(9, raw)].concat()
    };
    let set = |folder: &str, i: usize, bytes: &[u8]| {
        let set = at(folder).join(format!("test_data_set_{i}"));
        std::fs::create_dir_all(&set).unwrap();
        std::fs::write(set.join("input_0.pb"), bytes).unwrap();
    };
    for (i, row) in rows().chunks(4).enumerate() {
        let raw: Vec<u8> = row.iter().flat_map(|x| x.to_le_bytes()).collect();
        set("sets", i, &tensor(&[1, 4], 1, &raw));
    }
    done(folder.path(), &["calibrate", "m.onnx", "--data", "x.npy", "-o", "a.json"]);
    done(folder.path(), &["calibrate", "m.onnx", "--data", "sets", "-o", "b.json"]);
    assert_eq!(std::fs::read_to_string(at("a.json")).unwrap(), std::fs::read_to_string(at("b.json")).unwrap());
    done(folder.path(), &["m.onnx", "-o", "a.qir", "--calibrate", "x.npy"]);
    done(folder.path(), &["m.onnx", "-o", "b.qir", "--calibrate", "sets"]);
    assert_eq!(std::fs::read(at("a.qir")).unwrap(), std::fs::read(at("b.qir")).unwrap());
    std::fs::create_dir(at("empty")).unwrap();
    set("shape", 0, &tensor(&[1, 4], 1, &[0; 16]));
    set("shape", 1, &tensor(&[1, 5], 1, &[0; 20]));
    set("dtype", 0, &tensor(&[1, 4], 6, &[0; 16]));
    set("short", 0, &tensor(&[1, 4], 1, &[0; 12]));
    set("noise", 0, &[0xff; 9]);
    set("nan", 0, &tensor(&[1, 4], 1, &[0xff; 16]));
    std::fs::create_dir_all(at("missing/test_data_set_0")).unwrap();
    let bad = [
        ("empty", "test_data_set_0"),
        ("shape", "does not hold samples of shape"),
        ("dtype", "a tensor of integers"),
        ("short", "input_0.pb"),
        ("noise", "not a whole ONNX tensor"),
        ("nan", "is not finite on the samples"),
        ("missing", "there is no such file"),
    ];
    for (data, text) in bad {
        refused(folder.path(), &["calibrate", "m.onnx", "--data", data, "-o", "out.json"], 1, text);
    }
    refused(
        folder.path(),
        &["calibrate", "m.onnx", "--data", "sets", "--shard", "8/9", "-o", "out.json"],
        1,
        "share 8/9",
    );
    refused(folder.path(), &["calibrate", "m.onnx", "--data", "sets", "--shard", "4/3", "-o", "out.json"], 2, "i/n");
}

