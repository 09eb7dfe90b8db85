//! A function of one value that is put together from others: what `nn.map` applies to each element.
//!
//! ```text
//! function ::= "x" | number | name "(" function ("," function)? ("," key "=" value)* ")" | "where" "(" function "," function "," function ")"
//! log(add(exp(x), 1.0))
//! mul(clip(add(x, 3.0), min = 0.0, max = 6.0), 0.16666667)
//! ```
//! `where(a, b, c)` is `a` unless `c` is 0, else `b`. Any other name is that of an operator on real numbers, without its dialect, whose class is a function of one or two values; keys are its
//! attributes. A function has at most [`LIMIT`] parts, so that no text nests deeply.

use std::fmt;

use crate::attr::AttrInput;
use crate::attrs::{Attr, AttrKind, Body};
use crate::ops::{Attrs, Binary, Class, Opcode};

/// Most parts of a function.
pub const LIMIT: usize = 64;

/// A real function of one real number.
#[derive(Debug, Clone, PartialEq)]
pub enum Function {
    /// The number itself.
    Argument,
    /// A constant.
    Number(f32),
    /// An operator on the results of other functions.
    Call(Box<Call>),
    /// The first, unless the third is 0, else the second.
    Select(Box<[Function; 3]>),
}

/// An operator that is part of a [`Function`].
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// Its attributes, and with them the operator.
    pub attrs: Attrs,
    /// Its operands: one or two.
    pub operands: Vec<Function>,
}

impl Binary {
    /// The function of two real numbers.
    pub fn of(self, a: f32, b: f32) -> f32 {
        match self {
            Binary::Add => a + b,
            Binary::Sub => a - b,
            Binary::Mul => a * b,
            Binary::Div => a / b,
            Binary::Min => a.min(b),
            Binary::Max => a.max(b),
            Binary::Pow => a.powf(b),
            Binary::PRelu => {
                if a < 0.0 {
                    b * a
                } else {
                    a
                }
            }
        }
    }
}

/// Operands of an operator that can be part of a function.
fn arity(op: Opcode) -> Option<usize> {
    match op.info().class {
        Class::Unary(_) if op != Opcode::Map => Some(1),
        Class::Binary(_) => Some(2),
        _ => None,
    }
}

impl Function {
    /// An operator on the results of functions; `None` if it is none of one or two real numbers, or the function becomes too large.
    pub fn call(attrs: Attrs, operands: Vec<Function>) -> Option<Function> {
        let fits = arity(attrs.op()) == Some(operands.len());
        let all = Function::Call(Box::new(Call { attrs, operands }));
        (fits && all.parts() <= LIMIT).then_some(all)
    }

    /// A selection among functions; `None` if it becomes too large.
    pub fn select(parts: [Function; 3]) -> Option<Function> {
        let all = Function::Select(Box::new(parts));
        (all.parts() <= LIMIT).then_some(all)
    }

    /// The function's value at `x`.
    pub fn at(&self, x: f32) -> f32 {
        match self {
            Function::Select(parts) => parts[if parts[2].at(x) == 0.0 { 1 } else { 0 }].at(x),
            Function::Argument => x,
            Function::Number(c) => *c,
            Function::Call(call) => match (call.attrs.op().info().class, &call.operands[..]) {
                (Class::Unary(f), [a]) => f(&call.attrs, a.at(x)),
                (Class::Binary(f), [a, b]) => f.of(a.at(x), b.at(x)),
                // Nothing else is built or parsed.
                _ => f32::NAN,
            },
        }
    }

    /// The function of the results of `inner`; `None` if it becomes too large.
    pub fn after(&self, inner: &Function) -> Option<Function> {
        match self {
            Function::Argument => Some(inner.clone()),
            Function::Number(c) => Some(Function::Number(*c)),
            Function::Select(parts) => {
                let [a, b, c] = &**parts;
                Function::select([a.after(inner)?, b.after(inner)?, c.after(inner)?])
            }
            Function::Call(call) => {
                let operands = call.operands.iter().map(|f| f.after(inner)).collect::<Option<_>>()?;
                Function::call(call.attrs.clone(), operands)
            }
        }
    }

    /// How many operators, constants and arguments it has.
    pub fn parts(&self) -> usize {
        match self {
            Function::Argument | Function::Number(_) => 1,
            Function::Call(call) => 1 + call.operands.iter().map(Function::parts).sum::<usize>(),
            Function::Select(parts) => 1 + parts.iter().map(Function::parts).sum::<usize>(),
        }
    }

    /// Reads the text of a function.
    pub fn parse(text: &str) -> Result<Function, String> {
        let mut parser = Parser { rest: text, parts: 0 };
        let function = parser.function()?;
        parser.blank();
        if parser.rest.is_empty() { Ok(function) } else { Err(format!("expected the end, found `{}`", parser.rest)) }
    }
}

