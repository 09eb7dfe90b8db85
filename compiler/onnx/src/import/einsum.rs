//! `Einsum` of one or two operands: transpositions, sums and a matrix product.

use qcc_ir::{Opcode, ValueId};

use super::layout::{self, apply};
use super::reduce::over;
use super::site::Site;
use crate::fault::{Fault, Outcome};

/// An operand whose dimensions have labels, each at most once.
struct Labelled {
    value: ValueId,
    labels: Vec<char>,
}

/// `abij,abjk->abik`: labels that the result lacks are summed over; an ellipsis stands for leading dimensions.
pub(super) fn einsum(site: &mut Site) -> Outcome<ValueId> {
    let equation = site.attrs.string("equation")?.ok_or_else(|| Fault::shape("`equation` is missing"))?;
    let equation: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
    let (left, right) = match equation.split_once("->") {
        Some((left, right)) => (left, Some(right.to_string())),
        None => (equation.as_str(), None),
    };
    let operands = site.all_operands()?;
    let terms: Vec<&str> = left.split(',').collect();
    if terms.len() != operands.len() {
        return Err(Fault::shape(format!("{} operands of `{equation}`", operands.len())));
    }
    let mut parts = Vec::new();
    for (term, &v) in terms.iter().zip(&operands) {
        parts.push(labelled(term, v, site.ty(v).rank(), &equation)?);
    }
    let wanted = match right {
        Some(right) => {
            let hidden = parts.iter().map(|p| p.labels.iter().filter(|c| c.is_ascii_digit()).count()).max();
            expanded(&right, hidden.unwrap_or(0), &equation)?
        }
        None => implied(&parts),
    };
    let missing = wanted.iter().any(|c| parts.iter().all(|p| !p.labels.contains(c)));
    if missing || wanted.iter().enumerate().any(|(i, c)| wanted[..i].contains(c)) {
        return Err(Fault::shape(format!("the result of `{equation}`")));
    }
    let mut parts = parts.into_iter();
    let Some(mut sum) = parts.next() else { return Err(Fault::shape("there is no operand")) };
    let rest: Vec<Labelled> = parts.collect();
    for (i, next) in rest.iter().enumerate() {
        let later = |c: char| wanted.contains(&c) || rest[i + 1..].iter().any(|p| p.labels.contains(&c));
        sum = product(site, sum, next, &later)?;
    }
    sum = summed(site, sum, &|c| wanted.contains(&c))?;
    let perm: Option<Vec<usize>> = wanted.iter().map(|c| sum.labels.iter().position(|l| l == c)).collect();
    let perm = perm.ok_or_else(|| Fault::shape(format!("the result of `{equation}`")))?;
    layout::transpose(site, sum.value, &perm, "")
}

/// The dimensions of an ellipsis have digits, counted from the last.
fn expanded(term: &str, hidden: usize, equation: &str) -> Outcome<Vec<char>> {
    let digits: String = "0123456789"[..hidden.min(10)].chars().rev().collect();
    let text = term.replacen("...", &digits, 1);
    let legal = |c: char| c.is_ascii_alphabetic() || digits.contains(c);
    if hidden > 10 || !text.chars().all(legal) {
        return Err(Fault::shape(format!("term `{term}` of `{equation}`")));
    }
    Ok(text.chars().collect())
}

fn labelled(term: &str, value: ValueId, rank: usize, equation: &str) -> Outcome<Labelled> {
    let named = term.replacen("...", "", 1).chars().count();
    let hidden = if term.contains("...") { rank.saturating_sub(named) } else { 0 };
    let labels = expanded(term, hidden, equation)?;
    if labels.len() != rank {
        return Err(Fault::shape(format!("term `{term}` of `{equation}` for {rank} dimensions")));
    }
    if labels.iter().enumerate().any(|(i, c)| labels[..i].contains(c)) {
        return Err(Fault::unsupported(format!("a diagonal, `{term}` of `{equation}`")));
    }
    Ok(Labelled { value, labels })
}

/// Without an arrow: the ellipsis, then all labels that occur once, in alphabetical order.
fn implied(parts: &[Labelled]) -> Vec<char> {
    let all: Vec<char> = parts.iter().flat_map(|p| p.labels.iter().copied()).collect();
    let mut hidden: Vec<char> = all.iter().copied().filter(char::is_ascii_digit).collect();
    hidden.sort_unstable_by(|a, b| b.cmp(a));
    hidden.dedup();
    let mut once: Vec<char> = all.iter().copied().filter(|c| !c.is_ascii_digit()).collect();
    once.retain(|c| all.iter().filter(|d| *d == c).count() == 1);
    once.sort_unstable();
    hidden.into_iter().chain(once).collect()
}

