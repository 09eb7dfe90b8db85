//! Windows and reductions: means are products with weights of 1, maxima those of codes.

use qcc_ir::ops::Reduce;
use qcc_ir::{Attrs, Data, Diag, Elem, Format, Opcode, Tensor, Uniform, ValueId, Window, attr};
use qcc_num::convert::{count_i64, nearest_i32, nearest_i64};

use super::{Piece, Rule, one};
use crate::int::lower_to_int::Lower;
use crate::int::lower_to_int::window::{SOFTMAX_ONE, elements_inside};
use crate::rewrite::inverse;

/// Means as a product with weights of 1.
struct Mean<'m> {
    /// Shape of the weights.
    weights: [usize; 4],
    /// How many elements each sum has, by position.
    counts: &'m [f64],
    /// Shape of the counts.
    shape: &'m [usize],
    /// What is added to the name of the result.
    suffix: &'m str,
    dims: [usize; 4],
}

impl Lower<'_, '_> {
    pub(super) fn int16_max_pool(&mut self) -> Result<ValueId, Diag> {
        let x = self.operand(0);
        if self.quantization(x)?.format.fits_byte() {
            let [n, c, h, w] = self.rank_4(self.y)?;
            let pooled = self.pooled_maximum(x, self.attrs().get(attr::PADS), [n, h, w, c]);
            let pooled = self.nchw(pooled);
            return self.converted(pooled);
        }
        let pads = self.attrs().get(attr::PADS);
        let [n, c, h, w] = self.rank_4(self.y)?;
        let mut source = x;
        if pads != [0; 4] {
            // The least code never wins a maximum.
            let padded = vec![0, 0, pads[0], pads[1], 0, 0, pads[2], pads[3]];
            let own = self.dims(x);
            let dims: Vec<usize> =
                (0..4).map(|i| own[i] + usize::try_from(padded[i] + padded[4 + i]).unwrap_or(0)).collect();
            let attrs = Attrs::new(Opcode::Pad).with(attr::PADS, padded).with(attr::VALUE, f32::from(i16::MIN));
            let elem = self.g().ty(x).elem.clone();
            source = self.emit(Opcode::Pad, &[x], attrs, ".pad", &dims, elem);
        }
        let pooled = self.pooled_maximum(source, vec![0; 4], [n, h, w, c]);
        let pooled = self.nchw(pooled);
        self.converted(pooled)
    }

    fn rank_4(&self, v: ValueId) -> Result<[usize; 4], Diag> {
        self.dims(v).try_into().map_err(|_| self.no_form(format_args!("%{} is not of rank 4", self.g().name_of(v))))
    }

    fn pooled_maximum(&mut self, x: ValueId, pads: Vec<i64>, dims: [usize; 4]) -> ValueId {
        let attrs = Attrs::new(Opcode::IMaxPool).with(attr::PADS, pads);
        let attrs = attrs.with_those_of(self.attrs(), &[attr::KERNEL, attr::STRIDES, attr::DILATIONS]);
        let elem = self.g().ty(x).elem.clone();
        let x = self.nhwc(x);
        self.emit(Opcode::IMaxPool, &[x], attrs, ".nhwc", &dims, elem)
    }

    /// The sums of elements, requantized to their means.
    fn mean_of(&mut self, pieces: &[Piece], attrs: &Attrs, m: &Mean<'_>) -> Result<ValueId, Diag> {
        let (from, to) = (self.quantization(self.operand(0))?, self.quantization(self.y)?);
        let taps = m.weights[1] * m.weights[2];
        let zero: i64 = pieces.iter().map(|p| p.factor * p.zero).sum();
        let unit = self.factor(&[from.scale()], to.scale());
        let mult = m.counts.iter().map(|n| self.multiplier(unit / n)).collect::<Result<Vec<_>, _>>()?;
        let ones = [(vec![1i8; m.weights.iter().product()], 1)];
        let terms = self.products(Opcode::IConv2d, pieces, (&m.weights, &ones), attrs, &m.dims);
        let rule = Rule {
            bias: one(-zero * count_i64(taps)),
            mult: Tensor::new(m.shape, Data::I64(mult)),
            offset: one(self.offset(to.zero_point(), 0.0)),
        };
        self.combine(&terms, rule, None, m.suffix, &m.dims)
    }

