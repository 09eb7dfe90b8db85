//! `tensor.gather` at positions that are known at run time only: rows of a table, as embeddings are.

use cranelift_codegen::ir::{InstBuilder, Value, condcodes::IntCC, types};
use qcc_ir::{Attrs, Elem, Int, Type, attr};

use super::task::Task;
use crate::clif::{self, VECTOR};
use crate::plan::BufferView;

/// Slices of one value at positions that another holds.
pub struct Lookup {
    data: BufferView,
    indices: BufferView,
    result: BufferView,
    axis: usize,
    wrap: bool,
    signed: bool,
}

impl Lookup {
    /// What a node stands for; `positions` is the type of its indices.
    pub fn new(attrs: &Attrs, positions: &Type, operands: &[BufferView], result: &BufferView) -> Lookup {
        let signed = positions.elem.storage() != Some(Int::U8) && positions.elem != Elem::Bool;
        Lookup {
            data: operands[0].clone(),
            indices: operands[1].clone(),
            result: result.clone(),
            axis: attrs.get(attr::AXIS) as usize,
            wrap: attrs.get(attr::WRAP),
            signed,
        }
    }

    /// Units: a slice, one for each position and each index before the axis.
    pub fn units(&self) -> usize {
        self.data.dims[..self.axis].iter().product::<usize>() * self.indices.elements()
    }

    /// Emits the task. Whatever the positions are, only elements of the data are read.
    pub fn emit(&self, t: &mut Task<'_>) {
        let bases = [&self.data, &self.indices, &self.result].map(|p| t.address(p));
        let rank = self.indices.dims.len();
        let behind = self.axis + rank;
        let in_data = [&self.data.strides[..self.axis], &vec![0; rank]].concat();
        let in_indices = [&vec![0; self.axis], &self.indices.strides[..]].concat();
        let in_result = &self.result.strides[..];
        t.units(&mut |t, unit| {
            let [from, at, to] =
                t.element(unit, &self.result.dims[..behind], bases, [&in_data, &in_indices, in_result]);
            let position = self.position(t, at);
            let from = t.at(from, position, self.data.strides[self.axis]);
            self.slice(t, from, to, self.axis + 1, behind);
        });
    }

    /// The position at an address, within the extent of the axis.
    fn position(&self, t: &mut Task<'_>, at: Value) -> Value {
        let extent = self.data.dims[self.axis] as i64;
        let lane = clif::lane_type(self.indices.element);
        let mut p = t.b.ins().load(lane, clif::memory(), at, 0);
        if lane != types::I64 {
            p = if self.signed { t.b.ins().sextend(types::I64, p) } else { t.b.ins().uextend(types::I64, p) };
        }
        let zero = t.b.ins().iconst(types::I64, 0);
        let last = t.b.ins().iconst(types::I64, extent - 1);
        if self.wrap {
            let wrapped = t.b.ins().iadd_imm_s(p, extent);
            let negative = t.b.ins().icmp(IntCC::SignedLessThan, p, zero);
            p = t.b.ins().select(negative, wrapped, p);
        }
        // As an unsigned number, what is negative still lies behind the last.
        t.b.ins().umin(p, last)
    }

    /// Copies the dimensions of the data from `d` on, which are those of the result from `e` on.
    fn slice(&self, t: &mut Task<'_>, from: Value, to: Value, d: usize, e: usize) {
        let element = self.data.element;
        let dense = |view: &BufferView, from: usize| BufferView {
            dims: view.dims[from..].to_vec(),
            strides: view.strides[from..].to_vec(),
            ..view.clone()
        };
        let (x, y) = (dense(&self.data, d), dense(&self.result, e));
        if x.is_dense() && y.is_dense() {
            let bytes = x.elements() * element;
            t.count(bytes / VECTOR, &mut |t, i| {
                let (from, to) = (t.at(from, i, VECTOR), t.at(to, i, VECTOR));
                let vector = clif::load_bytes(&mut t.b, from, 0, VECTOR);
                clif::store_bytes(&mut t.b, vector, to, 0, VECTOR);
            });
            if !bytes.is_multiple_of(VECTOR) {
                let (from, to) = (t.plus(from, bytes - bytes % VECTOR), t.plus(to, bytes - bytes % VECTOR));
                let vector = clif::load_bytes(&mut t.b, from, 0, bytes % VECTOR);
                clif::store_bytes(&mut t.b, vector, to, 0, bytes % VECTOR);
            }
            return;
        }
        t.count(self.data.dims[d], &mut |t, i| {
            let (from, to) = (t.at(from, i, self.data.strides[d]), t.at(to, i, self.result.strides[e]));
            self.slice(t, from, to, d + 1, e + 1);
        });
    }
}
