//! Quantizes weights and makes every change between real and quantized explicit: operators compute on real numbers between
//! a `quant.dcast` of each operand and a `quant.qcast` of the result.
//!
//! ```text
//! %y = nn.conv2d(%x, @w, @b) : tensor<1x8x4x4x!out>
//! // becomes
//! %x.dq = quant.dcast(%x)                   : tensor<1x3x4x4xf32>
//! %w.dq = quant.dcast(@w.q)                 : tensor<8x3x3x3xf32>      // w.q: !quant.uniform<i8<-127:127>:f32:0, {..}>
//! %b.dq = quant.dcast(@b.q)                 : tensor<8xf32>            // b.q: !quant.uniform<i32:f32:0, {..}>
//! %y    = nn.conv2d(%x.dq, %w.dq, %b.dq)    : tensor<1x8x4x4xf32>
//! %y.q  = quant.qcast(%y)                   : tensor<1x8x4x4x!out>
//! ```
//!
//! Weights are symmetric in `[-127, 127]`, one scale an output channel: `Sw[c] = max|w[c]| / 127`. A bias has the scale
//! `Sx * Sw[c]` of the accumulators (Jacob et al. 2018, section 2.4). A channel whose weights almost vanish gets a greater
//! scale, so that its bias fits the accumulator and its requantization factor `Sx * Sw[c] / Sy` keeps its precision.
//! A layer whose operand or result has 16 bits, or its weights, which then come as `i16` (`assign-scales`), sums in 64 bits: its
//! scales follow the weights alone down to channels that vanish, and its bias is `i64` where the products have more than 16 bits.
//! There is one `quant.dcast` for each use: real values have one reader each.

use qcc_ir::diag::Code;
use qcc_ir::ops::Dialect;
use qcc_ir::{Attrs, Change, Diags, Edit, Elem, NodeId, Opcode, ValueId, attr, format};

use crate::layer::{NewParameter, QuantLayer, bias_32, bias_64, is_layer};
use crate::{Context, Pass, diag_at};

/// The pass `insert-qdq`.
pub struct InsertQdq;

impl Pass for InsertQdq {
    fn run(&self, edit: &mut Edit, _cx: &mut Context) -> Result<(), Diags> {
        let mut faults = Diags::default();
        for n in edit.graph().order() {
            match edit.graph().op(n).info().dialect() {
                Dialect::Nn | Dialect::Tensor => node(edit, n, &mut faults),
                Dialect::Quant | Dialect::Int => {}
            }
        }
        faults.into_result()?;
        inputs(edit);
        outputs(edit);
        edit.remove_dead();
        Ok(())
    }
}

fn cast(change: &mut Change, op: Opcode, v: ValueId, name: &str, elem: Elem) -> ValueId {
    let g = change.graph();
    let ty = g.ty(v).with_elem(elem);
    let origin = g.producer(v).and_then(|n| g.node(n).origin.clone());
    change.add(op, &[v], Attrs::new(op), name, ty, origin)
}

fn dcast(change: &mut Change, v: ValueId) -> ValueId {
    let name = change.graph().name_of(v).to_string();
    let name = format!("{}.dq", name.strip_suffix(".q").unwrap_or(&name));
    cast(change, Opcode::DCast, v, &name, Elem::F32)
}

/// The value becomes real, and whatever read it reads its `quant.qcast`.
fn qcast(change: &mut Change, v: ValueId) {
    let Elem::Uniform(uniform) = change.graph().ty(v).elem.clone() else { return };
    let name = format!("{}.q", change.graph().name_of(v));
    change.set_elem(v, Elem::F32);
    let q = cast(change, Opcode::QCast, v, &name, Elem::Uniform(uniform));
    let caster = change.graph().producer(q);
    change.replace_uses(v, q);
    if let Some(caster) = caster {
        change.set_operand(caster, 0, v);
    }
}

fn node(edit: &mut Edit, n: NodeId, faults: &mut Diags) {
    let g = edit.graph();
    let y = g.result(n);
    let operands = g.operands(n);
    let reads = operands.iter().any(|&v| g.ty(v).uniform().is_some());
    // Positions of elements and integers made of them are the same whether these are real or quantized.
    let positions = matches!(g.ty(y).elem, Elem::Int(_) | Elem::Bool);
    if g.ty(y).uniform().is_none() && (!reads || positions) {
        return;
    }
    let label = format!("insert-qdq: %{} = {}", g.name_of(y), g.op(n).name());
    let Some(mut change) = edit.begin(label) else {
        return;
    };
    if is_layer(change.graph().op(n))
        && let Err(message) = parameters(&mut change, n)
    {
        faults.0.push(diag_at(change.graph(), n, Code::NO_INTEGER_FORM, message));
        return;
    }
    for (i, v) in change.graph().operands(n).into_iter().enumerate() {
        if change.graph().ty(v).uniform().is_some() {
            let real = dcast(&mut change, v);
            change.set_operand(n, i, real);
        }
    }
    qcast(&mut change, y);
}

fn inputs(edit: &mut Edit) {
    for x in edit.graph().inputs().to_vec() {
        // What nothing reads is as good quantized.
        let g = edit.graph();
        if g.ty(x).uniform().is_none() || !g.is_output(x) && g.uses(x).is_empty() {
            continue;
        }
        let Some(mut change) = edit.begin(format!("insert-qdq: input %{}", g.name_of(x))) else { return };
        qcast(&mut change, x);
    }
}

fn outputs(edit: &mut Edit) {
    let mut outputs = edit.graph().outputs().to_vec();
    for i in 0..outputs.len() {
        let g = edit.graph();
        if g.ty(outputs[i]).uniform().is_some() {
            let Some(mut change) = edit.begin(format!("insert-qdq: output %{}", g.name_of(outputs[i]))) else { return };
            outputs[i] = dcast(&mut change, outputs[i]);
            change.set_outputs(outputs.clone());
        }
    }
}

/// Replaces the weights and the bias of a layer by quantized constants; weights that are quantized already stay.
fn parameters(change: &mut Change, n: NodeId) -> Result<(), String> {
    let g = change.graph();
    let layer = QuantLayer::read(g, n).map_err(|why| why.message(g))?;
    let weights = layer.rounded()?;
    let bias = match &layer.bias {
        Some(b) => Some(b.reals().ok_or_else(|| format!("%{} is not constant", b.name))?),
        None => None,
    };
    let quantize = if layer.sums_in_64_bits() { bias_64 } else { bias_32 };
    let bias = bias.map(|b| quantize(b, layer.input.scale(), &weights.uniform.scales));
    let bias = bias.map(|(tensor, elem)| NewParameter { name: layer.bias_name(g, ".q"), tensor, elem });
    let weights = layer.weights.reals().map(|_| weights.named(layer.weights_name(".q")));
    layer.write(change, weights, bias);
    // From here on the type of the weights says it.
    let attrs = change.graph().node(n).attrs.clone();
    if attrs.get(attr::WEIGHTS) != format::I8 {
        change.set_op(n, attrs.op(), attrs.with(attr::WEIGHTS, format::I8.clone()));
    }
    Ok(())
}
