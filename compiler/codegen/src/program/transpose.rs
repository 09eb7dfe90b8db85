//! Copies that exchange the two innermost dimensions of bytes, 16 elements at a time.
//!
//! Planes of a picture become channels side by side (or more than four of them: any transposition): a *strip* of 16 pixels is one
//! vector of each plane, and shuffles interleave them. Larger matrices go by squares of 16 by 16 bytes through four rounds of
//! interleaving halves. What does not fill the last strip or square is done by one that overlaps its neighbour.

use cranelift_codegen::ir::{InstBuilder, Value, types};

use super::collapse::{Level, Loops};
use super::task::Task;
use crate::clif::{self, VECTOR};

/// Most channels that a strip interleaves.
const STRIP: usize = 4;

/// The two innermost loops of a copy, one of which is dense in the source and the other in the target.
pub struct Exchange {
    /// Rounds of the loop along which the source is dense.
    width: usize,
    /// Rounds of the innermost loop, along which the target is dense.
    height: usize,
    /// In the source, from one round of the innermost loop to the next.
    from_step: usize,
    /// In the target, from one round of the other loop to the next.
    to_step: usize,
}

/// The loops of a copy of single bytes, split so that the second to last may be an exchange's, and that exchange.
pub fn exchange(mut loops: Loops) -> (Loops, Option<Exchange>) {
    let [from_step, 1] = loops.inner[..] else { return (loops, None) };
    let Some(last) = loops.outer.last().cloned() else { return (loops, None) };
    let fits = loops.run <= STRIP || loops.run >= VECTOR;
    if from_step <= 1 || last.strides[0] != 1 || last.extent < VECTOR || !fits || loops.run < 2 {
        return (loops, None);
    }
    let mut width = last.extent;
    if loops.outer.len() == 1 {
        // Some units for several threads.
        let units = [64, 32, 16, 8, 4, 2].into_iter().find(|n| width.is_multiple_of(*n) && width / n >= VECTOR);
        let units = units.unwrap_or(1);
        width /= units;
        loops.outer.insert(0, Level { extent: units, strides: last.strides.iter().map(|s| s * width).collect() });
        loops.outer[1].extent = width;
    }
    let exchange = Exchange { width, height: loops.run, from_step, to_step: last.strides[1] };
    (loops, Some(exchange))
}

/// Emits the copy over the task's units.
pub fn emit(t: &mut Task<'_>, loops: &Loops, exchange: &Exchange, from: Value, to: Value) {
    let levels = &loops.outer[..loops.outer.len() - 1];
    t.units(&mut |t, unit| {
        let at = t.moved(&[from, to], unit, &levels[0].strides);
        t.nest(&levels[1..], &at, &mut |t, at| matrix(t, at[0], at[1], exchange));
    });
}

/// One matrix.
fn matrix(t: &mut Task<'_>, from: Value, to: Value, e: &Exchange) {
    starts(t, e.width, &mut |t, column| {
        let (from, to) = (t.b.ins().iadd(from, column), t.at(to, column, e.to_step));
        if e.height <= STRIP {
            return strip(t, from, to, e);
        }
        starts(t, e.height, &mut |t, row| {
            let (from, to) = (t.at(from, row, e.from_step), t.b.ins().iadd(to, row));
            square(t, from, to, e);
        });
    });
}

/// Starts of pieces of 16 that cover `extent`, the last one overlapping the one before it where need be.
fn starts<'a>(t: &mut Task<'a>, extent: usize, body: &mut dyn FnMut(&mut Task<'a>, Value)) {
    t.count(extent / VECTOR, &mut |t, i| {
        let start = t.b.ins().imul_imm_s(i, VECTOR as i64);
        body(t, start);
    });
    if !extent.is_multiple_of(VECTOR) {
        let start = t.iconst_ptr(extent - VECTOR);
        body(t, start);
    }
}

/// Two vectors of bytes shuffled: byte `i` of the result is byte `mask[i]` of both side by side.
fn shuffle(t: &mut Task<'_>, a: Value, b: Value, mask: [u8; VECTOR]) -> Value {
    let mask = t.b.func.dfg.immediates.push(mask.as_slice().into());
    t.b.ins().shuffle(a, b, mask)
}

/// 16 pixels of up to four planes, interleaved. The target's pixels lie side by side or apart.
fn strip(t: &mut Task<'_>, from: Value, to: Value, e: &Exchange) {
    let planes: Vec<Value> = (0..e.height)
        .map(|plane| t.b.ins().load(types::I8X16, clif::memory(), from, (plane * e.from_step) as i32))
        .collect();
    if e.to_step != e.height {
        for pixel in 0..VECTOR {
            for (index, &plane) in planes.iter().enumerate() {
                let byte = t.b.ins().extractlane(plane, pixel as u8);
                t.b.ins().store(clif::memory(), byte, to, (pixel * e.to_step + index) as i32);
            }
        }
        return;
    }
    for part in 0..e.height {
        // Byte `i` of this part is plane `n % height` of pixel `n / height`, `n` counted over all parts.
        let source = |i: usize| ((part * VECTOR + i) % e.height, (part * VECTOR + i) / e.height);
        let mut bytes = planes[0];
        for (plane, &vector) in planes.iter().enumerate().skip(1) {
            let take = |i: usize| match source(i) {
                (p, pixel) if p == plane => (VECTOR + pixel) as u8,
                // The first round brings plane 0 to its place, later ones leave what is there.
                (_, pixel) if plane == 1 => pixel as u8,
                _ => i as u8,
            };
            bytes = shuffle(t, bytes, vector, std::array::from_fn(take));
        }
        t.b.ins().store(clif::memory(), bytes, to, (part * VECTOR) as i32);
    }
}

/// A square of 16 rows of 16 bytes, transposed.
fn square(t: &mut Task<'_>, from: Value, to: Value, e: &Exchange) {
    let mut rows: Vec<Value> =
        (0..VECTOR).map(|row| t.b.ins().load(types::I8X16, clif::memory(), from, (row * e.from_step) as i32)).collect();
    // Each round interleaves row `i` with row `i + 8`: after four of them rows have become columns.
    for _ in 0..4 {
        let low = std::array::from_fn(|i| (i / 2 + VECTOR * (i % 2)) as u8);
        let high = low.map(|byte| byte + 8);
        rows = (0..VECTOR)
            .map(|i| shuffle(t, rows[i / 2], rows[i / 2 + 8], if i % 2 == 0 { low } else { high }))
            .collect();
    }
    for (column, bytes) in rows.into_iter().enumerate() {
        t.b.ins().store(clif::memory(), bytes, to, (column * e.to_step) as i32);
    }
}
