//! Diagnostics: what is wrong, where, and what to do.
//!
//! Faults are collected rather than reported one at a time: see [`Diags`]. A code is stable and has a row in [`CODES`].

use std::fmt;

/// One diagnostic.
#[derive(Debug, Clone, PartialEq)]
pub struct Diag {
    /// Stable code, a row of [`CODES`].
    pub code: Code,
    /// The thing that is wrong, first.
    pub message: String,
    /// Where.
    pub place: Box<Place>,
    /// What to do about it.
    pub help: Option<String>,
}

/// Where a fault is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Place {
    /// File, as the user named it.
    pub file: Option<String>,
    /// Line and column in a text, from 1.
    pub line: Option<(usize, usize)>,
    /// ONNX node or IR operation: `node #14 "features.0.1" (BatchNormalization, opset 9)`.
    pub node: Option<String>,
}

/// Whose fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The model, text or data that was given.
    Input,
    /// The flags or the way of calling.
    Usage,
    /// qcc itself.
    Bug,
}

/// Code of a diagnostic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code(pub u16);

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Q{:04}", self.0)
    }
}

macro_rules! codes {
    ($($name:ident = $number:literal, $fault:ident, $text:literal;)*) => {
        impl Code {
            $(#[doc = $text] pub const $name: Code = Code($number);)*
        }
        /// Every code: number, whose fault, what it means.
        pub const CODES: &[(Code, Fault, &str)] = &[$((Code::$name, Fault::$fault, $text)),*];
    };
}

codes! {
    FILE = 1, Input, "A file cannot be read or written.";
    NOT_ONNX = 2, Input, "The file is not a whole ONNX model.";
    UNSUPPORTED = 3, Input, "An operator, attribute or element type is not supported.";
    BAD_GRAPH = 4, Input, "The graph is inconsistent: a cycle, an undefined or doubly defined name.";
    BAD_SHAPE = 5, Input, "Shapes or element types do not fit the operator.";
    DYNAMIC_SHAPE = 6, Input, "A shape is not known at compile time.";
    EXTERNAL_DATA = 7, Input, "External tensor data is missing, too short or outside the model's folder.";
    SYNTAX = 10, Input, "The text is not valid .qir.";
    VERIFY = 11, Bug, "A graph breaks an invariant of the IR.";
    PASS = 12, Bug, "A pass on real numbers changes what the model computes.";
    PIPELINE = 20, Usage, "A pass pipeline cannot be run as written.";
    RANGE = 21, Input, "The range of a value is not known or not finite.";
    NO_INTEGER_FORM = 22, Input, "An operation has no integer form.";
    OVERFLOW = 23, Input, "An accumulator may overflow 32 bits.";
    NOT_INTEGER = 24, Bug, "A float is left in a graph that must be integer-only.";
    ACCURACY = 25, Input, "The accuracy that is asked for is not reached.";
    BUDGET = 26, Input, "The model asks for more memory, nodes, work or time than it may.";
    CODEGEN = 30, Bug, "Machine code cannot be produced.";
    TARGET = 31, Usage, "The target is unknown or cannot run here.";
    DATA = 40, Input, "Samples do not fit the model.";
    FLAGS = 41, Usage, "A flag cannot be meant as it is written.";
    INTERRUPTED = 42, Usage, "A signal ended the work (exit code 130).";
}

impl Code {
    /// Whose fault this is.
    pub fn fault(self) -> Fault {
        CODES.iter().find(|c| c.0 == self).map_or(Fault::Bug, |c| c.1)
    }
}

impl Diag {
    /// A diagnostic without a place.
    pub fn new(code: Code, message: impl Into<String>) -> Diag {
        Diag { code, message: message.into(), place: Box::default(), help: None }
    }

    /// The same at a node.
    pub fn at(mut self, node: impl Into<String>) -> Diag {
        self.place.node = Some(node.into());
        self
    }

    /// The same in a file.
    pub fn in_file(mut self, file: impl Into<String>) -> Diag {
        self.place.file = Some(file.into());
        self
    }

    /// The same at a line and column of a text, from 1.
    pub fn on_line(mut self, line: usize, column: usize) -> Diag {
        self.place.line = Some((line, column));
        self
    }

    /// The same with advice.
    pub fn help(mut self, help: impl Into<String>) -> Diag {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Diag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error[{}]: {}", self.code, self.message)?;
        let place = &self.place;
        if place.file.is_some() || place.line.is_some() || place.node.is_some() {
            f.write_str("\n  --> ")?;
            let mut parts = Vec::new();
            match (&place.file, place.line) {
                (Some(file), Some((line, column))) => parts.push(format!("{file}:{line}:{column}")),
                (Some(file), None) => parts.push(file.clone()),
                (None, Some((line, column))) => parts.push(format!("line {line}, column {column}")),
                (None, None) => {}
            }
            parts.extend(place.node.clone());
            f.write_str(&parts.join(": "))?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n   = help: {help}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diag {}

/// One or more diagnostics: the error type of every stage that looks at a whole model.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Diags(pub Vec<Diag>);

/// Most diagnostics that are kept: a file of some megabytes can have a million faults.
const MOST: usize = 100;

impl Diags {
    /// Adds one. Of those beyond the limit the first stands for all.
    pub fn push(&mut self, diag: Diag) {
        match self.0.len() {
            0..MOST => self.0.push(diag),
            MOST => {
                let message = format!("{} (and there may be more: {MOST} are listed)", diag.message);
                self.0.push(Diag { message, ..diag });
            }
            _ => {}
        }
    }

    /// `Ok` if nothing was collected.
    pub fn into_result(self) -> Result<(), Diags> {
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }

    /// Adds the file to every diagnostic that has none.
    pub fn in_file(mut self, file: &str) -> Diags {
        for d in &mut self.0 {
            d.place.file.get_or_insert_with(|| file.to_string());
        }
        self
    }
}

impl From<Diag> for Diags {
    fn from(d: Diag) -> Diags {
        Diags(vec![d])
    }
}

impl fmt::Display for Diags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, d) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            d.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diags {}
