//! Normalization of rows by `qcc_num::norm`; a unit is one row.

use cranelift_codegen::ir::{InstBuilder, Value, condcodes::IntCC, types};
use qcc_ir::Attrs;
use qcc_num::norm::MEAN_BITS;
use qcc_num::requant::FRACTION_BITS;

use super::collapse::{Level, Loops};
use super::task::Task;
use crate::clif;
use crate::plan::Place;

/// A normalization over the dimensions from `axis` on; multipliers and offsets are broadcast to the operand.
pub struct LayerNorm {
    x: Place,
    mult: Place,
    offset: Place,
    result: Place,
    axis: usize,
    epsilon: i64,
    bounds: [i64; 2],
}

impl LayerNorm {
    /// The normalization that a node stands for.
    pub fn new(attrs: &Attrs, operands: &[Place], result: &Place) -> LayerNorm {
        LayerNorm {
            x: operands[0].clone(),
            mult: operands[1].broadcast(&result.dims),
            offset: operands[2].broadcast(&result.dims),
            result: result.clone(),
            axis: attrs.int("axis") as usize,
            epsilon: attrs.int("epsilon"),
            bounds: [attrs.int("lo"), attrs.int("hi")],
        }
    }

    /// Units: rows.
    pub fn units(&self) -> usize {
        self.x.dims[..self.axis].iter().product()
    }

    /// Emits the task.
    pub fn emit(&self, t: &mut Task<'_>) {
        let places = [&self.x, &self.mult, &self.offset, &self.result];
        let bases = places.map(|p| t.address(p));
        t.units(&mut |t, unit| {
            let strides = [&self.x, &self.mult, &self.offset, &self.result].map(|p| &p.strides[..]);
            let at = t.element(unit, &self.x.dims[..self.axis], bases, strides);
            self.row(t, at);
        });
    }

    /// Calls `body` with the addresses of each element of the row and of what belongs to it.
    fn elements<'a>(&self, t: &mut Task<'a>, at: [Value; 4], body: &mut dyn FnMut(&mut Task<'a>, &[Value])) {
        let strides = [&self.x, &self.mult, &self.offset, &self.result].map(|p| &p.strides[self.axis..]);
        let Loops { mut outer, run, inner } = Loops::new(&self.x.dims[self.axis..], &strides);
        outer.push(Level { extent: run, strides: inner });
        t.nest(&outer, &at, body);
    }

    fn row(&self, t: &mut Task<'_>, at: [Value; 4]) {
        let length: usize = self.x.dims[self.axis..].iter().product();
        let zero = t.b.ins().iconst(types::I64, 0);
        let sum = t.b.declare_var(types::I64);
        t.b.def_var(sum, zero);
        self.elements(t, at, &mut |t, at| {
            let (x, s) = (code(t, at[0]), t.b.use_var(sum));
            let s = t.b.ins().iadd(s, x);
            t.b.def_var(sum, s);
        });
        // (8)
        let s = t.b.use_var(sum);
        let scaled = t.b.ins().ishl_imm_s(s, i64::from(MEAN_BITS));
        let rounded = t.b.ins().iadd_imm_s(scaled, length as i64 / 2);
        let n = t.b.ins().iconst(types::I64, length as i64);
        let mean = t.b.ins().udiv(rounded, n);
        // (9)
        let start = t.b.ins().iconst(types::I64, self.epsilon);
        t.b.def_var(sum, start);
        self.elements(t, at, &mut |t, at| {
            let d = distance(t, at[0], mean);
            let square = t.b.ins().imul(d, d);
            let s = t.b.use_var(sum);
            let s = t.b.ins().iadd(s, square);
            t.b.def_var(sum, s);
        });
        let w = t.b.use_var(sum);
        let one = t.b.ins().iconst(types::I64, 1);
        let w = t.b.ins().umax(w, one);
        // (10)
        let zeros = t.b.ins().clz(w);
        let even = t.b.ins().band_imm_s(zeros, -2);
        let normal = t.b.ins().ishl(w, even);
        let root = square_root(t, normal);
        let most = t.b.ins().iconst(types::I64, i64::MIN);
        let reciprocal = t.b.ins().udiv(most, root);
        let half = t.b.ins().ushr_imm_s(even, 1);
        let top = t.b.ins().iconst(types::I64, 33);
        let shift = t.b.ins().isub(top, half);
        // (11), (12)
        let [lo, hi] = self.bounds.map(|v| t.b.ins().iconst(types::I64, v));
        self.elements(t, at, &mut |t, at| {
            let d = distance(t, at[0], mean);
            let product = t.b.ins().imul(d, reciprocal);
            let u = t.b.ins().sshr(product, shift);
            let wide = |t: &mut Task<'_>, at: Value| {
                let narrow = t.b.ins().load(types::I32, clif::memory(), at, 0);
                t.b.ins().sextend(types::I64, narrow)
            };
            let (mult, offset) = (wide(t, at[1]), wide(t, at[2]));
            let product = t.b.ins().imul(u, mult);
            let high = t.b.ins().sshr_imm_s(product, 32);
            let v = t.b.ins().iadd(high, offset);
            let v = t.b.ins().sshr_imm_s(v, i64::from(FRACTION_BITS));
            let v = t.b.ins().smax(v, lo);
            let v = t.b.ins().smin(v, hi);
            t.b.ins().istore8(clif::memory(), v, at[3], 0);
        });
    }
}

fn code(t: &mut Task<'_>, at: Value) -> Value {
    let byte = t.b.ins().load(types::I8, clif::memory(), at, 0);
    t.b.ins().uextend(types::I64, byte)
}

/// `2^10 * x - mean`.
fn distance(t: &mut Task<'_>, at: Value, mean: Value) -> Value {
    let x = code(t, at);
    let scaled = t.b.ins().ishl_imm_s(x, i64::from(MEAN_BITS));
    t.b.ins().isub(scaled, mean)
}

/// The floor of the square root of an unsigned number, bit by bit from the highest.
fn square_root(t: &mut Task<'_>, w: Value) -> Value {
    let root = t.b.declare_var(types::I64);
    let bit = t.b.declare_var(types::I64);
    let zero = t.b.ins().iconst(types::I64, 0);
    let highest = t.b.ins().iconst(types::I64, 1 << 31);
    t.b.def_var(root, zero);
    t.b.def_var(bit, highest);
    t.count(32, &mut |t, _| {
        let (r, b) = (t.b.use_var(root), t.b.use_var(bit));
        let candidate = t.b.ins().bor(r, b);
        let square = t.b.ins().imul(candidate, candidate);
        let fits = t.b.ins().icmp(IntCC::UnsignedLessThanOrEqual, square, w);
        let r = t.b.ins().select(fits, candidate, r);
        t.b.def_var(root, r);
        let b = t.b.ins().ushr_imm_s(b, 1);
        t.b.def_var(bit, b);
    });
    t.b.use_var(root)
}
