//! Mutated inputs of every kind that qcc reads: whatever they are, there is a result or a diagnostic that blames the input, in bounded
//! time and memory. No panic, no fault of qcc, and code that is made equals the interpreter.
//!
//! Each kind is a row of [`targets::TARGETS`]; the corpus of a kind is what `seeds` finds in the tree and the files of
//! `tests/fuzz/corpus/KIND`. `QCC_FUZZ_SECONDS` is the time for all kinds together (8 by default, so that a plain `cargo test` stays short), `QCC_SEED`
//! where the random numbers begin; a failure prints its seed and is kept in the corpus, as a test from then on. An input whose answer is new is mutated
//! further. `tests/soak` runs this for hours; `tests/fuzz/Cargo.toml` has the same targets for `cargo-fuzz`.

#[path = "fuzz/mutate.rs"]
mod mutate;
#[path = "fuzz/structured.rs"]
mod structured;
#[path = "fuzz/targets.rs"]
mod targets;

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mutate::Mutator;
use targets::{TARGETS, Target, find};

/// Longest time for one input, in a debug build on a loaded machine.
const LONGEST: Duration = Duration::from_secs(60);

/// Inputs that are mutated further, at most.
const QUEUE: usize = 4000;

fn folder(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target.name)
}

/// The answer to an input, without what differs between inputs of one kind: numbers and names.
fn fingerprint(answer: &str) -> String {
    let mut quoted = false;
    let keep = |c: &char| {
        quoted ^= matches!(c, '`' | '"');
        !quoted && !c.is_ascii_digit()
    };
    answer.chars().take(400).filter(keep).collect()
}

/// Tries one input; `Err` tells what is wrong with the answer.
fn attempt(target: &Target, input: &[u8]) -> Result<String, String> {
    let start = Instant::now();
    let answer = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    let answer = answer.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
    })?;
    if start.elapsed() > LONGEST { Err(format!("{:?} for: {answer}", start.elapsed())) } else { Ok(answer) }
}

/// Keeps an input that fails as a test.
fn keep(target: &Target, input: &[u8]) -> PathBuf {
    let mut hash = DefaultHasher::new();
    input.hash(&mut hash);
    let path = folder(target).join(format!("{:016x}.{}", hash.finish(), target.extension));
    std::fs::create_dir_all(folder(target)).expect("the corpus has a folder");
    std::fs::write(&path, input).expect("the corpus is written");
    path
}

/// Mutates for some time; returns how many inputs were tried, how many different answers there were, and the faults.
fn mutate(target: &Target, seeds: &[Vec<u8>], seed: u64, time: Duration) -> (usize, usize, Vec<String>) {
    let (start, mut tried, mut faults) = (Instant::now(), 0, Vec::new());
    let (mut queue, mut answers) = (seeds.to_vec(), HashSet::new());
    while start.elapsed() < time && faults.len() < 5 {
        let this = seed + tried as u64;
        let mut mutator = Mutator::new(this);
        let from = mutator.random.below(queue.len());
        let other = mutator.random.below(seeds.len());
        let input = (target.mutate)(&mut mutator, &queue[from], &seeds[other]);
        // What ends the process is found here.
        let current = std::env::temp_dir().join(format!("qcc-fuzz-{}", target.name));
        std::fs::write(current, &input).expect("temporary file");
        match attempt(target, &input) {
            Ok(answer) => {
                if answers.insert(fingerprint(&answer)) && queue.len() < QUEUE {
                    queue.push(input);
                }
            }
            Err(what) => {
                faults.push(format!("{}, seed {this}, kept as {}: {what}", target.name, keep(target, &input).display()))
            }
        }
        tried += 1;
    }
    (tried, answers.len(), faults)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[test]
fn hostile_inputs_are_answered() {
    let seconds = number("QCC_FUZZ_SECONDS").unwrap_or(8);
    let seed = number("QCC_SEED").unwrap_or(1);
    // Faults are reported below, with the input that makes them.
    std::panic::set_hook(Box::new(|_| {}));
    let mut faults = Vec::new();
    let targets: Vec<&Target> = match std::env::var("QCC_FUZZ_ONLY") {
        Ok(name) => vec![find(&name)],
        Err(_) => TARGETS.iter().collect(),
    };
    let shares: u64 = targets.iter().map(|t| t.share).sum();
    for target in targets {
        let mut seeds = (target.seeds)();
        for entry in std::fs::read_dir(folder(target)).into_iter().flatten().flatten() {
            let input = std::fs::read(entry.path()).expect("the corpus is read");
            if let Err(what) = attempt(target, &input) {
                faults.push(format!("{}: {what}", entry.path().display()));
            }
            seeds.push(input);
        }
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        let time = Duration::from_millis(1000 * seconds * target.share / shares.max(1));
        let (tried, answers, found) = mutate(target, &seeds, seed, time);
        println!(
            "{:<10} {tried:>8} inputs from {} seeds, {answers} different answers, {} faults",
            target.name,
            seeds.len(),
            found.len()
        );
        faults.extend(found);
    }
    let _ = std::panic::take_hook();
    assert!(faults.is_empty(), "seed {seed}:\n{}", faults.join("\n"));
}
