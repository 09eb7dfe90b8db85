//! The life of one value, pass by pass, as text: the model's node, what each pass made of it, and the machine code that does its work.
//!
//! A value is followed by its name. Where a pass took it away, its work is done by its nearest readers that are still there
//! ([`Stage::became`]); what a pass added for the same ONNX node, or named after the value, is followed as long as it is there.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;

use qcc_ir::Opcode;
use qcc_ir::diag::Code;

use crate::Error;
use crate::explore::{Program, Task, Values};
use crate::record::{Recording, Stage};

/// Longest line of the report that is not an operation's.
const LINE: usize = 160;

/// Most values that are followed at a time.
const FOLLOWED: usize = 24;

/// Operators that end in equations (1) to (4) of docs/math.md, with multipliers as an operand.
const REQUANTIZING: [&str; 4] = ["int.qconv2d", "int.qlinear", "int.requant", "int.average_pool"];

/// Names that are offered in place of one that is not known.
const OFFERED: usize = 3;

/// Everything that happened to `what`: the name of an ONNX node, of a value at any stage, or the symbol of a step.
pub fn explain(recording: &Recording, program: Option<&Program>, values: &Values, what: &str) -> Result<String, Error> {
    let start = find(recording, program, what)?;
    let mut out = String::new();
    let Some(first) = recording.stages.first() else { return Ok(out) };
    let mut main = start.clone();
    let mut followed = start;
    let origins: BTreeSet<&str> = first
        .operations
        .iter()
        .filter(|o| followed.contains(&o.result))
        .filter_map(|o| o.origin.as_ref().map(|o| o.name.as_str()))
        .collect();
    for operation in first.operations.iter().filter(|o| followed.contains(&o.result)) {
        let origin = operation.origin.as_ref().map_or(String::new(), |o| format!(" of {o}"));
        let _ = writeln!(out, "%{}{origin}", operation.result);
    }
    let mut before: Option<&Stage> = None;
    for (number, stage) in recording.stages.iter().enumerate() {
        let now = match before {
            None => followed.clone(),
            Some(before) => {
                main = heirs(stage, &main);
                follow(before, stage, (&main, &followed), &origins)
            }
        };
        let text = chapter(before, stage, &followed, &now);
        if !text.is_empty() {
            let _ = write!(out, "\n{number:02} {}{}\n{text}", stage.title, ratios(stage));
        }
        (followed, before) = (now, Some(stage));
    }
    if let (Some(program), Some(last)) = (program, recording.stages.last()) {
        out.push_str(&in_code(program, values, last, &followed));
    }
    Ok(out)
}

/// The values of the first stage that a name stands for.
fn find(recording: &Recording, program: Option<&Program>, what: &str) -> Result<BTreeSet<String>, Error> {
    let unknown = || {
        let names = recording.stages.first().into_iter().flat_map(|s| &s.operations);
        let names = names.flat_map(|o| [o.origin.as_ref().map(|o| o.name.clone()), Some(o.result.clone())]).flatten();
        let known: BTreeSet<String> = names.collect();
        let error = Error::new(Code::FLAGS, format!("the model has neither a node nor a value `{what}`"));
        match near(what, &known).as_slice() {
            [] => error.help("qcc inspect MODEL tells what is in a model, and qcc opt MODEL prints all names"),
            near => error.help(format!("the nearest names are {}", near.join(", "))),
        }
    };
    let step = program.and_then(|p| p.tasks.iter().find(|t| t.symbol == what)).map(|t| t.value.as_str());
    let own = what.trim_start_matches(['%', '@']);
    let names = [Some(what), Some(own), Some(&qcc_onnx::value_name(what)), step].map(|n| n.map(str::to_string));
    let is_meant = |name: &str| names.iter().flatten().any(|n| n == name);
    for stage in &recording.stages {
        let operations: Vec<_> = stage.operations.iter().collect();
        let of_origin = |name: &str| stage.operations.iter().find(|o| o.result == name)?.origin.clone();
        let meant = operations
            .iter()
            .filter(|o| is_meant(&o.result) || o.origin.as_ref().is_some_and(|origin| is_meant(&origin.name)));
        let mut found: BTreeSet<String> = meant.map(|o| o.result.clone()).collect();
        let Some(first) = recording.stages.first().filter(|_| !found.is_empty()) else { continue };
        // What a pass made is explained from the node that it comes from.
        let origins: BTreeSet<String> = found.iter().filter_map(|n| Some(of_origin(n)?.name.clone())).collect();
        let from = first.operations.iter().filter(|o| {
            found.contains(&o.result) || o.origin.as_ref().is_some_and(|origin| origins.contains(&origin.name))
        });
        let sources: BTreeSet<String> = from.map(|o| o.result.clone()).collect();
        if !sources.is_empty() {
            found = sources;
        }
        return Ok(found);
    }
    Err(unknown())
}

