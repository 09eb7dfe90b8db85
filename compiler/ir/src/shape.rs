//! Shapes and element types of results, from an operator, its attributes and the types of its operands.
//!
//! The rules of real operators are here, those of data movement in `shape/moves.rs`, those of integer operators in
//! `shape/int.rs`. A rule accepts any attributes and types and says in words what does not fit; it neither panics nor
//! overflows.

mod call;
pub(crate) mod int;
mod moves;

use crate::attr;
use std::sync::Arc;

use crate::ops::{Attrs, Cast, Class, Contract, Dialect, Move, Norm, Opcode, Pool, Reduce};
use crate::types::{Elem, Int, Type, Uniform};

use call::{Call, operand_name};

/// The shape of the result, or what does not fit.
pub fn infer_dims(op: Opcode, attrs: &Attrs, operands: &[&Type]) -> Result<Vec<usize>, String> {
    let call = Call::new(op, attrs, operands)?;
    let dims = match call.info.class {
        Class::Unary(_) | Class::Cast(Cast::Quantize | Cast::Dequantize | Cast::Requantize) => call.dims(0).to_vec(),
        Class::Binary(binary) => {
            let dims = call.broadcast(0, 1)?;
            if binary == crate::ops::Binary::PRelu && dims != call.dims(0) {
                return Err(call.expected(1, format_args!("a shape that broadcasts to {:?}", call.dims(0))));
            }
            dims
        }
        Class::Contract(Contract::Conv2d) => weights(&call).and_then(|()| conv2d(&call))?,
        Class::Contract(Contract::Linear) => weights(&call).and_then(|()| linear(&call))?,
        Class::Contract(Contract::MatMul) => matmul(&call)?,
        Class::Pool(pool) => call.pooled(pool == Pool::Average && attrs.get(attr::COUNT_INCLUDE_PAD))?,
        Class::Reduce(_) => call.reduced()?,
        Class::Norm(Norm::Batch) => {
            let Some(&channels) = call.dims(0).get(1) else {
                return Err(call.expected(0, "a rank of at least 2"));
            };
            (1..5).try_for_each(|i| call.expect_dims(i, &[channels]))?;
            call.dims(0).to_vec()
        }
        Class::Norm(Norm::Layer) => {
            call.axis(0)?;
            call.broadcasts_to(1, 0)?;
            call.broadcasts_to(2, 0)?;
            call.dims(0).to_vec()
        }
        Class::Norm(Norm::Softmax) => {
            call.axis(0)?;
            call.dims(0).to_vec()
        }
        Class::Move(kind) => moves::dims(kind, &call)?,
        Class::Int(kind) => int::dims(kind, &call)?,
    };
    match Type::f32(&dims).checked_elements() {
        Some(_) => Ok(dims),
        None => Err(format!("the result {dims:?} has too many elements")),
    }
}

/// The element type of the result; `None` where a pass decides it.
///
/// `nn.*` gives f32 for f32 and calibrated operands and the operands' type for plain integers (shape arithmetic);
/// `tensor.*` keeps the type of its first operand.
pub fn infer_elem(op: Opcode, attrs: &Attrs, operands: &[&Type]) -> Option<Elem> {
    let first = operands.first().map(|t| &t.elem);
    match op.info().class {
        Class::Unary(_)
        | Class::Binary(_)
        | Class::Contract(_)
        | Class::Pool(_)
        | Class::Reduce(_)
        | Class::Norm(_) => match first? {
            Elem::Int(int) => Some(Elem::Int(*int)),
            Elem::Bool if matches!(op.info().class, Class::Reduce(_)) => Some(Elem::Bool),
            _ if operands.iter().all(|t| t.is_float()) => Some(Elem::F32),
            Elem::F32 | Elem::Bool | Elem::Calibrated(_) | Elem::Uniform(_) => None,
        },
        Class::Move(Move::Cast) => cast_target(attrs.try_get(attr::TO)?),
        Class::Move(Move::Transpose) => match first? {
            Elem::Uniform(u) if u.axis.is_some() => {
                let axis = u.axis?;
                let perm = attrs.try_get(attr::PERM)?;
                let axis = perm.iter().position(|&p| usize::try_from(p) == Ok(axis))?;
                Some(Elem::Uniform(Arc::new(Uniform { axis: Some(axis), ..(**u).clone() })))
            }
            elem => Some(elem.clone()),
        },
        Class::Move(Move::TopKIndex | Move::ArgMax | Move::MaxPoolIndex) => Some(Elem::Int(Int::I64)),
        // Scales along an axis that the operator cuts, merges or moves: the pass that made them knows where they go.
        Class::Move(
            Move::Reshape
            | Move::Concat
            | Move::Slice
            | Move::Pad
            | Move::Gather
            | Move::Expand
            | Move::Where
            | Move::TopK,
        ) => match first? {
            Elem::Uniform(u) if u.axis.is_some() => None,
            elem => Some(elem.clone()),
        },
        Class::Cast(Cast::Quantize | Cast::Requantize) => None,
        Class::Cast(Cast::Dequantize) => Some(Elem::F32),
        Class::Int(kind) => Some(Elem::Int(int::result(kind, attrs, operands))),
    }
}

