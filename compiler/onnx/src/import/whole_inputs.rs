//! Inputs of a float model that are integers in its file, as images of bytes are: real numbers in the graph, so that it is compiled as any
//! float model. [`Fact::Declared`] tells which integers they are.

use std::collections::HashSet;

use qcc_ir::ops::Move;
use qcc_ir::{Attrs, Builder, Class, Elem, Fact, Graph, Opcode, ValueId, attr};

/// Makes such inputs real, where nothing else in the graph is quantized.
pub(super) fn make_real(builder: &mut Builder) {
    let graph = builder.graph();
    let inputs: Vec<ValueId> = graph.inputs().iter().copied().filter(|&x| stands_for_itself(graph, x)).collect();
    let Some(moved) = inputs.iter().map(|&x| moved_from(graph, x)).collect::<Option<Vec<_>>>() else { return };
    let moved: HashSet<ValueId> = moved.into_iter().flatten().collect();
    let casts: Vec<_> = graph.order().into_iter().filter(|&n| matches!(graph.op(n), Opcode::DCast)).collect();
    let only_these = casts.iter().all(|&n| moved.contains(&graph.operands(n)[0]));
    let quantized = graph.values().any(|v| graph.ty(v).uniform().is_some() && !moved.contains(&v));
    if inputs.is_empty() || !only_these || quantized {
        return;
    }
    for &x in &inputs {
        let Some((name, u)) = builder.graph().ty(x).uniform().map(|u| (builder.graph().name_of(x), u.clone())) else {
            continue;
        };
        let (name, ends) = (name.to_string(), [u.min(), u.max()].map(|q| q as f64));
        builder.set_metadata(Fact::Declared, &name, ends.to_vec());
    }
    for v in moved {
        let ty = builder.graph().ty(v).with_elem(Elem::F32);
        builder.set_type(v, ty);
    }
    for n in casts {
        let (x, y) = (builder.graph().operands(n)[0], builder.graph().result(n));
        if builder.graph().is_output(y) {
            // An output has its own name.
            let dims = builder.graph().ty(y).dims.clone();
            let shape: Vec<i64> = dims.into_iter().map(|d| i64::try_from(d).unwrap_or(i64::MAX)).collect();
            builder.set_op(n, Opcode::Reshape, Attrs::new(Opcode::Reshape).with(attr::SHAPE, shape));
        } else {
            builder.replace(y, x);
        }
    }
    builder.remove_dead();
}

/// True for integers of 8 or 16 bits that are the real numbers of the same value.
fn stands_for_itself(g: &Graph, x: ValueId) -> bool {
    g.ty(x).uniform().is_some_and(|u| u.axis.is_none() && u.scale() == 1.0 && u.zero_point() == 0)
}

/// What data movement makes of a value of codes, itself among it; nothing if anything but casts to real numbers reads that.
fn moved_from(g: &Graph, x: ValueId) -> Option<Vec<ValueId>> {
    let mut found = vec![x];
    let mut at = 0;
    while let Some(&v) = found.get(at) {
        at += 1;
        if g.is_output(v) {
            return None;
        }
        for (n, i) in g.uses(v) {
            match g.op(n).info().class {
                Class::Cast(_) if g.op(n) == Opcode::DCast => {}
                Class::Move(Move::Reshape | Move::Transpose | Move::Slice | Move::Expand) => found.push(g.result(n)),
                Class::Move(Move::Gather) if i == 0 => found.push(g.result(n)),
                _ => return None,
            }
        }
    }
    Some(found)
}
