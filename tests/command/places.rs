//! Where output goes: files as a whole, devices and pipes as they are, nothing over what was not qcc's.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::models::model;
use crate::{done, qcc, refused, stderr, stdout};

/// A folder with a model of one operator.
fn relu() -> TempDir {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("relu.onnx"), model(&[("Relu", "x", "y")], &[1, 4])).unwrap();
    folder
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qcc"));
    command.current_dir(folder).args(arguments).env_remove("QCC_LOG");
    command
}

#[test]
fn headers_of_others_are_kept() {
    let folder = relu();
    let own = "#pragma once\nint mine(void);\n";
    std::fs::write(folder.path().join("out.h"), own).unwrap();
    for output in ["out.so", "out.o"] {
        let said = stderr(&qcc(folder.path(), &["relu.onnx", "-o", output]));
        assert!(said.contains("a file stands that is not qcc's") && said.contains("out.h"), "{said}");
        assert!(!folder.path().join(output).exists());
    }
    assert_eq!(std::fs::read_to_string(folder.path().join("out.h")).unwrap(), own);
    std::fs::remove_file(folder.path().join("out.h")).unwrap();
    refused(folder.path(), &["relu.onnx", "-o", "out.h", "--emit", "so"], 2, "and so would the model");
    // One of qcc's is replaced.
    done(folder.path(), &["relu.onnx", "-o", "m.so"]);
    done(folder.path(), &["relu.onnx", "-o", "m.so", "--io", "int"]);
    assert!(!std::fs::read_to_string(folder.path().join("m.h")).unwrap().contains("_run_f32("));
}

#[test]
fn inputs_are_not_written_over() {
    let folder = relu();
    let at = |name: &str| folder.path().join(name);
    done(folder.path(), &["relu.onnx", "-o", "relu.qir", "--save-ranges", "r.json"]);
    std::fs::write(at("x.npy"), crate::to_npy(&crate::Tensor::f32(&[2, 4], vec![0.5; 8]))).unwrap();
    std::fs::hard_link(at("relu.onnx"), at("same.qir")).unwrap();
    let before: Vec<Vec<u8>> =
        ["relu.onnx", "relu.qir", "r.json", "x.npy"].map(|n| std::fs::read(at(n)).unwrap()).into();
    for arguments in [
        &["relu.onnx", "-o", "relu.onnx"][..],
        &["relu.onnx", "-o", "./relu.onnx", "--emit", "so"],
        &["relu.onnx", "-o", "same.qir"],
        &["relu.qir", "-o", "relu.qir"],
        &["relu.onnx", "-o", "m.so", "--ranges", "r.json", "--save-ranges", "r.json"],
        &["relu.onnx", "-o", "m.so", "--save-ranges", "m.so"],
        &["relu.onnx", "-o", "m.so", "--save-ranges", "m.h"],
        &["relu.onnx", "-o", "x.npy", "--emit", "so", "--calibrate", "x.npy"],
        &["opt", "relu.qir", "-o", "relu.qir"],
        &["calibrate", "relu.onnx", "--data", "x.npy", "-o", "x.npy"],
        &["ranges", "merge", "r.json", "-o", "r.json"],
        &["run", "relu.onnx", "--input", "x.npy", "--output", "x.npy"],
        &["run", "relu.onnx", "--input", "x.npy", "--output", "relu.onnx"],
    ] {
        refused(folder.path(), arguments, 2, "this file is also");
    }
    let after: Vec<Vec<u8>> =
        ["relu.onnx", "relu.qir", "r.json", "x.npy"].map(|n| std::fs::read(at(n)).unwrap()).into();
    assert!(before == after);
}

#[test]
fn standard_output_is_written_to_by_its_names() {
    let folder = relu();
    let text = done(folder.path(), &["relu.onnx", "--emit", "qir"]);
    for name in ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"] {
        assert_eq!(done(folder.path(), &["relu.onnx", "--emit", "qir", "-o", name]), text, "{name}");
    }
    // Into a file the shell has opened: behind what is there, and the file stays the same one.
    let path = folder.path().join("log.txt");
    std::fs::write(&path, "before\n").unwrap();
    let log = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    let run =
        command(folder.path(), &["relu.onnx", "--emit", "qir", "-o", "/dev/stdout"]).stdout(log).status().unwrap();
    assert!(run.success());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("before\n{text}"));
    let binary = done(folder.path(), &["relu.onnx", "--emit", "so", "-o", "/dev/stdout"]);
    assert!(binary.starts_with("\u{7f}ELF"));
    assert!(!Path::new("/dev/stdout.h").exists());
    refused(folder.path(), &["relu.onnx", "-o", "/dev/stdout"], 2, "does not say what to write");
}

