//! Pooling, reductions, normalizations and softmax.

use qcc_ir::ops::Reduce;
use qcc_ir::{Attrs, Data, Diag, Elem, Int, Opcode, Tensor, Uniform, ValueId, Window, attr};
use qcc_num::convert::{count_i64, nearest_i32, nearest_i64};
use qcc_num::norm;

use super::{Bytes, Lower};
use crate::quant::quantize;
use crate::rewrite::floats;

/// One in a table of `int.softmax`.
pub(super) const SOFTMAX_ONE: f64 = (1u32 << 30) as f64;

impl Lower<'_, '_> {
    pub(super) fn max_pool(&mut self) -> Result<ValueId, Diag> {
        let x = self.operand(0);
        let [n, c, h, w] = self.dims(self.y)[..] else { return Err(self.no_form("its result is not of rank 4")) };
        let attrs = Attrs::new(Opcode::IMaxPool);
        let attrs = attrs.with_those_of(self.attrs(), &[attr::KERNEL, attr::STRIDES, attr::PADS, attr::DILATIONS]);
        let elem = self.g().ty(x).elem.clone();
        let x = self.nhwc(x);
        let pooled = self.emit(Opcode::IMaxPool, &[x], attrs, ".nhwc", &[n, h, w, c], elem);
        self.in_result_type(pooled).map(|v| self.nchw(v))
    }

    /// The value, rescaled if its type is not that of the result.
    fn in_result_type(&mut self, v: ValueId) -> Result<ValueId, Diag> {
        if self.g().ty(v).elem == self.g().ty(self.y).elem { Ok(v) } else { self.rescale(v) }
    }

    pub(super) fn average_pool(&mut self) -> Result<ValueId, Diag> {
        let x = self.operand(0);
        let (from, to) = (self.bytes(x)?, self.bytes(self.y)?);
        let [n, c, oh, ow] = self.dims(self.y)[..] else { return Err(self.no_form("its result is not of rank 4")) };
        let [_, _, h, w] = self.dims(x)[..] else { return Err(self.no_form("its operand is not of rank 4")) };
        let window = Window::pool(self.attrs());
        let counts: Vec<usize> = if self.attrs().get(attr::COUNT_INCLUDE_PAD) {
            vec![window.kernel[0] * window.kernel[1]]
        } else {
            let (rows, columns) = (elements_inside(&window, 0, oh, h), elements_inside(&window, 1, ow, w));
            rows.iter().flat_map(|r| columns.iter().map(move |c| r * c)).collect()
        };
        let alike = counts.iter().all(|&k| k == counts[0]);
        let counts = if alike { &counts[..1] } else { &counts[..] };
        let factor = |&count: &usize| self.mean_factor(&from, &to, count);
        let factors: Vec<f64> = counts.iter().map(factor).collect();
        let taps = window.kernel[0] * window.kernel[1];
        let requant = self.requantization(&factors, to.zero, |_| count_i64(taps).saturating_mul(255))?;
        let dims: &[usize] = if alike { &[1] } else { &[oh, ow] };
        let attrs = requant.set(Attrs::new(Opcode::IAveragePool)).with(attr::ZERO, i64::from(from.zero));
        let mult = self.constant("mult", Tensor::new(dims, Data::I32(requant.mult)));
        let attrs = attrs.with_those_of(self.attrs(), &[attr::KERNEL, attr::STRIDES, attr::PADS, attr::DILATIONS]);
        let x = self.nhwc(x);
        let pooled = self.emit_result(Opcode::IAveragePool, &[x, mult], attrs, ".nhwc", &[n, oh, ow, c]);
        Ok(self.nchw(pooled))
    }

    /// The factor of a mean of so many elements.
    fn mean_factor(&self, from: &Bytes, to: &Bytes, count: usize) -> f64 {
        match self.exact {
            true => f64::from(from.uniform.scale() / (to.uniform.scale() * count as f32)),
            false => from.scale / to.scale / count as f64,
        }
    }