impl AttrInput<Body> for Function {
    fn into_value(self) -> Body {
        let text = self.to_string();
        Body::new(&text, move |x| self.at(x))
    }
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Function::Argument => f.write_str("x"),
            Function::Number(c) => write!(f, "{c:?}"),
            Function::Select(parts) => write!(f, "where({}, {}, {})", parts[0], parts[1], parts[2]),
            Function::Call(call) => {
                let name = call.attrs.op().name();
                write!(f, "{}(", name.split_once('.').map_or(name, |(_, name)| name))?;
                for (i, operand) in call.operands.iter().enumerate() {
                    write!(f, "{}{operand}", if i > 0 { ", " } else { "" })?;
                }
                for (key, value) in call.attrs.given() {
                    write!(f, ", {key} = ")?;
                    match value {
                        Attr::Int(v) => write!(f, "{v}")?,
                        Attr::Float(v) => write!(f, "{v:?}")?,
                        Attr::Bool(v) => write!(f, "{v}")?,
                        // No function of one or two values has such an attribute.
                        Attr::Ints(_) | Attr::Format(_) | Attr::Function(_) => f.write_str("?")?,
                    }
                }
                f.write_str(")")
            }
        }
    }
}

struct Parser<'a> {
    rest: &'a str,
    parts: usize,
}

impl<'a> Parser<'a> {
    fn blank(&mut self) {
        self.rest = self.rest.trim_start();
    }

    /// Takes what stands there up to a separator.
    fn word(&mut self) -> &'a str {
        self.blank();
        let end = self.rest.find(|c: char| "(),=".contains(c) || c.is_whitespace()).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    fn takes(&mut self, separator: char) -> bool {
        self.blank();
        match self.rest.strip_prefix(separator) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, separator: char) -> Result<(), String> {
        if self.takes(separator) {
            return Ok(());
        }
        let found: String = self.rest.chars().take(16).collect();
        Err(format!("expected `{separator}`, found `{found}`"))
    }

    fn function(&mut self) -> Result<Function, String> {
        self.parts += 1;
        if self.parts > LIMIT {
            return Err(format!("a function has at most {LIMIT} parts"));
        }
        let word = self.word();
        if word == "x" {
            return Ok(Function::Argument);
        }
        if let Some(number) = word.parse::<f32>().ok().filter(|c| !c.is_nan()) {
            return Ok(Function::Number(number));
        }
        if word == "where" {
            return self.selection();
        }
        let op = Opcode::from_name(&format!("nn.{word}"));
        let Some((op, arity)) = op.and_then(|op| Some((op, arity(op)?))) else {
            return Err(format!("`{word}` is neither `x`, nor a number, nor a function of one or two values"));
        };
        self.expect('(')?;
        let mut operands = vec![self.function()?];
        if arity == 2 {
            self.expect(',')?;
            operands.push(self.function()?);
        }
        let mut attrs = Attrs::new(op);
        while self.takes(',') {
            self.attribute(&mut attrs)?;
        }
        self.expect(')')?;
        if let Some(missing) = attrs.missing().next() {
            return Err(format!("`{word}` needs its attribute `{missing}`"));
        }
        Function::call(attrs, operands).ok_or_else(|| format!("a function has at most {LIMIT} parts"))
    }

    fn selection(&mut self) -> Result<Function, String> {
        self.expect('(')?;
        let a = self.function()?;
        self.expect(',')?;
        let b = self.function()?;
        self.expect(',')?;
        let c = self.function()?;
        self.expect(')')?;
        Function::select([a, b, c]).ok_or_else(|| format!("a function has at most {LIMIT} parts"))
    }

    fn attribute(&mut self, attrs: &mut Attrs) -> Result<(), String> {
        let key = self.word();
        self.expect('=')?;
        let text = self.word();
        let kind = attrs.op().info().attrs.iter().find(|s| s.name == key).map(|s| s.kind);
        let value = match kind {
            Some(AttrKind::Int) => text.parse().ok().map(Attr::Int),
            Some(AttrKind::Float) => text.parse().ok().map(Attr::Float),
            Some(AttrKind::Bool) => text.parse().ok().map(Attr::Bool),
            Some(AttrKind::Ints | AttrKind::Format | AttrKind::Function) | None => None,
        };
        let value = value.ok_or_else(|| format!("`{key} = {text}` is no attribute of `{}`", attrs.op().name()))?;
        attrs.try_set(key, value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_back() {
        for text in [
            "x",
            "2.5",
            "log(add(exp(x), 1.0))",
            "mul(clip(add(x, 3.0), min = 0.0, max = 6.0), 0.16666667)",
            "gelu(x, tanh = true)",
            "where(x, add(exp(x), -1.0), relu(sign(x)))",
        ] {
            assert_eq!(Function::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn values() {
        let softplus = Function::parse("log(add(exp(x), 1.0))").unwrap();
        assert!((softplus.at(1.0) - 1.313_261_7).abs() < 1e-6);
        let twice = Function::parse("mul(x, 2)").unwrap();
        assert_eq!(twice.after(&twice).unwrap().at(3.0), 12.0);
        assert_eq!(Function::parse("prelu(x, 0.5)").unwrap().at(-2.0), -1.0);
        let either = Function::parse("where(2, neg(x), relu(x))").unwrap();
        assert_eq!([either.at(3.0), either.at(-3.0)], [2.0, 3.0]);
    }

    #[test]
    fn faults() {
        let deep = "neg(".repeat(LIMIT) + "x" + &")".repeat(LIMIT);
        for text in
            ["", "y", "neg(x", "neg(x, 1)", "add(x)", "neg(x))", "conv2d(x, x)", "clip(x, least = 1)", "map(x)", &deep]
        {
            assert!(Function::parse(text).is_err(), "{text}");
        }
    }
}
