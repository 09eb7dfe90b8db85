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
use qcc_ir::{Attrs, Diags, Edit, Elem, NodeId, Opcode, ValueId, attr, format};

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

fn cast(edit: &mut Edit, op: Opcode, v: ValueId, name: &str, elem: Elem) -> ValueId {
    let g = edit.graph();
    let ty = g.ty(v).with_elem(elem);
    let origin = g.producer(v).and_then(|n| g.node(n).origin.clone());
    edit.add(op, &[v], Attrs::new(op), name, ty, origin)
}

fn dcast(edit: &mut Edit, v: ValueId) -> ValueId {
    let name = edit.graph().name_of(v).to_string();
    let name = format!("{}.dq", name.strip_suffix(".q").unwrap_or(&name));
    cast(edit, Opcode::DCast, v, &name, Elem::F32)
}

/// The value becomes real, and whatever read it reads its `quant.qcast`.
fn qcast(edit: &mut Edit, v: ValueId) {
    let Elem::Uniform(uniform) = edit.graph().ty(v).elem.clone() else { return };
    let name = format!("{}.q", edit.graph().name_of(v));
    edit.set_elem(v, Elem::F32);
    let q = cast(edit, Opcode::QCast, v, &name, Elem::Uniform(uniform));
    let caster = edit.graph().producer(q);
    edit.replace_uses(v, q);
    if let Some(caster) = caster {
        edit.set_operand(caster, 0, v);
    }
}

fn node(edit: &mut Edit, n: NodeId, faults: &mut Diags) {
    let g = edit.graph();
    let y = g.result(n);
    let operands = g.operands(n);
    let reads = operands.iter().any(|&v| g.ty(v).uniform().is_some());
    // Positions of elements are the same whether these are real or quantized.
    let positions = matches!(g.ty(y).elem, Elem::Int(_));
    if g.ty(y).uniform().is_none() && (!reads || positions) {
        return;
    }
    let label = format!("insert-qdq: %{} = {}", g.name_of(y), g.op(n).name());
    if !edit.begin(label) {
        return;
    }
    if is_layer(edit.graph().op(n))
        && let Err(message) = parameters(edit, n)
    {
        faults.0.push(diag_at(edit.graph(), n, Code::NO_INTEGER_FORM, message));
        return;
    }
    for (i, v) in edit.graph().operands(n).into_iter().enumerate() {
        if edit.graph().ty(v).uniform().is_some() {
            let real = dcast(edit, v);
            edit.set_operand(n, i, real);
        }
    }
    qcast(edit, y);
}

fn inputs(edit: &mut Edit) {
    for x in edit.graph().inputs().to_vec() {
        // What nothing reads is as good quantized.
        if edit.graph().is_output(x) || !edit.graph().uses(x).is_empty() {
            qcast(edit, x);
        }
    }
}

fn outputs(edit: &mut Edit) {
    let outputs = edit.graph().outputs().to_vec();
    let real = outputs.into_iter().map(|v| if edit.graph().ty(v).uniform().is_some() { dcast(edit, v) } else { v });
    let real = real.collect();
    edit.set_outputs(real);
}

/// Replaces the weights and the bias of a layer by quantized constants; weights that are quantized already stay.
fn parameters(edit: &mut Edit, n: NodeId) -> Result<(), String> {
    let g = edit.graph();
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
    layer.write(edit, weights, bias);
    // From here on the type of the weights says it.
    let attrs = edit.graph().node(n).attrs.clone();
    if attrs.get(attr::WEIGHTS) != format::I8 {
        edit.set_op(n, attrs.op(), attrs.with(attr::WEIGHTS, format::I8.clone()));
    }
    Ok(())
}
