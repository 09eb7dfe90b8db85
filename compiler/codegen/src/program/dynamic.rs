//! Steps of values whose scale is found at run time: equations (8) to (13) of [`qcc_num::dynamic`].

use cranelift_codegen::ir::{InstBuilder, Value, condcodes::IntCC, types};
use cranelift_frontend::Variable;
use cranelift_module::{FuncId, Linkage};
use qcc_ir::Diags;
use qcc_num::dynamic::{ALIGN_BITS, HEADER, Rule, epilogue};

use super::collapse::{Level, Loops};
use super::elementwise::loops;
use super::task::Task;
use super::{Builder, bug};
use crate::clif::{self, VECTOR, memory};
use crate::kernel::dynamic::{BLOCK, DynamicSpec, emit_avx512, signature};
use crate::plan::{PART_EXTREMA, Place};
use crate::target::Backend;

/// Lanes of 32 bits that a group of vectors holds.
const GROUP: usize = 16;

/// Bytes of a 32-bit number.
pub(super) const WORD: usize = 4;

/// `int.extrema`: a unit is a part.
pub struct Extrema {
    /// Accumulators without gaps.
    pub acc: Place,
    /// `[parts, 2, C]`.
    pub result: Place,
    /// Positions of a part.
    pub rows: usize,
}

/// Extrema that a product has taken of parts of its accumulators.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Parts of each block of channels, [`PART_EXTREMA`] bytes each, behind each other.
    pub parts: usize,
    /// The channels of the blocks, in order.
    pub blocks: Vec<std::ops::Range<usize>>,
}

impl Extrema {
    /// Units of the task.
    pub fn units(&self) -> usize {
        self.result.dims[0]
    }

    /// Emits the task where a product has taken the extrema of parts, which lie at `from`.
    pub fn emit_parts(&self, t: &mut Task<'_>, parts: &Parts, from: &Place) {
        let channels = self.result.dims[2];
        let (from, result) = (t.address(from), t.address(&self.result));
        t.units(&mut |t, _| {
            for (block, range) in parts.blocks.iter().enumerate() {
                let from = t.plus(from, block * parts.parts * PART_EXTREMA);
                for first in range.clone().step_by(GROUP) {
                    let lanes = GROUP.min(range.end - first);
                    for (half, is_least) in [(0, true), (1, false)] {
                        let at = t.plus(from, half * PART_EXTREMA / 2 + (first - range.start) * WORD);
                        let to = t.plus(result, (half * channels + first) * WORD);
                        merge(t, (at, to), parts.parts, lanes, is_least);
                    }
                }
            }
        });
    }

    /// Emits the task.
    pub fn emit(&self, t: &mut Task<'_>) {
        let channels = self.result.dims[2];
        let positions = self.acc.elements() / channels;
        let (acc, result) = (t.address(&self.acc), t.address(&self.result));
        let zero = t.word(0);
        t.units(&mut |t, unit| {
            let from = t.at(acc, unit, self.rows * channels * WORD);
            let to = t.at(result, unit, 2 * channels * WORD);
            let first = t.b.ins().imul_imm_s(unit, self.rows as i64);
            let all = t.word(positions);
            let left = t.b.ins().isub(all, first);
            let most = t.word(self.rows);
            let rows = t.b.ins().umin(left, most);
            t.count(channels / GROUP, &mut |t, group| {
                let (from, to) = (t.at(from, group, GROUP * WORD), t.at(to, group, GROUP * WORD));
                group_extrema(t, (from, to), (zero, rows), channels, GROUP);
            });
            if !channels.is_multiple_of(GROUP) {
                let done = channels / GROUP * GROUP * WORD;
                let (from, to) = (t.plus(from, done), t.plus(to, done));
                group_extrema(t, (from, to), (zero, rows), channels, channels % GROUP);
            }
        });
    }
}

