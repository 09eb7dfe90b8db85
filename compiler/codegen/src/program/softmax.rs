//! Softmax along the last dimension; a unit is one position of all the others. See `int.softmax` in the operator table.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, StackSlotData, StackSlotKind, Value, types};
use qcc_ir::Attrs;
use qcc_ir::attr;

use super::task::Task;
use crate::clif::{self, VECTOR};
use crate::plan::BufferView;

/// Elements of a loop body.
const UNROLL: usize = 4;

/// Fraction bits of a probability times the greatest result.
const FRACTION: i64 = 40;

/// Longest row whose exponentials are kept between their sum and their shares.
const LONGEST: usize = 2048;

/// A softmax of codes of 8 or 16 bits.
pub struct Softmax<'p> {
    x: &'p BufferView,
    /// Exponentials by the distance from the greatest code, i32.
    table: &'p BufferView,
    result: &'p BufferView,
    mult: i64,
    masked: bool,
}

/// What the exponentials of a row depend on.
#[derive(Clone, Copy)]
struct Row {
    table: Value,
    greatest: Value,
    /// Codes below are switched off.
    least: Option<Value>,
}

impl<'p> Softmax<'p> {
    /// The softmax that a node stands for.
    pub fn new(attrs: &Attrs, operands: &'p [BufferView], result: &'p BufferView) -> Softmax<'p> {
        Softmax {
            x: &operands[0],
            table: &operands[1],
            result,
            mult: attrs.get(attr::MULT),
            masked: attrs.get(attr::MASKED),
        }
    }

    /// Units: rows.
    pub fn units(&self) -> usize {
        self.result.elements() / self.length().max(1)
    }

    fn last(&self) -> usize {
        self.x.dims.len() - 1
    }

    fn length(&self) -> usize {
        self.x.dims[self.last()]
    }

    /// Bytes from element to element of operand and result.
    fn steps(&self) -> [usize; 2] {
        [self.x, self.result].map(|view| view.strides[self.last()])
    }

    /// Emits the task.
    pub fn emit(&self, t: &mut Task<'_>) {
        let (x, result, table) = (t.address(self.x), t.address(self.result), t.address(self.table));
        let kept = (self.length() <= LONGEST && self.result.element == 1 && self.steps()[1] == 1).then(|| {
            let bytes = 4 * self.length().next_multiple_of(VECTOR) as u32;
            let slot = t.b.create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, bytes, 4));
            t.b.ins().stack_addr(t.pointer, slot, 0)
        });
        t.units(&mut |t, unit| {
            let strides = [&self.x.strides[..], &self.result.strides];
            let at = t.element(unit, &self.x.dims[..self.last()], [x, result], strides);
            let greatest = self.greatest(t, at[0]);
            let least = self.masked.then(|| {
                let one = t.b.ins().iconst(types::I64, 1);
                t.b.ins().umin(greatest, one)
            });
            let row = Row { table, greatest, least };
            let sum = self.sum(t, row, at[0], kept);
            let one = t.b.ins().iconst(types::I64, self.mult << 32);
            let reciprocal = t.b.ins().udiv(one, sum);
            let Some(kept) = kept else { return self.shares(t, row, at, reciprocal) };
            // It is beyond 32 bits where the table is not one of exponentials with 30 fraction bits.
            let beyond = t.b.ins().ushr_imm_s(reciprocal, 32);
            t.when(beyond, &mut |t| self.shares(t, row, at, reciprocal));
            let fits = t.b.ins().icmp_imm_s(IntCC::Equal, beyond, 0);
            t.when(fits, &mut |t| shares_of(t, kept, at[1], self.length(), reciprocal));
        });
    }

    /// The sum of the exponentials of a row; stores each, if there is a place to keep them.
    fn sum(&self, t: &mut Task<'_>, row: Row, x: Value, kept: Option<Value>) -> Value {
        let sum = t.b.declare_var(types::I64);
        let zero = t.b.ins().iconst(types::I64, 0);
        t.b.def_var(sum, zero);
        self.each(t, [x, kept.unwrap_or(x)], [self.steps()[0], 4], &mut |t, at, i| {
            let (e, s) = (self.exponential(t, row, at[0], i), t.b.use_var(sum));
            if kept.is_some() {
                t.b.ins().istore32(clif::memory(), e, at[1], 4 * i as i32);
            }
            let s = t.b.ins().iadd(s, e);
            t.b.def_var(sum, s);
        });
        t.b.use_var(sum)
    }

    /// Shares one by one.
    fn shares(&self, t: &mut Task<'_>, row: Row, at: [Value; 2], reciprocal: Value) {
        let half = t.b.ins().iconst(types::I64, 1 << (FRACTION - 1));
        self.each(t, at, self.steps(), &mut |t, at, i| {
            let e = self.exponential(t, row, at[0], i);
            let scaled = t.b.ins().imul(e, reciprocal);
            let rounded = t.b.ins().iadd(scaled, half);
            let q = t.b.ins().ushr_imm_s(rounded, FRACTION);
            self.store(t, q, at[1], i);
        });
    }

    /// Calls `body` for each element of a row with addresses near it and its number from there.
    fn each<'a>(
        &self,
        t: &mut Task<'a>,
        row: [Value; 2],
        steps: [usize; 2],
        body: &mut dyn FnMut(&mut Task<'a>, &[Value], usize),
    ) {
        let steps = steps.map(|step| step * UNROLL);
        let length = self.length();
        t.count(length / UNROLL, &mut |t, round| {
            let at = t.moved(&row, round, &steps);
            (0..UNROLL).for_each(|i| body(t, &at, i));
        });
        let done = t.iconst_ptr(length / UNROLL);
        let at = t.moved(&row, done, &steps);
        (0..length % UNROLL).for_each(|i| body(t, &at, i));
    }

    /// The greatest code of a row.
    fn greatest(&self, t: &mut Task<'_>, from: Value) -> Value {
        if self.x.element == 1 && self.steps()[0] == 1 {
            return greatest_byte(t, from, self.length());
        }
        let greatest = t.b.declare_var(types::I64);
        let zero = t.b.ins().iconst(types::I64, 0);
        t.b.def_var(greatest, zero);
        self.each(t, [from; 2], self.steps(), &mut |t, at, i| {
            let (x, g) = (self.code(t, at[0], i), t.b.use_var(greatest));
            let g = t.b.ins().umax(x, g);
            t.b.def_var(greatest, g);
        });
        t.b.use_var(greatest)
    }

    /// A code; those of 16 bits count from the least.
    fn code(&self, t: &mut Task<'_>, at: Value, i: usize) -> Value {
        let code = t.b.ins().load(clif::lane_type(self.x.element), clif::memory(), at, (i * self.steps()[0]) as i32);
        let code = t.b.ins().uextend(types::I64, code);
        if self.x.element == 2 { t.b.ins().bxor_imm_s(code, 0x8000) } else { code }
    }

    fn exponential(&self, t: &mut Task<'_>, row: Row, at: Value, i: usize) -> Value {
        let code = self.code(t, at, i);
        let below = t.b.ins().isub(row.greatest, code);
        let distance = t.b.ins().ishl_imm_s(below, 2);
        let entry = t.b.ins().iadd(row.table, distance);
        let e = t.b.ins().load(types::I32, clif::memory(), entry, 0);
        let e = t.b.ins().uextend(types::I64, e);
        let Some(least) = row.least else { return e };
        let (off, zero) = (t.b.ins().icmp(IntCC::UnsignedLessThan, code, least), t.b.ins().iconst(types::I64, 0));
        t.b.ins().select(off, zero, e)
    }

    fn store(&self, t: &mut Task<'_>, q: Value, at: Value, i: usize) {
        let at_byte = (i * self.steps()[1]) as i32;
        let most = if self.result.element == 2 { 65535 } else { 255 };
        // No exponential exceeds their sum, so that no result exceeds `mult / 2^8`, rounded.
        let q = if (self.mult + 128) >> 8 > most {
            let most = t.b.ins().iconst(types::I64, most);
            t.b.ins().umin(q, most)
        } else {
            q
        };
        if self.result.element == 2 {
            let q = t.b.ins().bxor_imm_s(q, 0x8000);
            t.b.ins().istore16(clif::memory(), q, at, at_byte);
        } else {
            t.b.ins().istore8(clif::memory(), q, at, at_byte);
        }
    }
}

