//! Programs in other languages that load the model.

use std::io::Write as _;
use std::process::Command;

use crate::{example, stderr, stdout};

#[test]
fn c_programs_link_the_model() {
    // Rust links with it too.
    let folder = example();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/call_from_c/main.c");
    let flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-I.", "-o", "main", source, "./example.so"];
    let gcc = Command::new("gcc").current_dir(folder.path()).args(flags).output().unwrap();
    assert!(gcc.status.success(), "{}", stderr(&gcc));
    let run = Command::new(folder.path().join("main")).env("LD_LIBRARY_PATH", folder.path()).output().unwrap();
    assert!(run.status.success() && stdout(&run).starts_with("class "), "{}{}", stdout(&run), stderr(&run));
}

#[test]
fn python_loads_the_model() {
    let python = ["QCC_PYTHON", "PYTHON"].iter().find_map(|name| std::env::var(name).ok());
    let python = python.unwrap_or_else(|| "python3".to_string());
    if let Err(error) = Command::new(&python).arg("--version").output() {
        // Written past the harness, which shows nothing of a test that passes.
        let _ = writeln!(std::io::stderr(), "skipped: no {python}: {error}");
        return;
    }
    let folder = example();
    let script = "
import ctypes, re
model = ctypes.CDLL('./example.so')
header = open('example.h').read()
size = lambda name: int(re.search(r'_' + name + r' (?:UINT64_C\\()?(\\d+)', header).group(1))
store = ctypes.create_string_buffer(size('SCRATCH_BYTES') + 64)
scratch = ctypes.c_void_p((ctypes.addressof(store) + 63) // 64 * 64)
x = (ctypes.c_float * size('IN0_ELEMENTS'))(*([0.25] * size('IN0_ELEMENTS')))
y = (ctypes.c_float * size('OUT0_ELEMENTS'))()
one = lambda a: (ctypes.c_void_p * 1)(ctypes.addressof(a))
assert model.qcc_example_run_f32(one(x), one(y), scratch) == 0
assert any(v != 0 for v in y), list(y)
print(list(y))
";
    let run = Command::new(python).current_dir(folder.path()).args(["-c", script]).output().unwrap();
    assert!(run.status.success(), "{}", stderr(&run));
}