/// The least or the greatest of at most 16 channels over parts.
fn merge(t: &mut Task<'_>, (from, to): (Value, Value), parts: usize, lanes: usize, is_least: bool) {
    let start = if is_least { i32::MAX } else { i32::MIN };
    let start = clif::splat(&mut t.b, types::I32X4, i64::from(start));
    let vars: Vec<Variable> = (0..lanes.div_ceil(WORD)).map(|_| t.b.declare_var(types::I32X4)).collect();
    vars.iter().for_each(|&v| t.b.def_var(v, start));
    t.count(parts, &mut |t, part| {
        let at = t.at(from, part, PART_EXTREMA);
        for (i, &var) in vars.iter().enumerate() {
            let x = t.b.ins().load(types::I32X4, memory(), at, (i * VECTOR) as i32);
            let old = t.b.use_var(var);
            let new = if is_least { t.b.ins().smin(old, x) } else { t.b.ins().smax(old, x) };
            t.b.def_var(var, new);
        }
    });
    let values: Vec<Value> = vars.iter().map(|&v| t.b.use_var(v)).collect();
    store_words(t, &values, to, lanes);
}

/// The extrema of at most 16 channels over some rows.
fn group_extrema(
    t: &mut Task<'_>,
    (from, to): (Value, Value),
    (zero, rows): (Value, Value),
    channels: usize,
    lanes: usize,
) {
    let vectors = lanes.div_ceil(WORD);
    let start = |t: &mut Task<'_>, x: i32| {
        let x = clif::splat(&mut t.b, types::I32X4, i64::from(x));
        let vars: Vec<Variable> = (0..vectors).map(|_| t.b.declare_var(types::I32X4)).collect();
        vars.iter().for_each(|&v| t.b.def_var(v, x));
        vars
    };
    let (least, greatest) = (start(t, i32::MAX), start(t, i32::MIN));
    t.range(zero, rows, &mut |t, row| {
        let at = t.at(from, row, channels * WORD);
        let values = clif::load_lanes(&mut t.b, types::I32, at, lanes);
        for (i, &x) in values.iter().take(vectors).enumerate() {
            let (lo, hi) = (t.b.use_var(least[i]), t.b.use_var(greatest[i]));
            let (lo, hi) = (t.b.ins().smin(lo, x), t.b.ins().smax(hi, x));
            t.b.def_var(least[i], lo);
            t.b.def_var(greatest[i], hi);
        }
    });
    for (vars, offset) in [(least, 0), (greatest, channels * WORD)] {
        let to = t.plus(to, offset);
        let values: Vec<Value> = vars.iter().map(|&v| t.b.use_var(v)).collect();
        store_words(t, &values, to, lanes);
    }
}

/// Stores the first lanes of vectors of 32-bit lanes.
pub(super) fn store_words(t: &mut Task<'_>, values: &[Value], to: Value, lanes: usize) {
    for (i, &value) in values.iter().enumerate() {
        let used = lanes.saturating_sub(i * WORD).min(WORD);
        if used > 0 {
            let bytes = clif::cast(&mut t.b, types::I8X16, value);
            clif::store_bytes(&mut t.b, bytes, to, (i * VECTOR) as i32, used * WORD);
        }
    }
}

/// A 32-bit number in memory, as 64 bits.
pub(super) fn word(t: &mut Task<'_>, base: Value, index: usize) -> Value {
    let x = t.b.ins().load(types::I32, memory(), base, (index * WORD) as i32);
    t.b.ins().sextend(types::I64, x)
}

pub(super) fn store_word(t: &mut Task<'_>, x: Value, base: Value, index: usize) {
    let x = t.b.ins().ireduce(types::I32, x);
    t.b.ins().store(memory(), x, base, (index * WORD) as i32);
}

pub(super) fn number(t: &mut Task<'_>, x: i64) -> Value {
    t.b.ins().iconst(types::I64, x)
}

