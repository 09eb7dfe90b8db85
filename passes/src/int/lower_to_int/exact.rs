//! Operators of models that were quantized elsewhere, to the bit: what a runtime computes with floats of single precision, in
//! integers.
//!
//! Accumulators are requantized by `qcc_num::requant_f32`. A sum or product of two bytes has 65536 results, which are computed here as
//! the runtime computes them (ONNX Runtime's kernels for x86-64; `fma` rounds once):
//!
//! ```text
//! sum      round(fma(a, Sa / Sy, fma(b, Sb / Sy, Zy - (Za Sa / Sy + Zb Sb / Sy))))
//! product  round((a - Za) (b - Zb) (Sa Sb / Sy) + Zy)
//! ```
//!
//! Then constants of the integer rule are looked for that give all of them. The constants next to the real factors miss some
//! results beside ties; of their neighbours, with the offset that suits each best, one nearly always misses none. Where none is
//! found the table itself is the operator, `int.lut2`.

use qcc_ir::ops::Binary;
use qcc_ir::{Attrs, Data, Diag, Opcode, Tensor, ValueId, attr};
use qcc_num::affine::{self, Affine};
use qcc_num::convert::{count_i64, nearest_f32, nearest_i32};
use qcc_num::requant::{self, Epilogue};
use qcc_num::requant_f32;

use super::{Bytes, Lower};

/// How far from the nearest multipliers those of a sum are looked for.
const SUM_RADIUS: i32 = 6;

/// How far from the nearest multiplier that of a product is looked for.
const PRODUCT_RADIUS: i32 = 64;

/// Fraction bits with which ties are rare enough for kernels that look for them in the high halves of products.
const POINT: u32 = 48;

/// Greatest magnitude of a result before the clamp.
const FAR: f32 = 32767.0;

/// Results of a function of two bytes, the second counting fastest.
type Table = Vec<u8>;

/// Constants of a requantization: `mult`, and the attributes `shl`, `offset` and `f32_fraction_bits`.
pub(super) struct Requantization {
    pub(super) mult: Vec<i32>,
    pub(super) shl: u32,
    pub(super) offset: i16,
    pub(super) f32_fraction_bits: u32,
}

impl Requantization {
    /// Sets the attributes.
    pub(super) fn set(&self, attrs: Attrs) -> Attrs {
        let attrs = attrs.with(attr::SHL, i64::from(self.shl)).with(attr::OFFSET, i64::from(self.offset));
        attrs.with(attr::F32_FRACTION_BITS, i64::from(self.f32_fraction_bits))
    }
}

impl Lower<'_, '_> {
    /// Constants for accumulators with these factors; `reach` is the greatest magnitude of each accumulator.
    pub(super) fn requantization(
        &mut self,
        factors: &[f64],
        zero: u8,
        reach: impl Fn(usize) -> i64,
    ) -> Result<Requantization, Diag> {
        if !self.exact {
            let (shl, mult) = requant::multipliers(factors).map_err(|e| self.scale_error(e))?;
            return Ok(Requantization { mult, shl, offset: requant::offset(zero, None), f32_fraction_bits: 0 });
        }
        // They are numbers of single precision: see `Lower::factor`.
        let factors: Vec<f32> = factors.iter().map(|&f| nearest_f32(f)).collect();
        let found = requant_f32::multipliers(&factors).map_err(|e| self.scale_error(e))?;
        let matters = |&c: &usize| reach(c) as f64 * f64::from(factors[c]) >= 0.5;
        let rounded = found.rounded.iter().copied().filter(matters).count();
        if rounded > 0 {
            let remark = format!("not exact: %{} has {rounded} channels of far smaller scales than others", self.name);
            self.change.remark(remark);
        }
        let greatest = (0..factors.len()).map(reach).max().unwrap_or(0).unsigned_abs();
        let found = found.refine(greatest, POINT);
        Ok(Requantization {
            mult: found.mult,
            shl: found.shl,
            offset: i16::from(zero),
            f32_fraction_bits: found.fraction_bits,
        })
    }

