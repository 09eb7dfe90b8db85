//! Formats of fewer than 8 bits for all layers at once (`--weights 4`, `--activations 4`): which layers have them, and which values.
//!
//! Some layers keep 8 bits, for they lose the most, or there is nothing to gain:
//!
//! | layer | which it is |
//! |---|---|
//! | first | what it reads depends on no other layer |
//! | last | no other layer depends on what it gives, or this is an output, but for moves and functions of one value |
//! | depthwise | each output channel reads one input channel |
//! | small | fewer than 2048 weights |
//!
//! An input that is a state counts as the result of a layer, an output that is one as the operand of a layer.
//!
//! Of values, operands of the other layers have few bits. What also something else reads, a sum above all, stays as it is, and a layer
//! reads it through a `quant.scast`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use qcc_ir::ops::{Class, Contract, Dialect, Move};
use qcc_ir::{Attrs, Change, Elem, Format, Graph, NodeId, Opcode, Uniform, ValueId, attr};

use crate::layer::is_layer;
use crate::op_traits::{clamps, selects};
use crate::rewrite::origin_of;

/// Fewest weights of a layer that is not small.
const FEW: usize = 2048;

/// Layers that are named in one remark at most.
const NAMED: usize = 6;

/// Why a layer keeps 8 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Reason {
    First,
    Last,
    Depthwise,
    Small,
}

impl Reason {
    fn name(self) -> &'static str {
        match self {
            Reason::First => "first",
            Reason::Last => "last",
            Reason::Depthwise => "depthwise",
            Reason::Small => "fewer than 2048 weights",
        }
    }
}

/// Whether a format is one that some layers are spared: 7 bits serve other ends, and all layers have them.
pub(crate) fn is_low(format: &Format) -> bool {
    format.bits() < 7
}

/// The layers that keep 8 bits; `states` are inputs and the outputs that are fed back into them.
pub(crate) fn kept(g: &Graph, states: &[(ValueId, ValueId)]) -> HashMap<NodeId, Reason> {
    let order = g.order();
    let mut depends: HashSet<ValueId> = states.iter().map(|&(x, _)| x).collect();
    for &n in &order {
        if is_layer(g.op(n)) || g.operands(n).iter().any(|v| depends.contains(v)) {
            depends.insert(g.result(n));
        }
    }
    let mut feeds: HashSet<ValueId> = states.iter().map(|&(_, y)| y).collect();
    let mut ends: HashSet<ValueId> = g.outputs().iter().copied().filter(|y| !feeds.contains(y)).collect();
    for &n in order.iter().rev() {
        let y = g.result(n);
        let layer = is_layer(g.op(n));
        if layer || feeds.contains(&y) {
            feeds.extend(g.operands(n));
        }
        if !layer && ends.contains(&y) && repeats(g, n) {
            ends.extend(g.operands(n).first());
        }
    }
    let reason = |n: NodeId| {
        let weights = g.ty(*g.operands(n).get(1)?);
        let y = g.result(n);
        if !depends.contains(&g.operands(n)[0]) {
            Some(Reason::First)
        } else if !feeds.contains(&y) || ends.contains(&y) {
            Some(Reason::Last)
        } else if g.op(n) == Opcode::Conv2d && weights.dims.get(1) == Some(&1) && g.node(n).attrs.get(attr::GROUPS) > 1
        {
            Some(Reason::Depthwise)
        } else {
            (weights.elements() < FEW).then_some(Reason::Small)
        }
    };
    order.into_iter().filter(|&n| is_layer(g.op(n))).filter_map(|n| Some((n, reason(n)?))).collect()
}

/// Whether an operation moves the elements of one value, or applies a function to each.
fn repeats(g: &Graph, n: NodeId) -> bool {
    let class = g.op(n).info().class;
    matches!(class, Class::Unary(_) | Class::Norm(_) | Class::Cast(_))
        || matches!(class, Class::Move(m) if !matches!(m, Move::Concat | Move::Gather))
        || g.op(n).info().dialect() == Dialect::Quant
}

/// Whether this is the operand that a layer multiplies with its weights.
fn reads_as_layer(g: &Graph, n: NodeId, i: usize) -> bool {
    i == 0 && matches!(g.op(n).info().class, Class::Contract(Contract::Conv2d | Contract::Linear))
}

/// Values that only these layers read, also through moves and rectifiers that keep the type.
pub(crate) fn operands_of(g: &Graph, layers: &HashSet<NodeId>) -> HashSet<ValueId> {
    let mut found: HashSet<ValueId> = HashSet::new();
    let computed = g.order().into_iter().rev().map(|n| g.result(n));
    for v in computed {
        let uses = g.uses(v);
        let as_operand = |&(n, i): &(NodeId, usize)| {
            reads_as_layer(g, n, i) && layers.contains(&n)
                || (selects(g.op(n)) || clamps(g.op(n))) && found.contains(&g.result(n))
        };
        if !g.is_output(v) && !uses.is_empty() && uses.iter().all(as_operand) {
            found.insert(v);
        }
    }
    found
}

/// Gives one of these layers its operand in the type that `types` has for it, if that has fewer bits.
pub(crate) fn narrow(change: &mut Change, n: NodeId, layers: &HashSet<NodeId>, types: &HashMap<ValueId, Arc<Uniform>>) {
    let g = change.graph();
    let x = g.operands(n)[0];
    let (Some(to), Some(own)) = (types.get(&x).filter(|_| layers.contains(&n)), g.ty(x).uniform()) else { return };
    // What needs more than 8 bits keeps them.
    if !own.format.fits_byte() || own.format.bits() <= to.format.bits() {
        return;
    }
    let elem = Elem::Uniform(to.clone());
    let known = g.uses(x).into_iter().map(|(n, _)| (g.op(n), g.result(n)));
    let known = known.into_iter().find(|&(op, y)| op == Opcode::SCast && g.ty(y).elem == elem).map(|(_, y)| y);
    let operand = known.unwrap_or_else(|| {
        let g = change.graph();
        let (name, ty, origin) = (format!("{}.s", g.name_of(x)), g.ty(x).with_elem(elem), origin_of(g, x));
        change.add(Opcode::SCast, &[x], Attrs::new(Opcode::SCast), &name, ty, origin)
    });
    change.set_operand(n, 0, operand);
}

/// What is to be said of layers that keep 8 bits.
pub(crate) fn remark(
    g: &Graph,
    (what, name): (&str, &str),
    kept: &HashMap<NodeId, Reason>,
    all: usize,
) -> Option<String> {
    let listed: Vec<(NodeId, Reason)> = g.order().into_iter().filter_map(|n| Some((n, *kept.get(&n)?))).collect();
    if listed.is_empty() {
        return None;
    }
    let mut groups: Vec<String> = Vec::new();
    for reason in [Reason::First, Reason::Last, Reason::Depthwise, Reason::Small] {
        let names: Vec<String> =
            listed.iter().filter(|(_, r)| *r == reason).map(|(n, _)| format!("%{}", g.name_of(g.result(*n)))).collect();
        if names.is_empty() {
            continue;
        }
        let more = names.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        groups.push(format!("{}: {}{more}", reason.name(), names[..names.len().min(NAMED)].join(", ")));
    }
    let (count, groups) = (listed.len(), groups.join("; "));
    Some(format!("{what} of {count} layers of {all} keep 8 bits ({groups}); `--precision {name}=FORMAT` overrules"))
}
