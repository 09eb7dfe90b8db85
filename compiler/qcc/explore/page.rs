//! The page: its parts, and what it shows as one JSON object.
//!
//! Texts are stored once, and then as what each pass changed in them; the page makes them again. Whatever comes from a model is in the
//! JSON object, which the page shows as text.

use std::collections::BTreeMap;

use qcc_ir::Opcode;
use serde_json::{Value, json};

use super::Explorer;
use crate::record::difference::{Row, difference};
use crate::record::{Line, Recording, Stage};

/// The page with places for the others.
const FRAME: &str = include_str!("page/index.html");

/// How it looks.
const STYLE: &str = include_str!("page/style.css");

/// What it does, in the order in which parts need each other.
const SCRIPTS: [&str; 10] = [
    include_str!("page/vendor/dagre.min.js"),
    include_str!("page/dom.js"),
    include_str!("page/text.js"),
    include_str!("page/model.js"),
    include_str!("page/colours.js"),
    include_str!("page/graph.js"),
    include_str!("page/difference.js"),
    include_str!("page/inspector.js"),
    include_str!("page/tabs.js"),
    include_str!("page/main.js"),
];

/// Longest line of a type, a constant or a row of numbers; of longer ones the middle is left out.
const LONGEST: usize = 240;

/// Longest line of an operation.
const LONGEST_OPERATION: usize = 4000;

