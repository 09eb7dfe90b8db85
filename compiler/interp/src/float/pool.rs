//! Pooling over height and width.

use qcc_ir::ops::Pool;
use qcc_ir::{Diag, Window, attr};

use super::Call;
use crate::reach::reach;

/// Greatest element or mean of each window.
pub(super) fn pool(call: &Call, kind: Pool) -> Result<Vec<f32>, Diag> {
    let window = Window::pool(call.attrs);
    match kind {
        Pool::Max => slide(call, &window, f32::NEG_INFINITY, |greatest, x| if x > greatest { x } else { greatest }),
        Pool::Average => {
            let mut sums = slide(call, &window, 0.0, |sum, x| sum + x)?;
            let counts = counts(call, &window)?;
            call.cx.chunks(&mut sums, counts.len(), |_, plane| {
                plane.iter_mut().zip(&counts).for_each(|(sum, count)| *sum /= count);
            });
            Ok(sums)
        }
    }
}

/// Folds each window's elements inside the input, one element of all windows of a row at a time.
fn slide(call: &Call, window: &Window, initial: f32, fold: impl Fn(f32, f32) -> f32 + Sync) -> Result<Vec<f32>, Diag> {
    let x = call.f32s(0)?;
    let [_, _, h, w] = call.dims4(0)?;
    let [oh, ow] = [call.dims[2], call.dims[3]];
    let [row_stride, stride] = window.strides;
    let along = |d: usize, k: usize, output: usize, input: usize| {
        reach(output, window.strides[d], window.pads[d], k * window.dilations[d], input)
    };
    let mut out = call.cx.filled(call.elements(), initial);
    call.cx.chunks(&mut out, oh * ow, |i, out| {
        let plane = &x[i * h * w..(i + 1) * h * w];
        for ky in 0..window.kernel[0] {
            let rows = along(0, ky, oh, h);
            for (number, oy) in rows.outputs.clone().enumerate() {
                let line = &plane[(rows.first + number * row_stride) * w..][..w];
                for kx in 0..window.kernel[1] {
                    let columns = along(1, kx, ow, w);
                    let result = &mut out[oy * ow..][columns.outputs.clone()];
                    if stride == 1 {
                        let line = &line[columns.first..columns.first + result.len()];
                        result.iter_mut().zip(line).for_each(|(r, &x)| *r = fold(*r, x));
                    } else {
                        let line = line[columns.first..].iter().step_by(stride);
                        result.iter_mut().zip(line).for_each(|(r, &x)| *r = fold(*r, x));
                    }
                }
            }
        }
    });
    Ok(out)
}

/// Elements of the window at each output position that a mean counts.
fn counts(call: &Call, window: &Window) -> Result<Vec<f32>, Diag> {
    let [_, _, h, w] = call.dims4(0)?;
    let along = |d: usize, output: usize, input: usize| -> Vec<usize> {
        if call.attrs.get(attr::COUNT_INCLUDE_PAD) {
            return vec![window.kernel[d]; output];
        }
        let mut counts = vec![0; output];
        for k in 0..window.kernel[d] {
            for o in reach(output, window.strides[d], window.pads[d], k * window.dilations[d], input).outputs {
                counts[o] += 1;
            }
        }
        counts
    };
    let (rows, columns) = (along(0, call.dims[2], h), along(1, call.dims[3], w));
    Ok(rows.iter().flat_map(|r| columns.iter().map(move |c| (r * c) as f32)).collect())
}
