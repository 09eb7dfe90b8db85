//! Graphs for viewers of others: the DOT language of Graphviz, and the JSON format of Google's Model Explorer.

use std::collections::HashMap;
use std::fmt::Write as _;

use qcc_ir::{Elem, Graph, NodeId, Type, ValueId};
use serde_json::{Value, json};

/// The graph in DOT (<https://graphviz.org/doc/info/lang.html>): a box for each operation, an edge for each value; constants are left out.
pub fn dot(graph: &Graph) -> String {
    let mut out = format!("digraph {} {{\n", quoted(&graph.name));
    out.push_str("  node [shape=box, style=filled, fontname=\"sans-serif\"];\n");
    for &v in graph.inputs() {
        let label = format!("{}\n{}", graph.name_of(v), graph.ty(v));
        let _ = writeln!(out, "  {} [label={}, shape=oval, fillcolor=white];", id(graph, v), quoted(&label));
    }
    for n in graph.order() {
        let v = graph.result(n);
        let label = format!("{}\n{}\n{}", graph.op(n).name(), graph.name_of(v), short(graph.ty(v)));
        let _ = writeln!(out, "  {} [label={}, fillcolor={}];", id(graph, v), quoted(&label), colour(graph.ty(v)));
        for operand in graph.operands(n).into_iter().filter(|&o| graph.constant(o).is_none()) {
            let _ = writeln!(out, "  {} -> {};", id(graph, operand), id(graph, v));
        }
    }
    for (i, &v) in graph.outputs().iter().enumerate() {
        let _ = writeln!(out, "  output{i} [label=\"output {i}\", shape=oval, fillcolor=white];");
        let _ = writeln!(out, "  {} -> output{i};", id(graph, v));
    }
    out.push_str("}\n");
    out
}

/// The graph as Model Explorer reads it (<https://github.com/google-ai-edge/model-explorer/wiki/6.-Develop-Adapter-Extension>): a list of
/// graphs whose nodes have a name space, attributes and the nodes that they read from.
pub fn model_explorer(graph: &Graph) -> String {
    let numbers: HashMap<ValueId, usize> = graph.values().enumerate().map(|(i, v)| (v, i)).collect();
    let key = |v: ValueId| numbers[&v].to_string();
    let shown = |v: ValueId| {
        json!([{ "id": "0", "attrs": [
        { "key": "tensor_name", "value": graph.name_of(v) },
        { "key": "tensor_shape", "value": graph.ty(v).to_string() },
    ] }])
    };
    let leaf = |v: ValueId, label: &str| json!({ "id": key(v), "label": label, "namespace": "", "attrs": [], "incomingEdges": [], "outputsMetadata": shown(v) });
    let mut nodes: Vec<Value> = graph.inputs().iter().map(|&v| leaf(v, "input")).collect();
    for n in graph.order() {
        let operands = graph.operands(n);
        let edges: Vec<Value> = operands
            .iter()
            .enumerate()
            .filter(|(_, o)| graph.constant(**o).is_none())
            .map(|(i, &o)| json!({ "sourceNodeId": key(o), "sourceNodeOutputId": "0", "targetNodeInputId": i.to_string() }))
            .collect();
        let v = graph.result(n);
        nodes.push(json!({
            "id": key(v),
            "label": graph.op(n).name(),
            "namespace": namespace(graph, n),
            "attrs": attributes(graph, n),
            "incomingEdges": edges,
            "outputsMetadata": shown(v),
        }));
    }
    for (i, &v) in graph.outputs().iter().enumerate() {
        let edge = json!({ "sourceNodeId": key(v), "sourceNodeOutputId": "0", "targetNodeInputId": "0" });
        let id = format!("output{i}");
        nodes.push(json!({ "id": id, "label": "output", "namespace": "", "attrs": [], "incomingEdges": [edge] }));
    }
    let text = json!([{ "label": graph.name, "graphs": [{ "id": graph.name, "nodes": nodes }] }]);
    format!("{text}\n")
}

