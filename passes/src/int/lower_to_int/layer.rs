//! Convolutions and linear layers: 32-bit accumulators, then requantization with one factor an output channel.
//!
//! ```text
//! sum (x - Zx) w + b  =  sum x w + (b - Zx sum w)
//! ```
//!
//! Padding holds `Zx`, which stands for zero, so that the correction is the same for all positions.

use qcc_ir::diag::Code;
use qcc_ir::{Attrs, Data, Diag, Elem, Int, Opcode, Tensor, ValueId, attr};
use qcc_num::convert::count_i64;

use super::{Bytes, Lower};
use crate::layer::QuantLayer;
use crate::rewrite::ohwi;

/// A layer as its integer operator has it, and what the accumulators stand for.
struct IntLayer {
    layer: QuantLayer,
    weights: Vec<i8>,
    /// With the zero point of the input folded in.
    bias: Vec<i32>,
    /// `Sx * Sw[c] / Sy`.
    factors: Vec<f64>,
    input: Bytes,
    output: Bytes,
}

impl Lower<'_, '_> {
    /// The layer at hand, its weights quantized by channel.
    pub(super) fn quantized_layer(&self) -> Result<QuantLayer, Diag> {
        let layer = QuantLayer::read(self.g(), self.n).ok().filter(|l| l.weights.is_symmetric());
        layer.ok_or_else(|| self.no_form("its weights are not quantized by channel"))
    }

    fn layer(&self) -> Result<IntLayer, Diag> {
        let (input, output) = (self.bytes(self.operand(0))?, self.bytes(self.y)?);
        let layer = self.quantized_layer()?;
        let unquantized = || self.no_form("its weights are not quantized by channel");
        let weights = layer.weights.tensor.as_i8().ok_or_else(unquantized)?.to_vec();
        let own = match &layer.bias {
            Some(b) => Some(b.tensor.as_i32().ok_or_else(unquantized)?),
            None => None,
        };
        let (channels, row) = (layer.outputs(), layer.depth());
        let mut bias = Vec::with_capacity(channels);
        let mut factors = Vec::with_capacity(channels);
        for c in 0..channels {
            let sum: i64 = weights[c * row..(c + 1) * row].iter().map(|&w| i64::from(w)).sum();
            let folded = own.map_or(0, |b| i64::from(b[c])) - i64::from(input.zero) * sum;
            bias.push(i32::try_from(folded).map_err(|_| {
                Diag::new(Code::OVERFLOW, format!("the bias {folded} of output channel {c} does not fit 32 bits"))
            })?);
            factors.push(self.factor(&[input.uniform.scale(), layer.weights.scale(c)], output.uniform.scale()));
        }
        Ok(IntLayer { layer, weights, bias, factors, input, output })
    }

    /// Constants of the integer operation: weights, bias, multipliers, and the attributes of the requantization.
    fn parameters(&mut self, layer: &IntLayer, weights: Tensor) -> Result<([ValueId; 3], Attrs), Diag> {
        let row = layer.weights.len() / layer.bias.len().max(1);
        let reach = |c: usize| {
            let weights = layer.weights[c * row..(c + 1) * row].iter().map(|w| i64::from(w.unsigned_abs()));
            i64::from(layer.bias[c]).abs() + layer.input.uniform.storage().max() * weights.sum::<i64>()
        };
        let requant = self.requantization(&layer.factors, layer.output.zero, reach)?;
        let attrs = requant.set(Attrs::new(Opcode::Requant));
        let name = &layer.layer.weights.name;
        let w = self.change.add_const(name.strip_suffix(".q").unwrap_or(name), weights);
        let channels = layer.bias.len();
        let bias_name = match &layer.layer.bias {
            Some(b) => b.name.trim_end_matches(".q").to_string(),
            None => format!("{}.bias", self.name),
        };
        let b = self.change.add_const(&bias_name, Tensor::new(&[channels], Data::I32(layer.bias.clone())));
        let mult = self.constant("mult", Tensor::new(&[channels], Data::I32(requant.mult)));
        Ok(([w, b, mult], attrs))
    }

    pub(super) fn conv2d(&mut self) -> Result<ValueId, Diag> {
        let layer = self.layer()?;
        let [o, c, kh, kw] = layer.layer.weights.tensor.dims[..] else {
            return Err(self.no_form("its weights are not of rank 4"));
        };
        let weights = Tensor::new(&[o, kh, kw, c], Data::I8(ohwi(&layer.weights, [o, c, kh, kw])));
        let ([w, b, mult], requant) = self.parameters(&layer, weights)?;
        let attrs = Attrs::new(Opcode::IConv2d).with(attr::PAD_VALUE, i64::from(layer.input.zero));
        let attrs = attrs
            .with_those_of(self.attrs(), &[attr::STRIDES, attr::PADS, attr::DILATIONS])
            .with_those_of(self.attrs(), &[attr::GROUPS]);
        let x = self.nhwc(self.operand(0));
        let [n, c, h, w_extent] = self.dims(self.y)[..] else {
            return Err(self.no_form("its result is not of rank 4"));
        };
        let dims = [n, h, w_extent, c];
        let acc = self.emit(Opcode::IConv2d, &[x, w, b], attrs, ".acc", &dims, Elem::Int(Int::I32));
        let q = self.emit_result(Opcode::Requant, &[acc, mult], requant, ".nhwc", &dims);
        Ok(self.nchw(q))
    }

    pub(super) fn linear(&mut self) -> Result<ValueId, Diag> {
        let layer = self.layer()?;
        let weights = Tensor::new(&layer.layer.weights.tensor.dims, Data::I8(layer.weights.clone()));
        let ([w, b, mult], requant) = self.parameters(&layer, weights)?;
        let (x, dims) = (self.operand(0), self.dims(self.y));
        let acc =
            self.emit(Opcode::ILinear, &[x, w, b], Attrs::new(Opcode::ILinear), ".acc", &dims, Elem::Int(Int::I32));
        Ok(self.emit_result(Opcode::Requant, &[acc, mult], requant, "", &dims))
    }

    /// The product of two computed matrices; a constant one is quantized like any value.
    pub(super) fn matmul(&mut self) -> Result<ValueId, Diag> {
        let (a, b) = (self.quantized_operand(0)?, self.quantized_operand(1)?);
        let (ta, tb, to) = (self.bytes(a)?, self.bytes(b)?, self.bytes(self.y)?);
        let scales = [self.attrs().get(attr::ALPHA), ta.uniform.scale(), tb.uniform.scale()];
        let factor = self.factor(&scales, to.uniform.scale());
        let depth = self.dims(a).last().map_or(0, |&k| count_i64(k));
        let product = ta.uniform.storage().max() * tb.uniform.storage().max();
        let requant = self.requantization(&[factor], to.zero, |_| depth.saturating_mul(product))?;
        let attrs = requant
            .set(Attrs::new(Opcode::QMatMul))
            .with(attr::ZEROS, vec![i64::from(ta.zero), i64::from(tb.zero)])
            .with(attr::MULT, i64::from(requant.mult[0]));
        let dims = self.dims(self.y);
        Ok(self.emit_result(Opcode::QMatMul, &[a, b], attrs, "", &dims))
    }
}
