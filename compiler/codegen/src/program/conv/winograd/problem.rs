//! What a convolution is, as far as it matters for its form.

use qcc_ir::ops::{Class, IntOp};
use qcc_ir::{Graph, NodeId, attr};

use crate::kernel::winograd::Form;
use crate::plan::halo_window;

/// A convolution of stride 1 in one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Problem {
    /// Images.
    pub images: usize,
    /// Rows and columns of the result.
    pub result: [usize; 2],
    /// Channels of the activations.
    pub inputs: usize,
    /// Channels of the result.
    pub outputs: usize,
    /// Rows and columns of the kernel.
    pub kernel: [usize; 2],
    /// Whether the result is requantized.
    pub narrowed: bool,
}

/// Whether the extrema of a product's accumulators are taken, which is a matter of the direct way.
pub fn is_measured(graph: &Graph, node: NodeId) -> bool {
    let measures = |user: NodeId| matches!(graph.op(user).info().class, Class::Int(IntOp::Extrema));
    graph.uses(graph.result(node)).iter().any(|&(user, _)| measures(user))
}

impl Problem {
    /// The problem of a node, if it is such a convolution. One whose extrema are taken is not.
    pub fn of(graph: &Graph, node: NodeId) -> Option<Problem> {
        let narrowed = match graph.op(node).info().class {
            Class::Int(IntOp::QConv2d) => true,
            Class::Int(IntOp::Conv2d) => false,
            _ => return None,
        };
        let result = graph.result(node);
        let window = halo_window(graph, node);
        let groups = graph.node(node).attrs.get(attr::GROUPS);
        if groups != 1 || window.strides != [1, 1] || window.dilations != [1, 1] || is_measured(graph, node) {
            return None;
        }
        let &[images, rows, columns, outputs] = &graph.ty(result).dims[..] else { return None };
        let &inputs = graph.ty(graph.operands(node)[0]).dims.get(3)?;
        Some(Problem { images, result: [rows, columns], inputs, outputs, kernel: window.kernel, narrowed })
    }

    /// The forms whose tiles fit into an image.
    pub fn forms(&self) -> Vec<Form> {
        let mut forms = Form::of_kernel(self.kernel);
        forms.retain(|form| form.tile()[0] <= self.result[0] && form.tile()[1] <= self.result[1]);
        forms
    }

    /// Those that are exact on activations up to `greatest`.
    pub fn exact_forms(&self, weights: &[i8], greatest: u8) -> Vec<Form> {
        let channel = weights.len() / self.outputs;
        let mut forms = self.forms();
        forms.retain(|form| weights.chunks(channel).all(|weights| form.is_exact(weights, greatest)));
        forms
    }
}