/// Name, constants and origin of a node.
fn attributes(graph: &Graph, n: NodeId) -> Vec<Value> {
    let attr = |key: &str, value: String| json!({ "key": key, "value": value });
    let mut list = vec![attr("operation", qcc_ir::print::node_text(graph, n))];
    for (i, o) in graph.operands(n).into_iter().enumerate().filter(|(_, o)| graph.constant(*o).is_some()) {
        list.push(attr(&format!("operand {i}"), format!("@{} : {}", graph.name_of(o), short(graph.ty(o)))));
    }
    list.extend(graph.node(n).origin.as_ref().map(|o| attr("onnx", o.to_string())));
    list
}

/// The modules that an ONNX node lies in, by its name: `layer1/conv2` of `/layer1/conv2/Conv`.
fn namespace(graph: &Graph, n: NodeId) -> String {
    let name = graph.node(n).origin.as_ref().map_or("", |o| o.name.as_str());
    name.trim_matches('/').rsplit_once('/').map_or(String::new(), |(folder, _)| folder.to_string())
}

/// A type without the scales of channels.
fn short(ty: &Type) -> String {
    match &ty.elem {
        Elem::Uniform(u) if u.axis.is_some() => {
            let dims: Vec<String> = ty.dims.iter().map(usize::to_string).collect();
            format!("{} of {}, a scale for each of {} channels", u.format, dims.join("x"), u.scales.len())
        }
        _ => ty.to_string(),
    }
}

/// By numeric state, as the explorer's page colours nodes.
fn colour(ty: &Type) -> &'static str {
    match &ty.elem {
        Elem::F32 => "\"#fde2c8\"",
        Elem::Calibrated(_) => "\"#fdf0b8\"",
        Elem::Uniform(_) => "\"#cfe8d4\"",
        Elem::Int(_) | Elem::Bool => "\"#cfe0f5\"",
    }
}

fn id(graph: &Graph, v: ValueId) -> String {
    quoted(&format!("%{}", graph.name_of(v)))
}

/// A string of DOT, in which quotes and backslashes are escaped and a line ends with `\n`.
fn quoted(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph() -> Graph {
        let text = "graph @\"a \\\"b\"(%x: tensor<1x2xf32>) -> (tensor<1x2xf32>) {\n  const @w : tensor<2x2xf32> = dense<[1.0, 2.0, 3.0, \
                    4.0]>\n  %\"y \\\"1\\\\\" = nn.linear(%x, @w) : tensor<1x2xf32> loc(\"/block/fc/Gemm\" Gemm 17)\n  return %\"y \
                    \\\"1\\\\\"\n}\n";
        qcc_ir::parse(text, &|_| Err(std::io::ErrorKind::NotFound.into())).unwrap()
    }

    #[test]
    fn names_are_escaped_in_dot() {
        let text = dot(&graph());
        assert!(text.contains("\"%x\" -> \"%y \\\"1\\\\\";"), "{text}");
        assert!(!text.contains("@w") && text.contains("-> output0"), "{text}");
    }

    #[test]
    fn model_explorer_has_edges_and_name_spaces() {
        let value: Value = serde_json::from_str(&model_explorer(&graph())).unwrap();
        let nodes = value[0]["graphs"][0]["nodes"].as_array().unwrap();
        let find = |label: &str| nodes.iter().find(|n| n["label"] == label).unwrap();
        let (input, linear, output) = (find("input"), find("nn.linear"), find("output"));
        assert_eq!(linear["namespace"], "block/fc");
        assert_eq!(linear["incomingEdges"][0]["sourceNodeId"], input["id"]);
        assert_eq!(output["incomingEdges"][0]["sourceNodeId"], linear["id"]);
        assert_eq!(linear["incomingEdges"].as_array().unwrap().len(), 1);
    }
}
