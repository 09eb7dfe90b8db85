//! What people see: diagnostics and notes on stderr, results on stdout.

use std::env;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;

use qcc::ir::diag::Code;
use qcc::ir::print::{INLINE, Large, Options as PrintOptions, print_with};
use qcc::{Compiled, Diag, Error};

use super::progress;

/// Writes a result. A reader who has gone away is no fault; anything else that keeps it from being written is.
pub fn result(text: &str) -> Result<(), Error> {
    progress::finish();
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::new(Code::FILE, format!("cannot write to standard output: {e}")))
        }
        _ => Ok(()),
    }
}

/// The graph as text; nobody wants to see the weights of a network run over a terminal.
pub fn graph(compiled: &Compiled) -> Result<String, Error> {
    if !io::stdout().is_terminal() {
        return Ok(qcc::ir::print(compiled.graph()));
    }
    let elided = print_with(compiled.graph(), PrintOptions { inline: INLINE, large: Large::Elide });
    elided.map_err(|e| Error::file(Path::new("-"), "print the graph", e))
}

/// Writes a line to stderr.
pub fn note(text: &str) {
    progress::apart(|| progress::write_line(text));
}

/// Writes a warning to stderr.
pub fn warn(text: &str) {
    let head = if colour() { "\x1b[1;33mwarning\x1b[0m" } else { "warning" };
    note(&format!("{head}: {text}"));
}

/// Writes all diagnostics of an error.
pub fn show(error: &Error) {
    progress::finish();
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

/// Most bytes of a text of which a line is shown.
const EXCERPT: u64 = 1 << 20;

/// The line of the text that a diagnostic is about, with a mark under the column.
fn excerpt(diag: &Diag) -> Option<String> {
    const WIDTH: usize = 100;
    let (line, column) = diag.place.line?;
    let bytes = qcc::reading::bounded(Path::new(diag.place.file.as_ref()?), EXCERPT).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let content: String = text.lines().nth(line.checked_sub(1)?)?.chars().take(WIDTH).collect();
    let number = line.to_string();
    let margin = " ".repeat(number.len());
    let mark = (column <= WIDTH).then(|| format!("\n {margin} | {}^", " ".repeat(column.saturating_sub(1))));
    Some(format!(" {margin} |\n {number} | {content}{}", mark.unwrap_or_default()))
}

fn colour() -> bool {
    io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}
