//! Functions of one value as tables; sums and products; affine maps per channel.

use qcc_ir::ops::Binary;
use qcc_ir::{Attrs, Data, Diag, Elem, Format, Int, Opcode, Tensor, Uniform, ValueId, attr, format};
use qcc_num::convert::nearest_i64;
use qcc_num::{affine, requant};

use super::{Bytes, Lower};
use crate::constants;
use crate::quant::quantize;
use crate::rewrite::{inverse, per_channel, scalar};

/// Magnitude of integers of run time below which these can become real numbers.
const MOST_INTEGERS: i64 = 1 << 15;

/// Greatest magnitude of a constant term of `qcc_num::affine` equation (5); beyond it every result saturates.
const GREATEST_OFFSET: f64 = (1u32 << 30) as f64;

fn widen((shift, m): (u32, Vec<i16>)) -> (u32, Vec<i32>) {
    (shift, m.into_iter().map(i32::from).collect())
}

/// Quotients, extremes, powers and slopes.
pub(super) fn function(kind: Binary) -> impl Fn(f32, f32) -> f32 {
    move |a, b| match kind {
        Binary::Div => a / b,
        Binary::Min => a.min(b),
        Binary::Max => a.max(b),
        Binary::PRelu if a >= 0.0 => a,
        Binary::PRelu => a * b,
        _ => a.powf(b),
    }
}

impl Lower<'_, '_> {
    pub(super) fn unary(&mut self, f: fn(&Attrs, f32) -> f32) -> Result<ValueId, Diag> {
        let attrs = self.attrs().clone();
        self.function(self.operand(0), |x| f(&attrs, x))
    }

    /// A table, or a clamp where the table is one.
    pub(super) fn function(&mut self, x: ValueId, f: impl Fn(f32) -> f32) -> Result<ValueId, Diag> {
        let (from, to) = (self.bytes(x)?, self.bytes(self.y)?);
        let table = quantize::table(&from.uniform, &to.uniform, f);
        let dims = self.dims(x);
        let (lo, hi) = (table[0], table[255]);
        if lo <= hi && (0..=255u8).zip(&table).all(|(q, &y)| y == q.clamp(lo, hi)) {
            let attrs = Attrs::new(Opcode::Clamp).with(attr::LO, i64::from(lo)).with(attr::HI, i64::from(hi));
            return Ok(self.emit_result(Opcode::Clamp, &[x], attrs, "", &dims));
        }
        let table = self.constant("table", Tensor::new(&[256], Data::U8(table)));
        Ok(self.emit_result(Opcode::Lut, &[x, table], Attrs::new(Opcode::Lut), "", &dims))
    }

    /// Real numbers as integers or booleans: a table, and a change of the element type where the table holds another.
    pub(super) fn whole(&mut self) -> Result<ValueId, Diag> {
        let x = self.operand(0);
        let from = self.quantization(x)?;
        let elem = self.g().ty(self.y).elem.clone();
        let (least, greatest) = match elem {
            Elem::Int(int) => (Int::min(int), Int::max(int)),
            _ => (0, 1),
        };
        let is_truth = elem == Elem::Bool;
        let entry = |q: i32| match quantize::real(q, &from) {
            x if is_truth => i64::from(x != 0.0),
            x => nearest_i64(f64::from(x.trunc())).clamp(least, greatest),
        };
        let least_code = i32::try_from(from.storage().min()).unwrap_or(0);
        let entries: Vec<i64> = (0..1i32 << from.storage().bits()).map(|q| entry(q + least_code)).collect();
        let bytes: Option<Vec<u8>> = entries.iter().map(|&v| u8::try_from(v).ok()).collect();
        let (table, stored) = match bytes {
            Some(bytes) => (Data::U8(bytes), Int::U8),
            None => {
                let shorts: Option<Vec<i16>> = entries.iter().map(|&v| i16::try_from(v).ok()).collect();
                let shorts = shorts.ok_or_else(|| self.no_form("integers of more than 16 bits"))?;
                (Data::I16(shorts), Int::I16)
            }
        };
        let (table, dims) = (self.constant("table", Tensor::new(&[entries.len()], table)), self.dims(x));
        let kept = elem == Elem::Int(stored);
        let suffix = if kept { "" } else { ".whole" };
        let y = self.emit(Opcode::Lut, &[x, table], Attrs::new(Opcode::Lut), suffix, &dims, Elem::Int(stored));
        let Some(to) = qcc_ir::shape::cast_to(&elem).filter(|_| !kept) else { return Ok(y) };
        Ok(self.emit(Opcode::CastTo, &[y], Attrs::new(Opcode::CastTo).with(attr::TO, to), "", &dims, elem))
    }

