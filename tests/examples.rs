//! Every example is short and runs.

mod optional;

use std::path::{Path, PathBuf};
use std::process::Command;

use optional::Missing;

/// Most lines of a file.
const LINES: usize = 80;

fn main() -> std::process::ExitCode {
    optional::main(&[("examples_are_short", examples_are_short), ("examples_run", examples_run)])
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        std::fs::read_dir(folder).expect("the folder is there").flatten().map(|e| e.path()).collect();
    found.sort();
    found
}

fn has_ending(path: &Path, endings: &[&str]) -> bool {
    path.extension().is_some_and(|x| endings.iter().any(|e| x == *e))
}

fn examples_are_short() -> Result<(), Missing> {
    let (mut folders, mut seen) = (vec![folder()], 0);
    while let Some(folder) = folders.pop() {
        for path in entries(&folder) {
            if path.is_dir() {
                folders.push(path);
            } else if has_ending(&path, &["rs", "c", "cpp"]) {
                let lines = std::fs::read_to_string(&path).expect("the file is there").lines().count();
                assert!(lines <= LINES, "{}: {lines} lines; at most {LINES}", path.display());
                seen += 1;
            }
        }
    }
    assert!(seen > 10, "{seen} files");
    Ok(())
}

/// Cargo builds them before it runs all tests, beside the command. Programs in other languages are run by `command` and `book`.
fn examples_run() -> Result<(), Missing> {
    let built = Path::new(env!("CARGO_BIN_EXE_qcc")).with_file_name("examples");
    let is_program = |p: &PathBuf| p.join("main.rs").exists() || has_ending(p, &["rs"]);
    let names: Vec<String> = entries(&folder())
        .into_iter()
        .filter(is_program)
        .map(|p| p.file_stem().unwrap_or_default().to_string_lossy().into_owned())
        .collect();
    if let Some(missing) = names.iter().find(|name| !built.join(name).exists()) {
        return Err(Missing(format!("the example {missing} is not built: cargo build --examples")));
    }
    for name in names {
        let output = Command::new(built.join(&name)).current_dir(env!("CARGO_MANIFEST_DIR")).output();
        let output = output.expect("the example starts");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && !out.is_empty(), "{name}: {out}{err}");
        println!("{name}: {}", out.lines().last().unwrap_or_default());
    }
    Ok(())
}
