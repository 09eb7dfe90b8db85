//! Softmax and its logarithm where they are spelled out.
//!
//! ```text
//! %e = nn.exp(%x)                                   // or of %x - max(%x), or times a mask
//! %s = nn.reduce_sum(%e) {axes = [2]}
//! %y = nn.div(%e, %s)
//! // becomes
//! %y = nn.softmax(%x) {axis = 2}
//! ```
//!
//! The quotient has few codes for the sum of many exponentials, and none for their span; `nn.softmax` needs neither.

use qcc_ir::{Attrs, Edit, Elem, Graph, NodeId, Opcode, Tensor, Type, ValueId, attr};

use super::mask::SWITCHED_OFF;
use crate::rewrite::{either, floats, named, origin_of, produced_by, produced_once, scalar, substitute};

/// An exponential that a softmax is made of.
struct Exponential {
    argument: ValueId,
    /// What it is multiplied by, if it is.
    mask: Option<ValueId>,
}

/// `exp(x) / sum(exp(x))`, the sum along one axis.
pub(super) fn spelled_out(edit: &mut Edit, n: NodeId) -> bool {
    let g = edit.graph();
    let Some((Exponential { argument, mask }, axis)) = quotient(g, n) else { return false };
    let y = g.result(n);
    let mask = match mask.map(|m| logarithm(g, m)) {
        None => None,
        Some(Some(mask)) => Some(mask),
        Some(None) => return false,
    };
    if g.ty(argument).dims != g.ty(y).dims || g.constant(argument).is_some() {
        return false;
    }
    let (name, ty) = (g.name_of(y).to_string(), g.ty(y).clone());
    let label = format!("canonicalize: {} becomes nn.softmax", named(edit, n));
    let origin = origin_of(g, y);
    let Some(mut change) = edit.begin(label) else { return false };
    let argument = match mask {
        Some(mask) => {
            let mask = change.add_const(&format!("{name}.mask"), mask);
            change.add(Opcode::Add, &[argument, mask], Attrs::new(Opcode::Add), &format!("{name}.masked"), ty, origin)
        }
        None => argument,
    };
    substitute(&mut change, y, Opcode::Softmax, &[argument], Attrs::new(Opcode::Softmax).with(attr::AXIS, axis));
    true
}

/// The exponential and the axis of a quotient by its own sum, or of a product with the reciprocal of that.
fn quotient(g: &Graph, n: NodeId) -> Option<(Exponential, i64)> {
    let (e, sum) = match g.op(n) {
        Opcode::Div => (g.operands(n)[0], g.operands(n)[1]),
        Opcode::Mul => {
            let (sum, e) = either(g, n, |v, _| Some(g.operands(produced_once(g, v, Opcode::Reciprocal)?)[0]))?;
            (e, sum)
        }
        _ => return None,
    };
    let sum = unfloored(g, sum);
    let sum =
        produced_by(g, sum, Opcode::ReduceSum).filter(|&s| g.operands(s)[0] == e && g.only_user(sum).is_some())?;
    let attrs = &g.node(sum).attrs;
    let [axis] = attrs.get(attr::AXES)[..] else { return None };
    // A sum that loses its dimension divides rows only where the shape brings it back, which none of one operand does.
    attrs.get(attr::KEEPDIMS).then_some(())?;
    let found = match produced_by(g, e, Opcode::Exp) {
        Some(exp) => Exponential { argument: g.operands(exp)[0], mask: None },
        None => {
            let product = produced_by(g, e, Opcode::Mul)?;
            let (argument, mask) = either(g, product, |a, _| Some(g.operands(produced_once(g, a, Opcode::Exp)?)[0]))?;
            Exponential { argument, mask: Some(mask) }
        }
    };
    Some((found, axis))
}

/// What a positive number too small to matter is added to, or is the least that is taken: a guard against a division by zero.
fn unfloored(g: &Graph, v: ValueId) -> ValueId {
    let small = |c: f32| (0.0..=1e-6).contains(&c);
    let inner = g.producer(v).filter(|_| g.only_user(v).is_some()).and_then(|n| match g.op(n) {
        Opcode::Add => either(g, n, |a, _| scalar(g, a).filter(|c| small(*c))).map(|(_, x)| x),
        Opcode::Clip => Some(g.operands(n)[0]).filter(|_| {
            let attrs = &g.node(n).attrs;
            small(attrs.get(attr::MIN)) && attrs.get(attr::MAX) == f32::MAX
        }),
        _ => None,
    });
    inner.unwrap_or(v)
}

