//! Sums of products of bytes, and their requantization.

use qcc_ir::{Diag, Window, attr};
use qcc_num::requant::residual_term;

use super::{Call, accumulator};
use crate::layout::{Walk, broadcast_strides};

/// Products of u8 and i8 of which any number up to this one sums up within 32 bits: `2^16 * 255 * 128 < 2^31`.
const EXACT_TERMS: usize = 1 << 16;

/// Outputs of a linear operator that one task computes.
const LINEAR_TASK: usize = 64;

/// `sum(x[i] * w[i])`.
fn dot(x: &[u8], w: &[i8]) -> i64 {
    let part = |(x, w): (&[u8], &[i8])| x.iter().zip(w).map(|(&a, &b)| i32::from(a) * i32::from(b)).sum::<i32>();
    x.chunks(EXACT_TERMS).zip(w.chunks(EXACT_TERMS)).map(|p| i64::from(part(p))).sum()
}

/// `acc[n, oy, ox, o] = bias[o] + sum over ky, kx, c of x[n, y, x, c] * w[o, ky, kx, c]`, with `y = oy * sh - top + ky * dh`,
/// likewise `x`; `pad_value` stands for elements outside. Group `g` of outputs reads group `g` of channels.
pub(super) fn conv2d(call: &Call) -> Result<Vec<i32>, Diag> {
    let (x, w, bias) = (call.u8s(0)?, call.i8s(1)?, call.i32s(2)?);
    let &[_, height, width, channels] = call.dims_of(0) else { return Err(call.wrong(0, "NHWC")) };
    let &[outputs, kh, kw, per_group] = call.dims_of(1) else { return Err(call.wrong(1, "OHWI")) };
    let [_, oh, ow, _] = *call.dims else { return Err(call.wrong(0, "NHWC")) };
    let window = Window::conv(call.attrs, [kh, kw]);
    let pad_value = call.attrs.get(attr::PAD_VALUE) as u8;
    let groups = channels.checked_div(per_group).unwrap_or(1).max(1);
    let (group_outputs, patch_size) = (outputs / groups, kh * kw * per_group);

    let mut acc = vec![0; call.dims.iter().product()];
    call.cx.try_chunks(&mut acc, ow * outputs, |row, acc| {
        let (n, oy) = (row / oh, row % oh);
        // What the window sees, in the order of the weights.
        let mut patch = vec![pad_value; patch_size];
        for (ox, acc) in acc.chunks_mut(outputs).enumerate() {
            for g in 0..groups {
                for (k, seen) in patch.chunks_mut(per_group.max(1)).enumerate() {
                    let iy = (oy * window.strides[0] + k / kw * window.dilations[0]).checked_sub(window.pads[0]);
                    let ix = (ox * window.strides[1] + k % kw * window.dilations[1]).checked_sub(window.pads[1]);
                    match (iy.filter(|&y| y < height), ix.filter(|&x| x < width)) {
                        (Some(iy), Some(ix)) => {
                            let start = ((n * height + iy) * width + ix) * channels + g * per_group;
                            seen.copy_from_slice(&x[start..start + per_group]);
                        }
                        (None, _) | (_, None) => seen.fill(pad_value),
                    }
                }
                for o in g * group_outputs..(g + 1) * group_outputs {
                    let weights = &w[o * patch_size..(o + 1) * patch_size];
                    acc[o] = accumulator(i64::from(bias[o]) + dot(&patch, weights))?;
                }
            }
        }
        Ok(())
    })?;
    Ok(acc)
}

/// `acc[.., n] = bias[n] + sum over k of x[.., k] * w[n, k]`.
pub(super) fn linear(call: &Call) -> Result<Vec<i32>, Diag> {
    let (x, w, bias) = (call.u8s(0)?, call.i8s(1)?, call.i32s(2)?);
    let &[outputs, depth] = call.dims_of(1) else { return Err(call.wrong(1, "[N, K]")) };
    let mut acc = vec![0; call.dims.iter().product()];
    call.cx.try_chunks(&mut acc, LINEAR_TASK, |task, acc| {
        for (i, acc) in acc.iter_mut().enumerate() {
            let (row, o) = ((task * LINEAR_TASK + i) / outputs, (task * LINEAR_TASK + i) % outputs);
            let sum = dot(&x[row * depth..(row + 1) * depth], &w[o * depth..(o + 1) * depth]);
            *acc = accumulator(i64::from(bias[o]) + sum)?;
        }
        Ok(())
    })?;
    Ok(acc)
}

/// `requant` of [`matmul`] with one multiplier.
pub(super) fn qmatmul(call: &Call) -> Result<Vec<u8>, Diag> {
    requant(call, &matmul(call)?, &[call.attrs.get(attr::MULT) as i32], None)
}

/// `sum over k of (a[.., m, k] - zeros[0]) * (b[.., k, n] - zeros[1])`.
pub(super) fn matmul(call: &Call) -> Result<Vec<i32>, Diag> {
    let (a, b, zeros) = (call.u8s(0)?, call.u8s(1)?, call.attrs.get(attr::ZEROS));
    let (Some((outer_a, &[m, k])), Some((outer_b, &[_, n]))) =
        (call.dims_of(0).split_last_chunk(), call.dims_of(1).split_last_chunk())
    else {
        return Err(call.wrong(0, "a matrix"));
    };
    let outer = &call.dims[..call.dims.len() - 2];
    let mut starts = Vec::new();
    let walk = Walk::new(outer, [&broadcast_strides(outer_a, outer), &broadcast_strides(outer_b, outer)]);
    walk.rows(|[i, j], count, [s, t]| starts.extend((0..count).map(|c| ((i + c * s) * m * k, (j + c * t) * k * n))));
    let mut result = vec![0; call.dims.iter().product()];
    call.cx.try_chunks(&mut result, n, |row, result| {
        let (a_start, b_start) = starts[row / m];
        let a = &a[a_start + row % m * k..][..k];
        let mut sums = vec![0i64; n];
        for (a, b) in a.iter().zip(b[b_start..].chunks(n.max(1))) {
            let a = i64::from(*a) - zeros[0];
            sums.iter_mut().zip(b).for_each(|(s, &b)| *s += a * (i64::from(b) - zeros[1]));
        }
        for (acc, sum) in result.iter_mut().zip(sums) {
            *acc = accumulator(sum)?;
        }
        Ok(())
    })?;
    Ok(result)
}

/// `qcc_num::requant` of accumulators whose last dimension is that of `mult`, or with one multiplier for all.
pub(super) fn requant(call: &Call, acc: &[i32], mult: &[i32], residual: Option<&[u8]>) -> Result<Vec<u8>, Diag> {
    let epilogue = call.attrs.epilogue();
    let mult_of = |i: usize| mult[i % mult.len()];
    Ok(match residual {
        None => acc.iter().enumerate().map(|(i, &a)| epilogue.apply(a, mult_of(i), 0)).collect(),
        Some(residual) => {
            let factor = call.attrs.get(attr::RESIDUAL_MULT) as u16;
            let one = |(i, (&a, &r))| epilogue.apply(a, mult_of(i), residual_term(r, factor));
            acc.iter().zip(residual).enumerate().map(one).collect()
        }
    })
}
