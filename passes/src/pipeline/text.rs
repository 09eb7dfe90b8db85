//! Pipelines from text and to text.
//!
//! ```text
//! pipeline ::= item (',' item)*
//! item     ::= name ('{' key '=' value (' ' key '=' value)* '}')? | 'fixpoint' '(' pipeline ')' | preset
//! ```
//!
//! A preset's name, `-O2`, stands for its passes, alone or between others.

use std::fmt;

use qcc_ir::Diag;
use qcc_ir::diag::Code;

use super::{Item, Pipeline, preset};
use crate::{Options, PassInfo};

impl Pipeline {
    /// Parses a pipeline.
    pub fn parse(text: &str) -> Result<Pipeline, Diag> {
        Pipeline::parse_with(text, &[])
    }

    /// Parses a pipeline that may also name passes which are no rows of [`crate::PASSES`]. Where both have a name, it means the row.
    pub fn parse_with(text: &str, own: &'static [PassInfo]) -> Result<Pipeline, Diag> {
        let mut parser = Parser { text, at: 0, own };
        let items = parser.items()?;
        match parser.peek() {
            None => Ok(Pipeline { items }),
            Some(c) => Err(parser.error(format!("expected `,` or the end, found `{c}`"))),
        }
    }
}

/// Recursive descent over the grammar in the header.
struct Parser<'t> {
    text: &'t str,
    at: usize,
    own: &'static [PassInfo],
}

impl Parser<'_> {
    fn error(&self, message: String) -> Diag {
        let column = self.text.get(..self.at).map_or(1, |s| s.chars().count() + 1);
        Diag::new(Code::PIPELINE, message).on_line(1, column)
    }

    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&mut self) -> Option<char> {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
        self.rest().chars().next()
    }

    fn eat(&mut self, c: char) -> bool {
        let found = self.peek() == Some(c);
        if found {
            self.at += c.len_utf8();
        }
        found
    }

    fn expect(&mut self, c: char) -> Result<(), Diag> {
        match self.peek() {
            Some(f) if f == c => {
                self.at += c.len_utf8();
                Ok(())
            }
            Some(f) => Err(self.error(format!("expected `{c}`, found `{f}`"))),
            None => Err(self.error(format!("expected `{c}`, found the end"))),
        }
    }

    fn word(&mut self, what: &str) -> Result<String, Diag> {
        self.peek();
        let is_word = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
        let word: String = self.rest().chars().take_while(|&c| is_word(c)).collect();
        if word.is_empty() {
            let found = self.peek().map_or("the end".to_string(), |c| format!("`{c}`"));
            return Err(self.error(format!("expected {what}, found {found}")));
        }
        self.at += word.len();
        Ok(word)
    }

    fn items(&mut self) -> Result<Vec<Item>, Diag> {
        let mut items = self.item()?;
        while self.eat(',') {
            items.extend(self.item()?);
        }
        Ok(items)
    }

    fn item(&mut self) -> Result<Vec<Item>, Diag> {
        self.peek();
        let start = self.at;
        let name = self.word("the name of a pass")?;
        if name == "fixpoint" {
            self.expect('(')?;
            let items = self.items()?;
            self.expect(')')?;
            return Ok(vec![Item::Fixpoint(items)]);
        }
        if let Some(text) = preset(&name) {
            return Parser { text, at: 0, own: self.own }.items();
        }
        let Some(info) = PassInfo::find(&name).or_else(|| self.own.iter().find(|p| p.name == name)) else {
            self.at = start;
            let known: Vec<_> = crate::PASSES.iter().chain(self.own).map(|p| p.name).collect();
            return Err(self
                .error(format!("there is no pass `{name}`"))
                .help(format!("passes are {}", known.join(", "))));
        };
        let mut options = Options::defaults(info.options);
        if self.eat('{') {
            while !self.eat('}') {
                let start = self.at;
                let key = self.word("an option")?;
                self.expect('=')?;
                let value = self.word("a value")?;
                options.set(&key, &value).map_err(|m| Parser { text: self.text, at: start, own: &[] }.error(m))?;
            }
        }
        Ok(vec![Item::Pass(info, options)])
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Item::Pass(info, options) => write!(f, "{}{options}", info.name),
            Item::Fixpoint(items) => write!(f, "fixpoint({})", Items(items)),
        }
    }
}

impl fmt::Debug for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

struct Items<'a>(&'a [Item]);

impl fmt::Display for Items<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, item) in self.0.iter().enumerate() {
            write!(f, "{}{item}", if i > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Display for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Items(&self.items).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::{PRESETS, Preset};

    #[test]
    fn pipelines_round_trip() {
        for text in ["canonicalize", "calibrate{method=mse}, fixpoint(fold-constants, canonicalize), fold-bn"] {
            assert_eq!(Pipeline::parse(text).unwrap().to_string(), text);
        }
        for Preset { name, text, .. } in PRESETS {
            assert_eq!(Pipeline::parse(name).unwrap().to_string(), *text);
        }
        let around = Pipeline::parse("canonicalize, -dynamic, fixpoint(-O0)").unwrap().to_string();
        let text = |name| preset(name).unwrap();
        assert_eq!(around, format!("canonicalize, {}, fixpoint({})", text("-dynamic"), text("-O0")));
        let spaced = Pipeline::parse(" calibrate { method = kl } ,fold-bn").unwrap();
        assert_eq!(spaced.to_string(), "calibrate{method=kl}, fold-bn");
    }

    /// A pass that is no row of the table.
    struct Nothing;

    impl crate::Pass for Nothing {
        fn run(&self, _: &mut qcc_ir::Edit, _: &mut crate::Context) -> Result<(), qcc_ir::Diags> {
            Ok(())
        }
    }

    #[test]
    fn passes_of_the_hosts_own_are_found_by_name() {
        static OWN: &[PassInfo] = &[PassInfo {
            name: "nothing",
            phase: crate::Phase::Float,
            summary: "changes nothing",
            options: &[],
            requires: &[],
            ensures: &[],
            breaks: &[],
            make: |_| Box::new(Nothing),
        }];
        assert_eq!(Pipeline::parse_with("nothing, fold-bn", OWN).unwrap().to_string(), "nothing, fold-bn");
        let unknown = Pipeline::parse_with("something", OWN).unwrap_err();
        assert!(unknown.help.is_some_and(|h| h.ends_with("nothing")));
        assert!(Pipeline::parse("nothing").is_err());
    }

    #[test]
    fn faults_are_named_with_their_column() {
        for (text, column, message) in [
            ("fold-bn, fold-nb", 10, "there is no pass `fold-nb`"),
            ("calibrate{method=max}", 11, "`method` is one of"),
            ("fixpoint(fold-bn", 17, "expected `)`, found the end"),
            ("fold-bn fold-bn", 9, "expected `,` or the end"),
            ("", 1, "expected the name of a pass"),
            ("fold-bn{x=1}", 9, "there is no option `x`"),
        ] {
            let e = Pipeline::parse(text).unwrap_err();
            assert!(e.message.starts_with(message), "{text}: {e}");
            assert_eq!(e.place.line, Some((1, column)), "{text}: {e}");
        }
    }
}
