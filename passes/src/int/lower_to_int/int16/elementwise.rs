//! Functions of one value; sums and products.

use qcc_ir::ops::Binary;
use qcc_ir::{Attrs, Data, Diag, Elem, Int, Opcode, Tensor, Uniform, ValueId, attr, format};
use qcc_num::convert::{count_i64, nearest_f32, nearest_i64};
use qcc_num::curve;

use super::{Rule, one};
use crate::constants;
use crate::int::lower_to_int::Lower;
use crate::quant::quantize;
use crate::rewrite::floats;

/// Weight of the greater operand of a sum.
const SUM_UNIT: f64 = (1u32 << 23) as f64;

impl Lower<'_, '_> {
    /// A rectifier or clip: it keeps the order of numbers, so that it clamps codes.
    pub(super) fn int16_clamp(&mut self) -> Result<ValueId, Diag> {
        let to = self.quantization(self.y)?;
        let (least, greatest) = match self.op() {
            Opcode::Relu => (0.0, f32::MAX),
            _ => (self.attrs().get(attr::MIN), self.attrs().get(attr::MAX)),
        };
        let bound = |x: f32| i64::from(quantize::code(x, &to));
        self.convert(self.operand(0), Some((bound(least), bound(greatest))))
    }

    /// Any function of one value.
    pub(super) fn int16_table(&mut self, x: ValueId, f: impl Fn(f32) -> f32) -> Result<ValueId, Diag> {
        let (from, to) = (self.quantization(x)?, self.quantization(self.y)?);
        let dims = self.dims(x);
        if from.format == format::I24 {
            return self.curve(x, &from, &to, f);
        }
        let least = i32::try_from(from.storage().min()).unwrap_or(i32::MIN);
        let codes: Vec<f32> = (0..1i32 << from.storage().bits()).map(|q| f(quantize::real(q + least, &from))).collect();
        let table = quantize::tensor(&[codes.len()], &codes, &to);
        let table = self.constant("table", table);
        Ok(self.emit_result(Opcode::Lut, &[x, table], Attrs::new(Opcode::Lut), "", &dims))
    }

    /// A function of 24 bits, by samples in every octave. What is not finite is what it is at the next distance where it is.
    fn curve(&mut self, x: ValueId, from: &Uniform, to: &Uniform, f: impl Fn(f32) -> f32) -> Result<ValueId, Diag> {
        if !matches!(to.storage(), Int::U8 | Int::I16) {
            return Err(self.no_form("its operand and its result have 24 bits"));
        }
        let units = |d: i64| {
            let real = f(nearest_f32(d as f64 * f64::from(from.scale())));
            f64::from(real) / f64::from(to.scale()) + to.zero_point() as f64
        };
        let finite = |d: i64| {
            let next = (0..count_i64(curve::DIRECT)).map(|i| units(if d < 0 { i - d.abs() } else { d + i }));
            let found = next.take(1 + curve::DIRECT).find(|y| y.is_finite());
            Some(units(d)).filter(|y| !y.is_nan()).or(found).unwrap_or(0.0)
        };
        let samples = curve::samples(finite);
        let table = self.constant("curve", Tensor::new(&[samples.len()], Data::I32(samples)));
        let attrs = Attrs::new(Opcode::Curve)
            .with(attr::CENTER, from.zero_point())
            .with(attr::BITS, i64::from(to.storage().bits()));
        let dims = self.dims(x);
        Ok(self.emit_result(Opcode::Curve, &[x, table], attrs, "", &dims))
    }

    /// The operand that is a constant of real numbers, its elements, and the other one.
    fn constant_operand(&self) -> Result<Option<(usize, Tensor, ValueId)>, Diag> {
        let operands = [self.operand(0), self.operand(1)];
        let Some(at) = operands.iter().position(|&v| floats(self.g(), v).is_some()) else { return Ok(None) };
        let Some((tensor, data)) = floats(self.g(), operands[at]) else { return Ok(None) };
        if data.iter().any(|x| !x.is_finite()) {
            return Err(self.no_form("a constant is not finite"));
        }
        Ok(Some((at, tensor.clone(), operands[1 - at])))
    }