/// Known names that have a part of what was asked for in common with it.
fn near(what: &str, known: &BTreeSet<String>) -> Vec<String> {
    let words = |text: &str| -> Vec<String> {
        let parts = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|p| !p.is_empty());
        parts.map(str::to_ascii_lowercase).collect()
    };
    let wanted = words(what);
    let score = |name: &String| words(name).iter().filter(|w| wanted.contains(w)).count();
    let mut scored: Vec<(usize, &String)> = known.iter().map(|n| (score(n), n)).filter(|(s, _)| *s > 0).collect();
    scored.sort_by_key(|&(s, n)| (std::cmp::Reverse(s), n.len(), n.clone()));
    scored.into_iter().take(OFFERED).map(|(_, n)| n.clone()).collect()
}

/// What does the work of some values after a pass.
fn heirs(stage: &Stage, names: &BTreeSet<String>) -> BTreeSet<String> {
    let there = stage.names();
    let mut now: BTreeSet<String> = BTreeSet::new();
    for name in names {
        match stage.became.get(name) {
            Some(heirs) if !there.contains(name.as_str()) => now.extend(heirs.iter().cloned()),
            _ => {
                now.insert(name.clone());
            }
        }
    }
    now
}

/// What does the work of the value after a pass, and what of the others is still there or is new: copies of it for one reader, and
/// parts of its computation.
fn follow(
    before: &Stage,
    stage: &Stage,
    (main, followed): (&BTreeSet<String>, &BTreeSet<String>),
    origins: &BTreeSet<&str>,
) -> BTreeSet<String> {
    let there = stage.names();
    let mut now = main.clone();
    now.extend(followed.iter().filter(|n| there.contains(n.as_str())).cloned());
    let known = before.names();
    for operation in &stage.operations {
        let is_new = !known.contains(operation.result.as_str());
        let is_own = operation.origin.as_ref().is_some_and(|o| origins.contains(o.name.as_str()));
        let is_named_after = followed
            .iter()
            .any(|n| operation.result.strip_prefix(n.as_str()).is_some_and(|rest| rest.starts_with('.')));
        if is_new && (is_own || is_named_after) && now.len() < FOLLOWED {
            now.insert(operation.result.clone());
        }
    }
    now
}

