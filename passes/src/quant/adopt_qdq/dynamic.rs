//! Models whose activations are quantized by scales of each run: what ONNX Runtime's dynamic quantizer writes is taken back to
//! layers on real numbers with quantized weights.
//!
//! ```text
//! %q, %s, %z = DynamicQuantizeLinear(%x)                          // q = round(x / s) + z
//! %y = (layer of q - z and w - zw, whole numbers) * (%s * @sw)
//! // becomes
//! %y = nn.conv2d(%x, %w)                                          // w: quant.dcast of the same codes with the scales sw
//! ```
//!
//! That is the layer without the rounding of its operand, which then has a range as everything has that such a model leaves
//! real.

use std::sync::Arc;

use qcc_ir::{Edit, Elem, Graph, NodeId, Opcode, Tensor, Uniform, ValueId};

use crate::constants::dequantized;
use crate::rewrite::{add_cast, either, floats, produced_by, substitute};

/// The ONNX operator that computes scales.
pub(super) const ORIGIN: &str = "DynamicQuantizeLinear";

/// A layer on integers with the scales of a run, and its parts.
struct DynamicLayer {
    node: NodeId,
    x: ValueId,
    codes: Arc<Tensor>,
    weights: Uniform,
}

/// Takes all of them back. Dead operations are left to the caller.
pub(super) fn take_out(edit: &mut Edit) {
    let mut count = 0;
    for n in edit.graph().order() {
        let g = edit.graph();
        if g.op(n) != Opcode::Mul {
            continue;
        }
        let y = g.result(n);
        let Some((layer, _)) = either(g, n, |product, scale| layer(g, product, scale)) else { continue };
        let (op, attrs) = (g.op(layer.node), g.node(layer.node).attrs.clone());
        let name = g.name_of(y).to_string();
        if g.ty(y).dims != g.ty(g.result(layer.node)).dims {
            continue;
        }
        let Some(mut change) = edit.begin(format!("adopt-qdq: %{name} of real numbers")) else { break };
        let elem = Elem::Uniform(layer.weights.into());
        let codes = change.add_typed_const(&format!("{name}.weights"), layer.codes, elem);
        let weights = add_cast(&mut change, Opcode::DCast, codes, Elem::F32);
        substitute(&mut change, y, op, &[layer.x, weights], attrs);
        count += 1;
    }
    if count > 0 {
        edit.remark(format!("{count} layers with scales of each run get ranges instead"));
    }
}

/// `product`, the accumulators of a layer, times `scale`, that of the operand times that of the weights.
fn layer(g: &Graph, product: ValueId, scale: ValueId) -> Option<DynamicLayer> {
    // Between them may stand casts to 32-bit integers, which hold the accumulators, and back.
    let whole = |v: ValueId| {
        let codes = g.operands(produced_by(g, v, Opcode::DCast)?)[0];
        Some(g.operands(produced_by(g, codes, Opcode::QCast)?)[0])
    };
    let node = g.producer(whole(product).unwrap_or(product))?;
    let channel_axis = match g.op(node) {
        Opcode::Conv2d => 0,
        Opcode::MatMul => 1,
        _ => return None,
    };
    let operands = g.operands(node);
    let [centred, weights] = operands[..] else { return None };
    let (x, step) = source(g, produced_by(g, centred, Opcode::Sub)?)?;
    let factor = produced_by(g, scale, Opcode::Mul)?;
    let ((_, scales), _) = either(g, factor, |s, c| if s == step { floats(g, c) } else { None })?;
    let (_, codes, own) = dequantized(g, weights)?;
    let channels = *codes.dims.get(channel_axis)?;
    let whole = own.scales.iter().all(|&s| s == 1.0) && own.axis.is_none_or(|a| a == channel_axis);
    let fits = [own.zero_points.len(), scales.len()].iter().all(|&n| n == 1 || n == channels);
    if !whole || !fits || scales.iter().any(|s| !(s.is_normal() && *s > 0.0)) {
        return None;
    }
    let alike = own.zero_points.len() == 1 && scales.len() == 1;
    let each = |i: usize, n: usize| if n == 1 { 0 } else { i };
    let count = if alike { 1 } else { channels };
    let weights = Uniform {
        axis: (!alike).then_some(channel_axis),
        scales: (0..count).map(|i| scales[each(i, scales.len())]).collect(),
        zero_points: (0..count).map(|i| own.zero_points[each(i, own.zero_points.len())]).collect(),
        ..(*own).clone()
    };
    Some(DynamicLayer { node, x, codes, weights })
}

/// `q - z` as real numbers: the value that was quantized, and its scale.
fn source(g: &Graph, difference: NodeId) -> Option<(ValueId, ValueId)> {
    let real = produced_by(g, g.operands(difference)[0], Opcode::DCast)?;
    let cast = produced_by(g, g.operands(real)[0], Opcode::QCast)?;
    g.node(cast).origin.as_ref().filter(|o| o.op == ORIGIN)?;
    let shifted = produced_by(g, g.operands(cast)[0], Opcode::Add)?;
    let rounded = produced_by(g, g.operands(shifted)[0], Opcode::Round)?;
    let ratio = produced_by(g, g.operands(rounded)[0], Opcode::Div)?;
    let [x, step] = g.operands(ratio)[..] else { return None };
    Some((x, step))
}
