//! Masks before a softmax: what adds nothing, or so little that a share becomes 0.
//!
//! A mask of constants stays an addition, of nothing less than -1e4. One of run time becomes a selection between the argument and
//! -1e4, because codes of a sum with numbers so far apart would tell little. A row of which a mask leaves nothing has equal shares.

use qcc_ir::{Attrs, Change, Data, Edit, Elem, Graph, Int, NodeId, Opcode, Tensor, Type, ValueId, attr};

use crate::rewrite::{either, floats, named, origin_of, produced_by, scalar, substitute};

/// What a mask adds at least to switch an element off.
const OFF: f32 = -1e3;

/// What a mask adds after this pass: `exp(-1e4)` is 0 in f32.
pub(crate) const SWITCHED_OFF: f32 = -1e4;

/// `(1 - m) * c` before a softmax, of integers that are 0 or 1, as masks are given to models: a selection of 0 or `c`.
pub(super) fn of_integers(edit: &mut Edit, n: NodeId) -> bool {
    let g = edit.graph();
    if g.op(n) != Opcode::Mul || !is_mask(g, g.result(n)) {
        return false;
    }
    let found = either(g, n, |x, c| {
        let off = scalar(g, c).filter(|c| *c < OFF)?;
        let inverse = produced_by(g, x, Opcode::Sub).map(|s| g.operands(s))?;
        let [one, m] = inverse[..] else { return None };
        let cast = produced_by(g, m, Opcode::CastTo).filter(|_| scalar(g, one) == Some(1.0))?;
        let integers = g.operands(cast)[0];
        matches!(g.ty(integers).elem, Elem::Int(Int::I64 | Int::I32)).then_some((integers, off))
    });
    let Some(((integers, off), _)) = found else { return false };
    let y = g.result(n);
    let (name, dims) = (g.name_of(y).to_string(), g.ty(integers).dims.clone());
    if g.ty(y).dims != dims {
        return false;
    }
    let label = format!("canonicalize: {} selects", named(edit, n));
    let Some(mut change) = edit.begin(label) else {
        return false;
    };
    let condition = looked_up(&mut change, y, &name, integers, &[0, 1]);
    let (on, off) = (one_float(&mut change, &name, 0.0), one_float(&mut change, &name, off));
    substitute(&mut change, y, Opcode::Where, &[on, off, condition], Attrs::new(Opcode::Where));
    true
}

/// Whether all that reads `v` adds it, perhaps with something else, to the argument of a softmax.
fn is_mask(g: &Graph, v: ValueId) -> bool {
    let added = |n: NodeId| {
        let y = g.result(n);
        let before = |v: ValueId| !g.is_output(v) && g.only_user(v).is_some_and(|u| g.op(u) == Opcode::Softmax);
        let again = || g.uses(y).iter().all(|&(u, _)| g.op(u) == Opcode::Add && before(g.result(u)));
        g.op(n) == Opcode::Add && !g.is_output(y) && (before(y) || again())
    };
    !g.is_output(v) && g.uses(v).iter().all(|&(n, _)| added(n))
}

fn one_float(change: &mut Change, name: &str, x: f32) -> ValueId {
    change.add_const(&format!("{name}.{}", if x == 0.0 { "on" } else { "off" }), Tensor::f32(&[1], vec![x]))
}

/// The boolean of each integer, the last for those beyond all.
fn looked_up(change: &mut Change, y: ValueId, name: &str, integers: ValueId, booleans: &[u8]) -> ValueId {
    let table = Tensor::new(&[booleans.len()], Data::U8(booleans.to_vec()));
    let table = change.add_typed_const(&format!("{name}.table"), table, Elem::Bool);
    let attrs = Attrs::new(Opcode::Gather).with(attr::AXIS, 0).with(attr::WRAP, false);
    let ty = Type { dims: change.graph().ty(integers).dims.clone(), elem: Elem::Bool };
    let origin = origin_of(change.graph(), y);
    change.add(Opcode::Gather, &[table, integers], attrs, &format!("{name}.condition"), ty, origin)
}

