//! Steps that compute each element from the elements at the same position: 16 bytes at a time on every target.

use cranelift_codegen::ir::{InstBuilder, Value, types};
use qcc_ir::ops::IntOp;
use qcc_ir::{Attrs, Diags, attr};
use qcc_num::affine::Affine;
use qcc_num::requant::Epilogue;

use super::builder::{Builder, Operation, TaskCost};
use super::collapse::Loops;
use super::task::Task;
use crate::clif;
use crate::plan::BufferView;

impl Builder<'_> {
    /// Records a task that goes through the elements of the result and of `views`.
    pub(super) fn each(
        &mut self,
        o: &Operation<'_>,
        views: &[BufferView],
        kernel: &str,
        emit: impl FnOnce(&mut Task<'_>),
    ) -> Result<(), Diags> {
        let units = loops(views, o.result).units();
        self.task_of(o, units, TaskCost::of(kernel), emit)
    }
}

/// The common iteration space of the operands, broadcast to the result, and of the result.
pub fn loops(operands: &[BufferView], result: &BufferView) -> Loops {
    let operands: Vec<BufferView> = operands.iter().map(|p| p.broadcast(&result.dims)).collect();
    let strides: Vec<&[usize]> = operands.iter().chain([result]).map(|p| p.strides.as_slice()).collect();
    let elements: Vec<usize> = operands.iter().chain([result]).map(|p| p.element).collect();
    Loops::new(&result.dims, &strides).dense(&elements)
}

/// The operands of an elementwise operator in a form that [`BufferView::broadcast`] can stretch to the result: a table is not
/// indexed by position, and a vector of one constant for each channel lies along the last dimension.
pub fn broadcastable(op: IntOp, operands: &[BufferView], result: &BufferView) -> Vec<BufferView> {
    let mut views = operands.to_vec();
    let is_table = matches!(op, IntOp::Lut | IntOp::Lut2);
    if let Some(p) = views.get_mut(op.data(operands.len())).filter(|_| is_table) {
        *p = BufferView { dims: Vec::new(), strides: Vec::new(), ..p.clone() };
    }
    views.iter().map(|p| p.broadcast(&result.dims)).collect()
}

/// What an elementwise operator computes of sixteen elements, with its constants.
enum Function {
    Clamp { lo: u8, hi: u8 },
    Rescale { mult: i64, rule: Affine },
    Add { mults: [i64; 2], rule: Affine },
    Mul { zeros: [i64; 2], mult: i64, rule: Epilogue },
    ScaleChannels(Affine),
    Requant(Epilogue),
    Lut,
    Lut2,
}

impl Function {
    /// That of an operator, if it is elementwise.
    fn of(op: IntOp, attrs: &Attrs) -> Option<Function> {
        let pair = |key: attr::Key<Vec<i64>>| {
            let values = attrs.get(key);
            [values[0], values[1]]
        };
        Some(match op {
            IntOp::Clamp => Function::Clamp { lo: attrs.get(attr::LO) as u8, hi: attrs.get(attr::HI) as u8 },
            IntOp::Rescale => {
                Function::Rescale { mult: attrs.get(attr::MULT), rule: attrs.affine(attrs.get(attr::OFFSET) as i32) }
            }
            IntOp::Add => {
                Function::Add { mults: pair(attr::MULTS), rule: attrs.affine(attrs.get(attr::OFFSET) as i32) }
            }
            IntOp::Mul => {
                Function::Mul { zeros: pair(attr::ZEROS), mult: attrs.get(attr::MULT), rule: attrs.epilogue() }
            }
            IntOp::ScaleChannels => Function::ScaleChannels(attrs.affine(0)),
            IntOp::Requant => Function::Requant(attrs.epilogue()),
            IntOp::Lut => Function::Lut,
            IntOp::Lut2 => Function::Lut2,
            _ => return None,
        })
    }

    /// Its results as bytes; `load` gives an operand. Tables are looked up elsewhere.
    fn bytes(&self, t: &mut Task<'_>, load: impl Fn(&mut Task<'_>, usize) -> Vec<Value>) -> Value {
        match self {
            Function::Clamp { lo, hi } => {
                let x = load(t, 0)[0];
                clif::clamp(&mut t.b, x, *lo, *hi)
            }
            Function::Rescale { mult, rule } => {
                let x = load(t, 0)[0];
                let x = clif::widen_bytes(&mut t.b, x);
                let sums = x.map(|x| scaled(t, x, *mult, i64::from(rule.offset)));
                clif::affine(&mut t.b, sums, rule)
            }
            Function::Add { mults, rule } => {
                let (x, y) = (load(t, 0)[0], load(t, 1)[0]);
                let (x, y) = (clif::widen_bytes(&mut t.b, x), clif::widen_bytes(&mut t.b, y));
                let mut sums = x.map(|x| scaled(t, x, mults[0], i64::from(rule.offset)));
                for (sum, y) in sums.iter_mut().zip(y) {
                    let y = scaled(t, y, mults[1], 0);
                    *sum = t.b.ins().iadd(*sum, y);
                }
                clif::affine(&mut t.b, sums, rule)
            }
            Function::Mul { zeros, mult, rule } => {
                let (x, y) = (load(t, 0)[0], load(t, 1)[0]);
                let mult = clif::splat(&mut t.b, types::I32X4, *mult);
                let (x, y) = (clif::widen_bytes(&mut t.b, x), clif::widen_bytes(&mut t.b, y));
                let mut products = x.map(|x| scaled(t, x, 1, -zeros[0]));
                for (product, y) in products.iter_mut().zip(y) {
                    let y = scaled(t, y, 1, -zeros[1]);
                    *product = t.b.ins().imul(*product, y);
                }
                clif::requantize(&mut t.b, products, [mult; 4], rule)
            }
            Function::ScaleChannels(rule) => {
                let x = load(t, 0)[0];
                let (mult, offset) = (load(t, 1), load(t, 2));
                let mult = widen_i16(t, &mult);
                let mut sums = clif::widen_bytes(&mut t.b, x);
                for (i, sum) in sums.iter_mut().enumerate() {
                    let product = t.b.ins().imul(*sum, mult[i]);
                    *sum = t.b.ins().iadd(product, offset[i]);
                }
                clif::affine(&mut t.b, sums, rule)
            }
            Function::Requant(rule) => {
                let (acc, mult) = (load(t, 0), load(t, 1));
                let four = |v: &[Value]| [v[0], v[1], v[2], v[3]];
                clif::requantize(&mut t.b, four(&acc), four(&mult), rule)
            }
            Function::Lut | Function::Lut2 => unreachable!("a table is looked up element by element"),
        }
    }
}

