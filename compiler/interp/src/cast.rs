//! Between real and quantized: `qcc_num::edge` equations (6) and (7), per tensor and per axis.

use qcc_ir::diag::Code;
use qcc_ir::ops::Cast;
use qcc_ir::{Data, Diag, Elem, Format, Tensor, Type, Uniform};

use crate::element::{narrow, widen};
use crate::layout::around;

/// Evaluates a `quant.*` operator.
pub(crate) fn eval(cast: Cast, (x, ty): (&Tensor, &Type), result: &Type) -> Result<Tensor, Diag> {
    match cast {
        Cast::Quantize => quantize(x, result),
        Cast::Dequantize => dequantize(x, ty),
        Cast::Requantize => quantize(&dequantize(x, ty)?, result),
    }
}

/// Scale and zero point of every element, as runs of equal ones: `f(run, scale, zero_point)` with the run's elements.
fn for_runs(dims: &[usize], u: &Uniform, mut f: impl FnMut(std::ops::Range<usize>, f32, i64)) {
    let Some(axis) = u.axis else {
        return f(0..dims.iter().product(), u.scale(), u.zero_point());
    };
    let (outer, extent, inner) = around(dims, axis);
    for i in 0..outer * extent {
        f(i * inner..(i + 1) * inner, u.scales[i % extent], u.zero_points[i % extent]);
    }
}

/// Real numbers to the quantized type `result`, by equation (6).
pub(crate) fn quantize(x: &Tensor, result: &Type) -> Result<Tensor, Diag> {
    let (Some(values), Some(u)) = (x.as_f32(), result.uniform()) else {
        return Err(Diag::new(Code::VERIFY, format!("cannot quantize {} to {result}", x.data.kind())));
    };
    let mut codes = Vec::with_capacity(values.len());
    for_runs(&x.dims, u, |run, scale, zero_point| {
        codes.extend(values[run].iter().map(|&v| u.format.quantize(v, scale, zero_point)));
    });
    let data = narrow(codes, &Elem::Uniform(u.clone()));
    data.map(|data| Tensor { dims: x.dims.clone(), data })
        .ok_or_else(|| Diag::new(Code::VERIFY, "not an integer storage"))
}

/// Integers of the quantized type `ty` to real numbers, by equation (7).
pub(crate) fn dequantize(x: &Tensor, ty: &Type) -> Result<Tensor, Diag> {
    let (Some(codes), Some(u)) = (widen(&x.data), ty.uniform()) else {
        return Err(Diag::new(Code::VERIFY, format!("cannot dequantize {} as {ty}", x.data.kind())));
    };
    let mut values = Vec::with_capacity(codes.len());
    for_runs(&x.dims, u, |run, scale, zero_point| {
        values.extend(codes[run].iter().map(|&q| Format::dequantize(q, scale, zero_point)));
    });
    Ok(Tensor { dims: x.dims.clone(), data: Data::F32(values) })
}
