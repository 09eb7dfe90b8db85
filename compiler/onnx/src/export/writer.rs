//! The file that is written: nodes, constants, and casts between real and quantized values.

use std::collections::HashSet;

use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::tensor_shape_proto::{Dimension, dimension};
use onnx_protobuf::{
    AttributeProto, GraphProto, NodeProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};
use qcc_ir::{Data, Def, Elem, Graph, Int, NodeId, Tensor, Type, Uniform, ValueId};

pub(crate) struct Writer<'g> {
    pub(super) g: &'g Graph,
    pub(super) out: GraphProto,
    /// Names of initializers and of dequantized values that are there already.
    written: HashSet<String>,
}

/// A node of the graph that is to be written: by which ONNX operator, on which real values, and the name of its result.
pub(crate) struct Item<'a> {
    pub(super) node: NodeId,
    pub(super) onnx: &'static str,
    pub(super) operands: Vec<String>,
    pub(super) real: &'a str,
}

/// How a node is written.
pub(crate) type Write = fn(&mut Writer, Item) -> Result<(), String>;

/// An attribute of an ONNX node.
pub(super) enum Value {
    Int(i64),
    Ints(Vec<i64>),
    Float(f32),
    Text(&'static str),
}

impl<'g> Writer<'g> {
    pub(super) fn new(g: &'g Graph) -> Writer<'g> {
        Writer { g, out: GraphProto::new(), written: HashSet::new() }
    }

    /// The name of the real value that an operand stands for.
    pub(super) fn operand(&mut self, v: ValueId) -> Result<String, String> {
        let g = self.g;
        let name = g.name_of(v).to_string();
        let real = format!("{name}.dq");
        match (g.def(v), &g.ty(v).elem) {
            // A bias of 64 bits has no type to be dequantized from, unless it fits 32.
            (Def::Const(tensor), Elem::Uniform(u)) if u.storage() == Int::I64 => {
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
            dims: tensor.dims.iter().copied().map(extent).collect(),
            data_type: number,
            raw_data: tensor.data.to_bytes(),
            ..TensorProto::new()
        });
    }

    /// A constant that only this operator has; gives its name.
    pub(super) fn constant(&mut self, name: String, dims: &[usize], data: Data) -> String {
        let elem = Elem::F32;
        self.initializer(&name, &Tensor::new(dims, data), &elem);
        name
    }

    pub(super) fn emit(&mut self, op: &str, inputs: &[String], output: &str, attributes: Vec<(&str, Value)>) {
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
        let zeros = match u.storage() {
            Int::U8 | Int::U4 => Data::U8(stored(&u.zero_points)),
            Int::I8 | Int::I4 => Data::I8(stored(&u.zero_points)),
            Int::I16 => Data::I16(stored(&u.zero_points)),
            Int::I32 | Int::I64 => Data::I32(stored(&u.zero_points)),
        };
        let (scale, zero) = (format!("{name}.scale"), format!("{name}.zero_point"));
        if self.written.insert(scale.clone()) {
            self.initializer(&scale, &Tensor::f32(dims, u.scales.clone()), &Elem::F32);
            self.initializer(&zero, &Tensor::new(dims, zeros), &Elem::F32);
        }
        (vec![scale, zero], u.axis.map(|a| ("axis", Value::Int(extent(a)))).into_iter().collect())
    }

    pub(super) fn quantize(&mut self, from: &str, to: &str, v: ValueId) {
        let Some(u) = self.g.ty(v).uniform().cloned() else { return };
        let mut from = from.to_string();
        if (u.min(), u.max()) != (u.storage().min(), u.storage().max()) {
            let bound = |q: i64| Data::F32(vec![(q - u.zero_point()) as f32 * u.scale()]);
            let (lo, hi) = (bound(u.min()), bound(u.max()));
            let ends = [self.constant(format!("{to}.lo"), &[], lo), self.constant(format!("{to}.hi"), &[], hi)];
            let clipped = format!("{to}.clipped");
            self.emit("Clip", &[from, ends[0].clone(), ends[1].clone()], &clipped, vec![]);
            from = clipped;
        }
        let (mut inputs, attributes) = self.parameters(self.g.name_of(v), &u);
        inputs.insert(0, from);
        self.emit("QuantizeLinear", &inputs, to, attributes);
    }

    pub(super) fn dequantize(&mut self, from: &str, to: &str, v: ValueId) {
        let Some(u) = self.g.ty(v).uniform().cloned() else { return };
        let (mut inputs, attributes) = self.parameters(self.g.name_of(v), &u);
        inputs.insert(0, from.to_string());
        self.emit("DequantizeLinear", &inputs, to, attributes);
    }
}

/// Zero points in their storage, which holds them: types are verified.
fn stored<T: TryFrom<i64>>(zeros: &[i64]) -> Vec<T> {
    zeros.iter().filter_map(|&z| T::try_from(z).ok()).collect()
}

/// The extent of a tensor in memory.
fn extent(d: usize) -> i64 {
    i64::try_from(d).unwrap_or(i64::MAX)
}

/// An input or output of real numbers.
pub(super) fn interface(name: &str, ty: &Type) -> ValueInfoProto {
    let known = |&d: &usize| Dimension { value: Some(dimension::Value::DimValue(extent(d))), ..Dimension::new() };
    let shape = TensorShapeProto { dim: ty.dims.iter().map(known).collect(), ..TensorShapeProto::new() };
    let tensor = type_proto::Tensor { elem_type: 1, shape: Some(shape).into(), ..type_proto::Tensor::new() };
    let ty = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::new() };
    ValueInfoProto { name: name.to_string(), type_: Some(ty).into(), ..ValueInfoProto::new() }
}