/// Shares of kept exponentials, as bytes side by side; of the reciprocal its low 32 bits.
fn shares_of(t: &mut Task<'_>, kept: Value, to: Value, length: usize, reciprocal: Value) {
    let reciprocal = t.b.ins().ireduce(types::I32, reciprocal);
    let reciprocal = clif::spread(&mut t.b, reciprocal);
    t.vectors(length, &[kept, to], &[4, 1], &mut |t, at, lanes| {
        let b = &mut t.b;
        let half = clif::splat(b, types::I64X2, 1 << (FRACTION - 1));
        let i32s = clif::load_lanes(b, types::I32, at[0], VECTOR);
        let i32s: Vec<Value> = i32s
            .into_iter()
            .map(|e| {
                let (x, y) = (b.ins().uwiden_low(e), b.ins().uwiden_low(reciprocal));
                let low = b.ins().imul(x, y);
                let (x, y) = (b.ins().uwiden_high(e), b.ins().uwiden_high(reciprocal));
                let high = b.ins().imul(x, y);
                let shares = [low, high].map(|scaled| {
                    let rounded = b.ins().iadd(scaled, half);
                    let q = b.ins().ushr_imm_s(rounded, FRACTION);
                    clif::cast(b, types::I8X16, q)
                });
                clif::low_halves(b, shares)
            })
            .collect();
        let halves = [b.ins().snarrow(i32s[0], i32s[1]), b.ins().snarrow(i32s[2], i32s[3])];
        let bytes = b.ins().unarrow(halves[0], halves[1]);
        clif::store_bytes(b, bytes, at[1], 0, lanes);
    });
}

/// The greatest of bytes side by side.
fn greatest_byte(t: &mut Task<'_>, from: Value, length: usize) -> Value {
    let greatest = t.b.declare_var(types::I8X16);
    let zero = clif::splat(&mut t.b, types::I8X16, 0);
    t.b.def_var(greatest, zero);
    t.vectors(length, &[from], &[1], &mut |t, at, lanes| {
        let (x, g) = (clif::load_bytes(&mut t.b, at[0], 0, lanes), t.b.use_var(greatest));
        let g = t.b.ins().umax(x, g);
        t.b.def_var(greatest, g);
    });
    let mut greatest = t.b.use_var(greatest);
    for half in [8, 4, 2, 1u8] {
        let order = (0..VECTOR as u8).map(|i| (i + half) % VECTOR as u8).collect::<Vec<u8>>();
        let mask = t.b.func.dfg.immediates.push(order.as_slice().into());
        let other = t.b.ins().shuffle(greatest, greatest, mask);
        greatest = t.b.ins().umax(greatest, other);
    }
    let greatest = t.b.ins().extractlane(greatest, 0);
    t.b.ins().uextend(types::I64, greatest)
}
