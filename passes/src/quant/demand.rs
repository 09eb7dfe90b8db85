//! The range that the type of a value must cover, by what computes it and by what reads it: what `assign-scales` asks of each value.

use std::collections::HashMap;

use qcc_ir::{Attrs, Class, Elem, Fact, Graph, NodeId, Opcode, Range, ValueId, attr};
use qcc_num::convert::nearest_f32;

use crate::op_traits::{clamps, natural_range, selects};
use crate::quant::sensitive_range::sensitive;
use crate::ranges::extent::span_of;
use crate::ranges::observed::{Sentinel, span_of_softmax};

/// True if the producer can give `v` any type: it computes, or moves what has no other use and can itself have any type.
pub(super) fn is_free(g: &Graph, v: ValueId) -> bool {
    is_free_within(g, v, MOST_MOVES)
}

fn is_free_within(g: &Graph, v: ValueId, far: usize) -> bool {
    let Some(n) = g.producer(v).filter(|_| !g.is_output(v) && far > 0) else { return false };
    let all_free =
        |operands: Vec<ValueId>| operands.iter().all(|&x| g.only_user(x).is_some() && is_free_within(g, x, far - 1));
    match g.op(n) {
        // Its scale is fixed by its integer form.
        Opcode::Softmax => false,
        Opcode::Gather | Opcode::Concat | Opcode::Where => false,
        op if selects(op) => all_free(g.operands(n)),
        _ => true,
    }
}

/// How much further than what was seen a type of 16 bits reaches: it has a bit to spare, and other inputs have other ranges.
const ROOM: f32 = 2.0;

/// Steps in which a function is looked through.
const IMAGE_STEPS: u16 = 1024;

/// Codes below which a range is chosen for its error, whatever the method is that chooses others.
const FEW_CODES: f64 = 32.0;

/// Functions of one value in a row through which a range is followed.
const MOST_FUNCTIONS: usize = 8;

/// Movements in a row that are seen through.
const MOST_MOVES: usize = 64;

/// The range that a value of 16 bits is to cover, from the one that one of 8 bits is.
fn roomy(g: &Graph, v: ValueId, range: Range, far: usize) -> Range {
    let seen = g.metadata().get(Fact::Seen, g.name_of(v)).and_then(|s| s.first_chunk::<2>().copied());
    let seen = seen.map(|[min, max]| Range { min: nearest_f32(min), max: nearest_f32(max) }).filter(|r| r.is_valid());
    let range = seen.map_or(range, |seen| range.union(seen)).with_zero();
    let (mut least, mut greatest) = (f32::MIN, f32::MAX);
    if let Some(n) = g.producer(v) {
        match g.op(n) {
            Opcode::Relu => least = 0.0,
            Opcode::Clip => (least, greatest) = (g.node(n).attrs.get(attr::MIN), g.node(n).attrs.get(attr::MAX)),
            op => {
                if let Class::Unary(f) = op.info().class
                    && let Some(image) = far.checked_sub(1).and_then(|far| image(g, n, f, far))
                {
                    (least, greatest) = (image.min.min(range.min), image.max.max(range.max));
                }
            }
        }
    }
    let wider = Range { min: (range.min * ROOM).max(least.min(0.0)), max: (range.max * ROOM).min(greatest.max(0.0)) };
    if wider.is_valid() { wider } else { range }
}

/// What a function makes of the range that its operand is to cover in 16 bits, as far as it is finite: no result lies beyond.
fn image(g: &Graph, n: NodeId, f: fn(&Attrs, f32) -> f32, far: usize) -> Option<Range> {
    let x = g.operands(n)[0];
    let Elem::Calibrated(range) = g.ty(x).elem else { return None };
    let (range, attrs) = (roomy(g, x, range, far), &g.node(n).attrs);
    let points = (0..=IMAGE_STEPS).map(|i| range.min + (range.max - range.min) * f32::from(i) / f32::from(IMAGE_STEPS));
    let results = points.map(|x| f(attrs, x)).filter(|y| y.is_finite());
    let all = results.fold((f32::INFINITY, f32::NEG_INFINITY), |(l, g), y| (l.min(y), g.max(y)));
    Some(Range { min: all.0, max: all.1 }).filter(|r| r.is_valid())
}

