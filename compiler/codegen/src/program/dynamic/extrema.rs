//! The least and the greatest accumulator of each channel.

use cranelift_codegen::ir::{InstBuilder, Value, types};
use cranelift_frontend::Variable;
use qcc_ir::Diags;
use qcc_ir::attr;

use super::number::I32_BYTES;
use crate::clif::{self, VECTOR, memory};
use crate::plan::{BufferView, PART_EXTREMA};
use crate::program::builder::{Builder, ExtremaParts, Operation, TaskCost, bug};
use crate::program::task::Task;

/// Lanes of 32 bits that a group of vectors holds.
const GROUP: usize = 16;

/// `int.extrema`: a unit is a part.
pub struct Extrema {
    /// Accumulators without gaps.
    pub acc: BufferView,
    /// `[parts, 2, C]`.
    pub result: BufferView,
    /// Positions of a part.
    pub rows: usize,
}

impl Builder<'_> {
    /// Emits an `int.extrema`: of the parts that a product has left, if there are any.
    pub(in crate::program) fn extrema(&mut self, o: &Operation<'_>) -> Result<(), Diags> {
        let rows = o.attrs.get(attr::ROWS) as usize;
        let (acc, result) = (o.operands[0].clone(), o.result.clone());
        if !acc.is_dense() {
            return Err(bug(format!("{}: accumulators with gaps", o.value)));
        }
        let parts = self.plan.part_extrema.get(&acc.buffer).zip(self.part_extrema.get(&acc.buffer));
        if let Some((&offset, parts)) = parts.filter(|_| rows >= acc.elements() / result.dims[2]) {
            let (from, parts) = (BufferView { offset, ..acc.clone() }, parts.clone());
            let extrema = Extrema { acc, result, rows };
            return self.task_of(o, 1, TaskCost::of("extrema of parts"), |t| extrema.emit_parts(t, &parts, &from));
        }
        let extrema = Extrema { acc, result, rows };
        self.task_of(o, extrema.units(), TaskCost::of("extrema"), |t| extrema.emit(t))
    }
}

impl Extrema {
    /// Units of the task.
    pub fn units(&self) -> usize {
        self.result.dims[0]
    }

    /// Emits the task where a product has taken the extrema of parts, which lie at `from`.
    pub fn emit_parts(&self, t: &mut Task<'_>, parts: &ExtremaParts, from: &BufferView) {
        let channels = self.result.dims[2];
        let (from, result) = (t.address(from), t.address(&self.result));
        t.units(&mut |t, _| {
            for (block, range) in parts.blocks.iter().enumerate() {
                let from = t.plus(from, block * parts.parts * PART_EXTREMA);
                for first in range.clone().step_by(GROUP) {
                    let lanes = GROUP.min(range.end - first);
                    for (half, is_least) in [(0, true), (1, false)] {
                        let at = t.plus(from, half * PART_EXTREMA / 2 + (first - range.start) * I32_BYTES);
                        let to = t.plus(result, (half * channels + first) * I32_BYTES);
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
        let zero = t.iconst_ptr(0);
        t.units(&mut |t, unit| {
            let from = t.at(acc, unit, self.rows * channels * I32_BYTES);
            let to = t.at(result, unit, 2 * channels * I32_BYTES);
            let first = t.b.ins().imul_imm_s(unit, self.rows as i64);
            let all = t.iconst_ptr(positions);
            let left = t.b.ins().isub(all, first);
            let most = t.iconst_ptr(self.rows);
            let rows = t.b.ins().umin(left, most);
            t.count(channels / GROUP, &mut |t, group| {
                let (from, to) = (t.at(from, group, GROUP * I32_BYTES), t.at(to, group, GROUP * I32_BYTES));
                group_extrema(t, (from, to), (zero, rows), channels, GROUP);
            });
            if !channels.is_multiple_of(GROUP) {
                let done = channels / GROUP * GROUP * I32_BYTES;
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
    let vars: Vec<Variable> = (0..lanes.div_ceil(I32_BYTES)).map(|_| t.b.declare_var(types::I32X4)).collect();
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
    clif::store_lanes(&mut t.b, types::I32, &values, to, lanes);
}

/// The extrema of at most 16 channels over some rows.
fn group_extrema(
    t: &mut Task<'_>,
    (from, to): (Value, Value),
    (zero, rows): (Value, Value),
    channels: usize,
    lanes: usize,
) {
    let vectors = lanes.div_ceil(I32_BYTES);
    let start = |t: &mut Task<'_>, x: i32| {
        let x = clif::splat(&mut t.b, types::I32X4, i64::from(x));
        let vars: Vec<Variable> = (0..vectors).map(|_| t.b.declare_var(types::I32X4)).collect();
        vars.iter().for_each(|&v| t.b.def_var(v, x));
        vars
    };
    let (least, greatest) = (start(t, i32::MAX), start(t, i32::MIN));
    t.range(zero, rows, &mut |t, row| {
        let at = t.at(from, row, channels * I32_BYTES);
        let values = clif::load_lanes(&mut t.b, types::I32, at, lanes);
        for (i, &x) in values.iter().take(vectors).enumerate() {
            let (lo, hi) = (t.b.use_var(least[i]), t.b.use_var(greatest[i]));
            let (lo, hi) = (t.b.ins().smin(lo, x), t.b.ins().smax(hi, x));
            t.b.def_var(least[i], lo);
            t.b.def_var(greatest[i], hi);
        }
    });
    for (vars, offset) in [(least, 0), (greatest, channels * I32_BYTES)] {
        let to = t.plus(to, offset);
        let values: Vec<Value> = vars.iter().map(|&v| t.b.use_var(v)).collect();
        clif::store_lanes(&mut t.b, types::I32, &values, to, lanes);
    }
}
