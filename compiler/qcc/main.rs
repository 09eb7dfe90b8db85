//! The `qcc` command. Results go to stdout, everything else to stderr.
//!
//! | exit code | |
//! |---|---|
//! | 0 | done |
//! | 1 | the model or the data is at fault |
//! | 2 | the flags are |
//! | 3 | a verification failed: `check` found a float instruction |
//! | 101 | qcc is at fault |

mod command;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        // Short, and once: other threads may fail of the same cause.
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| command::terminal::note(&format!("error: this is a bug of qcc, please report it: {panic}")));
    }));
    let arguments = command::Arguments::parse();
    command::log::start();
    match std::panic::catch_unwind(|| command::dispatch(arguments)) {
        Ok(code) => ExitCode::from(code),
        Err(_) => ExitCode::from(101),
    }
}
