//! Operators with 16 bits on either side: sums in 64 bits and one rounding, by `qcc_num::wide`.
//!
//! ```text
//! x + 2^15 = 256 high + low,  w = 256 wh + wl     the bytes of activations and weights
//! sum (x - Zx) w  =  sum over both of 256^(i + j) (sum byte[i] digit[j])  -  (Zx + 2^15) sum w
//! ```
//!
//! so that a layer is as many products of bytes as its activations have bytes times its weights, each with exact accumulators of
//! 32 bits, and `int.combine`. Padding of each holds a byte of `Zx + 2^15`. Means are sums of bytes likewise: products with weights
//! of 1.

mod binary;
mod elementwise;
mod layer;
mod window;

use std::sync::Arc;

use qcc_ir::ops::{Binary, Cast, Contract, Move, Norm, Pool, Reduce};
use qcc_ir::{Attrs, Class, Data, Diag, Elem, Int, Opcode, Tensor, Uniform, ValueId, attr, format};
use qcc_num::wide;

use super::Lower;
use crate::op_traits;
use crate::quant::forms::is_square;

/// A byte of an activation.
struct Piece {
    value: ValueId,
    factor: i64,
    /// That of the zero point.
    zero: i64,
}

/// The constants of `int.combine`.
struct Rule {
    bias: Tensor,
    mult: Tensor,
    offset: Tensor,
}

fn one(x: i64) -> Tensor {
    Tensor::new(&[1], Data::I64(vec![x]))
}

impl Lower<'_, '_> {
    /// True if an operand or the result has two or three bytes; a bias, which has more bits, does not count.
    pub(super) fn has_int16(&self) -> bool {
        let int16 =
            |v: ValueId| self.g().ty(v).uniform().is_some_and(|u| !u.format.fits_byte() && u.format.bits() <= 24);
        int16(self.y) || self.g().operands(self.n).into_iter().any(int16)
    }

    /// The value that takes the place of the result.
    pub(super) fn int16(&mut self) -> Result<ValueId, Diag> {
        let attrs = self.attrs().clone();
        match self.op().info().class {
            Class::Unary(_) if op_traits::clamps(self.op()) => self.int16_clamp(),
            Class::Unary(_) if is_square(self.g(), self.n) => self.int16_product_of(self.operand(0), self.operand(0)),
            Class::Unary(f) => self.int16_table(self.operand(0), |x| f(&attrs, x)),
            Class::Binary(kind @ (Binary::Add | Binary::Sub)) => self.int16_sum(kind),
            Class::Binary(Binary::Mul) => self.int16_product(),
            Class::Binary(_) if is_square(self.g(), self.n) => self.int16_product_of(self.operand(0), self.operand(0)),
            Class::Binary(kind) => self.int16_function(kind),
            Class::Contract(Contract::Conv2d | Contract::Linear) => self.int16_layer(),
            Class::Pool(Pool::Max) => self.int16_max_pool(),
            Class::Pool(Pool::Average) => self.int16_average_pool(),
            Class::Reduce(kind @ (Reduce::Mean | Reduce::Sum)) => self.int16_mean(kind),
            Class::Reduce(Reduce::Max) => {
                let reduced = self.maximum(self.operand(0))?;
                self.converted(reduced)
            }
            Class::Norm(Norm::Batch) => self.int16_batch_norm(),
            Class::Norm(Norm::Softmax) => self.int16_softmax(),
            Class::Cast(Cast::Requantize) => self.convert(self.operand(0), None),
            Class::Contract(Contract::MatMul) => self.int16_matmul(),
            Class::Reduce(Reduce::Min) => {
                let negated = self.int16_complement(self.operand(0), ".neg")?;
                let reduced = self.maximum(negated)?;
                let restored = self.int16_complement(reduced, ".min")?;
                self.converted(restored)
            }
            Class::Norm(Norm::Layer) => self.layer_norm(),
            Class::Move(Move::Cast) => self.whole(),
            Class::Cast(_) | Class::Move(_) | Class::Int(_) => {
                Err(self.no_form("its operands or its result have 16 bits"))
            }
        }
    }

    /// The quantization of a value of 8, 16 or 24 bits.
    pub(super) fn quantization(&self, v: ValueId) -> Result<Arc<Uniform>, Diag> {
        match self.g().ty(v).uniform() {
            Some(u) if (u.format.bits() <= 16 || u.format == format::I24) && u.axis.is_none() => Ok(u.clone()),
            Some(_) | None => {
                Err(self.no_form(format_args!("%{} has no 8, 16 or 24 bits with one scale", self.g().name_of(v))))
            }
        }
    }