/// What a pass did to the followed values: edits that name one, and lines that differ.
fn chapter(before: Option<&Stage>, stage: &Stage, followed: &BTreeSet<String>, now: &BTreeSet<String>) -> String {
    let mut out = String::new();
    let all: BTreeSet<&String> = followed.union(now).collect();
    for (i, edit) in stage.edits.iter().enumerate().filter(|(_, e)| all.iter().any(|n| mentions(e, n))) {
        let _ = writeln!(out, "   edit #{}: {edit}", stage.first_edit + i);
    }
    for remark in stage.remarks.iter().filter(|r| all.iter().any(|n| mentions(r, n))) {
        let _ = writeln!(out, "   remark: {remark}");
    }
    let empty = HashMap::new();
    let old = before.map_or(empty, |b| definitions(b, followed));
    let new = definitions(stage, now);
    let mut keys: Vec<&String> = old.keys().chain(new.keys().filter(|k| !old.contains_key(*k))).collect();
    keys.sort();
    for key in keys {
        match (old.get(key), new.get(key)) {
            (Some(a), Some(b)) if a == b => {}
            (a, b) => {
                // What was followed already, and is no longer followed, may still be there.
                if let Some(a) = a.filter(|_| b.is_some() || stage.line(key).is_none()) {
                    let _ = writeln!(out, " - {a}");
                }
                if let Some(b) = b {
                    let _ = writeln!(out, " {} {b}", if before.is_some() { '+' } else { ' ' });
                }
            }
        }
    }
    for name in followed.difference(now) {
        let heirs = stage.became.get(name).into_iter().flatten().filter(|h| now.contains(*h));
        let heirs: Vec<String> = heirs.map(|h| format!("%{h}")).collect();
        if !heirs.is_empty() {
            let _ = writeln!(out, "   %{name} is gone: its work is done in {}", heirs.join(", "));
        }
    }
    out
}

/// Lines of the operations of some values, and of the constants that they read.
fn definitions(stage: &Stage, names: &BTreeSet<String>) -> HashMap<String, String> {
    let wanted: BTreeSet<&str> = stage
        .operations
        .iter()
        .filter(|o| names.contains(&o.result))
        .flat_map(|o| o.operands.iter().map(String::as_str).chain([o.result.as_str()]))
        .collect();
    let bare = |key: &str| key.trim_start_matches(['%', '@']).trim_matches('"').to_string();
    let is_wanted = |key: &str| {
        let name = bare(key);
        match key.chars().next() {
            Some('%') => names.contains(&name),
            Some('@') => wanted.contains(name.as_str()),
            _ => false,
        }
    };
    let lines = stage.lines.iter().filter(|l| is_wanted(&l.key));
    lines
        .map(|l| (l.key.clone(), if l.key.starts_with('%') { l.text.trim().to_string() } else { cut(l.text.trim()) }))
        .collect()
}

/// A line without what is too long to be read.
fn cut(text: &str) -> String {
    if text.chars().count() <= LINE {
        return text.to_string();
    }
    let head: String = text.chars().take(LINE).collect();
    format!("{head} ..")
}

/// True if the text has the name of the value as a word.
fn mentions(text: &str, name: &str) -> bool {
    let wanted = format!("%{name}");
    let ends = |rest: &str| {
        let mut next = rest.chars();
        match next.next() {
            None => true,
            Some('.') => next.next().is_none_or(|c| !c.is_ascii_alphanumeric()),
            Some(c) => !(c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '-')),
        }
    };
    text.match_indices(&wanted).any(|(i, found)| ends(&text[i + found.len()..]))
}

fn ratios(stage: &Stage) -> String {
    let text = |ratio: Option<f64>| ratio.map_or("the same".to_string(), |r| format!("{r:.1} dB"));
    stage.effect.map_or(String::new(), |e| {
        format!(
            "  (outputs: {} against the model, {} against the pass before)",
            text(e.against_model),
            text(e.against_previous)
        )
    })
}

