//! Quantized graphs into ONNX files with explicit casts: every operator of the file computes on real numbers between a
//! `DequantizeLinear` of each operand and a `QuantizeLinear` of its result. Plain integers and booleans, such as token ids, positions and
//! conditions, stay what they are.
//!
//! ```text
//! %y = nn.conv2d(%x, @w.q, @b.q) : !quant.uniform<u8:f32, 0.25>
//! // becomes
//! y.real = Conv(x.dq, w.q.dq, b.q.dq)     y.q = QuantizeLinear(y.real, 0.25, 0)     y.dq = DequantizeLinear(y.q, 0.25, 0)
//! ```
//!
//! Inputs and outputs have the names and types that they have in the model that was compiled: real numbers where it declares no
//! codes. A type that keeps to a part of its storage is written as a `Clip`.
//!
//! Integers that 4 bits hold are written as INT4 and UINT4, two a byte; all others of at most 8 bits as bytes, also those of a list of
//! levels: what a level stands for is its code times the scale as well. Weights of which the real numbers are known are these, with a `QuantizeLinear`
//! behind them ([`ExportOptions::shadows`]).

pub(crate) mod operators;
pub(crate) mod positions;
pub(crate) mod writer;

use std::collections::{HashMap, HashSet};

use onnx_protobuf::{Message, ModelProto, OperatorSetIdProto};
use qcc_ir::diag::Code;
use qcc_ir::{Class, Data, Diag, Diags, Elem, Format, Function, Graph, Int, NodeId, Opcode, Uniform, ValueId, attr};

use crate::import::table;
use writer::{FLOAT, Item, Stored, Value, Writer, interface, number, number_of};

/// Operator set of files, and the one for numbers of 16 and of 4 bits: the oldest that have all operators, so that as many readers as
/// possible take them.
pub(crate) const OPSET: i64 = 20;
const OPSET_MORE_TYPES: i64 = 21;

/// What a file depends on beside the graph.
#[derive(Debug, Clone, Default)]
pub struct ExportOptions {
    /// Inputs and outputs that are integers in the model.
    pub declared: Vec<Declared>,
    /// Names of values that are not rounded, because the integer model adds something to their sums of products before it rounds.
    pub unrounded: HashSet<String>,
    /// How the integer model reads an operand of an addition, by the name of the sum and the number of the operand, where that differs
    /// from its type by the rounding of a multiplier.
    pub addends: HashMap<(String, usize), Addend>,
    /// Real numbers of which weights were rounded, by the names of these: they are written, and a `QuantizeLinear` behind them makes the codes.
    pub shadows: HashMap<String, Vec<f32>>,
}

/// The real numbers that the codes of an operand add to a sum.
#[derive(Debug, Clone, PartialEq)]
pub enum Addend {
    /// Those of the operand's type with another scale.
    Scale(f32),
    /// `unit * (floor(real * factor + term) - zero)`.
    Floor {
        /// What multiplies a real number.
        factor: f32,
        /// What is added before the floor.
        term: f32,
        /// What the real number 0 gives.
        zero: f32,
        /// What 1 is then.
        unit: f32,
    },
}

/// An input or output that the model declares as integers: with a scale, codes of real numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Declared {
    /// Its name.
    pub name: String,
    /// Type of the integers.
    pub storage: Int,
    /// Scale and zero point, if they stand for real numbers.
    pub quant: Option<(f32, i64)>,
}

/// Operator set of a file and version of the format that belongs to it.
fn versions(graph: &Graph) -> (i64, i64) {
    let is_newer = |u: &Uniform| u.storage() == Int::I16 || matches!(Stored::of(u), Stored::Nibbles(_));
    let newer = graph.values().any(|v| graph.ty(v).uniform().is_some_and(|u| is_newer(u)));
    if newer { (OPSET_MORE_TYPES, 10) } else { (OPSET, 9) }
}

