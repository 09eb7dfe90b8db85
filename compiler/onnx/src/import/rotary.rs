//! Rotary position embedding (Su et al. 2021): pairs of numbers of each head are rotated by an angle that grows with the position.
//!
//! With `c` and `s` the cosine and sine of a pair's angle, `[a, b]` becomes `[a c - b s, b c + a s]`: the numbers times cosines, plus
//! the same with the two of each pair exchanged times sines of which one has the other sign.

use qcc_ir::{Attrs, Opcode, ValueId, attr};

use super::attention::{heads, join_heads, split_heads};
use super::layout::{self, apply};
use super::shape_ops::join;
use super::site::Site;
use super::slice::part;
use crate::fault::{Fault, Outcome};

/// Which numbers of a head are a pair.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pairs {
    /// Number `i` and number `i + n / 2`.
    Halves,
    /// Neighbours.
    Neighbours,
}

/// Tables of cosines and sines, a row a position.
#[derive(Clone, Copy)]
pub(super) struct Angles {
    pub(super) cos: ValueId,
    pub(super) sin: ValueId,
}

impl Angles {
    /// Cosines and signed sines for every number of a head.
    fn spread(self, site: &mut Site, pairs: Pairs) -> Outcome<Angles> {
        let minus = apply(site, Opcode::Neg, &[self.sin], "minus")?;
        let mut rows = Vec::new();
        for [first, second] in [[self.cos, self.cos], [minus, self.sin]] {
            let dims = site.dims(first);
            let last = dims.len().checked_sub(1).ok_or_else(|| Fault::shape("a table of angles is a scalar"))?;
            rows.push(match pairs {
                Pairs::Halves => join(site, vec![first, second], layout::extent(last)?)?,
                Pairs::Neighbours => {
                    let column = [dims.as_slice(), &[1]].concat();
                    let parts = [first, second].map(|v| layout::reshape(site, v, &column, "column"));
                    let [first, second] = parts;
                    let both = join(site, vec![first?, second?], layout::extent(last + 1)?)?;
                    let mut whole = dims.clone();
                    whole[last] = layout::product(&[dims[last], 2])?;
                    layout::reshape(site, both, &whole, "angles")?
                }
            });
        }
        Ok(Angles { cos: rows[0], sin: rows[1] })
    }

    /// The rows of positions.
    fn at(self, site: &mut Site, positions: ValueId) -> Outcome<Angles> {
        let mut row = |table| {
            site.emit(Opcode::Gather, &[table, positions], Attrs::new(Opcode::Gather).with(attr::AXIS, 0), "angles")
        };
        Ok(Angles { cos: row(self.cos)?, sin: row(self.sin)? })
    }

    /// The rows of positions that follow one another.
    fn from(self, site: &mut Site, first: usize, length: usize) -> Outcome<Angles> {
        let cos = part(site, self.cos, 0, first..first + length)?;
        Ok(Angles { cos, sin: part(site, self.sin, 0, first..first + length)? })
    }
}

/// Where the elements of a sequence stand.
pub(super) enum Positions {
    /// One after the other from here.
    From(usize),
    /// As these integers say, `[batch, length]`.
    Given(ValueId),
    /// The tables have a row for each already, `[batch, length, ..]`.
    Rows,
}

/// `x` `[batch, heads, length, size]`, of each head rotated as many numbers as two rows of the tables have.
pub(super) fn rotate(site: &mut Site, x: ValueId, tables: Angles, at: &Positions, pairs: Pairs) -> Outcome<ValueId> {
    let &[_, _, length, size] = site.dims(x).as_slice() else {
        return Err(Fault::shape(format!("heads of shape {:?}", site.dims(x))));
    };
    let angles = tables.spread(site, pairs)?;
    let angles = match *at {
        Positions::From(first) => angles.from(site, first, length)?,
        Positions::Given(positions) => angles.at(site, positions)?,
        Positions::Rows => angles,
    };
    // `[length, n]` broadcasts, `[batch, length, n]` needs the dimension of heads.
    let mut rows = [angles.cos, angles.sin];
    for v in &mut rows {
        if let [batch, length, n] = *site.dims(*v) {
            *v = layout::reshape(site, *v, &[batch, 1, length, n], "angles")?;
        }
    }
    let turned = site.dims(rows[0]).last().copied().unwrap_or(0);
    if turned == 0 || turned > size || turned % 2 != 0 {
        return Err(Fault::shape(format!("angles for {turned} of {size} numbers of a head")));
    }
    let own = if turned < size { part(site, x, 3, 0..turned)? } else { x };
    let swap = match pairs {
        Pairs::Halves => {
            let (low, high) = (part(site, own, 3, 0..turned / 2)?, part(site, own, 3, turned / 2..turned)?);
            join(site, vec![high, low], 3)?
        }
        Pairs::Neighbours => {
            let positions: Vec<usize> = (0..turned).map(|i| i ^ 1).collect();
            layout::at_positions(site, own, 3, &positions, "swapped")?
        }
    };
    let straight = apply(site, Opcode::Mul, &[own, rows[0]], "straight")?;
    let across = apply(site, Opcode::Mul, &[swap, rows[1]], "across")?;
    let y = apply(site, Opcode::Add, &[straight, across], "rotated")?;
    match turned < size {
        true => {
            let rest = part(site, x, 3, turned..size)?;
            join(site, vec![y, rest], 3)
        }
        false => Ok(y),
    }
}