    /// Integers of run time as real numbers: a table of their codes, of which the last is that of all beyond the range.
    pub(super) fn number(&mut self) -> Result<ValueId, Diag> {
        let (x, ty) = (self.operand(0), self.g().ty(self.y).clone());
        let Some(u) = ty.uniform().filter(|u| u.axis.is_none()) else {
            return Err(self.no_form("its result has no scale"));
        };
        let [least, greatest] = [u.min(), u.max()]
            .map(|q| nearest_i64(f64::from(Format::dequantize(q, u.scale(), u.zero_point()).trunc())));
        if least <= -MOST_INTEGERS || greatest >= MOST_INTEGERS {
            let diag =
                self.no_form(format_args!("integers of run time become real numbers below {MOST_INTEGERS} only"));
            return Err(diag.help("let the model take the value as a real input"));
        }
        // Behind the greatest the negative ones, counted from the end; those that are far beyond what was seen have a place too.
        let (above, below) = if least < 0 { (MOST_INTEGERS, MOST_INTEGERS) } else { (greatest + 2, 0) };
        let code = |v: i64| u.format.quantize(v as f32, u.scale(), u.zero_point());
        let codes = (0..above).chain(-below..0).map(code);
        let data = Data::integers(u.storage(), codes);
        let name = format!("{}.codes", self.name);
        let table = Tensor::new(&[data.len()], data);
        let table = self.change.add_typed_const(&name, table, ty.elem.clone());
        let attrs = Attrs::new(Opcode::Gather).with(attr::AXIS, 0).with(attr::WRAP, least < 0);
        Ok(self.emit_result(Opcode::Gather, &[table, x], attrs, "", &ty.dims))
    }

    /// Sum, difference or product.
    pub(super) fn arithmetic(&mut self, kind: Binary) -> Result<ValueId, Diag> {
        if let Some(v) = self.with_constant(kind)? {
            return Ok(v);
        }
        let a = self.quantized_operand(0)?;
        let b = self.quantized_operand(1)?;
        let (ta, tb, to) = (self.bytes(a)?, self.bytes(b)?, self.bytes(self.y)?);
        let dims = self.dims(self.y);
        if self.exact
            && let Some(v) = self.exact_arithmetic(kind, [a, b], [&ta, &tb, &to])?
        {
            return Ok(v);
        }
        if kind == Binary::Mul {
            let factor = self.factor(&[ta.uniform.scale(), tb.uniform.scale()], to.uniform.scale());
            let (shl, mult) = requant::multipliers(&[factor]).map_err(|e| self.scale_error(e))?;
            let attrs = Attrs::new(Opcode::IMul)
                .with(attr::ZEROS, vec![i64::from(ta.zero), i64::from(tb.zero)])
                .with(attr::MULT, i64::from(mult[0]))
                .with(attr::SHL, i64::from(shl))
                .with(attr::OFFSET, i64::from(requant::offset(to.zero, None)));
            return Ok(self.emit_result(Opcode::IMul, &[a, b], attrs, "", &dims));
        }
        let sign = if kind == Binary::Sub { -1.0 } else { 1.0 };
        let ratio = |t: &Bytes| self.factor(&[t.uniform.scale()], to.uniform.scale());
        let factors = [ratio(&ta), sign * ratio(&tb)];
        let found =
            if self.exact { affine::wide_multipliers(&factors) } else { affine::multipliers(&factors).map(widen) };
        let (shift, m) = found.map_err(|e| self.scale_error(e))?;
        let offset = affine::offset(shift, to.zero, &[(ta.zero, m[0]), (tb.zero, m[1])]);
        Ok(self.add([a, b], [m[0], m[1]], shift, offset, &dims))
    }

