//! Code for 64-bit Arm, run by an emulator where there is one: it gives the interpreter's bytes. Needs
//! `qemu-aarch64-static` and `aarch64-linux-gnu-gcc` (Debian: qemu-user-static, gcc-aarch64-linux-gnu).

#[path = "hosts/cases.rs"]
mod cases;
#[path = "differential/graphs.rs"]
mod graphs;
mod optional;

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use optional::Missing;
use qcc::codegen::target::Level;
use qcc::ir::{Data, Tensor};
use qcc::{Options, Target, compile};

/// Reads the model's only input from standard input, writes its only output to standard output.
const DRIVER: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include "network.h"
static unsigned char in[3 * 32 * 32], out[10];
int main(void) {
    const void *inputs[1] = {in};
    void *outputs[1] = {out};
    void *scratch = aligned_alloc(64, (qcc_network_info()->scratch_bytes + 63) / 64 * 64);
    if (fread(in, 1, sizeof in, stdin) != sizeof in || qcc_network_run(inputs, outputs, scratch) != 0) return 1;
    return fwrite(out, 1, sizeof out, stdout) != sizeof out;
}
"#;

fn available(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

fn main() -> std::process::ExitCode {
    let test = emulated_arm_gives_the_interpreters_bytes;
    optional::main(&[
        ("emulated_arm_gives_the_interpreters_bytes", test),
        ("random_graphs_give_the_interpreters_bytes", random_graphs_give_the_interpreters_bytes),
    ])
}

const EMULATOR: &str = "qemu-aarch64-static";
const COMPILER: &str = "aarch64-linux-gnu-gcc";

fn need_tools() -> Result<(), Missing> {
    let missing = [EMULATOR, COMPILER].into_iter().find(|p| !available(p));
    missing.map_or(Ok(()), |program| Err(Missing(format!("no {program}"))))
}

/// `QCC_CASES` says how many.
fn random_graphs_give_the_interpreters_bytes() -> Result<(), Missing> {
    need_tools()?;
    let folder = tempfile::tempdir().expect("temporary folder");
    let list = cases::write(folder.path(), Target::of(Level::Aarch64), 0..cases::count(40));
    let mut command = Command::new(EMULATOR);
    command.args(["-L", "/usr/aarch64-linux-gnu"]).arg(cases::compile(COMPILER, folder.path())).arg(list);
    let output = command.output().expect("the emulator starts");
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    print!("{}", String::from_utf8_lossy(&output.stdout));
    Ok(())
}

fn emulated_arm_gives_the_interpreters_bytes() -> Result<(), Missing> {
    need_tools()?;
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/models/resnet_cifar10.onnx");
    let folder = tempfile::tempdir().expect("temporary folder");
    let target = Target::of(Level::Aarch64);
    let options = Options { target, name: Some("network".to_string()), ..Options::default() };
    let compiled = compile(model.as_path(), &options).expect("compiles");
    compiled.write_so(folder.path().join("network.so")).expect("written");
    std::fs::write(folder.path().join("main.c"), DRIVER).expect("written");
    let built = Command::new(COMPILER)
        .args(["-O1", "main.c", "-o", "main", "./network.so", "-Wl,-rpath,$ORIGIN"])
        .current_dir(folder.path())
        .status()
        .expect("the compiler starts");
    assert!(built.success(), "the driver does not compile");
    for seed in 0..3u8 {
        let input: Vec<u8> = (0..3 * 32 * 32u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 23) as u8 ^ seed).collect();
        let mut run = Command::new(EMULATOR)
            .args(["-L", "/usr/aarch64-linux-gnu", "./main"])
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the emulator starts");
        run.stdin.take().expect("piped").write_all(&input).expect("the driver reads");
        let output = run.wait_with_output().expect("the driver ends");
        assert!(output.status.success(), "seed {seed}: {}", output.status);
        let wanted = compiled.interpreter().run(&[Tensor::new(&[1, 3, 32, 32], Data::U8(input))]).expect("runs");
        assert_eq!(Some(output.stdout.as_slice()), wanted[0].as_u8(), "seed {seed}");
    }
    Ok(())
}
