//! Tests of what a machine may not have: other people's models, a Python with packages, an emulator. Rust's own harness
//! knows only at compile time what it ignores; here a test says while it runs that it cannot, and is counted as ignored:
//!
//! ```text
//! test float_evaluation_agrees_with_onnx_runtime ... ignored, skipped: no ../shared
//! test result: ok. 0 passed; 0 failed; 1 ignored
//! ```
//!
//! `QCC_PYTHON`, or else `PYTHON`, names the Python to use instead of `python3`.

use std::panic::catch_unwind;
use std::process::{Command, ExitCode};
use std::time::Instant;

/// Why a test cannot run here: `no ../shared`.
pub struct Missing(pub String);

/// A test by name.
pub type Test = (&'static str, fn() -> Result<(), Missing>);

/// Runs the tests whose names contain one of the arguments, all without any. Takes the flags of Rust's harness that
/// matter here: `--list`, `--exact`; others change nothing.
pub fn main(tests: &[Test]) -> ExitCode {
    let (flags, names): (Vec<String>, Vec<String>) = std::env::args().skip(1).partition(|a| a.starts_with('-'));
    let has = |flag: &str| flags.iter().any(|f| f == flag);
    let matches = |name: &str, part: &String| if has("--exact") { name == part } else { name.contains(part.as_str()) };
    let selected: Vec<&Test> =
        tests.iter().filter(|t| names.is_empty() || names.iter().any(|part| matches(t.0, part))).collect();
    if has("--list") {
        selected.iter().for_each(|t| println!("{}: test", t.0));
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", selected.len());
    let start = Instant::now();
    let (mut passed, mut failed, mut ignored) = (0, 0, 0);
    for (name, test) in &selected {
        let (count, answer) = match catch_unwind(test) {
            Ok(Ok(())) => (&mut passed, "ok".to_string()),
            Ok(Err(Missing(what))) => (&mut ignored, format!("ignored, skipped: {what}")),
            Err(_) => (&mut failed, "FAILED".to_string()),
        };
        *count += 1;
        println!("test {name} ... {answer}");
    }
    let result = if failed == 0 { "ok" } else { "FAILED" };
    let others = tests.len() - selected.len();
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "\ntest result: {result}. {passed} passed; {failed} failed; {ignored} ignored; 0 measured; {others} filtered out; \
         finished in {seconds:.2}s\n"
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a Python script of this folder with the command under test. A script that cannot run says so in a line that
/// begins with `skipped: ` and ends well.
#[allow(dead_code, reason = "not every test that includes this file runs Python")]
pub fn python(file: &str, arguments: &[&str]) -> Result<(), Missing> {
    let named = ["QCC_PYTHON", "PYTHON"].iter().find_map(|name| std::env::var(name).ok());
    let python = named.unwrap_or_else(|| "python3".to_string());
    let path = format!("{}/tests/{file}", env!("CARGO_MANIFEST_DIR"));
    let run = Command::new(&python).arg(&path).args(["--qcc", env!("CARGO_BIN_EXE_qcc")]).args(arguments).output();
    let Ok(done) = run else { return Err(Missing(format!("no {python}"))) };
    let out = String::from_utf8_lossy(&done.stdout);
    println!("{out}");
    assert!(done.status.success(), "{file}: {out}{}", String::from_utf8_lossy(&done.stderr));
    match out.lines().find_map(|l| l.strip_prefix("skipped: ")) {
        Some(why) => Err(Missing(format!("{python}: {why}"))),
        None => Ok(()),
    }
}
