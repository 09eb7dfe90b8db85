//! Elementwise steps with 16 bits on either side: equations (20) and (21) of [`qcc_num::wide`] on vectors of two 64-bit lanes.

use cranelift_codegen::ir::{InstBuilder, Value, condcodes::IntCC, types};
use cranelift_module::{DataId, Linkage};
use qcc_ir::{Attrs, Diags, NodeId, attr};
use qcc_num::curve::{DIRECT, FARTHEST, FRACTION, OCTAVE, SIDE};
use qcc_num::wide::{limit, shift_of};

use super::builder::{Builder, Operation, bug};
use super::elementwise::{loops, operand};
use super::task::Task;
use crate::clif::{self, memory};
use crate::plan::BufferView;

/// Vectors of 64-bit lanes that hold sixteen elements.
const I64_VECTORS: usize = 8;

/// A constant of `int.combine`: the same everywhere, or read at each element.
enum Constant {
    One(i64),
    Each(BufferView),
}

/// What `int.combine` consists of.
struct Sum {
    bias: Constant,
    mult: Constant,
    offset: Constant,
    /// `A` of (21) beside `mult`, in the form of that; absent where no sum reaches it.
    limit: Option<(DataId, i64)>,
    factors: Vec<i64>,
    xs: Vec<BufferView>,
    rule: Rule,
}

/// Bounds and storage of the result.
#[derive(Clone, Copy)]
struct Rule {
    lo: i64,
    hi: i64,
    bits: u32,
}

impl Rule {
    fn of(attrs: &Attrs) -> Rule {
        Rule { lo: attrs.get(attr::LO), hi: attrs.get(attr::HI), bits: attrs.get(attr::BITS) as u32 }
    }
}

impl Builder<'_> {
    /// Emits an `int.combine`.
    pub(super) fn combine(&mut self, o: &Operation<'_>) -> Result<(), Diags> {
        let sum = self.sum(o.name, o.node, o.operands)?;
        self.each(o, &sum.views(), "int.combine", |t| combine(t, &sum, o.result))
    }

    fn sum(&mut self, name: &str, node: NodeId, operands: &[BufferView]) -> Result<Sum, Diags> {
        let values = self.graph.operands(node);
        let mut constants = Vec::new();
        for (&v, view) in values.iter().zip(operands).take(3) {
            let tensor = self.constant(v, node)?;
            let data = tensor.as_i64().ok_or_else(|| bug(format!("{name}: a constant is not i64")))?;
            let form = if let [x] = data { Constant::One(*x) } else { Constant::Each(view.clone()) };
            constants.push((data.to_vec(), form));
        }
        let [bias, mult, offset] =
            <[_; 3]>::try_from(constants).map_err(|_| bug(format!("{name}: a sum without constants")))?;
        let attrs = &self.graph.node(node).attrs;
        let factors = attrs.get(attr::FACTORS);
        let xs = operands[3..].to_vec();
        let greatest = |p: &BufferView| match p.element {
            1 => 255,
            2 => 1i64 << 15,
            _ => 1 << 31,
        };
        let terms: i64 = factors.iter().zip(&xs).map(|(f, x)| f.abs() * greatest(x)).sum();
        let reach = bias.0.iter().map(|b| b.abs()).max().unwrap_or(0) + terms;
        let limits: Vec<i64> = mult.0.iter().map(|&m| limit(m)).collect();
        let limit = match limits.iter().min() {
            Some(&least) if least < reach => {
                let bytes = limits.iter().flat_map(|x| x.to_le_bytes()).collect();
                Some((self.data(&format!("limits_{name}"), Linkage::Local, bytes)?, least))
            }
            _ => None,
        };
        Ok(Sum { bias: bias.1, mult: mult.1, offset: offset.1, limit, factors, xs, rule: Rule::of(attrs) })
    }
}

impl Sum {
    /// The views that change from element to element, in the order in which [`combine`] finds their addresses.
    fn views(&self) -> Vec<BufferView> {
        let mut views = self.xs.clone();
        for constant in [&self.bias, &self.mult, &self.offset] {
            if let Constant::Each(view) = constant {
                views.push(view.clone());
            }
        }
        if let (Some(_), Constant::Each(view)) = (&self.limit, &self.mult) {
            views.push(view.clone());
        }
        views
    }
}