/// Whether the element types of the operands are those that the operator takes.
///
/// `int.*` takes what its row in the table says, where a quantized type counts as the integer that stores it.
pub fn check_elems(op: Opcode, operands: &[&Type]) -> Result<(), String> {
    let info = op.info();
    let fault = |i: usize, wanted: &str| {
        Err(format!("expected {} of {wanted}, found {}", operand_name(info, i), operands[i].elem))
    };
    let all = |accepts: &dyn Fn(&Elem) -> bool, wanted: &str| match operands.iter().position(|t| !accepts(&t.elem)) {
        Some(i) => fault(i, wanted),
        None => Ok(()),
    };
    let real = |e: &Elem| matches!(e, Elem::F32 | Elem::Calibrated(_) | Elem::Uniform(_));
    match info.class {
        // Arithmetic on shapes stays in integers; the operands agree. The greatest truth value is "any", the least "all".
        Class::Reduce(Reduce::Max | Reduce::Min) if operands.iter().all(|t| t.elem == Elem::Bool) => Ok(()),
        Class::Unary(_) | Class::Binary(_) | Class::Reduce(_) => match operands.first().map(|t| &t.elem) {
            Some(Elem::Int(int)) => all(&|e| *e == Elem::Int(*int), int.name()),
            Some(Elem::F32 | Elem::Bool | Elem::Calibrated(_) | Elem::Uniform(_)) | None => all(&real, "real numbers"),
        },
        Class::Contract(_) | Class::Pool(_) | Class::Norm(_) => all(&real, "real numbers"),
        Class::Move(kind) => moves::check_elems(kind, operands, &fault),
        Class::Cast(Cast::Quantize) => all(&|e| matches!(e, Elem::F32 | Elem::Calibrated(_)), "f32"),
        Class::Cast(Cast::Dequantize | Cast::Requantize) => all(&|e| matches!(e, Elem::Uniform(_)), "a quantized type"),
        Class::Int(kind) => {
            let takes = |i: usize, t: &Type| t.elem.storage().is_some_and(|int| kind.takes(i).contains(&int));
            match operands.iter().enumerate().position(|(i, t)| !takes(i, t)) {
                Some(i) => {
                    let names: Vec<&str> = kind.takes(i).iter().map(|int| int.name()).collect();
                    fault(i, &names.join(" or "))
                }
                None => Ok(()),
            }
        }
    }
}

/// Targets of `tensor.cast`, by its attribute.
const CAST_TARGETS: [Elem; 7] = [
    Elem::F32,
    Elem::Int(Int::I64),
    Elem::Int(Int::I32),
    Elem::Int(Int::I16),
    Elem::Int(Int::I8),
    Elem::Int(Int::U8),
    Elem::Bool,
];

/// Target of `tensor.cast` by its attribute.
fn cast_target(to: i64) -> Option<Elem> {
    CAST_TARGETS.get(usize::try_from(to).ok()?).cloned()
}

/// The attribute of `tensor.cast` to this type, if there is one.
pub fn cast_to(elem: &Elem) -> Option<i64> {
    CAST_TARGETS.iter().position(|target| target == elem).and_then(|i| i64::try_from(i).ok())
}