    pub(super) fn reduce(&mut self, kind: Reduce) -> Result<ValueId, Diag> {
        match kind {
            Reduce::Mean | Reduce::Sum => self.sum(kind),
            Reduce::Max => {
                let x = self.operand(0);
                let reduced = self.maximum(x)?;
                self.in_result_type(reduced)
            }
            Reduce::Min => {
                let negated = self.complement(self.operand(0), ".neg");
                let reduced = self.maximum(negated)?;
                let restored = self.complement(reduced, ".min");
                self.in_result_type(restored)
            }
        }
    }

    fn sum(&mut self, kind: Reduce) -> Result<ValueId, Diag> {
        let x = self.operand(0);
        let (from, to) = (self.bytes(x)?, self.bytes(self.y)?);
        let (dims, axes) = (self.dims(x), self.attrs().sizes(attr::AXES));
        let count: usize = axes.iter().map(|&a| dims[a]).product();
        let divisor = if kind == Reduce::Mean { count.max(1) } else { 1 };
        let factor = self.mean_factor(&from, &to, divisor);
        let requant = self.requantization(&[factor], to.zero, |_| count_i64(count).saturating_mul(255))?;
        let attrs = requant
            .set(Attrs::new(Opcode::IMean))
            .with(attr::AXES, axes.as_slice())
            .with(attr::KEEPDIMS, self.attrs().get(attr::KEEPDIMS))
            .with(attr::ZERO, i64::from(from.zero))
            .with(attr::MULT, i64::from(requant.mult[0]));
        let dims = self.dims(self.y);
        Ok(self.emit_result(Opcode::IMean, &[x], attrs, "", &dims))
    }

    /// `255 - x`: the order of codes reversed.
    fn complement(&mut self, x: ValueId, suffix: &str) -> ValueId {
        let table: Vec<u8> = (0..=255u8).map(|q| 255 - q).collect();
        let table = self.constant("complement", Tensor::new(&[256], Data::U8(table)));
        let ty = self.g().ty(x).clone();
        self.emit(Opcode::Lut, &[x, table], Attrs::new(Opcode::Lut), suffix, &ty.dims, ty.elem)
    }

    /// The greatest over the axes: a window over all elements of `[1, reduced, 1, kept]`.
    pub(super) fn maximum(&mut self, x: ValueId) -> Result<ValueId, Diag> {
        let (axes, result) = (self.attrs().sizes(attr::AXES), self.dims(self.y));
        let (dims, elem) = (self.dims(x), self.g().ty(x).elem.clone());
        let kept = (0..dims.len()).filter(|i| !axes.contains(i));
        let perm: Vec<usize> = axes.iter().copied().chain(kept).collect();
        let count: usize = axes.iter().map(|&a| dims[a]).product();
        let rest: usize = result.iter().product();
        let x = self.transpose(x, &perm, ".t");
        let reshape = |dims: &[usize]| Attrs::new(Opcode::Reshape).with(attr::SHAPE, dims);
        let shape = [1, count, 1, rest];
        let flat = self.emit(Opcode::Reshape, &[x], reshape(&shape), ".flat", &shape, elem.clone());
        let attrs = Attrs::new(Opcode::IMaxPool).with(attr::KERNEL, [count, 1].as_slice());
        let pooled = self.emit(Opcode::IMaxPool, &[flat], attrs, ".max", &[1, 1, 1, rest], elem.clone());
        Ok(self.emit(Opcode::Reshape, &[pooled], reshape(&result), "", &result, elem))
    }