/// Sixteen elements as four vectors of 32-bit lanes.
fn i32_lanes(t: &mut Task<'_>, at: Value, element: usize, splat: bool, lanes: usize) -> [Value; 4] {
    let x = operand(t, at, element, splat, lanes);
    match element {
        1 => clif::widen_bytes(&mut t.b, x[0]),
        2 => {
            let b = &mut t.b;
            [b.ins().swiden_low(x[0]), b.ins().swiden_high(x[0]), b.ins().swiden_low(x[1]), b.ins().swiden_high(x[1])]
        }
        _ => [x[0], x[1], x[2], x[3]],
    }
}

/// Four vectors of 32-bit lanes as eight of 64-bit lanes.
fn i64_lanes(t: &mut Task<'_>, x: [Value; 4]) -> [Value; I64_VECTORS] {
    std::array::from_fn(|i| match i % 2 {
        0 => t.b.ins().swiden_low(x[i / 2]),
        _ => t.b.ins().swiden_high(x[i / 2]),
    })
}

fn splat(t: &mut Task<'_>, x: i64) -> [Value; I64_VECTORS] {
    [clif::splat(&mut t.b, types::I64X2, x); I64_VECTORS]
}

/// `x` limited to `-limit..=limit`.
fn saturate(t: &mut Task<'_>, x: Value, limit: Value) -> Value {
    let above = t.b.ins().icmp(IntCC::SignedGreaterThan, x, limit);
    let x = t.b.ins().bitselect(above, limit, x);
    let least = t.b.ins().ineg(limit);
    let below = t.b.ins().icmp(IntCC::SignedGreaterThan, least, x);
    t.b.ins().bitselect(below, least, x)
}

/// Equation (21) of sixteen sums within its limit, with their multipliers and offsets, stored at `to`.
fn finish(t: &mut Task<'_>, [acc, mult, offset]: [[Value; I64_VECTORS]; 3], rule: Rule, to: Value, lanes: usize) {
    let scaled: [Value; I64_VECTORS] = std::array::from_fn(|i| {
        let product = t.b.ins().imul(acc[i], mult[i]);
        let sum = t.b.ins().iadd(product, offset[i]);
        clif::cast(&mut t.b, types::I8X16, sum)
    });
    // The high halves hold all bits above the fraction.
    let high = [4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31];
    let units: [Value; 4] = std::array::from_fn(|i| {
        let mask = t.b.func.dfg.immediates.push(high.as_slice().into());
        let halves = t.b.ins().shuffle(scaled[2 * i], scaled[2 * i + 1], mask);
        let halves = clif::cast(&mut t.b, types::I32X4, halves);
        t.b.ins().sshr_imm_s(halves, i64::from(shift_of(rule.bits)) - 32)
    });
    if rule.bits == 32 {
        let (lo, hi) = (clif::splat(&mut t.b, types::I32X4, rule.lo), clif::splat(&mut t.b, types::I32X4, rule.hi));
        let codes = units.map(|x| {
            let x = t.b.ins().smax(x, lo);
            t.b.ins().smin(x, hi)
        });
        return clif::store_lanes(&mut t.b, types::I32, &codes, to, lanes);
    }
    let (lo, hi) = (clif::splat(&mut t.b, types::I16X8, rule.lo), clif::splat(&mut t.b, types::I16X8, rule.hi));
    let codes = [0, 2].map(|i| {
        let x = t.b.ins().snarrow(units[i], units[i + 1]);
        let x = t.b.ins().smax(x, lo);
        t.b.ins().smin(x, hi)
    });
    if rule.bits == 16 {
        return clif::store_lanes(&mut t.b, types::I16, &codes, to, lanes);
    }
    let bytes = t.b.ins().unarrow(codes[0], codes[1]);
    clif::store_bytes(&mut t.b, bytes, to, 0, lanes);
}

