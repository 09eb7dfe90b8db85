//! The file that is written: nodes, constants, and casts between real and quantized values.

use std::collections::{HashMap, HashSet};

use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::tensor_shape_proto::{Dimension, dimension};
use onnx_protobuf::{
    AttributeProto, GraphProto, NodeProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};
use qcc_ir::format::Grid;
use qcc_ir::{Attrs, Data, Def, Elem, Graph, Int, NodeId, Tensor, Uniform, ValueId};

use super::Addend;

/// Numbers of element types in files.
pub(super) const FLOAT: i32 = 1;
const BOOL: i32 = 9;

/// The number of an integer type.
pub(super) fn number(int: Int) -> i32 {
    match int {
        Int::U8 | Int::U4 => 2,
        Int::I8 | Int::I4 => 3,
        Int::I16 => 5,
        Int::I32 => 6,
        Int::I64 => 7,
    }
}

/// How the integers of a quantized type are written: in 4 bits where these hold all of them, else as they are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    Nibbles(Int),
    Whole(Int),
}

impl Stored {
    pub(super) fn of(u: &Uniform) -> Stored {
        let holds = |&int: &Int| Int::min(int) <= u.min() && u.max() <= Int::max(int);
        let nibbles = match u.storage() {
            Int::U8 | Int::U4 => Some(Int::U4),
            Int::I8 | Int::I4 => Some(Int::I4),
            Int::I16 | Int::I32 | Int::I64 => None,
        };
        nibbles.filter(holds).map_or(Stored::Whole(u.storage()), Stored::Nibbles)
    }

    /// The number of the type.
    fn number(self) -> i32 {
        match self {
            Stored::Nibbles(Int::U4) => 21,
            Stored::Nibbles(_) => 22,
            Stored::Whole(int) => number(int),
        }
    }

    /// Least and greatest integer of the type.
    fn ends(self) -> (i64, i64) {
        let (Stored::Nibbles(int) | Stored::Whole(int)) = self;
        (Int::min(int), Int::max(int))
    }

    /// Elements as a file holds them: two nibbles a byte, the first in the low half.
    fn bytes(self, data: &Data) -> Vec<u8> {
        let bytes = data.to_bytes();
        match self {
            Stored::Nibbles(_) => {
                bytes.chunks(2).map(|pair| pair[0] & 15 | pair.get(1).map_or(0, |high| high << 4)).collect()
            }
            Stored::Whole(_) => bytes,
        }
    }
}

/// The number of the type in which a value that is no quantized one is written.
pub(super) fn number_of(elem: &Elem) -> i32 {
    match elem {
        Elem::Bool => BOOL,
        Elem::Int(int) => number(*int),
        Elem::F32 | Elem::Calibrated(_) | Elem::Uniform(_) => FLOAT,
    }
}

pub(crate) struct Writer<'g> {
    pub(super) g: &'g Graph,
    pub(super) out: GraphProto,
    /// All names in the file.
    taken: HashSet<String>,
    /// Names of values as they are stored: codes, plain integers, booleans.
    stored: HashMap<ValueId, String>,
    /// Names of values as real numbers.
    real: HashMap<ValueId, String>,
    /// Other real numbers of values, for the node that is being written.
    addends: HashMap<ValueId, Addend>,
    /// Real numbers of which constants were rounded, by their names.
    shadows: &'g HashMap<String, Vec<f32>>,
    /// Names of the scale and zero point of a value's type.
    parameters: HashMap<ValueId, [String; 2]>,
}

