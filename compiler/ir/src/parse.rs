//! A graph from its text (`.qir`), by recursive descent.
//!
//! ```text
//! text    ::= (alias | meta)* graph
//! alias   ::= '!' NAME '=' uniform
//! meta    ::= 'meta' WORD '%' NAME '=' '[' (NUMBER (',' NUMBER)*)? ']'                     what passes left: see `metadata`
//! graph   ::= 'graph' '@' NAME '(' (input (',' input)*)? ')' '->' '(' (type (',' type)*)? ')'
//!             '{' (const | node)* 'return' (use (',' use)*)? '}'
//! input   ::= '%' NAME ':' type
//! const   ::= 'const' '@' NAME ':' type '=' ('dense' '<' numbers '>' | 'file' '<' STRING '>')
//! numbers ::= '[' (NUMBER (',' NUMBER)*)? ']' | NUMBER                                  (one number: that of every element)
//! node    ::= '%' NAME '=' OPERATOR '(' (use (',' use)*)? ')' ('{' attr (',' attr)* '}')? ':' type loc?
//! attr    ::= WORD '=' (NUMBER | 'true' | 'false' | '[' (NUMBER (',' NUMBER)*)? ']')
//! loc     ::= 'loc' '(' STRING (WORD | STRING) NUMBER ')'          name, ONNX operator, opset
//! use     ::= '%' NAME | '@' NAME                                  of a value defined further up
//! type    ::= 'tensor' '<' (NUMBER 'x')* elem '>'                  without blanks between extents
//! elem    ::= 'f32' | 'bool' | integer | uniform | '!' NAME
//!           | '!quant.calibrated' '<' 'f32' '<' NUMBER ':' NUMBER '>' '>'
//! uniform ::= '!quant.uniform' '<' integer ('<' grid '>')? ':' 'f32'
//!             (',' scale | ':' NUMBER ',' '{' (scale (',' scale)*)? '}') '>'
//! grid    ::= NUMBER ':' NUMBER | '[' NUMBER (',' NUMBER)+ ']'     least and greatest integer, or each of them
//! scale   ::= NUMBER (':' NUMBER)?                                 scale, zero point
//! integer ::= 'i4' | 'u4' | 'i8' | 'u8' | 'i16' | 'i32' | 'i64'
//! ```
//!
//! `NAME` is `[A-Za-z0-9_.$-]+` or a string; strings have the escapes `\"`, `\\` and `\u{..}`. `//` begins a comment.
//!
//! The parser checks what the text says, not whether shapes fit: that is the verifier's part ([`mod@crate::verify`]). After a
//! fault it resumes at the next line, so that several faults are reported at once. Nothing recurses.

mod constants;
mod cursor;
mod nodes;
mod types;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use crate::build::Builder;
use crate::diag::{Code, Diag, Diags};
use crate::graph::{Graph, ValueId};
use crate::lex::{Lines, Token};
use crate::metadata::Fact;
use crate::types::{Type, Uniform};

use cursor::{Cursor, Parsed};

/// Longest text that is read.
const MAX_TEXT: usize = 1 << 30;
/// Faults after which the parser gives up.
const MAX_FAULTS: usize = 20;

/// Reads a side file by the name that the text gives; see [`no_files`] and [`folder`].
pub type Side<'a> = dyn Fn(&str) -> io::Result<Vec<u8>> + 'a;

/// For texts without side files.
pub fn no_files(_: &str) -> io::Result<Vec<u8>> {
    Err(io::Error::other("side files are not available here"))
}

/// Side files from a folder.
pub fn folder(path: &std::path::Path) -> impl Fn(&str) -> io::Result<Vec<u8>> + '_ {
    move |name| std::fs::read(path.join(name))
}

/// A graph with the places of its values in the text.
#[derive(Debug)]
pub struct Located<'a> {
    /// The graph.
    pub graph: Graph,
    lines: Lines<'a>,
    offsets: HashMap<ValueId, usize>,
}

impl Located<'_> {
    /// Line and column, from 1, at which a value is defined.
    pub fn place(&self, v: ValueId) -> Option<(usize, usize)> {
        self.offsets.get(&v).map(|&offset| self.lines.position(offset))
    }

    /// [`fn@crate::verify`] with places in the text.
    pub fn verify(&self) -> Result<(), Diags> {
        crate::verify::verify_at(&self.graph, &|v| self.place(v))
    }

    /// [`crate::check_level`] with places in the text.
    pub fn check_level(&self, level: crate::Level) -> Result<(), Diags> {
        crate::verify::check_level_at(&self.graph, level, &|v| self.place(v))
    }
}

