//! Steps that choose elements by what they or others are: `tensor.where`, `tensor.top_k` and positions of greatest elements.

use std::cmp::Ordering;

use cranelift_codegen::ir::{InstBuilder, Type, Value, condcodes::IntCC, types};
use qcc_ir::ops::Move;
use qcc_ir::{Attrs, Elem, Int, attr};

use super::collapse::Loops;
use super::elementwise::loops;
use super::task::Task;
use crate::clif;
use crate::plan::BufferView;

/// Emits a change between integers of different widths, or of integers to booleans; one element at a time.
pub fn cast(t: &mut Task<'_>, [from, to]: &[Elem; 2], operands: &[BufferView], result: &BufferView) {
    let loops = loops(operands, result);
    let bases = [t.address(&operands[0]), t.address(result)];
    let (narrow, wide) = (clif::lane_type(operands[0].element), clif::lane_type(result.element));
    let has_sign = from.storage().is_some_and(|int| Int::min(int) < 0);
    let inner = loops.inner.clone();
    t.lanes(&loops, &bases, &mut |t, at, lanes| {
        for i in 0..lanes {
            let x = t.b.ins().load(narrow, clif::memory(), at[0], (i * inner[0]) as i32);
            let y = match (*to == Elem::Bool, narrow.bytes().cmp(&wide.bytes())) {
                (true, _) => t.b.ins().icmp_imm_s(IntCC::NotEqual, x, 0),
                (false, Ordering::Less) if has_sign => t.b.ins().sextend(wide, x),
                (false, Ordering::Less) => t.b.ins().uextend(wide, x),
                (false, Ordering::Greater) => t.b.ins().ireduce(wide, x),
                (false, Ordering::Equal) => x,
            };
            t.b.ins().store(clif::memory(), y, at[1], (i * inner[1]) as i32);
        }
    });
}

/// Emits a choice between elements; its units are those of `loops`, over both operands, the condition and the result.
pub fn choose(t: &mut Task<'_>, loops: &Loops, operands: &[BufferView], result: &BufferView) {
    let bases: Vec<Value> = operands.iter().chain([result]).map(|p| t.address(p)).collect();
    let inner = loops.inner.clone();
    if result.element != 1 {
        let lane = clif::lane_type(result.element);
        return t.lanes(loops, &bases, &mut |t, at, lanes| {
            for i in 0..lanes {
                let load = |t: &mut Task<'_>, ty: Type, k: usize| {
                    t.b.ins().load(ty, clif::memory(), at[k], (i * inner[k]) as i32)
                };
                let (x, y, condition) = (load(t, lane, 0), load(t, lane, 1), load(t, types::I8, 2));
                let chosen = t.b.ins().select(condition, x, y);
                t.b.ins().store(clif::memory(), chosen, at[3], (i * inner[3]) as i32);
            }
        });
    }
    t.lanes(loops, &bases, &mut |t, at, lanes| {
        let load = |t: &mut Task<'_>, i: usize| match inner[i] {
            1 => clif::load_bytes(&mut t.b, at[i], 0, lanes),
            step => {
                let mut bytes = clif::splat(&mut t.b, types::I8X16, 0);
                for lane in 0..lanes {
                    let byte = t.b.ins().load(types::I8, clif::memory(), at[i], (lane * step) as i32);
                    bytes = t.b.ins().insertlane(bytes, byte, lane as u8);
                }
                bytes
            }
        };
        let [x, y, condition] = [0, 1, 2].map(|i| load(t, i));
        let zero = clif::splat(&mut t.b, types::I8X16, 0);
        let off = t.b.ins().icmp(IntCC::Equal, condition, zero);
        let bytes = t.b.ins().bitselect(off, y, x);
        if inner[3] == 1 || lanes == 1 {
            return clif::store_bytes(&mut t.b, bytes, at[3], 0, lanes);
        }
        for lane in 0..lanes {
            let byte = t.b.ins().extractlane(bytes, lane as u8);
            t.b.ins().store(clif::memory(), byte, at[3], (lane * inner[3]) as i32);
        }
    });
}

