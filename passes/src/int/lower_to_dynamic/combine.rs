//! Values with scales of their own that meet, and softmax.

use std::collections::HashSet;
use std::sync::Arc;

use qcc_ir::{Attrs, Data, Diag, Elem, Graph, Int, NodeId, Opcode, Tensor, Type, Uniform, ValueId, attr};
use qcc_num::convert::count_i64;
use qcc_num::dynamic::{INTERVALS, SIGNED_ZERO, exponential_samples};

use super::{Dynamic, Lower, MOST, codes};
use crate::float::canonicalize::SWITCHED_OFF;
use crate::rewrite::{floats, inverse, leaves_through, scalar};

/// Codes above the zero point; no value is farther below it.
fn levels(zero: u8) -> i64 {
    i64::from(255 - zero)
}

/// What codes in a common scale are.
struct Codes {
    /// How many there are above the zero point.
    levels: i64,
    zero: u8,
    elem: Elem,
}

/// The type of codes of 16 bits, with zero point 0.
fn codes_16(dims: &[usize]) -> Type {
    Type { dims: dims.to_vec(), elem: Elem::Uniform(Arc::new(Uniform::per_tensor(Int::I16, 1.0, 0))) }
}

/// Whether a value leaves the graph, through movement alone, and nothing computes with it.
fn leaves(g: &Graph, v: ValueId) -> bool {
    leaves_through(g, v, |n| {
        matches!(g.op(n), Opcode::Reshape | Opcode::Transpose | Opcode::Slice | Opcode::Expand | Opcode::Concat)
    })
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
        if leaves(self.g(), self.y) {
            let (scaled, own) = self.in_common_16(&parts);
            let name = self.name.clone();
            self.change.remark(format!("%{name} has 16 bits: its parts have scales of their own"));
            let joined = self.add(Opcode::Concat, &scaled, attrs, "", codes_16(&dims));
            self.made.joined.insert(joined, (axis, parts));
            return Ok((joined, own));
        }
        let (scaled, own) = self.in_common(&parts);
        let joined = self.add(Opcode::Concat, &scaled, attrs, "", codes(&dims, own.zero));
        self.made.joined.insert(joined, (axis, parts));
        Ok((joined, own))
    }

    /// Values in a scale of 16 bits that has room for all.
    fn in_common_16(&mut self, parts: &[(ValueId, Dynamic)]) -> (Vec<ValueId>, Dynamic) {
        self.rescaled(parts, Codes { levels: i64::from(i16::MAX), zero: 0, elem: codes_16(&[]).elem })
    }

    /// Values in a scale that has room for all.
    pub(super) fn in_common(&mut self, parts: &[(ValueId, Dynamic)]) -> (Vec<ValueId>, Dynamic) {
        let own: Vec<Dynamic> = parts.iter().map(|p| p.1).collect();
        let zero = if own.iter().all(|d| d.zero == own[0].zero) { own[0].zero } else { SIGNED_ZERO };
        self.rescaled(parts, Codes { levels: levels(zero), zero, elem: codes(&[], zero).elem })
    }

    /// Whether a value's codes have 16 bits.
    fn is_wide(&self, v: ValueId) -> bool {
        self.g().ty(v).elem.storage() == Some(Int::I16)
    }

    /// Values as codes of a scale that has room for all.
    fn rescaled(&mut self, parts: &[(ValueId, Dynamic)], to: Codes) -> (Vec<ValueId>, Dynamic) {
        let (flat, own): (Vec<ValueId>, Vec<Dynamic>) = parts.iter().copied().unzip();
        let mut seen = HashSet::new();
        let scales: Vec<Dynamic> = own.iter().copied().filter(|d| seen.insert((d.scale, d.zero))).collect();
        let wide: HashSet<ValueId> = parts.iter().filter(|p| self.is_wide(p.0)).map(|p| p.1.scale).collect();
        let own_levels = |d: &Dynamic| if wide.contains(&d.scale) { i64::from(i16::MAX) } else { levels(d.zero) };
        let all: Vec<i64> = scales.iter().map(own_levels).chain([to.levels]).collect();
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
                .with(attr::RESULT_ZERO, i64::from(to.zero))
                .with(attr::BITS, if to.elem.storage() == Some(Int::I16) { 16 } else { 8 });
            let ty = Type { dims: self.dims(v), elem: to.elem.clone() };
            scaled.push(self.add(Opcode::DynamicRescale, &[v, common], attrs, &format!(".{i}"), ty));
        }
        (scaled, Dynamic { scale: common, zero: to.zero })
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

    /// Padding with a number other than 0: it is put where nothing was, in a scale that both have in common. What lies below all
    /// values, before a maximum, is the least code.
    pub(super) fn padded(&mut self) -> Result<(ValueId, Dynamic), Diag> {
        let (x, own) = self.data(0)?;
        let (g, attrs, dims) = (self.g(), self.attrs(), self.dims(self.y));
        let (value, ty) = (attrs.get(attr::VALUE), Type { dims: dims.clone(), elem: g.ty(x).elem.clone() });
        let of_maxima = |n: NodeId| matches!(g.op(n), Opcode::MaxPool | Opcode::ReduceMax);
        if value <= SWITCHED_OFF && !g.is_output(self.y) && g.uses(self.y).iter().all(|&(n, _)| of_maxima(n)) {
            return Ok((self.add(Opcode::Pad, &[x], attrs.with(attr::VALUE, 0.0), "", ty), own));
        }
        if value.abs() >= MOST {
            return Err(self.no_form(format_args!("beside {value:e} nothing else has codes")));
        }
        let inside = vec![1u8; self.dims(x).iter().product()];
        let pads = attrs.get(attr::PADS);
        let padded = attrs.clone().with(attr::VALUE, f32::from(own.zero));
        let whole = self.add(Opcode::Pad, &[x], padded, ".whole", ty);
        let on = Tensor::new(&self.dims(x), Data::U8(inside));
        let on = self.change.add_typed_const(&format!("{}.inside", self.name), on, Elem::Bool);
        let inside = Attrs::new(Opcode::Pad).with(attr::PADS, pads).with(attr::VALUE, 0.0);
        let condition = self.add(Opcode::Pad, &[on], inside, ".on", Type { dims: dims.clone(), elem: Elem::Bool });
        let name = format!("{}.value", self.name);
        let code = if value > 0.0 { 255 } else { 1 };
        let c = Tensor::new(&[1], Data::U8(vec![code]));
        let c = self.change.add_typed_const(&name, c, codes(&[1], SIGNED_ZERO).elem);
        let c =
            (c, Dynamic { scale: self.known_scale("value.scale", f64::from(value.abs()) / 127.0), zero: SIGNED_ZERO });
        let (scaled, own) = self.in_common(&[(whole, own), c]);
        let ty = codes(&dims, own.zero);
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
}
