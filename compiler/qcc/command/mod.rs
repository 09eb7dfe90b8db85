//! The command line: what can be asked, and who answers.

mod bench;
mod build;
mod calibrate;
mod check;
mod compare;
mod flags;
mod inspect;
mod limit;
mod list;
pub mod log;
mod opt;
mod reduce;
mod run;
pub mod terminal;

use clap::{Parser, Subcommand};
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
    /// Run a model on an array
    Run(run::Run),
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
    /// Describe a model
    Inspect(inspect::Inspect),
    /// Run passes on a .qir file and print the graph
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
        Some(Command::Run(run)) => done(run.execute()),
        Some(Command::Calibrate(calibrate)) => done(calibrate.execute()),
        Some(Command::Ranges(ranges)) => done(ranges.execute()),
        Some(Command::Check(check)) => check.execute(),
        Some(Command::Compare(compare)) => done(compare.execute()),
        Some(Command::Bench(bench)) => done(bench.execute()),
        Some(Command::Inspect(inspect)) => done(inspect.execute()),
        Some(Command::Opt(opt)) => done(opt.execute()),
        Some(Command::Reduce(reduce)) => done(reduce.execute()),
        Some(Command::ListOps) => done(list::operators()),
        Some(Command::ListPasses) => done(list::passes()),
        Some(Command::ListPresets) => done(list::presets()),
        Some(Command::ListKnobs) => done(list::knobs()),
    };
    match result {
        Ok(Verdict::Done) => 0,
        Ok(Verdict::Refuted) => 3,
        Err(error) => {
            terminal::show(&error);
            match error.kind() {
                Kind::Input => 1,
                Kind::Usage => 2,
                Kind::Bug => 101,
            }
        }
    }
}