#[test]
fn pipes_are_written_to_and_stay_pipes() {
    let folder = relu();
    let pipe = folder.path().join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().is_ok_and(|s| s.success());
    if !made {
        let _ = writeln!(std::io::stderr(), "skipped: mkfifo is missing");
        return;
    }
    let text = done(folder.path(), &["relu.onnx", "--emit", "qir"]);
    for (arguments, least) in [
        (&["relu.onnx", "--emit", "qir", "-o", "pipe"][..], text.len()),
        (&["relu.onnx", "--emit", "so", "-o", "pipe"], 4096),
    ] {
        let reader = {
            let pipe = pipe.clone();
            std::thread::spawn(move || std::fs::read(pipe).unwrap())
        };
        done(folder.path(), arguments);
        assert!(reader.join().unwrap().len() >= least, "{arguments:?}");
    }
    // Nobody reads: that is said after a while, and nothing hangs.
    refused(folder.path(), &["relu.onnx", "--emit", "qir", "-o", "pipe"], 1, "nobody reads from this pipe");
    let kind = std::fs::symlink_metadata(&pipe).unwrap().file_type();
    assert!(std::os::unix::fs::FileTypeExt::is_fifo(&kind));
}

/// A device of the test's own, which only root can make.
#[test]
fn devices_stay_devices() {
    let folder = relu();
    let made = Command::new("mknod").current_dir(folder.path()).args(["null", "c", "1", "3"]).output();
    if !made.is_ok_and(|o| o.status.success()) {
        let _ = writeln!(std::io::stderr(), "skipped: no device can be made here");
        return;
    }
    for (flag, more) in
        [("-o", &["--emit", "qir"][..]), ("--save-ranges", &["-o", "m.so"]), ("--save-tuning", &["-o", "m.so"])]
    {
        // Where the file system allows no devices, opening one is refused; it is not replaced either.
        let _ = qcc(folder.path(), &[&["relu.onnx", flag, "null"], more].concat());
        let kind = std::fs::symlink_metadata(folder.path().join("null")).unwrap().file_type();
        assert!(std::os::unix::fs::FileTypeExt::is_char_device(&kind), "{flag}");
    }
}

#[test]
fn links_are_followed() {
    let folder = relu();
    std::os::unix::fs::symlink("end.qir", folder.path().join("link.qir")).unwrap();
    done(folder.path(), &["relu.onnx", "-o", "link.qir"]);
    assert!(std::fs::symlink_metadata(folder.path().join("link.qir")).unwrap().is_symlink());
    assert!(std::fs::read_to_string(folder.path().join("end.qir")).unwrap().contains("graph @"));
}

/// `/dev/full` takes nothing.
#[test]
fn results_that_cannot_be_written_are_errors() {
    let folder = relu();
    if !Path::new("/dev/full").exists() {
        let _ = writeln!(std::io::stderr(), "skipped: /dev/full is missing");
        return;
    }
    for arguments in [
        &["inspect", "relu.onnx"][..],
        &["relu.onnx", "--emit", "qir"],
        &["opt", "relu.onnx"],
        &["list-ops"],
        &["--help"],
        &["relu.onnx", "--emit", "qir", "-o", "/dev/stdout"],
    ] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let code = command(folder.path(), arguments).stdout(full).stderr(Stdio::null()).status().unwrap().code();
        assert_eq!(code, Some(1), "{arguments:?}");
    }
    // A reader who has seen enough is no fault.
    let mut run = command(folder.path(), &["list-ops"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut some = [0; 1];
    run.stdout.take().unwrap().read_exact(&mut some).unwrap();
    let output = run.wait_with_output().unwrap();
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
    let _ = stdout(&output);
}
