//! Constants of real numbers beside a value of 8 bits, which no table and no factor of a channel holds, have 8 bits too. Written into
//! the graph, an export and the interpreter have the numbers that the integers have.
//!
//! ```text
//! %y = nn.add(%x, @positions)      // positions: tensor<1x16x8xf32>
//! // becomes
//! %y = nn.add(%x, @positions.q)    // positions.q: tensor<1x16x8x!quant.uniform<u8:f32, 0.25:128>>
//! ```
//!
//! A term of a sum is cut where the sum saturates whatever is added to it, so that a mask of -10000 leaves codes for what is no mask.

use qcc_ir::ops::Binary;
use qcc_ir::{Class, Edit, Elem, Format, Graph, Int, NodeId, Opcode, Range, Tensor, Uniform, ValueId, format};

use crate::quant::quantize;
use crate::rewrite::{per_channel, scalar};

/// Gives such constants their type.
pub(crate) fn quantize(edit: &mut Edit) {
    for n in edit.graph().order() {
        let g = edit.graph();
        let Some((at, tensor)) = found(g, n) else { continue };
        let c = g.operands(n)[at];
        let Some((tensor, uniform)) = in_bytes(&tensor) else { continue };
        let name = format!("{}.q", g.name_of(c));
        let label = format!("fuse: %{name} of 8 bits");
        let Some(mut change) = edit.begin(label) else { return };
        let q = change.add_typed_const(&name, tensor, Elem::Uniform(uniform.into()));
        change.set_operand(n, at, q);
    }
    edit.remove_dead();
}

fn in_bytes(tensor: &Tensor) -> Option<(Tensor, Uniform)> {
    let data = tensor.as_f32()?;
    let (min, max) = data.iter().fold((0.0f32, 0.0f32), |(lo, hi), &x| (lo.min(x), hi.max(x)));
    let uniform = Uniform::covering(&format::U8, Range { min, max });
    Some((quantize::tensor(&tensor.dims, data, &uniform), uniform))
}

/// The operand of an operation on bytes that is such a constant, and its numbers.
fn found(g: &Graph, n: NodeId) -> Option<(usize, Tensor)> {
    let kind = match (g.op(n), g.op(n).info().class) {
        (_, Class::Binary(kind)) => Some(kind),
        (Opcode::MatMul, _) => None,
        _ => return None,
    };
    let operands = g.operands(n);
    let [a, b] = operands[..] else { return None };
    let at = [a, b].iter().position(|&v| g.constant(v).is_some_and(|t| t.as_f32().is_some()))?;
    let (c, x) = ([a, b][at], [a, b][1 - at]);
    let bytes = |v: ValueId| g.ty(v).uniform().filter(|u| u.axis.is_none() && u.storage() == Int::U8);
    let (from, to) = (bytes(x)?, bytes(g.result(n))?);
    if kind.is_some_and(|kind| stays_real(g, n, kind, at)) {
        return None;
    }
    let tensor = g.constant(c)?;
    let data = tensor.as_f32()?;
    if data.iter().any(|v| !v.is_finite()) {
        return None;
    }
    let ends = |u: &Uniform| [u.min(), u.max()].map(|q| Format::dequantize(q, u.scale(), u.zero_point()));
    let ([x_lo, x_hi], [lo, hi]) = (ends(from), ends(to));
    let bounds = match (kind, at) {
        (Some(Binary::Add), _) => (lo - x_hi, hi - x_lo),
        (Some(Binary::Sub), 0) => (lo + x_lo, hi + x_hi),
        (Some(Binary::Sub), _) => (x_lo - hi, x_hi - lo),
        _ => (f32::MIN, f32::MAX),
    };
    Some((at, Tensor::f32(&tensor.dims, data.iter().map(|v| v.clamp(bounds.0, bounds.1)).collect())))
}

/// Where `lower-to-int` takes the real numbers into a table or the factors of channels.
fn stays_real(g: &Graph, n: NodeId, kind: Binary, at: usize) -> bool {
    let operands = g.operands(n);
    let (c, dims) = (operands[at], &g.ty(g.result(n)).dims);
    if g.ty(operands[1 - at]).dims != *dims {
        return false;
    }
    let by_channel = || (0..dims.len()).any(|axis| per_channel(g, c, dims, axis).is_some());
    let channels = match kind {
        Binary::Add | Binary::Sub | Binary::Mul => by_channel(),
        Binary::PRelu => at == 1 && by_channel(),
        Binary::Div | Binary::Min | Binary::Max | Binary::Pow => false,
    };
    scalar(g, c).is_some() || channels
}
