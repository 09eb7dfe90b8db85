//! Values of attributes, and what the row of an operator says of each of its attributes.

use std::fmt;
use std::sync::Arc;

use crate::types::Format;

/// A real function of one real number as an attribute: its text, by which it is compared, and what computes it.
#[derive(Clone)]
pub struct Body {
    text: Arc<str>,
    at: Arc<dyn Fn(f32) -> f32 + Send + Sync>,
}

impl Body {
    pub(crate) fn new(text: &str, at: impl Fn(f32) -> f32 + Send + Sync + 'static) -> Body {
        Body { text: text.into(), at: Arc::new(at) }
    }

    /// The text that [`crate::Function::parse`] reads.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The function's value at `x`.
    pub fn at(&self, x: f32) -> f32 {
        (self.at)(x)
    }
}

impl PartialEq for Body {
    fn eq(&self, other: &Body) -> bool {
        self.text == other.text
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({:?})", self.text)
    }
}

/// Value of an attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum Attr {
    /// An integer.
    Int(i64),
    /// A list of integers.
    Ints(Vec<i64>),
    /// A float.
    Float(f32),
    /// A boolean.
    Bool(bool),
    /// A number format.
    Format(Format),
    /// A function of one value.
    Function(Body),
}

/// Kind of an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttrKind {
    /// [`Attr::Int`].
    Int,
    /// [`Attr::Ints`].
    Ints,
    /// [`Attr::Float`].
    Float,
    /// [`Attr::Bool`].
    Bool,
    /// [`Attr::Format`].
    Format,
    /// [`Attr::Function`].
    Function,
}

/// Name, kind and default of an attribute of an operator.
#[derive(Debug, Clone, Copy)]
pub struct AttrSchema {
    /// Spelling in text.
    pub name: &'static str,
    /// Kind of the value.
    pub kind: AttrKind,
    /// Value when absent; `None` if it must be given.
    pub default: Option<Default>,
    /// Least and greatest value of an integer, or of each of a list, where an operator's arithmetic wants bounds.
    pub range: Option<(i64, i64)>,
}

impl AttrSchema {
    /// The same with bounds.
    pub(crate) const fn within(self, least: i64, greatest: i64) -> AttrSchema {
        AttrSchema { range: Some((least, greatest)), ..self }
    }
}

/// Default of an attribute.
#[derive(Debug, Clone, Copy)]
pub enum Default {
    /// An integer.
    Int(i64),
    /// A list of integers.
    Ints(&'static [i64]),
    /// A float.
    Float(f32),
    /// A boolean.
    Bool(bool),
    /// A number format.
    Format(&'static Format),
}

impl Default {
    /// The default as a value.
    pub fn to_attr(self) -> Attr {
        match self {
            Default::Int(v) => Attr::Int(v),
            Default::Ints(v) => Attr::Ints(v.to_vec()),
            Default::Float(v) => Attr::Float(v),
            Default::Bool(v) => Attr::Bool(v),
            Default::Format(v) => Attr::Format(v.clone()),
        }
    }
}

impl Attr {
    /// The kind of this value.
    pub fn kind(&self) -> AttrKind {
        match self {
            Attr::Int(_) => AttrKind::Int,
            Attr::Ints(_) => AttrKind::Ints,
            Attr::Float(_) => AttrKind::Float,
            Attr::Bool(_) => AttrKind::Bool,
            Attr::Format(_) => AttrKind::Format,
            Attr::Function(_) => AttrKind::Function,
        }
    }
}