    pub(super) fn int16_sum(&mut self, kind: Binary) -> Result<ValueId, Diag> {
        let to = self.quantization(self.y)?;
        let sign = |i: usize| if kind == Binary::Sub && i == 1 { -1.0 } else { 1.0 };
        let dims = self.dims(self.y);
        if let Some((at, c, x)) = self.constant_operand()? {
            let from = self.quantization(x)?;
            let term = |c: &f32| self.offset(to.zero_point(), sign(at) * f64::from(*c) / f64::from(to.scale()));
            let offsets = c.as_f32().unwrap_or_default().iter().map(term).collect();
            let rule = Rule {
                bias: one(-from.zero_point()),
                mult: one(self.multiplier(sign(1 - at) * self.factor(&[from.scale()], to.scale()))?),
                offset: Tensor::new(&c.dims, Data::I64(offsets)),
            };
            // A constant may have more elements than what it is added to.
            if self.dims(x) == dims {
                return self.combine(&[(x, 1)], rule, None, "", &dims);
            }
        }
        let (a, b) = (self.int16_operand(0)?, self.int16_operand(1)?);
        let (ta, tb) = (self.quantization(a)?, self.quantization(b)?);
        let greater = f64::from(ta.scale()).max(f64::from(tb.scale()));
        let factor = |u: &Uniform| nearest_i64(f64::from(u.scale()) / greater * SUM_UNIT);
        let (ka, kb) = (factor(&ta), factor(&tb) * if kind == Binary::Sub { -1 } else { 1 });
        let rule = Rule {
            bias: one(-(ka * ta.zero_point() + kb * tb.zero_point())),
            mult: one(self.multiplier(greater / f64::from(to.scale()) / SUM_UNIT)?),
            offset: one(self.offset(to.zero_point(), 0.0)),
        };
        self.combine(&[(a, ka), (b, kb)], rule, None, "", &dims)
    }

    /// The operand; a float constant becomes one of 16 bits.
    pub(super) fn int16_operand(&mut self, i: usize) -> Result<ValueId, Diag> {
        let v = self.operand(i);
        let Some((tensor, data)) = floats(self.g(), v) else { return Ok(v) };
        let (min, max) = data.iter().fold((0.0f32, 0.0f32), |(lo, hi), &x| (lo.min(x), hi.max(x)));
        let uniform = Uniform::covering(&format::I16, qcc_ir::Range { min, max });
        let codes = quantize::tensor(&tensor.dims, data, &uniform);
        let name = format!("{}.q", self.g().name_of(v));
        Ok(self.change.add_typed_const(&name, codes, Elem::Uniform(uniform.into())))
    }

    pub(super) fn int16_product(&mut self) -> Result<ValueId, Diag> {
        let to = self.quantization(self.y)?;
        let dims = self.dims(self.y);
        if let Some((_, c, x)) = self.constant_operand()?
            && self.dims(x) == dims
        {
            let from = self.quantization(x)?;
            let unit = f64::from(from.scale()) / f64::from(to.scale());
            let factors = c.as_f32().unwrap_or_default().iter().map(|&c| self.multiplier(f64::from(c) * unit));
            let rule = Rule {
                bias: one(-from.zero_point()),
                mult: Tensor::new(&c.dims, Data::I64(factors.collect::<Result<_, _>>()?)),
                offset: one(self.offset(to.zero_point(), 0.0)),
            };
            return self.combine(&[(x, 1)], rule, None, "", &dims);
        }
        let (a, b) = (self.int16_operand(0)?, self.int16_operand(1)?);
        self.int16_product_of(a, b)
    }

    /// `a[c] x + b[c]` with one rounding.
    pub(super) fn int16_batch_norm(&mut self) -> Result<ValueId, Diag> {
        let (a, b) =
            constants::batch_norm(self.g(), self.n).ok_or_else(|| self.no_form("its parameters are not constant"))?;
        let x = self.operand(0);
        let (from, to) = (self.quantization(x)?, self.quantization(self.y)?);
        let (sx, sy) = (f64::from(from.scale()), f64::from(to.scale()));
        let mult = a.iter().map(|a| self.multiplier(a * sx / sy)).collect::<Result<Vec<_>, _>>()?;
        let offset = b.iter().map(|b| self.offset(to.zero_point(), b / sy)).collect::<Vec<_>>();
        let dims = self.dims(x);
        let channels: Vec<usize> = (0..dims.len()).map(|i| if i == 1 { dims[i] } else { 1 }).collect();
        let rule = Rule {
            bias: one(-from.zero_point()),
            mult: Tensor::new(&channels, Data::I64(mult)),
            offset: Tensor::new(&channels, Data::I64(offset)),
        };
        self.combine(&[(x, 1)], rule, None, "", &dims)
    }
}
