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

use std::sync::Arc;

use qcc_ir::{Attrs, Change, Edit, Elem, Graph, NodeId, Opcode, Origin, Tensor, Type, ValueId, attr};

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
    let (axis, of) = reduced_to_1(g, unfloored(g, sum), Opcode::ReduceSum)?;
    (of == e).then_some(())?;
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

/// The one axis over which `op` reduces something to extent 1, whether it keeps the dimension or a reshape brings it back, and what it
/// reduces.
fn reduced_to_1(g: &Graph, v: ValueId, op: Opcode) -> Option<(i64, ValueId)> {
    let dims = &g.ty(v).dims;
    let (n, reshaped) = match produced_by(g, v, Opcode::Reshape) {
        Some(reshape) => (produced_by(g, g.operands(reshape)[0], op)?, true),
        None => (produced_by(g, v, op)?, false),
    };
    let (attrs, of) = (&g.node(n).attrs, g.operands(n)[0]);
    let [axis] = attrs.get(attr::AXES)[..] else { return None };
    let whole = &g.ty(of).dims;
    let at = usize::try_from(axis).ok().filter(|&a| a < whole.len())?;
    let kept = dims.len() == whole.len() && (0..whole.len()).all(|i| dims[i] == if i == at { 1 } else { whole[i] });
    (kept && (reshaped || attrs.get(attr::KEEPDIMS))).then_some((axis, of))
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

/// `log(softmax(x))`: `x - max(x) + log(max(softmax(x)))`, of which no operand spans decades: the greatest share of a row of `n` is
/// at least `1 / n`. Where something is added to the shares, or they are clamped, before the logarithm, they become `exp` of that: a
/// function of one value with what follows.
pub(super) fn logarithm_of(edit: &mut Edit, n: NodeId) -> bool {
    let g = edit.graph();
    if g.op(n) != Opcode::Log {
        return false;
    }
    let Some((softmax, reader)) = guarded_shares(g, n) else { return false };
    let (x, axis) = (g.operands(softmax)[0], g.node(softmax).attrs.get(attr::AXIS));
    let label = format!("canonicalize: {} of a softmax", named(edit, n));
    if usize::try_from(axis).is_ok_and(|a| g.ty(x).dims.get(a) == Some(&1)) {
        // The greatest share of one is that share, whose logarithm would be one of a softmax again.
        if reader.is_some() {
            return false;
        }
        let Some(mut change) = edit.begin(label) else { return false };
        let y = change.graph().result(n);
        substitute(&mut change, y, Opcode::Sub, &[x, x], Attrs::new(Opcode::Sub));
        return true;
    }
    let Some(mut row) = Row::begin(edit, n, x, axis, label) else { return false };
    let whole = row.whole.clone();
    let greatest = row.greatest(x, "max");
    let shifted = row.add(Opcode::Sub, &[x, greatest], Attrs::new(Opcode::Sub), "shifted", &whole);
    let log = row.log_of_greatest_share(x);
    let Some((reader, position)) = reader else {
        let y = row.y;
        substitute(&mut row.change, y, Opcode::Add, &[shifted, log], Attrs::new(Opcode::Add));
        return true;
    };
    let log = row.add(Opcode::Add, &[shifted, log], Attrs::new(Opcode::Add), "log_softmax", &whole);
    let shares = row.add(Opcode::Exp, &[log], Attrs::new(Opcode::Exp), "exp", &whole);
    row.change.set_operand(reader, position, shares);
    true
}

/// The softmax whose result a logarithm reads, and what stands between them, with the position at which it reads the shares.
fn guarded_shares(g: &Graph, log: NodeId) -> Option<(NodeId, Option<(NodeId, usize)>)> {
    let v = g.operands(log)[0];
    if let Some(softmax) = produced_by(g, v, Opcode::Softmax) {
        return Some((softmax, None));
    }
    let guard = g.producer(v).filter(|_| g.only_user(v).is_some() && !g.is_output(v))?;
    let operands = g.operands(guard);
    let position = match g.op(guard) {
        Opcode::Clip => 0,
        Opcode::Add | Opcode::Max => operands.iter().position(|&v| scalar(g, v).is_none())?,
        _ => return None,
    };
    let all_constant = operands.iter().enumerate().all(|(i, &v)| i == position || scalar(g, v).is_some());
    let softmax = produced_by(g, operands[position], Opcode::Softmax).filter(|_| all_constant)?;
    Some((softmax, Some((guard, position))))
}

/// `log(sum(exp(x)))` along an axis: `max(x) - log(max(softmax(x)))`.
pub(super) fn logarithm_of_sum(edit: &mut Edit, n: NodeId) -> bool {
    let g = edit.graph();
    if g.op(n) != Opcode::Log {
        return false;
    }
    let v = g.operands(n)[0];
    let Some(sum) = produced_by(g, v, Opcode::ReduceSum) else { return false };
    let Some(exp) = produced_by(g, g.operands(sum)[0], Opcode::Exp) else { return false };
    let [axis] = g.node(sum).attrs.get(attr::AXES)[..] else { return false };
    let x = g.operands(exp)[0];
    let label = format!("canonicalize: {} of a sum of exponentials", named(edit, n));
    let Some(mut row) = Row::begin(edit, n, x, axis, label) else { return false };
    let greatest = row.greatest(x, "max");
    let log = row.log_of_greatest_share(x);
    let (y, ty) = (row.y, row.row.clone());
    if row.change.graph().ty(y).dims == ty.dims {
        substitute(&mut row.change, y, Opcode::Sub, &[greatest, log], Attrs::new(Opcode::Sub));
    } else {
        // The sum loses its dimension.
        let dims = row.change.graph().ty(y).dims.clone();
        let kept = row.add(Opcode::Sub, &[greatest, log], Attrs::new(Opcode::Sub), "kept", &ty);
        let attrs = Attrs::new(Opcode::Reshape).with(attr::SHAPE, dims.as_slice());
        substitute(&mut row.change, y, Opcode::Reshape, &[kept], attrs);
    }
    true
}

/// Builds what is computed of rows along an axis, in the place of the node that gives `y`.
struct Row<'e> {
    change: Change<'e>,
    y: ValueId,
    axis: i64,
    name: String,
    origin: Option<Arc<Origin>>,
    /// The type of `x`.
    whole: Type,
    /// The same with extent 1 along the axis.
    row: Type,
}

