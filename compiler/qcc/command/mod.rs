//! The command line: what can be asked, and who answers.

mod announce;
mod bench;
mod binary;
mod budget;
mod build;
mod calibrate;
mod check;
mod compare;
mod explain;
mod explore;
mod finetune;
mod flags;
mod given;
mod inspect;
mod limit;
mod list;
pub mod log;
mod manual;
mod opt;
pub mod progress;
mod quality;
mod reduce;
mod run;
pub mod terminal;
mod top;

use clap::{CommandFactory as _, Parser, Subcommand};
use qcc::ir::diag::Code;
use qcc::{Error, Kind};

/// Compiles a float neural network (ONNX) into integer-only machine code.
#[derive(Parser)]
#[command(name = "qcc", version, args_conflicts_with_subcommands = true, arg_required_else_help = true)]
#[command(after_help = "Without a subcommand, MODEL is compiled: qcc model.onnx -o model.so")]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    build: build::Build,
}

#[derive(Subcommand)]
enum Command {
    /// Compile a model, as without a subcommand
    #[command(alias = "build")]
    Compile(Box<build::Build>),
    /// Run a model on arrays or images
    Run(run::Run),
    /// Train the parameters of a model with the integer arithmetic that is deployed
    Finetune(Box<finetune::Finetune>),
    /// Find the ranges of a model's values from samples
    Calibrate(Box<calibrate::Calibrate>),
    /// Merge tables of ranges
    Ranges(calibrate::Ranges),
    /// Count the float instructions of a compiled model
    Check(check::Check),
    /// Compare the integer model with the float one
    Compare(Box<compare::Compare>),
    /// Measure the speed of a model
    Bench(bench::Bench),
    /// Show what every pass made of a model, in one page: graph, values, memory, machine code
    Explore(Box<explore::Explore>),
    /// Tell the life of one node or value, pass by pass
    Explain(Box<explain::Explain>),
    /// Describe a model
    Inspect(inspect::Inspect),
    /// Run passes on a model and print the graph
    Opt(opt::Opt),
    /// Find the smallest model with which a command still fails
    Reduce(reduce::Reduce),
    /// List all operators
    ListOps,
    /// List all passes
    ListPasses,
    /// List all pipelines and preprocessings that have names, with what they contain
    ListPresets,
    /// List all environment variables
    ListKnobs,
    /// Print a script that completes commands and flags in a shell
    Completions(manual::Completions),
    /// Write the pages of the manual into a folder
    Manual(manual::Manual),
}

/// What other tools call the commands.
const OTHER_NAMES: &[(&str, &str)] = &[
    ("quantize", "compile"),
    ("quantise", "compile"),
    ("convert", "compile"),
    ("export", "compile"),
    ("train", "finetune"),
    ("qat", "finetune"),
    ("infer", "run"),
    ("predict", "run"),
    ("eval", "compare"),
    ("evaluate", "compare"),
    ("accuracy", "compare"),
    ("benchmark", "bench"),
    ("profile", "bench"),
    ("info", "inspect"),
    ("show", "inspect"),
    ("view", "explore"),
    ("trace", "explain"),
    ("verify", "check"),
    ("optimize", "opt"),
    ("optimise", "opt"),
    ("merge", "ranges merge"),
    ("completion", "completions"),
    ("man", "manual"),
];

/// Why the first argument cannot be meant as it is written: it names neither a command nor a file.
pub fn misspelled(first: &str) -> Option<Error> {
    let is_word = !first.is_empty() && first.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    let commands: Vec<String> = Arguments::command().get_subcommands().map(|c| c.get_name().to_string()).collect();
    let known = |name: &str| commands.iter().any(|c| c == name) || ["help", "build"].contains(&name);
    if !is_word || first.starts_with('-') || known(first) || std::path::Path::new(first).exists() {
        return None;
    }
    let word = first.to_ascii_lowercase();
    let other = OTHER_NAMES.iter().find(|(name, _)| *name == word).map(|(_, command)| (*command).to_string());
    let near = commands.iter().map(|c| (distance(&word, c), c)).min().filter(|(d, c)| *d <= 1.max(c.len() / 3));
    let error = flags::usage(format!("there is neither a command nor a file `{first}`"));
    Some(match other.or(near.map(|(_, command)| command.clone())) {
        Some(command) => error.help(format!("did you mean qcc {command}? qcc --help has all commands")),
        None => error
            .help(format!("commands are {}; a model is compiled by qcc model.onnx -o model.so", commands.join(", "))),
    })
}