    /// Sum, difference or product of two bytes.
    pub(super) fn exact_arithmetic(
        &mut self,
        kind: Binary,
        [a, b]: [ValueId; 2],
        [ta, tb, to]: [&Bytes; 3],
    ) -> Result<Option<ValueId>, Diag> {
        let dims = self.dims(self.y);
        let signed = self.attrs().has(attr::SIGNED) && self.attrs().get(attr::SIGNED);
        let types = Types { a: ta, b: tb, y: to, shift: if signed { 128 } else { 0 } };
        let table = match kind {
            Binary::Add => types.sum(),
            Binary::Mul => types.product(),
            // No runtime has a difference of its own: reals are subtracted.
            _ => return Ok(None),
        };
        if kind == Binary::Mul {
            if let Some((rule, mult)) = types.fit_product(&table) {
                let attrs = Attrs::new(Opcode::IMul)
                    .with(attr::ZEROS, vec![i64::from(ta.zero), i64::from(tb.zero)])
                    .with(attr::MULT, i64::from(mult))
                    .with(attr::SHL, i64::from(rule.shl))
                    .with(attr::OFFSET, i64::from(rule.offset));
                return Ok(Some(self.emit_result(Opcode::IMul, &[a, b], attrs, "", &dims)));
            }
        } else if let Some((rule, mults)) = types.fit_sum(&table) {
            return Ok(Some(self.add([a, b], mults, rule.shift, rule.offset, &dims)));
        }
        let table = self.constant("table", Tensor::new(&[1 << 16], Data::U8(table)));
        Ok(Some(self.emit_result(Opcode::Lut2, &[a, b, table], Attrs::new(Opcode::Lut2), "", &dims)))
    }
}

/// The types of two operands and a result, and what the runtime's codes are below ours: 128 where they have a sign.
struct Types<'a> {
    a: &'a Bytes,
    b: &'a Bytes,
    y: &'a Bytes,
    shift: i16,
}

impl Types<'_> {
    fn code(&self, q: u8) -> f32 {
        f32::from(i16::from(q) - self.shift)
    }

    /// Our code of a rounded result.
    fn byte(&self, real: f32) -> u8 {
        let code = nearest_i32(f64::from(real.round_ties_even().clamp(-FAR, FAR))) + i32::from(self.shift);
        u8::try_from(code.clamp(0, 255)).unwrap_or(u8::MAX)
    }

    fn ratios(&self) -> [f32; 2] {
        [self.a, self.b].map(|t| t.uniform.scale() / self.y.uniform.scale())
    }

    fn factor(&self) -> f32 {
        self.a.uniform.scale() * self.b.uniform.scale() / self.y.uniform.scale()
    }

    fn sum(&self) -> Table {
        let [ra, rb] = self.ratios();
        let (za, zb, zy) = (self.code(self.a.zero), self.code(self.b.zero), self.code(self.y.zero));
        let fixed = zy - ra.mul_add(za, rb * zb);
        let columns: Vec<f32> = (0..=255).map(|b| self.code(b).mul_add(rb, fixed)).collect();
        let one = |a: u8, column: f32| self.byte(self.code(a).mul_add(ra, column));
        (0..=255).flat_map(|a| columns.iter().map(move |&c| one(a, c))).collect()
    }

    fn product(&self) -> Table {
        let (factor, zy) = (self.factor(), self.code(self.y.zero));
        let centred = |q: u8, t: &Bytes| f32::from(i16::from(q) - i16::from(t.zero));
        let one = |a: u8, b: u8| self.byte(centred(a, self.a) * centred(b, self.b) * factor + zy);
        (0..=255).flat_map(|a| (0..=255).map(move |b| one(a, b))).collect()
    }

    /// Constants of `qcc_num::affine` that give the table.
    fn fit_sum(&self, table: &[u8]) -> Option<(Affine, [i32; 2])> {
        let (shift, nearest) = affine::wide_multipliers(&self.ratios().map(f64::from)).ok()?;
        let mut steps: Vec<[i32; 2]> =
            (-SUM_RADIUS..=SUM_RADIUS).flat_map(|i| (-SUM_RADIUS..=SUM_RADIUS).map(move |j| [i, j])).collect();
        steps.sort_by_key(|[i, j]| i * i + j * j);
        steps.into_iter().find_map(|[i, j]| {
            let mults = [nearest[0] + i, nearest[1] + j];
            let offset = offset_for(table, mults, shift)?;
            let products: i64 = mults.iter().map(|&m| 255 * i64::from(m).abs()).sum();
            let fits = products + i64::from(offset).abs() <= i64::from(i32::MAX);
            fits.then_some((Affine { shift, offset, lo: 0, hi: 255 }, mults))
        })
    }

    /// Constants of `qcc_num::requant` that give the table.
    fn fit_product(&self, table: &[u8]) -> Option<(Epilogue, i32)> {
        let (shl, mult) = requant::multipliers(&[f64::from(self.factor())]).ok()?;
        let rule = Epilogue { shl, offset: requant::offset(self.y.zero, None), f32_fraction_bits: 0, lo: 0, hi: 255 };
        let centred = |q: usize, t: &Bytes| i32::try_from(q).unwrap_or(i32::MAX) - i32::from(t.zero);
        let gives = |mult: i32| {
            let mut results = table.iter().enumerate();
            results.all(|(i, &y)| rule.apply(centred(i / 256, self.a) * centred(i % 256, self.b), mult, 0) == y)
        };
        let near = (0..=PRODUCT_RADIUS).flat_map(|d| [d, -d]).map(|d| mult[0].saturating_add(d));
        near.into_iter().find(|&mult| mult > 0 && gives(mult)).map(|mult| (rule, mult))
    }
}