/// `x + mask` before a softmax, where a condition of run time selects a value or less than [`OFF`]: it selects `x` and that value,
/// or [`SWITCHED_OFF`]. What else is added to the mask is added to `x`.
pub(super) fn selected_sum(edit: &mut Edit, n: NodeId) -> bool {
    let g = edit.graph();
    let y = g.result(n);
    if g.op(n) != Opcode::Add || g.only_user(y).is_none_or(|u| g.op(u) != Opcode::Softmax) {
        return false;
    }
    let found = either(g, n, |mask, x| {
        let (selection, beside) = match produced_by(g, mask, Opcode::Add) {
            Some(sum) => either(g, sum, |m, _| selection(g, m)).map(|(s, beside)| (s, Some(beside)))?,
            None => (selection(g, mask)?, None),
        };
        (g.ty(x).dims == g.ty(y).dims).then_some((selection, beside))
    });
    let Some(((Selection { condition, value, where_on }, beside), mut x)) = found else { return false };
    let (name, ty) = (g.name_of(y).to_string(), g.ty(y).clone());
    let added = [Some(value).filter(|&v| scalar(g, v) != Some(0.0)), beside];
    let label = format!("canonicalize: {} selects", named(edit, n));
    let Some(mut change) = edit.begin(label) else {
        return false;
    };
    for other in added.into_iter().flatten() {
        let origin = origin_of(change.graph(), y);
        x = change.add(Opcode::Add, &[x, other], Attrs::new(Opcode::Add), &format!("{name}.sum"), ty.clone(), origin);
    }
    let off = one_float(&mut change, &name, SWITCHED_OFF);
    let operands = if where_on { [x, off, condition] } else { [off, x, condition] };
    substitute(&mut change, y, Opcode::Where, &operands, Attrs::new(Opcode::Where));
    true
}

/// A mask that a condition of run time selects.
struct Selection {
    condition: ValueId,
    /// What is added where nothing is switched off.
    value: ValueId,
    /// Whether that is where the condition holds.
    where_on: bool,
}

fn selection(g: &Graph, mask: ValueId) -> Option<Selection> {
    let [a, b, condition] = g.operands(produced_by(g, mask, Opcode::Where)?)[..] else { return None };
    let off = |v: ValueId| scalar(g, v).is_some_and(|c| c < OFF);
    let (value, where_on) = if off(b) { (a, true) } else { (b, false) };
    let one_is_off = off(a) != off(b);
    (g.constant(condition).is_none() && one_is_off).then_some(Selection { condition, value, where_on })
}

/// What a constant condition switches off before a softmax has [`SWITCHED_OFF`] added instead.
pub(super) fn selected_mask(edit: &mut Edit, n: NodeId) -> bool {
    let Some((x, mask)) = switched(edit.graph(), n) else { return false };
    let y = edit.graph().result(n);
    let name = format!("{}.mask", edit.graph().name_of(y));
    let label = format!("canonicalize: {} adds a mask", named(edit, n));
    let Some(mut change) = edit.begin(label) else {
        return false;
    };
    let mask = change.add_const(&name, mask);
    substitute(&mut change, y, Opcode::Add, &[x, mask], Attrs::new(Opcode::Add));
    true
}

/// What is selected before a softmax where it is not switched off, and a mask that switches the rest off; something is left in
/// every row.
fn switched(g: &Graph, n: NodeId) -> Option<(ValueId, Tensor)> {
    let y = g.result(n);
    let softmax = g.only_user(y).filter(|&u| g.op(n) == Opcode::Where && g.op(u) == Opcode::Softmax)?;
    let [a, b, condition] = g.operands(n)[..] else { return None };
    let off = |v: ValueId| scalar(g, v).is_some_and(|c| c < OFF);
    let (x, where_on) = if off(b) { (a, true) } else { (b, false) };
    let (condition, Data::U8(booleans)) = (g.constant(condition)?, &g.constant(condition)?.data) else { return None };
    let row = *condition.dims.last()?;
    let last = usize::try_from(g.node(softmax).attrs.get(attr::AXIS)).ok()? + 1 == g.ty(y).rank();
    let on = |t: &u8| (*t != 0) == where_on;
    let rows = row > 0 && booleans.chunks(row).all(|row| row.iter().any(on));
    if !last
        || !rows
        || g.ty(y).dims.last() != Some(&row)
        || g.ty(x).dims != g.ty(y).dims
        || !off(if where_on { b } else { a })
    {
        return None;
    }
    let mask = booleans.iter().map(|t| if on(t) { 0.0 } else { SWITCHED_OFF }).collect();
    Some((x, Tensor::f32(&condition.dims, mask)))
}

