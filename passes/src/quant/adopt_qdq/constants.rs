//! Constants of a quantized model: casts and movement of them are evaluated. Weights stay in quantized form behind one
//! `quant.dcast`; everything else that is small or differs by channel at most becomes real numbers.

use std::sync::Arc;

use qcc_interp::eval_node;
use qcc_ir::ops::Move;
use qcc_ir::{Attrs, Class, Edit, Elem, NodeId, Opcode, Tensor, Type, Uniform, attr};
use qcc_num::convert::count_i64;

use crate::constants::{codes, dequantized, reals};
use crate::rewrite::{add_cast, by_channel, substitute};

pub(super) fn evaluate(edit: &mut Edit) {
    for n in edit.graph().order() {
        let done = quantized_floats(edit, n) || moved(edit, n) || linear(edit, n);
        if !done && edit.graph().op(n) == Opcode::DCast {
            // Its readers decide.
            continue;
        }
    }
    for n in edit.graph().order() {
        if edit.graph().op(n) == Opcode::DCast {
            real_numbers(edit, n);
        } else if matches!(edit.graph().op(n).info().class, Class::Move(_)) {
            moved_reals(edit, n);
        }
    }
}

/// Movement of constants that have become real.
fn moved_reals(edit: &mut Edit, n: NodeId) {
    let g = edit.graph();
    let y = g.result(n);
    let known: Option<Vec<_>> =
        g.operands(n).into_iter().map(|v| Some((g.constant(v)?.clone(), g.ty(v).clone()))).collect();
    let Some(known) = known.filter(|_| g.ty(y).elem == Elem::F32 && !g.is_output(y)) else { return };
    let operands: Vec<(&Tensor, &Type)> = known.iter().map(|(t, ty)| (t.as_ref(), ty)).collect();
    let Ok(tensor) = eval_node(g.op(n), &g.node(n).attrs, &operands, g.ty(y)) else { return };
    let name = g.name_of(y).to_string();
    if let Some(mut change) = edit.begin(format!("adopt-qdq: %{name} is constant")) {
        change.rename(y, &format!("{name}.dead"));
        let c = change.add_const(&name, tensor);
        change.replace_uses(y, c);
    }
}

/// `quant.qcast` of a float constant.
fn quantized_floats(edit: &mut Edit, n: NodeId) -> bool {
    let g = edit.graph();
    if g.op(n) != Opcode::QCast || g.is_output(g.result(n)) {
        return false;
    }
    let (x, y) = (g.operands(n)[0], g.result(n));
    let Some(tensor) = reals(g, x) else { return false };
    let ty = g.ty(y).clone();
    let Ok(codes) = eval_node(Opcode::QCast, &g.node(n).attrs, &[(&tensor, &Type::f32(&ty.dims))], &ty) else {
        return false;
    };
    let name = g.name_of(y).to_string();
    let Some(mut change) = edit.begin(format!("adopt-qdq: %{name} is constant")) else {
        return false;
    };
    change.rename(y, &format!("{name}.dead"));
    let c = change.add_typed_const(&name, codes, ty.elem);
    change.replace_uses(y, c);
    true
}

/// Data movement of a dequantized constant moves its codes.
fn moved(edit: &mut Edit, n: NodeId) -> bool {
    let g = edit.graph();
    let Class::Move(kind @ (Move::Reshape | Move::Transpose | Move::Gather | Move::Pad)) = g.op(n).info().class else {
        return false;
    };
    let (y, operands) = (g.result(n), g.operands(n));
    let Some((c, tensor, uniform)) = dequantized(g, operands[0]).filter(|_| !g.is_output(y)) else {
        return false;
    };
    let (mut attrs, dims) = (g.node(n).attrs.clone(), g.ty(y).dims.clone());
    if kind == Move::Pad {
        let Some(&zero) = uniform.zero_points.first().filter(|_| attrs.get(attr::VALUE) == 0.0) else { return false };
        attrs = attrs.with(attr::VALUE, zero as f32);
    }
    let indices = operands.get(1).map(|&i| g.constant(i).cloned().map(|t| (t, g.ty(i).clone())));
    let indices = match indices {
        Some(None) => return false,
        Some(Some(indices)) => Some(indices),
        None => None,
    };
    let scaled = match (uniform.axis, kind) {
        (None, _) => Some((*uniform).clone()),
        (Some(axis), Move::Transpose) => {
            let axis = attrs.sizes(attr::PERM).iter().position(|&p| p == axis);
            axis.map(|axis| Uniform { axis: Some(axis), ..(*uniform).clone() })
        }
        (Some(axis), Move::Gather) => {
            let positions = indices.as_ref().filter(|(t, _)| t.dims.len() == 1).and_then(|(t, _)| codes(t));
            positions.and_then(|positions| match attrs.get(attr::AXIS) == count_i64(axis) {
                true => taken(&uniform, &positions),
                false => Some((*uniform).clone()),
            })
        }
        (Some(axis), Move::Pad) => {
            let pads = attrs.get(attr::PADS);
            let same = uniform.zero_points.iter().all(|zero| *zero == uniform.zero_points[0]);
            (same && pads[axis] == 0 && pads[tensor.dims.len() + axis] == 0).then(|| (*uniform).clone())
        }
        (Some(axis), _) => reshaped(&uniform, &tensor.dims, axis, &dims),
    };
    let Some(scaled) = scaled else { return false };
    // Movement does not look at scales: per tensor its type always has a rule.
    let plain = Elem::Int(uniform.storage());
    let operand = Type { dims: tensor.dims.clone(), elem: plain.clone() };
    let mut given: Vec<(&Tensor, &Type)> = vec![(&tensor, &operand)];
    given.extend(indices.iter().map(|(t, ty)| (t.as_ref(), ty)));
    let result = Type { dims, elem: plain };
    let Ok(moved) = eval_node(g.op(n), &attrs, &given, &result) else { return false };
    let name = format!("{}.moved", g.name_of(c));
    let Some(mut change) = edit.begin(format!("adopt-qdq: %{} is constant", edit.graph().name_of(y))) else {
        return false;
    };
    let c = change.add_typed_const(&name, moved, Elem::Uniform(Arc::new(scaled)));
    let real = add_cast(&mut change, Opcode::DCast, c, Elem::F32);
    change.replace_uses(y, real);
    true
}

