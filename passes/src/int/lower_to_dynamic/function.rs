//! Functions of one value, as tables that each run makes from samples.

use qcc_ir::ops::Class;
use qcc_ir::{Attrs, Data, Diag, Int, Opcode, Tensor, Type, ValueId, attr};
use qcc_num::convert::nearest_f32;
use qcc_num::dynamic::{GRID, GRIDS, INTERVALS, PART_ROW, ROW, SIGNED_ZERO, TABLE, curve_samples, function_samples};

use super::{Dynamic, Lower, codes};
use crate::rewrite::scalar;

/// How far from a line a function may be beyond its samples, as a share of its greatest value there.
const STRAY: f64 = 1.0 / 512.0;

/// Zero point of functions that are hardly ever negative.
const LOW_ZERO: u8 = 32;

/// How far below 0 these functions may go: where results are seven times as great, none of the codes above is wasted.
const LOW_LEAST: f64 = -0.4;

/// A real function.
pub(super) type Real = Box<dyn Fn(f64) -> f64>;

/// Samples of a function, and the zero point of its results.
struct Sampled {
    samples: Vec<i32>,
    zero: u8,
}

/// A function by samples on grids that reach to 16: it is a line beyond, and finite and not too steep everywhere.
fn on_grids(f: &dyn Fn(f64) -> f64) -> Option<Sampled> {
    let half = INTERVALS as f64 / 2.0;
    let step = f64::from(GRID).exp2();
    let reals: Vec<f64> = (0..=INTERVALS).map(|j| f((j as f64 - half) * step)).collect();
    for side in [-1.0, 1.0] {
        let (end, before) = if side < 0.0 { (reals[0], reals[1]) } else { (reals[INTERVALS], reals[INTERVALS - 1]) };
        for x in [24.0, 64.0, 250.0] {
            let line = end + (end - before) * (x / step - half);
            let wanted = f(side * x);
            let near = (wanted - line).abs() <= STRAY * wanted.abs().max(1.0);
            if !near || reals.iter().any(|y| !y.is_finite()) {
                return None;
            }
        }
    }
    let samples = function_samples(f);
    let values = &samples[..=INTERVALS];
    let steep = |a: i32, b: i32| (i64::from(a) - i64::from(b)).abs() > 1 << 22;
    if steep(values[0], values[1]) || steep(values[INTERVALS], values[INTERVALS - 1]) {
        return None;
    }
    let positive =
        values.iter().all(|&v| v >= 0) && values[0] >= values[1] && values[INTERVALS] >= values[INTERVALS - 1];
    let least = reals.iter().copied().fold(0.0, f64::min);
    let zero = match positive {
        true => 0,
        false if least >= LOW_LEAST && reals[0] > LOW_LEAST / 8.0 => LOW_ZERO,
        false => SIGNED_ZERO,
    };
    Some(Sampled { samples, zero })
}

impl Lower<'_, '_> {
    /// The operand of which the operation is a function, and the function, if nothing else varies.
    pub(super) fn one_value(&self) -> Option<(usize, Real)> {
        let (g, attrs) = (self.g(), self.attrs());
        match attrs.op().info().class {
            Class::Unary(f) => Some((0, Box::new(move |x| f64::from(f(&attrs, nearest_f32(x)))))),
            Class::Binary(kind) => {
                let operands = self.operands();
                let at = operands.iter().position(|&v| scalar(g, v).is_some())?;
                let c = scalar(g, operands[at]).filter(|c| c.is_finite())?;
                let fits = self.dims(operands[1 - at]) == self.dims(self.y);
                let f: Real = match at {
                    0 => Box::new(move |x| f64::from(kind.of(c, nearest_f32(x)))),
                    _ => Box::new(move |x| f64::from(kind.of(nearest_f32(x), c))),
                };
                fits.then_some((1 - at, f))
            }
            _ => None,
        }
    }

    /// A function of one value.
    pub(super) fn function(&mut self) -> Result<(ValueId, Dynamic), Diag> {
        let Some((operand, f)) = self.one_value() else { return Err(self.no_form("its range is not that of a sum")) };
        let x = self.data(operand)?;
        self.function_of(x, &f, "")
    }

    /// The function of a value.
    pub(super) fn function_of(
        &mut self,
        (x, own): (ValueId, Dynamic),
        f: &dyn Fn(f64) -> f64,
        suffix: &str,
    ) -> Result<(ValueId, Dynamic), Diag> {
        let ty = Type::int(Int::I32, &[TABLE]);
        let name = format!("{suffix}.table");
        let zeros = |op: Opcode, zero: u8| {
            let attrs = Attrs::new(op).with(attr::ZERO, i64::from(own.zero));
            attrs.with(attr::RESULT_ZERO, i64::from(zero))
        };
        let (table, zero) = match on_grids(f) {
            Some(Sampled { samples, zero }) => {
                let samples = self.samples(&[GRIDS, ROW], samples);
                let attrs = zeros(Opcode::DynamicTable, zero);
                (self.add(Opcode::DynamicTable, &[own.scale, samples], attrs, &name, ty), zero)
            }
            None => {
                let (samples, half) = curve_samples(f, own.zero > 0);
                let (rows, rest) = samples.split_at(samples.len() - 2);
                let mut values = rows.chunks(PART_ROW).flat_map(|row| &row[..PART_ROW - 1]).chain(&rest[..1]);
                let zero = if values.all(|&v| v >= 0) { 0 } else { SIGNED_ZERO };
                let samples = self.samples(&[samples.len()], samples);
                let attrs = zeros(Opcode::DynamicCurve, zero).with(attr::HALF, half);
                (self.add(Opcode::DynamicCurve, &[own.scale, samples, x], attrs, &name, ty), zero)
            }
        };
        let ty = codes(&self.dims(x), zero);
        let y = self.add(Opcode::DynamicLut, &[x, table], Attrs::new(Opcode::DynamicLut), suffix, ty);
        Ok((y, Dynamic { scale: table, zero }))
    }

    /// A constant, one for all operators with the same function.
    pub(super) fn samples(&mut self, dims: &[usize], samples: Vec<i32>) -> ValueId {
        if let Some(&v) = self.made.samples.get(&samples) {
            return v;
        }
        let v = self.constant("samples", Tensor::new(dims, Data::I32(samples.clone())));
        self.made.samples.insert(samples, v);
        v
    }
}