/// Mantissa and exponent as [`qcc_num::dynamic::Scale::of`] reads them.
pub(super) fn scale(t: &mut Task<'_>, base: Value) -> (Value, Value) {
    let (mantissa, exponent) = (word(t, base, 0), word(t, base, 1));
    let least = number(t, 1 << 30);
    let (low, high) = (number(t, -(1 << 24)), number(t, 1 << 24));
    let exponent = t.b.ins().smax(exponent, low);
    (t.b.ins().smax(mantissa, least), t.b.ins().smin(exponent, high))
}

/// Number of bits of a number that is not negative.
pub(super) fn bits(t: &mut Task<'_>, x: Value) -> Value {
    let zeros = t.b.ins().clz(x);
    let all = number(t, 64);
    t.b.ins().isub(all, zeros)
}

/// The first 31 bits of a positive number.
pub(super) fn leading(t: &mut Task<'_>, x: Value) -> Value {
    let zeros = t.b.ins().clz(x);
    let normal = t.b.ins().ishl(x, zeros);
    t.b.ins().ushr_imm_s(normal, 33)
}

/// `round(x / 2^shift)` for a shift of at least 1.
pub(super) fn round_shift(t: &mut Task<'_>, x: Value, shift: Value) -> Value {
    let before = t.b.ins().iadd_imm_s(shift, -1);
    let one = number(t, 1);
    let half = t.b.ins().ishl(one, before);
    let sum = t.b.ins().iadd(x, half);
    t.b.ins().sshr(sum, shift)
}

/// A running maximum.
pub(super) fn raise(t: &mut Task<'_>, var: Variable, x: Value) {
    let old = t.b.use_var(var);
    let new = t.b.ins().smax(old, x);
    t.b.def_var(var, new);
}

pub(super) fn variable(t: &mut Task<'_>, x: i64) -> Variable {
    let var = t.b.declare_var(types::I64);
    let x = number(t, x);
    t.b.def_var(var, x);
    var
}

