//! Convolutions and linear layers: a product for each byte of the activations and each digit of the weights.

use qcc_ir::{Attrs, Data, Diag, Elem, Int, Opcode, Tensor, ValueId, attr};
use qcc_num::wide;

use super::{Piece, Rule, one};
use crate::constants::codes;
use crate::int::lower_to_int::Lower;
use crate::rewrite::ohwi;

/// The bytes of weights, each with its factor: `w = 256 wh + wl`, `wl` in [-128, 127].
fn digits(weights: &[i64]) -> Vec<(Vec<i8>, i64)> {
    let mut rest = weights.to_vec();
    let mut digits = Vec::new();
    let mut factor = 1;
    while digits.is_empty() || rest.iter().any(|&w| w != 0) {
        let low: Vec<i8> = rest.iter().map(|w| i8::from_le_bytes([w.to_le_bytes()[0]])).collect();
        rest.iter_mut().zip(&low).for_each(|(w, &l)| *w = (*w - i64::from(l)) / 256);
        digits.push((low, factor));
        factor *= 256;
    }
    // What is 0 everywhere adds nothing.
    let some = weights.iter().any(|&w| w != 0);
    digits.retain(|(d, _)| !some || d.iter().any(|&w| w != 0));
    digits
}

impl Lower<'_, '_> {
    /// The sums of products of a value's bytes with bytes of weights.
    pub(super) fn products(
        &mut self,
        op: Opcode,
        pieces: &[Piece],
        weights: (&[usize], &[(Vec<i8>, i64)]),
        attrs: &Attrs,
        dims: &[usize],
    ) -> Vec<(ValueId, i64)> {
        let (shape, digits) = weights;
        let outputs = shape.first().copied().unwrap_or(0);
        let none = self.constant("none", Tensor::new(&[outputs], Data::I32(vec![0; outputs])));
        let mut terms = Vec::new();
        for (digit, of_digit) in digits {
            let w = self.constant("weights", Tensor::new(shape, Data::I8(digit.clone())));
            for piece in pieces {
                let attrs = match op {
                    Opcode::IConv2d => attrs.clone().with(attr::PAD_VALUE, piece.zero),
                    _ => attrs.clone(),
                };
                let acc = self.emit(op, &[piece.value, w, none], attrs, ".acc", dims, Elem::Int(Int::I32));
                terms.push((acc, piece.factor * of_digit));
            }
        }
        terms
    }

    /// The product of two computed matrices: one for each pair of their bytes.
    pub(super) fn int16_matmul(&mut self) -> Result<ValueId, Diag> {
        let (a, b, to) = (self.int16_operand(0)?, self.int16_operand(1)?, self.quantization(self.y)?);
        let scales = [self.attrs().get(attr::ALPHA), self.quantization(a)?.scale(), self.quantization(b)?.scale()];
        let (left, right, dims) = (self.pieces(a)?, self.pieces(b)?, self.dims(self.y));
        let mut terms = Vec::new();
        for (x, y) in left.iter().flat_map(|x| right.iter().map(move |y| (x, y))) {
            let attrs = Attrs::new(Opcode::IMatMul).with(attr::ZEROS, vec![x.zero, y.zero]);
            let acc = self.emit(Opcode::IMatMul, &[x.value, y.value], attrs, ".acc", &dims, Elem::Int(Int::I32));
            terms.push((acc, x.factor * y.factor));
        }
        let rule = Rule {
            bias: one(0),
            mult: one(self.multiplier(self.factor(&scales, to.scale()))?),
            offset: one(self.offset(to.zero_point(), 0.0)),
        };
        self.combine(&terms, rule, None, "", &dims)
    }

    pub(super) fn int16_layer(&mut self) -> Result<ValueId, Diag> {
        let (input, output) = (self.quantization(self.operand(0))?, self.quantization(self.y)?);
        let layer = self.quantized_layer()?;
        let unquantized = || self.no_form("its weights are not quantized by channel");
        let w = codes(&layer.weights.tensor).ok_or_else(unquantized)?;
        let own = match &layer.bias {
            Some(b) => Some(codes(&b.tensor).ok_or_else(unquantized)?),
            None => None,
        };
        let (channels, row, shape) = (layer.outputs(), layer.depth(), &layer.weights.tensor.dims);
        let pieces = self.pieces(self.operand(0))?;
        let zero: i64 = pieces.iter().map(|p| p.factor * p.zero).sum();
        let mut bias = Vec::with_capacity(channels);
        let mut mult = Vec::with_capacity(channels);
        for c in 0..channels {
            let sum: i64 = w[c * row..(c + 1) * row].iter().sum();
            bias.push(own.as_ref().map_or(0, |b| b[c]) - zero * sum);
            let scales = [input.scale(), layer.weights.scale(c)];
            mult.push(self.multiplier(self.factor(&scales, output.scale()))?);
        }
        if let Some(b) = bias.iter().find(|b| b.unsigned_abs() > wide::GREATEST_BIAS.unsigned_abs()) {
            return Err(self.no_form(format_args!("a bias of {b} units of its accumulators")));
        }
        let rule = Rule {
            bias: Tensor::new(&[channels], Data::I64(bias)),
            mult: Tensor::new(&[channels], Data::I64(mult)),
            offset: one(self.offset(output.zero_point(), 0.0)),
        };
        let digits = digits(&w);
        if self.op() == Opcode::Linear {
            let dims = self.dims(self.y);
            let attrs = Attrs::new(Opcode::ILinear);
            let terms = self.products(Opcode::ILinear, &pieces, (shape, &digits), &attrs, &dims);
            return self.combine(&terms, rule, None, "", &dims);
        }
        let ([o, c, kh, kw], [n, _, h, width]) = (
            <[usize; 4]>::try_from(shape.as_slice()).map_err(|_| self.no_form("its weights are not of rank 4"))?,
            <[usize; 4]>::try_from(self.dims(self.y)).map_err(|_| self.no_form("its result is not of rank 4"))?,
        );
        let digits: Vec<_> = digits.into_iter().map(|(d, f)| (ohwi(&d, [o, c, kh, kw]), f)).collect();
        let attrs = Attrs::new(Opcode::IConv2d);
        let attrs = attrs
            .with_those_of(self.attrs(), &[attr::STRIDES, attr::PADS, attr::DILATIONS])
            .with_those_of(self.attrs(), &[attr::GROUPS]);
        let pieces: Vec<Piece> = pieces.into_iter().map(|p| Piece { value: self.nhwc(p.value), ..p }).collect();
        let dims = [n, h, width, o];
        let terms = self.products(Opcode::IConv2d, &pieces, (&[o, kh, kw, c], &digits), &attrs, &dims);
        let q = self.combine(&terms, rule, None, ".nhwc", &dims)?;
        Ok(self.nchw(q))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every number of 16 bits is the sum of its digits.
    #[test]
    fn digits_add_up() {
        let all: Vec<i64> = (-32768..=32767).collect();
        let digits = digits(&all);
        assert_eq!(digits.iter().map(|d| d.1).collect::<Vec<_>>(), [1, 256, 65536]);
        for (i, w) in all.iter().enumerate() {
            assert_eq!(digits.iter().map(|(d, f)| i64::from(d[i]) * f).sum::<i64>(), *w);
        }
        let limited: Vec<i64> = all.into_iter().filter(|w| w.abs() <= 127 * 256).collect();
        assert_eq!(super::digits(&limited).len(), 2);
        assert_eq!(super::digits(&[0, 0]), [(vec![0, 0], 1)]);
        assert_eq!(super::digits(&[5 * 256, -256]), [(vec![5, -1], 256)]);
    }
}
