//! Comparisons: between constants, of reals of run time, and of integers of run time with constants by a table.

use qcc_ir::{Attrs, Data, Elem, Opcode, Tensor, ValueId, attr, shape};

use super::boolean::{self, row};
use super::layout::{self, apply};
use super::numbers::{LARGE, Numbers, compared};
use super::site::Site;
use crate::fault::{Fault, Outcome};

/// How two numbers are compared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Comparison {
    fn holds<T: PartialOrd>(self, a: T, b: T) -> bool {
        match self {
            Comparison::Equal => a == b,
            Comparison::Less => a < b,
            Comparison::LessOrEqual => a <= b,
            Comparison::Greater => a > b,
            Comparison::GreaterOrEqual => a >= b,
        }
    }
}

/// A boolean for each pair of elements.
fn compare(site: &mut Site, how: Comparison) -> Outcome<ValueId> {
    let (a, b) = (site.operand(0)?, site.operand(1)?);
    let at_run_time = site.known(0).is_err() || site.known(1).is_err();
    if at_run_time && site.elem(a) == Elem::F32 && site.elem(b) == Elem::F32 {
        return reals(site, a, b, how);
    }
    if at_run_time && matches!((site.elem(a), site.elem(b)), (Elem::Int(_), Elem::Int(_))) {
        if let Some(y) = with_number(site, a, b, |x, c| how.holds(x, c))? {
            return Ok(y);
        }
        if let Some(y) = with_number(site, b, a, |x, c| how.holds(c, x))? {
            return Ok(y);
        }
        return Err(Fault::unsupported("a comparison of two integers that are known only at run time")
            .help("compare one with a constant, or let the model take the result as an input"));
    }
    let (a, b) = (site.known(0)?, site.known(1)?);
    let holds = compared(&a, &b, |a, b| how.holds(a, b), |a, b| how.holds(a, b))?;
    Ok(site.constant_of(holds, Elem::Bool, ""))
}

/// Integers of run time up to this magnitude are compared by a table.
const REACH: i64 = 1 << 16;

/// Integers of run time beside one constant: a table of those that are not negative and, from its end, of those that are.
fn with_number(
    site: &mut Site,
    x: ValueId,
    number: ValueId,
    holds: impl Fn(i64, i64) -> bool,
) -> Outcome<Option<ValueId>> {
    let (Some(constant), None) = (site.constant(number), site.constant(x)) else { return Ok(None) };
    let Numbers::Int(values) = Numbers::of(&constant) else { return Ok(None) };
    let &[value] = values.as_slice() else { return Ok(None) };
    if value.abs() >= REACH {
        return Ok(None);
    }
    site.remark(format!("integers of run time are compared up to a magnitude of {}, and no greater ones", REACH - 1));
    let table: Vec<bool> = (0..REACH).chain(-REACH..0).map(|x| holds(x, value)).collect();
    let table = boolean::constant(site, &table, "table");
    let dims = layout::broadcast(site, x, &constant.dims)?;
    let x = layout::expand(site, x, &dims)?;
    let attrs = Attrs::new(Opcode::Gather).with(attr::AXIS, 0).with(attr::WRAP, true);
    site.emit(Opcode::Gather, &[table, x], attrs, "").map(Some)
}

/// By the sign of the difference, which is a function of one value if the other is constant.
fn reals(site: &mut Site, a: ValueId, b: ValueId, how: Comparison) -> Outcome<ValueId> {
    let (first, second) = match how {
        Comparison::Greater | Comparison::LessOrEqual | Comparison::Equal => (a, b),
        Comparison::Less | Comparison::GreaterOrEqual => (b, a),
    };
    let difference = apply(site, Opcode::Sub, &[first, second], "difference")?;
    let sign = apply(site, Opcode::Sign, &[difference], "sign")?;
    if how == Comparison::Equal {
        site.remark(
            "real numbers are equal here where their difference is less than half a unit of its scale".to_string(),
        );
    }
    let bounded = if how == Comparison::Equal { Opcode::Abs } else { Opcode::Relu };
    let mut holds = apply(site, bounded, &[sign], "holds")?;
    // What does not hold of one is the other.
    if matches!(how, Comparison::Equal | Comparison::LessOrEqual | Comparison::GreaterOrEqual) {
        let one = site.floats(&[], vec![1.0], "one");
        holds = apply(site, Opcode::Sub, &[one, holds], "inverse")?;
    }
    let to = shape::cast_to(&Elem::Bool).ok_or_else(|| Fault::unsupported("booleans"))?;
    site.emit(Opcode::CastTo, &[holds], Attrs::new(Opcode::CastTo).with(attr::TO, to), "")
}

/// Of constants; of reals; of integers of run time with one number, or with `0, 1, ..`, which is how exporters write a look-up.
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
    compare(site, Comparison::Equal)
}

pub(super) fn less(site: &mut Site) -> Outcome<ValueId> {
    compare(site, Comparison::Less)
}

pub(super) fn greater(site: &mut Site) -> Outcome<ValueId> {
    compare(site, Comparison::Greater)
}

pub(super) fn less_or_equal(site: &mut Site) -> Outcome<ValueId> {
    compare(site, Comparison::LessOrEqual)
}

pub(super) fn greater_or_equal(site: &mut Site) -> Outcome<ValueId> {
    compare(site, Comparison::GreaterOrEqual)
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
