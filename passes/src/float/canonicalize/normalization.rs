//! Normalizations where they are spelled out: layer, root mean square and L2 normalization.
//!
//! | spelled out, with `d = x - mean(x)` and `v = mean(d^2) + epsilon` | becomes |
//! |---|---|
//! | `d / sqrt(v)`, `d * (1 / sqrt(v))`, `d * v^-0.5` | `nn.layer_norm` |
//! | `x * s + (c - mean(x) * s)`, `s = gamma / sqrt(v)` | the same, with `gamma` and `c` |
//! | the same with `x` in place of `d` | `nn.layer_norm {centered = false}` |
//! | `x / sqrt(sum(x^2) + epsilon)`, `x / max(sqrt(sum(x^2)), epsilon)` | the same, a sum being the mean times the row's length |
//!
//! A square and its root span twice the decades of a value, and no scale of 8 bits holds that. Means over other than the last
//! dimensions stand between two transpositions.

use qcc_ir::{Attrs, Edit, Elem, Graph, NodeId, Opcode, Tensor, Type, ValueId, attr};

use crate::rewrite::{either, floats, inverse, named, origin_of, produced_by, scalar, substitute};

/// A normalization that was found.
struct Normalization {
    x: ValueId,
    axes: Vec<usize>,
    /// Added to the mean of squares.
    epsilon: f32,
    centered: bool,
    /// What the result is divided by beside: the root of the row's length for sums of squares.
    divisor: f32,
    scale: Option<ValueId>,
    bias: Option<ValueId>,
}

/// `sqrt(mean(d^2) + epsilon)` of some `d`.
struct Deviation {
    d: ValueId,
    /// Whether squares are of `d` less its mean.
    less_mean: bool,
    axes: Vec<usize>,
    epsilon: f32,
    divisor: f32,
}

/// Replaces what is described above.
pub(super) fn spelled_out(edit: &mut Edit, n: NodeId) -> bool {
    let Some(found) = normalization(edit.graph(), n).or_else(|| affine(edit.graph(), n)) else { return false };
    let g = edit.graph();
    let y = g.result(n);
    let dims = g.ty(y).dims.clone();
    let operator = if found.centered { "nn.layer_norm" } else { "nn.layer_norm without a mean" };
    let label = format!("canonicalize: {} becomes {operator}", named(edit, n));
    if g.ty(found.x).dims != dims || g.constant(found.x).is_some() {
        return false;
    }
    let (name, origin) = (g.name_of(y).to_string(), origin_of(g, y));
    let rest = (0..dims.len()).filter(|a| !found.axes.contains(a));
    let perm: Vec<usize> = rest.chain(found.axes.iter().copied()).collect();
    let parameter = |v: Option<ValueId>, neutral: f32, factor: f32| {
        let given = v.and_then(|v| floats(g, v)).map(|(t, data)| (t.dims.clone(), data.to_vec()));
        let (of, data) = given.unwrap_or((vec![1], vec![neutral]));
        let data = data.iter().map(|x| x * factor).collect();
        moved(&of, data, &perm)
    };
    let scale = parameter(found.scale, 1.0, 1.0 / found.divisor);
    let bias = parameter(found.bias, 0.0, 1.0);
    let Some(mut change) = edit.begin(label) else { return false };
    let scale = change.add_const(&format!("{name}.scale"), scale);
    let bias = change.add_const(&format!("{name}.bias"), bias);
    let axis = i64::try_from(dims.len() - found.axes.len()).unwrap_or(0);
    let attrs = Attrs::new(Opcode::LayerNorm)
        .with(attr::AXIS, axis)
        .with(attr::EPSILON, found.epsilon)
        .with(attr::CENTERED, found.centered);
    if perm.is_sorted() {
        substitute(&mut change, y, Opcode::LayerNorm, &[found.x, scale, bias], attrs);
        return true;
    }
    let ty = Type { dims: perm.iter().map(|&p| dims[p]).collect(), elem: Elem::F32 };
    let transposed = |perm: &[usize]| Attrs::new(Opcode::Transpose).with(attr::PERM, perm);
    let x =
        change.add(Opcode::Transpose, &[found.x], transposed(&perm), &format!("{name}.t"), ty.clone(), origin.clone());
    let normal = change.add(Opcode::LayerNorm, &[x, scale, bias], attrs, &format!("{name}.normal"), ty, origin);
    substitute(&mut change, y, Opcode::Transpose, &[normal], transposed(&inverse(&perm)));
    true
}

