//! `qcc list-*`: the tables that the compiler itself works by.

use std::fmt::Write as _;

use qcc::Error;
use qcc::ir::ops::OPS;
use qcc::passes::PASSES;

use super::terminal;

/// Environment variables.
const KNOBS: &[(&str, &str)] = &[
    ("NO_COLOR", "if set, nothing is coloured"),
    ("QCC_LOG", "writes what the compiler does to stderr: error, warn, info, debug or trace"),
];

/// Every operator: operands, attributes, meaning.
pub fn operators() -> Result<(), Error> {
    let mut out = String::new();
    for op in OPS {
        let attributes: Vec<_> = op.attrs.iter().map(|a| a.name).collect();
        let braces = if attributes.is_empty() { String::new() } else { format!(" {{{}}}", attributes.join(", ")) };
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{}({}){braces}", op.name, op.operands.join(", "));
        for line in op.doc.lines() {
            let _ = writeln!(out, "    {}", line.trim());
        }
    }
    terminal::result(&out);
    Ok(())
}

/// Every pass: phase, meaning, options; and the pipelines that have names.
pub fn passes() -> Result<(), Error> {
    let mut out = String::new();
    for pass in PASSES {
        let _ = writeln!(out, "{:<20}{:<7}{}", pass.name, pass.phase.name(), pass.summary);
        for option in pass.options {
            let default = if option.default.is_empty() { String::new() } else { format!(" [{}]", option.default) };
            let _ = writeln!(out, "    {}={default}  {}", option.name, option.doc);
        }
    }
    for name in ["-O0", "-O1", "-O2"] {
        if let Some(text) = qcc::passes::preset(name) {
            let _ = writeln!(out, "\n{name}\n    {text}");
        }
    }
    terminal::result(&out);
    Ok(())
}

/// Every environment variable.
pub fn knobs() -> Result<(), Error> {
    let rows: String = KNOBS.iter().map(|(name, text)| format!("{name:<12}{text}\n")).collect();
    terminal::result(&rows);
    Ok(())
}
