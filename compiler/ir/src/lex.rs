//! Tokens of the textual form. Lexing never fails by itself: what is no token is [`Token::Unknown`], which the parser
//! reports as found instead of what it expected.

use std::fmt;

use crate::name::{Name, is_name_char};

/// A token; texts are slices of the source.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Token<'a> {
    /// `%x`, `@w`, `!q`: sigil and name, unquoted and unescaped.
    Name(char, String),
    /// A word, number, or extents such as `1x3xf32`: letters, digits and `_ . $ + -`.
    Word(&'a str),
    /// A quoted string, unescaped.
    Str(String),
    /// `(`, `->` and the like.
    Punct(&'static str),
    /// The end of the text.
    End,
    /// Anything else, with what it looks like.
    Unknown(&'static str),
}

impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Token::Name(sigil, name) => write!(f, "`{sigil}{}`", Name(&shortened(name))),
            Token::Word(word) => write!(f, "`{}`", shortened(word)),
            Token::Str(text) => write!(f, "{:?}", shortened(text)),
            Token::Punct(p) => write!(f, "`{p}`"),
            Token::End => f.write_str("the end of the text"),
            Token::Unknown(what) => f.write_str(what),
        }
    }
}

/// A hostile text must not come back whole in a message.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_string(),
    }
}

/// Punctuation; `->` and `...` before their prefixes.
const PUNCTS: [&str; 14] = ["->", "...", "(", ")", "{", "}", "[", "]", "<", ">", "=", ":", ",", "!"];

/// A cursor over a text.
#[derive(Debug, Clone)]
pub(crate) struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(text: &'a str) -> Lexer<'a> {
        Lexer { text, at: 0 }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// The next token and the offset at which it starts.
    pub(crate) fn next(&mut self) -> (usize, Token<'a>) {
        self.skip_blank();
        let start = self.at;
        (start, self.token())
    }

    /// Skips white space and comments.
    fn skip_blank(&mut self) {
        loop {
            let rest = self.rest();
            let solid = rest.trim_start();
            self.at += rest.len() - solid.len();
            if !solid.starts_with("//") {
                return;
            }
            self.at += solid.find('\n').unwrap_or(solid.len());
        }
    }

    fn token(&mut self) -> Token<'a> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return Token::End };
        // `->` is punctuation although `-` begins a number.
        if let Some(&punct) = PUNCTS.iter().find(|p| rest.starts_with(**p))
            && punct != "!"
        {
            self.at += punct.len();
            return Token::Punct(punct);
        }
        match first {
            '"' => self.string(),
            '%' | '@' | '!' => {
                self.at += 1;
                if self.rest().starts_with('"') {
                    return match self.string() {
                        Token::Str(name) => Token::Name(first, name),
                        other => other,
                    };
                }
                match self.take(is_name_char) {
                    "" => Token::Unknown("a sigil without a name"),
                    name => Token::Name(first, name.to_string()),
                }
            }
            c if is_name_char(c) || c == '+' => Token::Word(self.take(|c| is_name_char(c) || c == '+')),
            c => {
                self.at += c.len_utf8();
                Token::Unknown("a character that begins nothing")
            }
        }
    }

    fn take(&mut self, accepts: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c| !accepts(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    /// A string from its opening quote on; it ends on its line.
    fn string(&mut self) -> Token<'a> {
        let mut text = String::new();
        self.at += 1;
        loop {
            let mut chars = self.rest().chars();
            let c = chars.next();
            self.at += c.map_or(0, char::len_utf8);
            match c {
                Some('"') => return Token::Str(text),
                Some('\\') => match chars.next() {
                    Some(c @ ('"' | '\\')) => {
                        self.at += 1;
                        text.push(c);
                    }
                    Some('u') => match self.unicode_escape() {
                        Some(c) => text.push(c),
                        None => return Token::Unknown("a string with an invalid escape"),
                    },
                    _ => return Token::Unknown("a string with an invalid escape"),
                },
                None | Some('\n') => return Token::Unknown("a string without an end"),
                Some(c) => text.push(c),
            }
        }
    }

    /// `u{7f}`, up to six hexadecimal digits.
    fn unicode_escape(&mut self) -> Option<char> {
        let body = self.rest().strip_prefix("u{")?;
        let end = body.bytes().take(7).position(|b| b == b'}')?;
        let c = u32::from_str_radix(&body[..end], 16).ok().and_then(char::from_u32)?;
        self.at += 2 + end + 1;
        Some(c)
    }
}

/// Where the lines of a text begin.
#[derive(Debug)]
pub(crate) struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub(crate) fn new(text: &'a str) -> Lines<'a> {
        Lines { text, starts: std::iter::once(0).chain(text.match_indices('\n').map(|(i, _)| i + 1)).collect() }
    }

    /// Line of an offset, from 1.
    pub(crate) fn line(&self, offset: usize) -> usize {
        self.starts.partition_point(|&s| s <= offset)
    }

    /// Line and column of an offset, from 1; columns count characters.
    pub(crate) fn position(&self, offset: usize) -> (usize, usize) {
        let line = self.line(offset);
        let before = self.text.get(self.starts[line - 1]..offset).unwrap_or_default();
        (line, before.chars().count() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Vec<String> {
        let mut lexer = Lexer::new(text);
        let next = || Some(lexer.next().1).filter(|t| *t != Token::End);
        std::iter::from_fn(next).map(|t| t.to_string()).collect()
    }

    #[test]
    fn tokens_of_a_line() {
        let found = tokens("%a.b-1 = nn.relu(@\"x y\") {k = -1e-5}: tensor<1x3x!q.w> -> // rest");
        let wanted =
            ["`%a.b-1`", "`=`", "`nn.relu`", "`(`", "`@\"x y\"`", "`)`", "`{`", "`k`", "`=`", "`-1e-5`", "`}`"];
        assert_eq!(found[..11], wanted);
        assert_eq!(found[11..], ["`:`", "`tensor`", "`<`", "`1x3x`", "`!q.w`", "`>`", "`->`"]);
    }

    #[test]
    fn strings_end_and_escape() {
        assert_eq!(Lexer::new(r#""a\"\\\u{a}é""#).next().1, Token::Str("a\"\\\né".to_string()));
        for bad in [r#""a"#, "\"a\nb\"", r#""\q""#, r#""\u{110000}""#, r#""\u{1234567}""#, r#""\u{é}""#, r#""\"#] {
            assert!(matches!(Lexer::new(bad).next().1, Token::Unknown(_)), "{bad}");
        }
        assert_eq!(tokens("% #"), ["a sigil without a name", "a character that begins nothing"]);
    }

    #[test]
    fn positions_count_lines_and_characters() {
        assert_eq!(Lines::new("ab\ncé d").position(6), (2, 3));
        assert_eq!(Lines::new("a\n").position(2), (2, 1));
        assert_eq!(Lines::new("").position(0), (1, 1));
    }
}