/// The offset with which `floor((a * Ma + b * Mb + offset) / 2^shift)`, clamped, is the table; in the middle of all such.
fn offset_for(table: &[u8], [ma, mb]: [i32; 2], shift: u32) -> Option<i32> {
    let (mut least, mut beyond) = (i64::MIN, i64::MAX);
    for (i, &y) in table.iter().enumerate() {
        let sum = count_i64(i / 256) * i64::from(ma) + count_i64(i % 256) * i64::from(mb);
        if y > 0 {
            least = least.max((i64::from(y) << shift) - sum);
        }
        if y < u8::MAX {
            beyond = beyond.min(((i64::from(y) + 1) << shift) - sum);
        }
        if least >= beyond {
            return None;
        }
    }
    i32::try_from(least.max(i64::from(i32::MIN)) / 2 + (beyond - 1).min(i64::from(i32::MAX)) / 2).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use qcc_ir::{Int, Uniform};

    use super::*;

    fn bytes(scale: f32, zero: u8) -> Bytes {
        let uniform = Arc::new(Uniform::per_tensor(Int::U8, scale, i64::from(zero)));
        Bytes { uniform, scale: f64::from(scale), zero }
    }

    /// Constants that were found give every result, and are found for most types.
    #[test]
    fn found_constants_give_every_result() {
        let mut found = [0, 0];
        for i in 0..24u8 {
            let wave = |k: f32| (k * (f32::from(i) + 0.7)).sin().abs();
            let (a, b) = (bytes(0.01 + 0.02 * wave(1.3), 10 * i), bytes(0.01 + 0.02 * wave(2.7), 128));
            let y = bytes(0.02 + 0.02 * wave(0.9), 5 * i);
            let types = Types { a: &a, b: &b, y: &y, shift: if i % 2 == 0 { 128 } else { 0 } };
            let sums = types.sum();
            if let Some((rule, [ma, mb])) = types.fit_sum(&sums) {
                found[0] += 1;
                for (i, &y) in sums.iter().enumerate() {
                    assert_eq!(
                        rule.apply(i32::try_from(i / 256).unwrap() * ma + i32::try_from(i % 256).unwrap() * mb),
                        y
                    );
                }
            }
            found[1] += usize::from(types.fit_product(&types.product()).is_some());
        }
        assert!(found[0] >= 18 && found[1] >= 18, "{found:?} of 24");
    }
}