/// The bytes of an ONNX file that computes what a graph on quantized types does.
pub fn export(graph: &Graph, options: &ExportOptions) -> Result<Vec<u8>, Diags> {
    let interface = graph.inputs().iter().chain(graph.outputs());
    let mut writer = Writer::new(graph, interface.map(|&v| graph.name_of(v).to_string()), &options.shadows);
    whole(&mut writer, options)?;
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
fn whole(w: &mut Writer, options: &ExportOptions) -> Result<(), Diags> {
    let (g, declared) = (w.g, &options.declared);
    w.out.name.clone_from(&g.name);
    for &x in g.inputs() {
        input(w, x, declared.iter().find(|d| d.name == g.name_of(x)));
    }
    let mut faults = Diags::default();
    for n in g.order() {
        let unrounded = options.unrounded.contains(g.name_of(g.result(n)));
        let name = g.name_of(g.result(n));
        for (i, v) in g.operands(n).into_iter().enumerate() {
            if let Some(addend) = options.addends.get(&(name.to_string(), i)) {
                w.read_as(v, addend);
            }
        }
        let written = node(w, n, unrounded);
        w.read_as_typed();
        if let Err(message) = written {
            faults.push(Diag::new(Code::UNSUPPORTED, message).at(g.describe(n)));
        }
    }
    faults.into_result()?;
    for &y in g.outputs() {
        if w.out.output.iter().all(|o| o.name != g.name_of(y)) {
            output(w, y, declared.iter().find(|d| d.name == g.name_of(y)))
                .map_err(|message| Diag::new(Code::UNSUPPORTED, format!("%{}: {message}", g.name_of(y))))?;
        }
    }
    Ok(())
}

/// An input, and its codes where it has a scale.
fn input(w: &mut Writer, x: ValueId, declared: Option<&Declared>) {
    let g = w.g;
    let (name, ty) = (g.name_of(x).to_string(), g.ty(x));
    // An input that is an output too needs a second name.
    let outer = if g.is_output(x) { w.fresh(&format!("{name}.in")) } else { name.clone() };
    let Some(u) = ty.uniform().filter(|_| is_written(g, x)) else {
        w.out.input.push(interface(&outer, &ty.dims, number_of(&ty.elem)));
        w.store_as(x, &outer);
        w.real_as(x, &outer);
        return;
    };
    let given = declared.map(|d| (d, own_uniform(d)));
    w.out.input.push(interface(&outer, &ty.dims, given.as_ref().map_or(FLOAT, |(d, _)| number(d.storage))));
    if given.as_ref().is_some_and(|(_, own)| own.as_ref() == Some(&**u)) {
        w.store_as(x, &outer);
        return;
    }
    let real = match given {
        None => outer,
        Some((_, own)) => {
            let real = w.fresh(&format!("{name}.given"));
            match own {
                Some(own) => w.cast_as("DequantizeLinear", &outer, &real, &own, &format!("{name}.given")),
                None => w.emit("Cast", &[outer], &real, vec![("to", Value::Int(FLOAT.into()))]),
            }
            real
        }
    };
    let codes = w.fresh(&format!("{name}.q"));
    w.quantize(&real, &codes, x);
    w.store_as(x, &codes);
}

/// The type of codes that are declared with a scale.
fn own_uniform(declared: &Declared) -> Option<Uniform> {
    declared.quant.map(|(scale, zero)| Uniform::per_tensor(Format::all(declared.storage), scale, zero))
}

/// An output: real numbers, or integers where they are declared.
fn output(w: &mut Writer, y: ValueId, declared: Option<&Declared>) -> Result<(), String> {
    let g = w.g;
    let (name, ty) = (g.name_of(y).to_string(), g.ty(y));
    let Some(u) = ty.uniform().filter(|_| is_written(g, y)) else {
        let inner = w.operand(y)?;
        if inner != name {
            w.emit("Identity", &[inner], &name, vec![]);
        }
        w.out.output.push(interface(&name, &ty.dims, number_of(&ty.elem)));
        return Ok(());
    };
    let codes = w.codes(y)?;
    let to = declared.map(|d| (number(d.storage), own_uniform(d)));
    match &to {
        None => w.dequantize(&codes, &name, y),
        Some((_, Some(own))) if own == &**u => w.emit("Identity", &[codes], &name, vec![]),
        Some((to, own)) => {
            let real = w.fresh(&format!("{name}.taken"));
            w.dequantize(&codes, &real, y);
            match own {
                Some(own) => w.cast_as("QuantizeLinear", &real, &name, own, &format!("{name}.taken")),
                None => w.emit("Cast", &[real], &name, vec![("to", Value::Int((*to).into()))]),
            }
        }
    }
    w.out.output.push(interface(&name, &ty.dims, to.map_or(FLOAT, |(to, _)| to)));
    Ok(())
}

fn node(w: &mut Writer, n: NodeId, unrounded: bool) -> Result<(), String> {
    let g = w.g;
    let (op, y) = (g.op(n), g.result(n));
    let name = g.name_of(y).to_string();
    if let Elem::Calibrated(_) = g.ty(y).elem {
        return Err(format!("`{}` computes {}, which has no scale", op.name(), g.ty(y)));
    }
    let operands = g.operands(n).into_iter().map(|v| w.operand(v)).collect::<Result<Vec<_>, _>>()?;
    let is_quantized = is_written(g, y) && !(unrounded && is_layer(op) && !g.is_output(y));
    let codes = if is_quantized { w.fresh(&format!("{name}.q")) } else { name.clone() };
    if matches!(op, Opcode::SCast | Opcode::QCast) && !is_quantized {
        w.real_as(y, &operands[0]);
        return Ok(());
    }
    if matches!(op, Opcode::SCast | Opcode::QCast) {
        w.quantize(&operands[0], &codes, y);
        w.store_as(y, &codes);
        return Ok(());
    }
    if op == Opcode::DCast {
        w.real_as(y, &operands[0]);
        return Ok(());
    }
    // The outer name of what is an output as it is.
    let result = match (is_quantized, g.is_output(y)) {
        (true, _) => w.fresh(&format!("{name}.real")),
        (false, true) => name.clone(),
        (false, false) => w.fresh(&name),
    };
    let attrs = &g.node(n).attrs;
    match table::written(op) {
        Some((onnx, write)) => write(w, Item { node: n, attrs, onnx, operands, result: &result })?,
        None if op == Opcode::Map => map(w, n, &operands[0], &result)?,
        None => by_table(w, n, &result)?,
    }
    if is_quantized {
        w.quantize(&result, &codes, y);
        w.store_as(y, &codes);
    } else {
        w.store_as(y, &result);
        w.real_as(y, &result);
    }
    Ok(())
}

/// Whether a value is written as codes: those of more than 16 bits are as good as real numbers, for which ONNX has no casts.
fn is_written(g: &Graph, v: ValueId) -> bool {
    g.ty(v).uniform().is_some_and(|u| u.storage().bits() <= 16)
}

fn is_layer(op: Opcode) -> bool {
    matches!(op.info().class, Class::Contract(_))
}

/// A composed function as the operators that it is put together from; as a table where ONNX lacks one of them.
fn map(w: &mut Writer, n: NodeId, x: &str, result: &str) -> Result<(), String> {
    let function = Function::parse(w.g.node(n).attrs.get(attr::BODY).text())?;
    if !is_writable(&function) {
        return by_table(w, n, result);
    }
    let last = part(w, n, &function, x, result)?;
    if last != result {
        w.emit("Identity", &[last], result, vec![]);
    }
    Ok(())
}

/// ONNX's number for booleans.
const BOOL: i64 = 9;

fn is_writable(function: &Function) -> bool {
    match function {
        Function::Argument | Function::Number(_) => true,
        Function::Select(parts) => parts.iter().all(is_writable),
        Function::Call(call) => table::written(call.attrs.op()).is_some() && call.operands.iter().all(is_writable),
    }
}

/// Writes a part of a function; gives the name of its value.
fn part(w: &mut Writer, n: NodeId, function: &Function, x: &str, result: &str) -> Result<String, String> {
    let parts = |w: &mut Writer, all: &[Function]| -> Result<Vec<String>, String> {
        let inner = |f: &Function| {
            let name = w.fresh(&format!("{result}.part"));
            part(w, n, f, x, &name)
        };
        all.iter().map(inner).collect()
    };
    let call = match function {
        Function::Argument => return Ok(x.to_string()),
        Function::Number(c) => return Ok(w.constant(&format!("{result}.number"), &[], Data::F32(vec![*c]))),
        Function::Select(all) => {
            let operands = parts(w, &all[..])?;
            let condition = w.fresh(&format!("{result}.condition"));
            w.emit("Cast", &[operands[2].clone()], &condition, vec![("to", Value::Int(BOOL))]);
            w.emit("Where", &[condition, operands[0].clone(), operands[1].clone()], result, vec![]);
            return Ok(result.to_string());
        }
        Function::Call(call) => call,
    };
    let operands = parts(w, &call.operands)?;
    let (onnx, write) = table::written(call.attrs.op()).ok_or_else(|| operators::unwritable(call.attrs.op()))?;
    write(w, Item { node: n, attrs: &call.attrs, onnx, operands, result })?;
    Ok(result.to_string())
}

/// A function of one value that ONNX has no operator for: its results for all codes, in the order of these.
fn by_table(w: &mut Writer, n: NodeId, result: &str) -> Result<(), String> {
    let g = w.g;
    let x = g.operands(n)[0];
    let of = match (g.op(n).info().class, g.ty(x).uniform()) {
        (Class::Unary(f), Some(u)) if u.axis.is_none() && u.storage() == Int::U8 => Some((f, u.clone())),
        _ => None,
    };
    let (f, u) = of.ok_or_else(|| operators::unwritable(g.op(n)))?;
    let attrs = &g.node(n).attrs;
    let values: Vec<f32> = (0u8..=255).map(|q| f(attrs, (i64::from(q) - u.zero_point()) as f32 * u.scale())).collect();
    let codes = w.codes(x)?;
    let table = w.constant(&format!("{result}.table"), &[256], Data::F32(values));
    let positions = w.fresh(&format!("{result}.positions"));
    w.emit("Cast", &[codes], &positions, vec![("to", Value::Int(number(Int::I32).into()))]);
    w.emit("Gather", &[table, positions], result, vec![]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str, options: &ExportOptions) -> (Vec<u8>, onnx_protobuf::GraphProto) {
        let graph = qcc_ir::parse::parse(text, &qcc_ir::parse::no_files).expect("legal text");
        let bytes = export(&graph, options).expect("an ONNX model");
        let graph = ModelProto::parse_from_bytes(&bytes).expect("a message").graph.unwrap_or_default();
        (bytes, graph)
    }

    fn exported(text: &str, options: &ExportOptions) -> onnx_protobuf::GraphProto {
        let (bytes, graph) = written(text, options);
        crate::import_bytes(&bytes, None, &crate::ImportOptions::default()).expect("it reads back");
        graph
    }

    fn names_are_unique(graph: &onnx_protobuf::GraphProto) {
        let made = graph.node.iter().flat_map(|n| &n.output).filter(|o| !o.is_empty());
        let mut names: Vec<&String> =
            made.chain(graph.initializer.iter().map(|t| &t.name)).chain(graph.input.iter().map(|i| &i.name)).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn names_of_values_and_of_parameters_meet() {
        let graph = exported(
            "graph @g(%x: tensor<1x2x!quant.uniform<u8:f32, 0.5:128>>, %ids: tensor<1x2xi64>) -> (tensor<1x2x!quant.uniform<u8:f32, 0.5:128>>, tensor<1x2xi64>) {
  const @y.scale : tensor<2xf32> = dense<[1.5, 2.0]>
  const @y.zero_point : tensor<2xf32> = dense<[0.5, -1.0]>
  %y = nn.layer_norm(%x, @y.scale, @y.zero_point) {axis = 1} : tensor<1x2x!quant.uniform<u8:f32, 0.5:128>>
  %x.q = tensor.reshape(%ids) {shape = [1, 2]} : tensor<1x2xi64>
  return %y, %x.q
}
",
            &ExportOptions::default(),
        );
        names_are_unique(&graph);
        let names: Vec<&str> = graph.input.iter().chain(&graph.output).map(|v| v.name.as_str()).collect();
        assert_eq!(names, ["x", "ids", "y", "x.q"]);
    }

    #[test]
    fn few_bits_take_half_a_byte() {
        let linear = |weights: &str, y: &str| {
            format!(
                "graph @g(%x: tensor<1x2x!quant.uniform<u8:f32, 0.5:128>>) -> (tensor<1x3x!quant.uniform<{y}>>) {{
  const @w : tensor<3x2x!quant.uniform<{weights}:f32:0, {{0.5, 0.25, 2.0}}>> = dense<[2, -2, 1, 0, -1, 2]>
  %y = nn.linear(%x, @w) : tensor<1x3x!quant.uniform<{y}>>
  return %y
}}
"
            )
        };
        let nibbles = vec![0xe2, 0x01, 0x2f];
        let bytes = vec![2, 0xfe, 1, 0, 0xff, 2];
        for (weights, y, wanted, (data_type, of_y)) in [
            ("i8<-7:7>", "u4:f32, 0.5:8", &nibbles, (22, Some(21))),
            ("i8<-8:7>", "u8:f32, 0.5:8", &nibbles, (22, None)),
            ("i8<[-2, -1, 0, 1, 2]>", "u8<0:15>:f32, 0.5:8", &nibbles, (22, Some(21))),
            ("i8<-8:8>", "u8:f32, 0.5:8", &bytes, (3, None)),
            ("i8<-15:15>", "u8:f32, 0.5:8", &bytes, (3, None)),
        ] {
            let (file, graph) = written(&linear(weights, y), &ExportOptions::default());
            names_are_unique(&graph);
            let tensor = |name: &str| graph.initializer.iter().find(|t| t.name == name).expect("a constant");
            let weights_of = tensor("w");
            assert_eq!((weights_of.data_type, &weights_of.raw_data), (data_type, wanted), "{weights}");
            // Zero points have the type of the codes: of three one is half a byte beyond.
            let zeros = tensor("w.zero_point");
            assert_eq!((zeros.data_type, zeros.raw_data.len()), (data_type, if data_type == 22 { 2 } else { 3 }));
            let of_value = tensor("y.zero_point");
            assert_eq!((of_value.data_type, &of_value.raw_data), (of_y.unwrap_or(2), &vec![8]), "{y}");
            assert!(graph.node.iter().all(|n| n.op_type != "Clip"), "{y}");
            let model = ModelProto::parse_from_bytes(&file).expect("a message");
            assert_eq!(model.opset_import[0].version, if data_type == 22 { 21 } else { 20 }, "{weights}");
            let read = crate::import_bytes(&file, None, &crate::ImportOptions::default()).expect("it reads back");
            let codes = read.constants().find_map(|(v, t)| (read.ty(v).dims == [3, 2]).then_some(t.data.clone()));
            assert_eq!(codes, Some(Data::I8(vec![2, -2, 1, 0, -1, 2])), "{weights}");
        }
    }

    #[test]
    fn shadows_of_weights_are_written_before_they_are_rounded() {
        let text = |weights: &str| {
            format!(
                "graph @g(%x: tensor<1x2x!quant.uniform<u8:f32, 0.5:128>>) -> (tensor<1x2x!quant.uniform<u8:f32, 0.5:128>>) {{
  const @w : tensor<2x2x!quant.uniform<{weights}:f32:0, {{0.5, 0.25}}>> = dense<[2, -2, 1, 4]>
  %y = nn.linear(%x, @w) : tensor<1x2x!quant.uniform<u8:f32, 0.5:128>>
  return %y
}}
"
            )
        };
        // The second rounds to -3, so that its code is written; the third lies in the middle and goes to the even 0, which is not its code.
        let shadows = vec![1.1f32, -1.4, 0.125, 1.1];
        let options = ExportOptions { shadows: [("w".to_string(), shadows)].into(), ..ExportOptions::default() };
        for (weights, shown) in [("i8<-7:7>", true), ("i8<-7:5>", true), ("i8", true), ("i8<[-2, 1, 2, 4]>", false)] {
            let (file, graph) = written(&text(weights), &options);
            names_are_unique(&graph);
            let floats = graph.initializer.iter().find(|t| t.name == "w" && t.data_type == FLOAT);
            assert_eq!(floats.is_some(), shown, "{weights}");
            if let Some(floats) = floats {
                let wanted: Vec<u8> = [1.1f32, -1.0, 0.25, 1.1].iter().flat_map(|x| x.to_le_bytes()).collect();
                assert_eq!(floats.raw_data, wanted, "{weights}");
            }
            crate::import_bytes(&file, None, &crate::ImportOptions::default()).expect("it reads back");
            let casts =
                graph.node.iter().filter(|n| n.input.first().is_some_and(|x| x == "w")).map(|n| n.op_type.as_str());
            assert_eq!(
                casts.collect::<Vec<_>>(),
                [if shown { "QuantizeLinear" } else { "DequantizeLinear" }],
                "{weights}"
            );
        }
    }

    #[test]
    fn codes_of_the_model_stay_codes() {
        let ty = "tensor<1x2x!quant.uniform<u8:f32, 0.5:125>>";
        let declared = |name: &str| Declared { name: name.into(), storage: Int::I8, quant: Some((0.5, -3)) };
        let graph = exported(
            &format!("graph @g(%x: {ty}) -> ({ty}) {{\n  %y = nn.relu(%x) : {ty}\n  return %y\n}}\n"),
            &ExportOptions { declared: vec![declared("x"), declared("y")], ..ExportOptions::default() },
        );
        names_are_unique(&graph);
        for value in graph.input.iter().chain(&graph.output) {
            let ty = value.type_.as_ref().and_then(|t| t.value.as_ref());
            let Some(onnx_protobuf::type_proto::Value::TensorType(tensor)) = ty else { panic!("no tensor") };
            assert_eq!(tensor.elem_type, number(Int::I8), "{}", value.name);
        }
    }

    #[test]
    fn an_addition_reads_what_the_integers_add() {
        let ty = "tensor<1x2x!quant.uniform<u8:f32, 0.5:128>>";
        let text = format!(
            "graph @g(%a: {ty}, %b: {ty}) -> ({ty}, {ty}) {{\n  %r = nn.relu(%a) : {ty}\n  %y = nn.add(%a, %b) : {ty}\n  return %r, %y\n}}\n"
        );
        let of = |i: usize| ("y".to_string(), i);
        let addends = [
            (of(0), Addend::Scale(0.51)),
            (of(1), Addend::Floor { factor: 32.25, term: 2064.5, zero: 2064.0, unit: 0.015625 }),
        ];
        let graph = written(&text, &ExportOptions { addends: addends.into(), ..ExportOptions::default() }).1;
        names_are_unique(&graph);
        let node = |op: &str| graph.node.iter().find(|n| n.op_type == op).expect("the node");
        let last = graph.node.iter().rfind(|n| n.op_type == "Add").expect("the sum");
        assert_eq!(last.input, ["a.added", "b.added"]);
        // Others read the type.
        assert_eq!(node("Relu").input, ["a.dq"]);
        let float = |name: &str| graph.initializer.iter().find(|t| t.name == name).map(|t| t.raw_data[..4].to_vec());
        assert_eq!(float("a.added.scale"), Some(0.51f32.to_le_bytes().to_vec()));
        assert_eq!(float("b.added.term"), Some(2064.5f32.to_le_bytes().to_vec()));
        let ops: Vec<&str> =
            graph.node.iter().map(|n| n.op_type.as_str()).filter(|op| !op.ends_with("Linear")).collect();
        assert_eq!(ops, ["Relu", "Mul", "Add", "Floor", "Sub", "Mul", "Add"]);
    }

    #[test]
    fn what_onnx_lacks_becomes_a_table() {
        let ty = "tensor<1x2x!quant.uniform<u8:f32, 0.5:128>>";
        let round = "nn.round_float(%x) {fraction = 3, exponent = -6, greatest = 448.0}";
        let graph = written(
            &format!("graph @g(%x: {ty}) -> ({ty}) {{\n  %y = {round} : {ty}\n  return %y\n}}\n"),
            &ExportOptions::default(),
        )
        .1;
        names_are_unique(&graph);
        assert!(graph.node.iter().any(|n| n.op_type == "Gather"));
    }
}
