//! Looking inside: the explorer's page, differences between passes, the life of a node, graphs for other viewers.

use std::path::Path;
use std::process::Command;

use crate::{EXAMPLE, done, example, fixture, qcc, refused, stderr};

/// A page without its timings and the folder that it was made in.
fn timeless(page: &str) -> String {
    let mut out = String::new();
    for (i, part) in page.split("\"ms\":").enumerate() {
        out.push_str(if i == 0 {
            part
        } else {
            part.trim_start_matches(|c: char| c.is_ascii_digit() || ".e-".contains(c))
        });
    }
    out
}

#[test]
fn a_page_says_what_passes_do_to_the_samples_that_it_is_given() {
    let folder = example();
    done(folder.path(), &["explore", EXAMPLE, "--data", "x.npy", "-o", "page.html"]);
    let page = std::fs::read_to_string(folder.path().join("page.html")).unwrap();
    assert!(page.matches("\"effect\":[").count() > 10, "passes have no effect");
}

#[test]
fn a_dump_has_differences_and_a_page_that_is_the_same_each_time() {
    let folder = example();
    let arguments = |dir: &'static str| ["-o", "m.so", "--calibrate", "x.npy", "--dump-dir", dir];
    for dir in ["one", "two"] {
        done(folder.path(), &[&[EXAMPLE], arguments(dir).as_slice()].concat());
    }
    let read = |path: &str| std::fs::read_to_string(folder.path().join(path)).unwrap();
    let [one, two] = ["one/index.html", "two/index.html"].map(|p| timeless(&read(p)));
    assert!(one == two, "pages differ but for timings");
    assert!(one.contains("qcc_") || one.contains("step_0"), "no machine code");
    // Nothing is loaded from elsewhere.
    for part in ["src=\"http", "href=\"http", "@import", "fetch(\"http"] {
        assert!(!one.contains(part), "{part}");
    }
    let names: Vec<String> = std::fs::read_dir(folder.path().join("one"))
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    let differences: Vec<&String> = names.iter().filter(|n| n.ends_with(".diff")).collect();
    assert!(differences.len() > 5, "{names:?}");
    assert!(!names.contains(&"01-canonicalize.diff".to_string()), "a pass without edits has no difference");
    // As `patch` reads them, where there is one.
    if Command::new("patch").arg("--version").output().is_ok() {
        for name in differences {
            let text = read(&format!("one/{name}"));
            let (old, new) = (text.lines().next().unwrap(), text.lines().nth(1).unwrap());
            let (old, new) = (old.trim_start_matches("--- "), new.trim_start_matches("+++ "));
            let run = Command::new("patch")
                .current_dir(folder.path().join("one"))
                .args(["--quiet", "-o", "patched", old, name])
                .output()
                .unwrap();
            assert!(run.status.success(), "{name}: {}", String::from_utf8_lossy(&run.stderr));
            assert!(read("one/patched") == read(&format!("one/{new}")), "{name}");
        }
    }
}

#[test]
fn a_failed_compilation_leaves_a_page() {
    let folder = example();
    let output = qcc(folder.path(), &[EXAMPLE, "-o", "m.so", "--passes=canonicalize", "--dump-dir", "out.dump"]);
    assert_ne!(output.status.code(), Some(0));
    let page = std::fs::read_to_string(folder.path().join("out.dump/index.html")).unwrap();
    assert!(page.contains("\"program\":null") && page.contains("\"pass\":\"canonicalize\""));
}

