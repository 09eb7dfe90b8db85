//! Functions of two values that are no sums or products: quotients, extremes and slopes.

use qcc_ir::ops::Binary;
use qcc_ir::{Attrs, Data, Diag, Elem, Opcode, Tensor, ValueId, attr};
use qcc_num::wide;

use super::{Rule, one};
use crate::int::lower_to_int::{Lower, elementwise};
use crate::rewrite::scalar;

/// Which of two values an element is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extreme {
    Greater,
    Lesser,
}

impl Lower<'_, '_> {
    /// Quotients, extremes, powers and slopes.
    pub(super) fn int16_function(&mut self, kind: Binary) -> Result<ValueId, Diag> {
        let operands = [self.operand(0), self.operand(1)];
        let f = elementwise::function(kind);
        match operands.map(|v| scalar(self.g(), v)) {
            [None, Some(c)] if self.dims(operands[0]) == self.dims(self.y) => {
                return self.int16_table(operands[0], |x| f(x, c));
            }
            [Some(c), None] if self.dims(operands[1]) == self.dims(self.y) => {
                return self.int16_table(operands[1], |x| f(c, x));
            }
            _ => {}
        }
        match kind {
            Binary::Div => self.int16_quotient(),
            Binary::Max => self.int16_extreme(Extreme::Greater),
            Binary::Min => self.int16_extreme(Extreme::Lesser),
            Binary::PRelu => self.int16_slopes(),
            Binary::Add | Binary::Sub | Binary::Mul | Binary::Pow => {
                Err(self.no_form("it is a function of two values, of which one has 16 bits"))
            }
        }
    }

    fn int16_quotient(&mut self) -> Result<ValueId, Diag> {
        let (a, b, to) = (self.int16_operand(0)?, self.int16_operand(1)?, self.quantization(self.y)?);
        let (ta, tb) = (self.quantization(a)?, self.quantization(b)?);
        let factor = f64::from(ta.scale()) / f64::from(tb.scale()) / f64::from(to.scale());
        let (mult, shift) = wide::quotient_multiplier(factor).map_err(|e| self.scale_error(e))?;
        let attrs = Attrs::new(Opcode::WideDiv)
            .with(attr::ZEROS, vec![ta.zero_point(), tb.zero_point()])
            .with(attr::MULT, mult)
            .with(attr::SHIFT, i64::from(shift))
            .with(attr::OFFSET, to.zero_point())
            .with(attr::LO, to.min())
            .with(attr::HI, to.max())
            .with(attr::BITS, i64::from(to.storage().bits()));
        let (dims, elem) = (self.dims(self.y), self.g().ty(self.y).elem.clone());
        Ok(self.emit(Opcode::WideDiv, &[a, b], attrs, "", &dims, elem))
    }

    /// `max(a, b) = b + max(a - b, 0)` and `min(a, b) = b - max(b - a, 0)`, of codes in the type of the result: what lies outside of
    /// it is clamped first, which changes no extreme within it.
    fn int16_extreme(&mut self, extreme: Extreme) -> Result<ValueId, Diag> {
        let (a, b, to) = (self.int16_operand(0)?, self.int16_operand(1)?, self.quantization(self.y)?);
        let dims = self.dims(self.y);
        let name = self.name.clone();
        self.name = format!("{name}.a");
        let a = self.converted(a)?;
        self.name = format!("{name}.b");
        let b = self.converted(b)?;
        self.name = format!("{name}.over");
        let sign = if extreme == Extreme::Greater { 1 } else { -1 };
        // The distance as a code of the same storage: it counts from the least.
        let distance = Rule { bias: one(0), mult: one(self.multiplier(1.0)?), offset: one(self.offset(to.min(), 0.0)) };
        let over = self.combine(&[(a, sign), (b, -sign)], distance, None, "", &dims)?;
        self.name = name;
        let sum =
            Rule { bias: one(-sign * to.min()), mult: one(self.multiplier(1.0)?), offset: one(self.offset(0, 0.0)) };
        self.combine(&[(b, 1), (over, sign)], sum, None, "", &dims)
    }

    /// `max(x, 0) + slope * min(x, 0)`: one of the summands is zero, so that there is one rounding.
    fn int16_slopes(&mut self) -> Result<ValueId, Diag> {
        let (x, slope) = (self.operand(0), self.operand(1));
        let (from, to) = (self.quantization(x)?, self.quantization(self.y)?);
        let dims = self.dims(self.y);
        if self.dims(x) != dims {
            return Err(self.no_form("its slopes have more elements than what they belong to"));
        }
        let (name, elem) = (self.name.clone(), self.g().ty(x).elem.clone());
        self.name = format!("{name}.pos");
        let positive = self.convert(x, Some((to.zero_point(), to.max())))?;
        self.name = format!("{name}.neg");
        let below = Rule {
            bias: one(-from.zero_point()),
            mult: one(self.multiplier(1.0)?),
            offset: one(self.offset(from.zero_point(), 0.0)),
        };
        let negative = self.combine_as(&[(x, 1)], below, (from.min(), from.zero_point()), elem, "", &dims);
        let scaled = match crate::rewrite::floats(self.g(), slope) {
            Some((tensor, data)) => {
                if data.iter().any(|c| !c.is_finite()) {
                    return Err(self.no_form("a slope is not finite"));
                }
                let unit = f64::from(from.scale()) / f64::from(to.scale());
                let (shape, data) = (tensor.dims.clone(), data.to_vec());
                let mult = data.iter().map(|&c| self.multiplier(f64::from(c) * unit)).collect::<Result<_, _>>()?;
                let rule = Rule {
                    bias: one(-from.zero_point()),
                    mult: Tensor::new(&shape, Data::I64(mult)),
                    offset: one(self.offset(to.zero_point(), 0.0)),
                };
                self.combine(&[(negative, 1)], rule, None, "", &dims)?
            }
            None => self.int16_product_of(negative, slope)?,
        };
        self.name = name;
        let sum =
            Rule { bias: one(-to.zero_point()), mult: one(self.multiplier(1.0)?), offset: one(self.offset(0, 0.0)) };
        self.combine(&[(positive, 1), (scaled, 1)], sum, None, "", &dims)
    }

    /// The product of two values in the type of the result.
    pub(super) fn int16_product_of(&mut self, a: ValueId, b: ValueId) -> Result<ValueId, Diag> {
        let (ta, tb, to) = (self.quantization(a)?, self.quantization(b)?, self.quantization(self.y)?);
        let attrs = Attrs::new(Opcode::WideMul)
            .with(attr::ZEROS, vec![ta.zero_point(), tb.zero_point()])
            .with(attr::MULT, self.multiplier(self.factor(&[ta.scale(), tb.scale()], to.scale()))?)
            .with(attr::OFFSET, self.offset(to.zero_point(), 0.0))
            .with(attr::LO, to.min())
            .with(attr::HI, to.max())
            .with(attr::BITS, i64::from(to.storage().bits()));
        let (dims, elem): (_, Elem) = (self.dims(self.y), self.g().ty(self.y).elem.clone());
        Ok(self.emit(Opcode::WideMul, &[a, b], attrs, "", &dims, elem))
    }
}
