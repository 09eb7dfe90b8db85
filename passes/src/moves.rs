//! Data movement that moves nothing, or twice.

use qcc_ir::{Attrs, Edit, Elem, Graph, NodeId, Opcode, attr};

use crate::rewrite::{bypass, can_bypass, compose, keeps_order, produced_by, substitute};

/// True if the node gives back its first operand unchanged.
pub(crate) fn is_identity(g: &Graph, n: NodeId) -> bool {
    let operands = g.operands(n);
    let Some(&x) = operands.first() else { return false };
    let (from, to) = (g.ty(x), g.ty(g.result(n)));
    // Codes that become plain integers stand for something else.
    if matches!((&from.elem, &to.elem), (Elem::Uniform(_), Elem::Int(_))) {
        return false;
    }
    let same_dims = from.dims == to.dims;
    match g.op(n) {
        Opcode::Reshape | Opcode::Expand | Opcode::Pad | Opcode::Slice => same_dims,
        Opcode::Transpose => g.node(n).attrs.sizes(attr::PERM).is_sorted(),
        Opcode::Concat => operands.len() == 1,
        _ => false,
    }
}

/// Removes movement that moves nothing.
pub(crate) fn drop_identity(edit: &mut Edit, n: NodeId, pass: &str) -> bool {
    let g = edit.graph();
    let y = g.result(n);
    let Some(&x) = g.operands(n).first() else { return false };
    if !is_identity(g, n) || !can_bypass(g, y, x) {
        return false;
    }
    let label = format!("{pass}: drop %{} = {}", g.name_of(y), g.op(n).name());
    let Some(mut change) = edit.begin(label) else {
        return false;
    };
    bypass(&mut change, y, x);
    true
}

/// A transpose that only moves extents of 1 is a reshape.
pub(crate) fn transpose_is_reshape(edit: &mut Edit, n: NodeId, pass: &str) -> bool {
    let g = edit.graph();
    let y = g.result(n);
    if g.op(n) != Opcode::Transpose {
        return false;
    }
    let x = g.operands(n)[0];
    let label = format!("{pass}: %{} = tensor.transpose is a reshape", g.name_of(y));
    if !keeps_order(&g.ty(x).dims, &g.node(n).attrs.sizes(attr::PERM)) {
        return false;
    }
    let Some(mut change) = edit.begin(label) else {
        return false;
    };
    let attrs = Attrs::new(Opcode::Reshape).with(attr::SHAPE, change.graph().ty(y).dims.as_slice());
    substitute(&mut change, y, Opcode::Reshape, &[x], attrs);
    true
}

/// A reshape of a reshape and a transpose of a transpose are one.
pub(crate) fn merge(edit: &mut Edit, n: NodeId, pass: &str) -> bool {
    let g = edit.graph();
    let y = g.result(n);
    let Some(&x) = g.operands(n).first() else { return false };
    let reshape = || Attrs::new(Opcode::Reshape).with(attr::SHAPE, g.ty(y).dims.as_slice());
    let (source, attrs) = match g.op(n) {
        Opcode::Reshape => match produced_by(g, x, Opcode::Reshape) {
            Some(inner) => (g.operands(inner)[0], reshape()),
            None => return false,
        },
        Opcode::Transpose => {
            let perm = g.node(n).attrs.sizes(attr::PERM);
            if let Some(inner) = produced_by(g, x, Opcode::Transpose) {
                let both = compose(&g.node(inner).attrs.sizes(attr::PERM), &perm);
                (g.operands(inner)[0], Attrs::new(Opcode::Transpose).with(attr::PERM, both.as_slice()))
            } else {
                return false;
            }
        }
        _ => return false,
    };
    let label = format!("{pass}: %{} = {} of an earlier value", g.name_of(y), attrs.op().name());
    let Some(mut change) = edit.begin(label) else {
        return false;
    };
    substitute(&mut change, y, attrs.op(), &[source], attrs);
    true
}
