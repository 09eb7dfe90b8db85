//! Rules of data movement, `tensor.*`.

use super::{Call, broadcast, cast_target};
use crate::attr;
use crate::ops::Move;
use crate::types::{Elem, Int, Type};

/// Shape of the result.
pub(super) fn dims(kind: Move, call: &Call) -> Result<Vec<usize>, String> {
    match kind {
        Move::Reshape => reshape(call),
        Move::Transpose => transpose(call),
        Move::Concat => concat(call),
        Move::Slice => slice(call),
        Move::Pad => pad(call),
        Move::Gather => {
            let axis = call.axis(0)?;
            let data = call.dims(0);
            Ok([&data[..axis], call.dims(1), &data[axis + 1..]].concat())
        }
        Move::Expand => {
            let shape = call.sizes(attr::SHAPE)?;
            match broadcast(call.dims(0), &shape) {
                Ok(dims) if dims == shape => Ok(shape),
                _ => Err(call.expected(0, format_args!("a shape that broadcasts to {shape:?}"))),
            }
        }
        Move::Where => broadcast(&call.broadcast(0, 1)?, call.dims(2)),
        Move::TopK | Move::TopKIndex => {
            let axis = call.axis(0)?;
            let mut dims = call.dims(0).to_vec();
            match usize::try_from(call.attrs.get(attr::K)) {
                Ok(k) if k <= dims[axis] => dims[axis] = k,
                _ => return Err(format!("expected `k` in 0..={}, found {}", dims[axis], call.attrs.get(attr::K))),
            }
            Ok(dims)
        }
        Move::ArgMax => {
            let axis = call.axis(0)?;
            let mut dims = call.dims(0).to_vec();
            if dims[axis] == 0 {
                return Err(call.expected(0, format_args!("elements along axis {axis}")));
            }
            dims[axis] = 1;
            if !call.attrs.get(attr::KEEPDIMS) {
                dims.remove(axis);
            }
            Ok(dims)
        }
        Move::MaxPoolIndex => call.pooled(false),
        Move::Cast => match cast_target(call.attrs.get(attr::TO)) {
            Some(_) => Ok(call.dims(0).to_vec()),
            None => Err(format!("expected `to` in 0..7, found {}", call.attrs.get(attr::TO))),
        },
    }
}

/// Element types of the operands; `fault` names an operand and what was expected of it.
pub(super) fn check_elems(
    kind: Move,
    operands: &[&Type],
    fault: &dyn Fn(usize, &str) -> Result<(), String>,
) -> Result<(), String> {
    match kind {
        Move::Concat => {
            // Quantized operands may each have their own scales; all are stored alike.
            let alike = |a: &Type, b: &Type| {
                a.is_float() && b.is_float() || a.elem == b.elem || {
                    a.elem.storage().is_some() && a.elem.storage() == b.elem.storage()
                }
            };
            match operands.iter().position(|t| !alike(t, operands[0])) {
                Some(i) => fault(i, &operands[0].elem.to_string()),
                None => Ok(()),
            }
        }
        Move::Where => {
            let alike = |a: &Type, b: &Type| a.is_float() && b.is_float() || a.elem.storage() == b.elem.storage();
            match operands {
                [x, y, _] if !alike(x, y) => fault(1, &x.elem.to_string()),
                [_, _, c] if !matches!(c.elem, Elem::Bool | Elem::Int(Int::U8)) => fault(2, "bool or u8"),
                _ => Ok(()),
            }
        }
        Move::Gather => match operands.get(1).map(|t| &t.elem) {
            Some(Elem::Int(Int::I64 | Int::I32 | Int::I16 | Int::I8 | Int::U8)) | None => Ok(()),
            Some(_) => fault(1, "integers"),
        },
        Move::Cast => match operands.first().map(|t| &t.elem) {
            Some(Elem::Uniform(u)) if u.axis.is_some() => fault(0, "one scale"),
            Some(_) | None => Ok(()),
        },
        Move::Reshape
        | Move::Transpose
        | Move::Slice
        | Move::Pad
        | Move::Expand
        | Move::TopK
        | Move::TopKIndex
        | Move::ArgMax
        | Move::MaxPoolIndex => Ok(()),
    }
}

fn reshape(call: &Call) -> Result<Vec<usize>, String> {
    let shape = call.sizes(attr::SHAPE)?;
    let elements = Type::f32(&shape).checked_elements();
    if elements != call.operands[0].checked_elements() {
        return Err(call.expected(0, format_args!("as many elements as {shape:?}")));
    }
    Ok(shape)
}

fn transpose(call: &Call) -> Result<Vec<usize>, String> {
    let perm = call.sizes(attr::PERM)?;
    let x = call.dims(0);
    if perm.len() != x.len() || (0..x.len()).any(|i| !perm.contains(&i)) {
        return Err(format!("expected `perm` to be a permutation of 0..{}, found {perm:?}", x.len()));
    }
    Ok(perm.into_iter().map(|p| x[p]).collect())
}

fn concat(call: &Call) -> Result<Vec<usize>, String> {
    if call.operands.is_empty() {
        return Err("expected at least one operand".to_string());
    }
    let axis = call.axis(0)?;
    let mut dims = call.dims(0).to_vec();
    for i in 1..call.operands.len() {
        let other = call.dims(i);
        if other.len() != dims.len() || (0..dims.len()).any(|d| d != axis && other[d] != dims[d]) {
            return Err(call.expected(i, format_args!("shape {:?} outside axis {axis}", call.dims(0))));
        }
        dims[axis] = dims[axis].checked_add(other[axis]).ok_or("the result has too many elements")?;
    }
    Ok(dims)
}

fn slice(call: &Call) -> Result<Vec<usize>, String> {
    let x = call.dims(0);
    let list = |key| call.sizes_of(key, x.len());
    let (starts, ends, steps) = (list(attr::STARTS)?, list(attr::ENDS)?, list(attr::STEPS)?);
    let extent = |i: usize| match (starts[i], ends[i], steps[i]) {
        (start, end, step) if start <= end && end <= x[i] && step > 0 => Ok((end - start).div_ceil(step)),
        (start, end, step) => {
            Err(format!("elements {start}..{end} by {step} are not within extent {} of axis {i}", x[i]))
        }
    };
    (0..x.len()).map(extent).collect()
}

fn pad(call: &Call) -> Result<Vec<usize>, String> {
    let x = call.dims(0);
    let pads = call.sizes_of(attr::PADS, 2 * x.len())?;
    let extent = |i: usize| x[i].checked_add(pads[i])?.checked_add(pads[x.len() + i]);
    (0..x.len()).map(|i| extent(i).ok_or_else(|| "the result has too many elements".to_string())).collect()
}
