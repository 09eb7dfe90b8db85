//! The one error of the library: diagnostics, and whose fault they are.

use std::fmt;
use std::path::Path;

use qcc_ir::diag::{Code, Fault};
use qcc_ir::{Diag, Diags};

/// Whose fault an [`Error`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The model, text or data that was given.
    Input,
    /// The options or the way of calling.
    Usage,
    /// qcc itself.
    Bug,
}

/// Why something could not be done: at least one diagnostic.
#[derive(Debug, Clone, PartialEq)]
pub struct Error {
    diags: Vec<Diag>,
}

impl Error {
    /// One diagnostic.
    pub fn new(code: Code, message: impl Into<String>) -> Error {
        Diag::new(code, message).into()
    }

    /// A file that cannot be read or written.
    pub fn file(path: &Path, what: &str, cause: impl fmt::Display) -> Error {
        Diag::new(Code::FILE, format!("cannot {what}: {cause}")).in_file(path.display().to_string()).into()
    }

    /// The same with advice, unless there is some already.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Error {
        if let Some(d) = self.diags.first_mut() {
            d.help.get_or_insert_with(|| help.into());
        }
        self
    }

    /// Whose fault it is: the first diagnostic's, which is the cause of the others.
    pub fn kind(&self) -> Kind {
        match self.diags.first().map(|d| d.code.fault()) {
            Some(Fault::Input) => Kind::Input,
            Some(Fault::Usage) => Kind::Usage,
            Some(Fault::Bug) | None => Kind::Bug,
        }
    }

    /// The same with other texts: each diagnostic's message and help pass through `text`.
    #[must_use]
    pub(crate) fn with_texts(mut self, text: impl Fn(&str) -> String) -> Error {
        for d in &mut self.diags {
            d.message = text(&d.message);
            d.help = d.help.as_deref().map(&text);
        }
        self
    }

    /// What is wrong, one for each fault.
    pub fn diags(&self) -> &[Diag] {
        &self.diags
    }
}

impl From<Diag> for Error {
    fn from(diag: Diag) -> Error {
        Error { diags: vec![diag] }
    }
}

impl From<Diags> for Error {
    fn from(diags: Diags) -> Error {
        Error { diags: diags.0 }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, d) in self.diags.iter().enumerate() {
            write!(f, "{}{d}", if i > 0 { "\n" } else { "" })?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}