/// The shape that both broadcast to, as ONNX and NumPy do: aligned at the last dimension, an extent of 1 is repeated.
pub fn broadcast(a: &[usize], b: &[usize]) -> Result<Vec<usize>, String> {
    let rank = a.len().max(b.len());
    let extent = |dims: &[usize], i: usize| (i + dims.len()).checked_sub(rank).map_or(1, |j| dims[j]);
    let dims = (0..rank).map(|i| match (extent(a, i), extent(b, i)) {
        (x, y) if x == y || y == 1 => Some(x),
        (1, y) => Some(y),
        _ => None,
    });
    dims.collect::<Option<_>>().ok_or_else(|| format!("shapes {a:?} and {b:?} do not broadcast"))
}

fn conv2d(call: &Call) -> Result<Vec<usize>, String> {
    let [n, c, h, w] = call.of_rank(0)?;
    let [o, per_group, kh, kw] = call.of_rank(1)?;
    call.check_groups(c, o, per_group)?;
    call.expect_optional(2, &[o])?;
    let [h, w] = call.conv_window([kh, kw])?.output(h, w)?;
    Ok(vec![n, o, h, w])
}

/// `[.., K]` times `[N, K]` with a bias of `[N]`, in both dialects.
/// The format that weights are to have: symmetric integers of its storage.
fn weights(call: &Call) -> Result<(), String> {
    let format = call.attrs.get(attr::WEIGHTS);
    let fits = format.is_valid() && format.min().checked_neg() == Some(format.max()) && format.contains(0);
    if fits { Ok(()) } else { Err(format!("expected `weights` of symmetric integers, found {format}")) }
}

fn linear(call: &Call) -> Result<Vec<usize>, String> {
    let [n, k] = call.of_rank(1)?;
    match call.dims(0).split_last() {
        Some((last, outer)) if *last == k => {
            call.expect_optional(2, &[n])?;
            Ok(outer.iter().copied().chain([n]).collect())
        }
        _ => Err(call.expected(0, format_args!("shape [.., {k}]"))),
    }
}

fn matmul(call: &Call) -> Result<Vec<usize>, String> {
    let ([outer_a @ .., m, k], [outer_b @ .., k2, n]) = (call.dims(0), call.dims(1)) else {
        let small = usize::from(call.dims(0).len() >= 2);
        return Err(call.expected(small, "a rank of at least 2"));
    };
    if k != k2 {
        return Err(call.expected(1, format_args!("shape [.., {k}, {n}]")));
    }
    let mut dims = broadcast(outer_a, outer_b)?;
    dims.extend([m, n]);
    Ok(dims)
}

