//! Softmax along the last dimension; a unit is one position of all the others. See `int.softmax` in the operator table.

use cranelift_codegen::ir::{InstBuilder, Value, types};
use qcc_ir::Attrs;

use super::elementwise::lane_type;
use super::task::Task;
use crate::clif::{self, VECTOR};
use crate::plan::Place;

/// Elements of a loop body.
const UNROLL: usize = 4;

/// Fraction bits of a probability times the greatest result.
const FRACTION: i64 = 40;

/// A softmax of codes of 8 or 16 bits.
pub struct Softmax<'p> {
    x: &'p Place,
    /// Exponentials by the distance from the greatest code, i32.
    table: &'p Place,
    result: &'p Place,
    mult: i64,
}

impl<'p> Softmax<'p> {
    /// The softmax that a node stands for.
    pub fn new(attrs: &Attrs, operands: &'p [Place], result: &'p Place) -> Softmax<'p> {
        Softmax { x: &operands[0], table: &operands[1], result, mult: attrs.int("mult") }
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
        [self.x, self.result].map(|place| place.strides[self.last()])
    }

    /// Emits the task.
    pub fn emit(&self, t: &mut Task<'_>) {
        let (x, result, table) = (t.address(self.x), t.address(self.result), t.address(self.table));
        t.units(&mut |t, unit| {
            let strides = [&self.x.strides[..], &self.result.strides];
            let row = t.element(unit, &self.x.dims[..self.last()], [x, result], strides);
            let greatest = self.greatest(t, row[0]);
            let sum = t.b.declare_var(types::I64);
            let zero = t.b.ins().iconst(types::I64, 0);
            t.b.def_var(sum, zero);
            self.each(t, row, &mut |t, at, i| {
                let (e, s) = (self.exponential(t, table, greatest, at[0], i), t.b.use_var(sum));
                let s = t.b.ins().iadd(s, e);
                t.b.def_var(sum, s);
            });
            let (sum, one) = (t.b.use_var(sum), t.b.ins().iconst(types::I64, self.mult << 32));
            let reciprocal = t.b.ins().udiv(one, sum);
            let half = t.b.ins().iconst(types::I64, 1 << (FRACTION - 1));
            self.each(t, row, &mut |t, at, i| {
                let e = self.exponential(t, table, greatest, at[0], i);
                let scaled = t.b.ins().imul(e, reciprocal);
                let rounded = t.b.ins().iadd(scaled, half);
                let q = t.b.ins().ushr_imm_s(rounded, FRACTION);
                self.store(t, q, at[1], i);
            });
        });
    }

    /// Calls `body` for each element of a row with addresses near it and its number from there.
    fn each<'a>(&self, t: &mut Task<'a>, row: [Value; 2], body: &mut dyn FnMut(&mut Task<'a>, &[Value], usize)) {
        let steps = self.steps().map(|step| step * UNROLL);
        let length = self.length();
        t.count(length / UNROLL, &mut |t, round| {
            let at = t.moved(&row, round, &steps);
            (0..UNROLL).for_each(|i| body(t, &at, i));
        });
        let done = t.word(length / UNROLL);
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
        self.each(t, [from; 2], &mut |t, at, i| {
            let (x, g) = (self.code(t, at[0], i), t.b.use_var(greatest));
            let g = t.b.ins().umax(x, g);
            t.b.def_var(greatest, g);
        });
        t.b.use_var(greatest)
    }

    /// A code; those of 16 bits count from the least.
    fn code(&self, t: &mut Task<'_>, at: Value, i: usize) -> Value {
        let code = t.b.ins().load(lane_type(self.x.element), clif::memory(), at, (i * self.steps()[0]) as i32);
        let code = t.b.ins().uextend(types::I64, code);
        if self.x.element == 2 { t.b.ins().bxor_imm_s(code, 0x8000) } else { code }
    }

    fn exponential(&self, t: &mut Task<'_>, table: Value, greatest: Value, at: Value, i: usize) -> Value {
        let code = self.code(t, at, i);
        let below = t.b.ins().isub(greatest, code);
        let distance = t.b.ins().ishl_imm_s(below, 2);
        let entry = t.b.ins().iadd(table, distance);
        let e = t.b.ins().load(types::I32, clif::memory(), entry, 0);
        t.b.ins().uextend(types::I64, e)
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