/// How many letters are to be added, left out, changed, or swapped with the next, to make one word of the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let changed = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let swapped = if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                rows[i - 2][j - 2] + 1
            } else {
                usize::MAX
            };
            row.push(changed.min(rows[i - 1][j] + 1).min(row[j - 1] + 1).min(swapped));
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

/// How a command ended, unless something went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Done.
    Done,
    /// What was to be verified is not so.
    Refuted,
}

/// Does what was asked and returns the exit code.
pub fn dispatch(arguments: Arguments) -> u8 {
    let done = |result: Result<(), Error>| result.map(|()| Verdict::Done);
    let result = match arguments.command {
        None => done(arguments.build.execute()),
        Some(Command::Compile(build)) => done(build.execute()),
        Some(Command::Run(run)) => done(run.execute()),
        Some(Command::Finetune(finetune)) => done(finetune.execute()),
        Some(Command::Calibrate(calibrate)) => done(calibrate.execute()),
        Some(Command::Ranges(ranges)) => done(ranges.execute()),
        Some(Command::Check(check)) => check.execute(),
        Some(Command::Compare(compare)) => done(compare.execute()),
        Some(Command::Bench(bench)) => done(bench.execute()),
        Some(Command::Explore(explore)) => done(explore.execute()),
        Some(Command::Explain(explain)) => done(explain.execute()),
        Some(Command::Inspect(inspect)) => done(inspect.execute()),
        Some(Command::Opt(opt)) => done(opt.execute()),
        Some(Command::Reduce(reduce)) => done(reduce.execute()),
        Some(Command::ListOps) => done(list::operators()),
        Some(Command::ListPasses) => done(list::passes()),
        Some(Command::ListPresets) => done(list::presets()),
        Some(Command::ListKnobs) => done(list::knobs()),
        Some(Command::Completions(completions)) => done(completions.execute()),
        Some(Command::Manual(manual)) => done(manual.execute()),
    };
    match result {
        Ok(Verdict::Done) => {
            progress::finish();
            0
        }
        Ok(Verdict::Refuted) => 3,
        Err(error) => fail(&error),
    }
}

/// The exit code of what a shell ends by SIGINT.
const INTERRUPTED: u8 = 130;

/// Shows an error and returns the exit code for it.
pub fn fail(error: &Error) -> u8 {
    terminal::show(error);
    if error.diags().first().is_some_and(|d| d.code == Code::INTERRUPTED) {
        return INTERRUPTED;
    }
    match error.kind() {
        Kind::Input => 1,
        Kind::Usage => 2,
        Kind::Bug => 101,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelled_commands_are_recognised() {
        let help = |word: &str| misspelled(word).and_then(|e| e.diags()[0].help.clone()).unwrap_or_default();
        for (word, command) in
            [("inspct", "inspect"), ("comprae", "compare"), ("bnech", "bench"), ("quantize", "compile"), ("Run", "run")]
        {
            assert!(help(word).starts_with(&format!("did you mean qcc {command}?")), "{word}: {}", help(word));
        }
        assert!(help("frobnicate").starts_with("commands are compile, run, "), "{}", help("frobnicate"));
        for word in ["run", "model.onnx", "--help", "dir/model", "help", "list-ops"] {
            assert!(misspelled(word).is_none(), "{word}");
        }
        assert_eq!((distance("abc", "abc"), distance("abc", "acb"), distance("", "ab")), (0, 1, 2));
    }
}
