//! Attributes of an operation. Which there are, in which order and with which defaults is said by the operator's row in
//! [`crate::ops`]; an attribute that equals its default is not stored, so that equal operations compare equal.

use std::sync::Arc;

use crate::attr::{AttrInput, AttrValue, Key};
use crate::function::Function;
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
    /// A function of one value.
    Function(Arc<Function>),
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
            Attr::Function(_) => AttrKind::Function,
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

    /// The same with one attribute set. Panics if the operator has no such attribute: a bug of the caller, never of a model.
    pub fn with<T: AttrValue>(mut self, key: Key<T>, value: impl AttrInput<T>) -> Attrs {
        self.set(key, value);
        self
    }

    /// The same with these attributes of another operation.
    pub fn with_those_of<T: AttrValue + AttrInput<T>>(self, other: &Attrs, keys: &[Key<T>]) -> Attrs {
        keys.iter().fold(self, |attrs, &key| attrs.with(key, other.get(key)))
    }

    /// Sets an attribute. Panics if the operator has no such attribute.
    pub fn set<T: AttrValue>(&mut self, key: Key<T>, value: impl AttrInput<T>) {
        let Some(i) = self.position(key) else {
            panic!("`{}` has no attribute `{}` of this kind", self.op.name(), key.name())
        };
        self.set_at(i, value.into_value().into_attr());
    }

    /// All attributes that `other` and this operator have, as in `other` where they are given there.
    pub fn with_shared(mut self, other: &Attrs) -> Attrs {
        for (i, schema) in self.op.info().attrs.iter().enumerate() {
            let same = other.op.info().attrs.iter().position(|s| s.name == schema.name && s.kind == schema.kind);
            if let Some(value) = same.and_then(|at| other.at(at)) {
                self.set_at(i, value);
            }
        }
        self
    }

    /// Sets the attribute that a text or a model names, or says why it cannot be set.
    pub fn try_set(&mut self, name: &str, value: Attr) -> Result<(), String> {
        let info = self.op.info();
        let Some(i) = info.attrs.iter().position(|s| s.name == name) else {
            return Err(format!("`{}` has no attribute `{name}`", info.name));
        };
        let schema = &info.attrs[i];
        if schema.kind != value.kind() {
            return Err(format!("attribute `{name}` of `{}` is {:?}, not {:?}", info.name, schema.kind, value.kind()));
        }
        self.set_at(i, value);
        Ok(())
    }

    fn set_at(&mut self, i: usize, value: Attr) {
        let is_default = self.op.info().attrs[i].default.is_some_and(|d| d.to_attr() == value);
        self.values[i] = if is_default { None } else { Some(value) };
    }

    /// Number of a key among the operator's attributes.
    fn position<T: AttrValue>(&self, key: Key<T>) -> Option<usize> {
        self.op.info().attrs.iter().position(|s| key.is(s))
    }

    /// Attribute number `i` or its default.
    fn at(&self, i: usize) -> Option<Attr> {
        self.values[i].clone().or(self.op.info().attrs[i].default.map(Default::to_attr))
    }

    /// The operator whose schema these follow.
    pub fn op(&self) -> Opcode {
        self.op
    }

    /// True if the operator has this attribute, given or not.
    pub fn has<T: AttrValue>(&self, key: Key<T>) -> bool {
        self.position(key).is_some()
    }

    /// An attribute or its default; `None` if the operator has no such attribute or it was never given.
    pub fn try_get<T: AttrValue>(&self, key: Key<T>) -> Option<T> {
        T::of(&self.at(self.position(key)?)?)
    }

    /// The attribute of a column of the operator's row, or its default.
    pub fn of_schema(&self, schema: &AttrSchema) -> Option<Attr> {
        self.at(self.op.info().attrs.iter().position(|s| s.name == schema.name)?)
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

    /// An attribute or its default. Panics if the operator has no such attribute or it was never given: the verifier has seen to that.
    pub fn get<T: AttrValue>(&self, key: Key<T>) -> T {
        let (op, name) = (self.op.name(), key.name());
        self.try_get(key).unwrap_or_else(|| panic!("`{op}` has no attribute `{name}`, or it was not given"))
    }

    /// A list attribute whose values are extents; the verifier has seen that none is negative.
    pub fn sizes(&self, key: Key<Vec<i64>>) -> Vec<usize> {
        self.get(key).into_iter().map(|v| usize::try_from(v).unwrap_or(0)).collect()
    }
}