/// The scales at these positions.
fn taken(u: &Uniform, positions: &[i64]) -> Option<Uniform> {
    let at = |&p: &i64| usize::try_from(if p < 0 { p + count_i64(u.scales.len()) } else { p }).ok();
    let scale = |p: &i64| u.scales.get(at(p)?).copied();
    let zero_point = |p: &i64| u.zero_points.get(at(p)?).copied();
    Some(Uniform {
        scales: positions.iter().map(scale).collect::<Option<_>>()?,
        zero_points: positions.iter().map(zero_point).collect::<Option<_>>()?,
        ..u.clone()
    })
}

/// The type of `from` after a reshape to `to` that leaves the dimension of the scales whole, or merges it with those in front of it, as
/// the channels of groups: the scales then repeat. Such groups may be parted again.
fn reshaped(u: &Uniform, from: &[usize], axis: usize, to: &[usize]) -> Option<Uniform> {
    let before: usize = from[..axis].iter().product();
    let ends = |i: usize| to[..=i].iter().product::<usize>() == before * from[axis];
    let period = |n: usize| {
        let repeats = |i: usize| u.scales[i] == u.scales[i % n] && u.zero_points[i] == u.zero_points[i % n];
        from[axis].is_multiple_of(n) && (0..from[axis]).all(repeats)
    };
    let at = (0..to.len()).find(|&i| ends(i) && (to[i].is_multiple_of(from[axis]) || to[i] > 0 && period(to[i])))?;
    let numbers = to[at].max(1);
    Some(Uniform {
        axis: Some(at),
        scales: u.scales.iter().copied().cycle().take(numbers).collect(),
        zero_points: u.zero_points.iter().copied().cycle().take(numbers).collect(),
        ..u.clone()
    })
}

/// `nn.matmul` by quantized constant weights `[K, N]` is `nn.linear` with the weights transposed.
fn linear(edit: &mut Edit, n: NodeId) -> bool {
    let g = edit.graph();
    if g.op(n) != Opcode::MatMul {
        return false;
    }
    let [a, b] = g.operands(n)[..] else { return false };
    let Some((c, tensor, uniform)) = dequantized(g, b) else { return false };
    let [k, width] = tensor.dims[..] else { return false };
    if reals(g, a).is_some() {
        return false;
    }
    let plain = |dims: [usize; 2]| Type { dims: dims.to_vec(), elem: Elem::Int(uniform.storage()) };
    let swap = Attrs::new(Opcode::Transpose).with(attr::PERM, vec![1, 0]);
    let swapped = eval_node(Opcode::Transpose, &swap, &[(&tensor, &plain([k, width]))], &plain([width, k]));
    let (Ok(swapped), name) = (swapped, format!("{}.t", g.name_of(c))) else { return false };
    let y = g.result(n);
    let Some(mut change) = edit.begin(format!("adopt-qdq: %{} becomes nn.linear", edit.graph().name_of(y))) else {
        return false;
    };
    let elem = Elem::Uniform(Arc::new(Uniform { axis: uniform.axis.map(|a| 1 - a), ..(*uniform).clone() }));
    let c = change.add_typed_const(&name, swapped, elem);
    let w = add_cast(&mut change, Opcode::DCast, c, Elem::F32);
    substitute(&mut change, y, Opcode::Linear, &[a, w], Attrs::new(Opcode::Linear));
    true
}

/// A dequantized constant becomes real numbers for readers that take these: all but weights, and what is added to or moved
/// together with activations element by element.
fn real_numbers(edit: &mut Edit, n: NodeId) {
    let g = edit.graph();
    let y = g.result(n);
    let Some((_, _, uniform)) = dequantized(g, y) else { return };
    // No activation has several scales.
    let several = uniform.scales.iter().any(|&s| s != uniform.scale());
    let several = several || uniform.zero_points.iter().any(|&z| z != uniform.zero_point());
    let Some(tensor) = reals(g, y) else { return };
    let name = format!("{}.real", g.name_of(y));
    let uses = g.uses(y);
    let mut real = None;
    for (user, i) in uses {
        let g = edit.graph();
        let takes = match g.op(user).info().class {
            Class::Contract(_) => i == 2,
            Class::Binary(_) => {
                let dims = &g.ty(g.result(user)).dims;
                (0..dims.len()).any(|axis| by_channel(&tensor, dims, axis).is_some())
            }
            Class::Move(_) => several,
            Class::Cast(_) | Class::Pool(_) => false,
            Class::Unary(_) | Class::Reduce(_) | Class::Norm(_) | Class::Int(_) => true,
        };
        if takes && let Some(mut change) = edit.begin(format!("adopt-qdq: @{name} as real numbers")) {
            let c = *real.get_or_insert_with(|| change.add_const(&name, tensor.clone()));
            change.set_operand(user, i, c);
        }
    }
}
