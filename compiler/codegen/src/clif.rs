//! Building blocks on top of [`FunctionBuilder`]: 128-bit vectors, and the arithmetic of [`qcc_num`] on them.

use cranelift_codegen::ir::{Endianness, InstBuilder, MemFlagsData, Type, Value, condcodes::IntCC, types};
use cranelift_frontend::FunctionBuilder;
use qcc_num::affine::Affine;
use qcc_num::requant::{Epilogue, FRACTION_BITS};

/// Bytes of a vector.
pub const VECTOR: usize = 16;

/// Accesses that cannot trap and promise no alignment.
pub fn memory() -> MemFlagsData {
    MemFlagsData::new().with_notrap()
}

/// The same bits as another type of vector.
pub fn cast(b: &mut FunctionBuilder<'_>, kind: Type, value: Value) -> Value {
    if b.func.dfg.value_type(value) == kind {
        return value;
    }
    b.ins().bitcast(kind, MemFlagsData::new().with_endianness(Endianness::Little), value)
}

/// The integer type of an element of this size.
pub fn lane_type(bytes: usize) -> Type {
    match bytes {
        1 => types::I8,
        2 => types::I16,
        4 => types::I32,
        _ => types::I64,
    }
}

/// A constant in every lane.
pub fn splat(b: &mut FunctionBuilder<'_>, kind: Type, value: i64) -> Value {
    let value = b.ins().iconst(kind.lane_type(), value);
    b.ins().splat(kind, value)
}

/// `shl_sat(acc, shl)`: the saturated value where shifting back does not give the accumulator again; the plain shift where
/// it is known that every accumulator `fits`.
pub fn shift_left(b: &mut FunctionBuilder<'_>, acc: Value, shl: u32, fits: bool) -> Value {
    if shl == 0 {
        return acc;
    }
    let shifted = b.ins().ishl_imm_s(acc, i64::from(shl));
    if fits {
        return shifted;
    }
    let back = b.ins().sshr_imm_s(shifted, i64::from(shl));
    let same = b.ins().icmp(IntCC::Equal, back, acc);
    let sign = b.ins().sshr_imm_s(acc, 31);
    let max = splat(b, types::I32X4, i64::from(i32::MAX));
    let saturated = b.ins().bxor(sign, max);
    b.ins().bitselect(same, shifted, saturated)
}

/// High halves of the 64-bit products of four lanes: equation (1) of [`qcc_num::requant`] after the shift.
pub fn mul_high(b: &mut FunctionBuilder<'_>, acc: Value, mult: Value) -> Value {
    let (x, y) = (b.ins().swiden_low(acc), b.ins().swiden_low(mult));
    let low = b.ins().imul(x, y);
    let (x, y) = (b.ins().swiden_high(acc), b.ins().swiden_high(mult));
    let high = b.ins().imul(x, y);
    let halves = [cast(b, types::I8X16, low), cast(b, types::I8X16, high)];
    high_halves(b, halves)
}

/// [`mul_high`] after the shift, or equation (15) of [`qcc_num::requant_f32`] without its clamp and zero point.
pub fn scaled(b: &mut FunctionBuilder<'_>, acc: Value, mult: Value, e: &Epilogue, fits: bool) -> Value {
    let shifted = shift_left(b, acc, e.shl, fits);
    if e.f32_fraction_bits == 0 {
        mul_high(b, shifted, mult)
    } else {
        requant_f32(b, shifted, mult, e.f32_fraction_bits)
    }
}

