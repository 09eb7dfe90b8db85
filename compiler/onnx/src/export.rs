//! Quantized graphs into ONNX files with explicit casts: every operator of the file computes on real numbers between a
//! `DequantizeLinear` of each operand and a `QuantizeLinear` of its result.
//!
//! ```text
//! %y = nn.conv2d(%x, @w.q, @b.q) : !quant.uniform<u8:f32, 0.25>
//! // becomes
//! y.real = Conv(x.dq, w.q.dq, b.q.dq)     y = QuantizeLinear(y.real, 0.25, 0)     y.dq = DequantizeLinear(y, 0.25, 0)
//! ```
//!
//! Inputs and outputs of the file are real numbers. A type that keeps to a part of its storage is written as a `Clip`.

pub(crate) mod operators;
pub(crate) mod writer;

use onnx_protobuf::{Message, ModelProto, OperatorSetIdProto};
use qcc_ir::diag::Code;
use qcc_ir::{Diag, Diags, Graph, Int, NodeId, Opcode, ValueId};

use crate::import::table;
use writer::{Item, Writer, interface};

/// Operator set of files, and the one for numbers of 16 bits: the oldest that have all operators, so that as many readers as
/// possible take them.
pub(crate) const OPSET: i64 = 20;
const OPSET_INT16: i64 = 21;

/// Operator set of a file and version of the format that belongs to it.
fn versions(graph: &Graph) -> (i64, i64) {
    let int16 = graph.values().any(|v| graph.ty(v).uniform().is_some_and(|u| u.storage() == Int::I16));
    if int16 { (OPSET_INT16, 10) } else { (OPSET, 9) }
}

/// The bytes of an ONNX file that computes what a graph on quantized types does.
pub fn export(graph: &Graph) -> Result<Vec<u8>, Diags> {
    let mut writer = Writer::new(graph);
    whole(&mut writer)?;
    let (opset, ir_version) = versions(graph);
    let opset = OperatorSetIdProto { version: opset, ..OperatorSetIdProto::new() };
    let model = ModelProto {
        ir_version,
        producer_name: "qcc".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        opset_import: vec![opset],
        graph: Some(writer.out).into(),
        ..ModelProto::new()
    };
    let failed = |e: &dyn std::fmt::Display| Diag::new(Code::UNSUPPORTED, format!("the model cannot be written: {e}"));
    Ok(model.write_to_bytes().map_err(|e| failed(&e))?)
}

/// Inputs, nodes and outputs of the graph.
fn whole(w: &mut Writer) -> Result<(), Diags> {
    let g = w.g;
    w.out.name.clone_from(&g.name);
    for &x in g.inputs() {
        // An input that is an output too needs a second name.
        let name = g.name_of(x).to_string();
        let outer = if g.is_output(x) { format!("{name}.in") } else { name.clone() };
        if g.ty(x).uniform().is_none() {
            return Err(refuse(g, x, "an input without a scale").into());
        }
        w.out.input.push(interface(&outer, g.ty(x)));
        w.quantize(&outer, &format!("{name}.q"), x);
    }
    let mut faults = Diags::default();
    for n in g.order() {
        if let Err(message) = node(w, n) {
            faults.0.push(Diag::new(Code::UNSUPPORTED, message).at(g.describe(n)));
        }
    }
    faults.into_result()?;
    for &y in g.outputs() {
        let name = g.name_of(y).to_string();
        if w.out.output.iter().any(|o| o.name == name) {
            continue;
        }
        if g.constant(y).is_some() || g.ty(y).uniform().is_none() {
            return Err(refuse(g, y, "an output without a scale").into());
        }
        w.dequantize(&format!("{name}.q"), &name, y);
        w.out.output.push(interface(&name, g.ty(y)));
    }
    Ok(())
}

fn refuse(g: &Graph, v: ValueId, what: &str) -> Diag {
    Diag::new(Code::UNSUPPORTED, format!("{what} cannot be written as ONNX: %{}", g.name_of(v)))
}

fn node(w: &mut Writer, n: NodeId) -> Result<(), String> {
    let g = w.g;
    let (op, y) = (g.op(n), g.result(n));
    let name = g.name_of(y).to_string();
    if g.ty(y).uniform().is_none() {
        return Err(format!("`{}` computes {}, which has no scale", op.name(), g.ty(y)));
    }
    let operands = g.operands(n).into_iter().map(|v| w.operand(v)).collect::<Result<Vec<_>, _>>()?;
    let real = format!("{name}.real");
    if op == Opcode::SCast {
        w.quantize(&operands[0], &format!("{name}.q"), y);
        return Ok(());
    }
    let (onnx, write) = table::written(op).ok_or_else(|| operators::unwritable(op))?;
    write(w, Item { node: n, onnx, operands, real: &real })?;
    w.quantize(&real, &format!("{name}.q"), y);
    Ok(())
}
