//! `tensor.*`: elements of any kind move, none is computed. Integers that stand for real numbers move as they are.

use qcc_ir::diag::Code;
use qcc_ir::ops::Move;
use qcc_ir::{Attrs, Data, Diag, Tensor, Type, Window, attr, for_data, map_data};

use crate::cast::{dequantize, quantize};
use crate::element::{Element, widen};
use crate::layout::{around, broadcast_strides, gather, strides};

/// Evaluates a `tensor.*` operator.
pub(crate) fn eval(m: Move, attrs: &Attrs, operands: &[(&Tensor, &Type)], result: &Type) -> Result<Tensor, Diag> {
    let Some(&(x, _)) = operands.first() else {
        return Err(Diag::new(Code::VERIFY, "no operand to take elements from"));
    };
    let data = match m {
        Move::Reshape => x.data.clone(),
        Move::Transpose => {
            let own = strides(&x.dims);
            let permuted: Vec<_> = attrs.sizes(attr::PERM).iter().map(|&p| own[p]).collect();
            map_data!(&x.data, v => gather(v, 0, &result.dims, &permuted))
        }
        Move::Concat => {
            let axis = attrs.get(attr::AXIS) as usize;
            map_data!(&x.data, v => concat(v, operands, axis)?)
        }
        Move::Slice => slice(x, attrs, &result.dims)?,
        Move::Pad => {
            let pads = attrs.get(attr::PADS);
            let value = attrs.get(attr::VALUE);
            map_data!(&x.data, v => pad(v, &x.dims, &pads[..x.dims.len()], value, &result.dims))
        }
        Move::Gather => {
            let positions = operands.get(1).and_then(|(i, _)| widen(&i.data));
            let positions =
                positions.ok_or_else(|| Diag::new(Code::BAD_SHAPE, "indices of a gather are not integers"))?;
            let (axis, wrap) = (attrs.get(attr::AXIS) as usize, attrs.get(attr::WRAP));
            map_data!(&x.data, v => select(v, &x.dims, axis, wrap, &positions)?)
        }
        Move::Expand => {
            let repeated = broadcast_strides(&x.dims, &result.dims);
            map_data!(&x.data, v => gather(v, 0, &result.dims, &repeated))
        }
        Move::Cast => cast(operands, attrs.get(attr::TO))?,
        Move::Where => choose(operands, &result.dims)?,
        Move::MaxPoolIndex => {
            let window = Window::pool(attrs);
            Data::I64(for_data!(&x.data, v => greatest_of_windows(v, &x.dims, &window, &result.dims)?))
        }
        Move::TopK | Move::TopKIndex | Move::ArgMax => {
            let (axis, k) =
                (attrs.get(attr::AXIS) as usize, if m == Move::ArgMax { 1 } else { attrs.get(attr::K) as usize });
            let largest = m == Move::ArgMax || attrs.get(attr::LARGEST);
            let last = m == Move::ArgMax && attrs.get(attr::LAST);
            let positions = for_data!(&x.data, v => ordered(v, &x.dims, axis, k, largest, last));
            match m {
                Move::TopK => {
                    let (_, extent, inner) = around(&x.dims, axis);
                    let source = |(i, &p): (usize, &usize)| (i / (k * inner) * extent + p) * inner + i % inner;
                    map_data!(&x.data, v => positions.iter().enumerate().map(|e| v[source(e)]).collect())
                }
                _ => Data::I64(positions.iter().map(|&p| p as i64).collect()),
            }
        }
    };
    let tensor = Tensor { dims: result.dims.clone(), data };
    match (m, result.uniform(), &tensor.data) {
        (Move::Cast, Some(_), Data::F32(_)) => quantize(&tensor, result),
        _ => Ok(tensor),
    }
}

