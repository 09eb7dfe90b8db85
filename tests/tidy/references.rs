//! Pages that are made from tables.

use std::fmt::Write as _;

use qcc_ir::Opcode;
use qcc_ir::attrs::{AttrKind, AttrSchema};
use qcc_ir::diag::{CODES, Fault};
use qcc_ir::ops::OPS;
use qcc_passes::options::OptionKind;
use qcc_passes::{PASSES, PRESETS, Property};

/// How each page begins.
const NOTE: &str = "<!-- Made from a table by tests/tidy.rs: QCC_BLESS=1 cargo test --test tidy references -->\n";

/// Folders of `passes/src` in which passes are.
const PASS_FOLDERS: [&str; 5] = ["float", "ranges", "fit", "quant", "int"];

/// Every page with its text; `read` gives the contents of a file of the tree, `exists` tells whether there is one.
pub fn pages(read: &dyn Fn(&str) -> String, exists: &dyn Fn(&str) -> bool) -> [(&'static str, String); 4] {
    [
        ("docs/operators.md", operators()),
        ("docs/passes.md", passes(read, exists)),
        ("docs/diagnostics.md", diagnostics()),
        ("docs/semantics.md", super::semantics::page(NOTE, read)),
    ]
}

/// Text that may stand in the cell of a table.
pub fn cell(text: &str) -> String {
    text.trim().replace('|', "\\|").replace('\n', " ")
}

pub fn attribute(schema: &AttrSchema) -> String {
    match schema.default {
        Some(default) => format!("`{} = {}`", schema.name, value(&default.to_attr())),
        None => {
            let kind = match schema.kind {
                AttrKind::Int => "integer",
                AttrKind::Ints => "integers",
                AttrKind::Float => "float",
                AttrKind::Bool => "boolean",
                AttrKind::Format => "format",
                AttrKind::Function => "function",
            };
            format!("`{}`: {kind}", schema.name)
        }
    }
}

fn value(attr: &qcc_ir::Attr) -> String {
    match attr {
        qcc_ir::Attr::Int(v) => v.to_string(),
        qcc_ir::Attr::Ints(v) => format!("{v:?}"),
        qcc_ir::Attr::Float(v) => format!("{v:?}"),
        qcc_ir::Attr::Bool(v) => v.to_string(),
        qcc_ir::Attr::Format(v) => v.to_string(),
        qcc_ir::Attr::Function(v) => v.text().to_string(),
    }
}

/// ONNX operators that become exactly this one.
fn same_as(op: Opcode) -> String {
    let names: Vec<_> = qcc_onnx::importable().filter(|o| o.same == Some(op)).map(|o| o.name).collect();
    names.join(", ")
}

fn operators() -> String {
    let mut out = format!("{NOTE}# Operators\n\n");
    out += "Rows of `compiler/ir/src/ops.rs`. A `?` marks operands that may be absent, `*` any number of them. Attributes are\n\
            shown with their defaults; those without one must be given. What an operator means exactly is defined by the\n\
            reference interpreter, `compiler/interp`; the equations of `qcc_num` are derived in [math.md](math.md).\n";
    let dialects = [
        (
            "nn",
            "Real numbers, or quantized types that stand for them; spatial operators are NCHW. Levels float and quant.",
        ),
        ("tensor", "Data movement on anything. All levels."),
        ("quant", "Between real and quantized types. Level quant."),
        ("int", "Plain integers, exact; spatial operators are NHWC. Level int."),
    ];
    for (dialect, about) in dialects {
        // Writing to a string cannot fail.
        let _ =
            writeln!(out, "\n## {dialect}\n\n{about}\n\n| operator | attributes | meaning | ONNX |\n|---|---|---|---|");
        for op in OPS.iter().filter(|o| o.name.split('.').next() == Some(dialect)) {
            let attributes: Vec<_> = op.attrs.iter().map(attribute).collect();
            let operands = op.operands.join(", ");
            let (attributes, doc, onnx) = (attributes.join(", "), cell(op.doc), same_as(op.op));
            let _ = writeln!(out, "| `{}({operands})` | {attributes} | {doc} | {onnx} |", op.name);
        }
    }
    out += "\n## ONNX operators that can be imported\n\n\
            Rows of `compiler/onnx/src/import/table.rs`: operators of the default domain and of `com.microsoft`, and the operator sets for which their\n\
            meaning has been checked. Those without an entry in the last column become several operations, or one that depends\n\
            on their attributes.\n\n| ONNX | operator sets | becomes |\n|---|---|---|\n";
    for row in qcc_onnx::importable() {
        let same = row.same.map_or(String::new(), |op| format!("`{}`", op.name()));
        let name = [row.domain, row.name].into_iter().filter(|s| !s.is_empty()).collect::<Vec<_>>().join(".");
        let _ = writeln!(out, "| {name} | {} to {} | {same} |", row.opsets.0, row.opsets.1);
    }
    out
}

fn passes(read: &dyn Fn(&str) -> String, exists: &dyn Fn(&str) -> bool) -> String {
    let mut out = format!("{NOTE}# Passes\n\n");
    out += "Rows of `PASSES` in `passes/src/table.rs`, in the order in which they usually run. A pass can run where what it requires\n\
            holds; the pipeline is checked before anything runs, and the graph after every pass.\n\n\
            | pass | phase | |\n|---|---|---|\n";
    for p in PASSES {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "| [{}](#{}) | {} | {} |", p.name, p.name, p.phase.name(), cell(p.summary));
    }
    out += "\n## Pipelines\n\n\
            A pipeline is a text: names, `{key=value ..}` behind a name for its options, `fixpoint(..)` around what is repeated\n\
            until it changes nothing. These have names, which stand for their passes, alone or between others:\n";
    for preset in PRESETS {
        let text = preset.text.replace(", ", ",\n");
        let _ = writeln!(out, "\n`{}`: {}\n\n```text\n{text}\n```", preset.name, preset.summary);
    }
    for p in PASSES {
        let name = p.name.replace('-', "_");
        let file = PASS_FOLDERS.map(|folder| format!("passes/src/{folder}/{name}.rs")).into_iter().find(|f| exists(f));
        let file = file.unwrap_or_else(|| panic!("`{}` has no file {name}.rs in {PASS_FOLDERS:?}", p.name));
        let _ = writeln!(out, "\n## {}\n\nSource: [{file}](../{file})", p.name);
        let list = |title: &str, of: &[Property]| {
            let texts: Vec<_> = of.iter().map(|p| p.text()).collect();
            if texts.is_empty() { String::new() } else { format!("- {title}: {}\n", texts.join("; ")) }
        };
        let properties = list("requires", p.requires) + &list("ensures", p.ensures) + &list("breaks", p.breaks);
        if !properties.is_empty() {
            let _ = write!(out, "\n{properties}");
        }
        if !p.options.is_empty() {
            out += "\n| option | values | default | |\n|---|---|---|---|\n";
        }
        for option in p.options {
            let values = match option.kind {
                OptionKind::Word(words) => words.join(", "),
                OptionKind::Number(lo, hi) => format!("{lo} to {hi}"),
            };
            let _ = writeln!(out, "| `{}` | {values} | {} | {} |", option.name, option.default, cell(option.doc));
        }
        let text = read(&file);
        let header: Vec<&str> = text.lines().take_while(|l| l.starts_with("//!")).collect();
        let header: Vec<&str> =
            header.iter().map(|l| l.trim_start_matches("//!").strip_prefix(' ').unwrap_or("")).collect();
        let _ = writeln!(out, "\n{}", header.join("\n"));
    }
    out
}

fn diagnostics() -> String {
    let mut out = format!("{NOTE}# Diagnostics\n\n");
    out += "Rows of `CODES` in `compiler/ir/src/diag.rs`. The command's exit code says whose fault it is: 1 the model's or the\n\
            data's, 2 the flags', 101 qcc's own; 3 is a verification that failed (`qcc check`).\n\n\
            | code | fault of | meaning |\n|---|---|---|\n";
    for (code, fault, text) in CODES {
        let fault = match fault {
            Fault::Input => "the model or data",
            Fault::Usage => "the flags",
            Fault::Bug => "qcc",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(out, "| {code} | {fault} | {} |", cell(text));
    }
    out
}
