//! `qcc check`: the certificate that a compiled model contains no float instruction.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use qcc::codegen::check::{Report, Tally, certify};
use qcc::runtime::Seal;
use qcc::{Error, reading};
use serde_json::json;

use super::{Verdict, terminal};

/// Findings that are listed one by one.
const LISTED: usize = 20;

/// Count the float instructions of a compiled model.
#[derive(Args)]
pub struct Check {
    /// Compiled model
    file: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Check {
    /// Does it.
    pub fn execute(&self) -> Result<Verdict, Error> {
        let bytes = reading::read(&self.file, "read the model", reading::MODEL)?;
        // An object file has no seal: a linker makes another file of it.
        if bytes.get(16).is_some_and(|&kind| kind == 3) {
            Seal::check(&bytes).map_err(|e| Error::file(&self.file, "check the model", e))?;
        }
        let report = certify(&bytes).map_err(|e| Error::file(&self.file, "check the model", e))?;
        terminal::result(&if self.json { json(&report) } else { text(&report) })?;
        Ok(if report.is_float_free() { Verdict::Done } else { Verdict::Refuted })
    }
}

fn text(report: &Report) -> String {
    let (integer, edge) = (&report.integer, &report.float_interface);
    let mut out = String::new();
    let sections = |t: &Tally| t.sections.join(", ");
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "{} float instructions in the integer part ({} instructions in {}, {})",
        integer.float,
        integer.instructions,
        sections(integer),
        report.machine
    );
    for finding in integer.findings.iter().take(LISTED) {
        let _ = writeln!(out, "  {finding}");
    }
    if integer.findings.len() > LISTED {
        let _ = writeln!(out, "  and {} more", integer.findings.len() - LISTED);
    }
    if edge.instructions > 0 {
        let _ = writeln!(
            out,
            "{} float instructions in the float interface ({} instructions in {}), which is apart",
            edge.float,
            edge.instructions,
            sections(edge)
        );
    }
    out
}

fn json(report: &Report) -> String {
    let tally = |t: &Tally| {
        json!({
            "sections": t.sections,
            "instructions": t.instructions,
            "neutral_instructions": t.neutral,
            "float_instructions": t.float,
        })
    };
    let findings: Vec<String> = report.integer.findings.iter().map(ToString::to_string).collect();
    let all = json!({
        "float_instructions": report.integer.float,
        "float_free": report.is_float_free(),
        "machine": report.machine,
        "integer": tally(&report.integer),
        "edge": tally(&report.float_interface),
        "findings": findings,
    });
    format!("{all}\n")
}