/// A constant that broadcasts over a value, for that value transposed by `perm`.
fn moved(dims: &[usize], data: Vec<f32>, perm: &[usize]) -> Tensor {
    if data.len() == 1 {
        return Tensor::f32(&[1], data);
    }
    let mut full = vec![1; perm.len() - dims.len()];
    full.extend(dims);
    let strides: Vec<usize> = (0..full.len()).map(|i| full[i + 1..].iter().product()).collect();
    let to: Vec<usize> = perm.iter().map(|&p| full[p]).collect();
    let element = |mut i: usize| {
        let mut at = 0;
        for (&extent, &p) in to.iter().zip(perm).rev() {
            at += i % extent * strides[p];
            i /= extent;
        }
        data[at]
    };
    Tensor::f32(&to, (0..data.len()).map(element).collect())
}

/// The node as a quotient of something by its own deviation.
fn normalization(g: &Graph, n: NodeId) -> Option<Normalization> {
    let (d, deviation) = match g.op(n) {
        Opcode::Div => {
            let [d, v] = g.operands(n)[..] else { return None };
            (d, deviation(g, v)?)
        }
        Opcode::Mul => {
            let (deviation, d) = either(g, n, |v, _| reciprocal_deviation(g, v))?;
            (d, deviation)
        }
        _ => return None,
    };
    let Deviation { ref axes, epsilon, divisor, .. } = deviation;
    let found = |x: ValueId, centered: bool| {
        Some(Normalization { x, axes: axes.clone(), epsilon, centered, divisor, scale: None, bias: None })
    };
    match centred(g, d) {
        Some((x, of)) if of == *axes && is_of_centred(g, &deviation, x) => found(x, true),
        _ if deviation.d == d && !deviation.less_mean => found(d, false),
        _ => None,
    }
}

/// `x * s + (c - mean(x) * s)` with `s` the reciprocal deviation of `x`, perhaps times a constant.
fn affine(g: &Graph, n: NodeId) -> Option<Normalization> {
    if g.op(n) != Opcode::Add {
        return None;
    }
    let [a, b] = g.operands(n)[..] else { return None };
    [(a, b), (b, a)].into_iter().find_map(|(product, rest)| {
        let product = produced_by(g, product, Opcode::Mul)?;
        let rest = produced_by(g, rest, Opcode::Sub)?;
        let [c, shift] = g.operands(rest)[..] else { return None };
        floats(g, c)?;
        let shift = produced_by(g, shift, Opcode::Mul)?;
        let [p, q] = g.operands(product)[..] else { return None };
        [(p, q), (q, p)].into_iter().find_map(|(x, s)| {
            let mean = *g.operands(shift).iter().find(|&&v| v != s)?;
            let (deviation, scale) = match reciprocal_deviation(g, s) {
                Some(deviation) => (deviation, None),
                None => {
                    let scaled = produced_by(g, s, Opcode::Mul)?;
                    let (deviation, gamma) = either(g, scaled, |v, _| reciprocal_deviation(g, v))?;
                    floats(g, gamma)?;
                    (deviation, Some(gamma))
                }
            };
            let of = mean_of(g, mean, x)?;
            let is_of_x = is_of_centred(g, &deviation, x);
            let Deviation { axes, epsilon, divisor, .. } = deviation;
            let fits = g.operands(shift).contains(&s) && of == axes && divisor == 1.0 && is_of_x;
            fits.then_some(Normalization { x, axes, epsilon, centered: true, divisor, scale, bias: Some(c) })
        })
    })
}

/// The dimensions over which `v` is the mean of `x`, which stay with extent 1.
fn mean_of(g: &Graph, v: ValueId, x: ValueId) -> Option<Vec<usize>> {
    let n = produced_by(g, v, Opcode::ReduceMean).filter(|&n| g.operands(n)[0] == x)?;
    kept_axes(g, n)
}

fn kept_axes(g: &Graph, n: NodeId) -> Option<Vec<usize>> {
    let attrs = &g.node(n).attrs;
    let mut axes = attrs.sizes(attr::AXES);
    axes.sort_unstable();
    (attrs.get(attr::KEEPDIMS) && !axes.is_empty()).then_some(axes)
}

/// `v = x - mean(x)`: `x`, and the dimensions of the mean.
fn centred(g: &Graph, v: ValueId) -> Option<(ValueId, Vec<usize>)> {
    let n = produced_by(g, v, Opcode::Sub)?;
    let [x, mean] = g.operands(n)[..] else { return None };
    Some((x, mean_of(g, mean, x)?))
}

/// Whether the deviation is that of `x - mean(x)`.
fn is_of_centred(g: &Graph, deviation: &Deviation, x: ValueId) -> bool {
    let is_less_mean = || centred(g, deviation.d).is_some_and(|(of, over)| of == x && over == deviation.axes);
    if deviation.less_mean { deviation.d == x } else { is_less_mean() }
}

