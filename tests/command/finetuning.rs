//! Training from the command line.

use qcc::data::array::to_npy;
use tempfile::TempDir;

use crate::{EXAMPLE, done, qcc, refused, samples, stderr};

#[test]
fn every_recipe_trains_what_it_is_for() {
    let folder = TempDir::new().unwrap();
    for (name, count) in [("x.npy", 40), ("few.npy", 4)] {
        std::fs::write(folder.path().join(name), to_npy(&samples(count))).unwrap();
    }
    let all = |data: &'static str, more: &[&'static str]| {
        [&["finetune", EXAMPLE, "-o", "out.so", "--calibrate", data, "--batch", "16"], more].concat()
    };
    let with = |more: &[&'static str]| all("x.npy", more);
    refused(folder.path(), &with(&["--recipe", "tuned"]), 2, "is none of distill, faq, apprentice, inq, uniq, qil");
    refused(folder.path(), &with(&["--recipe", "apprentice"]), 2, "another network teaches, and there is none");
    refused(folder.path(), &with(&["--recipe", "qil"]), 2, "fewer than 8 bits that are linear");
    refused(folder.path(), &with(&["--recipe", "uniq"]), 2, "fewer than 8 bits, for which they could have noise");
    refused(folder.path(), &with(&["--recipe", "inq", "--weights", "4"]), 2, "add --weights inq5");
    refused(folder.path(), &with(&["--loss", "none"]), 2, "scores, distance");
    refused(folder.path(), &all("few.npy", &[]), 1, "give at least 8");

    let apprentice =
        |more: &[&'static str]| with(&[&["--recipe", "apprentice", "--teacher", EXAMPLE][..], more].concat());
    refused(folder.path(), &with(&["--scheme", "b"]), 2, "--scheme is one of --recipe apprentice");
    refused(folder.path(), &apprentice(&["--scheme", "a"]), 2, "the teacher learns from labels, and there are none");
    refused(folder.path(), &apprentice(&["--scheme", "d"]), 2, "a, b, c");
    let labels: Vec<i64> = (0..40).map(|i| i % 10).collect();
    let labels = qcc::ir::Tensor::new(&[40], qcc::ir::Data::I64(labels));
    std::fs::write(folder.path().join("labels.npy"), to_npy(&labels)).unwrap();

    let recipes: [&[&str]; 8] = [
        &["--recipe", "distill", "--weights", "4", "--activations", "4", "--loss", "distance", "--epochs", "1"],
        &["--recipe", "faq", "--epochs", "1", "--optimizer", "sgd", "--rate", "0.0001"],
        &["--recipe", "apprentice", "--teacher", EXAMPLE, "--weights", "5", "--epochs", "1"],
        &["--recipe", "apprentice", "--teacher", EXAMPLE, "--scheme", "b", "--weights", "4"],
        &["--recipe", "apprentice", "--teacher", EXAMPLE, "--scheme", "a", "--labels", "labels.npy"],
        &["--recipe", "inq", "--weights", "inq5", "--epochs", "4"],
        &["--recipe", "uniq", "--weights", "table4"],
        &["--recipe", "qil", "--weights", "3", "--epochs", "2"],
    ];
    for recipe in recipes {
        let output = qcc(folder.path(), &[&with(&[])[..], recipe].concat());
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(0), "{recipe:?}: {said}");
        // Each is evaluated on what is held out: 5 of 40.
        assert!(said.contains("held out, 5 samples, before: loss"), "{recipe:?}: {said}");
        assert_eq!(said.contains("as the scores of classes"), !recipe.contains(&"distance"), "{recipe:?}: {said}");
        done(folder.path(), &["check", "out.so"]);
        std::fs::remove_file(folder.path().join("out.so")).unwrap();
    }
}