/// The steps that compute the values, their memory and the room of their accumulators.
fn in_code(program: &Program, values: &Values, last: &Stage, followed: &BTreeSet<String>) -> String {
    let mut out = String::new();
    let tasks: Vec<&Task> = program.tasks.iter().filter(|t| followed.contains(&t.value)).collect();
    if tasks.is_empty() {
        let there: Vec<String> = followed.iter().map(|n| format!("%{n}")).collect();
        let what = if there.is_empty() {
            "nothing is left of it".to_string()
        } else {
            format!("no step computes {}: it is another view of memory", there.join(", "))
        };
        return format!("\nmachine code for {}\n   {what}\n", program.target);
    }
    let _ = writeln!(out, "\nmachine code for {}", program.target);
    for task in tasks {
        let calls = if task.calls.is_empty() { String::new() } else { format!(", calls {}", task.calls.join(", ")) };
        let _ = writeln!(out, "   {}: {}{calls}", task.symbol, task.kernel);
        if task.macs > 0 {
            let (macs, bytes, bits) = (task.macs, task.weight_bytes, task.weight_bits);
            let _ = writeln!(out, "      {macs} multiply-accumulates, {bytes} bytes of weights of {bits} bits");
        }
    }
    for name in followed {
        if let Some(equation) = equation(values, last, name) {
            let _ = writeln!(out, "   {equation}");
        }
        if let Some(&(lo, hi)) = values.accumulators.get(name) {
            let _ = writeln!(
                out,
                "   accumulators of %{name} lie in [{lo}, {hi}], whatever the input: 32 bits have [-2147483648, 2147483647]"
            );
        }
        if let Some(layer) = values.layers.get(name) {
            let own = layer.sqnr_db.map_or("no noise".to_string(), |db| format!("SQNR {db:.1} dB"));
            let (lo, hi) = layer.float_range;
            let _ = writeln!(
                out,
                "   %{name} on {}: {own}, {:.1} dB lost here; float values in [{lo:.5}, {hi:.5}]",
                values.samples, layer.loss_db
            );
        }
        for b in program.arena.buffers.iter().filter(|b| b.name == *name) {
            let (first, last) = b.life;
            let _ = writeln!(
                out,
                "   %{name} lies in the arena at {}, {} bytes, from step {first} to step {last}",
                b.offset, b.bytes
            );
        }
    }
    out
}

/// How the accumulator of a layer becomes a code: docs/math.md, equations (1) to (4).
fn equation(values: &Values, last: &Stage, name: &str) -> Option<String> {
    let operation = last.operations.iter().find(|o| o.result == name)?;
    let line = last.lines.iter().find(|l| l.key.starts_with('%') && l.key[1..].trim_matches('"') == name)?;
    // Elsewhere, and where products of f32 are repeated exactly, the rounding is another one.
    if !REQUANTIZING.contains(&operation.operator) || line.text.contains("f32_fraction_bits") {
        return None;
    }
    let position = Opcode::from_name(operation.operator)?.info().operands.iter().position(|o| *o == "mult")?;
    let constant = values.constants.get(operation.operands.get(position)?)?;
    let number = |attribute: &str, default: i64| {
        let rest = line.text.split_once(&format!("{attribute} = ")).map(|(_, rest)| rest);
        let digits = rest.and_then(|r| r.split([',', '}', ']']).next());
        digits.and_then(|d| d.trim().parse().ok()).unwrap_or(default)
    };
    let (a, c, lo, hi) = (number("shl", 0), number("offset", 0), number("lo", 0), number("hi", 255));
    let (least, greatest) = (constant.iter().min()?, constant.iter().max()?);
    let multiplier = match least == greatest {
        true => format!("M = {least}"),
        false => format!("M from {least} to {greatest} in {} channels", constant.len()),
    };
    let residual = match number("residual_mult", 0) {
        0 => String::new(),
        r => format!(" + floor(residual * {r} / 2^8)"),
    };
    Some(format!(
        "code = min(max(floor((floor(acc * 2^{a} * M / 2^32){residual} + {c}) / 2^6), {lo}), {hi}), {multiplier}: docs/math.md, (1) to (4)"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_words() {
        assert!(mentions("fold-bn: %bn3 into %conv3", "bn3") && mentions("%conv3", "conv3"));
        assert!(!mentions("%bn30", "bn3") && !mentions("%bn3.nhwc", "bn3") && mentions("of %bn3.", "bn3"));
    }

    #[test]
    fn near_names_share_words() {
        let known: BTreeSet<String> = ["/layer1/conv2/Conv", "/fc/Gemm"].map(str::to_string).into();
        assert_eq!(near("layer1.conv2", &known), ["/layer1/conv2/Conv"]);
        assert!(near("zzz", &known).is_empty());
    }
}
