//! What values are on a few made-up inputs, for `propagate-ranges`: where an interval cannot be derived, as behind a logarithm or a
//! division by what may be zero, or where one is far too wide, as behind an exponential, the model itself tells.
//!
//! Inputs are normal numbers, or uniform ones within their declared range; integers are small. Found ends are moved outwards by
//! a factor, and rounded to [`BITS`] bits, so that the last bits of float arithmetic do not decide on scales.

use std::collections::HashMap;

use qcc_interp::Evaluator;
use qcc_ir::{Data, Elem, Graph, Int, Opcode, Range, Tensor, Type, ValueId};

use crate::Context;
use crate::moments::Interval;

/// Inputs that are tried, unless the model is large.
const TRIALS: u64 = 3;

/// Multiplications that are afforded: a second or so of a core's time.
const AFFORDED: u64 = 6_000_000_000;

/// Significant bits of an end.
const BITS: i32 = 5;

/// How much further than what was seen a range reaches that nothing else tells.
const UNKNOWN: f64 = 1.5;

/// How much further a range may reach than what was seen before it is taken for too wide.
const WIDE: f64 = 8.0;

/// How far it reaches then.
const ROOM: f64 = 2.0;

/// Integers of an input.
const INTEGERS: u64 = 64;

/// Extremes of values.
pub(crate) struct Trials(HashMap<ValueId, Interval>);

impl Trials {
    /// Runs the model; nothing is known if it cannot run.
    pub(crate) fn new(g: &Graph, cx: &Context) -> Trials {
        let mut seen: HashMap<ValueId, Interval> = HashMap::new();
        let evaluator = Evaluator::new(g);
        let affordable = (AFFORDED / products(g).max(1)).clamp(1, TRIALS);
        for trial in 0..affordable {
            let mut random = Random(trial);
            let input = |&v: &ValueId| random.tensor(g.ty(v), cx.input_ranges.get(g.name_of(v)).copied());
            let inputs: Vec<Tensor> = g.inputs().iter().map(input).collect();
            let outcome = evaluator.run_observed(&inputs, &mut |v, tensor| {
                let Some(data) = tensor.as_f32() else { return };
                let ends = |i: Interval, &x: &f32| {
                    let x = if x.is_nan() { f64::INFINITY } else { f64::from(x) };
                    i.union(Interval::new(x, x))
                };
                let none = Interval::new(f64::INFINITY, f64::NEG_INFINITY);
                let own = seen.get(&v).copied().unwrap_or(none);
                seen.insert(v, data.iter().fold(own, ends));
            });
            if outcome.is_err() {
                return Trials(HashMap::new());
            }
        }
        Trials(seen)
    }

    /// The range of a value of which an interval has been derived.
    pub(crate) fn settle(&self, v: ValueId, derived: Interval) -> Interval {
        let Some(&seen) = self.0.get(&v).filter(|i| i.lo.is_finite() && i.hi.is_finite()) else { return derived };
        let span = |i: Interval| i.hi.max(0.0) - i.lo.min(0.0);
        if !(derived.lo.is_finite() && derived.hi.is_finite()) {
            return further(seen, UNKNOWN).clamp_to(derived);
        }
        if span(seen) > 0.0 && span(derived) > WIDE * span(seen) {
            return further(seen, ROOM).clamp_to(derived);
        }
        // What is derived from intervals without end, or for values that go together, may be too narrow as well.
        derived.union(further(seen, 1.0))
    }
}

/// True if intervals alone are not to be trusted, and trials cost little: the graph has functions whose results can be anything, or
/// grow without measure, or few batch normalizations, which say what intervals only guess.
pub(crate) fn are_wanted(g: &Graph, norms: usize) -> bool {
    let steep = g.order().into_iter().any(|n| match g.op(n) {
        Opcode::Exp | Opcode::Pow | Opcode::Reciprocal | Opcode::Log => true,
        Opcode::Div => g.constant(g.operands(n)[1]).is_none(),
        _ => false,
    });
    let layers = g.order().into_iter().filter(|&n| matches!(g.op(n), Opcode::Conv2d | Opcode::Linear)).count();
    (steep || 2 * norms <= layers) && products(g) <= AFFORDED
}