/// `int.dynamic_scale`, in one unit: equations (8) to (11). Extrema wait in the places of biases and multipliers.
pub fn dynamic_scale(t: &mut Task<'_>, rule: &Rule, operands: &[Place], result: &Place) {
    let [parts, _, channels] = operands[0].dims[..] else { unreachable!("extrema are [parts, 2, C]") };
    let addresses: Vec<Value> = operands.iter().map(|p| t.address(p)).collect();
    let out = t.address(result);
    t.units(&mut |t, _| {
        let (weights, biases) = (addresses[2], addresses[3]);
        let first = t.plus(out, HEADER * WORD);
        let second = t.plus(first, channels * WORD);
        let greatest = variable(t, 0);
        t.count(channels, &mut |t, c| {
            let from = t.at(addresses[0], c, WORD);
            let (least, most) = (variable(t, i64::from(i32::MAX)), variable(t, i64::from(i32::MIN)));
            t.count(parts, &mut |t, part| {
                let at = t.at(from, part, 2 * channels * WORD);
                let (lo, hi) = (word(t, at, 0), word(t, at, channels));
                let old = t.b.use_var(least);
                let lo = t.b.ins().smin(old, lo);
                t.b.def_var(least, lo);
                raise(t, most, hi);
            });
            for (var, base) in [(least, first), (most, second)] {
                let (x, to) = (t.b.use_var(var), t.at(base, c, WORD));
                store_word(t, x, to, 0);
                let size = t.b.ins().iabs(x);
                raise(t, greatest, size);
            }
        });
        let (mantissa, exponent) = scale(t, addresses[1]);
        let one = number(t, 1 << 61);
        let inverse = t.b.ins().udiv(one, mantissa);
        // k = 61 + e - eb; d = max(33 - k, bits - 30)
        let k = t.b.ins().iadd_imm_s(exponent, 61 - i64::from(rule.bias_exponent));
        let most = number(t, 33);
        let for_bias = t.b.ins().isub(most, k);
        let size = t.b.use_var(greatest);
        let size = bits(t, size);
        let for_sums = t.b.ins().iadd_imm_s(size, -30);
        let dropped = t.b.ins().smax(for_bias, for_sums);
        let shift = t.b.ins().iadd(k, dropped);
        let last = number(t, 63);
        let shift = t.b.ins().smin(shift, last);
        let (none, limit) = (number(t, 0), number(t, 31));
        let negated = t.b.ins().ineg(dropped);
        let left = t.b.ins().smax(negated, none);
        let right = t.b.ins().smax(dropped, none);
        let right = t.b.ins().smin(right, limit);
        // Where ceilings are: k' + d, at least 1 where they count.
        let ceiling_shift = t.b.ins().iadd_imm_s(exponent, 61 - i64::from(rule.ceiling_exponent));
        let ceiling_shift = t.b.ins().iadd(ceiling_shift, dropped);
        let (product, value) = (variable(t, 1), variable(t, 0));
        t.count(channels, &mut |t, c| {
            let (low, high) = (t.at(first, c, WORD), t.at(second, c, WORD));
            let (w, bias) = (t.at(weights, c, WORD), t.at(biases, c, WORD));
            let (w, bias) = (word(t, w, 0), word(t, bias, 0));
            let bias = t.b.ins().imul(bias, inverse);
            let bias = round_shift(t, bias, shift);
            let ceiling = addresses.get(4).map(|&ceilings| {
                let from = t.at(ceilings, c, WORD);
                let top = word(t, from, 0);
                let top = t.b.ins().imul(top, inverse);
                let (one, most) = (number(t, 1), number(t, i64::from(i32::MAX)));
                let counts = t.b.ins().icmp(IntCC::SignedGreaterThanOrEqual, ceiling_shift, one);
                let down = t.b.ins().smax(ceiling_shift, one);
                let down = t.b.ins().smin(down, last);
                let top = round_shift(t, top, down);
                let top = t.b.ins().smin(top, most);
                let top = t.b.ins().select(counts, top, most);
                let to = t.at(second, c, WORD);
                store_word(t, top, to, channels);
                top
            });
            for end in [low, high] {
                let acc = word(t, end, 0);
                let acc = t.b.ins().ishl(acc, left);
                let acc = t.b.ins().sshr(acc, right);
                let v = t.b.ins().iadd(acc, bias);
                let v = ceiling.map_or(v, |top| t.b.ins().smin(v, top));
                let v = if rule.rectify { t.b.ins().smax(v, none) } else { t.b.ins().iabs(v) };
                raise(t, value, v);
                let real = t.b.ins().imul(v, w);
                raise(t, product, real);
            }
            store_word(t, bias, low, 0);
        });
        let levels = number(t, if rule.rectify { 255 } else { 127 });
        let product = t.b.use_var(product);
        let (length, head) = (bits(t, product), leading(t, product));
        let scaled = t.b.ins().imul(mantissa, head);
        let quotient = t.b.ins().udiv(scaled, levels);
        let quotient_bits = bits(t, quotient);
        let new_mantissa = leading(t, quotient);
        let new_exponent = t.b.ins().iadd(exponent, dropped);
        let new_exponent = t.b.ins().iadd(new_exponent, length);
        let new_exponent = t.b.ins().iadd(new_exponent, quotient_bits);
        let new_exponent = t.b.ins().iadd_imm_s(new_exponent, i64::from(rule.weight_exponent) - 62);
        let value = t.b.use_var(value);
        let value_bits = bits(t, value);
        let shl = t.b.ins().isub(limit, value_bits);
        let most = number(t, 30);
        let shl = t.b.ins().smin(shl, most);
        for (i, x) in [new_mantissa, new_exponent, left, right, shl].into_iter().enumerate() {
            store_word(t, x, out, i);
        }
        let numerator = t.b.ins().ishl_imm_s(levels, 52);
        let ratio = t.b.ins().udiv(numerator, head);
        let down = t.b.ins().iadd(shl, length);
        let down = t.b.ins().iadd_imm_s(down, -17);
        let most = number(t, i64::from(i32::MAX));
        t.count(channels, &mut |t, c| {
            let w = t.at(weights, c, WORD);
            let w = word(t, w, 0);
            let mult = t.b.ins().imul(w, ratio);
            let mult = round_shift(t, mult, down);
            let mult = t.b.ins().smin(mult, most);
            let to = t.at(second, c, WORD);
            store_word(t, mult, to, 0);
        });
    });
}

