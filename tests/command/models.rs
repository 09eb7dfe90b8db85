//! Small ONNX models, written as bytes.

/// Fields of the protobuf wire format.
pub fn field(number: u64, content: &[u8]) -> Vec<u8> {
    [varint(number << 3 | 2), varint(content.len() as u64), content.to_vec()].concat()
}

pub fn number(number: u64, value: u64) -> Vec<u8> {
    [varint(number << 3), varint(value)].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

/// An ONNX model with operators of one input and one output: name, input, output.
pub fn model(nodes: &[(&str, &str, &str)], dims: &[u64]) -> Vec<u8> {
    let value = |name: &str| {
        let dims: Vec<u8> = dims.iter().flat_map(|&d| field(1, &number(1, d))).collect();
        let tensor = [number(1, 1), field(2, &dims)].concat();
        [field(1, name.as_bytes()), field(2, &field(1, &tensor))].concat()
    };
    let nodes = nodes.iter().map(|(op, from, to)| {
        field(1, &[field(1, from.as_bytes()), field(2, to.as_bytes()), field(4, op.as_bytes())].concat())
    });
    let mut graph = nodes.collect::<Vec<_>>().concat();
    graph.extend([field(2, b"g"), field(11, &value("x")), field(12, &value("y"))].concat());
    [number(1, 8), field(8, &number(2, 17)), field(7, &graph)].concat()
}
