//! Sums: accumulators, their extrema, and the requantization that follows from them.

use qcc_ir::diag::Code;
use qcc_ir::{Attrs, Data, Diag, Int, Opcode, Tensor, Type, ValueId, attr, format};
use qcc_num::convert::{count_i64, nearest_i32};
use qcc_num::dynamic::{SIGNED_ZERO, mantissas, weight_scales};

use super::{Dynamic, Lower, MOST, codes};
use crate::layer::{Parameter, QuantLayer};
use crate::rewrite::{either, floats, ohwi};

/// Accumulators of which one part of `int.extrema` takes the range: they stay in a second-level cache.
const PART: usize = 1 << 14;

/// Most constants of an operation that has one for each element.
const MOST_CONSTANTS: usize = 1 << 16;

/// Weights of a layer on integers, and what its accumulators stand for.
pub(super) struct IntWeights {
    /// Shape of the weights, as the integer operator wants them.
    dims: Vec<usize>,
    weights: Vec<i8>,
    /// Real value of a weight of 1, for each output channel.
    scales: Vec<f64>,
    /// In real numbers.
    bias: Vec<f64>,
}

impl IntWeights {
    /// Symmetric weights of each output channel in the usual format.
    pub(super) fn new(dims: &[usize], weights: &[f64], bias: Vec<f64>) -> IntWeights {
        let row = weights.len() / bias.len().max(1);
        let bound = format::I8.magnitude() as f64;
        let greatest = |w: &[f64]| w.iter().fold(0.0f64, |m, x| m.max(x.abs())) / bound;
        let mut scales: Vec<f64> = weights.chunks(row.max(1)).map(greatest).collect();
        weight_scales(&mut scales);
        let code = |(i, &w): (usize, &f64)| {
            i8::try_from(nearest_i32((w / scales[i / row]).clamp(-bound, bound))).unwrap_or(i8::MAX)
        };
        let weights = weights.iter().enumerate().map(code).collect();
        IntWeights { dims: dims.to_vec(), weights, scales, bias }
    }

    /// One weight for all elements of a window, for each of some channels.
    pub(super) fn window(kernel: [usize; 2], channels: usize, weight: f64) -> IntWeights {
        IntWeights {
            dims: vec![channels, kernel[0], kernel[1], 1],
            weights: vec![1; channels * kernel[0] * kernel[1]],
            scales: vec![weight; channels],
            bias: vec![0.0; channels],
        }
    }

    /// What takes the operand's zero point off the accumulators.
    fn zeros(&self, zero: u8) -> Result<Vec<i32>, Diag> {
        let row = (self.weights.len() / self.bias.len().max(1)).max(1);
        let sum = |w: &[i8]| w.iter().map(|&w| i64::from(w)).sum::<i64>();
        let correction = |w: &[i8]| {
            i32::try_from(-i64::from(zero) * sum(w))
                .map_err(|_| Diag::new(Code::OVERFLOW, "the sum of the weights of a channel does not fit 32 bits"))
        };
        self.weights.chunks(row).map(correction).collect()
    }
}

/// The parameters of a layer of the float graph.
struct Constants {
    /// Shape of the weights.
    dims: Vec<usize>,
    weights: Vec<f64>,
    bias: Vec<f64>,
}

/// Accumulators and what they stand for.
pub(super) struct Sums {
    pub acc: ValueId,
    /// Of the operand, or of the aligned operands.
    pub scale: ValueId,
    /// Real value of an accumulator of 1, in units of `scale`, for each channel.
    pub scales: Vec<f64>,
    /// In real numbers.
    pub bias: Vec<f64>,
    /// Whether the operation that makes the accumulators can take their extrema itself, if they are wanted of all at once.
    pub dense: bool,
}

