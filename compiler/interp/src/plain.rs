//! `nn.*` on plain integers: the arithmetic of shapes and indices, exact in 64 bits.
//!
//! Division and mean truncate towards zero. Overflow, division by zero and negative powers are diagnostics.

use qcc_ir::diag::Code;
use qcc_ir::ops::{Binary, Reduce};
use qcc_ir::{Attrs, Class, Diag, Elem, Int, Opcode, Tensor, Type, attr};

use crate::element::{narrow, widen};
use crate::layout::{grouped, zip_broadcast};

/// Integers up to this magnitude are exact in f32.
const EXACT: u64 = 1 << 24;

/// Evaluates an `nn.*` operator whose operands are all plain integers.
pub(crate) fn eval(op: Opcode, attrs: &Attrs, operands: &[(&Tensor, &Type)], result: &Type) -> Result<Tensor, Diag> {
    let fault = |what: &str| Diag::new(Code::UNSUPPORTED, format!("`{}` on integers {what}", op.name()));
    let wide: Option<Vec<Vec<i64>>> = operands.iter().map(|(t, _)| widen(&t.data)).collect();
    let wide = wide.ok_or_else(|| fault("has a float operand"))?;
    let values = match op.info().class {
        Class::Unary(f) => unary(f, attrs, &wide[0]).ok_or_else(|| fault("has no exact result"))?,
        Class::Binary(b) => {
            let pairs = zip_broadcast(
                (&wide[0], &operands[0].0.dims),
                (&wide[1], &operands[1].0.dims),
                &result.dims,
                Vec::new(),
                |x, y| binary(b, x, y),
            );
            let values: Option<Vec<i64>> = pairs.into_iter().collect();
            values.ok_or_else(|| fault("overflows or divides by zero"))?
        }
        Class::Reduce(r) => {
            let (x, dims) = (&wide[0], &operands[0].0.dims);
            let none = nothing(r, &result.elem).map(|v| vec![v; result.elements()]);
            let reduced = if x.is_empty() { none } else { reduce(r, x, dims, &attrs.sizes(attr::AXES)) };
            reduced.ok_or_else(|| fault("overflows or has no element to reduce"))?
        }
        Class::Contract(_) | Class::Pool(_) | Class::Norm(_) | Class::Move(_) | Class::Cast(_) | Class::Int(_) => {
            return Err(fault("is not defined"));
        }
    };
    let data = narrow(values, &result.elem).ok_or_else(|| fault("cannot have a float result"))?;
    Ok(Tensor { dims: result.dims.clone(), data })
}

/// The real function where it maps integers to integers and f32 holds both exactly.
fn unary(f: fn(&Attrs, f32) -> f32, attrs: &Attrs, x: &[i64]) -> Option<Vec<i64>> {
    let one = |&v: &i64| {
        let y = f(attrs, v as f32);
        let exact = v.unsigned_abs() <= EXACT && y.trunc() == y && y.abs() <= EXACT as f32;
        exact.then_some(y as i64)
    };
    x.iter().map(one).collect()
}

fn binary(op: Binary, a: i64, b: i64) -> Option<i64> {
    match op {
        Binary::Add => a.checked_add(b),
        Binary::Sub => a.checked_sub(b),
        Binary::Mul => a.checked_mul(b),
        Binary::Div => a.checked_div(b),
        Binary::Min => Some(a.min(b)),
        Binary::Max => Some(a.max(b)),
        Binary::Pow => a.checked_pow(u32::try_from(b).ok()?),
        Binary::PRelu => {
            if a < 0 {
                a.checked_mul(b)
            } else {
                Some(a)
            }
        }
    }
}

/// What no elements are reduced to.
fn nothing(op: Reduce, elem: &Elem) -> Option<i64> {
    let (least, greatest) = match elem {
        Elem::Bool => (0, 1),
        Elem::Int(int) => (Int::min(*int), Int::max(*int)),
        Elem::F32 | Elem::Calibrated(_) | Elem::Uniform(_) => return None,
    };
    match op {
        Reduce::Sum => Some(0),
        Reduce::Mean => None,
        Reduce::Max => Some(least),
        Reduce::Min => Some(greatest),
    }
}

fn reduce(op: Reduce, x: &[i64], dims: &[usize], axes: &[usize]) -> Option<Vec<i64>> {
    let (groups, count) = grouped(x, dims, axes);
    if count == 0 {
        return None;
    }
    let sum = |group: &[i64]| group.iter().try_fold(0i64, |s, &v| s.checked_add(v));
    let one = |group: &[i64]| match op {
        Reduce::Sum => sum(group),
        Reduce::Mean => sum(group).map(|s| s / count as i64),
        Reduce::Max => group.iter().copied().max(),
        Reduce::Min => group.iter().copied().min(),
    };
    groups.chunks(count).map(one).collect()
}