/// True if a value of type `found` may be the result of an operator of `dialect` that gives `inferred`.
///
/// A pass may know more than the rule: the range of a float, the real numbers that a plain integer stands for.
pub fn elem_fits(dialect: Dialect, inferred: Option<&Elem>, found: &Elem) -> bool {
    let real = matches!(found, Elem::F32 | Elem::Calibrated(_) | Elem::Uniform(_));
    let float = |e: &Elem| matches!(e, Elem::F32 | Elem::Calibrated(_));
    match (dialect, inferred) {
        (Dialect::Nn, None | Some(Elem::F32)) => real,
        (Dialect::Quant | Dialect::Tensor, None) => matches!(found, Elem::Uniform(_)),
        (Dialect::Int, None) => false,
        (_, Some(a @ (Elem::Int(_) | Elem::Uniform(_)))) => {
            // A change between two quantizations would change the numbers that the integers stand for.
            let plain = matches!(a, Elem::Int(_)) || matches!(found, Elem::Int(_));
            a == found || dialect != Dialect::Nn && plain && a.storage() == found.storage()
        }
        (_, Some(a)) => a == found || float(a) && float(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attrs::Attr;

    fn dims(op: Opcode, attrs: Attrs, operands: &[&[usize]]) -> Result<Vec<usize>, String> {
        let types: Vec<_> = operands.iter().map(|d| Type::f32(d)).collect();
        infer_dims(op, &attrs, &types.iter().collect::<Vec<_>>())
    }

    #[test]
    fn messages_name_the_operand() {
        let conv = Attrs::new(Opcode::Conv2d);
        let e = dims(Opcode::Conv2d, conv.clone(), &[&[1, 3], &[8, 3, 3, 3]]).unwrap_err();
        assert_eq!(e, "expected x of rank 4, found [1, 3]");
        let e = dims(Opcode::Conv2d, conv.clone(), &[&[1, 4, 9, 9], &[8, 3, 3, 3]]).unwrap_err();
        assert_eq!(e, "4 channels in, 8 out and weights over 3 do not fit `groups` = 1");
        let e = dims(Opcode::Conv2d, conv, &[&[1, 3, 9, 9], &[8, 3, 3, 3], &[3]]).unwrap_err();
        assert_eq!(e, "expected bias of shape [8], found [3]");
        let e = dims(Opcode::Softmax, Attrs::new(Opcode::Softmax).with(attr::AXIS, -1), &[&[1, 4]]).unwrap_err();
        assert_eq!(e, "expected `axis` in 0..2, found -1");
        let e = dims(Opcode::Add, Attrs::new(Opcode::Add), &[&[2, 3], &[4]]).unwrap_err();
        assert_eq!(e, "shapes [2, 3] and [4] do not broadcast");
        let e = dims(Opcode::Relu, Attrs::new(Opcode::Relu), &[]).unwrap_err();
        assert_eq!(e, "expected one operand of `nn.relu`, found 0");
    }

    #[test]
    fn shapes_of_real_operators() {
        let conv = Attrs::new(Opcode::Conv2d).with(attr::STRIDES, vec![2, 2]).with(attr::PADS, vec![3, 3, 3, 3]);
        assert_eq!(dims(Opcode::Conv2d, conv, &[&[1, 3, 224, 224], &[64, 3, 7, 7]]), Ok(vec![1, 64, 112, 112]));
        let matmul = Attrs::new(Opcode::MatMul);
        assert_eq!(dims(Opcode::MatMul, matmul, &[&[4, 1, 2, 3], &[5, 3, 7]]), Ok(vec![4, 5, 2, 7]));
        let mean = Attrs::new(Opcode::ReduceMean).with(attr::AXES, vec![2, 3]).with(attr::KEEPDIMS, false);
        assert_eq!(dims(Opcode::ReduceMean, mean, &[&[1, 8, 7, 7]]), Ok(vec![1, 8]));
        assert_eq!(dims(Opcode::Add, Attrs::new(Opcode::Add), &[&[], &[2, 1]]), Ok(vec![2, 1]));
        assert_eq!(broadcast(&[3, 1], &[0]), Ok(vec![3, 0]));
    }

    /// Every operator, with shapes and attributes at the edge of what can be written: no rule may panic.
    #[test]
    #[cfg_attr(miri, ignore = "takes many minutes there")]
    fn no_rule_panics() {
        let extents = [0, 1, 2, 3, 256, usize::MAX / 2, usize::MAX];
        let numbers = [i64::MIN, -1, 0, 1, 2, 255, 1 << 40, i64::MAX];
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = |n: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % n
        };
        for _ in 0..400 {
            for info in crate::ops::OPS {
                let mut attrs = Attrs::new(info.op);
                for schema in info.attrs {
                    let value = match schema.kind {
                        crate::AttrKind::Int => Attr::Int(numbers[next(8)]),
                        crate::AttrKind::Ints => Attr::Ints((0..next(6)).map(|_| numbers[next(8)]).collect()),
                        crate::AttrKind::Float => Attr::Float(f32::NAN),
                        crate::AttrKind::Bool => Attr::Bool(next(2) == 0),
                        crate::AttrKind::Format => Attr::Format(crate::format::I16.clone()),
                        crate::AttrKind::Function => {
                            Attr::Function(crate::attr::AttrInput::into_value(crate::Function::Argument))
                        }
                    };
                    if next(3) > 0 {
                        attrs.try_set(schema.name, value).unwrap();
                    }
                }
                let types: Vec<_> = (0..next(6))
                    .map(|_| Type::f32(&(0..next(6)).map(|_| extents[next(7)]).collect::<Vec<_>>()))
                    .collect();
                let types: Vec<_> = types.iter().collect();
                let _ = infer_dims(info.op, &attrs, &types);
                let _ = infer_elem(info.op, &attrs, &types);
                let _ = check_elems(info.op, &types);
            }
        }
    }
}
