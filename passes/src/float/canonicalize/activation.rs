//! Activations that exporters spell out, gathered into one operator: on 8-bit data one table.
//!
//! A value that other nodes also use may take part where it is the activation's argument; intermediate values may not.

use qcc_ir::{Attrs, Edit, Graph, NodeId, Opcode, ValueId, attr};

use crate::rewrite::{either, named, produced_by, produced_once, scalar, substitute};

fn near(a: f32, b: f32) -> bool {
    (a - b).abs() <= 1e-4 * b.abs()
}

fn replace(edit: &mut Edit, n: NodeId, op: Opcode, x: ValueId, attrs: Attrs) -> bool {
    let label = format!("canonicalize: {} becomes {}", named(edit, n), op.name());
    let y = edit.graph().result(n);
    // Broadcasting a gate over its argument is no elementwise function.
    if edit.graph().ty(x).dims != edit.graph().ty(y).dims {
        return false;
    }
    let Some(mut change) = edit.begin(label) else {
        return false;
    };
    substitute(&mut change, y, op, &[x], attrs);
    true
}

/// `v = x <op> c` for a scalar constant, used once.
fn with_scalar(g: &Graph, v: ValueId, op: Opcode) -> Option<(ValueId, f32)> {
    let n = produced_once(g, v, op)?;
    let (c, x) = either(g, n, |a, _| scalar(g, a))?;
    Some((x, c))
}

/// `v = clip(x)`, used once: argument and bounds.
fn clipped(g: &Graph, v: ValueId) -> Option<(ValueId, f32, f32)> {
    let n = produced_once(g, v, Opcode::Clip)?;
    let attrs = &g.node(n).attrs;
    Some((g.operands(n)[0], attrs.get(attr::MIN), attrs.get(attr::MAX)))
}

/// `v = clip(x + 3, 0, 6)`.
fn relu6_of_shifted(g: &Graph, v: ValueId) -> Option<ValueId> {
    let (shifted, min, max) = clipped(g, v)?;
    let (x, c) = with_scalar(g, shifted, Opcode::Add)?;
    (min == 0.0 && near(max, 6.0) && near(c, 3.0)).then_some(x)
}

/// `max(x, c)` and `min(x, c)` are clips; a clip of a clip or of a rectifier is one clip.
pub(super) fn clip_from_extremes(edit: &mut Edit, n: NodeId) -> bool {
    let g = edit.graph();
    let clip = |min: f32, max: f32| Attrs::new(Opcode::Clip).with(attr::MIN, min).with(attr::MAX, max);
    match g.op(n) {
        op @ (Opcode::Max | Opcode::Min) => {
            let Some((c, x)) = either(g, n, |a, _| scalar(g, a)).filter(|(_, x)| g.constant(*x).is_none()) else {
                return false;
            };
            match op {
                Opcode::Max if c == 0.0 => replace(edit, n, Opcode::Relu, x, Attrs::new(Opcode::Relu)),
                Opcode::Max => replace(edit, n, Opcode::Clip, x, clip(c, f32::MAX)),
                _ => replace(edit, n, Opcode::Clip, x, clip(f32::MIN, c)),
            }
        }
        Opcode::Clip => {
            let x = g.operands(n)[0];
            let attrs = &g.node(n).attrs;
            let (min, max) = (attrs.get(attr::MIN), attrs.get(attr::MAX));
            if let Some((inner, lo, hi)) = clipped(g, x) {
                // As ONNX defines it: first the lower bound, then the upper one, which wins.
                return replace(edit, n, Opcode::Clip, inner, clip(lo.max(min).min(max), hi.max(min).min(max)));
            }
            if let Some(relu) = produced_once(g, x, Opcode::Relu) {
                let inner = g.operands(relu)[0];
                return replace(edit, n, Opcode::Clip, inner, clip(min.max(0.0).min(max), max));
            }
            if min == 0.0 && max == f32::MAX {
                return replace(edit, n, Opcode::Relu, x, Attrs::new(Opcode::Relu));
            }
            false
        }
        _ => false,
    }
}

/// `clip(x + 3, 0, 6) * (1 / 6)`.
pub(super) fn hard_sigmoid(edit: &mut Edit, n: NodeId) -> bool {
    let g = edit.graph();
    if g.op(n) != Opcode::Mul {
        return false;
    }
    let found = either(g, n, |a, b| Some((scalar(g, a).filter(|c| near(*c, 1.0 / 6.0))?, relu6_of_shifted(g, b)?)));
    let Some(((_, x), _)) = found else { return false };
    replace(edit, n, Opcode::HardSigmoid, x, Attrs::new(Opcode::HardSigmoid).with(attr::ALPHA, 1.0f32 / 6.0))
}

