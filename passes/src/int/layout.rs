//! Moves transposes down through the graph until they cancel, so that activations stay in the layout of the convolutions.
//!
//! ```text
//! %a      = tensor.transpose(%a.nhwc) {perm = [0, 3, 1, 2]}
//! %b      = int.lut(%a, @table)
//! %b.nhwc = tensor.transpose(%b) {perm = [0, 2, 3, 1]}
//! %c      = int.conv2d(%b.nhwc, ..)
//! // becomes
//! %b      = int.lut(%a, @table)                        // a, b: NHWC
//! %c      = int.conv2d(%b, ..)
//! ```
//!
//! With `T` a transpose, `op(T(x)) = T(op'(x))` where `op'` has its axes mapped; `T` and its inverse cancel; a transpose that
//! moves only extents of 1 is a reshape; and before a linear layer, `reshape(T(x)) * w` is `reshape(x)` times `w` with its
//! columns in another order (the 7x7x512 features of VGG). Every step is exact. Inputs and outputs of the graph keep
//! their layout.

mod regroup;

use qcc_ir::ops::{Move, Order};
use qcc_ir::{Attrs, Change, Class, Data, Diags, Edit, Graph, NodeId, Opcode, Tensor, Type, ValueId, attr};
use qcc_num::convert::count_i64;

use crate::rewrite::{inverse, is_live, keeps_order, origin_of, produced_by, substitute, transposed};
use crate::{Context, Pass, moves};
use regroup::{merge_to_nhwc, split_first};

/// The pass `layout`.
pub struct Layout;

/// Changes the graph at a node and says whether it did.
type Rule = fn(&mut Edit, NodeId) -> bool;

const SINK: &[Rule] = &[drop_identity, merge, sink, sink_reshape, split_first, merge_to_nhwc, permute_columns];

/// What is left to do when no transpose can move any more.
const SETTLE: &[Rule] = &[drop_identity, merge, |edit, n| moves::transpose_is_reshape(edit, n, "layout")];

fn drop_identity(edit: &mut Edit, n: NodeId) -> bool {
    moves::drop_identity(edit, n, "layout")
}

fn merge(edit: &mut Edit, n: NodeId) -> bool {
    moves::merge(edit, n, "layout")
}

/// Rounds after which sinking stops: a transpose moves down one operation a round at least.
const ROUNDS: usize = 10_000;

impl Pass for Layout {
    fn run(&self, edit: &mut Edit, _cx: &mut Context) -> Result<(), Diags> {
        apply(edit, SINK);
        apply(edit, SETTLE);
        restore_names(edit);
        Ok(())
    }
}

fn apply(edit: &mut Edit, rules: &[Rule]) {
    for _ in 0..ROUNDS {
        let before = edit.labels().len();
        for n in edit.graph().order() {
            if is_live(edit.graph(), n) {
                rules.iter().any(|rule| rule(edit, n));
            }
        }
        edit.remove_dead();
        if edit.labels().len() == before {
            break;
        }
    }
}

/// A value whose transposed form is gone takes its name.
fn restore_names(edit: &mut Edit) {
    for v in edit.graph().values().collect::<Vec<_>>() {
        let g = edit.graph();
        let name = g.name_of(v);
        // A suffix may have got a number to be unique.
        let plain = name.trim_end_matches(|c: char| c.is_ascii_digit()).strip_suffix('.').unwrap_or(name);
        let base = [name, plain].iter().find_map(|n| n.strip_suffix(".nhwc").or(n.strip_suffix(".t")));
        if let Some(base) = base.map(str::to_string)
            && g.producer(v).is_some()
            && g.find(&base).is_none()
        {
            let Some(mut change) = edit.begin(format!("layout: %{base} is %{name} again")) else { return };
            change.rename(v, &base);
        }
    }
}

