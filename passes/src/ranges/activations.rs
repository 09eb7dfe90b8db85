//! The values whose ranges must be found.

use qcc_ir::{Def, Graph, Opcode, ValueId};

/// Float values whose range must be found, in order of creation: all but constants and, in a model that is quantized in
/// part, values that come from a quantized one or only become one.
pub(crate) fn activations(g: &Graph) -> Vec<ValueId> {
    let casts = |v: ValueId, op: Opcode| g.producer(v).is_some_and(|n| g.op(n) == op);
    let ignored = |v: ValueId| matches!(g.def(v), Def::Input(_)) && g.uses(v).is_empty();
    let read = |v: ValueId| g.is_output(v) || ignored(v) || g.uses(v).iter().any(|&(n, _)| g.op(n) != Opcode::QCast);
    let wanted = |v: ValueId| !matches!(g.def(v), Def::Const(_)) && !casts(v, Opcode::DCast) && read(v);
    g.values().filter(|&v| g.ty(v).is_float() && wanted(v)).collect()
}
