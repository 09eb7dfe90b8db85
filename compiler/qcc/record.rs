//! What every pass made of a graph, for those who look at it afterwards: the text, the edits, the operations that there were, and
//! where the work of a value is done that is gone.

pub mod difference;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use qcc_ir::print::{INLINE, Large, Options as PrintOptions, print_with};
use qcc_ir::{Graph, Origin};

use crate::{Effect, Event};

/// Most values that take over the work of one that is gone.
const HEIRS: usize = 4;

/// All stages of a compilation: the model as it was read, then every pass.
#[derive(Debug, Clone, Default)]
pub struct Recording {
    /// In order.
    pub stages: Vec<Stage>,
}

/// What one pass made of the graph.
#[derive(Debug, Clone)]
pub struct Stage {
    /// Name of the pass, or `import`.
    pub pass: String,
    /// The same with its options.
    pub title: String,
    /// Number of the first edit, and a label for each.
    pub first_edit: usize,
    /// What was changed.
    pub edits: Vec<String>,
    /// What was not done and why.
    pub remarks: Vec<String>,
    /// How long it took.
    pub time: Duration,
    /// What it did to the outputs, if that was measured.
    pub effect: Option<Effect>,
    /// The graph as text; large constants are named by their contents.
    pub lines: Vec<Line>,
    /// The operations, in order.
    pub operations: Vec<Operation>,
    /// Values that the stage before had and this one has not, each with those that do its work: its nearest readers that are still
    /// there. None where nothing depended on it any more.
    pub became: BTreeMap<String, Vec<String>>,
}

/// A line of a graph's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// What the line defines, with its sigil; no two lines of a graph define the same.
    pub key: String,
    /// The line.
    pub text: String,
}

/// An operation, by names.
#[derive(Debug, Clone)]
pub struct Operation {
    /// Name of its result.
    pub result: String,
    /// Name of the operator.
    pub operator: &'static str,
    /// Names of its operands, constants among them.
    pub operands: Vec<String>,
    /// The ONNX node that it comes from.
    pub origin: Option<Arc<Origin>>,
}

/// The text of a graph as dumps have it: large constants are given to `side` with a name that follows from their contents.
pub(crate) fn text_of(graph: &Graph, side: &mut dyn FnMut(&str, &[u8]) -> io::Result<()>) -> io::Result<String> {
    print_with(graph, PrintOptions { inline: INLINE, large: Large::File(side) })
}

impl Recording {
    /// Takes a stage down.
    pub fn observe(&mut self, event: &Event) {
        let graph = match event {
            Event::Imported { graph, .. } => graph,
            Event::Pass { step, .. } => step.graph,
        };
        // Nothing is written, so that nothing can fail.
        let text = text_of(graph, &mut |_, _| Ok(())).unwrap_or_default();
        self.observe_text(event, &text);
    }

    /// The same with the text that [`text_of`] made.
    pub(crate) fn observe_text(&mut self, event: &Event, text: &str) {
        let lines = text.lines().map(|l| Line { key: key_of(l).to_string(), text: l.to_string() }).collect();
        let mut stage = match event {
            Event::Imported { graph, time } => Stage {
                pass: "import".to_string(),
                title: "import".to_string(),
                first_edit: 0,
                edits: Vec::new(),
                remarks: Vec::new(),
                time: *time,
                effect: None,
                lines,
                operations: operations(graph),
                became: BTreeMap::new(),
            },
            Event::Pass { step, effect } => Stage {
                pass: step.info.name.to_string(),
                title: step.text.clone(),
                first_edit: step.first_edit,
                edits: step.labels.to_vec(),
                remarks: step.remarks.to_vec(),
                time: step.time,
                effect: *effect,
                lines,
                operations: operations(step.graph),
                became: BTreeMap::new(),
            },
        };
        if let Some(before) = self.stages.last() {
            stage.became = became(before, &stage);
        }
        self.stages.push(stage);
    }
}

impl Stage {
    /// Names of all values that are computed or read.
    pub fn names(&self) -> HashSet<&str> {
        let own = self.operations.iter().map(|o| o.result.as_str());
        own.chain(self.operations.iter().flat_map(|o| o.operands.iter().map(String::as_str))).collect()
    }

    /// The line that defines something, with its sigil.
    pub fn line(&self, key: &str) -> Option<&str> {
        self.lines.iter().find(|l| l.key == key).map(|l| l.text.as_str())
    }
}

