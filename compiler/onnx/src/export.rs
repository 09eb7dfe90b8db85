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

mod operators;

use std::collections::HashSet;

use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::tensor_shape_proto::{Dimension, dimension};
use onnx_protobuf::{
    AttributeProto, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
    TypeProto, ValueInfoProto, type_proto,
};
use qcc_ir::diag::Code;
use qcc_ir::{Data, Def, Diag, Diags, Elem, Graph, Int, Opcode, Tensor, Type, Uniform, ValueId};

/// Operator set of the file and version of the format that belongs to it: the oldest that has all operators, so that as many
/// readers as possible take it. Operator set 21 quantizes to 16 bits.
fn versions(graph: &Graph) -> (i64, i64) {
    let wide = graph.values().any(|v| graph.ty(v).uniform().is_some_and(|u| u.storage == Int::I16));
    if wide { (21, 10) } else { (20, 9) }
}

/// The bytes of an ONNX file that computes what a graph on quantized types does.
pub fn export(graph: &Graph) -> Result<Vec<u8>, Diags> {
    let mut writer = Writer { g: graph, out: GraphProto::new(), written: HashSet::new() };
    writer.graph()?;
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

struct Writer<'g> {
    g: &'g Graph,
    out: GraphProto,
    /// Names of initializers and of dequantized values that are there already.
    written: HashSet<String>,
}

/// An attribute of an ONNX node.
enum Value {
    Int(i64),
    Ints(Vec<i64>),
    Float(f32),
    Text(&'static str),
}

impl Writer<'_> {
    fn graph(&mut self) -> Result<(), Diags> {
        let g = self.g;
        self.out.name.clone_from(&g.name);
        for &x in g.inputs() {
            // An input that is an output too needs a second name.
            let name = g.name_of(x).to_string();
            let outer = if g.is_output(x) { format!("{name}.in") } else { name.clone() };
            if g.ty(x).uniform().is_none() {
                return Err(self.refuse(x, "an input without a scale").into());
            }
            self.out.input.push(interface(&outer, g.ty(x)));
            self.quantize(&outer, &format!("{name}.q"), x);
        }
        let mut faults = Diags::default();
        for n in g.order() {
            if let Err(message) = self.node(n) {
                faults.0.push(Diag::new(Code::UNSUPPORTED, message).at(g.describe(n)));
            }
        }
        faults.into_result()?;
        for &y in g.outputs() {
            let name = g.name_of(y).to_string();
            if self.out.output.iter().any(|o| o.name == name) {
                continue;
            }
            if g.constant(y).is_some() || g.ty(y).uniform().is_none() {
                return Err(self.refuse(y, "an output without a scale").into());
            }
            self.dequantize(&format!("{name}.q"), &name, y);
            self.out.output.push(interface(&name, g.ty(y)));
        }
        Ok(())
    }

    fn refuse(&self, v: ValueId, what: &str) -> Diag {
        Diag::new(Code::UNSUPPORTED, format!("{what} cannot be written as ONNX: %{}", self.g.name_of(v)))
    }

    fn node(&mut self, n: qcc_ir::NodeId) -> Result<(), String> {
        let g = self.g;
        let y = g.result(n);
        let name = g.name_of(y).to_string();
        if g.ty(y).uniform().is_none() {
            return Err(format!("`{}` computes {}, which has no scale", g.op(n).name(), g.ty(y)));
        }
        let operands = g.operands(n).into_iter().map(|v| self.operand(v)).collect::<Result<Vec<_>, _>>()?;
        let real = format!("{name}.real");
        if g.op(n) == Opcode::SCast {
            self.quantize(&operands[0], &format!("{name}.q"), y);
            return Ok(());
        }
        operators::write(self, n, operands, &real)?;
        self.quantize(&real, &format!("{name}.q"), y);
        Ok(())
    }

    /// The name of the real value that an operand stands for.
    fn operand(&mut self, v: ValueId) -> Result<String, String> {
        let g = self.g;
        let name = g.name_of(v).to_string();
        let real = format!("{name}.dq");
        match (g.def(v), &g.ty(v).elem) {
            // A bias of 64 bits has no type to be dequantized from, unless it fits 32.
            (Def::Const(tensor), Elem::Uniform(u)) if u.storage == Int::I64 => {
                let codes = tensor.as_i64().unwrap_or_default();
                let fits: Option<Vec<i32>> = codes.iter().map(|&q| i32::try_from(q).ok()).collect();
                let new = self.written.insert(real.clone());
                if let Some(codes) = fits.filter(|_| new) {
                    self.initializer(&name, &Tensor::new(&tensor.dims, Data::I32(codes)), &Elem::Int(Int::I32));
                    self.dequantize(&name, &real, v);
                } else if new {
                    let codes = tensor.as_i64().unwrap_or_default().iter().enumerate();
                    let scale = |i: usize| u.scales[if u.axis.is_some() { i } else { 0 }];
                    let reals = codes.map(|(i, &q)| q as f32 * scale(i)).collect();
                    self.initializer(&real, &Tensor::f32(&tensor.dims, reals), &Elem::F32);
                }
                Ok(real)
            }
            (Def::Const(tensor), Elem::Uniform(_)) => {
                if self.written.insert(real.clone()) {
                    self.initializer(&name, &tensor, &g.ty(v).elem);
                    self.dequantize(&name, &real, v);
                }
                Ok(real)
            }
            (Def::Const(tensor), elem) => {
                if self.written.insert(name.clone()) {
                    self.initializer(&name, &tensor, elem);
                }
                Ok(name)
            }
            (Def::Input(_) | Def::Node(..), Elem::Uniform(_)) => {
                if self.written.insert(real.clone()) {
                    self.dequantize(&format!("{name}.q"), &real, v);
                }
                Ok(real)
            }
            (Def::Input(_) | Def::Node(..), elem) => Err(format!("its operand %{name} is {elem}")),
        }
    }

