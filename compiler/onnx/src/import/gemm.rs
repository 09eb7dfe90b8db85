//! `Gemm` and `MatMul`.

use qcc_ir::{Attrs, Def, Dialect, Elem, Opcode, Tensor, ValueId};

use super::layout::{self, apply};
use super::site::Site;
use crate::fault::{Fault, Outcome};

/// `alpha * A' * B' + beta * C`. Weights that are constant, or constant but for their quantization, become those of
/// `nn.linear`, [outputs, inputs].
pub(super) fn gemm(site: &mut Site) -> Outcome<ValueId> {
    let beta = site.attrs.float("beta")?.unwrap_or(1.0);
    let alpha = site.attrs.float("alpha")?.unwrap_or(1.0);
    let (a, b, c) = (site.operand(0)?, site.operand(1)?, site.optional(2));
    product(site, a, b, c, [alpha, beta])
}

/// The same of given operands and factors; the node's attributes say the rest.
pub(super) fn product(
    site: &mut Site,
    a: ValueId,
    b: ValueId,
    c: Option<ValueId>,
    [alpha, beta]: [f32; 2],
) -> Outcome<ValueId> {
    let (trans_a, trans_b) = (site.attrs.flag("transA", false)?, site.attrs.flag("transB", false)?);
    for (name, v) in [("A", a), ("B", b)] {
        if site.ty(v).rank() != 2 {
            return Err(Fault::shape(format!("{name} is no matrix")));
        }
    }
    let c = match c {
        Some(c) if beta != 0.0 => Some(scale(site, c, beta, "bias")?),
        _ => None,
    };
    let a = if trans_a { layout::transpose(site, a, &[1, 0], "a")? } else { a };
    if is_static(site, b) {
        let w = if trans_b { b } else { layout::transpose(site, b, &[1, 0], "weight")? };
        let w = scale(site, w, alpha, "weight")?;
        let outputs = site.ty(w).dims.first().copied().unwrap_or(0);
        let bias = match c {
            Some(c) => as_bias(site, c, outputs)?,
            None => None,
        };
        let operands: Vec<ValueId> = [a, w].into_iter().chain(bias).collect();
        let y = apply(site, Opcode::Linear, &operands, "linear")?;
        return if bias.is_some() { Ok(y) } else { add(site, y, c) };
    }
    let b = if trans_b { layout::transpose(site, b, &[1, 0], "b")? } else { b };
    let y = apply(site, Opcode::MatMul, &[a, b], "product")?;
    let y = scale(site, y, alpha, "scaled")?;
    add(site, y, c)
}

fn add(site: &mut Site, y: ValueId, c: Option<ValueId>) -> Outcome<ValueId> {
    let Some(c) = c else { return Ok(y) };
    if layout::broadcast(site, c, &site.dims(y))? != site.dims(y) {
        return Err(Fault::shape(format!("C of shape {:?} does not broadcast to the product", site.dims(c))));
    }
    apply(site, Opcode::Add, &[y, c], "")
}

/// The value times a number; a constant is multiplied at once.
fn scale(site: &mut Site, v: ValueId, factor: f32, suffix: &str) -> Outcome<ValueId> {
    if factor == 1.0 {
        return Ok(v);
    }
    if let Some(values) = site.constant(v).as_deref().and_then(Tensor::as_f32) {
        let dims = site.dims(v);
        let scaled = values.iter().map(|x| x * factor).collect();
        return Ok(site.floats(&dims, scaled, suffix));
    }
    let factor = site.floats(&[], vec![factor], "factor");
    apply(site, Opcode::Mul, &[v, factor], suffix)
}

/// A value that is the same for every row, as a bias of [outputs].
fn as_bias(site: &mut Site, c: ValueId, outputs: usize) -> Outcome<Option<ValueId>> {
    let (columns, rows) = match *site.dims(c) {
        [] => (1, 1),
        [n] => (n, 1),
        [m, n] => (n, m),
        _ => return Ok(None),
    };
    if rows != 1 || !is_static(site, c) || (columns != outputs && columns != 1) {
        return Ok(None);
    }
    let c = layout::reshape(site, c, &[columns], "bias")?;
    layout::expand(site, c, &[outputs]).map(Some)
}

/// True for constants, and for constants behind changes of quantization and data movement.
fn is_static(site: &mut Site, v: ValueId) -> bool {
    let graph = site.builder().graph();
    let mut waiting = vec![v];
    while let Some(v) = waiting.pop() {
        match graph.def(v) {
            Def::Const(_) => {}
            Def::Node(n, _) if matches!(graph.op(n).info().dialect(), Dialect::Quant | Dialect::Tensor) => {
                waiting.extend(graph.operands(n));
            }
            Def::Node(..) | Def::Input(_) => return false,
        }
    }
    true
}

/// Greatest number of products by which a table is multiplied at compile time.
const MOST_PRODUCTS: usize = 1 << 28;

/// True if a table of reals has rows and is small enough to be multiplied once.
fn worthwhile(site: &Site, table: ValueId, positions: ValueId, b: ValueId) -> bool {
    let (ty, b) = (site.ty(table), &site.ty(b).dims);
    let products = ty.elements().checked_mul(b[1]).is_some_and(|n| n <= MOST_PRODUCTS);
    let smaller = ty.dims.first().is_some_and(|&rows| rows <= 16 * site.ty(positions).elements().max(1));
    ty.elem == Elem::F32 && ty.rank() == 2 && products && smaller
}

/// A constant matrix times computed ones: weights of a layer that reads these transposed, `(b^T a^T)^T`.
fn by_constant(site: &mut Site, a: ValueId, b: ValueId) -> Outcome<ValueId> {
    let rank = site.ty(b).rank();
    let mut swap: Vec<usize> = (0..rank).collect();
    swap.swap(rank - 2, rank - 1);
    let turned = layout::transpose(site, b, &swap, "turned")?;
    let y = apply(site, Opcode::Linear, &[turned, a], "linear")?;
    layout::transpose(site, y, &swap, "")
}

/// Vectors are matrices of one row or one column whose extent is dropped from the result.
pub(super) fn matmul(site: &mut Site) -> Outcome<ValueId> {
    let (a, b) = (site.operand(0)?, site.operand(1)?);
    let (a_dims, b_dims) = (site.dims(a), site.dims(b));
    let wide_a = match *a_dims {
        [k] => layout::reshape(site, a, &[1, k], "row")?,
        _ => a,
    };
    let wide_b = match *b_dims {
        [k] => layout::reshape(site, b, &[k, 1], "column")?,
        _ => b,
    };
    if let (Some((table, positions, attrs)), &[_, _]) = (layout::looked_up(site, a), b_dims.as_slice())
        && is_static(site, b)
        && worthwhile(site, table, positions, b)
    {
        // Rows of a table times weights are rows of the table times weights.
        let table = apply(site, Opcode::MatMul, &[table, b], "table")?;
        return site.emit(Opcode::Gather, &[table, positions], attrs, "");
    }
    if let (&[_, _], true) = (a_dims.as_slice(), b_dims.len() >= 2 && is_static(site, a) && !is_static(site, b)) {
        return by_constant(site, a, b);
    }
    let y = site.emit(Opcode::MatMul, &[wide_a, wide_b], Attrs::new(Opcode::MatMul), "product")?;
    let mut dims = site.dims(y);
    if b_dims.len() == 1 {
        dims.pop();
    }
    if a_dims.len() == 1 {
        let row = dims.len() - usize::from(b_dims.len() != 1) - 1;
        dims.remove(row);
    }
    layout::reshape(site, y, &dims, "")
}
