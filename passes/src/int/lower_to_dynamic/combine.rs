//! Values with scales of their own that meet, and functions of them.

use std::collections::HashSet;

use qcc_ir::ops::Class;
use qcc_ir::{Attrs, Data, Diag, Elem, Int, Opcode, Tensor, Type, ValueId, attr};
use qcc_num::convert::{count_i64, nearest_f32};
use qcc_num::dynamic::{GRID, GRIDS, INTERVALS, ROW, SIGNED_ZERO, TABLE, exponential_samples, function_samples};

use super::{Dynamic, Lower, codes};
use crate::float::canonicalize::SWITCHED_OFF;
use crate::rewrite::{floats, inverse, scalar};

/// How far from a line a function may be beyond its samples, as a share of its greatest value there.
const STRAY: f64 = 1.0 / 512.0;

/// Zero point of functions that are hardly ever negative.
const LOW_ZERO: u8 = 32;

/// How far below 0 these functions may go: where results are seven times as great, none of the codes above is wasted.
const LOW_LEAST: f64 = -0.4;

/// Codes above the zero point; no value is farther below it.
fn levels(zero: u8) -> i64 {
    i64::from(255 - zero)
}

impl Lower<'_, '_> {
    /// One after the other, in a scale that has room for all. A concatenation of concatenations takes what was first there, so
    /// that codes are rounded once.
    pub(super) fn concat(&mut self) -> Result<(ValueId, Dynamic), Diag> {
        let axis = self.attrs().get(attr::AXIS);
        let mut parts = Vec::new();
        for i in 0..self.operands().len() {
            let (v, own) = self.data(i)?;
            match self.made.joined.get(&v) {
                Some((inner, joined)) if *inner == axis => parts.extend(joined.iter().copied()),
                _ => parts.push((v, own)),
            }
        }
        let (flat, own): (Vec<ValueId>, Vec<Dynamic>) = parts.iter().copied().unzip();
        let dims = self.dims(self.y);
        let attrs = Attrs::new(Opcode::Concat).with(attr::AXIS, axis);
        let first = own[0];
        if own.iter().all(|d| d.scale == first.scale && d.zero == first.zero) {
            let joined = self.add(Opcode::Concat, &flat, attrs, "", codes(&dims, first.zero));
            return Ok((joined, first));
        }
        let (scaled, own) = self.in_common(&parts);
        let joined = self.add(Opcode::Concat, &scaled, attrs, "", codes(&dims, own.zero));
        self.made.joined.insert(joined, (axis, parts));
        Ok((joined, own))
    }

    /// Values in a scale that has room for all.
    fn in_common(&mut self, parts: &[(ValueId, Dynamic)]) -> (Vec<ValueId>, Dynamic) {
        let (flat, own): (Vec<ValueId>, Vec<Dynamic>) = parts.iter().copied().unzip();
        let zero = if own.iter().all(|d| d.zero == own[0].zero) { own[0].zero } else { SIGNED_ZERO };
        let mut seen = HashSet::new();
        let scales: Vec<Dynamic> = own.iter().copied().filter(|d| seen.insert((d.scale, d.zero))).collect();
        let all: Vec<i64> = scales.iter().map(|d| levels(d.zero)).chain([levels(zero)]).collect();
        let operands: Vec<ValueId> = scales.iter().map(|d| d.scale).collect();
        let ty = Type::int(Int::I32, &[2 + scales.len()]);
        let common = Attrs::new(Opcode::CommonScale).with(attr::LEVELS, all);
        let common = self.add(Opcode::CommonScale, &operands, common, ".scale", ty);
        let mut scaled = Vec::new();
        for (i, (&v, d)) in flat.iter().zip(&own).enumerate() {
            let index = scales.iter().position(|s| s.scale == d.scale && s.zero == d.zero).unwrap_or(0);
            let attrs = Attrs::new(Opcode::DynamicRescale)
                .with(attr::INDEX, count_i64(index))
                .with(attr::ZERO, i64::from(d.zero))
                .with(attr::RESULT_ZERO, i64::from(zero));
            let ty = codes(&self.dims(v), zero);
            scaled.push(self.add(Opcode::DynamicRescale, &[v, common], attrs, &format!(".{i}"), ty));
        }
        (scaled, Dynamic { scale: common, zero })
    }

