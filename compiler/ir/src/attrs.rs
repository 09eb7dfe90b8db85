//! Attributes of an operation. Which there are, in which order and with which defaults is said by the operator's row in
//! [`crate::ops`]; an attribute that equals its default is not stored, so that equal operations compare equal.

use crate::ops::Opcode;

/// Value of an attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum Attr {
    /// An integer.
    Int(i64),
    /// A list of integers.
    Ints(Vec<i64>),
    /// A float.
    Float(f32),
    /// A truth value.
    Bool(bool),
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
    /// A truth value.
    Bool(bool),
}

impl Default {
    /// The default as a value.
    pub fn to_attr(self) -> Attr {
        match self {
            Default::Int(v) => Attr::Int(v),
            Default::Ints(v) => Attr::Ints(v.to_vec()),
            Default::Float(v) => Attr::Float(v),
            Default::Bool(v) => Attr::Bool(v),
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
        }
    }
}

/// The attributes of one operation, in the order of its schema.
#[derive(Debug, Clone, PartialEq)]
pub struct Attrs {
    op: Opcode,
    values: Vec<Option<Attr>>,
}

impl Attrs {
    /// No attribute given: all at their defaults.
    pub fn new(op: Opcode) -> Attrs {
        Attrs { op, values: vec![None; op.info().attrs.len()] }
    }

    /// The same with one attribute set. Panics if the operator has no such attribute or it is of another kind: a bug of
    /// the caller, never of a model. Texts and models go through [`Attrs::try_set`].
    pub fn with(mut self, name: &str, value: impl Into<Attr>) -> Attrs {
        let value = value.into();
        if let Err(message) = self.try_set(name, value) {
            panic!("{message}");
        }
        self
    }

    /// The same with these attributes of another operation.
    pub fn with_those_of(self, other: &Attrs, names: &[&str]) -> Attrs {
        names.iter().fold(self, |attrs, name| attrs.with(name, other.get(name)))
    }

    /// Sets an attribute, or says why it cannot be set.
    pub fn try_set(&mut self, name: &str, value: Attr) -> Result<(), String> {
        let info = self.op.info();
        let Some(i) = info.attrs.iter().position(|s| s.name == name) else {
            return Err(format!("`{}` has no attribute `{name}`", info.name));
        };
        let schema = &info.attrs[i];
        if schema.kind != value.kind() {
            return Err(format!("attribute `{name}` of `{}` is {:?}, not {:?}", info.name, schema.kind, value.kind()));
        }
        let is_default = schema.default.is_some_and(|d| d.to_attr() == value);
        self.values[i] = if is_default { None } else { Some(value) };
        Ok(())
    }

    /// The operator whose schema these follow.
    pub fn op(&self) -> Opcode {
        self.op
    }

    /// True if the operator has an attribute of this name, given or not.
    pub fn has(&self, name: &str) -> bool {
        self.op.info().attrs.iter().any(|s| s.name == name)
    }

    /// An attribute or its default; `None` if the schema has none by this name or it was never given.
    pub fn try_get(&self, name: &str) -> Option<Attr> {
        let i = self.op.info().attrs.iter().position(|s| s.name == name)?;
        self.values[i].clone().or(self.op.info().attrs[i].default.map(Default::to_attr))
    }

    /// The attributes that differ from their defaults, with their names, in the order of the schema.
    pub fn given(&self) -> impl Iterator<Item = (&'static str, &Attr)> {
        self.op.info().attrs.iter().zip(&self.values).filter_map(|(s, v)| Some((s.name, v.as_ref()?)))
    }

    /// Names of attributes that must be given and are not.
    pub fn missing(&self) -> impl Iterator<Item = &'static str> {
        let pairs = self.op.info().attrs.iter().zip(&self.values);
        pairs.filter(|(s, v)| v.is_none() && s.default.is_none()).map(|(s, _)| s.name)
    }

    /// An attribute or its default. Panics if the schema has none by this name or it was never given: the verifier has seen to that.
    pub fn get(&self, name: &str) -> Attr {
        let op = self.op.name();
        self.try_get(name).unwrap_or_else(|| panic!("`{op}` has no attribute `{name}`, or it was not given"))
    }

    /// An integer attribute.
    pub fn int(&self, name: &str) -> i64 {
        match self.get(name) {
            Attr::Int(v) => v,
            other => panic!("`{name}` is {:?}", other.kind()),
        }
    }

    /// A list attribute.
    pub fn ints(&self, name: &str) -> Vec<i64> {
        match self.get(name) {
            Attr::Ints(v) => v,
            other => panic!("`{name}` is {:?}", other.kind()),
        }
    }

    /// A list attribute whose values are extents; the verifier has seen that none is negative.
    pub fn sizes(&self, name: &str) -> Vec<usize> {
        self.ints(name).into_iter().map(|v| usize::try_from(v).unwrap_or(0)).collect()
    }

    /// A float attribute.
    pub fn float(&self, name: &str) -> f32 {
        match self.get(name) {
            Attr::Float(v) => v,
            other => panic!("`{name}` is {:?}", other.kind()),
        }
    }

    /// A truth attribute.
    pub fn bool(&self, name: &str) -> bool {
        match self.get(name) {
            Attr::Bool(v) => v,
            other => panic!("`{name}` is {:?}", other.kind()),
        }
    }
}

impl From<i64> for Attr {
    fn from(v: i64) -> Attr {
        Attr::Int(v)
    }
}

impl From<Vec<i64>> for Attr {
    fn from(v: Vec<i64>) -> Attr {
        Attr::Ints(v)
    }
}

impl From<&[usize]> for Attr {
    fn from(v: &[usize]) -> Attr {
        Attr::Ints(v.iter().map(|&x| x as i64).collect())
    }
}

impl From<f32> for Attr {
    fn from(v: f32) -> Attr {
        Attr::Float(v)
    }
}

impl From<bool> for Attr {
    fn from(v: bool) -> Attr {
        Attr::Bool(v)
    }
}
