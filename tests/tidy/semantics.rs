//! `docs/semantics.md`: each integer operator's definition, its domain, the function of the interpreter that is its meaning, and the tests
//! that tie machine code to that.

use std::fmt::Write as _;

use qcc_ir::Class;
use qcc_ir::attrs::AttrSchema;
use qcc_ir::ops::{Gives, IntOp, OPS, OpInfo, Sums};

use super::references::{attribute, cell};

const HEAD: &str = "# Semantics of integer graphs\n\n\
A compiled model computes its integer graph (`qcc model.onnx -o graph.qir` writes it), operator by operator, in the order of the text. Each operator is a function\n\
of integers that is defined for all operands of the types below; an attribute outside of its range, and a sum that could leave 32 bits, is refused when the model is\n\
compiled. Division and shifts round toward minus infinity (`floor`) wherever nothing else is said. Equations by number are those of [math.md](math.md); the module of\n\
`qcc_num` that is named computes them, and nothing else does.\n\n\
Three things are equal by test, bit for bit: the definition, by results that were derived by hand (the file of the operator in `tests/filetests/ops`); the function of the interpreter;\n\
and machine code, which runs the same file as code in memory with one thread and with several and as a shared object, for every instruction set of the machine (`cargo test --test filetests ops` prints\n\
how often, and fails where there is none), and random graphs (`cargo test --test differential`). Which ONNX node became which operator, step, symbol and range of addresses,\n\
`qcc model.onnx -o model.so --trace trace.json` writes down.\n\n\
Operators called `tensor.*` move, choose and convert elements: [operators.md](operators.md) has them.\n";

/// The page; `read` gives the contents of a file of the tree.
pub fn page(note: &str, read: &dyn Fn(&str) -> String) -> String {
    let mut out = format!("{note}{HEAD}");
    let dispatch = read("compiler/interp/src/int.rs");
    for info in OPS {
        let Class::Int(op) = info.class else { continue };
        // Writing to a string cannot fail.
        let _ = writeln!(out, "\n## {}\n\n{}\n\n| | |\n|---|---|", info.name, cell(info.doc));
        let _ = writeln!(out, "| operands | {} |", operands(info, op));
        let _ = writeln!(out, "| result | {} |", result(info, op));
        for schema in info.attrs {
            let _ = writeln!(out, "| attribute | {} |", domain(schema));
        }
        let _ = writeln!(out, "| 32-bit sums | {} |", sums(op));
        let _ = writeln!(out, "| interpreter | {} |", interpreter(op, &dispatch, read));
        let _ = writeln!(out, "| by hand | [{0}.qir](../tests/filetests/ops/{0}.qir) |", info.name);
    }
    out
}

fn operands(info: &OpInfo, op: IntOp) -> String {
    let one = |(i, name): (usize, &&str)| {
        let types: Vec<&str> = op.takes(i).iter().map(|t| t.name()).collect();
        format!("`{name}` {}", types.join(" or "))
    };
    info.operands.iter().enumerate().map(one).collect::<Vec<_>>().join(", ")
}

fn result(info: &OpInfo, op: IntOp) -> String {
    match op.form().gives {
        Gives::Always(int) => int.name().to_string(),
        Gives::Operand(i) => format!("the type of `{}`", info.operands.get(i).unwrap_or(&"?")),
        Gives::Bits => "u8; i16 where `bits` is 16, i32 of 24 bits where it is 32".into(),
    }
}

fn domain(schema: &AttrSchema) -> String {
    match schema.range {
        Some((least, greatest)) => format!("{}, {least} to {greatest}", attribute(schema)),
        None => attribute(schema),
    }
}

fn sums(op: IntOp) -> &'static str {
    match op.form().sums {
        Sums::None => "none, or such as the definition bounds",
        Sums::Weights => {
            "`bias + 255 sum min(w, 0)` to `bias + 255 sum max(w, 0)`, proved to fit for each output channel"
        }
        Sums::Products => "the depth times the extremes of one product, proved to fit",
        Sums::Window => "the elements of the window times the extremes of `x - zero`, proved to fit",
        Sums::Axes => "the elements along `axes` times the extremes of `x - zero`, proved to fit",
    }
}

/// The functions that an operator's arm of the interpreter calls, by the files in which they are.
fn interpreter(op: IntOp, dispatch: &str, read: &dyn Fn(&str) -> String) -> String {
    let arm = format!("IntOp::{op:?} =>");
    let arm = dispatch.split_once(&arm).unwrap_or_else(|| panic!("the interpreter has no arm for {op:?}")).1;
    let arm = arm.split("IntOp::").next().unwrap_or_default();
    let mut found = Vec::new();
    for (at, _) in arm.match_indices("::") {
        let start = arm[..at].rfind(|c: char| !c.is_ascii_alphanumeric() && c != '_').map_or(0, |i| i + 1);
        let (module, function) = (&arm[start..at], arm[at + 2..].split('(').next().unwrap_or_default());
        if !dispatch.contains(&format!("\nmod {module};")) {
            continue;
        }
        let file = format!("compiler/interp/src/int/{module}.rs");
        assert!(read(&file).contains(&format!("fn {function}(")), "{file} has no function `{function}`");
        found.push(format!("[`{module}::{function}`](../{file})"));
    }
    assert!(!found.is_empty(), "{op:?} is evaluated by no function");
    found.join(", ")
}