    /// The bytes of a value. Operations that read the same value share them.
    fn pieces(&mut self, v: ValueId) -> Result<Vec<Piece>, Diag> {
        let u = self.quantization(v)?;
        if u.format.fits_byte() {
            return Ok(vec![Piece { value: v, factor: 1, zero: u.zero_point() }]);
        }
        let zero = u.zero_point() - u.min();
        let fine = u.storage() == Int::I32;
        let byte = |index: u32, suffix: &'static str| {
            let attrs = match fine {
                true => Attrs::new(Opcode::Byte).with(attr::INDEX, i64::from(index)),
                false => Attrs::new(Opcode::Byte).with(attr::HIGH, index > 0),
            };
            (attrs, suffix, 1i64 << (8 * index), (zero >> (8 * index)) & 255)
        };
        let bytes = match fine {
            true => vec![byte(2, ".high"), byte(1, ".middle"), byte(0, ".low")],
            false => vec![byte(1, ".high"), byte(0, ".low")],
        };
        let mut pieces = Vec::new();
        for (attrs, suffix, factor, zero) in bytes {
            let g = self.g();
            let known = g.uses(v).into_iter().find(|&(n, _)| g.op(n) == Opcode::Byte && g.node(n).attrs == attrs);
            let value = match known {
                Some((n, _)) => g.result(n),
                None => {
                    let name = format!("{}{suffix}", g.name_of(v));
                    let ty = g.ty(v).with_elem(Elem::Int(Int::U8));
                    let origin = crate::rewrite::origin_of(g, v);
                    self.change.add(Opcode::Byte, &[v], attrs, &name, ty, origin)
                }
            };
            pieces.push(Piece { value, factor, zero });
        }
        Ok(pieces)
    }

    fn multiplier(&self, factor: f64) -> Result<i64, Diag> {
        wide::multiplier(factor, self.shift()).map_err(|e| self.scale_error(e))
    }

    /// `f` of `qcc_num::wide` for the result.
    fn shift(&self) -> u32 {
        wide::shift_of(self.g().ty(self.y).uniform().map_or(8, |u| u.format.bits()))
    }

    /// `C` of `qcc_num::wide` for a zero point and a constant in units of the result.
    fn offset(&self, zero_point: i64, constant: f64) -> i64 {
        wide::offset(zero_point, constant, self.shift())
    }

    /// The requantized sum of `xs`, each with its factor, in the type of the result.
    fn combine(
        &mut self,
        xs: &[(ValueId, i64)],
        rule: Rule,
        bounds: Option<(i64, i64)>,
        suffix: &str,
        dims: &[usize],
    ) -> Result<ValueId, Diag> {
        let to = self.quantization(self.y)?;
        let (least, greatest) = bounds.unwrap_or((to.min(), to.max()));
        let clamped = |x: i64| x.clamp(to.min(), to.max());
        let elem = self.g().ty(self.y).elem.clone();
        Ok(self.combine_as(xs, rule, (clamped(least), clamped(greatest)), elem, suffix, dims))
    }

    /// The same within bounds in a type of 8 or 16 bits.
    fn combine_as(
        &mut self,
        xs: &[(ValueId, i64)],
        rule: Rule,
        bounds: (i64, i64),
        elem: Elem,
        suffix: &str,
        dims: &[usize],
    ) -> ValueId {
        let bits = elem.storage().map_or(8, Int::bits);
        let attrs = Attrs::new(Opcode::Combine)
            .with(attr::FACTORS, xs.iter().map(|x| x.1).collect::<Vec<_>>())
            .with(attr::LO, bounds.0)
            .with(attr::HI, bounds.1)
            .with(attr::BITS, i64::from(bits));
        let bias = self.constant("bias", rule.bias);
        let mult = self.constant("mult", rule.mult);
        let offset = self.constant("offset", rule.offset);
        let operands: Vec<ValueId> = [bias, mult, offset].into_iter().chain(xs.iter().map(|x| x.0)).collect();
        self.emit(Opcode::Combine, &operands, attrs, suffix, dims, elem)
    }

    /// A value in the type of the result, within bounds if there are any.
    fn convert(&mut self, x: ValueId, bounds: Option<(i64, i64)>) -> Result<ValueId, Diag> {
        let (from, to) = (self.quantization(x)?, self.quantization(self.y)?);
        let rule = Rule {
            bias: one(-from.zero_point()),
            mult: one(self.multiplier(self.factor(&[from.scale()], to.scale()))?),
            offset: one(self.offset(to.zero_point(), 0.0)),
        };
        let dims = self.dims(x);
        self.combine(&[(x, 1)], rule, bounds, "", &dims)
    }

    /// `-1 - q`, or `255 - q` of bytes: the order of codes reversed.
    fn int16_complement(&mut self, x: ValueId, suffix: &str) -> Result<ValueId, Diag> {
        let (from, dims) = (self.quantization(x)?, self.dims(x));
        let (storage, elem) = (from.storage(), self.g().ty(x).elem.clone());
        let rule = Rule {
            bias: one(storage.min() + storage.max()),
            mult: one(self.multiplier(1.0)?),
            offset: one(self.offset(0, 0.0)),
        };
        Ok(self.combine_as(&[(x, -1)], rule, (storage.min(), storage.max()), elem, suffix, &dims))
    }

    fn converted(&mut self, x: ValueId) -> Result<ValueId, Diag> {
        if self.g().ty(x).elem == self.g().ty(self.y).elem { Ok(x) } else { self.convert(x, None) }
    }
}
