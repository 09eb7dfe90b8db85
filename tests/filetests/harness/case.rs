//! One test file: its directives, and its expectations as lines that can be replaced by what was found.

use qcc_ir::{Diag, Level};

/// What a `//@` comment asks for.
#[derive(Debug, Clone)]
pub enum Directive {
    Roundtrip,
    Verify(Option<Level>),
    Passes(String),
    Sample(String),
    Precision(String),
    Weights(String),
    Activations(String),
    Run(RunLine),
}

/// The parts of `//@ run before? (inputs) == outputs within tolerance?`.
#[derive(Debug, Clone)]
pub struct RunLine {
    pub before: bool,
    pub inputs: String,
    pub outputs: String,
    pub within: f32,
    pub text: String,
}

pub struct Case {
    pub directives: Vec<Directive>,
    lines: Vec<String>,
}

impl Case {
    /// The directives of a text, or which of them is not understood.
    pub fn new(text: &str) -> Result<Case, String> {
        let lines: Vec<String> = text.lines().map(str::to_string).collect();
        let asked = lines.iter().filter_map(|l| l.trim_start().strip_prefix("//@"));
        let directives = asked.map(|d| directive(d.trim())).collect::<Result<Vec<_>, _>>()?;
        if directives.is_empty() {
            return Err("there is no `//@` line: nothing is tested".to_string());
        }
        Ok(Case { directives, lines })
    }

    /// Replaces all `//~` comments by the faults that were found.
    pub fn set_faults(&mut self, faults: &[Diag]) {
        let header = self.lines.iter().position(|l| l.trim_start().starts_with("graph")).unwrap_or(0);
        for line in &mut self.lines {
            if let Some(at) = line.find("//~") {
                line.truncate(at);
                line.truncate(line.trim_end().len());
            }
        }
        for fault in faults {
            let index = fault.place.line.map_or(header, |(line, _)| line - 1).min(self.lines.len() - 1);
            self.lines[index] += &format!("  //~ error[{}]: {}", fault.code, fault.message);
        }
    }

    /// Replaces all `//=` lines by the lines of `found`, where the first of them was, else at the end.
    pub fn set_expected(&mut self, found: &str) {
        let is_expected = |l: &String| l.trim_start().starts_with("//=");
        let at = self.lines.iter().position(is_expected).unwrap_or(self.lines.len());
        self.lines.retain(|l| !is_expected(l));
        let at = at.min(self.lines.len());
        self.lines.splice(at..at, found.lines().map(|l| format!("//= {l}").trim_end().to_string()));
    }

    /// The whole file.
    pub fn text(&self) -> String {
        self.lines.iter().map(|l| format!("{l}\n")).collect()
    }
}

fn directive(text: &str) -> Result<Directive, String> {
    let unknown = || Err(format!("`//@ {text}` is not understood; see the header of tests/filetests.rs"));
    let (word, rest) = text.split_once([' ', '=']).unwrap_or((text, ""));
    match word {
        "roundtrip" if rest.is_empty() => Ok(Directive::Roundtrip),
        "verify" if rest.is_empty() => Ok(Directive::Verify(None)),
        "verify" => match rest.strip_prefix("level=").and_then(super::level) {
            Some(level) => Ok(Directive::Verify(Some(level))),
            None => unknown(),
        },
        "passes" => match rest.strip_prefix('"').and_then(|r| r.strip_suffix('"')) {
            Some(pipeline) => Ok(Directive::Passes(pipeline.to_string())),
            None => unknown(),
        },
        "sample" => match rest.trim().strip_prefix('(').and_then(|r| r.strip_suffix(')')) {
            Some(inputs) => Ok(Directive::Sample(inputs.to_string())),
            None => unknown(),
        },
        "precision" => Ok(Directive::Precision(rest.trim().to_string())),
        "weights" => Ok(Directive::Weights(rest.trim().to_string())),
        "activations" => Ok(Directive::Activations(rest.trim().to_string())),
        "run" => match run_line(text, rest) {
            Some(line) => Ok(Directive::Run(line)),
            None => unknown(),
        },
        _ => unknown(),
    }
}

fn run_line(text: &str, rest: &str) -> Option<RunLine> {
    let (before, rest) = rest.strip_prefix("before ").map_or((false, rest), |r| (true, r));
    let (inputs, outputs) = rest.split_once("==")?;
    let inputs = inputs.trim().strip_prefix('(')?.strip_suffix(')')?.to_string();
    let (outputs, within) = outputs.split_once(" within ").unwrap_or((outputs, "0"));
    let (outputs, within) = (outputs.trim().to_string(), within.trim().parse().ok()?);
    Some(RunLine { before, inputs, outputs, within, text: text.to_string() })
}

/// The text without comments, and without lines that hold nothing else.
pub fn without_comments(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let (mut quoted, mut escaped, mut end) = (false, false, line.len());
        for (i, c) in line.char_indices() {
            if !quoted && line[i..].starts_with("//") {
                end = i;
                break;
            }
            quoted ^= c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
        }
        let line = line[..end].trim_end();
        if !line.is_empty() {
            out += line;
            out += "\n";
        }
    }
    out
}
