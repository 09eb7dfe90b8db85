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

mod elementwise;
mod layer;
mod window;

use std::sync::Arc;

use qcc_ir::ops::{Binary, Cast, Contract, Norm, Pool, Reduce};
use qcc_ir::{Attrs, Class, Data, Diag, Elem, Int, Opcode, Tensor, Uniform, ValueId, attr};
use qcc_num::wide;

use super::Lower;
use crate::op_traits;

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
    /// True if an operand or the result has 16 bits; a bias, which has more, does not count.
    pub(super) fn has_int16(&self) -> bool {
        let int16 = |v: ValueId| self.g().ty(v).uniform().is_some_and(|u| u.storage() == Int::I16);
        int16(self.y) || self.g().operands(self.n).into_iter().any(int16)
    }

    /// The value that takes the place of the result.
    pub(super) fn int16(&mut self) -> Result<ValueId, Diag> {
        let attrs = self.attrs().clone();
        match self.op().info().class {
            Class::Unary(_) if op_traits::clamps(self.op()) => self.int16_clamp(),
            Class::Unary(f) => self.int16_table(self.operand(0), |x| f(&attrs, x)),
            Class::Binary(kind @ (Binary::Add | Binary::Sub)) => self.int16_sum(kind),
            Class::Binary(Binary::Mul) => self.int16_product(),
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
            Class::Contract(Contract::MatMul)
            | Class::Reduce(Reduce::Min)
            | Class::Norm(Norm::Layer)
            | Class::Cast(_)
            | Class::Move(_)
            | Class::Int(_) => Err(self.no_form("its operands or its result have 16 bits")),
        }
    }

    /// The quantization of a value of 8 or 16 bits.
    fn quantization(&self, v: ValueId) -> Result<Arc<Uniform>, Diag> {
        match self.g().ty(v).uniform() {
            Some(u) if matches!(u.storage(), Int::U8 | Int::I16) && u.axis.is_none() => Ok(u.clone()),
            Some(_) | None => {
                Err(self.no_form(format_args!("%{} is no u8 or i16 with one scale", self.g().name_of(v))))
            }
        }
    }

    /// The bytes of a value. Operations that read the same value share them.
    fn pieces(&mut self, v: ValueId) -> Result<Vec<Piece>, Diag> {
        let u = self.quantization(v)?;
        if u.format.fits_byte() {
            return Ok(vec![Piece { value: v, factor: 1, zero: u.zero_point() }]);
        }
        let zero = u.zero_point() - u.storage().min();
        let mut pieces = Vec::new();
        for (high, suffix, factor, zero) in [(true, ".high", 256, zero >> 8), (false, ".low", 1, zero & 255)] {
            let attrs = Attrs::new(Opcode::Byte).with(attr::HIGH, high);
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
        wide::multiplier(factor).map_err(|e| self.scale_error(e))
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
        let attrs = Attrs::new(Opcode::Combine)
            .with(attr::FACTORS, xs.iter().map(|x| x.1).collect::<Vec<_>>())
            .with(attr::LO, clamped(least))
            .with(attr::HI, clamped(greatest))
            .with(attr::BITS, i64::from(to.storage().bits()));
        let bias = self.constant("bias", rule.bias);
        let mult = self.constant("mult", rule.mult);
        let offset = self.constant("offset", rule.offset);
        let operands: Vec<ValueId> = [bias, mult, offset].into_iter().chain(xs.iter().map(|x| x.0)).collect();
        let elem = self.g().ty(self.y).elem.clone();
        Ok(self.emit(Opcode::Combine, &operands, attrs, suffix, dims, elem))
    }

    /// A value in the type of the result, within bounds if there are any.
    fn convert(&mut self, x: ValueId, bounds: Option<(i64, i64)>) -> Result<ValueId, Diag> {
        let (from, to) = (self.quantization(x)?, self.quantization(self.y)?);
        let rule = Rule {
            bias: one(-from.zero_point()),
            mult: one(self.multiplier(self.factor(&[from.scale()], to.scale()))?),
            offset: one(wide::offset(to.zero_point(), 0.0)),
        };
        let dims = self.dims(x);
        self.combine(&[(x, 1)], rule, bounds, "", &dims)
    }

    fn converted(&mut self, x: ValueId) -> Result<ValueId, Diag> {
        if self.g().ty(x).elem == self.g().ty(self.y).elem { Ok(x) } else { self.convert(x, None) }
    }
}