/// `int.align_scales`, in one unit: equation (13).
pub fn align_scales(t: &mut Task<'_>, operands: &[Place], result: &Place) {
    let (a, b, out) = (t.address(&operands[0]), t.address(&operands[1]), t.address(result));
    t.units(&mut |t, _| {
        let ((ma, ea), (mb, eb)) = (scale(t, a), scale(t, b));
        let higher = t.b.ins().icmp(IntCC::SignedGreaterThan, eb, ea);
        let level = t.b.ins().icmp(IntCC::Equal, eb, ea);
        let greater = t.b.ins().icmp(IntCC::SignedGreaterThan, mb, ma);
        let both = t.b.ins().band(level, greater);
        let swapped = t.b.ins().bor(higher, both);
        let mut pick = |x: Value, y: Value| t.b.ins().select(swapped, x, y);
        let (great, great_exponent) = (pick(mb, ma), pick(eb, ea));
        let (small, small_exponent) = (pick(ma, mb), pick(ea, eb));
        let scaled = t.b.ins().ishl_imm_s(small, 16);
        let ratio = t.b.ins().udiv(scaled, great);
        let apart = t.b.ins().isub(great_exponent, small_exponent);
        let shift = t.b.ins().iadd_imm_s(apart, 2);
        let most = number(t, 31);
        let shift = t.b.ins().smin(shift, most);
        let factor = round_shift(t, ratio, shift);
        let one = number(t, 1 << ALIGN_BITS);
        let (ka, kb) = (t.b.ins().select(swapped, factor, one), t.b.ins().select(swapped, one, factor));
        let exponent = t.b.ins().iadd_imm_s(great_exponent, -i64::from(ALIGN_BITS));
        for (i, x) in [great, exponent, ka, kb].into_iter().enumerate() {
            store_word(t, x, out, i);
        }
    });
}

/// Whether parameters hold ceilings.
fn has_ceilings(operands: &[Place], result: &Place) -> bool {
    let channels = result.dims.last().copied().unwrap_or(1);
    operands[1].elements() == HEADER + 3 * channels
}

/// The vectors of one constant for each channel behind the header of the parameters, and the accumulators.
fn requant_operands(operands: &[Place], result: &Place) -> Vec<Place> {
    let channels = result.dims.last().copied().unwrap_or(1);
    let vector = |first: usize| Place {
        offset: operands[1].offset + (HEADER + first) * WORD,
        dims: vec![channels],
        strides: vec![WORD],
        ..operands[1].clone()
    };
    let mut places = vec![operands[0].clone(), vector(0), vector(channels)];
    if has_ceilings(operands, result) {
        places.push(vector(2 * channels));
    }
    places.iter().map(|p| p.broadcast(&result.dims)).collect()
}

/// Iteration space of `int.dynamic_requant`.
pub fn requant_loops(operands: &[Place], result: &Place) -> Loops {
    loops(&requant_operands(operands, result), result)
}

/// `int.dynamic_requant` by leaves, each of which does a block of channels of every row.
pub struct WideRequant {
    /// The leaves, and the channel that each begins with.
    leaves: Vec<(FuncId, usize)>,
    loops: Loops,
    /// Rows of a unit where rows are all there is.
    rows: usize,
}

/// Accumulators of a unit of a single run of rows.
const UNIT: usize = 1 << 14;

