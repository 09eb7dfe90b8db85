//! Convolution: the matrix product of the weights with the windows laid side by side (Chellapilla et al. 2006), some
//! rows of the result at a time so that the windows stay in cache. A 1x1 window is the input itself; depthwise
//! convolutions are summed directly.

use qcc_ir::{Diag, Window};

use super::Call;
use super::matrix::{Matrix, multiply_add};
use crate::context::Context;
use crate::reach::{Reach, reach};

/// Floats of windows laid out at a time: half a megabyte, within the second-level cache.
const LAID_OUT: usize = 1 << 17;

/// Sizes of one convolution.
struct Shape {
    window: Window,
    /// Height and width of the input.
    input: [usize; 2],
    /// Height and width of the result.
    output: [usize; 2],
    /// Input channels of a group.
    channels: usize,
    /// Output channels of a group.
    outputs: usize,
}

impl Shape {
    fn input_plane(&self) -> usize {
        self.input[0] * self.input[1]
    }

    fn output_plane(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// Elements of one window over all channels of a group.
    fn depth(&self) -> usize {
        self.channels * self.window.kernel[0] * self.window.kernel[1]
    }

    /// Where element `k` of the window lies along dimension `d`.
    fn reach(&self, d: usize, k: usize) -> Reach {
        let w = &self.window;
        reach(self.output[d], w.strides[d], w.pads[d], k * w.dilations[d], self.input[d])
    }

    /// True if the windows laid side by side are the input itself.
    fn is_pointwise(&self) -> bool {
        self.window.kernel == [1, 1] && self.window.strides == [1, 1] && self.window.pads == [0; 4]
    }
}

/// `x` is `[N, C, H, W]`, `w` `[O, C / groups, KH, KW]`, `bias` `[O]`.
pub(super) fn conv2d(call: &Call) -> Result<Vec<f32>, Diag> {
    let (x, w, bias) = (call.f32s(0)?, call.f32s(1)?, call.optional(2)?);
    let [_, all_channels, h, width] = call.dims4(0)?;
    let [all_outputs, channels, kh, kw] = call.dims4(1)?;
    let groups = all_channels.checked_div(channels).unwrap_or(1).max(1);
    let shape = Shape {
        window: Window::conv(call.attrs, [kh, kw]),
        input: [h, width],
        output: [call.dims[2], call.dims[3]],
        channels,
        outputs: all_outputs / groups,
    };
    let plane = shape.output_plane();
    let mut out = call.cx.empty(call.elements());
    for i in 0..call.elements().checked_div(plane).unwrap_or(0) {
        out.resize(out.len() + plane, bias.map_or(0.0, |b| b[i % all_outputs]));
    }
    if out.is_empty() {
        return Ok(out);
    }
    if channels == 1 && groups > 1 {
        depthwise(call.cx, &shape, all_outputs, x, w, &mut out);
        return Ok(out);
    }
    let (input_group, output_group) = (channels * shape.input_plane(), shape.outputs * plane);
    let weight_group = shape.outputs * shape.depth();
    for (i, out) in out.chunks_mut(output_group).enumerate() {
        let g = i % groups;
        let x = &x[i * input_group..(i + 1) * input_group];
        group(call.cx, &shape, x, &w[g * weight_group..(g + 1) * weight_group], out);
    }
    Ok(out)
}

/// One group of one sample: adds to `out` [outputs, OH * OW].
fn group(cx: &Context, shape: &Shape, x: &[f32], w: &[f32], out: &mut [f32]) {
    let (depth, plane) = (shape.depth(), shape.output_plane());
    let weights = Matrix { data: w, row: depth, column: 1 };
    if shape.is_pointwise() {
        let windows = Matrix { data: x, row: plane, column: 1 };
        return multiply_add((shape.outputs, plane, depth), weights, windows, out, plane, cx.parallelism());
    }
    let [oh, ow] = shape.output;
    let rows = (LAID_OUT / (depth * ow).max(1)).clamp(1, oh);
    let mut laid_out = cx.filled(depth * rows * ow, 0.0);
    for first in (0..oh).step_by(rows) {
        let rows = rows.min(oh - first);
        let columns = rows * ow;
        cx.chunks(&mut laid_out[..depth * columns], columns, |k, line| lay_out(shape, x, k, first, line));
        let windows = Matrix { data: &laid_out, row: columns, column: 1 };
        multiply_add(
            (shape.outputs, columns, depth),
            weights,
            windows,
            &mut out[first * ow..],
            plane,
            cx.parallelism(),
        );
    }
    cx.recycle(laid_out);
}

/// Element `k` (channel, row and column of the window) of the windows of the result's rows from `first` on.
fn lay_out(shape: &Shape, x: &[f32], k: usize, first: usize, line: &mut [f32]) {
    let [kh, kw] = shape.window.kernel;
    let (channel, ky, kx) = (k / (kh * kw), k / kw % kh, k % kw);
    let plane = &x[channel * shape.input_plane()..(channel + 1) * shape.input_plane()];
    let (rows, columns) = (shape.reach(0, ky), shape.reach(1, kx));
    let [row_stride, stride] = shape.window.strides;
    for (oy, line) in (first..).zip(line.chunks_mut(shape.output[1])) {
        if !rows.outputs.contains(&oy) {
            line.fill(0.0);
            continue;
        }
        let iy = rows.first + (oy - rows.outputs.start) * row_stride;
        let source = &plane[iy * shape.input[1]..(iy + 1) * shape.input[1]];
        line[..columns.outputs.start].fill(0.0);
        line[columns.outputs.end..].fill(0.0);
        let line = &mut line[columns.outputs.clone()];
        if stride == 1 {
            line.copy_from_slice(&source[columns.first..columns.first + line.len()]);
        } else {
            line.iter_mut().zip(source[columns.first..].iter().step_by(stride)).for_each(|(l, &s)| *l = s);
        }
    }
}

/// One input channel a group: each plane of the result is a weighted sum of shifted planes of `x`.
fn depthwise(cx: &Context, shape: &Shape, all_outputs: usize, x: &[f32], w: &[f32], out: &mut [f32]) {
    let [kh, kw] = shape.window.kernel;
    let [row_stride, stride] = shape.window.strides;
    cx.chunks(out, shape.output_plane(), |i, out| {
        let weights = &w[i % all_outputs * kh * kw..(i % all_outputs + 1) * kh * kw];
        // Groups of one sample follow those of the one before.
        let source = i / shape.outputs;
        let plane = &x[source * shape.input_plane()..(source + 1) * shape.input_plane()];
        for (k, &weight) in weights.iter().enumerate() {
            let (rows, columns) = (shape.reach(0, k / kw), shape.reach(1, k % kw));
            for (number, oy) in rows.outputs.clone().enumerate() {
                let start = (rows.first + number * row_stride) * shape.input[1] + columns.first;
                let sums = &mut out[oy * shape.output[1]..][columns.outputs.clone()];
                if stride == 1 {
                    let line = &plane[start..start + sums.len()];
                    sums.iter_mut().zip(line).for_each(|(s, &x)| *s += weight * x);
                } else {
                    let line = plane[start.min(plane.len())..].iter().step_by(stride);
                    sums.iter_mut().zip(line).for_each(|(s, &x)| *s += weight * x);
                }
            }
        }
    });
}