/// The integers `r` of equation (15). Of `d` only the bits are exact that matter between 1/2 and 2^15 units; beyond, results are
/// 0 or saturate whatever it is.
fn requant_f32(b: &mut FunctionBuilder<'_>, acc: Value, mult: Value, point: u32) -> Value {
    let point = i64::from(point);
    let (x, y) = (b.ins().swiden_low(acc), b.ins().swiden_low(mult));
    let low = b.ins().imul(x, y);
    let (x, y) = (b.ins().swiden_high(acc), b.ins().swiden_high(mult));
    let high = b.ins().imul(x, y);
    let moved = [low, high].map(|p| {
        let sign = b.ins().sshr_imm_s(p, 63);
        let magnitude = b.ins().bxor(p, sign);
        let mut halves = b.ins().ushr_imm_s(magnitude, point - 1);
        for shift in [1, 2, 4, 8] {
            let below = b.ins().ushr_imm_s(halves, shift);
            halves = b.ins().bor(halves, below);
        }
        let below = b.ins().ushr_imm_s(halves, 1);
        let top = b.ins().bxor(halves, below);
        let d = b.ins().ishl_imm_s(top, point - 25);
        let parity = b.ins().ishl_imm_s(p, 63 - point);
        let odd = b.ins().sshr_imm_s(parity, 63);
        let d = b.ins().bxor(d, odd);
        let e = b.ins().bnot(d);
        let sum = b.ins().iadd(p, e);
        cast(b, types::I8X16, sum)
    });
    let i16s = high_halves(b, moved);
    let half = splat(b, types::I32X4, 1 << (point - 33));
    let sum = b.ins().iadd(i16s, half);
    b.ins().sshr_imm_s(sum, point - 32)
}

/// The high halves of two vectors of 64-bit lanes, given as bytes.
fn high_halves(b: &mut FunctionBuilder<'_>, vectors: [Value; 2]) -> Value {
    halves(b, vectors, 4)
}

/// The low halves of two vectors of 64-bit lanes, given as bytes.
pub fn low_halves(b: &mut FunctionBuilder<'_>, vectors: [Value; 2]) -> Value {
    halves(b, vectors, 0)
}

fn halves(b: &mut FunctionBuilder<'_>, [low, high]: [Value; 2], first: u8) -> Value {
    let order = (first..32).step_by(8).flat_map(|half| half..half + 4).collect::<Vec<u8>>();
    let mask = b.func.dfg.immediates.push(order.as_slice().into());
    let shuffled = b.ins().shuffle(low, high, mask);
    cast(b, types::I32X4, shuffled)
}

/// Four times a 32-bit number, of which `uwiden` and `swiden` stay what they are: Cranelift makes 64-bit lanes of those of a splat, and
/// their products then are of 64 bits too, for which machines have no instruction or a slow one.
pub fn spread(b: &mut FunctionBuilder<'_>, value: Value) -> Value {
    let one = b.ins().scalar_to_vector(types::I32X4, value);
    let one = cast(b, types::I8X16, one);
    let order: Vec<u8> = (0..16).map(|i| i % 4).collect();
    let mask = b.func.dfg.immediates.push(order.as_slice().into());
    let four = b.ins().shuffle(one, one, mask);
    cast(b, types::I32X4, four)
}

/// The sum of four lanes.
pub fn sum_lanes(b: &mut FunctionBuilder<'_>, lanes: Value) -> Value {
    let pairs = b.ins().iadd_pairwise(lanes, lanes);
    let total = b.ins().iadd_pairwise(pairs, pairs);
    b.ins().extractlane(total, 0)
}

/// The terms `r` of equation (2) for eight bytes of a residual, widened to 16 bits:
/// `x * (R / 2^8) + (x * (R mod 2^8)) / 2^8`, both products in 16 bits.
pub fn residual_term(b: &mut FunctionBuilder<'_>, i16s: Value, mult: u16) -> Value {
    let (high, low) = (splat(b, types::I16X8, i64::from(mult >> 8)), splat(b, types::I16X8, i64::from(mult & 0xFF)));
    let (high, low) = (b.ins().imul(i16s, high), b.ins().imul(i16s, low));
    let low = b.ins().ushr_imm_s(low, 8);
    b.ins().iadd(high, low)
}

/// [`requantize_with`] without a residual.
pub fn requantize(b: &mut FunctionBuilder<'_>, acc: [Value; 4], mult: [Value; 4], e: &Epilogue) -> Value {
    requantize_with(b, acc, mult, e, None)
}

