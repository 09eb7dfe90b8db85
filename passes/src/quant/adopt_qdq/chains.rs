//! Casts before operators that keep the order of numbers: `q (f x) = q (f (dq (q x)))`.
//!
//! A rectifier, a clip, a maximum and data movement do. With `q` monotone and `q (dq c) = c`, clamping before or after
//! rounding gives the same code, and selecting commutes with rounding.

use qcc_ir::{Data, Edit, Elem, NodeId, Opcode, Tensor, ValueId, attr};

use crate::op_traits::{clamps, selects};
use crate::quant::quantize;
use crate::rewrite::{add_cast, floats};

/// Puts casts of the type of `q`, the result of a `quant.qcast`, before the operators from which its operand comes, as far
/// as these keep the order of numbers and nothing else reads their operands.
pub(crate) fn cast_operands(edit: &mut Edit, q: ValueId) {
    let mut waiting = vec![q];
    while let Some(q) = waiting.pop() {
        let g = edit.graph();
        let Some(cast) = g.producer(q) else { continue };
        let x = g.operands(cast)[0];
        let Some(n) = g.producer(x).filter(|_| g.only_user(x) == Some(cast)) else { continue };
        if !(clamps(g.op(n)) || selects(g.op(n))) || !is_representable(edit, n, q) {
            continue;
        }
        let elem = g.ty(q).elem.clone();
        let data = if g.op(n) == Opcode::Gather { 1 } else { g.operands(n).len() };
        for i in 0..data {
            if let Some(inner) = cast_operand(edit, n, i, &elem) {
                waiting.push(inner);
            }
        }
    }
}

/// The value with which padding fills must survive the cast.
pub(crate) fn is_representable(edit: &Edit, n: NodeId, q: ValueId) -> bool {
    let g = edit.graph();
    let (Opcode::Pad, Some(u)) = (g.op(n), g.ty(q).uniform()) else { return true };
    let value = g.node(n).attrs.get(attr::VALUE);
    quantize::real(quantize::code(value, u), u) == value
}

/// Casts operand `i` there and back; gives the new `quant.qcast`'s result.
fn cast_operand(edit: &mut Edit, n: NodeId, i: usize, elem: &Elem) -> Option<ValueId> {
    let g = edit.graph();
    let v = g.operands(n)[i];
    let is_cast = g.producer(v).is_some_and(|p| g.op(p) == Opcode::DCast);
    if !g.ty(v).is_float() || is_cast {
        return None;
    }
    let Elem::Uniform(uniform) = elem else { return None };
    let label = format!("adopt-qdq: a cast of %{} before {}", g.name_of(v), g.op(n).name());
    if let Some((tensor, data)) = floats(g, v) {
        let tensor: Tensor = quantize::tensor(&tensor.dims, data, uniform);
        if !matches!(tensor.data, Data::U8(_) | Data::I16(_)) {
            return None;
        }
        let mut change = edit.begin(label)?;
        let name = format!("{}.q", change.graph().name_of(v));
        let c = change.add_typed_const(&name, tensor, elem.clone());
        let real = add_cast(&mut change, Opcode::DCast, c, Elem::F32);
        change.set_operand(n, i, real);
        return None;
    }
    // What others read too gets one type for all of them, later.
    g.only_user(v)?;
    let mut change = edit.begin(label)?;
    let q = add_cast(&mut change, Opcode::QCast, v, elem.clone());
    let real = add_cast(&mut change, Opcode::DCast, q, Elem::F32);
    change.set_operand(n, i, real);
    Some(q)
}
