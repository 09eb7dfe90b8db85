//! One function applied to each element, or to each pair of elements.

use qcc_ir::ops::Binary;
use qcc_ir::{Attrs, Diag, Opcode, attr};

use super::Call;
use crate::context::Context;
use crate::layout::zip_broadcast;

/// Elements that one task computes.
const TASK: usize = 1 << 14;

/// `f(x)` of each element, as a loop of its own for each `f`.
fn map(cx: &Context, x: &[f32], f: impl Fn(f32) -> f32 + Sync) -> Vec<f32> {
    let mut out = cx.empty(x.len());
    out.extend_from_slice(x);
    cx.chunks(&mut out, TASK, |_, out| out.iter_mut().for_each(|v| *v = f(*v)));
    out
}

/// The row's function `f`. The operators that networks consist of have loops of their own, which vectorise and read
/// their attributes once.
pub(super) fn unary(call: &Call, op: Opcode, f: fn(&Attrs, f32) -> f32) -> Result<Vec<f32>, Diag> {
    let (cx, x, attrs) = (call.cx, call.f32s(0)?, call.attrs);
    Ok(if op == Opcode::Relu {
        map(cx, x, |v| v.max(0.0))
    } else if op == Opcode::Clip {
        let (min, max) = (attrs.get(attr::MIN), attrs.get(attr::MAX));
        map(cx, x, move |v| v.max(min).min(max))
    } else if op == Opcode::LeakyRelu {
        let alpha = attrs.get(attr::ALPHA);
        map(cx, x, move |v| if v < 0.0 { alpha * v } else { v })
    } else {
        map(cx, x, |v| f(attrs, v))
    })
}

/// A function of two operands that are broadcast to the shape of the result.
pub(super) fn binary(call: &Call, op: Binary) -> Result<Vec<f32>, Diag> {
    let (a, b) = ((call.f32s(0)?, call.dims_of(0)), (call.f32s(1)?, call.dims_of(1)));
    let out = call.cx.empty(call.elements());
    Ok(match op {
        Binary::Add => zip_broadcast(a, b, call.dims, out, |x, y| x + y),
        Binary::Sub => zip_broadcast(a, b, call.dims, out, |x, y| x - y),
        Binary::Mul => zip_broadcast(a, b, call.dims, out, |x, y| x * y),
        Binary::Div => zip_broadcast(a, b, call.dims, out, |x, y| x / y),
        Binary::Min => zip_broadcast(a, b, call.dims, out, f32::min),
        Binary::Max => zip_broadcast(a, b, call.dims, out, f32::max),
        Binary::Pow => zip_broadcast(a, b, call.dims, out, f32::powf),
        Binary::PRelu => zip_broadcast(a, b, call.dims, out, |x, slope| if x < 0.0 { slope * x } else { x }),
    })
}