/// The graph that a text describes. It is not verified.
pub fn parse(text: &str, side: &Side) -> Result<Graph, Diags> {
    parse_located(text, side).map(|located| located.graph)
}

/// The graph that a text describes, and where. It is not verified.
pub fn parse_located<'a>(text: &'a str, side: &Side) -> Result<Located<'a>, Diags> {
    if text.len() > MAX_TEXT {
        return Err(Diag::new(Code::SYNTAX, format!("the text is longer than {MAX_TEXT} bytes")).into());
    }
    let mut graph = Graph::new("");
    let mut parser = Parser {
        cursor: Cursor::new(text),
        side,
        builder: Builder::new(&mut graph),
        aliases: HashMap::new(),
        values: HashMap::new(),
        offsets: HashMap::new(),
        faults: Vec::new(),
    };
    let name = parser.text();
    let (lines, offsets, mut faults) = (parser.cursor.lines, parser.offsets, parser.faults);
    match name {
        Ok(name) if faults.is_empty() => {
            graph.name = name;
            Ok(Located { graph, lines, offsets })
        }
        Ok(_) => Err(Diags(faults)),
        Err(fault) => {
            faults.push(fault);
            Err(Diags(faults))
        }
    }
}

/// `'a` is the life of the text, `'g` that of what a run of the parser borrows.
struct Parser<'a, 'g> {
    cursor: Cursor<'a>,
    side: &'g Side<'g>,
    builder: Builder<'g>,
    aliases: HashMap<String, Arc<Uniform>>,
    /// Defined values; `None` where the definition was faulty, so that uses are not reported as well.
    values: HashMap<String, Option<ValueId>>,
    offsets: HashMap<ValueId, usize>,
    faults: Vec<Diag>,
}

impl Parser<'_, '_> {
    /// Items with commas between them up to `close`, which is eaten.
    fn list<T>(&mut self, close: &'static str, mut item: impl FnMut(&mut Self) -> Parsed<T>) -> Parsed<Vec<T>> {
        let mut items = Vec::new();
        if self.cursor.eat(close) {
            return Ok(items);
        }
        loop {
            items.push(item(self)?);
            if self.cursor.eat(close) {
                return Ok(items);
            }
            if !self.cursor.eat(",") {
                return Err(self.cursor.expected(&format!("`,` or `{close}`")));
            }
        }
    }

    /// The whole text; returns the name of the graph.
    fn text(&mut self) -> Parsed<String> {
        loop {
            match self.cursor.token {
                Token::Name('!', _) => self.alias()?,
                Token::Word("meta") => self.meta()?,
                _ => break,
            }
        }
        self.cursor.expect_word("graph")?;
        let name = self.cursor.name('@', "the graph's name, as `@name`")?;
        self.cursor.expect("(")?;
        self.list(")", Self::input)?;
        self.cursor.expect("->")?;
        self.cursor.expect("(")?;
        let outputs = self.list(")", Self::ty)?;
        self.cursor.expect("{")?;
        while !self.cursor.is_word("return") {
            if matches!(self.cursor.token, Token::End | Token::Punct("}")) {
                return Err(self.cursor.expected("an operation, a constant or `return`"));
            }
            let line = self.cursor.lines.line(self.cursor.at);
            if let Err(fault) = self.statement() {
                self.faults.push(fault);
                if self.faults.len() >= MAX_FAULTS {
                    return Err(self.cursor.fault_at(self.cursor.at, Code::SYNTAX, "too many faults".to_string()));
                }
                self.resume(line);
            }
        }
        self.results(&outputs)?;
        self.cursor.expect("}")?;
        match self.cursor.token {
            Token::End => Ok(name),
            _ => Err(self.cursor.expected("the end of the text")),
        }
    }

    /// Skips to what begins a statement on a line after `line`.
    fn resume(&mut self, line: usize) {
        loop {
            let begins = match &self.cursor.token {
                Token::End => return,
                Token::Name('%', _) | Token::Punct("}") => true,
                Token::Word(w) => matches!(*w, "const" | "return"),
                Token::Name(..) | Token::Str(_) | Token::Punct(_) | Token::Unknown(_) => false,
            };
            if begins && self.cursor.lines.line(self.cursor.at) > line {
                return;
            }
            self.cursor.advance();
        }
    }

