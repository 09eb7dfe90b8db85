//! What is wrong with one part of a model, before it is known where that part is.

use qcc_ir::Diag;
use qcc_ir::diag::Code;

/// A diagnostic without a place.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Fault {
    pub(crate) code: Code,
    pub(crate) message: String,
    pub(crate) help: Option<String>,
}

/// Result of importing a part of a model.
pub(crate) type Outcome<T> = Result<T, Fault>;

impl Fault {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Fault {
        Fault { code, message: message.into(), help: None }
    }

    /// Something that ONNX allows and qcc does not do.
    pub(crate) fn unsupported(message: impl Into<String>) -> Fault {
        Fault::new(Code::UNSUPPORTED, message)
    }

    /// Shapes, types or attribute values that contradict each other.
    pub(crate) fn shape(message: impl Into<String>) -> Fault {
        Fault::new(Code::BAD_SHAPE, message)
    }

    /// The same with advice.
    pub(crate) fn help(mut self, help: impl Into<String>) -> Fault {
        self.help = Some(help.into());
        self
    }

    /// The same with something in front of the message.
    pub(crate) fn context(mut self, context: impl std::fmt::Display) -> Fault {
        self.message = format!("{context}: {}", self.message);
        self
    }

    /// As a diagnostic of the whole model.
    pub(crate) fn into_diag(self) -> Diag {
        let diag = Diag::new(self.code, self.message);
        match self.help {
            Some(help) => diag.help(help),
            None => diag,
        }
    }

    /// As a diagnostic at a node.
    pub(crate) fn at(self, node: impl Into<String>) -> Diag {
        self.into_diag().at(node)
    }
}

impl From<Diag> for Fault {
    fn from(diag: Diag) -> Fault {
        Fault { code: diag.code, message: diag.message, help: diag.help }
    }
}
