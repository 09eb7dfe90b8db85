//! Types in a text.

use std::sync::Arc;

use super::Parser;
use super::cursor::{Parsed, read_float};
use crate::diag::Code;
use crate::lex::Token;
use crate::types::{Elem, Format, Int, Range, Type, Uniform};

impl Parser<'_, '_> {
    pub(super) fn ty(&mut self) -> Parsed<Type> {
        let at = self.cursor.at;
        self.cursor.expect_word("tensor")?;
        self.cursor.expect("<")?;
        let mut dims = Vec::new();
        let mut plain = None;
        if let Token::Word(word) = self.cursor.token {
            let mut parts = word.split('x');
            let last = parts.next_back().unwrap_or_default();
            for part in parts {
                let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
                let extent = part.parse().ok().filter(|_| digits);
                dims.push(extent.ok_or_else(|| self.cursor.expected("extents and an element type, as `1x3xf32`"))?);
            }
            plain = match last {
                "" => None,
                "f32" => Some(Elem::F32),
                "bool" => Some(Elem::Bool),
                int => Some(Elem::Int(Int::from_name(int).ok_or_else(|| self.cursor.expected("an element type"))?)),
            };
            self.cursor.advance();
        }
        let elem = match plain {
            Some(elem) => elem,
            None => self.quantized()?,
        };
        self.cursor.expect(">")?;
        let ty = Type { dims, elem };
        match ty.checked_elements() {
            Some(_) => Ok(ty),
            None => Err(self.cursor.fault_at(at, Code::SYNTAX, format!("shape {:?} has too many elements", ty.dims))),
        }
    }

    /// `!quant.uniform<..>`, `!quant.calibrated<..>` or an alias.
    fn quantized(&mut self) -> Parsed<Elem> {
        let at = self.cursor.at;
        let name = self.cursor.name('!', "an element type")?;
        match name.as_str() {
            "quant.uniform" => Ok(Elem::Uniform(Arc::new(self.uniform()?))),
            "quant.calibrated" => {
                self.cursor.expect("<")?;
                self.cursor.expect_word("f32")?;
                self.cursor.expect("<")?;
                let at = self.cursor.at;
                let min = self.cursor.float()?;
                self.cursor.expect(":")?;
                let range = Range { min, max: self.cursor.float()? };
                if !range.is_valid() {
                    let message = format!("{:?}:{:?} is no range", range.min, range.max);
                    return Err(self.cursor.fault_at(at, Code::SYNTAX, message));
                }
                self.cursor.expect(">")?;
                self.cursor.expect(">")?;
                Ok(Elem::Calibrated(range))
            }
            _ => match self.aliases.get(&name) {
                Some(uniform) => Ok(Elem::Uniform(uniform.clone())),
                None => Err(self.cursor.fault_at(at, Code::BAD_GRAPH, format!("the type `!{name}` is not defined"))),
            },
        }
    }

    /// From the `<` after `!quant.uniform` on.
    pub(super) fn uniform(&mut self) -> Parsed<Uniform> {
        self.cursor.expect("<")?;
        let format = self.format()?;
        self.cursor.expect(":")?;
        self.cursor.expect_word("f32")?;
        let axis = if self.cursor.eat(":") { Some(self.cursor.integer()?) } else { None };
        self.cursor.expect(",")?;
        let pairs = match axis {
            None => vec![self.scale()?],
            Some(_) => {
                self.cursor.expect("{")?;
                self.list("}", Self::scale)?
            }
        };
        self.cursor.expect(">")?;
        let (scales, zero_points) = pairs.into_iter().unzip();
        Ok(Uniform { format, axis, scales, zero_points })
    }

    /// A storage, and the integers of it that are used if these are not all.
    pub(super) fn format(&mut self) -> Parsed<Format> {
        let storage = self.cursor.word("an integer type", Int::from_name)?;
        if !self.cursor.eat("<") {
            return Ok(Format::all(storage));
        }
        let at = self.cursor.at;
        let format = if self.cursor.eat("[") {
            Format::levels(storage, self.list("]", |p| p.cursor.integer())?)
        } else {
            let min = self.cursor.integer()?;
            self.cursor.expect(":")?;
            Some(Format::linear(storage, min, self.cursor.integer()?))
        };
        let format = format.ok_or_else(|| {
            self.cursor.fault_at(at, Code::SYNTAX, "expected two integers or more, in ascending order".to_string())
        })?;
        self.cursor.expect(">")?;
        Ok(format)
    }

    fn scale(&mut self) -> Parsed<(f32, i64)> {
        let positive = |w: &str| read_float(w).filter(|s| s.is_finite() && *s > 0.0);
        let scale = self.cursor.word("a finite positive scale", positive)?;
        Ok((scale, if self.cursor.eat(":") { self.cursor.integer()? } else { 0 }))
    }
}