/// Equations (1) to (4) of [`qcc_num::requant`]: 16 accumulators, and 16 bytes of a residual with its multiplier, to 16 bytes.
pub fn requantize_with(
    b: &mut FunctionBuilder<'_>,
    acc: [Value; 4],
    mult: [Value; 4],
    e: &Epilogue,
    residual: Option<(Value, u16)>,
) -> Value {
    let mut highs = acc;
    for (acc, mult) in highs.iter_mut().zip(mult) {
        *acc = scaled(b, *acc, mult, e, false);
    }
    let mut i16s = [b.ins().snarrow(highs[0], highs[1]), b.ins().snarrow(highs[2], highs[3])];
    if let Some((bytes, mult)) = residual {
        let halves = [b.ins().uwiden_low(bytes), b.ins().uwiden_high(bytes)];
        for (vector, half) in i16s.iter_mut().zip(halves) {
            let term = residual_term(b, half, mult);
            *vector = b.ins().sadd_sat(*vector, term);
        }
    }
    narrow(b, &i16s, e)
}

/// Equations (3) and (4) of [`qcc_num::requant`], or the end of (15): one or two vectors of 16-bit lanes to bytes.
pub fn narrow(b: &mut FunctionBuilder<'_>, i16s: &[Value], e: &Epilogue) -> Value {
    let offset = splat(b, types::I16X8, i64::from(e.offset));
    let mut shifted = i16s.to_vec();
    for vector in &mut shifted {
        *vector = b.ins().sadd_sat(*vector, offset);
        if e.f32_fraction_bits == 0 {
            *vector = b.ins().sshr_imm_s(*vector, i64::from(FRACTION_BITS));
        }
    }
    let bytes = b.ins().unarrow(shifted[0], shifted[shifted.len() - 1]);
    clamp(b, bytes, e.lo, e.hi)
}

/// Equation (5) of [`qcc_num::affine`]: 16 sums that already contain the offset, to 16 bytes.
pub fn affine(b: &mut FunctionBuilder<'_>, sums: [Value; 4], rule: &Affine) -> Value {
    // After the shift a sum is at most 2^31 / 2^shift, which the narrowing instructions saturate as the clamp would.
    let shifted = sums.map(|s| b.ins().sshr_imm_s(s, i64::from(rule.shift)));
    let (low, high) = (b.ins().snarrow(shifted[0], shifted[1]), b.ins().snarrow(shifted[2], shifted[3]));
    let bytes = b.ins().unarrow(low, high);
    clamp(b, bytes, rule.lo, rule.hi)
}

/// Bytes limited to `lo..=hi`.
pub fn clamp(b: &mut FunctionBuilder<'_>, mut bytes: Value, lo: u8, hi: u8) -> Value {
    if lo > 0 {
        let lo = splat(b, types::I8X16, i64::from(lo));
        bytes = b.ins().umax(bytes, lo);
    }
    if hi < u8::MAX {
        let hi = splat(b, types::I8X16, i64::from(hi));
        bytes = b.ins().umin(bytes, hi);
    }
    bytes
}

/// 16 unsigned bytes as four vectors of 32-bit lanes.
pub fn widen_bytes(b: &mut FunctionBuilder<'_>, bytes: Value) -> [Value; 4] {
    let (low, high) = (b.ins().uwiden_low(bytes), b.ins().uwiden_high(bytes));
    [b.ins().uwiden_low(low), b.ins().uwiden_high(low), b.ins().uwiden_low(high), b.ins().uwiden_high(high)]
}

/// Bytes of two vectors in turns: those of their first halves, and those of their second halves.
pub fn interleave_bytes(b: &mut FunctionBuilder<'_>, x: Value, y: Value) -> [Value; 2] {
    interleave(b, x, y, 1)
}

/// The same of pairs of bytes.
pub fn interleave_i16(b: &mut FunctionBuilder<'_>, x: Value, y: Value) -> [Value; 2] {
    interleave(b, x, y, 2)
}