/// `int.combine`.
fn combine(t: &mut Task<'_>, sum: &Sum, result: &BufferView) {
    let views = sum.views();
    let loops = loops(&views, result);
    let mut bases: Vec<Value> = views.iter().map(|p| t.address(p)).collect();
    if let (Some((data, _)), Constant::Each(view)) = (&sum.limit, &sum.mult) {
        let base = t.data(*data);
        if let Some(last) = bases.last_mut() {
            *last = t.plus(base, view.offset);
        }
    }
    bases.push(t.address(result));
    let elements: Vec<usize> = views.iter().map(|p| p.element).collect();
    let splats: Vec<bool> = loops.inner.iter().map(|&s| s == 0).collect();
    t.lanes(&loops, &bases, &mut |t, at, lanes| {
        let mut next = sum.xs.len();
        let mut constant = |t: &mut Task<'_>, c: &Constant| match c {
            Constant::One(x) => splat(t, *x),
            Constant::Each(_) => {
                let i = next;
                next += 1;
                let x = operand(t, at[i], elements[i], splats[i], lanes);
                std::array::from_fn(|k| x[k])
            }
        };
        let (mut acc, mult, offset) = (constant(t, &sum.bias), constant(t, &sum.mult), constant(t, &sum.offset));
        let limit = sum.limit.map(|(_, least)| match sum.mult {
            Constant::One(_) => constant(t, &Constant::One(least)),
            Constant::Each(_) => constant(t, &sum.mult),
        });
        for (i, &factor) in sum.factors.iter().enumerate() {
            let x = i32_lanes(t, at[i], elements[i], splats[i], lanes);
            let x = i64_lanes(t, x);
            let term: [Value; I64_VECTORS] = match factor {
                1 => x,
                f if f > 0 && f.count_ones() == 1 => x.map(|x| t.b.ins().ishl_imm_s(x, i64::from(f.trailing_zeros()))),
                f => {
                    // Both operands are extended numbers of 32 bits: one instruction multiplies them.
                    let f = clif::splat(&mut t.b, types::I32X4, f);
                    let f = t.b.ins().swiden_low(f);
                    x.map(|x| t.b.ins().imul(x, f))
                }
            };
            acc = std::array::from_fn(|k| t.b.ins().iadd(acc[k], term[k]));
        }
        if let Some(limit) = limit {
            acc = std::array::from_fn(|k| saturate(t, acc[k], limit[k]));
        }
        finish(t, [acc, mult, offset], sum.rule, at[at.len() - 1], lanes);
    });
}

/// `int.wide_mul`.
pub fn product(t: &mut Task<'_>, attrs: &Attrs, operands: &[BufferView], result: &BufferView) {
    let loops = loops(operands, result);
    let mut bases: Vec<Value> = operands.iter().map(|p| t.address(p)).collect();
    bases.push(t.address(result));
    let splats: Vec<bool> = loops.inner.iter().map(|&s| s == 0).collect();
    let zeros = attrs.get(attr::ZEROS);
    let (mult, offset) = (attrs.get(attr::MULT), attrs.get(attr::OFFSET));
    let most = limit(mult);
    t.lanes(&loops, &bases, &mut |t, at, lanes| {
        let centred = |t: &mut Task<'_>, i: usize| {
            let x = i32_lanes(t, at[i], operands[i].element, splats[i], lanes);
            let zero = clif::splat(&mut t.b, types::I32X4, zeros[i]);
            let x = x.map(|x| t.b.ins().isub(x, zero));
            i64_lanes(t, x)
        };
        let (a, b) = (centred(t, 0), centred(t, 1));
        let mut acc: [Value; I64_VECTORS] = std::array::from_fn(|k| t.b.ins().imul(a[k], b[k]));
        // No product of two differences of 16-bit numbers exceeds 2^32.
        if most < 1 << 32 {
            let limit = splat(t, most);
            acc = std::array::from_fn(|k| saturate(t, acc[k], limit[k]));
        }
        let (mult, offset) = (splat(t, mult), splat(t, offset));
        finish(t, [acc, mult, offset], Rule::of(attrs), at[at.len() - 1], lanes);
    });
}

