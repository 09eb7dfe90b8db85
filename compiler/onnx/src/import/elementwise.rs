//! Elementwise operators whose attributes or operands need more than a row of the table.

use qcc_ir::{Attrs, Data, Elem, Format, Int, Opcode, Tensor, Uniform, ValueId, attr};

use super::affine;
use super::layout::apply;
use super::numbers::{Numbers, listed};
use super::select::selected;
use super::site::Site;
use crate::fault::{Fault, Outcome};

/// Bounds are attributes before operator set 11, then operands.
pub(super) fn clip(site: &mut Site) -> Outcome<ValueId> {
    let x = site.operand(0)?;
    if let Some(u) = site.ty(x).uniform().cloned() {
        return clip_codes(site, x, &u);
    }
    let mut bounds = [None, None];
    if site.opset() < 11 {
        bounds = [site.attrs.float("min")?, site.attrs.float("max")?];
    } else {
        let computed = |site: &mut Site, i: usize| site.optional(i).filter(|&v| site.constant(v).is_none());
        if computed(site, 1).is_some() || computed(site, 2).is_some() {
            return clip_between(site, x);
        }
        for (i, bound) in bounds.iter_mut().enumerate() {
            *bound = match site.numbers(i + 1, "bounds")? {
                None => None,
                Some(Numbers::Float(v)) if v.len() == 1 => Some(v[0]),
                Some(Numbers::Float(_)) => return Err(Fault::shape("a bound is no scalar")),
                Some(Numbers::Int(_)) => return clip_between(site, x),
            };
        }
    }
    if bounds.iter().flatten().any(|b| b.is_nan()) {
        return Err(Fault::shape("a bound is not a number"));
    }
    let mut attrs = Attrs::new(Opcode::Clip);
    for (key, bound) in [attr::MIN, attr::MAX].into_iter().zip(bounds) {
        if let Some(bound) = bound {
            attrs = attrs.with(key, bound.clamp(f32::MIN, f32::MAX));
        }
    }
    site.emit(Opcode::Clip, &[x], attrs, "")
}

/// Codes of fewer bits than they are stored in, as Brevitas writes them: what saturates has the bounds.
fn clip_codes(site: &mut Site, x: ValueId, u: &Uniform) -> Outcome<ValueId> {
    let mut bounds = [u.min(), u.max()];
    for (i, bound) in bounds.iter_mut().enumerate() {
        match site.int_list(i + 1, "bounds")?.as_deref() {
            None => {}
            Some(&[v]) => *bound = v.clamp(u.min(), u.max()),
            Some(_) => return Err(Fault::shape("a bound is no scalar")),
        }
    }
    let [min, max] = bounds;
    if min >= max || u.zero_points.iter().any(|z| *z < min || *z > max) {
        return Err(Fault::unsupported(format!("codes from {min} to {max}, without their zero point")));
    }
    let graph = site.builder().graph();
    let cast = graph.producer(x).filter(|&n| graph.op(n) == Opcode::QCast).map(|n| graph.operands(n)[0]);
    let real = cast.ok_or_else(|| Fault::unsupported("bounds of quantized values that are not just quantized"))?;
    affine::quantize(site, real, Uniform { format: Format::linear(u.storage(), min, max), ..u.clone() }, "")
}

/// The least of the upper bound and the greatest of the lower bound and the value.
fn clip_between(site: &mut Site, x: ValueId) -> Outcome<ValueId> {
    let mut y = x;
    for (i, op) in [(1, Opcode::Max), (2, Opcode::Min)] {
        if let Some(bound) = site.optional(i) {
            y = apply(site, op, &[y, bound], if i == 1 { "low" } else { "" })?;
        }
    }
    Ok(y)
}

/// The triangle of each matrix at and above its diagonal number `k`, with `upper` 0 at and below it; zeros elsewhere.
pub(super) fn trilu(site: &mut Site) -> Outcome<ValueId> {
    let x = site.operand(0)?;
    let upper = site.attrs.flag("upper", true)?;
    let k = match site.int_list(1, "`k`")?.as_deref() {
        None => 0,
        Some(&[k]) => i128::from(k),
        Some(_) => return Err(Fault::shape("`k` is not one number")),
    };
    let dims = site.dims(x);
    let &[.., rows, columns] = dims.as_slice() else {
        return Err(Fault::shape("the operand is no matrix"));
    };
    let zero = match site.elem(x) {
        Elem::F32 => Data::F32(vec![0.0]),
        Elem::Bool | Elem::Int(Int::U8) => Data::U8(vec![0]),
        Elem::Int(Int::I32) => Data::I32(vec![0]),
        Elem::Int(Int::I64) => Data::I64(vec![0]),
        other => return Err(Fault::unsupported(format!("a triangle of {other}"))),
    };
    let zero = site.constant_of(Tensor::new(&[], zero), site.elem(x), "zero");
    let holds = |i: usize| {
        let along = (i % columns) as i128 - (i / columns) as i128;
        u8::from(if upper { along >= k } else { along <= k })
    };
    let mask = Data::U8((0..listed(&[rows, columns])?).map(holds).collect());
    let mask = site.constant_of(Tensor::new(&[rows, columns], mask), Elem::Bool, "triangle");
    selected(site, mask, x, zero, "")
}