/// Multiplications of all layers.
fn products(g: &Graph) -> u64 {
    let of = |n| {
        let w = g.operands(n).get(1).filter(|_| matches!(g.op(n), Opcode::Conv2d | Opcode::Linear)).copied()?;
        let (weights, outputs) = (g.ty(w).elements(), g.ty(w).dims.first().copied()?.max(1));
        Some(g.ty(g.result(n)).elements() as u64 * (weights / outputs) as u64)
    };
    g.order().into_iter().filter_map(of).sum()
}

/// Ends moved away from zero by a factor and rounded there.
fn further(i: Interval, factor: f64) -> Interval {
    let out = |x: f64| {
        let x = x * factor;
        if x == 0.0 {
            return 0.0;
        }
        let unit = (x.abs().log2().floor() as i32 + 1 - BITS).clamp(-140, 120);
        let unit = f64::powi(2.0, unit);
        (x.abs() / unit).ceil() * unit * x.signum()
    };
    Interval::new(out(i.lo.min(0.0)), out(i.hi.max(0.0)))
}

/// SplitMix64 (Steele, Lea and Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 up to 1, in steps that are exact.
    fn uniform(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u32 << 24) as f32
    }

    /// The sum of twelve uniform numbers is normal for all that matters here, and the same on every machine.
    fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.uniform()).sum::<f32>() - 6.0
    }

    fn tensor(&mut self, ty: &Type, declared: Option<Range>) -> Tensor {
        let n = ty.elements();
        let mut within = |lo: i64, hi: i64| {
            let count = (hi.saturating_sub(lo) as u64).saturating_add(1).max(1);
            lo + (self.next() % count) as i64
        };
        let least = |i: Int| (0, (i.max() as u64).min(INTEGERS - 1) as i64);
        let (storage, (lo, hi)) = match &ty.elem {
            Elem::Uniform(u) => (u.storage, (u.min, u.max)),
            Elem::Int(i) => (*i, least(*i)),
            Elem::Bool => (Int::U8, (0, 1)),
            Elem::F32 | Elem::Calibrated(_) => {
                let range = match &ty.elem {
                    Elem::Calibrated(range) => Some(*range),
                    _ => declared,
                };
                let data = (0..n).map(|_| match range {
                    Some(r) => r.min + (r.max - r.min) * self.uniform(),
                    None => self.normal(),
                });
                return Tensor::new(&ty.dims, Data::F32(data.collect()));
            }
        };
        let data = match storage {
            Int::I4 | Int::I8 => Data::I8((0..n).map(|_| within(lo, hi) as i8).collect()),
            Int::U4 | Int::U8 => Data::U8((0..n).map(|_| within(lo, hi) as u8).collect()),
            Int::I16 => Data::I16((0..n).map(|_| within(lo, hi) as i16).collect()),
            Int::I32 => Data::I32((0..n).map(|_| within(lo, hi) as i32).collect()),
            Int::I64 => Data::I64((0..n).map(|_| within(lo, hi)).collect()),
        };
        Tensor::new(&ty.dims, data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_move_outwards_to_few_bits() {
        assert_eq!(further(Interval::new(-1.0, 0.7), 2.0), Interval::new(-2.0, 1.4375));
        assert_eq!(further(Interval::new(3.0, 5.0), 1.5), Interval::new(0.0, 7.5));
    }

    #[test]
    fn made_up_numbers_are_normal() {
        let mut random = Random(1);
        let x: Vec<f64> = (0..4096).map(|_| f64::from(random.normal())).collect();
        let mean = x.iter().sum::<f64>() / 4096.0;
        let var = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 4096.0;
        assert!(mean.abs() < 0.05 && (var - 1.0).abs() < 0.1, "{mean} {var}");
    }
}
