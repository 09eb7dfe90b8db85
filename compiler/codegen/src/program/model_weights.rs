//! How many weights a model has: whether they stay in a cache from call to call.

use qcc_ir::{Graph, NodeId};

/// Bytes of all weights, one each: as many as they are stored in with 8 bits, or about.
pub fn weights_of_model(graph: &Graph) -> usize {
    let weights = |node: NodeId| {
        let constant = graph.operands(node).get(1).and_then(|&w| graph.constant(w));
        constant.and_then(|w| w.as_i8()).map_or(0, <[i8]>::len)
    };
    graph.order().into_iter().map(weights).sum()
}
