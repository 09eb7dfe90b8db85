//! Reductions and normalizations. Sums run in f64 and are rounded once.

use qcc_ir::Diag;
use qcc_ir::attr;
use qcc_ir::ops::{Norm, Reduce};

use super::Call;
use crate::layout::{around, broadcast_strides, gather, grouped};

fn sum(x: &[f32]) -> f64 {
    x.iter().map(|&v| f64::from(v)).sum()
}

/// One result over `axes`. Without elements a mean is NaN, a maximum or minimum infinite, as in ONNX.
pub(super) fn reduce(call: &Call, op: Reduce) -> Result<Vec<f32>, Diag> {
    let (x, dims, axes) = (call.f32s(0)?, call.dims_of(0), call.attrs.sizes(attr::AXES));
    let trailing = (dims.len() - axes.len().min(dims.len())..dims.len()).all(|d| axes.contains(&d));
    let moved;
    let (x, count) = if trailing {
        (x, axes.iter().map(|&d| dims[d]).product::<usize>())
    } else {
        let (elements, count) = grouped(x, dims, &axes);
        moved = elements;
        (moved.as_slice(), count)
    };
    let one = |group: &[f32]| match op {
        Reduce::Sum => sum(group) as f32,
        Reduce::Mean => (sum(group) / group.len() as f64) as f32,
        Reduce::Max => group.iter().copied().fold(f32::NEG_INFINITY, f32::max),
        Reduce::Min => group.iter().copied().fold(f32::INFINITY, f32::min),
    };
    let mut out = call.cx.empty(call.elements());
    out.extend((0..call.elements()).map(|i| one(&x[i * count..(i + 1) * count])));
    Ok(out)
}

/// Batch normalization with given statistics, layer normalization, or softmax.
pub(super) fn normalize(call: &Call, op: Norm) -> Result<Vec<f32>, Diag> {
    match op {
        Norm::Batch => batch(call),
        Norm::Layer => layer(call),
        Norm::Softmax => softmax(call),
    }
}

/// `(x - mean) / sqrt(var + epsilon) * scale + bias` along axis 1.
fn batch(call: &Call) -> Result<Vec<f32>, Diag> {
    let x = call.f32s(0)?;
    let (scale, bias, mean, var) = (call.f32s(1)?, call.f32s(2)?, call.f32s(3)?, call.f32s(4)?);
    let epsilon = call.attrs.get(attr::EPSILON);
    let (_, channels, plane) = around(call.dims, 1);
    let mut out = call.cx.empty(x.len());
    out.extend_from_slice(x);
    call.cx.chunks(&mut out, plane, |i, plane| {
        let c = i % channels;
        let factor = scale[c] / (var[c] + epsilon).sqrt();
        plane.iter_mut().for_each(|v| *v = (*v - mean[c]) * factor + bias[c]);
    });
    Ok(out)
}

/// `(x - mean) / sqrt(var + epsilon) * scale + bias` over the dimensions from `axis` on, with the mean taken for 0 where it is not to
/// be `centered`.
fn layer(call: &Call) -> Result<Vec<f32>, Diag> {
    let x = call.f32s(0)?;
    let stretched = |i: usize| Ok(gather(call.f32s(i)?, 0, call.dims, &broadcast_strides(call.dims_of(i), call.dims)));
    let (scale, bias): (Vec<f32>, Vec<f32>) = (stretched(1)?, stretched(2)?);
    let (epsilon, centered) = (f64::from(call.attrs.get(attr::EPSILON)), call.attrs.get(attr::CENTERED));
    let length = call.dims[call.attrs.get(attr::AXIS) as usize..].iter().product();
    let mut out = call.cx.empty(x.len());
    out.extend_from_slice(x);
    call.cx.chunks(&mut out, length, |row, out| {
        let n = out.len() as f64;
        let mean = if centered { sum(out) / n } else { 0.0 };
        let var = out.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
        let factor = 1.0 / (var + epsilon).sqrt();
        let parameters = scale[row * length..].iter().zip(&bias[row * length..]);
        for (v, (scale, bias)) in out.iter_mut().zip(parameters) {
            *v = ((f64::from(*v) - mean) * factor) as f32 * scale + bias;
        }
    });
    Ok(out)
}

/// `exp(x - max) / sum(exp(x - max))` along `axis`.
fn softmax(call: &Call) -> Result<Vec<f32>, Diag> {
    let x = call.f32s(0)?;
    let (outer, extent, inner) = around(call.dims, call.attrs.get(attr::AXIS) as usize);
    let mut out = call.cx.empty(x.len());
    out.extend_from_slice(x);
    for o in 0..outer {
        for i in 0..inner {
            let at = |k: usize| (o * extent + k) * inner + i;
            let max = (0..extent).map(|k| out[at(k)]).fold(f32::NEG_INFINITY, f32::max);
            (0..extent).for_each(|k| out[at(k)] = (out[at(k)] - max).exp());
            let total: f64 = (0..extent).map(|k| f64::from(out[at(k)])).sum();
            (0..extent).for_each(|k| out[at(k)] = (f64::from(out[at(k)]) / total) as f32);
        }
    }
    Ok(out)
}