impl<'e> Row<'e> {
    fn begin(edit: &'e mut Edit, n: NodeId, x: ValueId, axis: i64, label: String) -> Option<Row<'e>> {
        let g = edit.graph();
        let (y, whole) = (g.result(n), g.ty(x).clone());
        let extent = usize::try_from(axis).ok().filter(|&a| a < whole.rank() && whole.is_float())?;
        let (name, origin) = (g.name_of(y).to_string(), origin_of(g, y));
        let dims = whole.dims.iter().enumerate().map(|(i, &d)| if i == extent { 1 } else { d }).collect();
        let change = edit.begin(label)?;
        Some(Row { change, y, axis, name, origin, whole, row: Type { dims, elem: Elem::F32 } })
    }

    fn add(&mut self, op: Opcode, operands: &[ValueId], attrs: Attrs, suffix: &str, ty: &Type) -> ValueId {
        self.change.add(op, operands, attrs, &format!("{}.{suffix}", self.name), ty.clone(), self.origin.clone())
    }

    fn greatest(&mut self, x: ValueId, suffix: &str) -> ValueId {
        let attrs = Attrs::new(Opcode::ReduceMax).with(attr::AXES, vec![self.axis]);
        let row = self.row.clone();
        self.add(Opcode::ReduceMax, &[x], attrs, suffix, &row)
    }

    fn log_of_greatest_share(&mut self, x: ValueId) -> ValueId {
        let (whole, row) = (self.whole.clone(), self.row.clone());
        let attrs = Attrs::new(Opcode::Softmax).with(attr::AXIS, self.axis);
        let shares = self.add(Opcode::Softmax, &[x], attrs, "shares", &whole);
        let share = self.greatest(shares, "share");
        self.add(Opcode::Log, &[share], Attrs::new(Opcode::Log), "log", &row)
    }
}
