//! Local functions of a model are replaced by their bodies.

use std::collections::{HashMap, HashSet};

use onnx_protobuf::{AttributeProto, FunctionProto, NodeProto};

use qcc_ir::Budget;

use crate::fault::{Fault, Outcome};
use crate::model::{Model, domain};

/// Deepest nesting of calls. Functions may not recurse, but a file can say so.
const DEPTH: usize = 16;
/// Nodes after replacement for each that a graph may have: most of what exporters write goes away when constants are folded.
pub(crate) const NODES: usize = 4;

/// Takes the nodes out of the model's graph, calls replaced by the bodies of the functions.
pub(crate) fn inline(model: &mut Model, budget: &Budget) -> Outcome<Vec<NodeProto>> {
    let nodes = std::mem::take(&mut model.graph.node);
    if model.functions.is_empty() {
        return Ok(nodes);
    }
    let own = nodes.iter().flat_map(|n| n.output.iter().chain(&n.input));
    let given = model.graph.input.iter().map(|i| &i.name).chain(model.graph.initializer.iter().map(|t| &t.name));
    let mut taken: HashSet<String> = own.chain(given).cloned().collect();
    let mut done = Vec::new();
    let mut waiting: Vec<(NodeProto, usize)> = nodes.into_iter().rev().map(|n| (n, 0)).collect();
    while let Some((node, depth)) = waiting.pop() {
        let own = domain(&node.domain);
        let called = model
            .functions
            .iter()
            .find(|f| f.name == node.op_type && domain(&f.domain) == own && f.overload == node.overload);
        match called {
            None => done.push(node),
            Some(function) => {
                if depth == DEPTH {
                    return Err(Fault::unsupported(format!("function {} is nested too deep", function.name)));
                }
                budget.check_nodes((waiting.len() + done.len()) / NODES)?;
                check_versions(model, function)?;
                waiting.extend(body(function, &node, &mut taken).into_iter().rev().map(|n| (n, depth + 1)));
            }
        }
    }
    Ok(done)
}

/// The body must mean the same among the model's operator sets as among its own.
fn check_versions(model: &Model, function: &FunctionProto) -> Outcome<()> {
    for own in &function.opset_import {
        let known = model.domains.iter().find(|(d, _)| d == domain(&own.domain));
        // A domain that only functions use is resolved by inlining.
        if let Some((_, version)) = known.filter(|(d, v)| d.is_empty() && *v != own.version) {
            let message = format!("function {} uses operator set {}, the model {version}", function.name, own.version);
            return Err(Fault::unsupported(message).help("export the model without local functions"));
        }
    }
    Ok(())
}

/// The body of a function as called by `call`. Values inside get the name of the call's first result in front, and a number
/// where that name is taken: functions call others whose values have the same names.
fn body(function: &FunctionProto, call: &NodeProto, taken: &mut HashSet<String>) -> Vec<NodeProto> {
    let prefix = call.output.iter().find(|o| !o.is_empty()).unwrap_or(&call.name);
    let mut names: HashMap<&str, String> = HashMap::new();
    for (i, formal) in function.input.iter().enumerate() {
        names.insert(formal, call.input.get(i).cloned().unwrap_or_default());
    }
    let mut nodes = Vec::new();
    for (formal, actual) in function.output.iter().zip(&call.output).filter(|(_, actual)| !actual.is_empty()) {
        match names.get(formal.as_str()) {
            // A result that is handed through, or handed out twice.
            Some(value) => nodes.push(NodeProto {
                op_type: "Identity".into(),
                input: vec![value.clone()],
                output: vec![actual.clone()],
                ..NodeProto::new()
            }),
            None => {
                names.insert(formal, actual.clone());
            }
        }
    }
    for name in function.node.iter().flat_map(|n| n.output.iter().chain(&n.input)).filter(|n| !n.is_empty()) {
        if names.contains_key(name.as_str()) {
            continue;
        }
        let numbered = (2..).map(|i| format!("{prefix}/{name}.{i}"));
        let free = std::iter::once(format!("{prefix}/{name}")).chain(numbered).find(|n| taken.insert(n.clone()));
        names.insert(name, free.unwrap_or_default());
    }
    let rename = |name: &String| names.get(name.as_str()).cloned().unwrap_or_default();
    let attribute = |a: &AttributeProto| {
        if a.ref_attr_name.is_empty() {
            return Some(a.clone());
        }
        let given = call.attribute.iter().chain(&function.attribute_proto).find(|g| g.name == a.ref_attr_name)?;
        Some(AttributeProto { name: a.name.clone(), ..given.clone() })
    };
    let bodies = function.node.iter().map(|node| NodeProto {
        input: node.input.iter().map(rename).collect(),
        output: node.output.iter().map(rename).collect(),
        name: format!("{}/{}", call.name, node.name),
        attribute: node.attribute.iter().filter_map(attribute).collect(),
        ..node.clone()
    });
    let mut all: Vec<NodeProto> = bodies.collect();
    all.extend(nodes);
    all
}
