//! What people see: diagnostics, notes and progress on stderr, results on stdout.

use std::env;
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use qcc::passes::context::Progress;
use qcc::{Diag, Error};

/// Work that ends sooner shows no progress bar.
const PATIENCE: Duration = Duration::from_secs(1);

/// Writes a result. A reader who has gone away is no fault.
pub fn result(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Writes a line to stderr.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Writes all diagnostics of an error.
pub fn show(error: &Error) {
    for diag in error.diags() {
        let text = diag.to_string();
        // A diagnostic begins with its severity and its code in brackets.
        let text = match text.split_once(':') {
            Some((head, rest)) if colour() => format!("\x1b[1;31m{head}\x1b[0m:{rest}"),
            _ => text,
        };
        note(&text);
        if let Some(excerpt) = excerpt(diag) {
            note(&excerpt);
        }
    }
}

/// The line of the text that a diagnostic is about, with a mark under the column.
fn excerpt(diag: &Diag) -> Option<String> {
    const WIDTH: usize = 100;
    let (line, column) = diag.place.line?;
    let text = std::fs::read_to_string(diag.place.file.as_ref()?).ok()?;
    let content: String = text.lines().nth(line.checked_sub(1)?)?.chars().take(WIDTH).collect();
    let number = line.to_string();
    let margin = " ".repeat(number.len());
    let mark = (column <= WIDTH).then(|| format!("\n {margin} | {}^", " ".repeat(column.saturating_sub(1))));
    Some(format!(" {margin} |\n {number} | {content}{}", mark.unwrap_or_default()))
}

fn colour() -> bool {
    io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// A progress bar for anything over a second, on a terminal only.
pub fn progress(what: &'static str) -> Option<Progress> {
    if !io::stderr().is_terminal() {
        return None;
    }
    let start = Instant::now();
    let bar: Mutex<Option<ProgressBar>> = Mutex::new(None);
    Some(Arc::new(move |done, total| {
        let Ok(mut bar) = bar.lock() else { return };
        if bar.is_none() && start.elapsed() >= PATIENCE && done < total {
            let style = ProgressStyle::with_template("{msg} [{bar:40}] {pos}/{len}, {eta} left");
            let new = ProgressBar::new(total as u64).with_message(what);
            *bar = Some(match style {
                Ok(style) => new.with_style(style.progress_chars("=> ")),
                Err(_) => new,
            });
        }
        if let Some(bar) = bar.as_ref() {
            bar.set_position(done as u64);
            if done == total {
                bar.finish_and_clear();
            }
        }
    }))
}
