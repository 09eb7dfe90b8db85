//! Truth values of run time: what integers say by a table, and selections between truth values.

use std::sync::Arc;

use qcc_ir::{Attrs, Data, Elem, Opcode, Tensor, ValueId, shape};

use super::constants::{LARGE, compare, selected};
use super::layout;
use super::numbers::Numbers;
use super::site::Site;
use crate::fault::{Fault, Outcome};

/// The truth values of an operand.
fn operand(site: &mut Site, i: usize) -> Outcome<ValueId> {
    let v = site.operand(i)?;
    match site.elem(v) {
        Elem::Bool => Ok(v),
        other => Err(Fault::shape(format!("operand {i} is of type {other}, not of truth values"))),
    }
}

fn truth(site: &mut Site, values: &[bool], suffix: &str) -> ValueId {
    let data = Data::U8(values.iter().map(|&b| u8::from(b)).collect());
    site.constant_of(Tensor::new(&[values.len()], data), Elem::Bool, suffix)
}

/// The row of a constant table at each integer; integers that are none of its positions have the last.
fn row(site: &mut Site, table: ValueId, positions: ValueId) -> Outcome<ValueId> {
    let attrs = Attrs::new(Opcode::Gather).with("axis", 0).with("wrap", false);
    site.emit(Opcode::Gather, &[table, positions], attrs, "")
}

/// Whether integers are not 0.
pub(super) fn of_integers(site: &mut Site, x: ValueId) -> Outcome<ValueId> {
    let table = truth(site, &[false, true], "table");
    row(site, table, x)
}

/// Truth values as 0 and 1.
pub(super) fn as_numbers(site: &mut Site, x: ValueId, elem: &Elem) -> Outcome<ValueId> {
    let mut number = |v: i64, suffix| -> Outcome<ValueId> {
        let data = Numbers::Int(vec![v]).cast(elem)?;
        Ok(site.constant_of(Tensor::new(&[1], data), elem.clone(), suffix))
    };
    let (one, zero) = (number(1, "one")?, number(0, "zero")?);
    selected(site, x, one, zero, "")
}

/// Whether integers of run time equal one constant that is not negative.
pub(super) fn is_number(site: &mut Site, x: ValueId, number: ValueId) -> Outcome<Option<ValueId>> {
    let (Some(constant), None, Elem::Int(_)) = (site.constant(number), site.constant(x), site.elem(x)) else {
        return Ok(None);
    };
    let Numbers::Int(values) = Numbers::of(&constant) else { return Ok(None) };
    let &[value] = values.as_slice() else { return Ok(None) };
    let Some(value) = usize::try_from(value).ok().filter(|&v| v < LARGE) else { return Ok(None) };
    let table: Vec<bool> = (0..value + 2).map(|i| i == value).collect();
    let table = truth(site, &table, "table");
    let dims = layout::broadcast(site, x, &constant.dims)?;
    let x = layout::expand(site, x, &dims)?;
    row(site, table, x).map(Some)
}

pub(super) fn not(site: &mut Site) -> Outcome<ValueId> {
    let x = operand(site, 0)?;
    opposite(site, x)
}

fn opposite(site: &mut Site, x: ValueId) -> Outcome<ValueId> {
    if let Some(constant) = site.constant(x) {
        let flipped = flipped(&constant)?;
        return Ok(site.constant_of(flipped, Elem::Bool, "not"));
    }
    if let Some((table, positions, attrs)) = layout::looked_up(site, x)
        && let Some(constant) = site.constant(table)
    {
        let flipped = flipped(&constant)?;
        let table = site.constant_of(flipped, Elem::Bool, "table");
        return site.emit(Opcode::Gather, &[table, positions], attrs, "not");
    }
    let (no, yes) = (truth(site, &[false], "false"), truth(site, &[true], "true"));
    selected(site, x, no, yes, "not")
}

fn flipped(constant: &Arc<Tensor>) -> Outcome<Tensor> {
    match &constant.data {
        Data::U8(v) => Ok(Tensor::new(&constant.dims, Data::U8(v.iter().map(|&b| u8::from(b == 0)).collect()))),
        _ => Err(Fault::shape("truth values are not bytes")),
    }
}