/// A node of the graph that is to be written: by which ONNX operator, on which operands, and the name of its result.
pub(crate) struct Item<'a> {
    pub(super) node: NodeId,
    /// The node's own, or those of a part of its function.
    pub(super) attrs: &'a Attrs,
    pub(super) onnx: &'static str,
    pub(super) operands: Vec<String>,
    pub(super) result: &'a str,
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
    /// A file whose inputs and outputs alone have these names.
    pub(super) fn new(
        g: &'g Graph,
        interface: impl Iterator<Item = String>,
        shadows: &'g HashMap<String, Vec<f32>>,
    ) -> Writer<'g> {
        Writer {
            g,
            out: GraphProto::new(),
            taken: interface.collect(),
            stored: HashMap::new(),
            real: HashMap::new(),
            addends: HashMap::new(),
            shadows,
            parameters: HashMap::new(),
        }
    }

    /// A name that nothing else has: `base` if it is free.
    pub(super) fn fresh(&mut self, base: &str) -> String {
        let numbered = |i: usize| if i == 0 { base.to_string() } else { format!("{base}.{i}") };
        let name = (0..).map(numbered).find(|name| !self.taken.contains(name)).unwrap_or_default();
        self.taken.insert(name.clone());
        name
    }

    /// Says under which name a value is stored.
    pub(super) fn store_as(&mut self, v: ValueId, name: &str) {
        self.stored.insert(v, name.to_string());
    }

    /// Says which real numbers a value is.
    pub(super) fn real_as(&mut self, v: ValueId, name: &str) {
        self.real.insert(v, name.to_string());
    }

    /// The name of what an operator reads: real numbers, plain integers or booleans.
    pub(super) fn operand(&mut self, v: ValueId) -> Result<String, String> {
        match &self.g.ty(v).elem {
            Elem::Uniform(_) | Elem::F32 => self.real(v),
            Elem::Int(_) | Elem::Bool => self.codes(v),
            elem @ Elem::Calibrated(_) => Err(format!("its operand %{} is {elem}", self.g.name_of(v))),
        }
    }

    /// The name of a value as it is stored.
    pub(super) fn codes(&mut self, v: ValueId) -> Result<String, String> {
        if let Some(name) = self.stored.get(&v) {
            return Ok(name.clone());
        }
        let g = self.g;
        let Some(tensor) = g.constant(v) else { return Err(format!("its operand %{} is not written", g.name_of(v))) };
        let name = self.fresh(g.name_of(v));
        if let Some(shadows) = self.shadows(v, tensor) {
            self.initializer(&name, &Tensor::f32(&tensor.dims, shadows), FLOAT);
            let codes = self.fresh(&format!("{name}.q"));
            self.round(&name, &codes, v);
            self.stored.insert(v, codes.clone());
            return Ok(codes);
        }
        match &g.ty(v).elem {
            Elem::Bool => self.initializer(&name, tensor, BOOL),
            Elem::Uniform(u) => self.integers(&name, tensor, Stored::of(u)),
            _ => self.initializer(&name, tensor, data_number(&tensor.data)),
        }
        self.stored.insert(v, name.clone());
        Ok(name)
    }

    /// The real numbers of which a constant was rounded, where its type is linear. What `QuantizeLinear`, the nearest integer of a quotient in single precision and of two
    /// the even one, would round to another code is the real number of the code.
    fn shadows(&self, v: ValueId, tensor: &Tensor) -> Option<Vec<f32>> {
        let own = self.shadows.get(self.g.name_of(v)).filter(|own| own.len() == tensor.data.len())?;
        let u = self
            .g
            .ty(v)
            .uniform()
            .filter(|u| u.storage().bits() <= 8 && !matches!(u.format.grid(), Grid::Levels(_)))?;
        let inner: usize = u.axis.map_or(1, |axis| tensor.dims[axis + 1..].iter().product());
        let (least, greatest) = Stored::of(u).ends();
        let one = |(i, (&shadow, q)): (usize, (&f32, i64))| {
            let channel = if u.axis.is_some() { i / inner.max(1) % u.scales.len() } else { 0 };
            let (scale, zero) = (u.scales[channel], u.zero_points[channel]);
            let rounded =
                (f64::from((shadow / scale).round_ties_even()) + zero as f64).clamp(least as f64, greatest as f64);
            if rounded == q as f64 { shadow } else { (q - zero) as f32 * scale }
        };
        let codes: Vec<i64> = match &tensor.data {
            Data::I8(v) => v.iter().map(|&q| q.into()).collect(),
            Data::U8(v) => v.iter().map(|&q| q.into()).collect(),
            _ => return None,
        };
        Some(own.iter().zip(codes).enumerate().map(one).collect())
    }

    /// Lets the next node read other real numbers than a value's type says.
    pub(super) fn read_as(&mut self, v: ValueId, addend: &Addend) {
        self.addends.insert(v, addend.clone());
    }

    /// Ends [`Writer::read_as`].
    pub(super) fn read_as_typed(&mut self) {
        self.addends.clear();
    }

    fn addend(&mut self, v: ValueId, addend: &Addend) -> Result<String, String> {
        let name = self.g.name_of(v).to_string();
        let Some(u) = self.g.ty(v).uniform().cloned() else { return Err(format!("%{name} has no scale")) };
        let added = self.fresh(&format!("{name}.added"));
        match addend {
            Addend::Floor { factor, term, zero, unit } => {
                let steps = [("Mul", *factor), ("Add", *term), ("Floor", 0.0), ("Sub", *zero), ("Mul", *unit)];
                let names = ["factor", "term", "", "zero", "unit"];
                let mut from = self.real_by_type(v)?;
                for (i, ((op, number), name)) in steps.into_iter().zip(names).enumerate() {
                    let to = if i == 4 { added.clone() } else { self.fresh(&format!("{added}.{i}")) };
                    let mut inputs = vec![from];
                    if op != "Floor" {
                        inputs.push(self.constant(&format!("{added}.{name}"), &[], Data::F32(vec![number])));
                    }
                    self.emit(op, &inputs, &to, vec![]);
                    from = to;
                }
            }
            Addend::Scale(scale) => {
                let (codes, own) = (self.codes(v)?, Uniform::per_tensor(u.format.clone(), *scale, u.zero_point()));
                self.cast_as("DequantizeLinear", &codes, &added, &own, &added);
            }
        }
        Ok(added)
    }

    fn real(&mut self, v: ValueId) -> Result<String, String> {
        if let Some(addend) = self.addends.get(&v).cloned() {
            return self.addend(v, &addend);
        }
        self.real_by_type(v)
    }

    fn real_by_type(&mut self, v: ValueId) -> Result<String, String> {
        if let Some(name) = self.real.get(&v) {
            return Ok(name.clone());
        }
        let g = self.g;
        let name = match (g.def(v), &g.ty(v).elem) {
            (Def::Const(tensor), Elem::Uniform(u)) if u.storage() == Int::I64 => self.wide_bias(v, &tensor, u),
            (_, Elem::Uniform(_)) => {
                let codes = self.codes(v)?;
                let real = self.fresh(&format!("{}.dq", g.name_of(v)));
                self.dequantize(&codes, &real, v);
                real
            }
            (Def::Const(tensor), _) => {
                let name = self.fresh(g.name_of(v));
                self.initializer(&name, &tensor, FLOAT);
                name
            }
            (Def::Input(_) | Def::Node(..), _) => return Err(format!("its operand %{} is not written", g.name_of(v))),
        };
        self.real.insert(v, name.clone());
        Ok(name)
    }

    /// A bias of 64 bits has no type to be dequantized from, unless it fits 32.
    fn wide_bias(&mut self, v: ValueId, tensor: &Tensor, u: &Uniform) -> String {
        let codes = tensor.as_i64().unwrap_or_default();
        let real = self.fresh(&format!("{}.dq", self.g.name_of(v)));
        let narrow: Option<Vec<i32>> = codes.iter().map(|&q| i32::try_from(q).ok()).collect();
        if let Some(narrow) = narrow {
            let name = self.fresh(self.g.name_of(v));
            self.initializer(&name, &Tensor::new(&tensor.dims, Data::I32(narrow)), number(Int::I32));
            self.dequantize(&name, &real, v);
        } else {
            let scale = |i: usize| u.scales[if u.axis.is_some() { i } else { 0 }];
            let reals = codes.iter().enumerate().map(|(i, &q)| q as f32 * scale(i)).collect();
            self.initializer(&real, &Tensor::f32(&tensor.dims, reals), FLOAT);
        }
        real
    }

    fn initializer(&mut self, name: &str, tensor: &Tensor, data_type: i32) {
        self.raw(name, &tensor.dims, data_type, tensor.data.to_bytes());
    }

    /// Integers of a quantized type.
    fn integers(&mut self, name: &str, tensor: &Tensor, stored: Stored) {
        self.raw(name, &tensor.dims, stored.number(), stored.bytes(&tensor.data));
    }

    fn raw(&mut self, name: &str, dims: &[usize], data_type: i32, raw_data: Vec<u8>) {
        let dims = dims.iter().copied().map(extent).collect();
        self.out.initializer.push(TensorProto {
            name: name.to_string(),
            dims,
            data_type,
            raw_data,
            ..TensorProto::new()
        });
    }

    /// A constant that only one node has; gives its name.
    pub(super) fn constant(&mut self, name: &str, dims: &[usize], data: Data) -> String {
        let name = self.fresh(name);
        let ty = data_number(&data);
        self.initializer(&name, &Tensor::new(dims, data), ty);
        name
    }

    pub(super) fn emit(&mut self, op: &str, inputs: &[String], output: &str, attributes: Vec<(&str, Value)>) {
        self.emit_all(op, inputs, &[output], attributes);
    }

    /// A node of several results, of which those without a name are not asked for.
    pub(super) fn emit_all(&mut self, op: &str, inputs: &[String], outputs: &[&str], attributes: Vec<(&str, Value)>) {
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
            name: format!("{}/{op}", outputs.iter().find(|o| !o.is_empty()).unwrap_or(&"")),
            op_type: op.to_string(),
            input: inputs.to_vec(),
            output: outputs.iter().map(ToString::to_string).collect(),
            attribute: attributes.into_iter().map(attribute).collect(),
            ..NodeProto::new()
        });
    }

    /// Scale and zero point as constants, and the axis along which they differ.
    fn parameters(&mut self, v: ValueId, u: &Uniform) -> (Vec<String>, Vec<(&'static str, Value)>) {
        let names = match self.parameters.get(&v) {
            Some(names) => names.clone(),
            None => {
                let g = self.g;
                let names = self.parameters_of(g.name_of(v), u);
                self.parameters.insert(v, names.clone());
                names
            }
        };
        (names.to_vec(), u.axis.map(|a| ("axis", Value::Int(extent(a)))).into_iter().collect())
    }

    fn parameters_of(&mut self, name: &str, u: &Uniform) -> [String; 2] {
        let dims: &[usize] = if u.axis.is_some() { &[u.scales.len()] } else { &[] };
        let zeros = match u.storage() {
            Int::U8 | Int::U4 => Data::U8(stored(&u.zero_points)),
            Int::I8 | Int::I4 => Data::I8(stored(&u.zero_points)),
            Int::I16 => Data::I16(stored(&u.zero_points)),
            Int::I32 | Int::I64 => Data::I32(stored(&u.zero_points)),
        };
        let scale = self.constant(&format!("{name}.scale"), dims, Data::F32(u.scales.clone()));
        let zero = self.fresh(&format!("{name}.zero_point"));
        let stored = match u.storage() {
            // There are no zero points of 64 bits.
            Int::I64 => Stored::Whole(Int::I32),
            _ => Stored::of(u),
        };
        self.integers(&zero, &Tensor::new(dims, zeros), stored);
        [scale, zero]
    }

    /// Quantizes real numbers to the type of a value.
    pub(super) fn quantize(&mut self, from: &str, to: &str, v: ValueId) {
        let Some(u) = self.g.ty(v).uniform().cloned() else { return };
        let mut from = from.to_string();
        if (u.min(), u.max()) != Stored::of(&u).ends() {
            let bound = |q: i64| Data::F32(vec![(q - u.zero_point()) as f32 * u.scale()]);
            let (lo, hi) = (bound(u.min()), bound(u.max()));
            let ends = [self.constant(&format!("{to}.lo"), &[], lo), self.constant(&format!("{to}.hi"), &[], hi)];
            let clipped = self.fresh(&format!("{to}.clipped"));
            self.emit("Clip", &[from, ends[0].clone(), ends[1].clone()], &clipped, vec![]);
            from = clipped;
        }
        self.round(&from, to, v);
    }

    /// Real numbers within the bounds of a value's type to its codes.
    fn round(&mut self, from: &str, to: &str, v: ValueId) {
        let Some(u) = self.g.ty(v).uniform().cloned() else { return };
        let (mut inputs, attributes) = self.parameters(v, &u);
        inputs.insert(0, from.to_string());
        self.emit("QuantizeLinear", &inputs, to, attributes);
    }

    pub(super) fn dequantize(&mut self, from: &str, to: &str, v: ValueId) {
        let Some(u) = self.g.ty(v).uniform().cloned() else { return };
        let (mut inputs, attributes) = self.parameters(v, &u);
        inputs.insert(0, from.to_string());
        self.emit("DequantizeLinear", &inputs, to, attributes);
    }

    /// A cast of type `u`, which is no value's own, under names made of `name`.
    pub(super) fn cast_as(&mut self, op: &str, from: &str, to: &str, u: &Uniform, name: &str) {
        let [scale, zero] = self.parameters_of(name, u);
        self.emit(op, &[from.to_string(), scale, zero], to, vec![]);
    }
}