    fn initializer(&mut self, name: &str, tensor: &Tensor, elem: &Elem) {
        let number = match (elem, &tensor.data) {
            (Elem::Bool, _) => 9,
            (_, Data::F32(_)) => 1,
            (_, Data::U8(_)) => 2,
            (_, Data::I8(_)) => 3,
            (_, Data::I16(_)) => 5,
            (_, Data::I32(_)) => 6,
            (_, Data::I64(_)) => 7,
        };
        self.out.initializer.push(TensorProto {
            name: name.to_string(),
            dims: tensor.dims.iter().map(|&d| d as i64).collect(),
            data_type: number,
            raw_data: tensor.data.to_bytes(),
            ..TensorProto::new()
        });
    }

    /// A constant that only this operator has; gives its name.
    fn constant(&mut self, name: String, dims: &[usize], data: Data) -> String {
        let elem = Elem::F32;
        self.initializer(&name, &Tensor::new(dims, data), &elem);
        name
    }

    fn emit(&mut self, op: &str, inputs: &[String], output: &str, attributes: Vec<(&str, Value)>) {
        let attribute = |(name, value): (&str, Value)| {
            let mut a = AttributeProto { name: name.to_string(), ..AttributeProto::new() };
            match value {
                Value::Int(i) => (a.type_, a.i) = (AttributeType::INT.into(), i),
                Value::Ints(v) => (a.type_, a.ints) = (AttributeType::INTS.into(), v),
                Value::Float(f) => (a.type_, a.f) = (AttributeType::FLOAT.into(), f),
                Value::Text(text) => (a.type_, a.s) = (AttributeType::STRING.into(), text.as_bytes().to_vec()),
            }
            a
        };
        self.out.node.push(NodeProto {
            name: format!("{output}/{op}"),
            op_type: op.to_string(),
            input: inputs.to_vec(),
            output: vec![output.to_string()],
            attribute: attributes.into_iter().map(attribute).collect(),
            ..NodeProto::new()
        });
    }

    /// Scale and zero point of a value's type as constants, and the axis along which they differ.
    fn parameters(&mut self, name: &str, u: &Uniform) -> (Vec<String>, Vec<(&'static str, Value)>) {
        let dims: &[usize] = if u.axis.is_some() { &[u.scales.len()] } else { &[] };
        let zeros = u.zero_points.iter();
        let zeros = match u.storage {
            Int::U8 | Int::U4 => Data::U8(zeros.map(|&z| z as u8).collect()),
            Int::I8 | Int::I4 => Data::I8(zeros.map(|&z| z as i8).collect()),
            Int::I16 => Data::I16(zeros.map(|&z| z as i16).collect()),
            Int::I32 | Int::I64 => Data::I32(zeros.map(|&z| z as i32).collect()),
        };
        let (scale, zero) = (format!("{name}.scale"), format!("{name}.zero_point"));
        if self.written.insert(scale.clone()) {
            self.initializer(&scale, &Tensor::f32(dims, u.scales.clone()), &Elem::F32);
            self.initializer(&zero, &Tensor::new(dims, zeros), &Elem::F32);
        }
        (vec![scale, zero], u.axis.map(|a| ("axis", Value::Int(a as i64))).into_iter().collect())
    }

    fn quantize(&mut self, from: &str, to: &str, v: ValueId) {
        let Some(u) = self.g.ty(v).uniform().cloned() else { return };
        let mut from = from.to_string();
        if (u.min, u.max) != (u.storage.min(), u.storage.max()) {
            let bound = |q: i64| Data::F32(vec![(q - u.zero_point()) as f32 * u.scale()]);
            let (lo, hi) = (bound(u.min), bound(u.max));
            let ends = [self.constant(format!("{to}.lo"), &[], lo), self.constant(format!("{to}.hi"), &[], hi)];
            let clipped = format!("{to}.clipped");
            self.emit("Clip", &[from, ends[0].clone(), ends[1].clone()], &clipped, vec![]);
            from = clipped;
        }
        let (mut inputs, attributes) = self.parameters(self.g.name_of(v), &u);
        inputs.insert(0, from);
        self.emit("QuantizeLinear", &inputs, to, attributes);
    }

    fn dequantize(&mut self, from: &str, to: &str, v: ValueId) {
        let Some(u) = self.g.ty(v).uniform().cloned() else { return };
        let (mut inputs, attributes) = self.parameters(self.g.name_of(v), &u);
        inputs.insert(0, from.to_string());
        self.emit("DequantizeLinear", &inputs, to, attributes);
    }
}

/// An input or output of real numbers.
fn interface(name: &str, ty: &Type) -> ValueInfoProto {
    let extent = |&d: &usize| Dimension { value: Some(dimension::Value::DimValue(d as i64)), ..Dimension::new() };
    let shape = TensorShapeProto { dim: ty.dims.iter().map(extent).collect(), ..TensorShapeProto::new() };
    let tensor = type_proto::Tensor { elem_type: 1, shape: Some(shape).into(), ..type_proto::Tensor::new() };
    let ty = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::new() };
    ValueInfoProto { name: name.to_string(), type_: Some(ty).into(), ..ValueInfoProto::new() }
}