/// Elements of the first operand where the third is not 0, else of the second.
fn choose(operands: &[(&Tensor, &Type)], dims: &[usize]) -> Result<Data, Diag> {
    let [(x, _), (y, ty), (condition, _)] = operands else {
        return Err(Diag::new(Code::VERIFY, "a selection has three operands"));
    };
    let stretched = |t: &Tensor| map_data!(&t.data, v => gather(v, 0, dims, &broadcast_strides(&t.dims, dims)));
    let Data::U8(condition) = stretched(condition) else {
        return Err(Diag::new(Code::VERIFY, "a condition is not boolean"));
    };
    fn pick<T: Element>(x: &[T], y: &Data, ty: &Type, condition: &[u8]) -> Result<Vec<T>, Diag> {
        let y =
            T::slice(y).ok_or_else(|| Diag::new(Code::BAD_SHAPE, format!("cannot choose between {ty} and others")))?;
        let pairs = x.iter().zip(y).zip(condition);
        Ok(pairs.map(|((&x, &y), &c)| if c != 0 { x } else { y }).collect())
    }
    let (x, y) = (stretched(x), stretched(y));
    Ok(map_data!(&x, v => pick(v, &y, ty, &condition)?))
}

/// Where the greatest element of each window over `[N, C, H, W]` lies.
fn greatest_of_windows<T: Element + PartialOrd>(
    x: &[T],
    dims: &[usize],
    window: &Window,
    out: &[usize],
) -> Result<Vec<i64>, Diag> {
    let (&[_, _, h, w], &[n, c, oh, ow]) = (dims, out) else {
        return Err(Diag::new(Code::VERIFY, "a window slides over four dimensions"));
    };
    let inside = |d: usize, o: usize, extent: usize| {
        let at = move |k: usize| (o * window.strides[d] + k * window.dilations[d]).checked_sub(window.pads[d]);
        (0..window.kernel[d]).filter_map(at).filter(move |&i| i < extent)
    };
    let mut found = Vec::with_capacity(n * c * oh * ow);
    for plane in 0..n * c {
        for (oy, ox) in (0..oh).flat_map(|y| (0..ow).map(move |x| (y, x))) {
            let mut best: Option<usize> = None;
            for (y, z) in inside(0, oy, h).flat_map(|y| inside(1, ox, w).map(move |z| (y, z))) {
                let i = (plane * h + y) * w + z;
                if best.is_none_or(|b| x[i] > x[b]) {
                    best = Some(i);
                }
            }
            found.push(best.unwrap_or(0) as i64);
        }
    }
    Ok(found)
}

/// Positions along `axis` of the first `k` elements in order, laid out as the result: of equal ones the first, or the last,
/// comes first.
fn ordered<T: Element + PartialOrd>(
    x: &[T],
    dims: &[usize],
    axis: usize,
    k: usize,
    largest: bool,
    last: bool,
) -> Vec<usize> {
    let (outer, extent, inner) = around(dims, axis);
    let mut out = vec![0; outer * k * inner];
    for o in 0..outer {
        for i in 0..inner {
            let at = |p: usize| x[(o * extent + p) * inner + i];
            let mut order: Vec<usize> = (0..extent).collect();
            if last {
                order.reverse();
            }
            let before = |a: &usize, b: &usize| {
                let order = at(*a).partial_cmp(&at(*b)).unwrap_or(std::cmp::Ordering::Equal);
                if largest { order.reverse() } else { order }
            };
            order.sort_by(before);
            order.iter().take(k).enumerate().for_each(|(j, &p)| out[(o * k + j) * inner + i] = p);
        }
    }
    out
}

/// `first` is the first operand's elements and fixes the element type.
fn concat<T: Element>(first: &[T], operands: &[(&Tensor, &Type)], axis: usize) -> Result<Vec<T>, Diag> {
    let mut parts = Vec::with_capacity(operands.len());
    let mut outer = 1;
    for (t, ty) in operands {
        let source = T::slice(&t.data).ok_or_else(|| {
            Diag::new(Code::BAD_SHAPE, format!("cannot join {ty} to elements of another type in a concat"))
        })?;
        let (o, extent, inner) = around(&t.dims, axis);
        outer = o;
        parts.push((source, extent * inner));
    }
    let mut out = Vec::with_capacity(parts.iter().map(|p| p.0.len()).sum::<usize>().max(first.len()));
    for i in 0..outer {
        for (source, n) in &parts {
            out.extend_from_slice(&source[i * n..(i + 1) * n]);
        }
    }
    Ok(out)
}

