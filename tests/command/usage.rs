//! What the command says of itself, and of calls that cannot be meant as they are.

use tempfile::TempDir;

use crate::models::model;
use crate::{EXAMPLE, done, example, qcc, refused, stderr};

fn relu() -> TempDir {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("relu.onnx"), model(&[("Relu", "x", "y")], &[1, 4])).unwrap();
    folder
}

#[test]
fn compile_is_a_command_and_misspelled_ones_are_answered() {
    let folder = relu();
    done(folder.path(), &["compile", "relu.onnx", "-o", "m.so"]);
    for (word, help) in
        [("inspct", "did you mean qcc inspect?"), ("benhc", "did you mean qcc bench?"), ("xyz", "commands are")]
    {
        refused(folder.path(), &[word, "relu.onnx"], 2, help);
        refused(folder.path(), &[word], 2, help);
    }
    refused(folder.path(), &["absent.onnx", "-o", "out.so"], 1, "absent.onnx");
}

#[test]
fn help_says_what_presets_contain_and_groups_flags() {
    let folder = TempDir::new().unwrap();
    let help = done(folder.path(), &["--help"]);
    for heading in
        ["Samples and ranges:", "Precision:", "Reading the model:", "Machine code:", "Images:", "Looking inside:"]
    {
        assert_eq!(help.lines().filter(|l| *l == heading).count(), 1, "{heading}\n{help}");
    }
    assert!(help.contains("imagenet (short side 256, crop 224"), "{help}");
    let group = |flag: &str| {
        let at =
            help.lines().position(|l| l.trim_start().starts_with(flag)).unwrap_or_else(|| panic!("{flag}\n{help}"));
        help.lines().take(at).filter(|l| l.ends_with(':') && !l.starts_with(' ')).last().unwrap().to_string()
    };
    for (flag, heading) in [
        ("-o, --output", "Options:"),
        ("--calibrate", "Samples and ranges:"),
        ("--samples", "Samples and ranges:"),
        ("--precision", "Precision:"),
        ("--bind", "Reading the model:"),
        ("--tune", "Machine code:"),
        ("--preset", "Images:"),
        ("--dump-dir", "Looking inside:"),
    ] {
        assert_eq!(group(flag), heading, "{flag}");
    }
}

#[test]
fn flags_without_effect_are_named() {
    let folder = example();
    let warned = |arguments: &[&str], text: &str| {
        let output = qcc(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
        let warnings = stderr(&output);
        assert!(warnings.lines().any(|l| l.starts_with("warning: ") && l.contains(text)), "{arguments:?}: {warnings}");
    };
    let dynamic = [EXAMPLE, "-o", "d.so", "--mode", "int8_dynamic", "--calibrate", "x.npy", "--round-weights", "off"];
    warned(&dynamic, "--calibrate, --round-weights changes nothing here: --mode int8_dynamic");
    warned(&[EXAMPLE, "-o", "m.so", "--method", "mse"], "--method changes nothing here: there are no samples");
    warned(&[EXAMPLE, "--emit", "qir", "--target", "aarch64", "--io", "int"], "--target changes nothing here");
    warned(&["run", "example.so", "--input", "x.npy", "--precision", "all=16"], "the model is compiled already");
    warned(&["inspect", EXAMPLE, "--calibrate", "x.npy"], "nothing is compiled");
    warned(&["run", EXAMPLE, "--float", "--input", "x.npy", "--mode", "int8_dynamic"], "--mode changes nothing");
    let quiet =
        qcc(folder.path(), &[EXAMPLE, "-o", "m.so", "--calibrate", "x.npy", "--method", "mse", "--target", "native"]);
    assert!(!stderr(&quiet).contains("changes nothing"), "{}", stderr(&quiet));
}

#[test]
fn formats_of_all_layers_are_checked_and_said() {
    let folder = example();
    let said = |arguments: &[&str]| {
        let output = qcc(folder.path(), &[&[EXAMPLE, "-o", "m.qir"], arguments].concat());
        (output.status.code(), stderr(&output))
    };
    let (code, text) = said(&["--weights", "u8"]);
    assert!(code != Some(0) && text.contains("--weights: `u8` is none of i8,"), "{text}");
    let (code, text) = said(&["--activations", "i8"]);
    assert!(code != Some(0) && text.contains("--activations: `i8` is none of u8,"), "{text}");
    let (code, text) = said(&["--weights", "4", "--mode", "int8_dynamic"]);
    assert!(code != Some(0) && text.contains("--weights: where scales are found in each run"), "{text}");
    let (code, text) = said(&["--weights", "4", "--activations", "4"]);
    assert!(code == Some(0) && text.contains("keep 8 bits (first: "), "{text}");
    for bits in ["7", "i7"] {
        let (code, text) = said(&["--weights", bits]);
        assert!(code == Some(0) && !text.contains("keep 8 bits"), "{text}");
    }
    assert!(std::fs::read_to_string(folder.path().join("m.qir")).unwrap().contains("-63"), "weights of 7 bits");
}

#[test]
fn a_calibrated_compilation_says_how_good_it_is() {
    let folder = example();
    let said = stderr(&qcc(folder.path(), &[EXAMPLE, "-o", "m.so", "--calibrate", "x.npy"]));
    assert!(said.contains("quality: agreement ") && said.contains("3 samples that it was calibrated with"), "{said}");
    let said = stderr(&qcc(folder.path(), &[EXAMPLE, "-o", "m.so", "--calibrate", "x.npy", "--samples", "2"]));
    assert!(
        said.contains("calibrated with 2 samples") && said.contains("1 sample that it was not calibrated with"),
        "{said}"
    );
    let said = stderr(&qcc(folder.path(), &[EXAMPLE, "-o", "m.so", "--data", "x.npy"]));
    assert!(said.contains("3 samples of --data"), "{said}");
    let said = stderr(&qcc(folder.path(), &[EXAMPLE, "-o", "m.so", "--calibrate", "x.npy", "--quality", "off"]));
    assert!(!said.contains("quality"), "{said}");
}

/// Without samples a model of which little is left on synthesized inputs is warned of, one that gives no numbers there is not.
#[test]
fn what_is_lost_without_samples_is_said() {
    let folder = TempDir::new().unwrap();
    let at = folder.path();
    let said = |op: &str, args: &[&str]| {
        std::fs::write(at.join("m.onnx"), model(&[(op, "x", "y")], &[1, 64])).unwrap();
        stderr(&qcc(at, &[&["m.onnx", "-o", "m.so"], args].concat()))
    };
    let (measured, coarse) = ("dB on synthesized inputs", "coarse for small numbers");
    assert!(said("Reciprocal", &[]).contains(measured));
    assert!(!said("Exp", &[]).contains(measured));
    assert!(!said("Reciprocal", &["--quality", "off"]).contains(measured));
    let root = said("Sqrt", &["--mode", "int8_dynamic"]);
    assert!(root.contains(coarse) && !root.contains(measured), "{root}");
    assert!(!said("Exp", &["--mode", "int8_dynamic"]).contains(coarse));
}
