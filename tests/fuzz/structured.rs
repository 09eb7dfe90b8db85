//! Changes to ONNX models that stay readable: attributes, operators, names, shapes, types and weights.

use onnx_protobuf::{AttributeProto, GraphProto, Message as _, ModelProto, NodeProto, TensorProto};

use super::mutate::{INTEGERS, Mutator, REALS};

/// Operators that take the place of others.
const OPERATORS: [&str; 60] = [
    "Relu",
    "Sigmoid",
    "Conv",
    "MaxPool",
    "AveragePool",
    "Add",
    "Mul",
    "Sub",
    "Div",
    "Concat",
    "Reshape",
    "Transpose",
    "MatMul",
    "Gemm",
    "Softmax",
    "BatchNormalization",
    "LayerNormalization",
    "InstanceNormalization",
    "Clip",
    "Resize",
    "Slice",
    "Pad",
    "Gather",
    "ReduceMean",
    "ReduceSum",
    "Split",
    "Squeeze",
    "Unsqueeze",
    "Flatten",
    "Expand",
    "Tile",
    "Where",
    "Cast",
    "QuantizeLinear",
    "DequantizeLinear",
    "ConvTranspose",
    "GlobalAveragePool",
    "LSTM",
    "GRU",
    "TopK",
    "ArgMax",
    "PRelu",
    "LeakyRelu",
    "Pow",
    "Sqrt",
    "Exp",
    "Log",
    "Erf",
    "Min",
    "Max",
    "Sum",
    "DepthToSpace",
    "CumSum",
    "Einsum",
    "Range",
    "Shape",
    "If",
    "QLinearConv",
    "GroupNormalization",
    "Attention",
];

/// Texts of attributes.
const TEXTS: [&[u8]; 8] =
    [b"", b"SAME_UPPER", b"SAME_LOWER", b"VALID", b"linear", b"cubic", b"align_corners", b"\xff\xfe"];

/// A model with some things changed; bytes that are no model are changed as bytes.
pub fn model(m: &mut Mutator, input: &[u8], other: &[u8]) -> Vec<u8> {
    let Ok(mut model) = ModelProto::parse_from_bytes(input) else { return m.bytes(input, other) };
    if m.random.below(4) == 0 {
        return m.bytes(input, other);
    }
    for _ in 0..m.changes() {
        if let Some(opset) = model.opset_import.first_mut().filter(|_| m.random.below(24) == 0) {
            opset.version = m.random.pick(&[1, 6, 7, 9, 11, 13, 17, 18, 19, 21, 24, 100]);
        }
        if let Some(graph) = model.graph.as_mut() {
            change(m, graph);
        }
    }
    model.write_to_bytes().unwrap_or_default()
}

fn change(m: &mut Mutator, graph: &mut GraphProto) {
    let mut names: Vec<String> = graph.input.iter().map(|i| i.name.clone()).collect();
    names.extend(graph.initializer.iter().map(|t| t.name.clone()));
    names.extend(graph.node.iter().flat_map(|n| n.output.iter().cloned()));
    names.push(String::new());
    let nodes = graph.node.len();
    let node = m.random.below(nodes.max(1));
    match m.random.below(12) {
        0..=4 => {
            if let Some(node) = graph.node.get_mut(node) {
                change_node(m, node, &names);
            }
        }
        5 | 6 => {
            let which = m.random.below(graph.initializer.len().max(1));
            if let Some(tensor) = graph.initializer.get_mut(which) {
                change_tensor(m, tensor);
            }
        }
        7 if nodes > 0 => graph.node.push(graph.node[node].clone()),
        8 if nodes > 1 => drop(graph.node.remove(node)),
        9 if nodes > 1 => {
            let other = m.random.below(nodes);
            graph.node.swap(node, other);
        }
        10 => {
            if let Some(output) = graph.output.first_mut() {
                output.name = m.random.pick(&names);
            }
        }
        _ => {
            let which = m.random.below(graph.input.len().max(1));
            if let Some(input) = graph.input.get_mut(which) {
                change_shape(m, input);
            }
        }
    }
}

