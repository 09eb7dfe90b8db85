//! Hosts: models run between pages that cannot be touched, under a checker of uninitialised reads, on many threads at once, and in the child of a
//! process that has a pool. `QCC_CASES` says how many random graphs the first two run.

#[path = "hosts/cases.rs"]
mod cases;
#[path = "differential/graphs.rs"]
mod graphs;
mod optional;

use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use optional::Missing;
use qcc::codegen::target::Level;
use qcc::{Model, Options, Pool, Target, compile};
use qcc_runtime::TensorRef;

fn main() -> ExitCode {
    optional::main(&[
        ("models_keep_to_their_memory", models_keep_to_their_memory),
        ("nothing_is_read_before_it_is_written", nothing_is_read_before_it_is_written),
        ("threads_share_a_model", threads_share_a_model),
        ("a_child_process_runs_with_a_pool_of_its_own", a_child_process_runs_with_a_pool_of_its_own),
    ])
}

fn need(program: &str) -> Result<(), Missing> {
    let mut command = Command::new(program);
    let found =
        command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success());
    if found { Ok(()) } else { Err(Missing(format!("no {program}"))) }
}

fn models_keep_to_their_memory() -> Result<(), Missing> {
    need("cc")?;
    for target in Target::all_runnable() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let list = cases::write(folder.path(), target, 0..cases::count(60));
        let output = Command::new(cases::compile("cc", folder.path())).arg(list).output().expect("the host starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{target}: {}: {said}", output.status);
    }
    Ok(())
}

fn nothing_is_read_before_it_is_written() -> Result<(), Missing> {
    need("cc")?;
    need("valgrind")?;
    let folder = tempfile::tempdir().expect("temporary folder");
    let target = Target::all_runnable().into_iter().find(|t| t.level == Level::X86V3);
    let Some(target) = target else { return Err(Missing("no AVX2".into())) };
    let list = cases::write(folder.path(), target, 0..cases::count(30).min(300));
    let mut command = Command::new("valgrind");
    command.args(["-q", "--error-exitcode=9"]).arg(cases::compile("cc", folder.path())).arg(list).arg("plain");
    let output = command.output().expect("valgrind starts");
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// The example with an input, and what it gives on one thread.
struct Example {
    model: Model,
    input: Vec<u8>,
    wanted: Vec<u8>,
}

impl Example {
    fn new() -> Example {
        let model = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/models/resnet_cifar10.onnx");
        let compiled = compile(model.as_path(), &Options { threads: 1, ..Options::default() }).expect("compiles");
        let input: Vec<u8> = (0..3 * 32 * 32u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let mut example = Example { model: compiled.jit().expect("compiles"), input, wanted: Vec::new() };
        example.wanted = example.run(None);
        example
    }

    fn run(&self, pool: Option<&Pool>) -> Vec<u8> {
        let session = self.model.session();
        let mut session = match pool {
            Some(pool) => session.with_pool(pool),
            None => session,
        };
        session.run(&[TensorRef::new(&[1, 3, 32, 32], &self.input)]).expect("runs")[0].bytes().to_vec()
    }

    fn is_right(&self, pool: Option<&Pool>) -> bool {
        self.run(pool) == self.wanted
    }
}

/// Eight threads, half of them with pools, run one model at once: each gets the bytes of one thread. `QCC_SECONDS` says how long.
fn threads_share_a_model() -> Result<(), Missing> {
    let example = Example::new();
    let time = Duration::from_secs(cases::number("QCC_SECONDS").unwrap_or(1));
    let start = Instant::now();
    let work = &|i: usize| {
        let pool = (i % 2 == 1).then(|| Pool::new(2).expect("threads"));
        let mut runs = 0usize;
        while runs == 0 || start.elapsed() < time {
            assert!(example.is_right(pool.as_ref()), "thread {i}, run {runs}: other bytes");
            runs += 1;
        }
        runs
    };
    let runs: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|i| scope.spawn(move || work(i))).collect();
        threads.into_iter().map(|t| t.join().expect("no thread fails")).sum()
    });
    println!("8 threads, {runs} runs: no differing byte");
    Ok(())
}

fn a_child_process_runs_with_a_pool_of_its_own() -> Result<(), Missing> {
    let example = Example::new();
    let pool = Pool::new(3).expect("threads");
    assert!(example.is_right(Some(&pool)));
    // SAFETY: the child has this thread alone; it runs the model, makes threads of its own and ends at once without what ends a process.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let same = example.is_right(None) && Pool::new(3).is_ok_and(|pool| example.is_right(Some(&pool)));
        // SAFETY: ends the process.
        unsafe { libc::_exit(i32::from(!same)) };
    }
    assert!(child > 0, "the process forks");
    let mut status = 0;
    // SAFETY: waits for the child, whose status has room.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!((waited, status), (child, 0), "the child gave other bytes");
    assert!(example.is_right(Some(&pool)), "the parent's pool works on");
    Ok(())
}