/// What a range is for.
#[derive(Clone, Copy)]
pub(super) struct Extent<'t> {
    /// Whether the type has more than 8 bits.
    above_8_bits: bool,
    /// Distance of its greatest from its least code, if it has no more than 8 bits.
    codes: f64,
    /// Whether these are to cover more than was seen.
    room: bool,
    /// Movements in a row that are still seen through.
    far: usize,
    /// Values whose sentinels saturate.
    sentinels: &'t HashMap<ValueId, Sentinel>,
}

impl<'t> Extent<'t> {
    pub(super) fn new(
        above_8_bits: bool,
        codes: f64,
        room: bool,
        sentinels: &'t HashMap<ValueId, Sentinel>,
    ) -> Extent<'t> {
        Extent { above_8_bits, codes, room, far: MOST_MOVES, sentinels }
    }
}

/// Whether the range of `v` comes from samples.
pub(super) fn is_seen(g: &Graph, v: ValueId) -> bool {
    let greatest = g.metadata().get(Fact::Seen, g.name_of(v)).and_then(|s| s.get(1).copied());
    greatest.is_some_and(|greatest| greatest > f64::NEG_INFINITY)
}

/// The range that the type of `v` must cover; `None` if everything that reads `v` clamps it in the same type.
fn demand(g: &Graph, v: ValueId, wanted: Extent<'_>) -> Option<Range> {
    let Elem::Calibrated(mut range) = g.ty(v).elem else { return None };
    if let Some(&[min, max]) = g.metadata().get(Fact::Coarse, g.name_of(v))
        && wanted.codes < FEW_CODES
    {
        range = Range { min: nearest_f32(min), max: nearest_f32(max) };
    }
    if wanted.room {
        range = roomy(g, v, range, MOST_FUNCTIONS);
    } else if !wanted.above_8_bits
        && !is_seen(g, v)
        && let Some(span) = span_of_softmax(g, v)
    {
        // What samples showed is cut row by row; of a row's own greatest element nothing else is known.
        let bound = range.max.min(0.0) - span;
        if g.only_user(v).is_some_and(|n| g.op(n) == Opcode::Softmax && !g.is_output(v)) {
            range.min = range.min.max(bound);
        }
        // What is masked is to vanish.
        if wanted.sentinels.contains_key(&v) {
            range.min = range.min.min(bound);
        }
    }
    if let Some(n) = g.only_user(v).filter(|_| is_free(g, v))
        && (clamps(g.op(n)) || selects(g.op(n)) && !matches!(g.op(n), Opcode::Concat | Opcode::Gather))
    {
        let y = g.result(n);
        match wanted.far.checked_sub(1) {
            _ if clamps(g.op(n)) => return None,
            Some(far) => return demand(g, y, Extent { far, ..wanted }),
            None => {}
        }
    }
    produced(g, v, range, wanted)
}

/// The same less what nothing depends on that reads `v`, which 16 bits can afford.
pub(super) fn needed(g: &Graph, v: ValueId, wanted: Extent<'_>) -> Option<Range> {
    let range = demand(g, v, wanted)?;
    let narrow = Extent { above_8_bits: false, room: false, ..wanted };
    let step = |y: ValueId| demand(g, y, narrow).map(|r| f64::from(span_of(r)) / wanted.codes);
    Some(if wanted.above_8_bits { range } else { sensitive(g, v, range, &step) })
}

/// The range of `v` by what computes it.
fn produced(g: &Graph, v: ValueId, range: Range, wanted: Extent<'_>) -> Option<Range> {
    let Some(n) = g.producer(v) else { return Some(range) };
    Some(match g.op(n) {
        // Probabilities that only later operators read are as fine as the greatest seen: with hundreds of them a 255th is coarse.
        Opcode::Softmax if !g.is_output(v) && range.max > 0.0 => Range { min: 0.0, max: range.max.min(1.0) },
        op if natural_range(op).is_some() => {
            let natural = natural_range(op)?;
            // What samples showed is finer, and never more than the function gives.
            let seen = Range { min: range.min.max(natural.min), max: range.max.min(natural.max) };
            if is_seen(g, v) && op != Opcode::Softmax && seen.is_valid() { seen } else { natural }
        }
        Opcode::Pad if !wanted.sentinels.contains_key(&v) => {
            let value = g.node(n).attrs.get(attr::VALUE);
            range.union(Range { min: value, max: value })
        }
        _ => range,
    })
}
