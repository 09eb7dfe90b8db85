//! Programs in other languages that load the model.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use crate::{EXAMPLE, done, example, refused, stderr, stdout};

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

/// Compiles C or C++ in a folder and runs what comes out.
fn build_and_run(compiler: &str, folder: &Path, flags: &[&str]) -> String {
    let mut command = Command::new(compiler);
    command.current_dir(folder).args(["-Wall", "-Wextra", "-Werror", "-Wl,--fatal-warnings", "-o", "main"]).args(flags);
    let built = command.output().unwrap();
    assert!(built.status.success(), "{compiler} {flags:?}: {}", stderr(&built));
    let run = Command::new(folder.join("main")).env("LD_LIBRARY_PATH", folder).output().unwrap();
    assert!(run.status.success(), "{compiler} {flags:?}: {}{}", stdout(&run), stderr(&run));
    stdout(&run)
}

/// Calls two models on floats, through the names of each and through those that all models share.
const TWO_MODELS: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include "first.h"
#include "second.h"

int qcc_model_run(const void *const *in, void *const *out, void *scratch);

static float x[QCC_FIRST_IN0_ELEMENTS], y[QCC_FIRST_OUT0_ELEMENTS], z[QCC_FIRST_OUT0_ELEMENTS];

/* Names that the compiler's own object had: a program may have them too. */
int run = 1, info = 2, manifest = 3;

int main(void)
{
    const float *in[] = {x};
    float *first[] = {y}, *second[] = {z};
    void *scratch = aligned_alloc(QCC_FIRST_SCRATCH_ALIGN, (QCC_FIRST_SCRATCH_BYTES + 4095) / 4096 * 4096);
    for (int i = 0; i < QCC_FIRST_IN0_ELEMENTS; i++)
        x[i] = (float)(i % 17) / 8 - 1;
    if (qcc_first_run_f32(in, first, scratch) || qcc_second_run_f32_mt(in, second, scratch, NULL))
        return 1;
    for (int i = 0; i < QCC_FIRST_OUT0_ELEMENTS; i++)
        if (y[i] != z[i])
            return 2;
    if (qcc_model_run(NULL, NULL, scratch) != QCC_ERR_NULL)
        return 3;
    printf("%s %s %d\n", qcc_first_info()->name, qcc_second_info()->name, run + info + manifest);
    free(scratch);
    return 0;
}
"#;

#[test]
fn object_files_link_into_programs() {
    let example = example();
    let folder = example.path();
    for name in ["first.o", "second.o", "example.o"] {
        done(folder, &[EXAMPLE, "-o", name]);
    }
    std::fs::write(folder.join("two.c"), TWO_MODELS).unwrap();
    for flags in [&["-std=c11"][..], &["-std=c11", "-static"], &["-std=c11", "-no-pie"]] {
        let found = build_and_run("gcc", folder, &[flags, &["two.c", "first.o", "second.o"]].concat());
        assert_eq!(found, "first second 6\n", "{flags:?}");
    }
    // What is linked is what is loaded.
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/call_from_c/main.c");
    let linked = build_and_run("gcc", folder, &["-I.", source, "example.o"]);
    assert_eq!(linked, build_and_run("gcc", folder, &["-I.", source, "./example.so"]));
    // It becomes part of a shared library too.
    let flags = ["-shared", "-Wl,--fatal-warnings,-z,text", "-o", "whole.so", "first.o"];
    let shared = Command::new("gcc").current_dir(folder).args(flags).output().unwrap();
    assert!(shared.status.success(), "{}", stderr(&shared));
    let checked = done(folder, &["check", "first.o"]);
    assert!(checked.starts_with("0 float instructions") && checked.contains("the float interface"), "{checked}");
    let described = done(folder, &["inspect", "first.o"]);
    assert!(described.contains("x86_64, relocatable") || described.contains("aarch64, relocatable"), "{described}");
    refused(folder, &["run", "first.o", "--input", "x.npy"], 2, "linked into a program");
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

#[test]
fn cpp_programs_lend_their_threads() {
    let folder = example();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/call_from_cpp/main.cpp");
    let said = build_and_run("g++", folder.path(), &["-std=c++17", "-pthread", "-I.", source, "./example.so"]);
    assert!(said.ends_with("alone and on 3 threads\n"), "{said}");
}

/// No library, not even C's: the exit code is the class.
#[test]
fn programs_without_a_system_link_the_model() {
    let folder = example();
    done(folder.path(), &[EXAMPLE, "-o", "example.o"]);
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/call_from_c/freestanding.c");
    let flags =
        ["-O1", "-Wall", "-Wextra", "-Werror", "-ffreestanding", "-nostdlib", "-static", "-fno-stack-protector"];
    let built = Command::new("gcc")
        .current_dir(folder.path())
        .args(flags)
        .args(["-I.", "-o", "main", source, "example.o"])
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", stderr(&built));
    let run = Command::new(folder.path().join("main")).output().unwrap();
    assert!(run.status.code().is_some_and(|class| class < 10), "{:?}", run.status);
}