/// `1 / sqrt(..)`, `(..)^-0.5`.
fn reciprocal_deviation(g: &Graph, v: ValueId) -> Option<Deviation> {
    let n = g.producer(v)?;
    let operands = g.operands(n);
    match g.op(n) {
        Opcode::Reciprocal => deviation(g, operands[0]),
        Opcode::Div if scalar(g, operands[0]) == Some(1.0) => deviation(g, operands[1]),
        Opcode::Pow if scalar(g, operands[1]) == Some(-0.5) => of_squares(g, operands[0]),
        Opcode::Sqrt => {
            let inner = produced_by(g, operands[0], Opcode::Reciprocal)?;
            of_squares(g, g.operands(inner)[0])
        }
        _ => None,
    }
}

/// `sqrt(..)`, `(..)^0.5`, or a root that is at least a small number.
fn deviation(g: &Graph, v: ValueId) -> Option<Deviation> {
    let n = g.producer(v)?;
    let operands = g.operands(n);
    match g.op(n) {
        Opcode::Sqrt => of_squares(g, operands[0]),
        Opcode::Pow if scalar(g, operands[1]) == Some(0.5) => of_squares(g, operands[0]),
        Opcode::Clip => {
            let attrs = &g.node(n).attrs;
            let least = attrs.get(attr::MIN);
            let fits = attrs.get(attr::MAX) == f32::MAX && (0.0..=1e-3).contains(&least);
            let inner = deviation(g, operands[0]).filter(|d| fits && d.epsilon == 0.0)?;
            let epsilon = least * least / (inner.divisor * inner.divisor);
            Some(Deviation { epsilon, ..inner })
        }
        _ => None,
    }
}

/// The mean or sum of squares, plus a constant if there is one; or the mean of squares less the square of the mean.
fn of_squares(g: &Graph, v: ValueId) -> Option<Deviation> {
    let n = g.producer(v)?;
    let (n, epsilon) = match g.op(n) {
        Opcode::Add => {
            let (epsilon, inner) = either(g, n, |a, _| scalar(g, a).filter(|e| *e >= 0.0))?;
            (g.producer(inner)?, epsilon)
        }
        Opcode::Clip => {
            let attrs = &g.node(n).attrs;
            let least = attrs.get(attr::MIN);
            let fits = attrs.get(attr::MAX) == f32::MAX && (0.0..=1e-3).contains(&least);
            (g.producer(g.operands(n)[0]).filter(|_| fits)?, least)
        }
        _ => (n, 0.0),
    };
    if g.op(n) == Opcode::Sub {
        let (x, axes) = variance(g, n)?;
        return Some(Deviation { d: x, less_mean: true, axes, epsilon, divisor: 1.0 });
    }
    if !matches!(g.op(n), Opcode::ReduceMean | Opcode::ReduceSum) {
        return None;
    }
    let of = g.operands(n)[0];
    let axes = kept_axes(g, n)?;
    let length: usize = axes.iter().map(|&a| g.ty(of).dims.get(a).copied().unwrap_or(1)).product();
    // A sum is the mean times the length: `sum + e = length (mean + e / length)`.
    let (divisor, epsilon) = match g.op(n) {
        Opcode::ReduceMean => (1.0, epsilon),
        Opcode::ReduceSum => ((length as f32).sqrt(), epsilon / length.max(1) as f32),
        _ => return None,
    };
    Some(Deviation { d: square_root_of(g, of)?, less_mean: false, axes, epsilon, divisor })
}

/// `d` if `v` is its square.
fn square_root_of(g: &Graph, v: ValueId) -> Option<ValueId> {
    let n = g.producer(v)?;
    let squared = g.operands(n);
    let is_square = match g.op(n) {
        Opcode::Mul => squared[0] == squared[1],
        Opcode::Pow => scalar(g, squared[1]) == Some(2.0),
        _ => false,
    };
    is_square.then_some(squared[0])
}

/// `mean(x^2) - mean(x)^2`: `x`, and the dimensions of the means.
fn variance(g: &Graph, n: NodeId) -> Option<(ValueId, Vec<usize>)> {
    let [mean_of_squares, square_of_mean] = g.operands(n)[..] else { return None };
    let mean = square_root_of(g, square_of_mean)?;
    let x = g.operands(produced_by(g, mean, Opcode::ReduceMean)?)[0];
    let squares = g.operands(produced_by(g, mean_of_squares, Opcode::ReduceMean)?)[0];
    let axes = mean_of(g, mean, x).filter(|axes| mean_of(g, mean_of_squares, squares).as_ref() == Some(axes))?;
    (square_root_of(g, squares)? == x).then_some((x, axes))
}
