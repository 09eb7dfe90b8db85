//! Takes constants and padding beside a convolution or a linear layer into its weights, bias and attributes.

use qcc_ir::{Attrs, Change, Edit, NodeId, Opcode, Tensor, ValueId, attr};

use super::mask::SWITCHED_OFF;
use crate::rewrite::{either, floats, named, per_channel, produced_once, substitute};

/// A convolution or linear layer with constant weights whose only user is the node at hand.
struct AbsorbingLayer {
    node: NodeId,
    weights: ValueId,
    bias: Option<ValueId>,
    /// Axis of the result along which the output channels lie.
    axis: usize,
}

fn layer(edit: &Edit, v: ValueId) -> Option<AbsorbingLayer> {
    let g = edit.graph();
    let node = produced_once(g, v, Opcode::Conv2d).or_else(|| produced_once(g, v, Opcode::Linear))?;
    let operands = g.operands(node);
    let axis = if g.op(node) == Opcode::Conv2d { 1 } else { g.ty(v).rank().checked_sub(1)? };
    let bias = operands.get(2).copied();
    if bias.is_some_and(|b| floats(g, b).is_none()) {
        return None;
    }
    Some(AbsorbingLayer { node, weights: operands[1], bias, axis })
}

/// `nn.matmul` by constant weights `[K, N]` is `nn.linear` with the weights transposed.
pub(super) fn matmul_is_linear(edit: &mut Edit, n: NodeId) -> bool {
    let g = edit.graph();
    if g.op(n) != Opcode::MatMul {
        return false;
    }
    let [a, b] = g.operands(n)[..] else { return false };
    let Some((tensor, data)) = floats(g, b) else { return false };
    let [k, width] = tensor.dims[..] else { return false };
    if g.constant(a).is_some() {
        return false;
    }
    let alpha = g.node(n).attrs.get(attr::ALPHA);
    let transposed = (0..k * width).map(|i| data[i % k * width + i / k] * alpha).collect();
    let (y, name) = (g.result(n), format!("{}.t", g.name_of(b)));
    let tensor = Tensor::f32(&[width, k], transposed);
    let label = format!("canonicalize: {} by a constant becomes nn.linear", named(edit, n));
    let Some(mut change) = edit.begin(label) else {
        return false;
    };
    let w = change.add_const(&name, tensor);
    substitute(&mut change, y, Opcode::Linear, &[a, w], Attrs::new(Opcode::Linear));
    true
}

/// `layer + c` with one constant a channel: `c` goes into the bias.
pub(super) fn addition(edit: &mut Edit, n: NodeId) -> bool {
    let g = edit.graph();
    if g.op(n) != Opcode::Add {
        return false;
    }
    let y = g.result(n);
    let found = either(g, n, |x, c| {
        let layer = layer(edit, x).filter(|_| g.ty(x).dims == g.ty(y).dims)?;
        let added = per_channel(g, c, &g.ty(x).dims, layer.axis)?;
        Some((x, layer, added))
    });
    let Some(((x, layer, added), _)) = found else { return false };
    let old = layer.bias.and_then(|b| floats(g, b)).map(|(_, data)| data);
    let sum: Vec<f32> = added.iter().enumerate().map(|(i, c)| c + old.map_or(0.0, |b| b[i])).collect();
    let name = bias_name(edit, &layer, x);
    let label = format!("canonicalize: {} into the bias of %{}", named(edit, n), g.name_of(x));
    let Some(mut change) = edit.begin(label) else {
        return false;
    };
    let bias = change.add_const(&name, Tensor::f32(&[sum.len()], sum));
    replace_parameters(&mut change, &layer, layer.weights, Some(bias), y, x);
    true
}