/// Attributes of the operation before a transpose by `perm` instead of after it, and the transpose then needed: `None` if the
/// operation cannot be exchanged with it.
fn before_transpose(g: &Graph, n: NodeId, perm: &[usize]) -> Option<(Attrs, Vec<usize>)> {
    let attrs = &g.node(n).attrs;
    let keeps_last = perm.last().is_some_and(|&p| p + 1 == perm.len());
    let keep = |attrs: Attrs| Some((attrs, perm.to_vec()));
    // Entry `i` belongs to axis `i` of the transposed value, which is axis `perm[i]` of the original.
    let by_axis = |list: &[i64]| {
        let mut mapped = vec![0; list.len()];
        for (i, &p) in perm.iter().enumerate() {
            mapped[p] = *list.get(i)?;
        }
        Some(mapped)
    };
    if let Class::Int(op) = g.op(n).info().class {
        match op.form().order {
            Order::Free => return keep(attrs.clone()),
            Order::LastStays if keeps_last => return keep(attrs.clone()),
            Order::LastStays | Order::Fixed => {}
        }
    }
    match g.op(n) {
        Opcode::Concat => {
            let axis = perm.get(usize::try_from(attrs.get(attr::AXIS)).ok()?)?;
            keep(attrs.clone().with(attr::AXIS, count_i64(*axis)))
        }
        Opcode::Slice => {
            let mut mapped = attrs.clone();
            for key in [attr::STARTS, attr::ENDS, attr::STEPS] {
                mapped = mapped.with(key, by_axis(&attrs.get(key))?);
            }
            keep(mapped)
        }
        Opcode::Pad => {
            let pads = attrs.get(attr::PADS);
            let (before, after) = pads.split_at_checked(perm.len())?;
            keep(attrs.clone().with(attr::PADS, [by_axis(before)?, by_axis(after)?].concat()))
        }
        Opcode::IMean => {
            let axes: Vec<usize> =
                attrs.sizes(attr::AXES).iter().map(|&a| perm.get(a).copied()).collect::<Option<_>>()?;
            let mapped = attrs.clone().with(attr::AXES, axes.as_slice());
            if attrs.get(attr::KEEPDIMS) {
                return keep(mapped);
            }
            let left: Vec<usize> = perm.iter().copied().filter(|p| !axes.contains(p)).collect();
            let rank = |p: &usize| left.iter().filter(|q| *q < p).count();
            Some((mapped, left.iter().map(rank).collect()))
        }
        _ => None,
    }
}

/// `op(T(x), ..)` becomes `T(op'(x, ..))`.
fn sink(edit: &mut Edit, n: NodeId) -> bool {
    let g = edit.graph();
    let operands = g.operands(n);
    let Some(perm) = operands.iter().find_map(|&v| transposed(g, v)).map(|(_, perm)| perm) else { return false };
    let Some((attrs, after)) = before_transpose(g, n, &perm) else { return false };
    let y = g.result(n);
    // Parameters of the operation stay; operands that are data get the layout of `x`.
    let data = match g.op(n).info().class {
        Class::Int(op) => op.data(operands.len()),
        Class::Move(Move::Concat) => operands.len(),
        _ => 1,
    };
    let ways: Option<Vec<Way>> = operands[..data].iter().map(|&v| way(g, v, &perm)).collect();
    let Some(ways) = ways else { return false };
    let (gained, lost) = ways.iter().fold((0, 0), |(gained, lost), w| match w {
        Way::Undo(_) => (gained + 1, lost),
        Way::Transpose => (gained, lost + 1),
        Way::Reshape(_) | Way::Constant(_) => (gained, lost),
    });
    if gained <= lost {
        return false;
    }
    let label = format!("layout: %{} = {} before its transpose", g.name_of(y), g.op(n).name());
    let Some(mut change) = edit.begin(label) else {
        return false;
    };
    let mut moved: Vec<ValueId> =
        ways.into_iter().zip(&operands).map(|(w, &v)| w.apply(&mut change, v, &perm)).collect();
    moved.extend(&operands[data..]);
    let g = change.graph();
    let (op, name, ty) = (g.op(n), g.name_of(y).to_string(), g.ty(y).clone());
    let undo = inverse(&after);
    let dims: Vec<usize> = undo.iter().map(|&p| ty.dims[p]).collect();
    let origin = g.node(n).origin.clone();
    let suffix = if after == [0, 3, 1, 2] { ".nhwc" } else { ".t" };
    let inner = change.add(op, &moved, attrs, &format!("{name}{suffix}"), Type { dims, elem: ty.elem }, origin);
    substitute(
        &mut change,
        y,
        Opcode::Transpose,
        &[inner],
        Attrs::new(Opcode::Transpose).with(attr::PERM, after.as_slice()),
    );
    true
}

