//! Means, sums and greatest elements of windows and of whole axes.

use qcc_ir::{Attrs, Diag, Int, Opcode, Type, ValueId, Window, attr};
use qcc_num::convert::count_i64;

use super::layer::{IntWeights, Sums};
use super::{Dynamic, Lower, codes};
use crate::int::lower_to_int::elements_inside;

impl Lower<'_, '_> {
    /// Means over windows, means and sums over axes: a depthwise convolution with weights of 1.
    pub(super) fn mean(&mut self) -> Result<(ValueId, Dynamic), Diag> {
        let (x, own) = self.data(0)?;
        let (op, given) = (self.g().op(self.n), self.attrs());
        let weight = |taps: usize| if op == Opcode::ReduceSum { 1.0 } else { 1.0 / taps.max(1) as f64 };
        if op != Opcode::AveragePool && !self.is_spatial(x) {
            let (x, [count, rest]) = self.flattened_axes(x);
            let layer = IntWeights::window([count, 1], rest, weight(count));
            let attrs = Attrs::new(Opcode::IConv2d)
                .with(attr::GROUPS, count_i64(rest))
                .with(attr::PAD_VALUE, i64::from(own.zero));
            let sums = self.accumulators((x, own), &layer, attrs, &[1, 1, 1, rest])?;
            let (q, dynamic) = self.requantize(&sums, ".codes");
            return Ok((self.flattened(q), dynamic));
        }
        let [_, channels, h, w] = self.dims(x)[..] else { return Err(self.no_form("its operand is not of rank 4")) };
        let mut attrs = Attrs::new(Opcode::IConv2d).with(attr::GROUPS, count_i64(channels));
        let mut kernel = [h, w];
        if op == Opcode::AveragePool {
            let window = Window::pool(&given);
            attrs = attrs.with_those_of(&given, &[attr::STRIDES, attr::PADS, attr::DILATIONS]);
            if window.pads != [0; 4] && !given.get(attr::COUNT_INCLUDE_PAD) {
                return self.partial_mean((x, own), &window, attrs);
            }
            kernel = window.kernel;
        }
        let layer = IntWeights::window(kernel, channels, weight(kernel[0] * kernel[1]));
        self.convolution(x, &layer, attrs)
    }

    /// The mean of windows of which those at the border have fewer elements: positions take the place of channels.
    fn partial_mean(
        &mut self,
        (x, own): (ValueId, Dynamic),
        window: &Window,
        attrs: Attrs,
    ) -> Result<(ValueId, Dynamic), Diag> {
        let ([_, _, h, w], [n, c, oh, ow]) = (self.rank_4(x)?, self.rank_4(self.y)?);
        let (rows, columns) = (elements_inside(window, 0, oh, h), elements_inside(window, 1, ow, w));
        let scales: Vec<f64> = rows.iter().flat_map(|r| columns.iter().map(move |c| 1.0 / (r * c) as f64)).collect();
        let layer = IntWeights::window(window.kernel, c, 1.0);
        let x = self.nhwc(x);
        let attrs = attrs.with(attr::PAD_VALUE, i64::from(own.zero));
        let sums = self.accumulators((x, own), &layer, attrs, &[n, oh, ow, c])?;
        let acc = self.permuted(sums.acc, &[0, 3, 1, 2], ".planes");
        let flat = [n * c, 1, 1, oh * ow];
        let shape = Attrs::new(Opcode::Reshape).with(attr::SHAPE, flat.as_slice());
        let acc = self.add(Opcode::Reshape, &[acc], shape, ".positions", Type::int(Int::I32, &flat));
        let bias = vec![0.0; scales.len()];
        let (q, dynamic) = self.requantize(&Sums { acc, scales, bias, dense: false, ..sums }, ".codes");
        Ok((self.flattened(q), dynamic))
    }

    fn rank_4(&self, v: ValueId) -> Result<[usize; 4], Diag> {
        self.dims(v).try_into().map_err(|_| self.no_form("it is not of rank 4"))
    }

    /// The least over axes.
    pub(super) fn minimum(&mut self) -> Result<(ValueId, Dynamic), Diag> {
        let (x, own) = self.data(0)?;
        let (x, own) = self.negated(x, own);
        let (least, own) = self.maximum((x, own))?;
        Ok(self.negated(least, own))
    }

    /// The greatest element of windows or over axes.
    pub(super) fn maximum(&mut self, (x, own): (ValueId, Dynamic)) -> Result<(ValueId, Dynamic), Diag> {
        let (op, given) = (self.g().op(self.n), self.attrs());
        if op != Opcode::MaxPool && !self.is_spatial(x) {
            let (x, [count, rest]) = self.flattened_axes(x);
            let attrs = Attrs::new(Opcode::IMaxPool).with(attr::KERNEL, [count, 1].as_slice());
            let pooled = self.add(Opcode::IMaxPool, &[x], attrs, ".max", codes(&[1, 1, 1, rest], own.zero));
            return Ok((self.flattened(pooled), own));
        }
        let mut attrs = Attrs::new(Opcode::IMaxPool);
        let (kept, [n, c, h, w]) = match (op, &self.dims(x)[..]) {
            (Opcode::ReduceMax | Opcode::ReduceMin, &[n, c, h, w]) => {
                attrs = attrs.with(attr::KERNEL, [h, w].as_slice());
                (given.get(attr::KEEPDIMS), [n, c, 1, 1])
            }
            _ => {
                attrs = attrs.with_those_of(&given, &[attr::KERNEL, attr::STRIDES, attr::PADS, attr::DILATIONS]);
                match self.dims(self.y)[..] {
                    [n, c, h, w] => (true, [n, c, h, w]),
                    _ => return Err(self.no_form("its result is not of rank 4")),
                }
            }
        };
        let x = self.nhwc(x);
        let pooled = self.add(Opcode::IMaxPool, &[x], attrs, ".nhwc", codes(&[n, h, w, c], own.zero));
        let pooled = self.nchw(pooled);
        Ok((if kept { pooled } else { self.flattened(pooled) }, own))
    }

    /// Whether a reduction is one over height and width.
    fn is_spatial(&self, x: ValueId) -> bool {
        self.dims(x).len() == 4 && self.attrs().sizes(attr::AXES) == [2, 3]
    }

    /// The axes of a reduction as height, all others as channels, and how many elements these are.
    fn flattened_axes(&mut self, x: ValueId) -> (ValueId, [usize; 2]) {
        let (axes, ty) = (self.attrs().sizes(attr::AXES), self.g().ty(x).clone());
        let kept = (0..ty.dims.len()).filter(|i| !axes.contains(i));
        let perm: Vec<usize> = axes.iter().copied().chain(kept).collect();
        let count: usize = axes.iter().map(|&a| ty.dims[a]).product();
        let rest = self.dims(self.y).iter().product();
        let x = self.permuted(x, &perm, ".t");
        let dims = [1, count, 1, rest];
        let attrs = Attrs::new(Opcode::Reshape).with(attr::SHAPE, dims.as_slice());
        (self.add(Opcode::Reshape, &[x], attrs, ".flat", Type { dims: dims.to_vec(), elem: ty.elem }), [count, rest])
    }
}