/// As by Ctrl-C: what was reached is kept, the exit code is that of a shell, and the same command goes on.
#[test]
#[cfg(unix)]
fn a_signal_leaves_a_checkpoint() {
    use std::io::{BufRead as _, BufReader, Read as _};
    use std::process::{Command, Stdio};
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("x.npy"), to_npy(&samples(40))).unwrap();
    let arguments = ["finetune", EXAMPLE, "-o", "out.so", "--calibrate", "x.npy", "--batch", "8", "--patience", "0"];
    let mut training = Command::new(env!("CARGO_BIN_EXE_qcc"))
        .current_dir(folder.path())
        .args(arguments)
        .args(["--epochs", "100000"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(training.stderr.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("step ") {
        line.clear();
        assert!(said.read_line(&mut line).unwrap() > 0, "it ended before its first evaluation");
    }
    assert!(Command::new("kill").args(["-INT", &training.id().to_string()]).status().unwrap().success());
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert_eq!(training.wait().unwrap().code(), Some(130), "{rest}");
    assert!(rest.contains("error[Q0042]") && rest.contains("--resume goes on"), "{rest}");
    let left = |name: &str| folder.path().join(name).exists();
    assert!(left("out.train") && !left("out.so"), "{rest}");
}

#[test]
fn a_learning_curve_says_what_more_data_would_bring() {
    let folder = TempDir::new().unwrap();
    for (name, count) in [("x.npy", 256), ("few.npy", 255)] {
        std::fs::write(folder.path().join(name), to_npy(&samples(count))).unwrap();
    }
    let with = |data: &'static str| {
        [
            "finetune",
            EXAMPLE,
            "-o",
            "out.so",
            "--calibrate",
            data,
            "--weights",
            "4",
            "--batch",
            "16",
            "--learning-curve",
        ]
    };
    let told = |arguments: &[&str]| {
        let output = qcc(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        stderr(&output)
    };
    refused(folder.path(), &with("few.npy"), 2, "give at least 256");
    let said = told(&with("x.npy"));
    for part in ["1/16", "1/8", "1/4", "1/2", "1/1"] {
        assert!(said.contains(&format!("learning from {part} of the samples")), "{part}: {said}");
    }
    for line in [
        "noise scale",
        "loss: near",
        "agreement: near",
        "what a quarter of the samples said",
        "with 448 samples",
        "steps k <=",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    let left = |name: &str| folder.path().join(name).exists();
    assert!(left("out.so") && left("out.train") && !left("out.train.1-16") && !left("out.train.1-2"), "{said}");
    // The curve changes nothing of the training with all samples.
    let whole = std::fs::read(folder.path().join("out.so")).unwrap();
    let alone = with("x.npy");
    done(folder.path(), &alone[..alone.len() - 1]);
    assert_eq!(whole, std::fs::read(folder.path().join("out.so")).unwrap());
    // Of a curve that ended in its midst the trainings that are done are not made again.
    std::fs::remove_file(folder.path().join("out.so")).unwrap();
    let again = told(&[&with("x.npy")[..], &["--resume"]].concat());
    assert!(again.contains("learning from 1/16"), "{again}");
    assert_eq!(whole, std::fs::read(folder.path().join("out.so")).unwrap());
}

#[test]
fn float_shadows_in_onnx_are_rounded_to_what_was_trained() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("x.npy"), to_npy(&samples(40))).unwrap();
    for (bits, recipe) in [("8", "distill"), ("4", "distill"), ("table4", "distill"), ("3", "qil")] {
        for output in ["out.qir", "out.onnx"] {
            let flags =
                ["--calibrate", "x.npy", "--weights", bits, "--recipe", recipe, "--batch", "8", "--rate", "0.01"];
            done(folder.path(), &[&["finetune", EXAMPLE, "--epochs", "2", "-o", output][..], &flags].concat());
        }
        let text = std::fs::read_to_string(folder.path().join("out.qir")).unwrap();
        let trained = qcc::ir::parse(&text, &qcc::ir::parse::no_files).unwrap();
        let file = folder.path().join("out.onnx");
        let read = qcc::compile(file.as_path(), &qcc::Options::default()).unwrap();
        let weights = |g: &qcc::ir::Graph| {
            let all = g.constants().filter_map(|(_, t)| t.as_i8().map(<[i8]>::to_vec));
            let mut all: Vec<Vec<i8>> = all.filter(|codes| codes.len() > 256).collect();
            all.sort();
            all
        };
        let (trained, read) = (weights(&trained), weights(read.graph()));
        assert!(!trained.is_empty() && trained == read, "{bits}: {} and {} layers", trained.len(), read.len());
        // Real numbers take four bytes where codes take one.
        let bytes = std::fs::metadata(&file).unwrap().len() as usize;
        let count: usize = trained.iter().map(Vec::len).sum();
        assert_eq!(bytes > 4 * count, bits != "table4", "{bits}: {bytes} bytes for {count} weights");
    }
}