/// How an operand gets the layout before the transpose.
enum Way {
    /// It is the transpose of this value.
    Undo(ValueId),
    /// Its elements are in the right order already: this shape.
    Reshape(Vec<usize>),
    /// A constant of this shape and contents.
    Constant(Tensor),
    /// It must be transposed back.
    Transpose,
}

fn way(g: &Graph, v: ValueId, perm: &[usize]) -> Option<Way> {
    if let Some((source, p)) = transposed(g, v)
        && p == perm
    {
        return Some(Way::Undo(source));
    }
    let own = &g.ty(v).dims;
    // Broadcasting aligns the last dimensions.
    let lead = perm.len().checked_sub(own.len())?;
    let dims: Vec<usize> = std::iter::repeat_n(1, lead).chain(own.iter().copied()).collect();
    let undo = inverse(perm);
    let target: Vec<usize> = undo.iter().map(|&p| dims[p]).collect();
    if let Some(tensor) = g.constant(v) {
        return Some(Way::Constant(transpose_tensor(tensor, &dims, &undo)));
    }
    if keeps_order(&dims, &undo) {
        return Some(Way::Reshape(target));
    }
    (lead == 0).then_some(Way::Transpose)
}

impl Way {
    fn apply(self, change: &mut Change, v: ValueId, perm: &[usize]) -> ValueId {
        let g = change.graph();
        let (name, elem, origin) = (g.name_of(v).to_string(), g.ty(v).elem.clone(), origin_of(g, v));
        let name = format!("{name}.nhwc");
        match self {
            Way::Undo(source) => source,
            Way::Reshape(dims) if dims == g.ty(v).dims => v,
            Way::Reshape(dims) => {
                let attrs = Attrs::new(Opcode::Reshape).with(attr::SHAPE, dims.as_slice());
                change.add(Opcode::Reshape, &[v], attrs, &name, Type { dims, elem }, origin)
            }
            Way::Constant(tensor) => change.add_typed_const(&name, tensor, elem),
            Way::Transpose => {
                let undo = inverse(perm);
                let dims: Vec<usize> = undo.iter().map(|&p| g.ty(v).dims[p]).collect();
                let attrs = Attrs::new(Opcode::Transpose).with(attr::PERM, undo.as_slice());
                change.add(Opcode::Transpose, &[v], attrs, &name, Type { dims, elem }, origin)
            }
        }
    }
}

/// The tensor, taken as of shape `dims`, transposed.
fn transpose_tensor(tensor: &Tensor, dims: &[usize], perm: &[usize]) -> Tensor {
    let target: Vec<usize> = perm.iter().map(|&p| dims[p]).collect();
    let order = source_order(dims, perm);
    let data = qcc_ir::map_data!(&tensor.data, v => order.iter().map(|&i| v[i]).collect());
    Tensor::new(&target, data)
}

/// For each element of the transposed value, in order, its position in the original.
fn source_order(dims: &[usize], perm: &[usize]) -> Vec<usize> {
    let stride = |axis: usize| dims[axis + 1..].iter().product::<usize>();
    let mut order = vec![0];
    for &p in perm {
        let step = stride(p);
        order = order.iter().flat_map(|&base| (0..dims[p]).map(move |i| base + i * step)).collect();
    }
    order
}

