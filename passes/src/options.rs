//! Options of a pass: a schema in the pass's row, and checked values.

use std::fmt;

/// Schema of one option.
#[derive(Debug, Clone, Copy)]
pub struct OptionInfo {
    /// Spelling.
    pub name: &'static str,
    /// Value when not given; empty for none.
    pub default: &'static str,
    /// What it means.
    pub doc: &'static str,
    /// What values are allowed.
    pub kind: OptionKind,
}

/// The option of passes that may round once where the graph rounds twice.
pub const EXACT: &[OptionInfo] = &[OptionInfo {
    name: "exact",
    default: "no",
    doc: "whether every rounding and saturation of the graph is kept, as a model that was quantized elsewhere wants it",
    kind: OptionKind::Word(&["no", "yes"]),
}];

/// What values an option takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum OptionKind {
    /// One of these words.
    Word(&'static [&'static str]),
    /// A number in this closed interval.
    Number(f64, f64),
}

/// Values of a pass's options, in the order of the schema.
#[derive(Debug, Clone)]
pub struct Options {
    schema: &'static [OptionInfo],
    values: Vec<Option<String>>,
}

impl Options {
    /// Nothing given.
    pub fn defaults(schema: &'static [OptionInfo]) -> Options {
        Options { schema, values: vec![None; schema.len()] }
    }

    /// Sets one option, or says why it cannot be set.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let Some(i) = self.schema.iter().position(|s| s.name == name) else {
            let known: Vec<_> = self.schema.iter().map(|s| s.name).collect();
            return Err(match known.as_slice() {
                [] => format!("there is no option `{name}`; there are none"),
                known => format!("there is no option `{name}`; there are {}", known.join(", ")),
            });
        };
        match self.schema[i].kind {
            OptionKind::Word(words) if !words.contains(&value) => {
                return Err(format!("`{name}` is one of {}, not `{value}`", words.join(", ")));
            }
            OptionKind::Number(lo, hi) if !value.parse::<f64>().is_ok_and(|x| (lo..=hi).contains(&x)) => {
                return Err(format!("`{name}` is a number from {lo} to {hi}, not `{value}`"));
            }
            OptionKind::Word(_) | OptionKind::Number(..) => {}
        }
        self.values[i] = Some(value.to_string());
        Ok(())
    }

    /// The value as given, or the default; `None` if there is neither.
    pub fn get(&self, name: &str) -> Option<&str> {
        let i = self.schema.iter().position(|s| s.name == name)?;
        self.values[i].as_deref().or(Some(self.schema[i].default)).filter(|v| !v.is_empty())
    }

    /// Whether [`EXACT`] is set.
    pub fn exact(&self) -> bool {
        self.get("exact") == Some("yes")
    }

    /// The value as a number.
    pub fn number(&self, name: &str) -> Option<f64> {
        self.get(name)?.parse().ok()
    }
}

/// `{key=value key=value}` of what was given; nothing if nothing was.
impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let given: Vec<_> =
            self.schema.iter().zip(&self.values).filter_map(|(s, v)| Some((s.name, v.as_ref()?))).collect();
        if given.is_empty() {
            return Ok(());
        }
        let texts: Vec<_> = given.iter().map(|(name, value)| format!("{name}={value}")).collect();
        write!(f, "{{{}}}", texts.join(" "))
    }
}
