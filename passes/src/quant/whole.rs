//! Types of values that are integers: those that the model converts from or to integers, and inputs that are integers in its file.
//!
//! Their scale is a power of two, of which every integer within the range is a multiple. A conversion to an integer drops the
//! fraction, so that 7 must not come as 6.988.

use qcc_ir::{Elem, Fact, Format, Graph, Opcode, Range, Uniform, ValueId};
use qcc_num::convert::{nearest_f32, nearest_i64};

/// True for such a value.
pub(crate) fn is_whole(g: &Graph, v: ValueId) -> bool {
    let to = || g.uses(v).iter().any(|&(n, _)| g.op(n) == Opcode::CastTo && is_integer(g, g.result(n)));
    is_from_integers(g, v) || declared(g, v).is_some() || to()
}

/// True for integers of run time that have become real.
pub(crate) fn is_from_integers(g: &Graph, v: ValueId) -> bool {
    g.producer(v).is_some_and(|n| g.op(n) == Opcode::CastTo && is_integer(g, g.operands(n)[0]))
}

fn is_integer(g: &Graph, v: ValueId) -> bool {
    matches!(g.ty(v).elem, Elem::Int(_))
}

/// The integers that an input is in the model's file.
pub(crate) fn declared(g: &Graph, v: ValueId) -> Option<Range> {
    match g.metadata().get(Fact::Declared, g.name_of(v))? {
        &[min, max] => Some(Range { min: nearest_f32(min), max: nearest_f32(max) }),
        _ => None,
    }
}

/// The type of a format for whole numbers of a range.
pub(crate) fn covering(format: &Format, range: Range) -> Uniform {
    let range = range.with_zero();
    let steps = (format.max() - format.min()) as f64;
    let (min, max) = (f64::from(range.min), f64::from(range.max));
    let mut scale = (((max - min) / steps).log2().ceil()).clamp(-20.0, 100.0).exp2();
    loop {
        let zero = format.min() + nearest_i64((-min / scale).ceil());
        let fits = zero <= format.max() && (max / scale) <= (format.max() - zero) as f64;
        if fits || scale > 1e30 {
            return Uniform::per_tensor(format.clone(), nearest_f32(scale), zero.min(format.max()));
        }
        scale *= 2.0;
    }
}

#[cfg(test)]
mod tests {
    use qcc_ir::format;

    use super::*;

    #[test]
    fn integers_are_codes() {
        for (min, max) in
            [(0.0, 9.0), (0.0, 255.0), (-128.0, 127.0), (-3.0, 20.0), (0.0, 1.0), (-1.0, 0.0), (0.0, 1000.0)]
        {
            let u = covering(&format::U8, Range { min, max });
            assert_eq!(u.scale().log2().fract(), 0.0, "{min} {max}");
            assert!(u.range().min <= min && max <= u.range().max, "{min} {max}: {:?}", u.range());
        }
        assert_eq!(covering(&format::U8, Range { min: 0.0, max: 255.0 }), Uniform::per_tensor(&format::U8, 1.0, 0));
        assert_eq!(
            covering(&format::U8, Range { min: -128.0, max: 127.0 }),
            Uniform::per_tensor(&format::U8, 1.0, 128)
        );
    }
}