/// The page as one HTML file.
pub fn page(explorer: &Explorer) -> String {
    // In a script element a text that looks like an end of it would be one.
    let data = json(explorer).to_string().replace('<', "\\u003c");
    let title = format!("{} - qcc", explorer.file);
    let mut page = String::with_capacity(FRAME.len() + STYLE.len() + data.len() + (1 << 18));
    let mut rest = FRAME;
    while let Some((before, behind)) = rest.split_once("<!--") {
        let (name, after) = behind.split_once("-->").unwrap_or((behind, ""));
        page.push_str(before);
        match name {
            "title" => page.push_str(&escaped(&title)),
            "style" => page.push_str(STYLE),
            "scripts" => SCRIPTS.iter().for_each(|script| {
                page.push_str(script);
                page.push('\n');
            }),
            "data" => page.push_str(&data),
            _ => {}
        }
        rest = after;
    }
    page + rest
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn json(explorer: &Explorer) -> Value {
    let Explorer { file, recording, values, program } = explorer;
    json!({
        "qcc": env!("CARGO_PKG_VERSION"),
        "file": file,
        "stages": stages(recording),
        "operators": operators(recording),
        "values": values,
        "program": program,
    })
}

fn stages(recording: &Recording) -> Vec<Value> {
    let empty: Vec<Line> = Vec::new();
    let texts = std::iter::once(&empty).chain(recording.stages.iter().map(|s| &s.lines));
    recording.stages.iter().zip(texts).map(|(stage, before)| stage_json(stage, before)).collect()
}

fn stage_json(stage: &Stage, before: &[Line]) -> Value {
    json!({
        "pass": stage.pass,
        "title": stage.title,
        "ms": stage.time.as_secs_f64() * 1e3,
        "first": stage.first_edit,
        "edits": stage.edits,
        "remarks": stage.remarks,
        "effect": stage.effect.map(|e| [e.against_model, e.against_previous]),
        "became": stage.became,
        "text": changes(before, &stage.lines),
    })
}

/// A text by the one before it: a number is so many lines that stay, a negative one so many that go, a string a line that comes, and a
/// string in brackets what the next line is now.
fn changes(before: &[Line], after: &[Line]) -> Vec<Value> {
    let mut out: Vec<Value> = Vec::new();
    let mut run: i64 = 0;
    let mut count = |out: &mut Vec<Value>, by: i64| {
        if run != 0 && run.signum() != by.signum() {
            out.push(run.into());
            run = 0;
        }
        run += by;
    };
    for row in difference(before, after) {
        match row {
            Row::Same(..) => count(&mut out, 1),
            Row::Removed(_) => count(&mut out, -1),
            Row::Added(j) => {
                count(&mut out, 0);
                out.push(shown(&after[j]).into());
            }
            Row::Changed(i, j) => {
                let (old, new) = (shown(&before[i]), shown(&after[j]));
                if old == new {
                    count(&mut out, 1);
                } else {
                    count(&mut out, 0);
                    out.push(json!([new]));
                }
            }
        }
    }
    count(&mut out, 0);
    out
}

/// A line as it is shown: of long ones without the middle, in whose place stands a number that tells different ones apart.
fn shown(line: &Line) -> String {
    let longest = if line.key.starts_with('%') { LONGEST_OPERATION } else { LONGEST };
    let text = &line.text;
    if text.len() <= longest {
        return text.clone();
    }
    let boundary = |mut at: usize| {
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let (head, tail) = (boundary(longest * 2 / 3), boundary(text.len() - longest / 6));
    let left_out = &text[head..tail];
    // FNV-1a (Fowler, Noll, Vo).
    let hash = left_out.bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    format!("{} .. {} characters, {hash:08x} .. {}", &text[..head], left_out.len(), &text[tail..])
}

/// What the operators compute that occur.
fn operators(recording: &Recording) -> BTreeMap<&'static str, &'static str> {
    let names = recording.stages.iter().flat_map(|s| s.operations.iter().map(|o| o.operator));
    names.filter_map(|name| Some((name, Opcode::from_name(name)?.info().doc.trim()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_back_from_what_changed() {
        let lines = |text: &str| -> Vec<Line> {
            let line = |l: &str| Line { key: l.split(' ').next().unwrap_or_default().to_string(), text: l.to_string() };
            text.lines().map(line).collect()
        };
        let texts = ["", "a 1\nb 1\nc 1", "a 1\nb 2\nn 1", "n 1\na 1", "n 1\na 1"].map(lines);
        for pair in texts.windows(2) {
            let (mut at, mut found) = (0, Vec::new());
            for change in changes(&pair[0], &pair[1]) {
                match change {
                    Value::Number(n) => {
                        let n = n.as_i64().unwrap();
                        let count = usize::try_from(n.abs()).unwrap();
                        if n > 0 {
                            found.extend(pair[0][at..at + count].iter().map(|l| l.text.clone()));
                        }
                        at += count;
                    }
                    Value::String(text) => found.push(text),
                    Value::Array(text) => {
                        found.push(text[0].as_str().unwrap().to_string());
                        at += 1;
                    }
                    other => panic!("{other}"),
                }
            }
            assert_eq!(found, pair[1].iter().map(|l| l.text.clone()).collect::<Vec<_>>());
            assert_eq!(at, pair[0].len());
        }
    }

    #[test]
    fn what_a_model_says_cannot_end_the_script() {
        let line = Line { key: "%x".to_string(), text: "</script><script>alert(1)</script>".to_string() };
        let stage = Stage {
            pass: "import".to_string(),
            title: "import".to_string(),
            first_edit: 0,
            edits: vec!["<!-- </script>".to_string()],
            remarks: Vec::new(),
            time: std::time::Duration::ZERO,
            effect: None,
            lines: vec![line],
            operations: Vec::new(),
            became: BTreeMap::new(),
        };
        let page = page(&Explorer::new("</title><b>.onnx", Recording { stages: vec![stage] }));
        assert_eq!(page.matches("</script>").count(), FRAME.matches("</script>").count());
        assert!(page.contains("&lt;/title&gt;&lt;b&gt;.onnx") && !page.contains("<!--"));
    }

    #[test]
    fn long_lines_lose_their_middle() {
        let long = |text: String| shown(&Line { key: "@w".to_string(), text });
        let (a, b) = (long("é".repeat(500)), long("é".repeat(501)));
        assert!(a.len() < 300 && a != b, "{a}");
        assert_eq!(long("short".to_string()), "short");
    }
}
