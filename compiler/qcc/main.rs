//! The `qcc` command. Results go to stdout, everything else to stderr.
//!
//! | exit code | |
//! |---|---|
//! | 0 | done |
//! | 1 | the model or the data is at fault |
//! | 2 | the flags are |
//! | 3 | a verification failed: `check` found a float instruction |
//! | 101 | qcc is at fault |
//! | 130 | a signal ended it: `finetune`, which leaves a checkpoint |

mod command;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        // Short, and once: other threads may fail of the same cause.
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| command::terminal::note(&format!("error: this is a bug of qcc, please report it: {panic}")));
    }));
    if let Some(error) = std::env::args_os().nth(1).and_then(|first| command::misspelled(first.to_str()?)) {
        return ExitCode::from(command::fail(&error));
    }
    let arguments = match command::Arguments::try_parse() {
        Ok(arguments) => arguments,
        // Help that nobody could read is no success.
        Err(answer) => {
            let written = answer.print().and_then(|()| std::io::stdout().flush());
            let lost = written.is_err_and(|e| e.kind() != std::io::ErrorKind::BrokenPipe);
            return ExitCode::from(if lost { 1 } else { u8::try_from(answer.exit_code()).unwrap_or(2) });
        }
    };
    command::log::start();
    match std::panic::catch_unwind(|| command::dispatch(arguments)) {
        Ok(code) => ExitCode::from(code),
        Err(_) => ExitCode::from(101),
    }
}