#[test]
fn the_life_of_a_node_is_told() {
    let folder = example();
    let life = done(folder.path(), &["explain", EXAMPLE, "/layers/layers.1/conv1/Conv"]);
    for part in [
        "%layers.layers.1.conv1.Conv_output_0 of node \"/layers/layers.1/conv1/Conv\" (Conv, opset 17)",
        "00 import",
        "06 fold-bn",
        "edit #",
        "is gone: its work is done in %layers.layers.1.",
        "int.qconv2d",
        "machine code for",
        "step_0",
        "accumulators of %layers.layers.1.Relu_output_0 lie in [",
        "lies in the arena at",
        "M from ",
    ] {
        assert!(life.contains(part), "{part} is missing:\n{life}");
    }
    // The same by the value's name, by what it became, and by the symbol of its step.
    let symbol = life.split_whitespace().find(|w| w.starts_with("step_")).unwrap().trim_end_matches(':');
    for name in ["layers.layers.1.conv1.Conv_output_0", "/layers/layers.1/conv1/Conv_output_0"] {
        assert_eq!(done(folder.path(), &["explain", EXAMPLE, name]), life, "{name}");
    }
    assert!(done(folder.path(), &["explain", EXAMPLE, symbol]).contains("machine code for"));
    let output = qcc(folder.path(), &["explain", EXAMPLE, "layers.1.conv9"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("the nearest names are"), "{}", stderr(&output));
    let model = fixture("cnn.onnx").display().to_string();
    refused(folder.path(), &["explain", &model, "no such node"], 2, "neither a node nor a value");
}

#[test]
fn graphs_go_to_other_viewers() {
    let folder = example();
    done(folder.path(), &[EXAMPLE, "-o", "m.dot"]);
    let dot = std::fs::read_to_string(folder.path().join("m.dot")).unwrap();
    assert!(dot.starts_with("digraph ") && dot.contains("int.qconv2d") && dot.contains("\"%input\" -> "), "{dot}");
    let text = done(folder.path(), &[EXAMPLE, "--emit", "model-explorer"]);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let nodes = json[0]["graphs"][0]["nodes"].as_array().unwrap();
    let ids: Vec<&str> = nodes.iter().map(|n| n["id"].as_str().unwrap()).collect();
    for edge in nodes.iter().flat_map(|n| n["incomingEdges"].as_array().unwrap()) {
        assert!(ids.contains(&edge["sourceNodeId"].as_str().unwrap()), "{edge}");
    }
    if Command::new("dot").arg("-V").output().is_ok() {
        let run =
            Command::new("dot").current_dir(folder.path()).args(["-Tsvg", "m.dot", "-o", "m.svg"]).output().unwrap();
        assert!(run.status.success() && Path::new(&folder.path().join("m.svg")).exists());
    }
}

#[test]
fn only_changed_graphs_are_printed() {
    let folder = example();
    let printed = |flag: &str| {
        let output = qcc(folder.path(), &["opt", EXAMPLE, "--passes=canonicalize, fold-bn", flag, "-o", "x.qir"]);
        let text = stderr(&output);
        text.lines().filter(|l| l.starts_with("// after ")).map(str::to_string).collect::<Vec<_>>()
    };
    assert_eq!(printed("--print-ir-after-change"), ["// after import", "// after fold-bn"]);
    assert_eq!(printed("--print-ir-after-all"), ["// after import", "// after canonicalize", "// after fold-bn"]);
}

#[test]
fn reports_are_pages() {
    let folder = example();
    done(folder.path(), &["compare", EXAMPLE, "--data", "x.npy", "--html", "a.html"]);
    let peers = "{\"net\": \"resnet_cifar10\", \"threads\": 1, \"engine\": \"qcc\", \"median_ms\": 9.0}\n\
                 {\"net\": \"other\", \"threads\": 1, \"engine\": \"qcc\", \"median_ms\": 1.0}\n\
                 {\"net\": \"resnet_cifar10\", \"threads\": 1, \"engine\": \"qcc\", \"median_ms\": 0.5, \"sqnr_db\": 30.0}\n\
                 {\"net\": \"resnet_cifar10\", \"threads\": 1, \"engine\": \"ort-int8\", \"median_ms\": 1.0, \"top1\": 86.5}\n";
    std::fs::write(folder.path().join("peers.json"), peers).unwrap();
    let bench = ["bench", EXAMPLE, "--seconds", "0.05", "--per-layer", "--html", "s.html", "--peers"];
    done(folder.path(), &[&bench[..], &["peers.json"]].concat());
    refused(folder.path(), &[&bench[..], &["x.npy"]].concat(), 1, "x.npy");
    std::fs::write(folder.path().join("none.json"), peers.lines().nth(1).unwrap()).unwrap();
    refused(folder.path(), &[&bench[..], &["none.json"]].concat(), 1, "there are no results of `resnet_cifar10`");
    let read = |path: &str| std::fs::read_to_string(folder.path().join(path)).unwrap();
    let (accuracy, speed) = (read("a.html"), read("s.html"));
    for (page, parts) in [
        (&accuracy, ["Damage by layer", "Signal to noise", "Ranges", "%</text>", "layers.layers.1.Relu_output_0"]),
        (
            &speed,
            [
                "Layers below the roof",
                "Time by step",
                "GMAC/s: multipliers",
                "0.500 ms, 1.00 times that of qcc, 30.0 dB",
                "1.000 ms, 2.00 times that of qcc, top-1 86.50 %",
            ],
        ),
    ] {
        parts.iter().for_each(|part| assert!(page.contains(part), "{part} is missing"));
        assert!(!page.contains("<script") && !page.contains("NaN") && !page.contains("http"), "{page}");
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    }
    refused(folder.path(), &["compare", EXAMPLE, "--data", "x.npy", "--html", "x.npy"], 2, "--html");
}

#[test]
fn shells_and_the_manual_know_the_commands() {
    let folder = example();
    for (shell, mark) in [("bash", "_qcc()"), ("zsh", "#compdef qcc"), ("fish", "complete -c qcc")] {
        let script = done(folder.path(), &["completions", shell]);
        assert!(script.contains(mark) && script.contains("calibrate") && script.contains("explore"), "{script}");
    }
    done(folder.path(), &["manual", "man1"]);
    for (page, part) in [("qcc.1", "qcc\\-explain"), ("qcc-compile.1", "dump\\-dir"), ("qcc-explore.1", "\\-\\-bench")]
    {
        let text = std::fs::read_to_string(folder.path().join("man1").join(page)).unwrap();
        assert!(text.contains(part), "{page}: {text}");
    }
}
