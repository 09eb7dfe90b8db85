//! `Cast` and `CastLike`.

use qcc_ir::diag::Code;
use qcc_ir::{Attrs, Class, Data, Elem, Int, Opcode, Tensor, ValueId, attr, shape};

use super::numbers::Numbers;
use super::site::Site;
use super::{affine, boolean, layout};
use crate::element::DataType;
use crate::fault::{Fault, Outcome};
use crate::tensor::Constant;

/// Constants are converted; between floats, and from integers that real numbers hold, nothing has to be done.
pub(super) fn cast(site: &mut Site) -> Outcome<ValueId> {
    let to = site.attrs.int("to")?.ok_or_else(|| Fault::shape("attribute `to` is missing"))?;
    let to = i32::try_from(to).map_err(|_| Fault::shape(format!("element type number {to}")))?;
    let to = DataType::from_onnx(to)?;
    let x = site.operand(0)?;
    cast_to(site, x, to)
}

pub(super) fn cast_like(site: &mut Site) -> Outcome<ValueId> {
    let (x, like) = (site.operand(0)?, site.operand(1)?);
    let to = site.data_type(like);
    let to = to.ok_or_else(|| Fault::unsupported(format!("a cast to {}", site.elem(like))))?;
    cast_to(site, x, to)
}

fn cast_to(site: &mut Site, x: ValueId, to: DataType) -> Outcome<ValueId> {
    // Only casts to 8-bit floats saturate or round in another way.
    let saturate = site.attrs.flag("saturate", true)?;
    let mode = site.attrs.string("round_mode")?.unwrap_or("up").to_string();
    let (from, elem) = (site.elem(x), to.elem());
    if let (Some(tensor), None) = (site.constant(x), site.ty(x).uniform()) {
        let wider = from == Elem::F32 && elem == Elem::F32 && to.rounding(saturate).is_none() && to != DataType::F8e8m0;
        if site.data_type(x) == Some(to) || wider {
            return Ok(x);
        }
        let mut data = Numbers::of(&tensor).wrapped(to)?.cast(&elem)?;
        if let Data::F32(values) = &mut data {
            if let (Some(attrs), Class::Unary(round)) = (to.rounding(saturate), Opcode::RoundFloat.info().class) {
                values.iter_mut().for_each(|v| *v = round(&attrs, *v));
            }
            if to == DataType::F8e8m0 {
                values.iter_mut().try_for_each(|v| power_of_two(*v, &mode).map(|p| *v = p))?;
            }
        }
        return Ok(site.constant_like(Constant { tensor: Tensor::new(&tensor.dims, data), data_type: to }));
    }
    if let (Elem::F32, Some(attrs), true) = (&from, to.rounding(saturate), to.bits() <= 8) {
        return site.emit(Opcode::RoundFloat, &[x], attrs, "");
    }
    if to == DataType::F8e8m0 {
        return Err(Fault::unsupported("a conversion to powers of two at run time"));
    }
    if from == elem {
        return Ok(x);
    }
    if let Some(y) = of_table(site, x, &elem)? {
        return Ok(y);
    }
    at_run_time(site, x, &elem)
}

/// A conversion of what the model computes.
fn at_run_time(site: &mut Site, x: ValueId, to: &Elem) -> Outcome<ValueId> {
    let from = site.elem(x);
    match (&from, to) {
        (Elem::Int(_), Elem::Bool) => boolean::of_integers(site, x),
        (Elem::Bool, _) => boolean::as_numbers(site, x, to),
        (_, Elem::F32) => as_reals(site, x),
        (Elem::F32 | Elem::Int(_), Elem::Int(_) | Elem::Bool) => {
            let number = shape::cast_to(to).ok_or_else(|| unsupported(&from, to))?;
            site.emit(Opcode::CastTo, &[x], Attrs::new(Opcode::CastTo).with(attr::TO, number), "")
        }
        _ => Err(unsupported(&from, to)),
    }
}

fn unsupported(from: &Elem, to: &Elem) -> Fault {
    Fault::new(Code::UNSUPPORTED, format!("a conversion from {from} to {to} at run time"))
}

/// Integers of 8 or 16 bits stand for the real numbers of the same value, wherever they were widened. Wider ones can be a mask before
/// a softmax, which `canonicalize` knows; others become codes of what samples show.
fn as_reals(site: &mut Site, x: ValueId) -> Outcome<ValueId> {
    let narrow = widened(site, x);
    match site.elem(narrow) {
        Elem::Int(Int::I8 | Int::U8 | Int::I16) | Elem::Uniform(_) => affine::in_units(site, narrow, ""),
        _ => site.emit(Opcode::CastTo, &[x], Attrs::new(Opcode::CastTo).with(attr::TO, 0), ""),
    }
}

/// Positions before conversions to other integers, which hold them as well.
pub(super) fn positions(site: &mut Site, x: ValueId) -> ValueId {
    let graph = site.builder().graph();
    let mut found = x;
    while let Some(n) = graph.producer(found).filter(|&n| graph.op(n) == Opcode::CastTo) {
        let from = graph.operands(n)[0];
        match (&graph.ty(from).elem, &graph.ty(found).elem) {
            (Elem::Int(_), Elem::Int(Int::I32 | Int::I64)) => found = from,
            _ => break,
        }
    }
    found
}

/// What integers were before they were stored in more bits.
fn widened(site: &mut Site, x: ValueId) -> ValueId {
    let graph = site.builder().graph();
    let mut found = x;
    while let Some(n) = graph.producer(found).filter(|&n| graph.op(n) == Opcode::CastTo) {
        let from = graph.operands(n)[0];
        match (&graph.ty(from).elem, &graph.ty(found).elem) {
            (Elem::Int(a), Elem::Int(b)) if Int::min(*b) <= Int::min(*a) && Int::max(*a) <= Int::max(*b) => {
                found = from
            }
            _ => break,
        }
    }
    found
}

/// The power of two at or above a number, at or below it, or the nearest: the numbers of `float8e8m0`.
fn power_of_two(x: f32, mode: &str) -> Outcome<f32> {
    if !x.is_finite() {
        return Ok(f32::NAN);
    }
    let bits = x.to_bits();
    let (exponent, fraction) = ((bits >> 23) & 0xff, bits & 0x7f_ffff);
    let up = match mode {
        "up" => fraction > 0,
        "down" => false,
        "nearest" => fraction >= 1 << 22 && (fraction > 1 << 22 || exponent > 0),
        other => return Err(Fault::unsupported(format!("`round_mode` = {other:?} is not supported"))),
    };
    let exponent = (exponent + u32::from(up)).min(254);
    Ok((exponent as f32 - 127.0).exp2())
}

/// A conversion of what a constant table holds is a conversion of the table.
fn of_table(site: &mut Site, x: ValueId, to: &Elem) -> Outcome<Option<ValueId>> {
    let Some((table, positions, attrs)) = layout::looked_up(site, x) else { return Ok(None) };
    let Some(tensor) = site.constant(table).filter(|_| site.ty(table).uniform().is_none()) else { return Ok(None) };
    let data = Numbers::of(&tensor).cast(to)?;
    let table = site.constant_of(Tensor::new(&tensor.dims, data), to.clone(), "table");
    site.emit(Opcode::Gather, &[table, positions], attrs, "").map(Some)
}