/// Codes of 8 or 16 bits along an axis in order, or their positions.
pub struct Order {
    x: BufferView,
    result: BufferView,
    axis: usize,
    k: usize,
    largest: bool,
    last: bool,
    positions: bool,
}

impl Order {
    /// What a node stands for.
    pub fn new(op: Move, attrs: &Attrs, x: &BufferView, result: &BufferView) -> Order {
        let axis = attrs.get(attr::AXIS) as usize;
        let mut result = result.clone();
        if op == Move::ArgMax && !attrs.get(attr::KEEPDIMS) {
            result.dims.insert(axis, 1);
            result.strides.insert(axis, 0);
        }
        Order {
            x: x.clone(),
            result,
            axis,
            k: if op == Move::ArgMax { 1 } else { attrs.get(attr::K) as usize },
            largest: op == Move::ArgMax || attrs.get(attr::LARGEST),
            last: op == Move::ArgMax && attrs.get(attr::LAST),
            positions: op != Move::TopK,
        }
    }

    /// Units: a row along the axis.
    pub fn units(&self) -> usize {
        self.x.elements() / self.x.dims[self.axis].max(1)
    }

    /// Emits the task. Value and position of an element make one number, so that no two are equal: each round finds the
    /// greatest of those below the last one found.
    pub fn emit(&self, t: &mut Task<'_>) {
        let (x, y) = (t.address(&self.x), t.address(&self.result));
        let lane = clif::lane_type(self.x.element);
        // Codes of 16 bits have a sign: as unsigned numbers they count from the least. The order is reversed by the complement.
        let (order, all) = if self.x.element == 2 { (0x8000, 0xFFFF) } else { (0, 0xFF) };
        let flip = if self.largest { order } else { order ^ all };
        let mut rows = self.x.dims.clone();
        rows[self.axis] = 1;
        t.units(&mut |t, unit| {
            let [from, to] = t.element(unit, &rows, [x, y], [&self.x.strides, &self.result.strides]);
            let (found, best) = (t.b.declare_var(types::I64), t.b.declare_var(types::I64));
            let top = t.b.ins().iconst(types::I64, i64::MAX);
            t.b.def_var(found, top);
            t.count(self.k, &mut |t, round| {
                let none = t.b.ins().iconst(types::I64, -1);
                t.b.def_var(best, none);
                t.count(self.x.dims[self.axis], &mut |t, i| {
                    let at = t.at(from, i, self.x.strides[self.axis]);
                    let code = t.b.ins().load(lane, clif::memory(), at, 0);
                    let mut value = t.b.ins().uextend(types::I64, code);
                    if flip != 0 {
                        value = t.b.ins().bxor_imm_s(value, flip);
                    }
                    let high = t.b.ins().ishl_imm_s(value, 32);
                    let low = if self.last { i } else { t.b.ins().bxor_imm_s(i, i64::from(u32::MAX)) };
                    let key = t.b.ins().bor(high, low);
                    let (f, b) = (t.b.use_var(found), t.b.use_var(best));
                    let below = t.b.ins().icmp(IntCC::SignedLessThan, key, f);
                    let candidate = t.b.ins().select(below, key, none);
                    let b = t.b.ins().smax(b, candidate);
                    t.b.def_var(best, b);
                });
                let b = t.b.use_var(best);
                t.b.def_var(found, b);
                let low = t.b.ins().band_imm_s(b, i64::from(u32::MAX));
                let position = if self.last { low } else { t.b.ins().bxor_imm_s(low, i64::from(u32::MAX)) };
                let at = t.at(to, round, self.result.strides[self.axis]);
                if self.positions {
                    t.b.ins().store(clif::memory(), position, at, 0);
                } else {
                    let source = t.at(from, position, self.x.strides[self.axis]);
                    let code = t.b.ins().load(lane, clif::memory(), source, 0);
                    t.b.ins().store(clif::memory(), code, at, 0);
                }
            });
        });
    }
}