/// Emits the task of an elementwise operator; its units are [`Loops::units`].
pub fn emit(t: &mut Task<'_>, op: IntOp, attrs: &Attrs, operands: &[BufferView], result: &BufferView) {
    let Some(function) = Function::of(op, attrs) else { unreachable!("{op:?} is not elementwise") };
    let loops = loops(operands, result);
    let mut bases: Vec<Value> = operands.iter().map(|p| t.address(p)).collect();
    bases.push(t.address(result));
    match function {
        Function::Lut => return lut(t, &loops, &bases),
        Function::Lut2 => return lut2(t, &loops, &bases),
        _ => {}
    }
    let elements: Vec<usize> = operands.iter().map(|p| p.element).collect();
    let splats: Vec<bool> = loops.inner.iter().map(|&s| s == 0).collect();
    t.lanes(&loops, &bases, &mut |t, at, lanes| {
        let bytes = function.bytes(t, |t, i| operand(t, at[i], elements[i], splats[i], lanes));
        clif::store_bytes(&mut t.b, bytes, at[at.len() - 1], 0, lanes);
    });
}

/// Sixteen lanes of an operand: one vector of bytes, two of 16-bit, four of 32-bit or eight of 64-bit lanes.
pub(super) fn operand(t: &mut Task<'_>, at: Value, element: usize, splat: bool, lanes: usize) -> Vec<Value> {
    let lane = clif::lane_type(element);
    if splat {
        let value = t.b.ins().load(lane, clif::memory(), at, 0);
        let vector = t.b.ins().splat(lane.by((clif::VECTOR / element) as u32).unwrap_or(types::I8X16), value);
        return vec![vector; element];
    }
    clif::load_lanes(&mut t.b, lane, at, lanes)
}

/// `x * mult + offset` in 32 bits.
fn scaled(t: &mut Task<'_>, x: Value, mult: i64, offset: i64) -> Value {
    let product = match mult {
        1 => x,
        _ => {
            let mult = clif::splat(&mut t.b, types::I32X4, mult);
            t.b.ins().imul(x, mult)
        }
    };
    if offset == 0 {
        return product;
    }
    let offset = clif::splat(&mut t.b, types::I32X4, offset);
    t.b.ins().iadd(product, offset)
}

/// Two vectors of 16-bit lanes as four of 32-bit lanes.
fn widen_i16(t: &mut Task<'_>, i16s: &[Value]) -> Vec<Value> {
    let halves = |t: &mut Task<'_>, w: Value| [t.b.ins().swiden_low(w), t.b.ins().swiden_high(w)];
    i16s.iter().flat_map(|&w| halves(t, w)).collect()
}

/// One table look-up a byte; there is no gather of bytes in 128-bit vectors.
pub(super) fn lut(t: &mut Task<'_>, loops: &Loops, bases: &[Value]) {
    let table = bases[1];
    let inner = [loops.inner[0], loops.inner[2]];
    t.lanes(loops, bases, &mut |t, at, lanes| {
        for i in 0..lanes {
            let x = t.b.ins().load(types::I8, clif::memory(), at[0], (i * inner[0]) as i32);
            let index = t.b.ins().uextend(t.pointer, x);
            let entry = t.b.ins().iadd(table, index);
            let y = t.b.ins().load(types::I8, clif::memory(), entry, 0);
            t.b.ins().store(clif::memory(), y, at[2], (i * inner[1]) as i32);
        }
    });
}

/// The same with two operands.
fn lut2(t: &mut Task<'_>, loops: &Loops, bases: &[Value]) {
    let table = bases[2];
    let inner = [loops.inner[0], loops.inner[1], loops.inner[3]];
    t.lanes(loops, bases, &mut |t, at, lanes| {
        for i in 0..lanes {
            let a = t.b.ins().load(types::I8, clif::memory(), at[0], (i * inner[0]) as i32);
            let b = t.b.ins().load(types::I8, clif::memory(), at[1], (i * inner[1]) as i32);
            let (row, column) = (t.b.ins().uextend(t.pointer, a), t.b.ins().uextend(t.pointer, b));
            let row = t.b.ins().ishl_imm_s(row, 8);
            let index = t.b.ins().iadd(row, column);
            let entry = t.b.ins().iadd(table, index);
            let y = t.b.ins().load(types::I8, clif::memory(), entry, 0);
            t.b.ins().store(clif::memory(), y, at[3], (i * inner[2]) as i32);
        }
    });
}