fn interleave(b: &mut FunctionBuilder<'_>, x: Value, y: Value, element: u8) -> [Value; 2] {
    [0u8, 8].map(|first| {
        let elements = (first..first + 8).step_by(element.into());
        let order = elements.flat_map(|e| (e..e + element).chain(e + 16..e + 16 + element)).collect::<Vec<u8>>();
        let mask = b.func.dfg.immediates.push(order.as_slice().into());
        b.ins().shuffle(x, y, mask)
    })
}

/// Sums of the products of neighbouring 16-bit lanes: `pmaddwd`.
pub fn dot_pairs(b: &mut FunctionBuilder<'_>, x: Value, y: Value) -> Value {
    let (xl, yl) = (b.ins().swiden_low(x), b.ins().swiden_low(y));
    let low = b.ins().imul(xl, yl);
    let (xh, yh) = (b.ins().swiden_high(x), b.ins().swiden_high(y));
    let high = b.ins().imul(xh, yh);
    b.ins().iadd_pairwise(low, high)
}

/// `count` bytes of 16 as pieces that a lane can hold: the type of vector, the lane, the first byte.
fn pieces(count: usize) -> impl Iterator<Item = (Type, u8, usize)> {
    let kinds = [(types::I64X2, 8), (types::I32X4, 4), (types::I16X8, 2), (types::I8X16, 1)];
    let mut first = 0;
    kinds.into_iter().filter_map(move |(kind, bytes)| {
        let fits = count - first >= bytes;
        let piece = (kind, (first / bytes) as u8, first);
        first += if fits { bytes } else { 0 };
        fits.then_some(piece)
    })
}

/// `count` bytes at `base + offset` in the first lanes of a vector of bytes; nothing beyond them is read.
pub fn load_bytes(b: &mut FunctionBuilder<'_>, base: Value, offset: i32, count: usize) -> Value {
    if count >= VECTOR {
        return b.ins().load(types::I8X16, memory(), base, offset);
    }
    let mut bytes = splat(b, types::I8X16, 0);
    for (kind, lane, first) in pieces(count) {
        let piece = b.ins().load(kind.lane_type(), memory(), base, offset + first as i32);
        let vector = cast(b, kind, bytes);
        let filled = b.ins().insertlane(vector, piece, lane);
        bytes = cast(b, types::I8X16, filled);
    }
    bytes
}

/// Stores the first `count` bytes of a vector at `base + offset`.
pub fn store_bytes(b: &mut FunctionBuilder<'_>, vector: Value, base: Value, offset: i32, count: usize) {
    if count >= VECTOR {
        b.ins().store(memory(), vector, base, offset);
        return;
    }
    for (kind, lane, first) in pieces(count) {
        let vector = cast(b, kind, vector);
        let piece = b.ins().extractlane(vector, lane);
        b.ins().store(memory(), piece, base, offset + first as i32);
    }
}

/// Stores the first `count` lanes, of elements of type `lane`, of vectors behind each other at `base`.
pub fn store_lanes(b: &mut FunctionBuilder<'_>, lane: Type, vectors: &[Value], base: Value, count: usize) {
    for (part, &vector) in vectors.iter().enumerate() {
        let bytes = (count * lane.bytes() as usize).saturating_sub(part * VECTOR).min(VECTOR);
        if bytes > 0 {
            let vector = cast(b, types::I8X16, vector);
            store_bytes(b, vector, base, (part * VECTOR) as i32, bytes);
        }
    }
}

/// `count` lanes, of 16 at most, of elements of type `lane` at `base`: one vector for each 16 bytes of them.
pub fn load_lanes(b: &mut FunctionBuilder<'_>, lane: Type, base: Value, count: usize) -> Vec<Value> {
    let size = lane.bytes() as usize;
    let kind = lane.by((VECTOR / size) as u32).unwrap_or(types::I8X16);
    let vector = |b: &mut FunctionBuilder<'_>, part: usize| {
        let bytes = (count * size).saturating_sub(part * VECTOR).min(VECTOR);
        let loaded =
            if bytes == 0 { splat(b, types::I8X16, 0) } else { load_bytes(b, base, (part * VECTOR) as i32, bytes) };
        cast(b, kind, loaded)
    };
    (0..size).map(|part| vector(b, part)).collect()
}