fn change_node(m: &mut Mutator, node: &mut NodeProto, names: &[String]) {
    let which = m.random.below(node.attribute.len().max(1));
    match m.random.below(8) {
        0..=3 => {
            if let Some(attribute) = node.attribute.get_mut(which) {
                change_attribute(m, attribute);
            }
        }
        4 => node.op_type = m.random.pick(&OPERATORS).to_string(),
        5 if !node.input.is_empty() => {
            let which = m.random.below(node.input.len());
            node.input[which] = names[m.random.below(names.len())].clone();
        }
        6 => node.input.push(names[m.random.below(names.len())].clone()),
        _ if which < node.attribute.len() => drop(node.attribute.remove(which)),
        _ => drop(node.input.pop()),
    }
}

fn change_attribute(m: &mut Mutator, attribute: &mut AttributeProto) {
    if m.random.below(16) == 0 {
        attribute.type_ = protobuf::EnumOrUnknown::from_i32(m.random.below(16) as i32);
    }
    attribute.i = m.random.pick(&INTEGERS);
    attribute.f = m.random.pick(&REALS);
    attribute.s = m.random.pick(&TEXTS).to_vec();
    let (integer, real) = (m.random.pick(&INTEGERS), m.random.pick(&REALS));
    match m.random.below(4) {
        0 => attribute.ints.push(integer),
        1 => drop(attribute.ints.pop()),
        2 => attribute.ints.fill(integer),
        _ => {
            let which = m.random.below(attribute.ints.len().max(1));
            attribute.ints.get_mut(which).into_iter().for_each(|i| *i = integer);
            attribute.floats.first_mut().into_iter().for_each(|f| *f = real);
        }
    }
}

fn change_tensor(m: &mut Mutator, tensor: &mut TensorProto) {
    match m.random.below(6) {
        0 => {
            let which = m.random.below(tensor.dims.len().max(1));
            let extent = m.random.pick(&INTEGERS);
            tensor.dims.get_mut(which).into_iter().for_each(|d| *d = extent);
        }
        1 => tensor.data_type = m.random.below(26) as i32,
        2 => {
            let half = tensor.raw_data.len() / 2;
            tensor.raw_data.truncate(half);
        }
        3 => tensor.dims.push(m.random.pick(&[0, 1, 2, -1])),
        _ => {
            let real = m.random.pick(&REALS);
            let all = m.random.below(2) == 0;
            let which = m.random.below(tensor.raw_data.len().max(4) / 4);
            let numbers = tensor.raw_data.as_chunks_mut::<4>().0.iter_mut().enumerate();
            numbers.filter(|(i, _)| all || *i == which).for_each(|(_, n)| *n = real.to_le_bytes());
            tensor.float_data.iter_mut().for_each(|f| *f = real);
        }
    }
}

fn change_shape(m: &mut Mutator, input: &mut onnx_protobuf::ValueInfoProto) {
    let Some(ty) = input.type_.as_mut().filter(|ty| ty.has_tensor_type()) else { return };
    let tensor = ty.mut_tensor_type();
    if m.random.below(8) == 0 {
        tensor.elem_type = m.random.below(20) as i32;
    }
    let Some(shape) = tensor.shape.as_mut() else { return };
    let which = m.random.below(shape.dim.len().max(1));
    match m.random.below(4) {
        0 => shape.dim.push(shape.dim.first().cloned().unwrap_or_default()),
        1 => drop(shape.dim.pop()),
        _ => {
            let extent = m.random.pick(&[0, 1, 2, 3, 5, -1, 64, 1000, 1 << 31, 1 << 62]);
            shape.dim.get_mut(which).into_iter().for_each(|d| d.set_dim_value(extent));
        }
    }
}
