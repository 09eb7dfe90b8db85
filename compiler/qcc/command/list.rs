//! `qcc list-*`: the tables that the compiler itself works by.

use std::fmt::Write as _;

use qcc::Error;
use qcc::data::Preprocess;
use qcc::ir::ops::OPS;
use qcc::passes::{PASSES, PRESETS};

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
    terminal::result(&out)
}

/// Every pass: phase, meaning, options.
pub fn passes() -> Result<(), Error> {
    let mut out = String::new();
    for pass in PASSES {
        let _ = writeln!(out, "{:<20}{:<7}{}", pass.name, pass.phase.name(), pass.summary);
        for option in pass.options {
            let default = if option.default.is_empty() { String::new() } else { format!(" [{}]", option.default) };
            let _ = writeln!(out, "    {}={default}  {}", option.name, option.doc);
        }
    }
    terminal::result(&out)
}

/// Every pipeline that has a name, with the passes that it consists of, and the presets of images.
pub fn presets() -> Result<(), Error> {
    let mut out = "--passes\n".to_string();
    for preset in PRESETS {
        let _ = writeln!(out, "    {:<14}{}", preset.name, preset.summary);
        for pass in preset.text.split(", ") {
            let _ = writeln!(out, "        {pass}");
        }
    }
    out += "--preset\n";
    for (name, text) in Preprocess::PRESETS {
        let _ = writeln!(out, "    {name:<14}{text}");
    }
    terminal::result(&out)
}

/// Every environment variable.
pub fn knobs() -> Result<(), Error> {
    let rows: String = KNOBS.iter().map(|(name, text)| format!("{name:<12}{text}\n")).collect();
    terminal::result(&rows)
}
