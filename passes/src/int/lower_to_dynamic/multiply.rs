//! Products of values with scales of their own, and what follows from a constant factor.

use qcc_ir::{Attrs, Data, Diag, Int, Opcode, Tensor, Type, ValueId, attr};
use qcc_num::convert::nearest_i32;
use qcc_num::dynamic::{Scale, mantissas};
use qcc_num::norm::MEAN_BITS;

use super::layer::Sums;
use super::{Dynamic, Lower};
use crate::rewrite::floats;

/// Magnitude of a normalization's multipliers and offsets, as a power of 2: accumulators stay below twice of it in 32 bits.
const NORM_BITS: i32 = 28;

impl Lower<'_, '_> {
    /// The product of two values, broadcast, or a square.
    pub(super) fn product_of_values(&mut self) -> Result<(ValueId, Dynamic), Diag> {
        let second = usize::from(self.g().op(self.n) != Opcode::Pow);
        let both = (self.data(0)?, self.data(second)?);
        self.product(both)
    }

    /// The product of values that are broadcast.
    pub(super) fn product(
        &mut self,
        ((a, own_a), (b, own_b)): ((ValueId, Dynamic), (ValueId, Dynamic)),
    ) -> Result<(ValueId, Dynamic), Diag> {
        let dims = self.dims(self.y);
        if dims.is_empty() {
            return Err(self.no_form("it has no dimensions"));
        }
        let spatial = dims.len() == 4 && self.dims(a).len() == 4 && self.dims(b).len() == 4;
        let (a, b) = if spatial { (self.nhwc(a), self.nhwc(b)) } else { (a, b) };
        let dims = if spatial { vec![dims[0], dims[2], dims[3], dims[1]] } else { dims };
        let scale = self.units(own_a.scale, own_b.scale);
        let attrs =
            Attrs::new(Opcode::DynamicMul).with(attr::ZEROS, vec![i64::from(own_a.zero), i64::from(own_b.zero)]);
        let acc = self.add(Opcode::DynamicMul, &[a, b], attrs, ".acc", Type::int(Int::I32, &dims));
        let (q, dynamic) = self.requantize(&self.even(acc, scale, 1.0), if spatial { ".nhwc" } else { "" });
        Ok((if spatial { self.nchw(q) } else { q }, dynamic))
    }

    /// The product of two matrices.
    pub(super) fn matmul(&mut self) -> Result<(ValueId, Dynamic), Diag> {
        let alpha = f64::from(self.attrs().get(attr::ALPHA));
        if alpha <= 0.0 || !alpha.is_finite() {
            return Err(self.no_form("its `alpha` is not positive"));
        }
        let ((a, own_a), (b, own_b)) = (self.data(0)?, self.data(1)?);
        let scale = self.units(own_a.scale, own_b.scale);
        let attrs = Attrs::new(Opcode::IMatMul).with(attr::ZEROS, vec![i64::from(own_a.zero), i64::from(own_b.zero)]);
        let ty = Type::int(Int::I32, &self.dims(self.y));
        let acc = self.add(Opcode::IMatMul, &[a, b], attrs, ".acc", ty);
        Ok(self.requantize(&self.even(acc, scale, alpha), ""))
    }

    /// A value times a positive constant: the codes stay, the scale changes.
    pub(super) fn scaled(&mut self) -> Result<(ValueId, Dynamic), Diag> {
        let factor = self.factor().unwrap_or(1.0);
        let constant = usize::from(self.known.contains_key(&self.operands()[0]));
        let (x, own) = self.data(1 - constant)?;
        let factor = self.known_scale("factor", factor);
        let scale = self.units(own.scale, factor);
        Ok((self.flattened(x), Dynamic { scale, ..own }))
    }

    /// Rows with mean 0 and deviation 1, times and plus constants. Their scale does not depend on that of the operand, which
    /// only tells how much `epsilon` is.
    pub(super) fn layer_norm(&mut self) -> Result<(ValueId, Dynamic), Diag> {
        let (x, own) = self.data(0)?;
        let (attrs, dims) = (self.attrs(), self.dims(self.y));
        let axis = attrs.get(attr::AXIS);
        let row: usize = dims[usize::try_from(axis).unwrap_or(0).min(dims.len())..].iter().product();
        let parameter = |i: usize| {
            let values = floats(self.g(), self.operands()[i]).filter(|(_, data)| data.iter().all(|x| x.is_finite()));
            let real = |(t, data): (&Tensor, &[f32])| (t.dims.clone(), data.iter().map(|&x| f64::from(x)).collect());
            values.map(real).ok_or_else(|| self.no_form("its parameters are not constant and finite"))
        };
        let (scale, bias): ((_, Vec<f64>), (_, Vec<f64>)) = (parameter(1)?, parameter(2)?);
        let greatest = |values: &[f64]| values.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        let root = (row as f64).sqrt();
        let reach = (greatest(&scale.1) * root).max(greatest(&bias.1));
        let unit = if reach > 0.0 { reach * f64::from(-NORM_BITS).exp2() } else { 1.0 };
        // Of the product with 30 fraction bits the high half has lost 32.
        let mult = scale.1.iter().map(|&g| nearest_i32(g * root * 4.0 / unit)).collect();
        let offset = bias.1.iter().map(|&b| nearest_i32(b / unit)).collect();
        let mult = self.constant("mult", Tensor::new(&scale.0, Data::I32(mult)));
        let offset = self.constant("offset", Tensor::new(&bias.0, Data::I32(offset)));
        let all = f64::from(attrs.get(attr::EPSILON)) * f64::from(1 << (2 * MEAN_BITS)) * row as f64;
        let (epsilon, exponent) = mantissas(&[all.max(0.0)]);
        let attrs = Attrs::new(Opcode::DynamicNorm)
            .with(attr::AXIS, axis)
            .with(attr::INT_EPSILON, i64::from(epsilon[0]))
            .with(attr::EXPONENT, i64::from(exponent))
            .with(attr::CENTER, if attrs.get(attr::CENTERED) { -1 } else { i64::from(own.zero) });
        let ty = Type::int(Int::I32, &dims);
        let acc = self.add(Opcode::DynamicNorm, &[x, own.scale, mult, offset], attrs, ".acc", ty);
        let scale = self.known_scale("unit", unit);
        Ok(self.requantize(&self.even(acc, scale, 1.0), ""))
    }

    /// A scale that no run changes.
    pub(super) fn known_scale(&mut self, suffix: &str, scale: f64) -> ValueId {
        let Scale { mantissa, exponent } = Scale::nearest(scale);
        self.constant(suffix, Tensor::new(&[2], Data::I32(vec![mantissa, exponent])))
    }

    /// The product of two scales.
    fn units(&mut self, a: ValueId, b: ValueId) -> ValueId {
        let attrs = Attrs::new(Opcode::ProductScale);
        self.add(Opcode::ProductScale, &[a, b], attrs, ".units", Type::int(Int::I32, &[2]))
    }

    /// Accumulators of which all have the same weight.
    pub(super) fn even(&self, acc: ValueId, scale: ValueId, weight: f64) -> Sums {
        let channels = self.dims(acc).last().copied().unwrap_or(1);
        Sums { acc, scale, scales: vec![weight; channels], bias: vec![0.0; channels], dense: false }
    }
}