pub(super) fn gelu(site: &mut Site) -> Outcome<ValueId> {
    let x = site.operand(0)?;
    let tanh = match site.attrs.string("approximate")?.unwrap_or("none") {
        "none" => false,
        "tanh" => true,
        other => return Err(Fault::unsupported(format!("`approximate` = {other:?} is not supported"))),
    };
    site.emit(Opcode::Gelu, &[x], Attrs::new(Opcode::Gelu).with(attr::TANH, tanh), "")
}

/// The exponent may be of another type than the base.
pub(super) fn pow(site: &mut Site) -> Outcome<ValueId> {
    let (base, mut exponent) = (site.operand(0)?, site.operand(1)?);
    if site.elem(base) == Elem::F32 && site.elem(exponent) != Elem::F32 {
        let tensor = site.constant(exponent);
        let tensor = tensor.ok_or_else(|| Fault::unsupported("an integer exponent known only at run time"))?;
        let data = Numbers::of(&tensor).cast(&Elem::F32)?;
        exponent = site.constant_of(Tensor::new(&tensor.dims, data), Elem::F32, "exponent");
    }
    if let (Elem::Int(_), Elem::F32, Some(tensor)) = (site.elem(base), site.elem(exponent), site.constant(base)) {
        let elem = site.elem(base);
        let data = Numbers::of(&tensor).cast(&Elem::F32)?;
        let real = site.constant_of(Tensor::new(&tensor.dims, data), Elem::F32, "base");
        let power = apply(site, Opcode::Pow, &[real, exponent], "power")?;
        let power = site.constant(power).ok_or_else(|| Fault::unsupported("a power of integers at run time"))?;
        let data = Numbers::of(&power).cast(&elem)?;
        return Ok(site.constant_of(Tensor::new(&power.dims, data), elem, ""));
    }
    apply(site, Opcode::Pow, &[base, exponent], "")
}

/// Arithmetic of whole numbers that a product of integers gives, and of constants: in real numbers, which hold them.
pub(super) fn of_products(site: &mut Site, op: Opcode, operands: &[ValueId]) -> Outcome<Option<ValueId>> {
    let mut reals = Vec::new();
    let mut is_product = false;
    for &v in operands {
        reals.push(match (affine::whole_real(site, v), site.constant(v)) {
            (Some(real), _) => {
                is_product = true;
                real
            }
            (None, Some(tensor)) if matches!(site.elem(v), Elem::Int(_)) => {
                let data = Numbers::of(&tensor).cast(&Elem::F32)?;
                site.constant_of(Tensor::new(&tensor.dims, data), Elem::F32, "real")
            }
            _ => return Ok(None),
        });
    }
    if !is_product {
        return Ok(None);
    }
    let y = apply(site, op, &reals, "real")?;
    affine::quantize(site, y, Uniform::per_tensor(Int::I32, 1.0, 0), "").map(Some)
}

/// Any number of operands, one after the other.
fn chain(site: &mut Site, op: Opcode) -> Outcome<ValueId> {
    let operands = site.all_operands()?;
    let Some((&first, rest)) = operands.split_first() else { return Err(Fault::shape("there is no operand")) };
    let mut y = first;
    for (i, &v) in rest.iter().enumerate() {
        y = apply(site, op, &[y, v], if i + 1 == rest.len() { "" } else { "part" })?;
    }
    Ok(y)
}

pub(super) fn sum(site: &mut Site) -> Outcome<ValueId> {
    chain(site, Opcode::Add)
}

pub(super) fn max(site: &mut Site) -> Outcome<ValueId> {
    chain(site, Opcode::Max)
}

pub(super) fn min(site: &mut Site) -> Outcome<ValueId> {
    chain(site, Opcode::Min)
}

pub(super) fn mean(site: &mut Site) -> Outcome<ValueId> {
    let sum = chain(site, Opcode::Add)?;
    match site.operand_count() {
        1 => Ok(sum),
        n => {
            let factor = site.floats(&[], vec![1.0 / n as f32], "factor");
            apply(site, Opcode::Mul, &[sum, factor], "")
        }
    }
}

/// At inference the identity, which drops nothing: the mask is all true.
pub(super) fn dropout(site: &mut Site) -> Outcome<Vec<ValueId>> {
    site.attrs.ignore(&["seed", "ratio"]);
    let x = site.operand(0)?;
    let ratio = site.optional(1).and_then(|r| site.constant(r));
    let nothing = ratio.is_some_and(|r| r.as_f32().is_some_and(|v| v.iter().all(|&v| v == 0.0)));
    if let Some(training) = site.optional(2) {
        let off = site.constant(training).is_some_and(|t| matches!(&t.data, Data::U8(v) if v.iter().all(|&b| b == 0)));
        if !off && !nothing {
            return Err(Fault::unsupported("dropping in training mode"));
        }
    }
    if site.result_count() < 2 {
        return Ok(vec![x]);
    }
    let dims = site.dims(x);
    let count = site.ty(x).checked_elements().filter(|&n| n <= 1 << 24);
    let count = count.ok_or_else(|| Fault::unsupported(format!("a mask of shape {dims:?}")))?;
    Ok(vec![x, site.constant_of(Tensor::new(&dims, Data::U8(vec![1; count])), Elem::Bool, "mask")])
}

pub(super) fn identity(site: &mut Site) -> Outcome<ValueId> {
    site.operand(0)
}