/// A constant, broadcast to the last of the dimensions `dims`: those from the first on along which it varies.
pub(super) fn last_dimensions((tensor, data): (&Tensor, &[f32]), dims: &[usize]) -> Option<Vec<f64>> {
    let missing = dims.len().checked_sub(tensor.dims.len())?;
    let own: Vec<usize> = std::iter::repeat_n(1, missing).chain(tensor.dims.iter().copied()).collect();
    let first = own.iter().position(|&d| d != 1).unwrap_or(dims.len()).min(dims.len().checked_sub(1)?);
    let count = dims[first..].iter().product::<usize>();
    let at = |element: usize| {
        let axes = own[first..].iter().zip(&dims[first..]).rev();
        let (index, ..) = axes.fold((0, 1, element), |(index, stride, rest), (&own, &extent)| {
            (index + if own == 1 { 0 } else { rest % extent * stride }, stride * own, rest / extent)
        });
        data.get(index).map(|&x| f64::from(x))
    };
    (0 < count && count <= MOST_CONSTANTS).then(|| (0..count).map(at).collect()).flatten()
}

impl Lower<'_, '_> {
    pub(super) fn conv2d(&mut self) -> Result<(ValueId, Dynamic), Diag> {
        let Constants { dims, weights, bias } = self.constants()?;
        let [o, c, kh, kw] = dims[..] else { return Err(self.no_form("its weights are not of rank 4")) };
        let layer = IntWeights::new(&[o, kh, kw, c], &ohwi(&weights, [o, c, kh, kw]), bias);
        let attrs = Attrs::new(Opcode::IConv2d);
        let attrs = attrs
            .with_those_of(&self.attrs(), &[attr::STRIDES, attr::PADS, attr::DILATIONS])
            .with_those_of(&self.attrs(), &[attr::GROUPS]);
        let (x, _) = self.data(0)?;
        self.convolution(x, &layer, attrs)
    }

    /// A convolution of `x`, NCHW, with weights OHWI.
    pub(super) fn convolution(
        &mut self,
        x: ValueId,
        layer: &IntWeights,
        attrs: Attrs,
    ) -> Result<(ValueId, Dynamic), Diag> {
        let Some(own) = self.known.get(&x).copied() else { return Err(self.no_form("its operand is constant")) };
        let given = self.dims(self.y);
        let [n, c, h, w] = match given[..] {
            [n, c, h, w] => [n, c, h, w],
            // A mean that does not keep height and width.
            [n, c] => [n, c, 1, 1],
            _ => return Err(self.no_form("its result is not of rank 4")),
        };
        let x = self.nhwc(x);
        let dense = attrs.get(attr::GROUPS) == 1;
        let attrs = attrs.with(attr::PAD_VALUE, i64::from(own.zero));
        let sums = Sums { dense, ..self.accumulators((x, own), layer, attrs, &[n, h, w, c])? };
        let (q, dynamic) = self.requantize(&sums, ".nhwc");
        let q = self.nchw(q);
        Ok((if given.len() == 4 { q } else { self.flattened(q) }, dynamic))
    }

    pub(super) fn linear(&mut self) -> Result<(ValueId, Dynamic), Diag> {
        let Constants { dims, weights, bias } = self.constants()?;
        let layer = IntWeights::new(&dims, &weights, bias);
        let (x, own) = self.data(0)?;
        let result = self.dims(self.y);
        let sums = self.accumulators((x, own), &layer, Attrs::new(Opcode::ILinear), &result)?;
        Ok(self.requantize(&Sums { dense: true, ..sums }, ""))
    }

    /// The accumulators of the operator whose attributes are given.
    pub(super) fn accumulators(
        &mut self,
        (x, own): (ValueId, Dynamic),
        layer: &IntWeights,
        attrs: Attrs,
        dims: &[usize],
    ) -> Result<Sums, Diag> {
        let zeros = layer.zeros(own.zero)?;
        let w = self.constant("weights", Tensor::new(&layer.dims, Data::I8(layer.weights.clone())));
        let b = self.constant("zeros", Tensor::new(&[zeros.len()], Data::I32(zeros)));
        let acc = self.add(attrs.op(), &[x, w, b], attrs, ".acc", Type::int(Int::I32, dims));
        Ok(Sums { acc, scale: own.scale, scales: layer.scales.clone(), bias: layer.bias.clone(), dense: false })
    }

    pub(super) fn constant(&mut self, suffix: &str, tensor: Tensor) -> ValueId {
        let name = format!("{}.{suffix}", self.name);
        self.change.add_const(&name, tensor)
    }

