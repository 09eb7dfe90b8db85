//! The graph of names: every value is defined once, every use has a definition, and there is an order without cycles.

use std::collections::{BTreeSet, HashMap, HashSet};

use onnx_protobuf::{GraphProto, NodeProto};
use qcc_ir::Diags;
use qcc_ir::diag::Code;

use crate::fault::Fault;

/// What follows from the names alone.
pub(crate) struct Structure<'a> {
    /// Positions of the nodes on which an output depends, in an order in which every value is defined before its use;
    /// among several such orders, the one closest to the file's.
    pub(crate) order: Vec<usize>,
    /// Names that an output or a node in `order` uses.
    pub(crate) used: HashSet<&'a str>,
}

/// Name of a node for people: its own, or that of its first output.
pub(crate) fn node_name(node: &NodeProto) -> &str {
    let first = node.output.iter().map(String::as_str).find(|o| !o.is_empty()).unwrap_or("");
    if node.name.is_empty() { first } else { &node.name }
}

/// Where a node is, for diagnostics.
pub(crate) fn location(node: &NodeProto, opset: i64) -> String {
    format!("node {:?} ({}, opset {opset})", node_name(node), node.op_type)
}

/// Checks the names of a graph and orders its nodes.
pub(crate) fn analyze<'a>(graph: &'a GraphProto, nodes: &'a [NodeProto], opset: i64) -> Result<Structure<'a>, Diags> {
    let mut faults = Diags::default();
    let bad = |message: String| Fault::new(Code::BAD_GRAPH, message);
    let mut given = HashSet::new();
    for input in &graph.input {
        if !given.insert(input.name.as_str()) {
            faults.push(bad(format!("two inputs are named `{}`", input.name)).into_diag());
        }
    }
    let mut initializers = HashSet::new();
    for tensor in &graph.initializer {
        if !initializers.insert(tensor.name.as_str()) {
            faults.push(bad(format!("two initializers are named `{}`", tensor.name)).into_diag());
        }
    }
    given.extend(initializers);
    let mut definitions: HashMap<&str, usize> = HashMap::new();
    for (i, node) in nodes.iter().enumerate() {
        for name in node.output.iter().map(String::as_str).filter(|n| !n.is_empty()) {
            if given.contains(name) || definitions.insert(name, i).is_some() {
                faults.push(bad(format!("value `{name}` is defined twice")).at(location(node, opset)));
            }
        }
    }
    if graph.output.is_empty() {
        faults.push(bad("the graph has no output".into()).into_diag());
    }
    let mut outputs = HashSet::new();
    for output in graph.output.iter().filter(|o| !outputs.insert(o.name.as_str())) {
        faults.push(bad(format!("two outputs are named `{}`", output.name)).into_diag());
    }
    let mut undefined = HashSet::new();
    for node in nodes {
        for name in operands(node).into_iter().filter(|n| !given.contains(n) && !definitions.contains_key(n)) {
            if undefined.insert(name) {
                faults.push(bad(format!("value `{name}` is used, but nothing defines it")).at(location(node, opset)));
            }
        }
    }
    for output in graph.output.iter().map(|o| o.name.as_str()) {
        if !given.contains(output) && !definitions.contains_key(output) {
            faults.push(bad(format!("nothing defines output `{output}`")).into_diag());
        }
    }
    faults.into_result()?;
    let producers: Vec<BTreeSet<usize>> =
        nodes.iter().map(|n| operands(n).into_iter().filter_map(|o| definitions.get(o).copied()).collect()).collect();
    let order = sort(&producers).map_err(|cycle| {
        let mut names: Vec<_> = cycle.iter().take(8).map(|&i| format!("{:?}", node_name(&nodes[i]))).collect();
        names.push(if cycle.len() > names.len() { "..".into() } else { names[0].clone() });
        let fault = bad(format!("the graph has a cycle: {}", names.join(" -> ")));
        Diags::from(fault.at(location(&nodes[cycle[0]], opset)))
    })?;
    let mut used: HashSet<&str> = graph.output.iter().map(|o| o.name.as_str()).collect();
    let mut live = Vec::new();
    for &i in order.iter().rev() {
        if nodes[i].output.iter().any(|o| used.contains(o.as_str())) {
            used.extend(operands(&nodes[i]));
            live.push(i);
        }
    }
    live.reverse();
    Ok(Structure { order: live, used })
}

/// Operands that are present, and what nodes inside take from outside.
fn operands(node: &NodeProto) -> Vec<&str> {
    let inside = node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs)).flat_map(captured);
    node.input.iter().map(String::as_str).filter(|n| !n.is_empty()).chain(inside).collect()
}

/// Names that a graph inside a node uses and does not define. How deep they lie in each other is bounded by the wire check.
fn captured(graph: &GraphProto) -> Vec<&str> {
    let given = graph.input.iter().map(|i| &i.name).chain(graph.initializer.iter().map(|t| &t.name));
    let own: HashSet<&str> = given.chain(graph.node.iter().flat_map(|n| &n.output)).map(String::as_str).collect();
    let outputs = graph.output.iter().map(|o| o.name.as_str());
    let uses = graph.node.iter().flat_map(operands).chain(outputs);
    uses.filter(|name| !name.is_empty() && !own.contains(name)).collect()
}

/// Orders nodes behind their producers, or finds the nodes of a cycle, in its order from the one that comes first in
/// the file.
fn sort(producers: &[BTreeSet<usize>]) -> Result<Vec<usize>, Vec<usize>> {
    let mut waiting: Vec<usize> = producers.iter().map(BTreeSet::len).collect();
    let mut users = vec![Vec::new(); producers.len()];
    for (i, of) in producers.iter().enumerate() {
        of.iter().for_each(|&p| users[p].push(i));
    }
    let mut ready: BTreeSet<usize> = (0..producers.len()).filter(|&i| waiting[i] == 0).collect();
    let mut order = Vec::with_capacity(producers.len());
    while let Some(i) = ready.pop_first() {
        order.push(i);
        for &user in &users[i] {
            waiting[user] -= 1;
            if waiting[user] == 0 {
                ready.insert(user);
            }
        }
    }
    let Some(start) = waiting.iter().position(|&n| n > 0) else { return Ok(order) };
    // Every node that still waits has a producer that waits; going back along them must come round.
    let mut path = vec![start];
    let mut seen = HashMap::from([(start, 0)]);
    loop {
        let last = path[path.len() - 1];
        let Some(&next) = producers[last].iter().find(|&&p| waiting[p] > 0) else { return Err(path) };
        if let Some(&from) = seen.get(&next) {
            path.drain(..from);
            path.reverse();
            let first = path.iter().enumerate().min_by_key(|(_, node)| **node).map_or(0, |(i, _)| i);
            path.rotate_left(first);
            return Err(path);
        }
        seen.insert(next, path.len());
        path.push(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(list: &[usize]) -> BTreeSet<usize> {
        list.iter().copied().collect()
    }

    #[test]
    fn order_keeps_the_file_where_it_can() {
        assert_eq!(sort(&[set(&[]), set(&[0]), set(&[0, 1])]), Ok(vec![0, 1, 2]));
        assert_eq!(sort(&[set(&[1]), set(&[2]), set(&[])]), Ok(vec![2, 1, 0]));
    }

    #[test]
    fn cycles_are_cut_out() {
        assert_eq!(sort(&[set(&[0])]), Err(vec![0]));
        assert_eq!(sort(&[set(&[]), set(&[0, 3]), set(&[1]), set(&[2]), set(&[3])]), Err(vec![1, 2, 3]));
    }
}