/// `int.byte`.
pub fn byte(t: &mut Task<'_>, attrs: &Attrs, operands: &[BufferView], result: &BufferView) {
    let loops = loops(operands, result);
    let bases = [t.address(&operands[0]), t.address(result)];
    let splat = loops.inner[0] == 0;
    if operands[0].element == 4 {
        return t.lanes(&loops, &bases, &mut |t, at, lanes| {
            let x = operand(t, at[0], 4, splat, lanes);
            let (least, mask) =
                (clif::splat(&mut t.b, types::I32X4, 1 << 23), clif::splat(&mut t.b, types::I32X4, 0xFF));
            let mut part = |x: Value| {
                let x = t.b.ins().iadd(x, least);
                let x = t.b.ins().ushr_imm_s(x, 8 * attrs.get(attr::INDEX));
                t.b.ins().band(x, mask)
            };
            let parts = [part(x[0]), part(x[1]), part(x[2]), part(x[3])];
            let halves = [t.b.ins().snarrow(parts[0], parts[1]), t.b.ins().snarrow(parts[2], parts[3])];
            let bytes = t.b.ins().unarrow(halves[0], halves[1]);
            clif::store_bytes(&mut t.b, bytes, at[1], 0, lanes);
        });
    }
    let high = attrs.get(attr::HIGH);
    t.lanes(&loops, &bases, &mut |t, at, lanes| {
        let x = operand(t, at[0], 2, splat, lanes);
        let mut part = |x: Value| {
            if high {
                let sign = clif::splat(&mut t.b, types::I16X8, -0x8000);
                let x = t.b.ins().bxor(x, sign);
                return t.b.ins().ushr_imm_s(x, 8);
            }
            let low = clif::splat(&mut t.b, types::I16X8, 0xFF);
            t.b.ins().band(x, low)
        };
        let halves = [part(x[0]), part(x[1])];
        let bytes = t.b.ins().unarrow(halves[0], halves[1]);
        clif::store_bytes(&mut t.b, bytes, at[1], 0, lanes);
    });
}

/// `int.lut` from or to 16 bits: one look-up an element.
pub fn lut(t: &mut Task<'_>, x: &[BufferView], table: &BufferView, result: &BufferView) {
    let loops = loops(x, result);
    let bases = [t.address(&x[0]), t.address(result)];
    let table = t.address(table);
    let (from, to) = (clif::lane_type(x[0].element), clif::lane_type(result.element));
    let inner = loops.inner.clone();
    t.lanes(&loops, &bases, &mut |t, at, lanes| {
        for i in 0..lanes {
            let x = t.b.ins().load(from, memory(), at[0], (i * inner[0]) as i32);
            let mut index = t.b.ins().uextend(t.pointer, x);
            if from == types::I16 {
                index = t.b.ins().bxor_imm_s(index, 0x8000);
            }
            let entry = t.at(table, index, result.element);
            let y = t.b.ins().load(to, memory(), entry, 0);
            t.b.ins().store(memory(), y, at[1], (i * inner[1]) as i32);
        }
    });
}

/// `int.wide_div`: one division an element.
pub fn quotient(t: &mut Task<'_>, attrs: &Attrs, operands: &[BufferView], result: &BufferView) {
    let loops = loops(operands, result);
    let mut bases: Vec<Value> = operands.iter().map(|p| t.address(p)).collect();
    bases.push(t.address(result));
    let inner = loops.inner.clone();
    let (zeros, rule) = (attrs.get(attr::ZEROS), Rule::of(attrs));
    let (mult, shift, zero) = (attrs.get(attr::MULT), attrs.get(attr::SHIFT), attrs.get(attr::OFFSET));
    t.lanes(&loops, &bases, &mut |t, at, lanes| {
        for i in 0..lanes {
            let centred = |t: &mut Task<'_>, k: usize| {
                let lane = clif::lane_type(operands[k].element);
                let x = t.b.ins().load(lane, memory(), at[k], (i * inner[k]) as i32);
                let x = match operands[k].element {
                    1 => t.b.ins().uextend(types::I64, x),
                    _ => t.b.ins().sextend(types::I64, x),
                };
                t.b.ins().iadd_imm_s(x, -zeros[k])
            };
            let (a, b) = (centred(t, 0), centred(t, 1));
            let numerator = t.b.ins().imul_imm_s(a, mult);
            let [one, zero_point, lo, hi] = [1, zero, rule.lo, rule.hi].map(|x| t.b.ins().iconst(types::I64, x));
            let none = t.b.ins().icmp_imm_s(IntCC::Equal, b, 0);
            let divisor = t.b.ins().select(none, one, b);
            let quotient = t.b.ins().sdiv(numerator, divisor);
            let rounded = t.b.ins().iadd_imm_s(quotient, 1 << (shift - 1));
            let units = t.b.ins().sshr_imm_s(rounded, shift);
            let q = t.b.ins().iadd(units, zero_point);
            // What is divided by 0.
            let (above, below) = (
                t.b.ins().icmp_imm_s(IntCC::SignedGreaterThan, numerator, 0),
                t.b.ins().icmp_imm_s(IntCC::SignedLessThan, numerator, 0),
            );
            let end = t.b.ins().select(below, lo, zero_point);
            let end = t.b.ins().select(above, hi, end);
            let q = t.b.ins().select(none, end, q);
            let q = t.b.ins().smax(q, lo);
            let q = t.b.ins().smin(q, hi);
            let at = (at[2], (i * inner[2]) as i32);
            match rule.bits {
                16 => t.b.ins().istore16(memory(), q, at.0, at.1),
                _ => t.b.ins().istore8(memory(), q, at.0, at.1),
            };
        }
    });
}