    /// What a pass left: `meta seen %x = [0.0, 1.0]`.
    fn meta(&mut self) -> Parsed<()> {
        self.cursor.advance();
        let fact = self.cursor.word("a kind of metadata", Fact::find)?;
        let at = self.cursor.at;
        let name = self.cursor.name('%', "the name of a value, as `%name`")?;
        self.cursor.expect("=")?;
        self.cursor.expect("[")?;
        let numbers = self.list("]", |p| p.cursor.double())?;
        if self.builder.graph().metadata().get(fact, &name).is_some() {
            let message = format!("`{}` of `%{name}` is given twice", fact.name());
            return Err(self.cursor.fault_at(at, Code::SYNTAX, message));
        }
        self.builder.set_metadata(fact, &name, numbers);
        Ok(())
    }

    fn alias(&mut self) -> Parsed<()> {
        let at = self.cursor.at;
        let name = self.cursor.name('!', "an alias")?;
        self.cursor.expect("=")?;
        let uniform_at = self.cursor.at;
        let keyword = self.cursor.name('!', "`!quant.uniform`")?;
        if keyword != "quant.uniform" {
            return Err(self.cursor.fault_at(
                uniform_at,
                Code::SYNTAX,
                format!("expected `!quant.uniform`, found `!{keyword}`"),
            ));
        }
        let uniform = self.uniform()?;
        if name.starts_with("quant.") || self.aliases.insert(name.clone(), Arc::new(uniform)).is_some() {
            return Err(self.cursor.fault_at(at, Code::BAD_GRAPH, format!("the type `!{name}` is already defined")));
        }
        Ok(())
    }

    fn input(&mut self) -> Parsed<()> {
        let at = self.cursor.at;
        let name = self.cursor.name('%', "an input, as `%name`")?;
        self.cursor.expect(":")?;
        let ty = self.ty()?;
        self.declare(at, &name)?;
        let v = self.builder.add_input(&name, ty);
        self.define(at, name, v);
        Ok(())
    }

    fn declare(&self, at: usize, name: &str) -> Parsed<()> {
        if self.values.contains_key(name) {
            return Err(self.cursor.fault_at(at, Code::BAD_GRAPH, format!("the name `{name}` is already defined")));
        }
        Ok(())
    }

    fn define(&mut self, at: usize, name: String, v: ValueId) {
        self.offsets.insert(v, at);
        self.values.insert(name, Some(v));
    }

    fn statement(&mut self) -> Parsed<()> {
        let at = self.cursor.at;
        let constant = self.cursor.is_word("const");
        if constant {
            self.cursor.advance();
        }
        let name = match constant {
            true => self.cursor.name('@', "a constant, as `@name`")?,
            false => self.cursor.name('%', "an operation, a constant or `return`")?,
        };
        self.declare(at, &name)?;
        let defined = if constant { self.constant(&name) } else { self.node(&name) };
        match defined {
            Ok(Some(v)) => self.define(at, name, v),
            // An operand was faulty, which has been reported where it was defined.
            Ok(None) => _ = self.values.insert(name, None),
            Err(fault) => {
                self.values.insert(name, None);
                return Err(fault);
            }
        }
        Ok(())
    }

    /// `return` and its values, which must have the types of the header.
    fn results(&mut self, types: &[Type]) -> Parsed<()> {
        let at = self.cursor.at;
        self.cursor.expect_word("return")?;
        let mut outputs = Vec::new();
        while !matches!(self.cursor.token, Token::Punct("}")) {
            if !outputs.is_empty() {
                self.cursor.expect(",")?;
            }
            let use_at = self.cursor.at;
            let Some(v) = self.use_of()? else {
                self.skip_to_end();
                return Ok(());
            };
            if let Some(ty) = types.get(outputs.len())
                && ty != self.builder.graph().ty(v)
            {
                let message = format!("expected {ty} by the graph's header, found {}", self.builder.graph().ty(v));
                return Err(self.cursor.fault_at(use_at, Code::SYNTAX, message));
            }
            outputs.push(v);
        }
        if outputs.len() != types.len() {
            let message =
                format!("expected values for {} types of the graph's header, found {}", types.len(), outputs.len());
            return Err(self.cursor.fault_at(at, Code::SYNTAX, message));
        }
        self.builder.set_outputs(outputs);
        Ok(())
    }

    /// After a faulty value among the results nothing more can be checked.
    fn skip_to_end(&mut self) {
        while !matches!(self.cursor.token, Token::Punct("}") | Token::End) {
            self.cursor.advance();
        }
    }
}
