//! Weights as integers: symmetric, with one scale an output channel.

use std::sync::Arc;

use qcc_ir::format::{Grid, ScaleRule};
use qcc_ir::{Data, Elem, Format, Int, Tensor, Uniform};
use qcc_num::convert::nearest_f32;
use qcc_num::wide;

use super::bias::GREATEST_BIAS;
use super::{NewParameter, Parameter, QuantLayer, table};

/// Least requantization factor: its multiplier keeps at least 18 bits before a common shift.
pub const LEAST_FACTOR: f64 = 1.0 / (1u32 << 20) as f64;

/// The weights of a layer as integers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct WeightCodes {
    pub(crate) codes: Tensor,
    pub(crate) uniform: Arc<Uniform>,
}

impl WeightCodes {
    /// Each weight of the layer rounded to the nearest.
    pub(super) fn nearest(layer: &QuantLayer) -> Result<WeightCodes, String> {
        let real = |p: &Parameter| format!("%{} is not constant", p.name);
        let (tensor, w) = (&layer.weights.tensor, layer.weights.reals().ok_or_else(|| real(&layer.weights))?);
        let bias = match &layer.bias {
            Some(b) => Some(b.reals().ok_or_else(|| real(b))?),
            None => None,
        };
        let (sx, sy) = (layer.input.scale(), layer.output.scale());
        let format = &layer.weights_format;
        let scales = match layer.sums_in_64_bits() || format.bits() > 8 {
            true => scales_for_64_bit_sums(tensor, w, sx, sy, format)?,
            false => weight_scales(tensor, w, bias, sx, sy, format)?,
        };
        if format.scale_rule() == ScaleRule::Fitted {
            let (levels, scales) = table::fit(w, &scales, format, |_, _| 1.0);
            return Ok(quantized_weights(tensor, w, scales, &levels));
        }
        Ok(quantized_weights(tensor, w, scales, format).in_bytes(w))
    }

    /// Levels that a byte does not hold in bytes: a channel with one has half the levels and twice the scale, without the least level, which is one of
    /// 128 of its greatest weight.
    fn in_bytes(self, w: &[f32]) -> WeightCodes {
        let (Grid::Levels(levels), Data::I16(codes)) = (self.uniform.format.grid(), &self.codes.data) else {
            return self;
        };
        let levels = levels.iter().copied().filter(|&q| Int::I8.min() <= q && q <= Int::I8.max()).collect();
        let Some(format) = Format::levels(Int::I8, levels) else { return self };
        let row = (codes.len() / self.uniform.scales.len().max(1)).max(1);
        let mut scales = self.uniform.scales.clone();
        let mut bytes = Vec::with_capacity(codes.len());
        for ((codes, w), scale) in codes.chunks(row).zip(w.chunks(row)).zip(&mut scales) {
            if codes.iter().all(|&q| i8::try_from(q).is_ok()) {
                bytes.extend(codes.iter().map(|&q| i64::from(q)));
            } else {
                *scale *= 2.0;
                bytes.extend(w.iter().map(|&w| format.quantize(w, *scale, 0)));
            }
        }
        let codes = Tensor::new(&self.codes.dims, Data::integers(Int::I8, bytes));
        WeightCodes { codes, uniform: Arc::new(Uniform { format, scales, ..self.uniform.as_ref().clone() }) }
    }

    /// The same integers with scales that are multiplied, one factor for each output channel.
    pub(crate) fn scaled(self, factors: impl Iterator<Item = f64>) -> WeightCodes {
        let scales = self.uniform.scales.iter().zip(factors);
        let scales = scales.map(|(&s, f)| (nearest_f32(f64::from(s) * f)).max(f32::MIN_POSITIVE)).collect();
        WeightCodes { codes: self.codes, uniform: Arc::new(Uniform { scales, ..self.uniform.as_ref().clone() }) }
    }

    /// The integers as a constant.
    pub(crate) fn named(self, name: String) -> NewParameter {
        NewParameter { name, tensor: self.codes, elem: Elem::Uniform(self.uniform) }
    }

