//! Names of values. Inputs and outputs of the graph keep theirs exactly, for they are its interface; other values lose a
//! leading `/`, and `/` becomes `.`, so that `/layer1/conv1/Conv_output_0` reads `layer1.conv1.Conv_output_0`.

use std::collections::HashSet;

use onnx_protobuf::GraphProto;

/// Names of the interface.
pub(crate) struct Names<'a> {
    interface: HashSet<&'a str>,
}

impl<'a> Names<'a> {
    /// Names of the inputs and outputs of a graph.
    pub(crate) fn new(graph: &'a GraphProto) -> Names<'a> {
        // Up to IR version 3 initializers are listed among the inputs.
        let constants: HashSet<&str> = graph.initializer.iter().map(|t| t.name.as_str()).collect();
        let inputs = graph.input.iter().filter(|v| !constants.contains(v.name.as_str()));
        Names { interface: inputs.chain(&graph.output).map(|v| v.name.as_str()).collect() }
    }

    /// The name of a value. It may still have to be made unique.
    pub(crate) fn value(&self, onnx: &str) -> String {
        if self.interface.contains(onnx) {
            return onnx.to_string();
        }
        let name = spelled(onnx);
        if self.interface.contains(name.as_str()) { format!("{name}.inner") } else { name }
    }
}

/// How graphs spell the name of a value that is neither input nor output.
pub(crate) fn spelled(onnx: &str) -> String {
    let name = onnx.trim_start_matches('/').replace('/', ".");
    if name.is_empty() { "value".to_string() } else { name }
}

/// The name of a graph: letters, digits, `_`, `.` and `-`.
pub(crate) fn graph(onnx: &str) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-') { c } else { '_' };
    let name: String = onnx.chars().map(letter).collect();
    if name.is_empty() { "model".into() } else { name }
}