/// `layer * c` with one constant a channel: `c` goes into weights and bias.
pub(super) fn multiplication(edit: &mut Edit, n: NodeId) -> bool {
    let g = edit.graph();
    if g.op(n) != Opcode::Mul {
        return false;
    }
    let y = g.result(n);
    let found = either(g, n, |x, c| {
        let layer = layer(edit, x).filter(|_| g.ty(x).dims == g.ty(y).dims)?;
        let factors = per_channel(g, c, &g.ty(x).dims, layer.axis)?;
        Some((x, layer, factors))
    });
    let Some(((x, layer, factors), _)) = found else { return false };
    let Some((tensor, data)) = floats(g, layer.weights) else { return false };
    let row = data.len() / factors.len().max(1);
    let scaled = data.iter().enumerate().map(|(i, w)| w * factors[i / row.max(1)]).collect();
    let weights = Tensor::f32(&tensor.dims, scaled);
    let weights_name = format!("{}.scaled", g.name_of(layer.weights));
    let bias = layer.bias.and_then(|b| floats(g, b)).map(|(_, b)| b.iter().zip(&factors).map(|(b, f)| b * f).collect());
    let bias_name = bias_name(edit, &layer, x);
    let label = format!("canonicalize: {} into the weights of %{}", named(edit, n), g.name_of(x));
    let Some(mut change) = edit.begin(label) else {
        return false;
    };
    let weights = change.add_const(&weights_name, weights);
    let bias = bias.map(|b| change.add_const(&bias_name, Tensor::f32(&[factors.len()], b)));
    replace_parameters(&mut change, &layer, weights, bias, y, x);
    true
}

/// Zeros around the input of a convolution or of an average that counts padding become `pads`.
pub(super) fn padding(edit: &mut Edit, n: NodeId) -> bool {
    let g = edit.graph();
    let op = g.op(n);
    if !matches!(op, Opcode::Conv2d | Opcode::AveragePool | Opcode::MaxPool) {
        return false;
    }
    let operands = g.operands(n);
    let Some(pad) = produced_once(g, operands[0], Opcode::Pad) else { return false };
    let attrs = &g.node(pad).attrs;
    let around = attrs.get(attr::PADS);
    let [0, 0, top, left, 0, 0, bottom, right] = around[..] else { return false };
    let own = g.node(n).attrs.get(attr::PADS);
    let averages = op == Opcode::AveragePool;
    // An average without `count_include_pad` counts these zeros and not its own padding: only one kind can be said.
    let mixed = averages && own.iter().any(|&p| p != 0) && !g.node(n).attrs.get(attr::COUNT_INCLUDE_PAD);
    if mixed || own.len() != 4 {
        return false;
    }
    let pads: Vec<i64> = own.iter().zip([top, left, bottom, right]).map(|(a, b)| a + b).collect();
    let fits = match op {
        // What pads says "no value", as a maximum's own padding does; every window has some of the operand in it.
        Opcode::MaxPool => {
            let kernel = g.node(n).attrs.get(attr::KERNEL);
            attrs.get(attr::VALUE) <= SWITCHED_OFF && pads.iter().zip(kernel.iter().cycle()).all(|(p, k)| p < k)
        }
        _ => attrs.get(attr::VALUE) == 0.0,
    };
    if !fits {
        return false;
    }
    let mut new = g.node(n).attrs.clone().with(attr::PADS, pads);
    if averages {
        new = new.with(attr::COUNT_INCLUDE_PAD, true);
    }
    let source = g.operands(pad)[0];
    let label = format!("canonicalize: {} into {}", named(edit, pad), named(edit, n));
    let Some(mut change) = edit.begin(label) else {
        return false;
    };
    change.set_op(n, op, new);
    change.set_operand(n, 0, source);
    true
}

fn bias_name(edit: &Edit, layer: &AbsorbingLayer, x: ValueId) -> String {
    let g = edit.graph();
    layer.bias.map_or_else(|| format!("{}.bias", g.name_of(x)), |b| g.name_of(b).to_string())
}

/// The layer with other parameters computes `y`; its result `x` takes the place, the type and the name of `y`.
fn replace_parameters(
    change: &mut Change,
    layer: &AbsorbingLayer,
    w: ValueId,
    bias: Option<ValueId>,
    y: ValueId,
    x: ValueId,
) {
    let elem = change.graph().ty(y).elem.clone();
    let input = change.graph().operands(layer.node)[0];
    let operands: Vec<ValueId> = [input, w].into_iter().chain(bias).collect();
    change.set_operands(layer.node, &operands);
    change.set_elem(x, elem);
    change.replace(y, x);
}