pub(super) fn and(site: &mut Site) -> Outcome<ValueId> {
    connected(site, |a, b| a && b)
}

pub(super) fn or(site: &mut Site) -> Outcome<ValueId> {
    connected(site, |a, b| a || b)
}

pub(super) fn xor(site: &mut Site) -> Outcome<ValueId> {
    connected(site, |a, b| a != b)
}

/// Each pair of truth values: `b` selects between what `a` gives with it and what `a` gives without.
fn connected(site: &mut Site, of: fn(bool, bool) -> bool) -> Outcome<ValueId> {
    let (a, b) = (operand(site, 0)?, operand(site, 1)?);
    let (a, b) = match (site.constant(a), site.constant(b)) {
        (Some(_), Some(_)) => {
            return compare(site, |a, b| of(a != 0, b != 0), |_, _| false);
        }
        // All three are symmetric.
        (None, Some(_)) => (b, a),
        _ => (a, b),
    };
    let dims = shape::broadcast(&site.dims(a), &site.dims(b)).map_err(Fault::shape)?;
    let with = beside(site, a, |a| of(a, true))?;
    let without = beside(site, a, |a| of(a, false))?;
    let y = selected(site, b, with, without, "")?;
    layout::expand(site, y, &dims)
}

/// A function of truth values.
fn beside(site: &mut Site, a: ValueId, of: impl Fn(bool) -> bool) -> Outcome<ValueId> {
    match (of(false), of(true)) {
        (false, true) => Ok(a),
        (true, false) => opposite(site, a),
        (same, _) => Ok(truth(site, &[same], if same { "true" } else { "false" })),
    }
}

/// Behind a softmax: it is a number wherever its operand is, and to integers there is nothing else.
pub(super) fn is_nan(site: &mut Site) -> Outcome<ValueId> {
    let x = site.operand(0)?;
    let graph = site.edit().graph();
    if graph.producer(x).is_none_or(|n| graph.op(n) != Opcode::Softmax) {
        return Err(Fault::unsupported("the operator is supported behind Softmax only"));
    }
    let dims = site.dims(x);
    let no = truth(site, &[false], "false");
    layout::expand(site, no, &dims)
}

/// Where an integer of run time equals those in a list `0, 1, ..` along a last axis: rows of a unit matrix, and a row of zeros
/// for every other integer.
pub(super) fn one_hot(site: &mut Site, x: ValueId, list: ValueId) -> Outcome<Option<ValueId>> {
    let (Some(numbers), None) = (site.constant(list), site.constant(x)) else { return Ok(None) };
    let (Numbers::Int(values), &[.., depth]) = (Numbers::of(&numbers), numbers.dims.as_slice()) else {
        return Ok(None);
    };
    let counts = values.iter().enumerate().all(|(i, &v)| usize::try_from(v) == Ok(i));
    let dims = site.dims(x);
    let fits = dims.len() >= numbers.dims.len() && dims.last() == Some(&1) && values.len() == depth;
    if !counts || !fits || depth == 0 || !matches!(site.elem(x), Elem::Int(_)) {
        return Ok(None);
    }
    let positions = layout::reshape(site, x, &dims[..dims.len() - 1], "positions")?;
    one_hot_rows(site, positions, depth).map(Some)
}

/// Rows of a unit matrix at positions; elsewhere zeros.
fn one_hot_rows(site: &mut Site, positions: ValueId, depth: usize) -> Outcome<ValueId> {
    let rows = depth.checked_add(1).and_then(|n| n.checked_mul(depth)).filter(|&n| n <= LARGE);
    let cells = rows.ok_or_else(|| Fault::unsupported(format!("one of {depth}")))?;
    let unit = (0..cells).map(|i| u8::from(i / depth == i % depth)).collect();
    let table = site.constant_of(Tensor::new(&[depth + 1, depth], Data::U8(unit)), Elem::Bool, "unit");
    row(site, table, positions)
}
