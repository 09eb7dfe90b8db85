//! What transformers spell out: factors beside a matrix product, constants behind a normalization.

use std::sync::Arc;

use qcc_ir::{Attrs, Edit, Elem, Graph, NodeId, Opcode, Tensor, Type, ValueId, attr, shape};

use crate::rewrite::{either, floats, named, produced_once, scalar, substitute};

/// `matmul(a, b) * c` with a positive scalar: `c` goes into `alpha`.
pub(super) fn factor_of_product(edit: &mut Edit, n: NodeId) -> bool {
    let g = edit.graph();
    if g.op(n) != Opcode::Mul {
        return false;
    }
    let y = g.result(n);
    let found = either(g, n, |x, c| {
        let product = produced_once(g, x, Opcode::MatMul).filter(|_| g.ty(x).dims == g.ty(y).dims)?;
        Some((product, scalar(g, c).filter(|c| *c > 0.0 && c.is_finite())?))
    });
    let Some(((product, c), _)) = found else { return false };
    let alpha = g.node(product).attrs.get(attr::ALPHA) * c;
    let operands = g.operands(product);
    let label = format!("canonicalize: {} into the product", named(edit, n));
    let Some(mut change) = edit.begin(label) else {
        return false;
    };
    substitute(&mut change, y, Opcode::MatMul, &operands, Attrs::new(Opcode::MatMul).with(attr::ALPHA, alpha));
    true
}

/// `matmul(moved(a * c), b)` with a positive scalar: `c` goes into `alpha`.
pub(super) fn factor_of_operand(edit: &mut Edit, n: NodeId) -> bool {
    let g = edit.graph();
    if g.op(n) != Opcode::MatMul {
        return false;
    }
    for i in 0..2 {
        let Some((reader, slot, source, c)) = scaled_operand(edit.graph(), n, i) else { continue };
        let attrs = edit.graph().node(n).attrs.clone();
        let alpha = attrs.get(attr::ALPHA) * c;
        let label = format!("canonicalize: a factor of operand {i} into {}", named(edit, n));
        let Some(mut change) = edit.begin(label) else {
            return false;
        };
        change.set_operand(reader, slot, source);
        change.set_op(n, Opcode::MatMul, attrs.with(attr::ALPHA, alpha));
        return true;
    }
    false
}

/// The multiplication by a positive scalar from which data movement alone leads to operand `i`: who reads it and where, what
/// it multiplies, and the factor.
fn scaled_operand(g: &Graph, n: NodeId, i: usize) -> Option<(NodeId, usize, ValueId, f32)> {
    let (mut reader, mut slot) = (n, i);
    loop {
        let v = *g.operands(reader).get(slot)?;
        g.only_user(v)?;
        let node = g.producer(v)?;
        match g.op(node) {
            Opcode::Reshape | Opcode::Transpose => (reader, slot) = (node, 0),
            Opcode::Mul => {
                let (c, x) = either(g, node, |a, _| scalar(g, a).filter(|c| *c > 0.0 && c.is_finite()))?;
                return (g.ty(x).dims == g.ty(v).dims).then_some((reader, slot, x, c));
            }
            _ => return None,
        }
    }
}

/// Two constants through an elementwise operator.
fn constants(g: &Graph, op: Opcode, a: ValueId, b: ValueId) -> Option<Tensor> {
    let operands = [a, b].map(|v| Some((g.constant(v)?.clone(), g.ty(v))));
    let [Some((a, ta)), Some((b, tb))] = operands else { return None };
    let ty = Type { dims: shape::broadcast(&ta.dims, &tb.dims).ok()?, elem: Elem::F32 };
    qcc_interp::eval_node(op, &Attrs::new(op), &[(Arc::as_ref(&a), ta), (Arc::as_ref(&b), tb)], &ty).ok()
}

/// `layer_norm * c` and `layer_norm + c` with constants: `c` goes into scale and bias.
pub(super) fn affine_of_norm(edit: &mut Edit, n: NodeId) -> bool {
    let g = edit.graph();
    let op = g.op(n);
    if !matches!(op, Opcode::Mul | Opcode::Add) {
        return false;
    }
    let y = g.result(n);
    let found = either(g, n, |x, c| {
        let norm = produced_once(g, x, Opcode::LayerNorm).filter(|_| g.ty(x).dims == g.ty(y).dims)?;
        let [source, scale, bias] = g.operands(norm)[..] else { return None };
        let scale = if op == Opcode::Mul { constants(g, op, scale, c)? } else { floats(g, scale)?.0.clone() };
        Some((norm, source, scale, constants(g, op, bias, c)?))
    });
    let Some(((norm, source, scale, bias), _)) = found else { return false };
    let (name, attrs) = (g.name_of(y).to_string(), g.node(norm).attrs.clone());
    let label = format!("canonicalize: {} into the normalization", named(edit, n));
    let Some(mut change) = edit.begin(label) else {
        return false;
    };
    let scale = change.add_const(&format!("{name}.scale"), scale);
    let bias = change.add_const(&format!("{name}.bias"), bias);
    substitute(&mut change, y, Opcode::LayerNorm, &[source, scale, bias], attrs);
    true
}