fn pairs(site: &mut Site, name: &'static str) -> Outcome<Pairs> {
    Ok(if site.attrs.flag(name, false)? { Pairs::Neighbours } else { Pairs::Halves })
}

/// The operator of both domains once its operands are known: of three dimensions they are the heads' numbers one after the other.
fn embedded(site: &mut Site, x: ValueId, tables: Angles, at: &Positions, pairs: Pairs) -> Outcome<ValueId> {
    let number = heads(site, "num_heads").or_else(|fault| match site.attrs.int("num_heads") {
        Ok(Some(0)) => Ok(None),
        _ => Err(fault),
    })?;
    let hidden = match site.dims(x).as_slice() {
        &[_, _, _, _] => return rotate(site, x, tables, at, pairs),
        &[_, _, hidden] => hidden,
        dims => return Err(Fault::shape(format!("an input of shape {dims:?}"))),
    };
    let row = site.dims(tables.cos).last().copied().unwrap_or(0).max(1);
    let number = number.unwrap_or(hidden / (2 * row));
    let x = split_heads(site, x, number)?;
    let y = rotate(site, x, tables, at, pairs)?;
    join_heads(site, y)
}

/// Limits the tables to the part that `rotary_embedding_dim` says.
fn limited(site: &mut Site, tables: Angles) -> Outcome<Angles> {
    let size = match site.attrs.int("rotary_embedding_dim")? {
        None | Some(0) => return Ok(tables),
        Some(n) => usize::try_from(n).map_err(|_| Fault::shape(format!("`rotary_embedding_dim` = {n}")))?,
    };
    let cut = |site: &mut Site, v: ValueId| {
        let dims = site.dims(v);
        let axis = dims.len().saturating_sub(1);
        if dims.get(axis) == Some(&(size / 2)) { Ok(v) } else { part(site, v, axis, 0..size / 2) }
    };
    Ok(Angles { cos: cut(site, tables.cos)?, sin: cut(site, tables.sin)? })
}

/// ONNX's operator: operands X, cosines, sines and perhaps positions, without which the tables have a row for each element.
pub(super) fn embedding(site: &mut Site) -> Outcome<ValueId> {
    let (x, tables) = (site.operand(0)?, Angles { cos: site.operand(1)?, sin: site.operand(2)? });
    let pairs = pairs(site, "interleaved")?;
    let tables = limited(site, tables)?;
    let at = site.optional(3).map_or(Positions::Rows, Positions::Given);
    embedded(site, x, tables, &at, pairs)
}

/// ONNX Runtime's operator: operands input, positions (one for the first element, or each), cosines and sines.
pub(super) fn contrib_embedding(site: &mut Site) -> Outcome<ValueId> {
    let (x, positions) = (site.operand(0)?, site.operand(1)?);
    let tables = Angles { cos: site.operand(2)?, sin: site.operand(3)? };
    let pairs = pairs(site, "interleaved")?;
    if site.attrs.flag("is_packed_batching", false)? {
        return Err(Fault::unsupported("`is_packed_batching` = 1 is not supported"));
    }
    if site.attrs.float("scale")?.is_some_and(|s| s != 1.0) {
        return Err(Fault::unsupported("`scale` other than 1 is not supported"));
    }
    let tables = limited(site, tables)?;
    let at = if site.ty(positions).elements() == 1 {
        match site.int_list(1, "positions")?.as_deref() {
            Some(&[first]) => Positions::From(usize::try_from(first).map_err(|_| Fault::shape("a negative position"))?),
            _ => return Err(Fault::shape("the first position is not one number")),
        }
    } else {
        Positions::Given(positions)
    };
    embedded(site, x, tables, &at, pairs)
}