    /// Elements of two values. What is switched off before a softmax gets code 0.
    pub(super) fn select(&mut self) -> Result<(ValueId, Dynamic), Diag> {
        let operands = self.operands();
        let condition = operands[2];
        let off = |v: ValueId| scalar(self.g(), v).is_some_and(|c| c <= SWITCHED_OFF);
        if let Some(i) = (0..2).find(|&i| off(operands[i]) && !off(operands[1 - i])).filter(|_| self.before_softmax()) {
            let x = self.data(1 - i)?;
            return self.switched(x, condition, i == 1);
        }
        let parts = [self.data(0)?, self.data(1)?];
        let (scaled, own) = if parts[0].1.scale == parts[1].1.scale && parts[0].1.zero == parts[1].1.zero {
            (vec![parts[0].0, parts[1].0], parts[0].1)
        } else {
            self.in_common(&parts)
        };
        let ty = codes(&self.dims(self.y), own.zero);
        let y = self.add(Opcode::Where, &[scaled[0], scaled[1], condition], Attrs::new(Opcode::Where), "", ty);
        Ok((y, own))
    }

    /// A sum with a constant mask before a softmax: its operand, and the mask.
    pub(super) fn mask(&self) -> Option<(usize, Tensor)> {
        let g = self.g();
        let operands = self.operands();
        let i = operands.iter().position(|&v| floats(g, v).is_some())?;
        let (tensor, data) = floats(g, operands[i])?;
        let is_mask = data.iter().any(|&m| m <= SWITCHED_OFF) && self.before_softmax();
        is_mask.then(|| (1 - i, tensor.clone()))
    }

    /// The same with a condition.
    pub(super) fn masked(&mut self, operand: usize, mask: &Tensor) -> Result<(ValueId, Dynamic), Diag> {
        let values = mask.as_f32().unwrap_or_default();
        if values.iter().any(|&m| m != 0.0 && m > SWITCHED_OFF) {
            return Err(self.no_form("its mask adds other numbers as well, beside which these have no codes"));
        }
        let x = self.data(operand)?;
        let on = Tensor::new(&mask.dims, Data::U8(values.iter().map(|&m| u8::from(m == 0.0)).collect()));
        let condition = self.change.add_typed_const(&format!("{}.on", self.name), on, Elem::Bool);
        self.switched(x, condition, true)
    }

    fn before_softmax(&self) -> bool {
        let g = self.g();
        !g.is_output(self.y) && g.only_user(self.y).is_some_and(|u| g.op(u) == Opcode::Softmax)
    }

    /// Code 0 where a condition, or what it denies, does not hold. Elsewhere codes are 1 and more: sums have no others, of what else
    /// may have, the least becomes the next.
    fn switched(
        &mut self,
        (x, own): (ValueId, Dynamic),
        condition: ValueId,
        where_on: bool,
    ) -> Result<(ValueId, Dynamic), Diag> {
        if own.zero != SIGNED_ZERO {
            return Err(self.no_form("it switches off elements of a value that is never negative"));
        }
        let g = self.g();
        let x = match g.producer(x).map(|n| g.op(n)) {
            Some(Opcode::DynamicRequant) => x,
            _ => {
                let ty = g.ty(x).clone();
                self.add(Opcode::Clamp, &[x], Attrs::new(Opcode::Clamp).with(attr::LO, 1), ".above", ty)
            }
        };
        let ty = codes(&self.dims(self.y), own.zero);
        let name = format!("{}.off", self.name);
        let off = self.change.add_typed_const(&name, Tensor::new(&[1], Data::U8(vec![0])), ty.elem.clone());
        let operands = if where_on { [x, off, condition] } else { [off, x, condition] };
        let y = self.add(Opcode::Where, &operands, Attrs::new(Opcode::Where), "", ty);
        self.made.masked.insert(y);
        Ok((y, own))
    }

