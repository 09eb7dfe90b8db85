//! Operations in a text: operator, operands, attributes, origin.

use std::sync::Arc;

use super::Parser;
use super::cursor::Parsed;
use crate::attr::AttrInput;
use crate::attrs::{Attr, AttrKind};
use crate::diag::Code;
use crate::function::Function;
use crate::graph::{Origin, ValueId};
use crate::lex::Token;
use crate::ops::{Attrs, Opcode};

impl Parser<'_, '_> {
    pub(super) fn node(&mut self, name: &str) -> Parsed<Option<ValueId>> {
        self.cursor.expect("=")?;
        let op = self.cursor.word("an operator", Opcode::from_name)?;
        self.cursor.expect("(")?;
        let operands = self.list(")", Self::use_of)?;
        let mut attrs = Attrs::new(op);
        if self.cursor.eat("{") {
            let mut given = Vec::new();
            self.list("}", |p| p.attr(op, &mut attrs, &mut given))?;
        }
        self.cursor.expect(":")?;
        let ty = self.ty()?;
        let origin = if self.cursor.is_word("loc") { Some(Arc::new(self.origin()?)) } else { None };
        let Some(operands) = operands.into_iter().collect::<Option<Vec<_>>>() else { return Ok(None) };
        Ok(Some(self.builder.add(op, &operands, attrs, name, ty, origin)))
    }

    /// A value that has been defined; `None` if its definition was faulty.
    pub(super) fn use_of(&mut self) -> Parsed<Option<ValueId>> {
        let at = self.cursor.at;
        let sigil = if matches!(self.cursor.token, Token::Name('@', _)) { '@' } else { '%' };
        let name = self.cursor.name(sigil, "a value, as `%name` or `@name`")?;
        let undefined = |p: &Self| p.cursor.fault_at(at, Code::BAD_GRAPH, format!("`{sigil}{name}` is not defined"));
        match self.values.get(&name) {
            Some(Some(v)) if self.builder.graph().constant(*v).is_some() == (sigil == '@') => Ok(Some(*v)),
            Some(Some(_)) => {
                let other = if sigil == '@' { "no constant" } else { "a constant" };
                Err(undefined(self).help(format!("`{name}` is {other}")))
            }
            Some(None) => Ok(None),
            None => Err(undefined(self)),
        }
    }

    fn attr(&mut self, op: Opcode, attrs: &mut Attrs, given: &mut Vec<&'static str>) -> Parsed<()> {
        let at = self.cursor.at;
        let names = || op.info().attrs.iter().map(|s| s.name).collect::<Vec<_>>().join("`, `");
        let what = match op.info().attrs {
            [] => format!("no attributes of `{}`", op.name()),
            _ => format!("an attribute of `{}` (`{}`)", op.name(), names()),
        };
        let schema = self.cursor.word(&what, |w| op.info().attrs.iter().find(|s| s.name == w))?;
        self.cursor.expect("=")?;
        let value = match schema.kind {
            AttrKind::Int => Attr::Int(self.cursor.integer()?),
            AttrKind::Float => Attr::Float(self.cursor.float()?),
            AttrKind::Function => {
                let text = self.cursor.string("a function of `x`, in quotes")?;
                let function = Function::parse(&text);
                Attr::Function(function.map_err(|e| self.cursor.fault_at(at, Code::SYNTAX, e))?.into_value())
            }
            AttrKind::Bool => Attr::Bool(self.cursor.word("`true` or `false`", |w| w.parse().ok())?),
            AttrKind::Format => Attr::Format(self.format()?),
            AttrKind::Ints => {
                self.cursor.expect("[")?;
                Attr::Ints(self.list("]", |p| p.cursor.integer())?)
            }
        };
        if given.contains(&schema.name) {
            return Err(self.cursor.fault_at(at, Code::SYNTAX, format!("attribute `{}` is given twice", schema.name)));
        }
        given.push(schema.name);
        attrs.try_set(schema.name, value).map_err(|message| self.cursor.fault_at(at, Code::SYNTAX, message))
    }

    fn origin(&mut self) -> Parsed<Origin> {
        self.cursor.expect_word("loc")?;
        self.cursor.expect("(")?;
        let name = self.cursor.string("the name of an ONNX node, in quotes")?;
        let op = match self.cursor.token {
            Token::Str(_) => self.cursor.string("an ONNX operator")?,
            _ => self.cursor.word("an ONNX operator", |w| Some(w.to_string()))?,
        };
        let opset = self.cursor.integer()?;
        self.cursor.expect(")")?;
        Ok(Origin { name, op, opset })
    }
}
