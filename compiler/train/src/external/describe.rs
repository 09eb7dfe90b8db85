//! A graph as JSON, and its constants as one file.

use qcc_ir::attrs::Attr;
use qcc_ir::diag::Code;
use qcc_ir::{Attrs, Data, Diag, Graph, Opcode, Tensor, Type, ValueId, attr};
use serde_json::{Map, Value, json};

use crate::program::zero_of;

/// Arrays, one behind the other, each on a multiple of 8 bytes.
#[derive(Default)]
pub(super) struct Constants {
    bytes: Vec<u8>,
    directory: Vec<Value>,
}

impl Constants {
    /// Adds an array and gives its number.
    pub(super) fn add(&mut self, tensor: &Tensor) -> usize {
        let name = match &tensor.data {
            Data::F32(_) => "<f4",
            Data::I8(_) => "i1",
            Data::U8(_) => "u1",
            Data::I16(_) => "<i2",
            Data::I32(_) => "<i4",
            Data::I64(_) => "<i8",
        };
        self.append(name, &tensor.dims, &tensor.data.to_bytes())
    }

    /// Adds positions.
    pub(super) fn add_order(&mut self, order: &[u32]) -> usize {
        let bytes: Vec<u8> = order.iter().flat_map(|o| o.to_le_bytes()).collect();
        self.append("<u4", &[order.len()], &bytes)
    }

    fn append(&mut self, name: &str, dims: &[usize], bytes: &[u8]) -> usize {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        self.directory.push(json!({ "type": name, "dims": dims, "offset": self.bytes.len() }));
        self.bytes.extend(bytes);
        self.directory.len() - 1
    }

    /// Type, extents and place of each array.
    pub(super) fn directory(&self) -> &[Value] {
        &self.directory
    }

    pub(super) fn bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Inputs, steps and outputs of a graph whose operators are all known, and whose first dimension is that of one sample.
pub(super) fn described(g: &Graph, known: &[Opcode], constants: &mut Constants) -> Result<Value, Diag> {
    let mut steps = Vec::new();
    for n in g.order() {
        let op = g.op(n);
        if !known.contains(&op) {
            let message = format!("--emit-trainer: `{}` has no form in train.py", op.name());
            return Err(Diag::new(Code::UNSUPPORTED, message).at(g.describe(n)).help("train with qcc finetune alone"));
        }
        let (attrs, y) = (&g.node(n).attrs, g.result(n));
        if !keeps_samples(op, attrs, g.ty(y)) {
            let message = "--emit-trainer: samples are mixed, and a batch would be";
            return Err(Diag::new(Code::UNSUPPORTED, message).at(g.describe(n)));
        }
        let operand = |v: ValueId| match g.constant(v) {
            Some(tensor) => json!({ "constant": constants.add(tensor), "layer": crate::network::number(g.name_of(v)) }),
            None => json!(g.name_of(v)),
        };
        let operands: Vec<Value> = g.operands(n).into_iter().map(operand).collect();
        let zero = g.operands(n).first().map_or(0, |&x| zero_of(g, x));
        steps.push(json!({
            "op": op.name(), "result": g.name_of(y), "dims": g.ty(y).dims, "operands": operands, "zero": zero,
            "attrs": attributes(attrs),
        }));
    }
    let interface = |v: ValueId| {
        let ty = g.ty(v);
        let quantized = ty.uniform().map(|u| json!([u.scale(), u.zero_point(), u.min(), u.max()]));
        json!({ "name": g.name_of(v), "dims": ty.dims, "quantized": quantized })
    };
    let inputs: Vec<Value> = g.inputs().iter().map(|&v| interface(v)).collect();
    let outputs: Vec<Value> = g.outputs().iter().map(|&v| interface(v)).collect();
    Ok(json!({ "inputs": inputs, "steps": steps, "outputs": outputs }))
}

/// Whether the first dimension of a result is that of the operands, 1 for one sample.
fn keeps_samples(op: Opcode, attrs: &Attrs, ty: &Type) -> bool {
    let first = |list: Vec<i64>| list.first().copied();
    ty.dims.first() == Some(&1)
        && match op {
            Opcode::Transpose => first(attrs.get(attr::PERM)) == Some(0),
            Opcode::Concat => attrs.get(attr::AXIS) != 0,
            Opcode::IMean | Opcode::ReduceMean => !attrs.get(attr::AXES).contains(&0),
            Opcode::Pad => {
                let pads = attrs.get(attr::PADS);
                pads.first() == Some(&0) && pads.get(pads.len() / 2) == Some(&0)
            }
            _ => true,
        }
}

/// All attributes, those that are not given with their defaults.
fn attributes(attrs: &Attrs) -> Map<String, Value> {
    let value = |a: Attr| match a {
        Attr::Int(x) => json!(x),
        Attr::Ints(x) => json!(x),
        Attr::Float(x) => json!(x),
        Attr::Bool(x) => json!(x),
        Attr::Format(x) => json!(x.to_string()),
        Attr::Function(x) => json!(x.text()),
    };
    let schemas = attrs.op().info().attrs.iter();
    schemas.filter_map(|s| Some((s.name.to_string(), value(attrs.of_schema(s)?)))).collect()
}