impl WideRequant {
    /// Units of the task.
    pub fn units(&self) -> usize {
        match &self.loops.outer[..] {
            [only] => only.extent.div_ceil(self.rows),
            outer => outer[0].extent,
        }
    }

    /// Emits the task.
    pub fn emit(&self, t: &mut Task<'_>, operands: &[Place], result: &Place) {
        let (acc, params, to) = (t.address(&operands[0]), t.address(&operands[1]), t.address(result));
        let channels = result.dims.last().copied().unwrap_or(1);
        let (last, levels) = self.loops.outer.split_last().expect("a loop over rows");
        let call = |t: &mut Task<'_>, [acc, to]: [Value; 2], rows: Value| {
            for &(leaf, first) in &self.leaves {
                let (acc, to) = (t.plus(acc, first * WORD), t.plus(to, first));
                let bias = t.plus(params, (HEADER + first) * WORD);
                let mult = t.plus(bias, channels * WORD);
                t.call(leaf, &[acc, params, bias, mult, to, rows]);
            }
        };
        let Some((first, rest)) = levels.split_first() else {
            return t.units(&mut |t, unit| {
                let start = t.b.ins().imul_imm_s(unit, self.rows as i64);
                let (all, most) = (t.word(last.extent), t.word(self.rows));
                let left = t.b.ins().isub(all, start);
                let rows = t.b.ins().umin(left, most);
                let at = [t.at(acc, start, last.strides[0]), t.at(to, start, last.strides[1])];
                call(t, at, rows);
            });
        };
        t.units(&mut |t, unit| {
            let at = [t.at(acc, unit, first.strides[0]), t.at(to, unit, first.strides[1])];
            nest(t, rest, at, &mut |t, at| {
                let rows = t.word(last.extent);
                call(t, at, rows);
            });
        });
    }
}

fn nest<'a>(t: &mut Task<'a>, levels: &[Level], at: [Value; 2], body: &mut dyn FnMut(&mut Task<'a>, [Value; 2])) {
    match levels {
        [] => body(t, at),
        [level, rest @ ..] => t.count(level.extent, &mut |t, i| {
            let at = [t.at(at[0], i, level.strides[0]), t.at(at[1], i, level.strides[1])];
            nest(t, rest, at, body);
        }),
    }
}

impl Builder<'_> {
    /// The leaves of `int.dynamic_requant`, if the target has them.
    pub(super) fn wide_requant(
        &mut self,
        rectify: bool,
        operands: &[Place],
        result: &Place,
    ) -> Result<Option<WideRequant>, Diags> {
        let Some((&all, outer)) = result.dims.split_last() else { return Ok(None) };
        let (acc, rows) = (&operands[0], outer.len());
        let dense = [acc, result].iter().all(|p| p.strides[rows] == p.element);
        if self.options.target.backend() != Backend::Avx512 || !dense {
            return Ok(None);
        }
        let mut loops = Loops::new(outer, &[&acc.strides[..rows], &result.strides[..rows]]);
        loops.outer.push(Level { extent: loops.run, strides: loops.inner.clone() });
        let steps = loops.inner.clone();
        let mut leaves = Vec::new();
        for first in (0..all).step_by(BLOCK) {
            let channels = BLOCK.min(all - first);
            let ceiling = has_ceilings(operands, result).then_some(2 * WORD * all);
            let spec = DynamicSpec { channels, acc_step: steps[0], out_step: steps[1], rectify, ceiling };
            let id = match self.dynamic_leaves.get(&spec) {
                Some(&id) => id,
                None => {
                    let name = format!("dynamic_{:03}", self.dynamic_leaves.len());
                    let id = self.declare(&name, Linkage::Local, &signature(self.module.target_config()))?;
                    self.define_bytes(id, &name, &emit_avx512(&spec).map_err(bug)?)?;
                    self.dynamic_leaves.insert(spec, id);
                    id
                }
            };
            leaves.push((id, first));
        }
        Ok(Some(WideRequant { leaves, loops, rows: (UNIT / all).max(1) }))
    }
}