    /// Softmax along an axis; its scale is always 1/255.
    pub(super) fn softmax(&mut self) -> Result<(ValueId, Dynamic), Diag> {
        let (x, own) = self.data(0)?;
        let masked = self.made.masked.contains(&x);
        let rank = self.dims(x).len();
        let axis = usize::try_from(self.attrs().get(attr::AXIS)).unwrap_or(0);
        let perm: Vec<usize> = (0..rank).filter(|&i| i != axis).chain([axis]).collect();
        let samples = self.samples(&[INTERVALS + 1], exponential_samples());
        let ty = Type::int(Int::I32, &[256]);
        let table = self.add(Opcode::ExpTable, &[own.scale, samples], Attrs::new(Opcode::ExpTable), ".table", ty);
        let x = self.permuted(x, &perm, ".t");
        let ty = codes(&self.dims(x), 0);
        let attrs = Attrs::new(Opcode::ISoftmax).with(attr::MASKED, masked);
        let y = self.add(Opcode::ISoftmax, &[x, table], attrs, "", ty);
        let y = self.permuted(y, &inverse(&perm), "");
        Ok((y, Dynamic { scale: self.known_scale("unit", 1.0 / 255.0), zero: 0 }))
    }

    /// The value with its dimensions in another order, if it is another.
    pub(super) fn permuted(&mut self, v: ValueId, perm: &[usize], suffix: &str) -> ValueId {
        if perm.is_sorted() {
            return v;
        }
        let ty = self.g().ty(v).clone();
        let dims: Vec<usize> = perm.iter().map(|&p| ty.dims[p]).collect();
        let attrs = Attrs::new(Opcode::Transpose).with(attr::PERM, perm);
        self.add(Opcode::Transpose, &[v], attrs, suffix, Type { dims, elem: ty.elem })
    }

    /// A constant, one for all operators with the same function.
    fn samples(&mut self, dims: &[usize], samples: Vec<i32>) -> ValueId {
        if let Some(&v) = self.made.samples.get(&samples) {
            return v;
        }
        let v = self.constant("samples", Tensor::new(dims, Data::I32(samples.clone())));
        self.made.samples.insert(samples, v);
        v
    }

    /// A function of one value, as a table that each run makes from samples.
    pub(super) fn function(&mut self) -> Result<(ValueId, Dynamic), Diag> {
        let Class::Unary(f) = self.g().op(self.n).info().class else {
            return Err(self.no_form("its range is not that of a sum"));
        };
        let attrs = self.attrs();
        let f = |x: f64| f64::from(f(&attrs, nearest_f32(x)));
        let half = INTERVALS as f64 / 2.0;
        let step = f64::from(GRID).exp2();
        let reals: Vec<f64> = (0..=INTERVALS).map(|j| f((j as f64 - half) * step)).collect();
        let samples = function_samples(f);
        for side in [-1.0, 1.0] {
            let (end, before) =
                if side < 0.0 { (reals[0], reals[1]) } else { (reals[INTERVALS], reals[INTERVALS - 1]) };
            for x in [24.0, 64.0, 250.0] {
                let line = end + (end - before) * (x / step - half);
                let wanted = f(side * x);
                let near = (wanted - line).abs() <= STRAY * wanted.abs().max(1.0);
                if !near || reals.iter().any(|y| !y.is_finite()) {
                    return Err(self.no_form("it is not finite, or far from 0 it is no line"));
                }
            }
        }
        let values = &samples[..=INTERVALS];
        let steep = |a: i32, b: i32| (i64::from(a) - i64::from(b)).abs() > 1 << 22;
        let positive =
            values.iter().all(|&v| v >= 0) && values[0] >= values[1] && values[INTERVALS] >= values[INTERVALS - 1];
        if steep(values[0], values[1]) || steep(values[INTERVALS], values[INTERVALS - 1]) {
            return Err(self.no_form("it is too steep far from 0"));
        }
        let (x, own) = self.data(0)?;
        let least = reals.iter().copied().fold(0.0, f64::min);
        let zero = match positive {
            true => 0,
            false if least >= LOW_LEAST && reals[0] > LOW_LEAST / 8.0 => LOW_ZERO,
            false => SIGNED_ZERO,
        };
        let samples = self.samples(&[GRIDS, ROW], samples);
        let attrs = Attrs::new(Opcode::DynamicTable)
            .with(attr::ZERO, i64::from(own.zero))
            .with(attr::RESULT_ZERO, i64::from(zero));
        let ty = Type::int(Int::I32, &[TABLE]);
        let table = self.add(Opcode::DynamicTable, &[own.scale, samples], attrs, ".table", ty);
        let ty = codes(&self.dims(self.y), zero);
        let y = self.add(Opcode::DynamicLut, &[x, table], Attrs::new(Opcode::DynamicLut), "", ty);
        Ok((y, Dynamic { scale: table, zero }))
    }
}
