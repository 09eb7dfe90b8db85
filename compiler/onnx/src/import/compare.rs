//! Comparisons: between constants, and of integers of run time with constants by a table.

use qcc_ir::{Data, Elem, Tensor, ValueId};

use super::boolean::{self, row};
use super::layout;
use super::numbers::{LARGE, Numbers, compared};
use super::site::Site;
use crate::fault::{Fault, Outcome};

/// A boolean for each pair of elements of constants.
fn compare(site: &mut Site, ints: impl Fn(i64, i64) -> bool, floats: fn(f32, f32) -> bool) -> Outcome<ValueId> {
    let (a, b) = (site.known(0)?, site.known(1)?);
    let holds = compared(&a, &b, ints, floats)?;
    Ok(site.constant_of(holds, Elem::Bool, ""))
}

/// Of constants; of integers of run time with one number, or with `0, 1, ..`, which is how exporters write a look-up.
pub(super) fn equal(site: &mut Site) -> Outcome<ValueId> {
    let (a, b) = (site.operand(0)?, site.operand(1)?);
    for (x, numbers) in [(a, b), (b, a)] {
        let found = match is_number(site, x, numbers)? {
            Some(y) => Some(y),
            None => one_hot(site, x, numbers)?,
        };
        if let Some(y) = found {
            return Ok(y);
        }
    }
    compare(site, |a, b| a == b, |a, b| a == b)
}

pub(super) fn less(site: &mut Site) -> Outcome<ValueId> {
    compare(site, |a, b| a < b, |a, b| a < b)
}

pub(super) fn greater(site: &mut Site) -> Outcome<ValueId> {
    compare(site, |a, b| a > b, |a, b| a > b)
}

pub(super) fn less_or_equal(site: &mut Site) -> Outcome<ValueId> {
    compare(site, |a, b| a <= b, |a, b| a <= b)
}

pub(super) fn greater_or_equal(site: &mut Site) -> Outcome<ValueId> {
    compare(site, |a, b| a >= b, |a, b| a >= b)
}

/// Whether integers of run time equal one constant that is not negative.
fn is_number(site: &mut Site, x: ValueId, number: ValueId) -> Outcome<Option<ValueId>> {
    let (Some(constant), None, Elem::Int(_)) = (site.constant(number), site.constant(x), site.elem(x)) else {
        return Ok(None);
    };
    let Numbers::Int(values) = Numbers::of(&constant) else { return Ok(None) };
    let &[value] = values.as_slice() else { return Ok(None) };
    let Some(value) = usize::try_from(value).ok().filter(|&v| v < LARGE) else { return Ok(None) };
    let table: Vec<bool> = (0..value + 2).map(|i| i == value).collect();
    let table = boolean::constant(site, &table, "table");
    let dims = layout::broadcast(site, x, &constant.dims)?;
    let x = layout::expand(site, x, &dims)?;
    row(site, table, x).map(Some)
}

/// Where an integer of run time equals those in a list `0, 1, ..` along a last axis: rows of a unit matrix, and a row of zeros
/// for every other integer.
fn one_hot(site: &mut Site, x: ValueId, list: ValueId) -> Outcome<Option<ValueId>> {
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