    /// Weights and bias, all finite.
    fn constants(&self) -> Result<Constants, Diag> {
        let layer = QuantLayer::read(self.g(), self.n);
        let layer = layer.map_err(|_| self.no_form("its weights are not constant"))?;
        let read = |p: &Parameter| {
            let data = p.reals().ok_or_else(|| self.no_form("its weights are not constant"))?;
            if data.iter().any(|x| !x.is_finite()) {
                return Err(self.no_form("its parameters are not finite"));
            }
            Ok(data.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>())
        };
        let (dims, weights) = (layer.weights.tensor.dims.clone(), read(&layer.weights)?);
        let bias = layer.bias.as_ref().map(read).transpose()?.unwrap_or_else(|| vec![0.0; layer.outputs()]);
        Ok(Constants { dims, weights, bias })
    }

    /// `a[c] x + b[c]` as a depthwise convolution of 1x1.
    pub(super) fn channels(&mut self) -> Result<(ValueId, Dynamic), Diag> {
        let Some((x, a, b)) = self.affine().filter(|(x, ..)| self.g().ty(*x).rank() == 4) else {
            return self.elements();
        };
        let layer = self.depthwise(&a, b)?;
        let attrs = Attrs::new(Opcode::IConv2d).with(attr::GROUPS, count_i64(a.len()));
        self.convolution(x, &layer, attrs)
    }

    /// The same with a factor or a term for each element of the last dimensions, which are channels then.
    pub(super) fn elements(&mut self) -> Result<(ValueId, Dynamic), Diag> {
        let dims = self.dims(self.y);
        let found = either(self.g(), self.n, |c, x| {
            let own = *self.known.get(&x)?;
            (self.dims(x) == dims).then_some(())?;
            Some((last_dimensions(floats(self.g(), c)?, &dims)?, own))
        });
        let Some(((constants, own), x)) = found.filter(|_| self.g().op(self.n) != Opcode::BatchNorm) else {
            return match self.g().op(self.n) {
                Opcode::Add | Opcode::Sub => self.sum(),
                Opcode::Mul => self.product_of_values(),
                _ => Err(self.no_form("its constants are not one for each channel of a tensor of rank 4")),
            };
        };
        let channels = constants.len();
        let all = |factor: f64| vec![factor; channels];
        let (a, b) = match self.g().op(self.n) {
            Opcode::Mul => (constants, all(0.0)),
            Opcode::Sub if self.operands()[0] == x => (all(1.0), constants.iter().map(|c| -c).collect()),
            Opcode::Sub => (all(-1.0), constants),
            _ => (all(1.0), constants),
        };
        let layer = self.depthwise(&a, b)?;
        let pixels = [dims.iter().product::<usize>() / channels, 1, 1, channels];
        let shape = Attrs::new(Opcode::Reshape).with(attr::SHAPE, pixels.as_slice());
        let x = self.add(Opcode::Reshape, &[x], shape, ".pixels", codes(&pixels, own.zero));
        let attrs = Attrs::new(Opcode::IConv2d)
            .with(attr::GROUPS, count_i64(channels))
            .with(attr::PAD_VALUE, i64::from(own.zero));
        let sums = self.accumulators((x, own), &layer, attrs, &pixels)?;
        let (q, dynamic) = self.requantize(&sums, ".codes");
        Ok((self.flattened(q), dynamic))
    }

    fn depthwise(&self, factors: &[f64], terms: Vec<f64>) -> Result<IntWeights, Diag> {
        if factors.iter().chain(&terms).any(|x| !x.is_finite()) {
            return Err(self.no_form("its parameters are not finite"));
        }
        if let Some(greatest) = terms.iter().find(|t| t.abs() >= f64::from(MOST)) {
            return Err(self.no_form(format_args!("beside {greatest:e} nothing else has codes")));
        }
        Ok(IntWeights::new(&[factors.len(), 1, 1, 1], factors, terms))
    }

    /// The codes of the negated value: 255 less the codes, and less the zero point.
    pub(super) fn negated(&mut self, x: ValueId, own: Dynamic) -> (ValueId, Dynamic) {
        let table = self.constant("negated", Tensor::new(&[256], Data::U8((0..=255).rev().collect())));
        let own = Dynamic { zero: 255 - own.zero, ..own };
        let ty = codes(&self.dims(x), own.zero);
        (self.add(Opcode::Lut, &[x, table], Attrs::new(Opcode::Lut), ".negated", ty), own)
    }