    pub(super) fn layer_norm(&mut self) -> Result<ValueId, Diag> {
        let x = self.operand(0);
        let (from, to) = (self.quantization(x)?, self.quantization(self.y)?);
        let (dims, axis) = (self.dims(x), self.attrs().get(attr::AXIS));
        let row: usize = dims[usize::try_from(axis).unwrap_or(0).min(dims.len())..].iter().product();
        let parameter = |i: usize| {
            let g = self.g();
            let values = floats(g, self.operand(i)).filter(|(_, data)| data.iter().all(|x| x.is_finite()));
            values.map(|(t, data)| {
                (t.dims.clone(), data.iter().map(|&x| f64::from(x) / f64::from(to.scale())).collect::<Vec<f64>>())
            })
        };
        let (Some((scale_dims, scale)), Some((bias_dims, bias))) = (parameter(1), parameter(2)) else {
            return Err(self.no_form("its parameters are not constant"));
        };
        let mult: Result<Vec<i32>, _> = scale.iter().map(|&s| norm::multiplier(s, row)).collect();
        let mult = mult.map_err(|e| self.scale_error(e))?;
        let zero = i32::try_from(to.zero_point()).unwrap_or(0);
        let offset = bias.iter().map(|&b| norm::offset(zero, b)).collect();
        let mult = self.constant("mult", Tensor::new(&scale_dims, Data::I32(mult)));
        let offset = self.constant("offset", Tensor::new(&bias_dims, Data::I32(offset)));
        let mean_bits = match from.storage() {
            Int::I32 => norm::FINE_MEAN_BITS,
            Int::I16 => norm::WIDE_MEAN_BITS,
            _ => norm::MEAN_BITS,
        };
        let epsilon =
            norm::epsilon(f64::from(self.attrs().get(attr::EPSILON)), f64::from(from.scale()), mean_bits, row);
        let center = if self.attrs().get(attr::CENTERED) { -1 } else { from.zero_point() - from.min() };
        let attrs = Attrs::new(Opcode::ILayerNorm)
            .with(attr::AXIS, axis)
            .with(attr::INT_EPSILON, epsilon)
            .with(attr::CENTER, center)
            .with(attr::BITS, i64::from(to.storage().bits()));
        Ok(self.emit_result(Opcode::ILayerNorm, &[x, mult, offset], attrs, "", &dims))
    }

    pub(super) fn softmax(&mut self) -> Result<ValueId, Diag> {
        let x = self.operand(0);
        let (from, to) = (self.bytes(x)?, self.bytes(self.y)?);
        let axis = usize::try_from(self.attrs().get(attr::AXIS)).unwrap_or(0);
        let table = (0..256).map(|d| nearest_i32(SOFTMAX_ONE * (-f64::from(d) * from.scale).exp())).collect();
        let table = self.constant("table", Tensor::new(&[256], Data::I32(table)));
        let rank = self.dims(x).len();
        let perm: Vec<usize> = (0..rank).filter(|&i| i != axis).chain([axis]).collect();
        let x = self.transpose(x, &perm, ".t");
        let dims = self.dims(x);
        // The rule's factor has 8 fraction bits and 31 in all.
        let fits = to.zero == 0 && (1.0 / f64::from(1 << 22)..=1.0).contains(&to.scale);
        let own = if fits { (*to.uniform).clone() } else { Uniform::per_tensor(Int::U8, 1.0 / 255.0, 0) };
        let suffix = if perm.is_sorted() { "" } else { ".t" };
        // ONNX Runtime counts the whole units in 1: 254 of 1/255 in single precision.
        let mult = match self.exact {
            true => 256 * nearest_i64(f64::from((1.0 / own.scale()).floor())),
            false => nearest_i64(256.0 / f64::from(own.scale())),
        };
        let attrs = Attrs::new(Opcode::ISoftmax).with(attr::MULT, mult);
        let mut y = self.emit(Opcode::ISoftmax, &[x, table], attrs, suffix, &dims, Elem::Uniform(own.clone().into()));
        if *to.uniform != own {
            let table = quantize::table(&own, &to.uniform, |x| x);
            let table = self.constant("rescale", Tensor::new(&[256], Data::U8(table)));
            y = self.emit_result(Opcode::Lut, &[y, table], Attrs::new(Opcode::Lut), suffix, &dims);
        }
        Ok(self.transpose(y, &crate::rewrite::inverse(&perm), ""))
    }
}

/// How many elements of the window lie inside the input, for each output position along height (0) or width (1).
pub(crate) fn elements_inside(window: &Window, along: usize, outputs: usize, input: usize) -> Vec<usize> {
    let before = window.pads[along];
    (0..outputs)
        .map(|o| {
            let first = o * window.strides[along];
            let positions = (0..window.kernel[along]).map(|k| first + k * window.dilations[along]);
            positions.filter(|i| (before..before + input).contains(i)).count().max(1)
        })
        .collect()
}