/// What the argument of an exponential has added for its result to be multiplied by a constant without negative elements.
fn logarithm(g: &Graph, mask: ValueId) -> Option<Tensor> {
    let (tensor, data) = floats(g, mask)?;
    let log = |&m: &f32| if m == 0.0 { SWITCHED_OFF } else { m.ln() };
    let valid = data.iter().all(|m| *m >= 0.0 && m.is_finite());
    valid.then(|| Tensor::f32(&tensor.dims, data.iter().map(log).collect()))
}

/// `softmax(x - c)` where `c` is the same along the axis, as the maximum of the row is: it changes nothing.
pub(super) fn unshifted(edit: &mut Edit, n: NodeId) -> bool {
    let g = edit.graph();
    if g.op(n) != Opcode::Softmax {
        return false;
    }
    let Some(axis) = usize::try_from(g.node(n).attrs.get(attr::AXIS)).ok() else { return false };
    let argument = g.operands(n)[0];
    let Some(difference) = produced_once(g, argument, Opcode::Sub) else { return false };
    let [x, c] = g.operands(difference)[..] else { return false };
    let (dims, of_c) = (&g.ty(x).dims, &g.ty(c).dims);
    // Broadcasting aligns dimensions at their ends.
    let along = (of_c.len() + axis).checked_sub(dims.len()).and_then(|a| of_c.get(a)).copied().unwrap_or(1);
    if along != 1 || *dims != g.ty(argument).dims || g.constant(x).is_some() {
        return false;
    }
    let label = format!("canonicalize: {} without {}", named(edit, n), named(edit, difference));
    let Some(mut change) = edit.begin(label) else { return false };
    change.set_operand(n, 0, x);
    true
}

/// `log(softmax(x))`: `u - log(sum(exp(u)))` with `u = x - max(x)`, whose values span no decades.
pub(super) fn logarithm_of(edit: &mut Edit, n: NodeId) -> bool {
    let g = edit.graph();
    if g.op(n) != Opcode::Log {
        return false;
    }
    let Some(softmax) = produced_once(g, g.operands(n)[0], Opcode::Softmax) else { return false };
    let (x, y, axis) = (g.operands(softmax)[0], g.result(n), g.node(softmax).attrs.get(attr::AXIS));
    let (name, dims) = (g.name_of(y).to_string(), g.ty(y).dims.clone());
    let Some(extent) = usize::try_from(axis).ok().filter(|&a| a < dims.len()) else { return false };
    let label = format!("canonicalize: {} of a softmax", named(edit, n));
    let origin = origin_of(g, y);
    let Some(mut change) = edit.begin(label) else { return false };
    let row = Type {
        dims: dims.iter().enumerate().map(|(i, &d)| if i == extent { 1 } else { d }).collect(),
        elem: Elem::F32,
    };
    let over = |op: Opcode| Attrs::new(op).with(attr::AXES, vec![axis]);
    let mut add = |op: Opcode, operands: &[ValueId], attrs: Attrs, suffix: &str, ty: &Type| {
        change.add(op, operands, attrs, &format!("{name}.{suffix}"), ty.clone(), origin.clone())
    };
    let whole = Type { dims, elem: Elem::F32 };
    let greatest = add(Opcode::ReduceMax, &[x], over(Opcode::ReduceMax), "max", &row);
    let shifted = add(Opcode::Sub, &[x, greatest], Attrs::new(Opcode::Sub), "shifted", &whole);
    let exp = add(Opcode::Exp, &[shifted], Attrs::new(Opcode::Exp), "exp", &whole);
    let sum = add(Opcode::ReduceSum, &[exp], over(Opcode::ReduceSum), "sum", &row);
    let log = add(Opcode::Log, &[sum], Attrs::new(Opcode::Log), "log", &row);
    substitute(&mut change, y, Opcode::Sub, &[shifted, log], Attrs::new(Opcode::Sub));
    true
}