/// A function of single elements is exchanged with a reshape of a transposed value, which can then move on.
fn sink_reshape(edit: &mut Edit, n: NodeId) -> bool {
    let g = edit.graph();
    let Class::Int(op) = g.op(n).info().class else { return false };
    if op.form().order != Order::Free || op.form().data != 1 {
        return false;
    }
    let operands = g.operands(n);
    let Some(reshape) = produced_by(g, operands[0], Opcode::Reshape) else { return false };
    let source = g.operands(reshape)[0];
    if transposed(g, source).is_none() {
        return false;
    }
    let y = g.result(n);
    let label = format!("layout: %{} = {} before its reshape", g.name_of(y), g.op(n).name());
    let (node, ty) = (g.node(n).clone(), g.ty(source).with_elem(g.ty(y).elem.clone()));
    let (name, shape) = (format!("{}.t", g.name_of(y)), g.ty(y).dims.clone());
    let Some(mut change) = edit.begin(label) else {
        return false;
    };
    let operands: Vec<ValueId> = [source].into_iter().chain(operands[1..].iter().copied()).collect();
    let inner = change.add(node.op, &operands, node.attrs, &name, ty, node.origin);
    substitute(
        &mut change,
        y,
        Opcode::Reshape,
        &[inner],
        Attrs::new(Opcode::Reshape).with(attr::SHAPE, shape.as_slice()),
    );
    true
}

/// `reshape(T(x))` before a linear layer becomes `reshape(x)`, and the columns of the weights are permuted instead.
fn permute_columns(edit: &mut Edit, n: NodeId) -> bool {
    let g = edit.graph();
    if g.op(n) != Opcode::ILinear {
        return false;
    }
    let operands = g.operands(n);
    let Some(reshape) = produced_by(g, operands[0], Opcode::Reshape) else { return false };
    let Some((source, perm)) = transposed(g, g.operands(reshape)[0]) else { return false };
    let (dims, flat) = (&g.ty(source).dims, g.ty(operands[0]).clone());
    if keeps_order(dims, &perm) {
        return false;
    }
    let (Some(weights), Some(&k)) = (g.constant(operands[1]), flat.dims.last()) else { return false };
    let Some(w) = weights.as_i8() else { return false };
    // The dimensions that become columns, and they alone, may change their order.
    let Some(outer) = (0..=dims.len()).find(|&i| dims[i..].iter().product::<usize>() == k && perm[..i].is_sorted())
    else {
        return false;
    };
    if perm[..outer].iter().enumerate().any(|(i, &p)| i != p) {
        return false;
    }
    let inner: Vec<usize> = perm[outer..].iter().map(|p| p - outer).collect();
    let mut columns = vec![0; k];
    for (new, old) in source_order(&dims[outer..], &inner).into_iter().enumerate() {
        columns[old] = new;
    }
    let permuted = w.chunks(k.max(1)).flat_map(|row| columns.iter().map(|&c| row[c])).collect();
    let weights = Tensor::new(&weights.dims, Data::I8(permuted));
    let y = g.name_of(g.result(n));
    let label = format!("layout: columns of %{y} in the order of its input");
    let (w_name, x_name) = (format!("{}.nhwc", g.name_of(operands[1])), format!("{}.nhwc", g.name_of(operands[0])));
    let origin = origin_of(g, operands[0]);
    let Some(mut change) = edit.begin(label) else {
        return false;
    };
    let attrs = Attrs::new(Opcode::Reshape).with(attr::SHAPE, flat.dims.as_slice());
    let x = change.add(Opcode::Reshape, &[source], attrs, &x_name, flat, origin);
    let w = change.add_const(&w_name, weights);
    change.set_operand(n, 0, x);
    change.set_operand(n, 1, w);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_are_transposed() {
        let t = Tensor::new(&[2, 3], Data::U8(vec![1, 2, 3, 4, 5, 6]));
        let expected = Tensor::new(&[3, 2], Data::U8(vec![1, 4, 2, 5, 3, 6]));
        assert_eq!(transpose_tensor(&t, &[2, 3], &[1, 0]), expected);
    }
}