    /// What the integers stand for.
    pub(crate) fn real(&self) -> Tensor {
        let mut real = Vec::with_capacity(self.codes.data.len());
        (0..self.uniform.scales.len()).for_each(|c| real.extend(self.channel(c)));
        Tensor::f32(&self.codes.dims, real)
    }

    /// What the integers of an output channel stand for: weights of a channel fit memory once more where those of a layer do not.
    pub(crate) fn channel(&self, c: usize) -> Vec<f32> {
        let scale = self.uniform.scales[c];
        let row = self.codes.data.len() / self.uniform.scales.len().max(1);
        let row = c * row..(c + 1) * row;
        match &self.codes.data {
            Data::I8(v) => v[row].iter().map(|&q| f32::from(q) * scale).collect(),
            Data::U8(v) => v[row].iter().map(|&q| f32::from(q) * scale).collect(),
            Data::I16(v) => v[row].iter().map(|&q| f32::from(q) * scale).collect(),
            Data::I32(v) => v[row].iter().map(|&q| q as f32 * scale).collect(),
            Data::I64(v) => v[row].iter().map(|&q| q as f32 * scale).collect(),
            Data::F32(v) => v[row].to_vec(),
        }
    }
}

/// One scale for each output channel, between scales of the operand and the result, by the rule of the format, unless the bias or the
/// requantization need a greater scale.
fn weight_scales(
    tensor: &Tensor,
    w: &[f32],
    bias: Option<&[f32]>,
    sx: f64,
    sy: f64,
    format: &Format,
) -> Result<Vec<f32>, String> {
    scales_of(tensor, w, bias.map(|b| (b, sx)), format, LEAST_FACTOR * sy / sx)
}

/// The same where products are summed in 64 bits: any bias fits.
pub(crate) fn scales_for_64_bit_sums(
    tensor: &Tensor,
    w: &[f32],
    sx: f64,
    sy: f64,
    format: &Format,
) -> Result<Vec<f32>, String> {
    scales_of(tensor, w, None, format, wide::LEAST_FACTOR * sy / sx)
}

/// Scales by the rule of the format, but none below `least` or one for which its bias, in
/// units of a scale `sx` of the operand, exceeds the accumulators.
fn scales_of(
    tensor: &Tensor,
    w: &[f32],
    bias: Option<(&[f32], f64)>,
    format: &Format,
    least: f64,
) -> Result<Vec<f32>, String> {
    let channels = tensor.dims.first().copied().unwrap_or(0);
    let row = w.len() / channels.max(1);
    let (mut greatest, mut bounds) = (Vec::with_capacity(channels), Vec::with_capacity(channels));
    for c in 0..channels {
        let largest = w[c * row..(c + 1) * row]
            .iter()
            .fold(0.0f64, |m, &x| if x.is_finite() { m.max(f64::from(x).abs()) } else { f64::NAN });
        let b = bias.map_or(0.0, |(b, sx)| f64::from(b[c]).abs() / sx);
        if !(largest + b).is_finite() || w[c * row..(c + 1) * row].iter().any(|x| !x.is_finite()) {
            return Err(format!(
                "the parameters of output channel {c} are not finite: the file is damaged, or its training diverged"
            ));
        }
        greatest.push(largest);
        bounds.push(least.max(b / GREATEST_BIAS));
    }
    Ok(format.scales(&greatest, &bounds))
}

/// Weights in a format, with one scale an output channel, each rounded to the nearest.
pub(crate) fn quantized_weights(tensor: &Tensor, w: &[f32], scales: Vec<f32>, format: &Format) -> WeightCodes {
    let row = (w.len() / scales.len().max(1)).max(1);
    let codes = w.iter().enumerate().map(|(i, &x)| format.quantize(x, scales[i / row], 0));
    let codes = Tensor::new(&tensor.dims, Data::integers(format.storage(), codes));
    WeightCodes { codes, uniform: Arc::new(Uniform::per_axis(format.clone(), 0, scales)) }
}