/// `x * sigmoid(x)`, `x * hard_sigmoid(x)`, `x * tanh(softplus(x))`.
pub(super) fn gated(edit: &mut Edit, n: NodeId) -> bool {
    let g = edit.graph();
    if g.op(n) != Opcode::Mul {
        return false;
    }
    let found = either(g, n, |gate, x| {
        let node = g.producer(gate).filter(|_| g.only_user(gate).is_some())?;
        let inner = g.operands(node)[0];
        match g.op(node) {
            Opcode::Sigmoid if inner == x => Some(Attrs::new(Opcode::Swish)),
            Opcode::Sigmoid => {
                let (argument, alpha) = with_scalar(g, inner, Opcode::Mul)?;
                (argument == x).then(|| Attrs::new(Opcode::Swish).with(attr::ALPHA, alpha))
            }
            Opcode::HardSigmoid if inner == x => {
                let attrs = &g.node(node).attrs;
                let fits = near(attrs.get(attr::ALPHA), 1.0 / 6.0) && near(attrs.get(attr::BETA), 0.5);
                fits.then(|| Attrs::new(Opcode::HardSwish))
            }
            Opcode::Tanh => {
                let softplus = produced_once(g, inner, Opcode::Softplus)?;
                (g.operands(softplus)[0] == x).then(|| Attrs::new(Opcode::Mish))
            }
            _ => None,
        }
    });
    let Some((attrs, x)) = found else { return false };
    replace(edit, n, attrs.op(), x, attrs)
}

/// `(x * clip(x + 3, 0, 6)) * (1 / 6)`.
pub(super) fn hard_swish_scaled(edit: &mut Edit, n: NodeId) -> bool {
    let g = edit.graph();
    if g.op(n) != Opcode::Mul {
        return false;
    }
    let found = either(g, n, |a, b| {
        scalar(g, a).filter(|c| near(*c, 1.0 / 6.0))?;
        let product = produced_once(g, b, Opcode::Mul)?;
        let (argument, x) = either(g, product, |gate, _| relu6_of_shifted(g, gate))?;
        (argument == x).then_some(x)
    });
    let Some((x, _)) = found else { return false };
    replace(edit, n, Opcode::HardSwish, x, Attrs::new(Opcode::HardSwish))
}

/// `v = 1 + erf(x / sqrt(2))`, or `v = 1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))`: `x`, and whether it is the latter.
fn normal_gate(g: &Graph, v: ValueId) -> Option<(ValueId, bool)> {
    let (gate, one) = with_scalar(g, v, Opcode::Add)?;
    let function = g.producer(gate).filter(|_| g.only_user(gate).is_some() && near(one, 1.0))?;
    let (argument, c) = with_scalar(g, g.operands(function)[0], Opcode::Mul)?;
    match g.op(function) {
        Opcode::Erf => near(c, std::f32::consts::FRAC_1_SQRT_2).then_some((argument, false)),
        Opcode::Tanh => {
            let sum = produced_once(g, argument, Opcode::Add)?;
            let (cube, x) = either(g, sum, |a, x| cubed(g, a, x))?;
            (near(c, 0.797_884_6) && near(cube, 0.044_715)).then_some((x, true))
        }
        _ => None,
    }
}

/// The factor `c` of `v = c * x^3`.
fn cubed(g: &Graph, v: ValueId, x: ValueId) -> Option<f32> {
    let is_cube = |v: ValueId| {
        let node = g.producer(v)?;
        let operands = g.operands(node);
        match g.op(node) {
            Opcode::Pow => (operands[0] == x && scalar(g, operands[1]) == Some(3.0)).then_some(()),
            Opcode::Mul => {
                let (square, other) = either(g, node, |a, _| produced_by(g, a, Opcode::Mul))?;
                (other == x && g.operands(square) == [x, x]).then_some(())
            }
            _ => None,
        }
    };
    let (cube, c) = with_scalar(g, v, Opcode::Mul)?;
    is_cube(cube).map(|()| c)
}

/// `x * gate * 0.5` with a gate of [`normal_gate`] and the half at any of the three positions.
pub(super) fn gelu(edit: &mut Edit, n: NodeId) -> bool {
    let g = edit.graph();
    if g.op(n) != Opcode::Mul {
        return false;
    }
    let half = |v: ValueId| scalar(g, v).filter(|c| near(*c, 0.5));
    let outside = || {
        let (product, _) = either(g, n, |a, b| half(a).and_then(|_| produced_once(g, b, Opcode::Mul)))?;
        let ((argument, tanh), x) = either(g, product, |a, _| normal_gate(g, a))?;
        (argument == x).then_some((x, tanh))
    };
    let on_argument = || {
        let ((argument, tanh), other) = either(g, n, |a, _| normal_gate(g, a))?;
        let (x, c) = with_scalar(g, other, Opcode::Mul)?;
        (x == argument && near(c, 0.5)).then_some((x, tanh))
    };
    let on_gate = || {
        let ((argument, tanh), x) = either(g, n, |a, _| {
            let (gate, c) = with_scalar(g, a, Opcode::Mul)?;
            normal_gate(g, gate).filter(|_| near(c, 0.5))
        })?;
        (argument == x).then_some((x, tanh))
    };
    let Some((x, tanh)) = outside().or_else(on_argument).or_else(on_gate) else { return false };
    replace(edit, n, Opcode::Gelu, x, Attrs::new(Opcode::Gelu).with(attr::TANH, tanh))
}
