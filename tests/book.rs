//! What the pages tell readers to type works: blocks `sh`, `c` and `python` of the README and of the book's chapters for users are run, page by page, in
//! a folder that has what they name. Rust blocks of `README.md` and `docs/getting-started.md` are documentation tests of the library.
//!
//! A block `sh norun: WHY` is not run.

#[path = "book/blocks.rs"]
mod blocks;
mod optional;

use std::path::{Path, PathBuf};
use std::process::Command;

use blocks::{Block, blocks};
use optional::Missing;
use qcc::data::array::to_npy;
use qcc::ir::{Data, Tensor};
use tempfile::TempDir;

/// Pages whose blocks are run.
const PAGES: [&str; 6] = [
    "docs/getting-started.md",
    "docs/reading-a-dump.md",
    "docs/finding-lost-accuracy.md",
    "docs/speed.md",
    "docs/safety.md",
    "README.md",
];

fn main() -> std::process::ExitCode {
    optional::main(&[
        ("every_page_is_in_the_book", every_page_is_in_the_book),
        ("getting_started", || run_page(PAGES[0])),
        ("reading_a_dump", || run_page(PAGES[1])),
        ("finding_lost_accuracy", || run_page(PAGES[2])),
        ("speed", || run_page(PAGES[3])),
        ("safety", || run_page(PAGES[4])),
        ("readme", || run_page(PAGES[5])),
        ("python_blocks", python_blocks),
    ])
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn page(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).expect("the page is there")
}

fn every_page_is_in_the_book() -> Result<(), Missing> {
    let summary = page("docs/SUMMARY.md");
    for entry in std::fs::read_dir(root().join("docs")).expect("the folder is there").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".md") && name != "SUMMARY.md" {
            assert!(summary.contains(&format!("]({name})")), "docs/SUMMARY.md does not list {name}");
        }
    }
    Ok(())
}

/// The folder that readers of the pages are in: the example as `model.onnx`, samples with labels, a picture; and what a clone has.
fn folder() -> TempDir {
    let folder = TempDir::new().expect("temporary folder");
    let copy = |from: &str, to: &str| {
        std::fs::copy(root().join("examples/models").join(from), folder.path().join(to)).expect("the file is there");
    };
    copy("resnet_cifar10.onnx", "model.onnx");
    copy("ship.jpg", "ship.jpg");
    copy("cifar10.txt", "cifar10.txt");
    std::fs::create_dir(folder.path().join("images")).expect("temporary folder");
    copy("ship.jpg", "images/1.jpg");
    copy("ship.jpg", "images/2.jpg");
    std::os::unix::fs::symlink(root().join("examples"), folder.path().join("examples")).expect("temporary folder");
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let samples = Tensor::f32(&[8, 3, 32, 32], (0..8 * 3 * 32 * 32).map(|_| next()).collect());
    let labels = Tensor::new(&[8], Data::I64((0..8).collect()));
    for (name, tensor) in [("x.npy", samples), ("y.npy", labels)] {
        std::fs::write(folder.path().join(name), to_npy(&tensor)).expect("temporary file");
    }
    folder
}

/// Runs a command in the folder, with qcc in front of all others.
fn run(folder: &Path, program: &str, arguments: &[&str], what: &str) {
    let own = Path::new(env!("CARGO_BIN_EXE_qcc")).parent().expect("a folder").to_path_buf();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(own).chain(std::env::split_paths(&path))).expect("paths");
    let mut command = Command::new(program);
    command.current_dir(folder).args(arguments).env("PATH", path).env("QCC", env!("CARGO_BIN_EXE_qcc"));
    let output = command.env("PYTHONPATH", root().join("runtime/python")).output().expect("the command starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{what}\n{said}");
}

fn run_page(name: &str) -> Result<(), Missing> {
    let folder = folder();
    let mut ran = 0;
    for Block { language, text, line } in blocks(&page(name)) {
        let what = format!("{name}:{line}:\n{text}");
        match language.as_str() {
            "sh" => run(folder.path(), "bash", &["-euo", "pipefail", "-c", &text], &what),
            "c" => std::fs::write(folder.path().join("main.c"), &text).expect("temporary file"),
            _ => continue,
        }
        ran += 1;
    }
    assert!(ran > 0, "{name} has no block to run");
    Ok(())
}

fn python_blocks() -> Result<(), Missing> {
    let named = ["QCC_PYTHON", "PYTHON"].iter().find_map(|name| std::env::var(name).ok());
    let python = named.unwrap_or_else(|| "python3".to_string());
    let has = |module: &str| {
        Command::new(&python).args(["-c", &format!("import {module}")]).output().is_ok_and(|o| o.status.success())
    };
    if !has("numpy") {
        return Err(Missing(format!("no numpy in {python}")));
    }
    let folder = folder();
    for name in PAGES {
        for Block { language, text, line } in blocks(&page(name)) {
            let needs_images = text.contains("PIL");
            if language == "python" && (!needs_images || has("PIL")) {
                run(folder.path(), &python, &["-c", &text], &format!("{name}:{line}:\n{text}"));
            }
        }
    }
    Ok(())
}
