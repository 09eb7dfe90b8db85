//! Linear layers and matrix products.

use qcc_ir::Diag;
use qcc_ir::attr;

use super::Call;
use super::matrix::{Matrix, multiply_add};
use crate::layout::{Walk, broadcast_strides};

/// `x * w^T + bias`: `x` [.., K], `w` [N, K].
pub(super) fn linear(call: &Call) -> Result<Vec<f32>, Diag> {
    let (x, w, bias) = (call.f32s(0)?, call.f32s(1)?, call.optional(2)?);
    let (n, k) = (call.dims_of(1)[0], call.dims_of(1)[1]);
    let mut out = call.cx.empty(call.elements());
    let m = call.elements().checked_div(n).unwrap_or(0);
    for _ in 0..m {
        match bias {
            Some(bias) => out.extend_from_slice(bias),
            None => out.resize(out.len() + n, 0.0),
        }
    }
    let (a, b) = (Matrix { data: x, row: k, column: 1 }, Matrix { data: w, row: 1, column: k });
    multiply_add((m, n, k), a, b, &mut out, n, call.cx.parallelism());
    Ok(out)
}

/// `alpha` times the matrix product of the last two dimensions, broadcast over the others.
pub(super) fn matmul(call: &Call) -> Result<Vec<f32>, Diag> {
    let (a, b) = (call.f32s(0)?, call.f32s(1)?);
    let (outer_a, [m, k]) = call.dims_of(0).split_last_chunk().unwrap_or((&[], &[1, 1]));
    let (outer_b, [_, n]) = call.dims_of(1).split_last_chunk().unwrap_or((&[], &[1, 1]));
    let outer = &call.dims[..call.dims.len() - 2];
    let mut out = call.cx.filled(call.elements(), 0.0);
    if out.is_empty() {
        return Ok(out);
    }
    let mut results = out.chunks_mut(m * n);
    let walk = Walk::new(outer, [&broadcast_strides(outer_a, outer), &broadcast_strides(outer_b, outer)]);
    walk.rows(|[i, j], count, [s, t]| {
        for (number, result) in results.by_ref().take(count).enumerate() {
            let left = Matrix { data: &a[(i + number * s) * m * k..], row: *k, column: 1 };
            let right = Matrix { data: &b[(j + number * t) * k * n..], row: *n, column: 1 };
            multiply_add((*m, *n, *k), left, right, result, *n, call.cx.parallelism());
        }
    });
    let alpha = call.attrs.get(attr::ALPHA);
    if alpha != 1.0 {
        out.iter_mut().for_each(|v| *v *= alpha);
    }
    Ok(out)
}
