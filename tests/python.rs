//! Checks that need Python and its packages: the conformance scores and the networks of torchvision. Without them each test
//! says that it is skipped.

use std::process::Command;

/// Runs a script of this folder with the command under test. Its exit code 0 may also mean that it was skipped.
fn script(file: &str, arguments: &[&str]) {
    let path = format!("{}/tests/{file}", env!("CARGO_MANIFEST_DIR"));
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    let run = Command::new(&python).arg(&path).args(["--qcc", env!("CARGO_BIN_EXE_qcc")]).args(arguments).output();
    let Ok(done) = run else {
        println!("skipped: no {python}");
        return;
    };
    let out = String::from_utf8_lossy(&done.stdout);
    println!("{out}");
    assert!(done.status.success(), "{file}: {out}{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn conformance() {
    script("conformance/conformance.py", &["--score", "A", "--failures", "--require", "A=220,AB=95"]);
}

#[test]
fn quantization_is_exact() {
    script("conformance/conformance.py", &["--score", "B", "--failures", "--require", "B=30"]);
}

#[test]
fn networks() {
    script("networks.py", &["--quick"]);
}