    /// The sum, or the difference, of two values.
    pub(super) fn sum(&mut self) -> Result<(ValueId, Dynamic), Diag> {
        let ((a, own_a), (b, own_b)) = (self.data(0)?, self.data(1)?);
        let dims = self.dims(self.y);
        if dims.is_empty() {
            return Err(self.no_form("it has no dimensions"));
        }
        let (a, b) = (self.expanded(a), self.expanded(b));
        let (b, own_b) = if self.g().op(self.n) == Opcode::Sub { self.negated(b, own_b) } else { (b, own_b) };
        let spatial = dims.len() == 4;
        let (a, b) = if spatial { (self.nhwc(a), self.nhwc(b)) } else { (a, b) };
        let dims = self.dims(a);
        let pair = Type::int(Int::I32, &[4]);
        let factors = self.add(
            Opcode::AlignScales,
            &[own_a.scale, own_b.scale],
            Attrs::new(Opcode::AlignScales),
            ".factors",
            pair,
        );
        let zeros = vec![i64::from(own_a.zero), i64::from(own_b.zero)];
        let attrs = Attrs::new(Opcode::DynamicAdd).with(attr::ZEROS, zeros);
        let acc = self.add(Opcode::DynamicAdd, &[a, b, factors], attrs, ".acc", Type::int(Int::I32, &dims));
        let (q, dynamic) = self.requantize(&self.even(acc, factors, 1.0), if spatial { ".nhwc" } else { "" });
        Ok((if spatial { self.nchw(q) } else { q }, dynamic))
    }

    /// Extrema, parameters and codes of accumulators whose last dimension is the channels.
    pub(super) fn requantize(&mut self, sums: &Sums, suffix: &str) -> (ValueId, Dynamic) {
        let rectify = self.relu.is_some();
        let ceiling = self.relu.filter(|&r| self.g().op(r) == Opcode::Clip);
        let ceiling = ceiling.map(|r| f64::from(self.g().node(r).attrs.get(attr::MAX)));
        let (dims, channels) = (self.dims(sums.acc), sums.scales.len());
        let positions = dims.iter().product::<usize>() / channels.max(1);
        let rows = if sums.dense { positions.max(1) } else { (PART / channels.max(1)).clamp(1, positions.max(1)) };
        let attrs = Attrs::new(Opcode::Extrema).with(attr::ROWS, count_i64(rows));
        let ty = Type::int(Int::I32, &[positions.div_ceil(rows), 2, channels]);
        let extrema = self.add(Opcode::Extrema, &[sums.acc], attrs, ".extrema", ty);
        let units: Vec<f64> = sums.bias.iter().zip(&sums.scales).map(|(b, s)| b / s).collect();
        let ((weights, weight_exponent), (bias, bias_exponent)) = (mantissas(&sums.scales), mantissas(&units));
        let weights = self.constant("scales", Tensor::new(&[channels], Data::I32(weights)));
        let bias = self.constant("bias", Tensor::new(&[channels], Data::I32(bias)));
        let mut attrs = Attrs::new(Opcode::DynamicScale)
            .with(attr::WEIGHT_EXPONENT, i64::from(weight_exponent))
            .with(attr::BIAS_EXPONENT, i64::from(bias_exponent))
            .with(attr::RECTIFY, rectify);
        let mut operands = vec![extrema, sums.scale, weights, bias];
        if let Some(ceiling) = ceiling {
            let units: Vec<f64> = sums.scales.iter().map(|s| ceiling / s).collect();
            let (ceilings, exponent) = mantissas(&units);
            attrs = attrs.with(attr::CEILING_EXPONENT, i64::from(exponent));
            operands.push(self.constant("ceiling", Tensor::new(&[channels], Data::I32(ceilings))));
        }
        let vectors = operands.len() - 2;
        let ty = Type::int(Int::I32, &[qcc_num::dynamic::HEADER + vectors * channels]);
        let scale = self.add(Opcode::DynamicScale, &operands, attrs, ".params", ty);
        let zero = if rectify { 0 } else { SIGNED_ZERO };
        let attrs = Attrs::new(Opcode::DynamicRequant).with(attr::RECTIFY, rectify);
        let q = self.add(Opcode::DynamicRequant, &[sums.acc, scale], attrs, suffix, codes(&dims, zero));
        (q, Dynamic { scale, zero })
    }
}
