//! Booleans: what integers say by a table, and selections between booleans of run time.

use std::sync::Arc;

use qcc_ir::{Attrs, Data, Elem, Opcode, Tensor, ValueId, attr, shape};

use super::layout;
use super::numbers::{Numbers, compared};
use super::select::selected;
use super::site::Site;
use crate::fault::{Fault, Outcome};

/// A boolean operand.
fn operand(site: &mut Site, i: usize) -> Outcome<ValueId> {
    let v = site.operand(i)?;
    match site.elem(v) {
        Elem::Bool => Ok(v),
        other => Err(Fault::shape(format!("operand {i} is of type {other}, not of booleans"))),
    }
}

/// A list of booleans.
pub(super) fn constant(site: &mut Site, values: &[bool], suffix: &str) -> ValueId {
    let data = Data::U8(values.iter().map(|&b| u8::from(b)).collect());
    site.constant_of(Tensor::new(&[values.len()], data), Elem::Bool, suffix)
}

/// The row of a constant table at each integer; integers that are none of its positions have the last.
pub(super) fn row(site: &mut Site, table: ValueId, positions: ValueId) -> Outcome<ValueId> {
    let attrs = Attrs::new(Opcode::Gather).with(attr::AXIS, 0).with(attr::WRAP, false);
    site.emit(Opcode::Gather, &[table, positions], attrs, "")
}

/// Whether integers are not 0.
pub(super) fn of_integers(site: &mut Site, x: ValueId) -> Outcome<ValueId> {
    let table = constant(site, &[false, true], "table");
    row(site, table, x)
}

/// Booleans as 0 and 1.
pub(super) fn as_numbers(site: &mut Site, x: ValueId, elem: &Elem) -> Outcome<ValueId> {
    let mut number = |v: i64, suffix| -> Outcome<ValueId> {
        let data = Numbers::Int(vec![v]).cast(elem)?;
        Ok(site.constant_of(Tensor::new(&[1], data), elem.clone(), suffix))
    };
    let (one, zero) = (number(1, "one")?, number(0, "zero")?);
    selected(site, x, one, zero, "")
}

pub(super) fn not(site: &mut Site) -> Outcome<ValueId> {
    let x = operand(site, 0)?;
    opposite(site, x)
}

/// Where a value does not hold.
pub(super) fn opposite(site: &mut Site, x: ValueId) -> Outcome<ValueId> {
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
    let (no, yes) = (constant(site, &[false], "false"), constant(site, &[true], "true"));
    selected(site, x, no, yes, "not")
}

fn flipped(constant: &Arc<Tensor>) -> Outcome<Tensor> {
    match &constant.data {
        Data::U8(v) => Ok(Tensor::new(&constant.dims, Data::U8(v.iter().map(|&b| u8::from(b == 0)).collect()))),
        _ => Err(Fault::shape("booleans are not bytes")),
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

/// Each pair of booleans of two operands.
fn connected(site: &mut Site, of: fn(bool, bool) -> bool) -> Outcome<ValueId> {
    let (a, b) = (operand(site, 0)?, operand(site, 1)?);
    pairs(site, a, b, of)
}

/// Where both of two values hold.
pub(super) fn both(site: &mut Site, a: ValueId, b: ValueId) -> Outcome<ValueId> {
    pairs(site, a, b, |a, b| a && b)
}

/// Each pair of booleans: `b` selects between what `a` gives with it and what `a` gives without.
fn pairs(site: &mut Site, a: ValueId, b: ValueId, of: fn(bool, bool) -> bool) -> Outcome<ValueId> {
    let (a, b) = match (site.constant(a), site.constant(b)) {
        (Some(a), Some(b)) => {
            let holds = compared(&a, &b, |a, b| of(a != 0, b != 0), |_, _| false)?;
            return Ok(site.constant_of(holds, Elem::Bool, ""));
        }
        // All of them are symmetric.
        (None, Some(_)) => (b, a),
        _ => (a, b),
    };
    let dims = shape::broadcast(&site.dims(a), &site.dims(b)).map_err(Fault::shape)?;
    let with = beside(site, a, |a| of(a, true))?;
    let without = beside(site, a, |a| of(a, false))?;
    let y = selected(site, b, with, without, "")?;
    layout::expand(site, y, &dims)
}

/// A function of booleans.
fn beside(site: &mut Site, a: ValueId, of: impl Fn(bool) -> bool) -> Outcome<ValueId> {
    match (of(false), of(true)) {
        (false, true) => Ok(a),
        (true, false) => opposite(site, a),
        (same, _) => Ok(constant(site, &[same], if same { "true" } else { "false" })),
    }
}

/// Behind a softmax: it is a number wherever its operand is, and to integers there is nothing else.
pub(super) fn is_nan(site: &mut Site) -> Outcome<ValueId> {
    let x = site.operand(0)?;
    let graph = site.builder().graph();
    if graph.producer(x).is_none_or(|n| graph.op(n) != Opcode::Softmax) {
        return Err(Fault::unsupported("the operator is supported behind Softmax only"));
    }
    let dims = site.dims(x);
    let no = constant(site, &[false], "false");
    layout::expand(site, no, &dims)
}