fn slice(x: &Tensor, attrs: &Attrs, out: &[usize]) -> Result<Data, Diag> {
    let (starts, steps) = (attrs.get(attr::STARTS), attrs.get(attr::STEPS));
    let own = strides(&x.dims);
    let mut offset = 0;
    let mut taken = Vec::with_capacity(out.len());
    for (i, &n) in out.iter().enumerate() {
        let (start, step) = (starts[i].max(0) as usize, steps[i].max(1) as usize);
        if n > 0 && start + (n - 1) * step >= x.dims[i] {
            return Err(Diag::new(Code::VERIFY, format!("a slice of {:?} ends outside dimension {i}", x.dims)));
        }
        offset += start * own[i];
        taken.push(own[i] * step);
    }
    Ok(map_data!(&x.data, v => gather(v, offset, out, &taken)))
}

/// `before[i]` elements of `value` stand before dimension `i`; a negative number removes elements.
fn pad<T: Element>(x: &[T], dims: &[usize], before: &[i64], value: f32, out: &[usize]) -> Vec<T> {
    let mut result = vec![T::from_f32(value); out.iter().product()];
    // The part of `x` that lies in the result, and where it begins in both.
    let first: Vec<usize> = before.iter().map(|&b| (-b).max(0) as usize).collect();
    let target: Vec<usize> = before.iter().map(|&b| b.max(0) as usize).collect();
    let kept: Vec<usize> =
        (0..dims.len()).map(|i| dims[i].saturating_sub(first[i]).min(out[i].saturating_sub(target[i]))).collect();
    if kept.contains(&0) {
        return result;
    }
    let (from, to) = (strides(dims), strides(out));
    let at = |index: &[usize], strides: &[usize]| index.iter().zip(strides).map(|(i, s)| i * s).sum::<usize>();
    let (source, destination) = (at(&first, &from), at(&target, &to));
    crate::layout::Walk::new(&kept, [&from, &to]).rows(|[s, d], n, [a, b]| {
        for k in 0..n {
            result[destination + d + k * b] = x[source + s + k * a];
        }
    });
    result
}

/// Positions outside are the last.
fn select<T: Element>(x: &[T], dims: &[usize], axis: usize, wrap: bool, positions: &[i64]) -> Result<Vec<T>, Diag> {
    let (outer, extent, inner) = around(dims, axis);
    let last = extent.checked_sub(1);
    let Some(last) = last.or(positions.is_empty().then_some(0)) else {
        return Err(Diag::new(Code::DATA, "a gather from a dimension without elements"));
    };
    let absolute = |&p: &i64| {
        let i = if p < 0 && wrap { p.saturating_add(extent as i64) } else { p };
        usize::try_from(i).map_or(last, |i| i.min(last))
    };
    let positions: Vec<usize> = positions.iter().map(absolute).collect();
    let mut out = Vec::with_capacity(outer * positions.len() * inner);
    for o in 0..outer {
        for p in &positions {
            let start = (o * extent + p) * inner;
            out.extend_from_slice(&x[start..start + inner]);
        }
    }
    Ok(out)
}

/// To f32 (0), i64 (1), i32 (2), i16 (3), i8 (4), u8 (5) or bool (6). Codes are the real numbers that they stand for.
fn cast(operands: &[(&Tensor, &Type)], to: i64) -> Result<Data, Diag> {
    let Some(&(x, ty)) = operands.first() else { return Err(Diag::new(Code::VERIFY, "a cast has one operand")) };
    let real = if ty.uniform().is_some() { Some(dequantize(x, ty)?) } else { None };
    let x = real.as_ref().map_or(&x.data, |real| &real.data);
    macro_rules! narrow {
        ($variant:ident, $ty:ty) => {
            Data::$variant(match x {
                Data::F32(v) => v.iter().map(|&e| e as $ty).collect(),
                _ => for_data!(x, v => v.iter().map(|e| e.to_i64() as $ty).collect()),
            })
        };
    }
    match to {
        0 => Ok(Data::F32(for_data!(x, v => v.iter().map(|e| e.to_f32()).collect()))),
        1 => Ok(Data::I64(for_data!(x, v => v.iter().map(|e| e.to_i64()).collect()))),
        2 => Ok(Data::I32(for_data!(x, v => v.iter().map(|e| e.to_i32()).collect()))),
        3 => Ok(narrow!(I16, i16)),
        4 => Ok(narrow!(I8, i8)),
        5 => Ok(narrow!(U8, u8)),
        6 => Ok(Data::U8(for_data!(x, v => v.iter().map(|e| u8::from(e.to_f32() != 0.0)).collect()))),
        other => Err(Diag::new(Code::VERIFY, format!("{other} names no element type of a cast"))),
    }
}