/// `where(x, off, c) * f` and `(x + mask) * f` with a positive number `f`: what is switched off stays so where only `x` takes the factor, and no
/// scale has to hold both sides of it.
pub(super) fn scaled(edit: &mut Edit, n: NodeId) -> bool {
    let g = edit.graph();
    if g.op(n) != Opcode::Mul {
        return false;
    }
    let found = either(g, n, |f, masked| {
        scalar(g, f).filter(|f| *f > 0.0 && f.is_finite())?;
        let inner = g.producer(masked).filter(|_| g.only_user(masked).is_some() && !g.is_output(masked))?;
        let off = |v: ValueId| floats(g, v).is_some_and(|(_, data)| data.iter().any(|&x| x < OFF));
        let operands = g.operands(inner);
        let at = match g.op(inner) {
            Opcode::Where => (0..2).find(|&i| off(operands[i]) && scalar(g, operands[i]).is_some())?,
            Opcode::Add => (0..2).find(|&i| off(operands[i]))?,
            _ => return None,
        };
        Some((inner, at, f))
    });
    let Some(((inner, at, f), _)) = found else { return false };
    let (Some(factor), Some((tensor, data))) = (scalar(g, f), floats(g, g.operands(inner)[at])) else { return false };
    let scaled = Tensor::f32(&tensor.dims, data.iter().map(|x| (x * factor).max(f32::MIN)).collect());
    let (y, mut operands, attrs) = (g.result(n), g.operands(inner), g.node(inner).attrs.clone());
    let x = operands[1 - at];
    if g.constant(x).is_some() {
        return false;
    }
    let (name, ty, origin) = (g.name_of(y).to_string(), g.ty(x).clone(), origin_of(g, y));
    let label = format!("canonicalize: {} before its mask", named(edit, n));
    let Some(mut change) = edit.begin(label) else {
        return false;
    };
    operands[at] = change.add_const(&format!("{name}.mask"), scaled);
    operands[1 - at] = change.add(Opcode::Mul, &[x, f], Attrs::new(Opcode::Mul), &format!("{name}.scaled"), ty, origin);
    substitute(&mut change, y, attrs.op(), &operands, attrs);
    true
}

/// A constant mask before a softmax adds [`SWITCHED_OFF`] where it adds less or minus infinity, and so does a selection.
pub(super) fn finite(edit: &mut Edit, n: NodeId) -> bool {
    let g = edit.graph();
    if !matches!(g.op(n), Opcode::Add | Opcode::Where)
        || g.only_user(g.result(n)).is_none_or(|u| g.op(u) != Opcode::Softmax)
    {
        return false;
    }
    let at = g
        .operands(n)
        .iter()
        .position(|&v| floats(g, v).is_some_and(|(_, data)| data.iter().any(|&x| x < OFF && x != SWITCHED_OFF)));
    let Some(at) = at else { return false };
    let v = g.operands(n)[at];
    let Some((tensor, data)) = floats(g, v) else { return false };
    let data = data.iter().map(|&x| if x < OFF { SWITCHED_OFF } else { x }).collect();
    let (name, tensor) = (format!("{}.finite", g.name_of(v)), Tensor::f32(&tensor.dims, data));
    let label = format!("canonicalize: a mask of {}", named(edit, n));
    let Some(mut change) = edit.begin(label) else {
        return false;
    };
    let mask = change.add_const(&name, tensor);
    change.set_operand(n, at, mask);
    true
}