fn operations(graph: &Graph) -> Vec<Operation> {
    let name = |v| graph.name_of(v).to_string();
    let operation = |n| Operation {
        result: name(graph.result(n)),
        operator: graph.op(n).name(),
        operands: graph.operands(n).into_iter().map(name).collect(),
        origin: graph.node(n).origin.clone(),
    };
    graph.order().into_iter().map(operation).collect()
}

/// What a line defines: its first word, behind `const` and with the kind of a `meta` row.
fn key_of(line: &str) -> &str {
    let line = line.trim_start();
    let start = if line.starts_with("const ") { "const ".len() } else { 0 };
    let end = match line.strip_prefix("meta ") {
        Some(rest) => {
            let kind = rest.find(' ').map_or(rest.len(), |i| i + 1);
            "meta ".len() + kind + word(&rest[kind..])
        }
        None => start + word(&line[start..]),
    };
    &line[start..end]
}

/// Length of a name with its sigil: to the end of its quotes, or to the next blank or bracket.
fn word(text: &str) -> usize {
    let quoted = text.char_indices().nth(1).is_some_and(|(_, c)| c == '"');
    let (mut escaped, mut quotes) = (false, 0);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' if quoted => {
                quotes += 1;
                if quotes == 2 {
                    return i + 1;
                }
            }
            ' ' | '(' | ':' | ',' if !quoted => return i,
            _ => {}
        }
    }
    text.len()
}

/// For each value that is gone, the nearest readers that are still there.
fn became(before: &Stage, after: &Stage) -> BTreeMap<String, Vec<String>> {
    let left = after.names();
    let mut readers: HashMap<&str, Vec<&str>> = HashMap::new();
    for operation in &before.operations {
        for operand in &operation.operands {
            readers.entry(operand).or_default().push(&operation.result);
        }
    }
    let mut heirs: HashMap<&str, Vec<String>> = HashMap::new();
    // Readers come behind what they read.
    for operation in before.operations.iter().rev().filter(|o| !left.contains(o.result.as_str())) {
        let mut own: Vec<String> = Vec::new();
        for &reader in readers.get(operation.result.as_str()).into_iter().flatten() {
            let found = if left.contains(reader) { vec![reader.to_string()] } else { heirs[reader].clone() };
            for heir in found {
                if own.len() < HEIRS && !own.contains(&heir) {
                    own.push(heir);
                }
            }
        }
        heirs.insert(&operation.result, own);
    }
    heirs.into_iter().map(|(name, own)| (name.to_string(), own)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_known_by_what_they_define() {
        for (line, key) in [
            ("!q.conv = !quant.uniform<i8:f32:0, {0.1}>", "!q.conv"),
            ("meta seen %conv1 = [-1.5, 2.25]", "meta seen %conv1"),
            ("graph @net(%x: tensor<1xf32>) -> (tensor<1xf32>) {", "graph"),
            ("  const @w : tensor<1xf32> = dense<[1.0]>", "@w"),
            ("  %y = nn.relu(%x) : tensor<1xf32> loc(\"a = b\" Relu 17)", "%y"),
            ("  %\"a \\\" = b\" = nn.relu(%x) : tensor<1xf32>", "%\"a \\\" = b\""),
            ("  return %y", "return"),
            ("}", "}"),
            ("", ""),
        ] {
            assert_eq!(key_of(line), key, "{line}");
        }
    }

    #[test]
    fn the_work_of_what_is_gone_is_done_by_its_readers() {
        let stage = |operations: &[(&str, &[&str])]| Stage {
            pass: String::new(),
            title: String::new(),
            first_edit: 0,
            edits: Vec::new(),
            remarks: Vec::new(),
            time: Duration::ZERO,
            effect: None,
            lines: Vec::new(),
            operations: operations
                .iter()
                .map(|(result, operands)| Operation {
                    result: (*result).to_string(),
                    operator: "nn.relu",
                    operands: operands.iter().map(|o| (*o).to_string()).collect(),
                    origin: None,
                })
                .collect(),
            became: BTreeMap::new(),
        };
        let before = stage(&[("conv", &["x", "w"]), ("bn", &["conv"]), ("relu", &["bn"]), ("unread", &["bn"])]);
        let after = stage(&[("relu", &["x", "w"])]);
        let found = became(&before, &after);
        assert_eq!(found["conv"], ["relu"]);
        assert_eq!(found["bn"], ["relu"]);
        assert!(found["unread"].is_empty() && !found.contains_key("relu") && !found.contains_key("x"));
    }
}
