//! What transformers spell out: factors beside a matrix product, layer normalization.

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

/// `d / sqrt(mean(d^2) + epsilon)` with `d = x - mean(x)`, means over the last dimensions.
pub(super) fn layer_norm(edit: &mut Edit, n: NodeId) -> bool {
    let Some((x, axis, epsilon)) = normalized(edit.graph(), n) else { return false };
    let y = edit.graph().result(n);
    let name = edit.graph().name_of(y).to_string();
    let label = format!("canonicalize: {} becomes nn.layer_norm", named(edit, n));
    if edit.graph().ty(x).dims != edit.graph().ty(y).dims {
        return false;
    }
    let Some(mut change) = edit.begin(label) else {
        return false;
    };
    let mut one = |name: String, v: f32| change.add_const(&name, Tensor::f32(&[1], vec![v]));
    let (scale, bias) = (one(format!("{name}.scale"), 1.0), one(format!("{name}.bias"), 0.0));
    let attrs = Attrs::new(Opcode::LayerNorm).with(attr::AXIS, axis).with(attr::EPSILON, epsilon);
    substitute(&mut change, y, Opcode::LayerNorm, &[x, scale, bias], attrs);
    true
}

/// Operand, first axis and epsilon of what [`layer_norm`] looks for.
fn normalized(g: &Graph, n: NodeId) -> Option<(ValueId, i64, f32)> {
    if g.op(n) != Opcode::Div {
        return None;
    }
    let [d, deviation] = g.operands(n)[..] else { return None };
    let root = produced_once(g, deviation, Opcode::Sqrt)?;
    let shifted = produced_once(g, g.operands(root)[0], Opcode::Add)?;
    let (epsilon, variance) = either(g, shifted, |a, _| scalar(g, a))?;
    let variance = produced_once(g, variance, Opcode::ReduceMean)?;
    let square = g.producer(g.operands(variance)[0])?;
    let squared = g.operands(square);
    let is_square = match g.op(square) {
        Opcode::Mul => squared == [d, d],
        Opcode::Pow => squared[0] == d && scalar(g, squared[1]) == Some(2.0),
        _ => false,
    };
    let centred = g.producer(d).filter(|&c| g.op(c) == Opcode::Sub && is_square)?;
    let [x, mean] = g.operands(centred)[..] else { return None };
    let mean = g.producer(mean).filter(|&m| g.op(m) == Opcode::ReduceMean && g.operands(m)[0] == x)?;
    let rank = g.ty(x).rank();
    let axes = |m: NodeId| {
        let attrs = &g.node(m).attrs;
        let mut axes = attrs.sizes(attr::AXES);
        axes.sort_unstable();
        let last = axes.iter().rev().zip((0..rank).rev()).all(|(a, b)| *a == b);
        (last && attrs.get(attr::KEEPDIMS)).then_some(axes)
    };
    let first = axes(mean).filter(|a| Some(a) == axes(variance).as_ref())?.first().copied()?;
    Some((x, i64::try_from(first).ok()?, epsilon))
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