/// Zero points in their storage, which holds them: types are verified.
fn stored<T: TryFrom<i64>>(zeros: &[i64]) -> Vec<T> {
    zeros.iter().filter_map(|&z| T::try_from(z).ok()).collect()
}

/// The number of the type of plain data.
fn data_number(data: &Data) -> i32 {
    match data {
        Data::F32(_) => FLOAT,
        Data::U8(_) => number(Int::U8),
        Data::I8(_) => number(Int::I8),
        Data::I16(_) => number(Int::I16),
        Data::I32(_) => number(Int::I32),
        Data::I64(_) => number(Int::I64),
    }
}

/// The extent of a tensor in memory.
pub(super) fn extent(d: usize) -> i64 {
    i64::try_from(d).unwrap_or(i64::MAX)
}

/// An input or output.
pub(super) fn interface(name: &str, dims: &[usize], elem_type: i32) -> ValueInfoProto {
    let known = |&d: &usize| Dimension { value: Some(dimension::Value::DimValue(extent(d))), ..Dimension::new() };
    let shape = TensorShapeProto { dim: dims.iter().map(known).collect(), ..TensorShapeProto::new() };
    let tensor = type_proto::Tensor { elem_type, shape: Some(shape).into(), ..type_proto::Tensor::new() };
    let ty = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::new() };
    ValueInfoProto { name: name.to_string(), type_: Some(ty).into(), ..ValueInfoProto::new() }
}