/// The sum over all labels that are not kept.
fn summed(site: &mut Site, x: Labelled, kept: &dyn Fn(char) -> bool) -> Outcome<Labelled> {
    let axes: Vec<usize> = (0..x.labels.len()).filter(|&i| !kept(x.labels[i])).collect();
    if axes.is_empty() {
        return Ok(x);
    }
    let value = over(site, Opcode::ReduceSum, x.value, &axes, false, "summed")?;
    Ok(Labelled { value, labels: x.labels.into_iter().filter(|&c| kept(c)).collect() })
}

/// The product of two operands, summed over what both have and `later` does not want.
fn product(site: &mut Site, a: Labelled, b: &Labelled, later: &dyn Fn(char) -> bool) -> Outcome<Labelled> {
    let a = summed(site, a, &|c| later(c) || b.labels.contains(&c))?;
    let b = Labelled { value: b.value, labels: b.labels.clone() };
    let b = summed(site, b, &|c| later(c) || a.labels.contains(&c))?;
    let (mut batch, mut inner, mut rows) = (Vec::new(), Vec::new(), Vec::new());
    for &c in &a.labels {
        match (b.labels.contains(&c), later(c)) {
            (true, true) => batch.push(c),
            (true, false) => inner.push(c),
            (false, _) => rows.push(c),
        }
    }
    let columns: Vec<char> = b.labels.iter().copied().filter(|c| !a.labels.contains(c)).collect();
    let extents = |site: &Site, x: &Labelled, labels: &[char]| -> Outcome<Vec<usize>> {
        let dims = site.dims(x.value);
        let at = |c: &char| x.labels.iter().position(|l| l == c).map(|i| dims[i]);
        labels.iter().map(at).collect::<Option<_>>().ok_or_else(|| Fault::shape("a label without an extent"))
    };
    for shared in [&batch, &inner] {
        if extents(site, &a, shared)? != extents(site, &b, shared)? {
            return Err(Fault::shape(format!("shapes {:?} and {:?} differ", site.dims(a.value), site.dims(b.value))));
        }
    }
    let (batch_dims, inner_dims) = (extents(site, &a, &batch)?, extents(site, &a, &inner)?);
    let (row_dims, column_dims) = (extents(site, &a, &rows)?, extents(site, &b, &columns)?);
    if inner.is_empty() {
        // Nothing is summed: an elementwise product, broadcast.
        let wide = |site: &mut Site, x: &Labelled, own: &[char], before: usize, behind: usize| {
            let order: Vec<char> = batch.iter().chain(own).copied().collect();
            let y = arranged(site, x, &order)?;
            let mut dims = site.dims(y);
            let at = batch.len();
            dims.splice(at..at, vec![1; before]);
            dims.extend(vec![1; behind]);
            layout::reshape(site, y, &dims, "wide")
        };
        let left = wide(site, &a, &rows, 0, columns.len())?;
        let right = wide(site, &b, &columns, rows.len(), 0)?;
        let value = apply(site, Opcode::Mul, &[left, right], "product")?;
        return Ok(Labelled { value, labels: [batch, rows, columns].concat() });
    }
    let merge = |site: &mut Site, x: &Labelled, order: [&[char]; 3], dims: [&[usize]; 3]| {
        let y = arranged(site, x, &order.concat())?;
        let merged = [layout::product(dims[0])?, layout::product(dims[1])?, layout::product(dims[2])?];
        // Without a batch the product is one of matrices, whose weights may be constant.
        layout::reshape(site, y, if dims[0].is_empty() { &merged[1..] } else { &merged }, "matrix")
    };
    let left = merge(site, &a, [&batch, &rows, &inner], [&batch_dims, &row_dims, &inner_dims])?;
    let right = merge(site, &b, [&batch, &inner, &columns], [&batch_dims, &inner_dims, &column_dims])?;
    let value = apply(site, Opcode::MatMul, &[left, right], "product")?;
    let dims = [batch_dims, row_dims, column_dims].concat();
    let value = layout::reshape(site, value, &dims, "product")?;
    Ok(Labelled { value, labels: [batch, rows, columns].concat() })
}

/// The dimensions in the order of labels.
fn arranged(site: &mut Site, x: &Labelled, order: &[char]) -> Outcome<ValueId> {
    let perm: Option<Vec<usize>> = order.iter().map(|c| x.labels.iter().position(|l| l == c)).collect();
    let perm = perm.ok_or_else(|| Fault::shape("a label without a dimension"))?;
    layout::transpose(site, x.value, &perm, "arranged")
}