    pub(super) fn int16_average_pool(&mut self) -> Result<ValueId, Diag> {
        let x = self.operand(0);
        let ([n, c, oh, ow], [_, _, h, w]) = (self.rank_4(self.y)?, self.rank_4(x)?);
        let window = Window::pool(self.attrs());
        let counts: Vec<f64> = if self.attrs().get(attr::COUNT_INCLUDE_PAD) {
            vec![(window.kernel[0] * window.kernel[1]) as f64; oh * ow]
        } else {
            let (rows, columns) = (elements_inside(&window, 0, oh, h), elements_inside(&window, 1, ow, w));
            rows.iter().flat_map(|r| columns.iter().map(move |c| (r * c) as f64)).collect()
        };
        let alike = counts.iter().all(|&k| k == counts[0]);
        let (counts, shape) = if alike { (&counts[..1], vec![1]) } else { (&counts[..], vec![oh, ow, 1]) };
        let attrs = Attrs::new(Opcode::IConv2d).with(attr::GROUPS, count_i64(c));
        let attrs = attrs.with_those_of(self.attrs(), &[attr::STRIDES, attr::PADS, attr::DILATIONS]);
        let pieces = self.pieces(x)?;
        let pieces: Vec<Piece> = pieces.into_iter().map(|p| Piece { value: self.nhwc(p.value), ..p }).collect();
        let weights = [c, window.kernel[0], window.kernel[1], 1];
        let mean = Mean { weights, counts, shape: &shape, suffix: ".nhwc", dims: [n, oh, ow, c] };
        let q = self.mean_of(&pieces, &attrs, &mean)?;
        Ok(self.nchw(q))
    }

    /// The mean or sum over axes: a window over all elements of `[1, reduced, 1, kept]`.
    pub(super) fn int16_mean(&mut self, kind: Reduce) -> Result<ValueId, Diag> {
        let x = self.operand(0);
        let (axes, result, dims) = (self.attrs().sizes(attr::AXES), self.dims(self.y), self.dims(x));
        let kept = (0..dims.len()).filter(|i| !axes.contains(i));
        let perm: Vec<usize> = axes.iter().copied().chain(kept).collect();
        let count: usize = axes.iter().map(|&a| dims[a]).product();
        let rest: usize = result.iter().product();
        let divisor = if kind == Reduce::Mean { count.max(1) as f64 } else { 1.0 };
        let shape = [1, count, 1, rest];
        let reshape = |dims: &[usize]| Attrs::new(Opcode::Reshape).with(attr::SHAPE, dims);
        let mut pieces = Vec::new();
        for piece in self.pieces(x)? {
            let value = self.transpose(piece.value, &perm, ".t");
            let elem = self.g().ty(value).elem.clone();
            let value = self.emit(Opcode::Reshape, &[value], reshape(&shape), ".flat", &shape, elem);
            pieces.push(Piece { value, ..piece });
        }
        let attrs = Attrs::new(Opcode::IConv2d).with(attr::GROUPS, count_i64(rest));
        let weights = [rest, count, 1, 1];
        let mean = Mean { weights, counts: &[divisor], shape: &[1], suffix: ".mean", dims: [1, 1, 1, rest] };
        let q = self.mean_of(&pieces, &attrs, &mean)?;
        let elem = self.g().ty(q).elem.clone();
        Ok(self.emit(Opcode::Reshape, &[q], reshape(&result), "", &result, elem))
    }

    pub(super) fn int16_softmax(&mut self) -> Result<ValueId, Diag> {
        let x = self.operand(0);
        let (from, to) = (self.quantization(x)?, self.quantization(self.y)?);
        let axis = usize::try_from(self.attrs().get(attr::AXIS)).unwrap_or(0);
        let term = |d: u32| nearest_i32(SOFTMAX_ONE * (-f64::from(d) * f64::from(from.scale())).exp());
        let table: Vec<i32> = (0..1u32 << from.storage().bits()).map(term).collect();
        let table = self.constant("table", Tensor::new(&[table.len()], Data::I32(table)));
        let perm: Vec<usize> = (0..self.dims(x).len()).filter(|&i| i != axis).chain([axis]).collect();
        let x = self.transpose(x, &perm, ".t");
        let dims = self.dims(x);
        // The rule's factor has 8 fraction bits and 31 in all.
        let scales = 1.0 / f64::from(1 << 22)..=1.0;
        let fits = to.zero_point() == to.storage().min() && scales.contains(&f64::from(to.scale()));
        // All of the storage from 0 to 1.
        let whole = Format::all(to.storage());
        let unit = Uniform::per_tensor(&whole, 1.0 / whole.extent() as f32, whole.min());
        let own = if fits { (*to).clone() } else { unit };
        let suffix = if perm.is_sorted() { "" } else { ".t" };
        let attrs = Attrs::new(Opcode::ISoftmax)
            .with(attr::MULT, nearest_i64(256.0 / f64::from(own.scale())))
            .with(attr::BITS, i64::from(own.storage().bits()));
        let elem = Elem::Uniform(own.into());
        let y = self.emit(Opcode::ISoftmax, &[x, table], attrs, suffix, &dims, elem);
        let y = self.transpose(y, &inverse(&perm), "");
        self.converted(y)
    }
}