    pub(super) fn add(
        &mut self,
        operands: [ValueId; 2],
        m: [i32; 2],
        shift: u32,
        offset: i32,
        dims: &[usize],
    ) -> ValueId {
        let attrs = Attrs::new(Opcode::IAdd)
            .with(attr::MULTS, m.map(i64::from).to_vec())
            .with(attr::SHIFT, i64::from(shift))
            .with(attr::OFFSET, i64::from(offset));
        self.emit_result(Opcode::IAdd, &operands, attrs, "", dims)
    }

    /// The operand; a float constant becomes an 8-bit one.
    pub(super) fn quantized_operand(&mut self, i: usize) -> Result<ValueId, Diag> {
        let v = self.operand(i);
        let Some(tensor) = self.g().constant(v).cloned() else { return Ok(v) };
        let Some(data) = tensor.as_f32() else { return Ok(v) };
        if data.iter().any(|x| !x.is_finite()) {
            return Err(self.no_form("a constant is not finite"));
        }
        let (min, max) = data.iter().fold((0.0f32, 0.0f32), |(lo, hi), &x| (lo.min(x), hi.max(x)));
        let uniform = Uniform::covering(&format::U8, qcc_ir::Range { min, max });
        let codes = quantize::tensor(&tensor.dims, data, &uniform);
        let name = format!("{}.q", self.g().name_of(v));
        Ok(self.change.add_typed_const(&name, codes, Elem::Uniform(uniform.into())))
    }

    /// `a x + b` with constants for each channel or for all; `None` if the operation is no such map.
    fn with_constant(&mut self, kind: Binary) -> Result<Option<ValueId>, Diag> {
        let operands = [self.operand(0), self.operand(1)];
        let Some(at) = operands.iter().position(|&v| self.g().constant(v).is_some_and(|t| t.as_f32().is_some())) else {
            return Ok(None);
        };
        let (c, x) = (operands[at], operands[1 - at]);
        let dims = self.dims(self.y);
        if self.dims(x) != dims {
            return Ok(None);
        }
        if let Some(c) = scalar(self.g(), c) {
            let value = self.function(x, |x| match (kind, at) {
                (Binary::Add, _) => x + c,
                (Binary::Mul, _) => x * c,
                (_, 0) => c - x,
                (_, _) => x - c,
            })?;
            return Ok(Some(value));
        }
        let Some((axis, c)) = (0..dims.len()).find_map(|axis| Some((axis, per_channel(self.g(), c, &dims, axis)?)))
        else {
            return Ok(None);
        };
        let c: Vec<f64> = c.into_iter().map(f64::from).collect();
        let all = |x: f64| vec![x; c.len()];
        let (a, b) = match (kind, at) {
            (Binary::Mul, _) => (c.clone(), all(0.0)),
            (Binary::Add, _) => (all(1.0), c),
            (_, 0) => (all(-1.0), c),
            (_, _) => (all(1.0), c.iter().map(|c| -c).collect()),
        };
        self.scale_channels(x, axis, &a, &b).map(Some)
    }

    /// `a[c] * x + b[c]` along an axis.
    fn scale_channels(&mut self, x: ValueId, axis: usize, a: &[f64], b: &[f64]) -> Result<ValueId, Diag> {
        let (from, to) = (self.bytes(x)?, self.bytes(self.y)?);
        let factors: Vec<f64> = a.iter().map(|a| a * from.scale / to.scale).collect();
        let (shift, mult) = affine::multipliers(&factors).map_err(|e| self.scale_error(e))?;
        let term = |(m, b): (&i16, &f64)| {
            let constant = (b / to.scale * f64::from(shift).exp2()).clamp(-GREATEST_OFFSET, GREATEST_OFFSET).round();
            // Both summands are below 2^30 + 2^24, so that their sum with the products of (5) fits 32 bits.
            let zeros = i64::from(affine::offset(shift, to.zero, &[(from.zero, *m)]));
            let bound = nearest_i64(GREATEST_OFFSET);
            i32::try_from((nearest_i64(constant) + zeros).clamp(-bound, bound)).unwrap_or(i32::MAX)
        };
        if b.iter().any(|b| !b.is_finite()) {
            return Err(self.no_form("a constant is not finite"));
        }
        let exact = |((m, b), factor): ((&i16, &f64), &f64)| {
            let real = f64::from(to.zero) + b / to.scale - factor * f64::from(from.zero);
            affine::line(shift, *factor, real).unwrap_or((*m, term((m, b))))
        };
        let (mult, offsets): (Vec<i16>, Vec<i32>) = mult.iter().zip(b).zip(&factors).map(exact).unzip();
        let channels = mult.len();
        let mult = self.constant("mult", Tensor::new(&[channels], Data::I16(mult)));
        let offset = self.constant("offset", Tensor::new(&[channels], Data::I32(offsets)));
        let rank = self.dims(x).len();
        let perm: Vec<usize> = (0..rank).filter(|&i| i != axis).chain([axis]).collect();
        let suffix = if rank == 4 { ".nhwc" } else { ".t" };
        let x = self.transpose(x, &perm, suffix);
        let dims = self.dims(x);
        let attrs = Attrs::new(Opcode::ScaleChannels).with(attr::SHIFT, i64::from(shift));
        let name = if perm.is_sorted() { "" } else { suffix };
        let scaled = self.emit_result(Opcode::ScaleChannels, &[x, mult, offset], attrs, name, &dims);
        Ok(self.transpose(scaled, &inverse(&perm), ""))
    }

