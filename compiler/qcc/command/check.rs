//! `qcc check`: the certificates of a compiled model, from its file alone: no float instruction, and what its manifest claims.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use qcc::codegen::check::{Claims, Report, SumClaim, Tally, certify, claims};
use qcc::runtime::Seal;
use qcc::{Error, reading};
use serde_json::json;

use super::{Verdict, terminal};

/// Findings that are listed one by one.
const LISTED: usize = 20;

/// Check the certificates of a compiled model: no float instruction, buffers in their places, sums that fit.
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
        let claims = claims(&bytes).map_err(|e| Error::file(&self.file, "check the model", e))?;
        let holds = report.is_float_free() && claims.as_ref().is_none_or(|c| c.faults.is_empty());
        let text =
            if self.json { json(&report, claims.as_ref()) } else { text(&report) + &claims_text(claims.as_ref()) };
        terminal::result(&text)?;
        Ok(if holds { Verdict::Done } else { Verdict::Refuted })
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

/// What is claimed beside it.
fn claims_text(claims: Option<&Claims>) -> String {
    let Some(claims) = claims else { return "no manifest: nothing is claimed of memory and sums\n".into() };
    let mut out = String::new();
    for fault in claims.faults.iter().take(LISTED) {
        let _ = writeln!(out, "refuted: {fault}");
    }
    if !claims.faults.is_empty() {
        return out;
    }
    let _ = writeln!(
        out,
        "{} buffers apart from each other in {} bytes of scratch memory",
        claims.buffers, claims.scratch_bytes
    );
    let any = claims.sums.iter().filter(|l| l.margin_of_any_weights.is_some()).count();
    let least = claims.sums.iter().min_by_key(|l| l.margin);
    if let Some(SumClaim { name, margin: Some(bits), .. }) = least {
        let layers = claims.sums.len();
        let _ = writeln!(
            out,
            "sums of {layers} operations fit 32 bits, of {any} whatever the weights are; the least margin is {bits} bits, at {name}"
        );
    }
    let _ = writeln!(out, "{} requantizations within the domain of their equations", claims.requantizations);
    out
}

/// The claims and what was found of them.
fn claims_json(claims: &Claims) -> serde_json::Value {
    let layer = |l: &SumClaim| {
        json!({
            "name": l.name,
            "terms": l.terms,
            "bounds": [l.bounds.0, l.bounds.1],
            "margin_bits": l.margin,
            "margin_bits_of_any_weights": l.margin_of_any_weights,
        })
    };
    json!({
        "hold": claims.faults.is_empty(),
        "scratch_bytes": claims.scratch_bytes,
        "buffers": claims.buffers,
        "requantizations": claims.requantizations,
        "layers": claims.sums.iter().map(layer).collect::<Vec<_>>(),
        "faults": claims.faults,
    })
}

fn json(report: &Report, claims: Option<&Claims>) -> String {
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
        "self_contained": true,
        "claims": claims.map(claims_json),
    });
    format!("{all}\n")
}