/// `int.dynamic_requant`: equations (8) and (12).
pub fn dynamic_requant(t: &mut Task<'_>, rectify: bool, operands: &[Place], result: &Place) {
    let loops = requant_loops(operands, result);
    let params = t.address(&operands[1]);
    let header = |t: &mut Task<'_>, i: usize| t.b.ins().load(types::I32, memory(), params, (i * WORD) as i32);
    let (left, right, shl) = (header(t, 2), header(t, 3), header(t, 4));
    let places = requant_operands(operands, result);
    let mut bases: Vec<Value> = places.iter().map(|p| t.address(p)).collect();
    bases.push(t.address(result));
    let splats: Vec<bool> = loops.inner.iter().map(|&s| s == 0).collect();
    t.lanes(&loops, &bases, &mut |t, at, lanes| {
        let mut load = |i: usize| -> Vec<Value> {
            if splats[i] {
                let x = t.b.ins().load(types::I32, memory(), at[i], 0);
                return vec![t.b.ins().splat(types::I32X4, x); WORD];
            }
            clif::load_lanes(&mut t.b, types::I32, at[i], lanes)
        };
        let (acc, bias, mult) = (load(0), load(1), load(2));
        let ceilings = has_ceilings(operands, result).then(|| load(3));
        let values = [0, 1, 2, 3].map(|i| {
            let x = t.b.ins().ishl(acc[i], left);
            let x = t.b.ins().sshr(x, right);
            let mut v = t.b.ins().iadd(x, bias[i]);
            if rectify {
                let zero = clif::splat(&mut t.b, types::I32X4, 0);
                v = t.b.ins().smax(v, zero);
            }
            if let Some(ceilings) = &ceilings {
                v = t.b.ins().smin(v, ceilings[i]);
            }
            t.b.ins().ishl(v, shl)
        });
        let bytes = clif::requantize(&mut t.b, values, [mult[0], mult[1], mult[2], mult[3]], &epilogue(rectify));
        clif::store_bytes(&mut t.b, bytes, at[at.len() - 1], 0, lanes);
    });
}

/// `int.dynamic_add`: `(a - Za) * ka + (b - Zb) * kb`.
pub fn dynamic_add(t: &mut Task<'_>, zeros: &[i64], operands: &[Place], result: &Place) {
    let loops = loops(&operands[..2], result);
    let factors = t.address(&operands[2]);
    let factor = |t: &mut Task<'_>, i: usize| {
        let k = t.b.ins().load(types::I32, memory(), factors, ((2 + i) * WORD) as i32);
        t.b.ins().splat(types::I32X4, k)
    };
    let factors = [factor(t, 0), factor(t, 1)];
    let mut bases: Vec<Value> = operands[..2].iter().map(|p| t.address(p)).collect();
    bases.push(t.address(result));
    let splats: Vec<bool> = loops.inner.iter().map(|&s| s == 0).collect();
    t.lanes(&loops, &bases, &mut |t, at, lanes| {
        let mut term = |i: usize| {
            let bytes = if splats[i] {
                let x = t.b.ins().load(types::I8, memory(), at[i], 0);
                t.b.ins().splat(types::I8X16, x)
            } else {
                clif::load_bytes(&mut t.b, at[i], 0, lanes)
            };
            let zero = clif::splat(&mut t.b, types::I32X4, zeros[i]);
            clif::widen_bytes(&mut t.b, bytes).map(|x| {
                let centred = t.b.ins().isub(x, zero);
                t.b.ins().imul(centred, factors[i])
            })
        };
        let (a, b) = (term(0), term(1));
        let sums: Vec<Value> = a.into_iter().zip(b).map(|(a, b)| t.b.ins().iadd(a, b)).collect();
        store_words(t, &sums, at[2], lanes);
    });
}
