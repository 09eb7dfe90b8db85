//! The token at hand and what can be asked of it; every refusal says what was expected and what was found.

use crate::diag::{Code, Diag};
use crate::lex::{Lexer, Lines, Token};

pub(super) type Parsed<T> = Result<T, Diag>;

/// A position in a text.
pub(super) struct Cursor<'a> {
    lexer: Lexer<'a>,
    /// The next token.
    pub(super) token: Token<'a>,
    /// Offset at which it starts.
    pub(super) at: usize,
    pub(super) lines: Lines<'a>,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str) -> Cursor<'a> {
        let mut lexer = Lexer::new(text);
        let (at, token) = lexer.next();
        Cursor { lexer, token, at, lines: Lines::new(text) }
    }

    pub(super) fn advance(&mut self) -> Token<'a> {
        let (at, token) = self.lexer.next();
        self.at = at;
        std::mem::replace(&mut self.token, token)
    }

    pub(super) fn fault_at(&self, offset: usize, code: Code, message: String) -> Diag {
        let (line, column) = self.lines.position(offset);
        Diag::new(code, message).on_line(line, column)
    }

    pub(super) fn expected(&self, what: &str) -> Diag {
        self.fault_at(self.at, Code::SYNTAX, format!("expected {what}, found {}", self.token))
    }

    pub(super) fn eat(&mut self, punct: &str) -> bool {
        let found = matches!(self.token, Token::Punct(p) if p == punct);
        if found {
            self.advance();
        }
        found
    }

    pub(super) fn expect(&mut self, punct: &'static str) -> Parsed<()> {
        if self.eat(punct) { Ok(()) } else { Err(self.expected(&format!("`{punct}`"))) }
    }

    pub(super) fn is_word(&self, word: &str) -> bool {
        matches!(self.token, Token::Word(w) if w == word)
    }

    pub(super) fn expect_word(&mut self, word: &str) -> Parsed<()> {
        if self.is_word(word) {
            self.advance();
            return Ok(());
        }
        Err(self.expected(&format!("`{word}`")))
    }

    /// A name after one of the sigils.
    pub(super) fn name(&mut self, sigil: char, what: &str) -> Parsed<String> {
        match &mut self.token {
            Token::Name(found, name) if *found == sigil => {
                let name = std::mem::take(name);
                self.advance();
                Ok(name)
            }
            _ => Err(self.expected(what)),
        }
    }

    /// A word that `read` understands.
    pub(super) fn word<T>(&mut self, what: &str, read: impl Fn(&str) -> Option<T>) -> Parsed<T> {
        match self.token {
            Token::Word(word) => match read(word) {
                Some(value) => {
                    self.advance();
                    Ok(value)
                }
                None => Err(self.expected(what)),
            },
            _ => Err(self.expected(what)),
        }
    }

    pub(super) fn integer<T: std::str::FromStr>(&mut self) -> Parsed<T> {
        self.word("an integer of the type's width", |w| w.parse().ok())
    }

    pub(super) fn float(&mut self) -> Parsed<f32> {
        self.word("a number that fits f32", read_float)
    }

    /// A number of double precision, infinite ones among them.
    pub(super) fn double(&mut self) -> Parsed<f64> {
        self.word("a number", |w| w.parse().ok())
    }

    pub(super) fn string(&mut self, what: &str) -> Parsed<String> {
        match &mut self.token {
            Token::Str(text) => {
                let text = std::mem::take(text);
                self.advance();
                Ok(text)
            }
            _ => Err(self.expected(what)),
        }
    }
}

/// A float as Rust prints it. A number too large for f32 is refused rather than made infinite.
pub(super) fn read_float(word: &str) -> Option<f32> {
    let value: f32 = word.parse().ok()?;
    let spelled_out = word.trim_start_matches(['+', '-']).starts_with(|c: char| c.is_ascii_digit() || c == '.');
    Some(value).filter(|v| v.is_finite() || !spelled_out)
}
