//! Sensitive ranges: the part of a range within which the result of a function depends on its operand.
//!
//! A logistic function of 7 and of 20 is 1 but for a thousandth, and `nn.hard_swish` is 0 for everything below -3. Where nothing
//! but such functions reads a value, codes for what lies out there are wasted: the type need not reach further than to where
//! the function begins to change, and its steps are finer for that.

use qcc_ir::ops::Class;
use qcc_ir::{Graph, Range, ValueId};
use qcc_num::convert::nearest_f32;

/// By how much results may differ over what is left out, in steps of the result's type: less than the 12th part of the square
/// of a step, the power of what rounding the result leaves.
const TOLERANCE: f64 = 0.25;

/// Steps in which a range is looked through.
const STEPS: u16 = 2048;

/// Fewest of them that are worth leaving out at an end: a function that changes all the way has some within the tolerance too.
const FEWEST: u16 = STEPS / 32;

/// What of `range` the readers of `v` depend on: all, unless all of them are functions of one value. `step` is the step of the
/// type of a reader's result, if it will have one.
pub(crate) fn sensitive(g: &Graph, v: ValueId, range: Range, step: &dyn Fn(ValueId) -> Option<f64>) -> Range {
    let mut needed: Option<Range> = None;
    for (n, _) in g.uses(v) {
        let node = g.node(n);
        let (Class::Unary(f), Some(step)) = (node.op.info().class, step(g.result(n))) else { return range };
        let one = sensitive_range(range, step, &|x| f(&node.attrs, x));
        needed = Some(needed.map_or(one, |all| all.union(one)));
    }
    needed.filter(|_| !g.is_output(v)).unwrap_or(range)
}

/// The range without what lies at its ends where `f` keeps within a quarter of `step` of itself.
pub fn sensitive_range(range: Range, step: f64, f: &dyn Fn(f32) -> f32) -> Range {
    let tolerance = TOLERANCE * step;
    let (min, extent) = (f64::from(range.min), f64::from(range.max) - f64::from(range.min));
    let point = |i: u16| nearest_f32(min + extent * f64::from(i) / f64::from(STEPS));
    let results: Vec<f64> = (0..=STEPS).map(|i| f64::from(f(point(i)))).collect();
    if !results.iter().all(|y| y.is_finite()) {
        return range;
    }
    let flat = |results: &mut dyn Iterator<Item = &f64>| {
        let mut band = (f64::INFINITY, f64::NEG_INFINITY);
        let within = results.take_while(|&&y| {
            band = (band.0.min(y), band.1.max(y));
            band.1 - band.0 <= tolerance
        });
        u16::try_from(within.count().saturating_sub(1)).ok().filter(|&count| count >= FEWEST).unwrap_or(0)
    };
    let (below, above) = (flat(&mut results.iter()), flat(&mut results.iter().rev()));
    // A function that does not change at all depends on nothing: the range stays.
    if below.saturating_add(above) >= STEPS { range } else { Range { min: point(below), max: point(STEPS - above) } }
}

#[cfg(test)]
mod tests {
    use qcc_ir::{Attrs, Opcode};

    use super::*;

    fn of(op: Opcode, min: f32, max: f32, step: f64) -> Range {
        let Class::Unary(f) = op.info().class else { panic!("a function") };
        let attrs = Attrs::new(op);
        let found = sensitive_range(Range { min, max }, step, &|x| f(&attrs, x));
        // What is left out gives what the end gives, but for the tolerance.
        for i in 0..=1000 {
            let x = min + (max - min) * i as f32 / 1000.0;
            let off = f(&attrs, x) - f(&attrs, x.clamp(found.min, found.max));
            assert!(f64::from(off.abs()) <= TOLERANCE * step * 1.01, "{} of {x}: {off}", op.name());
        }
        found
    }

    #[test]
    fn ends_where_nothing_changes_are_left_out() {
        let swish = of(Opcode::HardSwish, -10.0, 8.0, 8.4 / 255.0);
        assert!((-3.01..-2.97).contains(&swish.min) && swish.max == 8.0, "{swish:?}");
        let logistic = of(Opcode::Sigmoid, -20.0, 3.0, 1.0 / 255.0);
        assert!((-7.5..-6.0).contains(&logistic.min) && logistic.max == 3.0, "{logistic:?}");
        let tanh = of(Opcode::Tanh, -9.0, 9.0, 2.0 / 255.0);
        assert!(tanh.min > -4.0 && tanh.max < 4.0 && tanh.max > 2.0, "{tanh:?}");
    }

    #[test]
    fn what_changes_everywhere_or_nowhere_stays_whole() {
        for (op, min, max) in [(Opcode::Neg, -2.0, 3.0), (Opcode::HardSwish, -9.0, -4.0), (Opcode::Log, -1.0, 2.0)] {
            assert_eq!(of_any(op, min, max), Range { min, max }, "{}", op.name());
        }
    }

    fn of_any(op: Opcode, min: f32, max: f32) -> Range {
        let Class::Unary(f) = op.info().class else { panic!("a function") };
        sensitive_range(Range { min, max }, 4e-3, &|x| f(&Attrs::new(op), x))
    }
}
