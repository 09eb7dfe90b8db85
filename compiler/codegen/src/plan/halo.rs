//! Which values need padding around them, how much of it, and of which value.

use std::collections::HashMap;

use qcc_ir::ops::{Class, Reads};
use qcc_ir::window::Window;
use qcc_ir::{Diag, Graph, NodeId, ValueId, attr, diag::Code};

/// Padding around height and width of an NHWC value, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Halo {
    /// Rows above.
    pub top: usize,
    /// Columns before.
    pub left: usize,
    /// Rows below.
    pub bottom: usize,
    /// Columns behind.
    pub right: usize,
    /// What they hold.
    pub value: u8,
}

impl Halo {
    /// No padding.
    pub const NONE: Halo = Halo { top: 0, left: 0, bottom: 0, right: 0, value: 0 };

    /// Total width of all sides; 0 if there is no padding.
    pub fn extent(&self) -> usize {
        self.top + self.left + self.bottom + self.right
    }

    /// True if this halo serves a consumer that needs `need`.
    pub fn covers(&self, need: &Halo) -> bool {
        let wide =
            self.top >= need.top && self.left >= need.left && self.bottom >= need.bottom && self.right >= need.right;
        wide && (need.extent() == 0 || self.value == need.value)
    }

    fn union(&self, other: &Halo) -> Halo {
        Halo {
            top: self.top.max(other.top),
            left: self.left.max(other.left),
            bottom: self.bottom.max(other.bottom),
            right: self.right.max(other.right),
            value: if self.extent() > 0 { self.value } else { other.value },
        }
    }
}

/// Bytes of a padded image, and of what the rows of a kernel lie apart: offsets have 32 bits, and scratch memory an end.
const MOST: usize = 1 << 30;

/// What [`requests`] finds.
pub struct Requests {
    /// The halo that each windowed node needs around its first operand.
    pub by_node: HashMap<NodeId, Halo>,
    /// The halo that each value is to be given: that of its consumers, as far as they agree on the padding value.
    pub by_value: HashMap<ValueId, Halo>,
}

/// Collects the halos that all windowed operators of the graph need.
pub fn requests(graph: &Graph) -> Result<Requests, Diag> {
    let mut requests = Requests { by_node: HashMap::new(), by_value: HashMap::new() };
    for node in graph.order() {
        let Class::Int(op) = graph.op(node).info().class else { continue };
        let need = match op.form().reads {
            Reads::Windows(around) => needed(graph, node, around)?,
            // No halo, but memory in which a few bytes may be read past the end.
            Reads::Rows => Halo::NONE,
            Reads::Elements => continue,
        };
        requests.by_node.insert(node, need);
        let v = graph.operands(node)[0];
        let has = requests.by_value.entry(v).or_insert(need);
        if has.extent() == 0 || need.extent() == 0 || has.value == need.value {
            *has = has.union(&need);
        }
    }
    Ok(requests)
}

/// The window of a windowed node.
pub fn window_of(graph: &Graph, node: NodeId) -> Window {
    let n = graph.node(node);
    match graph.op(node).info().class {
        Class::Int(op) if op.has_weights() => {
            let w = &graph.ty(graph.operands(node)[1]).dims;
            Window::conv(&n.attrs, [w[1], w[2]])
        }
        _ => Window::pool(&n.attrs),
    }
}

/// Only the pixels that some window really reaches: strides can leave the declared padding unused.
fn needed(graph: &Graph, node: NodeId, around: Option<attr::Key<i64>>) -> Result<Halo, Diag> {
    let attrs = &graph.node(node).attrs;
    let dims = &graph.ty(graph.operands(node)[0]).dims;
    let out = &graph.ty(graph.result(node)).dims;
    let w = window_of(graph, node);
    let after = |axis: usize| {
        let reach = (out[axis + 1] - 1) * w.strides[axis] + (w.kernel[axis] - 1) * w.dilations[axis] + 1;
        reach.saturating_sub(w.pads[axis] + dims[axis + 1])
    };
    // The least byte never wins a maximum.
    let value = around.map_or(0, |key| attrs.get(key));
    let value = u8::try_from(value).map_err(|_| {
        Diag::new(Code::CODEGEN, format!("padding value {value} is not a byte")).at(graph.describe(node))
    })?;
    let halo = Halo { top: w.pads[0], left: w.pads[1], bottom: after(0), right: after(1), value };
    let rows = dims[1].saturating_add(halo.top).saturating_add(halo.bottom);
    let columns = dims[2].saturating_add(halo.left).saturating_add(halo.right);
    let bytes = [dims[3], w.dilations[0].max(1)].into_iter().fold(columns, usize::saturating_mul);
    if rows.saturating_mul(columns).saturating_mul(dims[3]) > MOST || bytes.saturating_mul(w.kernel[0]) >= MOST {
        let message = format!("an image of {rows} x {columns} pixels, padding included, is too large");
        let diag = Diag::new(Code::UNSUPPORTED, message).at(graph.describe(node));
        return Err(diag.help("give less padding, or a smaller dilation"));
    }
    Ok(halo)
}