    pub(super) fn batch_norm(&mut self) -> Result<ValueId, Diag> {
        let (a, b) =
            constants::batch_norm(self.g(), self.n).ok_or_else(|| self.no_form("its parameters are not constant"))?;
        self.scale_channels(self.operand(0), 1, &a, &b)
    }

    /// `max(x, 0) + slope[c] * min(x, 0)` with one slope a channel: one of the summands is zero, so that there is one rounding.
    fn prelu(&mut self) -> Result<Option<ValueId>, Diag> {
        let (x, slope) = (self.operand(0), self.operand(1));
        let dims = self.dims(x);
        let found = (0..dims.len()).find_map(|axis| Some((axis, per_channel(self.g(), slope, &dims, axis)?)));
        let Some((axis, slopes)) = found else { return Ok(None) };
        let (from, to) = (self.bytes(x)?, self.bytes(self.y)?);
        let name = self.name.clone();
        self.name = format!("{name}.pos");
        let positive = self.function(x, |x| x.max(0.0))?;
        let clamp = Attrs::new(Opcode::Clamp).with(attr::HI, i64::from(from.zero));
        let elem = Elem::Uniform(from.uniform);
        self.name = format!("{name}.neg");
        let clamped = self.emit(Opcode::Clamp, &[x], clamp, ".min", &dims, elem);
        let slopes: Vec<f64> = slopes.into_iter().map(f64::from).collect();
        let negative = self.scale_channels(clamped, axis, &slopes, &vec![0.0; slopes.len()])?;
        self.name = name;
        let (shift, m) = affine::multipliers(&[1.0, 1.0]).map_err(|e| self.scale_error(e))?;
        let offset = affine::offset(shift, to.zero, &[(to.zero, m[0]), (to.zero, m[1])]);
        Ok(Some(self.add([positive, negative], [m[0], m[1]].map(i32::from), shift, offset, &dims)))
    }

    /// Quotients, extremes, powers and slopes: a table of one operand where the other is one constant, else of both.
    pub(super) fn other_binary(&mut self, kind: Binary) -> Result<ValueId, Diag> {
        let operands = [self.operand(0), self.operand(1)];
        let f = function(kind);
        match operands.map(|v| scalar(self.g(), v)) {
            [None, Some(c)] if self.dims(operands[0]) == self.dims(self.y) => {
                return self.function(operands[0], |x| f(x, c));
            }
            [Some(c), None] if self.dims(operands[1]) == self.dims(self.y) => {
                return self.function(operands[1], |x| f(c, x));
            }
            _ if kind == Binary::PRelu => {
                if let Some(v) = self.prelu()? {
                    return Ok(v);
                }
            }
            _ => {}
        }
        let (a, b) = (self.quantized_operand(0)?, self.quantized_operand(1)?);
        let (ta, tb, to) = (self.bytes(a)?, self.bytes(b)?, self.bytes(self.y)?);
        let table = quantize::table2([&ta.uniform, &tb.uniform], &to.uniform, f);
        let table = self.constant("table", Tensor::new(&[1 << 16], Data::U8(table)));
        let dims = self.dims(self.y);
        Ok(self.emit_result(Opcode::Lut2, &[a, b, table], Attrs::new(Opcode::Lut2), "", &dims))
    }
}