/// `int.curve`: one look-up an element.
pub fn curve(t: &mut Task<'_>, attrs: &Attrs, x: &[BufferView], table: &BufferView, result: &BufferView) {
    let loops = loops(x, result);
    let bases = [t.address(&x[0]), t.address(result)];
    let table = t.address(table);
    let (inner, center) = (loops.inner.clone(), attrs.get(attr::CENTER));
    let (least, greatest) = if result.element == 2 { (-32768, 32767) } else { (0, 255) };
    t.lanes(&loops, &bases, &mut |t, at, lanes| {
        for i in 0..lanes {
            let x = t.b.ins().load(types::I32, memory(), at[0], (i * inner[0]) as i32);
            let x = t.b.ins().sextend(types::I64, x);
            let distance = t.b.ins().iadd_imm_s(x, -center);
            let v = curve_at(t, table, distance);
            let v = t.b.ins().iadd_imm_s(v, 1 << (FRACTION - 1));
            let q = t.b.ins().sshr_imm_s(v, i64::from(FRACTION));
            let [lo, hi] = [least, greatest].map(|x| t.b.ins().iconst(types::I64, x));
            let q = t.b.ins().smax(q, lo);
            let q = t.b.ins().smin(q, hi);
            let to = (i * inner[1]) as i32;
            match result.element {
                2 => t.b.ins().istore16(memory(), q, at[1], to),
                _ => t.b.ins().istore8(memory(), q, at[1], to),
            };
        }
    });
}

/// `v` of equation (31).
fn curve_at(t: &mut Task<'_>, table: Value, distance: Value) -> Value {
    let negative = t.b.ins().icmp_imm_s(IntCC::SignedLessThan, distance, 0);
    let other = t.plus(table, 4 * SIDE);
    let side = t.b.ins().select(negative, other, table);
    let (magnitude, farthest) = (t.b.ins().iabs(distance), t.b.ins().iconst(types::I64, FARTHEST));
    let d = t.b.ins().smin(magnitude, farthest);
    let zeros = t.b.ins().clz(d);
    let (none, below) = (t.b.ins().iconst(types::I64, 0), t.b.ins().iconst(types::I64, 64 - 9));
    let n = t.b.ins().isub(below, zeros);
    let n = t.b.ins().smax(n, none);
    let j = t.b.ins().ushr(d, n);
    // Octave `n` begins with sample 256.
    let row = t.b.ins().imul_imm_s(n, OCTAVE as i64);
    let row = t.b.ins().iadd_imm_s(row, DIRECT as i64 - 2 * OCTAVE as i64 + 1);
    let is_far = t.b.ins().icmp_imm_s(IntCC::NotEqual, n, 0);
    let row = t.b.ins().select(is_far, row, none);
    let sample = t.b.ins().iadd(row, j);
    let at = t.at(side, sample, 4);
    let first = t.b.ins().load(types::I32, memory(), at, 0);
    let next = t.b.ins().load(types::I32, memory(), at, 4);
    let (first, next) = (t.b.ins().sextend(types::I64, first), t.b.ins().sextend(types::I64, next));
    let begin = t.b.ins().ishl(j, n);
    let rest = t.b.ins().isub(d, begin);
    let rise = t.b.ins().isub(next, first);
    let rise = t.b.ins().imul(rise, rest);
    let rise = t.b.ins().sshr(rise, n);
    t.b.ins().iadd(first, rise)
}
