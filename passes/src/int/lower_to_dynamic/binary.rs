//! Functions of two values that are no sums or products: quotients, extremes and slopes.

use qcc_ir::{Attrs, Diag, Opcode, Type, ValueId, attr};
use qcc_num::convert::count_i64;

use super::layer::{IntWeights, last_dimensions};
use super::{Dynamic, Lower, codes};
use crate::rewrite::{floats, per_channel};

impl Lower<'_, '_> {
    /// `a / b` as the product of `a` with the reciprocal of `b`.
    pub(super) fn quotient(&mut self) -> Result<(ValueId, Dynamic), Diag> {
        let (a, b) = (self.data(0)?, self.data(1)?);
        let reciprocal = self.function_of(b, &|x| 1.0 / x, ".reciprocal")?;
        self.product((a, reciprocal))
    }

    /// The greater, or the lesser, of two values: of their codes in a common scale.
    pub(super) fn extreme(&mut self, greater: bool) -> Result<(ValueId, Dynamic), Diag> {
        let parts = [self.data(0)?, self.data(1)?];
        let (mut scaled, mut own) = if parts[0].1.scale == parts[1].1.scale && parts[0].1.zero == parts[1].1.zero {
            (vec![parts[0].0, parts[1].0], parts[0].1)
        } else {
            self.in_common(&parts)
        };
        if !greater {
            let first = self.negated(scaled[0], own);
            (scaled, own) = (vec![first.0, self.negated(scaled[1], own).0], first.1);
        }
        let count = self.dims(self.y).iter().product();
        let shape = [1, 1, 1, count];
        let flat = |lower: &mut Self, v: ValueId| {
            let v = lower.expanded(v);
            let attrs = Attrs::new(Opcode::Reshape).with(attr::SHAPE, shape.as_slice());
            lower.add(Opcode::Reshape, &[v], attrs, ".flat", codes(&shape, own.zero))
        };
        let operands = [flat(self, scaled[0]), flat(self, scaled[1])];
        let attrs = Attrs::new(Opcode::Concat).with(attr::AXIS, 1);
        let both = self.add(Opcode::Concat, &operands, attrs, ".both", codes(&[1, 2, 1, count], own.zero));
        let attrs = Attrs::new(Opcode::IMaxPool).with(attr::KERNEL, [2, 1].as_slice());
        let found = self.add(Opcode::IMaxPool, &[both], attrs, ".extreme", codes(&shape, own.zero));
        let (found, own) = if greater { (found, own) } else { self.negated(found, own) };
        Ok((self.flattened(found), own))
    }

    /// `max(x, 0) + slope * min(x, 0)`: a window over both, whose weights are 1 and the slope.
    pub(super) fn slopes(&mut self) -> Result<(ValueId, Dynamic), Diag> {
        let (x, own) = self.data(0)?;
        if own.zero == 0 {
            return Ok((x, own));
        }
        let (dims, slope) = (self.dims(self.y), self.operands()[1]);
        let of_channels = per_channel(self.g(), slope, &dims, 1).filter(|_| dims.len() == 4 && self.dims(x) == dims);
        let of_elements = || last_dimensions(floats(self.g(), slope)?, &dims).filter(|_| self.dims(x) == dims);
        let (x, slopes) = match &of_channels {
            Some(slopes) => (self.nhwc(x), slopes.iter().map(|&s| f64::from(s)).collect()),
            None => (x, of_elements().ok_or_else(|| self.no_form("its slopes are not constants of channels"))?),
        };
        if slopes.iter().any(|s| !s.is_finite()) {
            return Err(self.no_form("its slopes are not finite"));
        }
        let (laid, channels) = (self.dims(x), slopes.len());
        let pixels = [1, 1, laid.iter().product::<usize>() / channels.max(1), channels];
        let shape = Attrs::new(Opcode::Reshape).with(attr::SHAPE, pixels.as_slice());
        let x = self.add(Opcode::Reshape, &[x], shape, ".pixels", codes(&pixels, own.zero));
        let zero = i64::from(own.zero);
        let clamped = |lower: &mut Self, key: attr::Key<i64>, suffix: &str| {
            let attrs = Attrs::new(Opcode::Clamp).with(key, zero);
            lower.add(Opcode::Clamp, &[x], attrs, suffix, codes(&pixels, own.zero))
        };
        let sides = [clamped(self, attr::LO, ".above"), clamped(self, attr::HI, ".below")];
        let attrs = Attrs::new(Opcode::Concat).with(attr::AXIS, 1);
        let both = self.add(Opcode::Concat, &sides, attrs, ".sides", codes(&[1, 2, pixels[2], channels], own.zero));
        let weights: Vec<f64> = slopes.iter().flat_map(|&s| [1.0, s]).collect();
        let layer = IntWeights::new(&[channels, 2, 1, 1], &weights, vec![0.0; channels]);
        let attrs = Attrs::new(Opcode::IConv2d).with(attr::GROUPS, count_i64(channels)).with(attr::PAD_VALUE, zero);
        let sums = self.accumulators((both, own), &layer, attrs, &pixels)?;
        let (q, dynamic) = self.requantize(&sums, ".codes");
        if of_channels.is_none() {
            return Ok((self.flattened(q), dynamic));
        }
        let ty = Type { dims: laid.clone(), elem: self.g().ty(q).elem.clone() };
        let attrs = Attrs::new(Opcode::Reshape).with(attr::SHAPE, laid.as_slice());
        let q = self.add(Opcode::Reshape, &[q], attrs, ".nhwc", ty);
        Ok((self.nchw(q), dynamic))
    }
}
