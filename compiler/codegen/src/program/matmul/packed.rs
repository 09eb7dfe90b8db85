//! Product of two computed matrices by the microkernels of convolutions: the second matrix is packed as weights are, in a task of its own.
//!
//! Activations are unsigned and weights signed, so that with `w = b - 128`, which fits a signed byte, and `c = 128 - zb`
//! ```text
//! sum over k of (a - za) * (b - zb)  =  sum a * w  +  c * sum a  -  za * (sum w + c * depth)
//!                                       the microkernel  of a row      of a column
//! ```
//! The term of a row is a pixel's, the term of a column is a channel's bias. Rows of weights beyond the depth are 0.
//!
//! The scratch of the step:
//! ```text
//! [matrix of b] { [block of columns] { packed weights, biases } }     blocks at multiples of [`ALIGN`]
//! [matrix of a] { [row] term }                                        i32
//! ```

use cranelift_codegen::ir::{InstBuilder, Value, types};
use cranelift_module::{DataId, FuncId, Linkage};
use qcc_ir::Diags;

use super::product::MatMul;
use crate::clif::{self, VECTOR};
use crate::kernel::microkernel::{MAX_CHANNELS, Microkernel, Panel};
use crate::machine::VectorShape;
use crate::plan::{ALIGN, BufferId, BufferView};
use crate::program::builder::{Builder, Operation, TaskCost};
use crate::program::task::Task;

/// Least number of calls to aim at, so that a few threads have something to share.
const CALLS: usize = 16;
/// Least rows of a call that is a part of a matrix.
const ROWS: usize = 12;
/// Rows whose terms are a unit.
const TERM_ROWS: usize = 32;
/// Columns of a group: those whose weights make a vector of 128 bits.
const GROUP: usize = 4;
/// Bytes of a sum.
const SUM: usize = 4;

/// A product and how its columns are packed.
pub(super) struct Packed<'p> {
    product: &'p MatMul,
    shape: &'static VectorShape,
    /// Packed matrices: outer dimensions only.
    packed: BufferView,
    /// Terms of rows, `[outer, M]`.
    terms: BufferView,
    /// Parts of the rows, each a call.
    parts: usize,
    sections: Vec<Section>,
}

/// Blocks of as many columns.
struct Section {
    kernel: Microkernel,
    blocks: usize,
    first_column: usize,
    /// From the start of a packed matrix to the first block.
    at: usize,
    /// Bytes of a block's weights.
    weights: usize,
    /// Bytes of a block.
    bytes: usize,
}

impl<'p> Packed<'p> {
    /// How a product is computed with packed columns, if it can be.
    pub fn new(product: &'p MatMul, shape: &'static VectorShape, scratch: BufferId) -> Option<Packed<'p>> {
        let (rank, [m, n]) = (product.rank(), product.matrix());
        let dense = |p: &BufferView| p.dims[rank - 1] == 1 || p.strides[rank - 1] == p.element;
        if ![&product.a, &product.b, &product.result].into_iter().all(dense) {
            return None;
        }
        let outer: usize = product.result.dims[..rank - 2].iter().product();
        let wanted = CALLS.div_ceil(outer * n.div_ceil(MAX_CHANNELS));
        let splits = |parts: &usize| m.is_multiple_of(*parts) && m / parts >= ROWS;
        let parts = (1..=wanted).rev().find(splits).unwrap_or(1);
        let mut sections = Vec::new();
        let (mut at, mut first_column) = (0, 0);
        for (blocks, channels) in [(n / MAX_CHANNELS, MAX_CHANNELS), (1, n % MAX_CHANNELS)] {
            if blocks * channels == 0 {
                continue;
            }
            let spec = product.spec(channels, m / parts);
            spec.validate().ok()?;
            let kernel = Microkernel::new(spec, shape);
            if kernel.panels().iter().any(|panel| panel.weight_bytes != shape.weight_bytes) {
                return None;
            }
            let weights = kernel.packed_bytes();
            let bytes = (weights + SUM * kernel.vectors() * shape.lanes).next_multiple_of(ALIGN);
            sections.push(Section { kernel, blocks, first_column, at, weights, bytes });
            at += blocks * bytes;
            first_column += blocks * channels;
        }
        let (packed, packed_bytes) = outer_view(&product.b, scratch, 0, at);
        let (terms, _) = outer_view(&product.a, scratch, packed_bytes, SUM * m);
        Some(Packed { product, shape, packed, terms, parts, sections })
    }

    fn blocks(&self) -> usize {
        self.sections.iter().map(|s| s.blocks).sum()
    }

    /// Units of the packing: blocks of columns, then rows' terms if there are any.
    fn packing_units(&self) -> usize {
        self.packed.elements() * self.blocks() + self.term_units()
    }

    fn term_units(&self) -> usize {
        let rows = self.product.matrix()[0].div_ceil(TERM_ROWS);
        if self.product.has_terms() { self.terms.elements() * rows } else { 0 }
    }

    fn packed_bytes(&self) -> usize {
        let matrix: usize = self.sections.iter().map(|s| s.blocks * s.bytes).sum();
        self.packed.elements() * matrix
    }

    /// Emits the task that packs.
    fn emit_packing(&self, t: &mut Task<'_>) {
        let (p, outer) = (self.product, self.product.rank() - 2);
        let (b, packed) = (t.address(&p.b), t.address(&self.packed));
        let mut first_unit = 0;
        for section in &self.sections {
            let units = self.packed.elements() * section.blocks;
            t.units_in(first_unit, first_unit + units, &mut |t, unit| {
                let (matrix, block) = t.divide(unit, section.blocks);
                let strides = [&p.b.strides[..outer], &self.packed.strides];
                let [from, to] = t.element(matrix, &self.packed.dims, [b, packed], strides);
                let from = t.plus(from, section.first_column);
                let from = t.at(from, block, MAX_CHANNELS);
                let to = t.plus(to, section.at);
                let to = t.at(to, block, section.bytes);
                self.block(t, section, from, to);
            });
            first_unit += units;
        }
        if p.has_terms() {
            let (a, terms) = (t.address(&p.a), t.address(&self.terms));
            t.units_in(first_unit, first_unit + self.term_units(), &mut |t, unit| self.row_terms(t, unit, a, terms));
        }
    }

    /// Packs the columns of a block.
    fn block(&self, t: &mut Task<'_>, section: &Section, from: Value, to: Value) {
        let mut biases = t.plus(to, section.weights);
        let (mut from, mut to) = (from, to);
        for panel in section.kernel.panels() {
            let bytes = section.kernel.panel_bytes(panel, 1);
            let bias_bytes = SUM * panel.vectors * self.shape.lanes;
            t.count(panel.count, &mut |t, i| {
                let from = t.at(from, i, panel.channels);
                let (to, biases) = (t.at(to, i, bytes), t.at(biases, i, bias_bytes));
                for column in (0..panel.channels).step_by(VECTOR) {
                    self.columns(t, panel, column, [from, to, biases]);
                }
            });
            from = t.plus(from, panel.count * panel.channels);
            to = t.plus(to, panel.count * bytes);
            biases = t.plus(biases, panel.count * bias_bytes);
        }
    }

    /// Packs up to 16 columns of a panel, the first of which is a multiple of 16, and their biases.
    fn columns(&self, t: &mut Task<'_>, panel: &Panel, first: usize, [from, to, biases]: [Value; 3]) {
        let (depth, step) = (self.product.depth(), self.shape.dot_depth());
        let lanes = VECTOR.min(panel.channels - first);
        let row = self.product.b.strides[self.product.rank() - 2];
        let from = t.plus(from, first);
        let zero = clif::splat(&mut t.b, types::I32X4, 0);
        let has_sums = self.product.zeros[0] != 0;
        let sums: Vec<_> = (0..lanes.div_ceil(GROUP))
            .map(|_| {
                let sum = t.b.declare_var(types::I32X4);
                t.b.def_var(sum, zero);
                sum
            })
            .collect();
        let body = |t: &mut Task<'_>, index: Value, taps: usize| {
            let (from, to) = (t.at(from, index, step * row), t.at(to, index, panel.vectors * panel.vector_bytes));
            let rows = (0..step).map(|tap| self.weights(t, (tap < taps).then_some((from, tap * row)), lanes)).collect();
            let pieces = interleaved(t, rows);
            for ((group, piece), &sum) in pieces.into_iter().enumerate().zip(&sums) {
                let at = t.plus(to, self.group_at(panel, first / GROUP + group));
                t.b.ins().store(clif::memory(), piece, at, 0);
                if has_sums {
                    let (s, old) = (self.tap_sums(t, piece), t.b.use_var(sum));
                    let new = t.b.ins().iadd(old, s);
                    t.b.def_var(sum, new);
                }
            }
        };
        t.count(depth / step, &mut |t, i| body(t, i, step));
        if !depth.is_multiple_of(step) {
            let last = t.iconst_ptr(depth / step);
            body(t, last, depth % step);
        }
        let [za, c] = [self.product.zeros[0], self.product.row_factor()];
        let rest = clif::splat(&mut t.b, types::I32X4, -za * c * depth as i64);
        let factor = clif::splat(&mut t.b, types::I32X4, -za);
        for (group, &sum) in sums.iter().enumerate() {
            let sum = t.b.use_var(sum);
            let bias = t.b.ins().imul(sum, factor);
            let bias = t.b.ins().iadd(bias, rest);
            let at = t.plus(biases, self.group_at(panel, first / GROUP + group));
            t.b.ins().store(clif::memory(), bias, at, 0);
        }
    }

    /// From the start of a step's weights, or of a panel's biases, to the vector of a group: see [`VectorShape::channel`].
    fn group_at(&self, panel: &Panel, group: usize) -> usize {
        let groups = self.shape.lanes / GROUP;
        let (vector, in_vector) = match self.product.requant {
            Some(_) => (group % panel.vectors, group / panel.vectors),
            None => (group / groups, group % groups),
        };
        vector * SUM * self.shape.lanes + in_vector * VECTOR
    }

    /// `w` of a row's columns as bytes; 0 of no row.
    fn weights(&self, t: &mut Task<'_>, row: Option<(Value, usize)>, lanes: usize) -> Value {
        let Some((from, distance)) = row else { return clif::splat(&mut t.b, types::I8X16, 0) };
        let at = t.plus(from, distance);
        let bytes = clif::load_bytes(&mut t.b, at, 0, lanes);
        let sign = clif::splat(&mut t.b, types::I8X16, -128);
        t.b.ins().bxor(bytes, sign)
    }

    /// The sum of each column's taps in a piece.
    fn tap_sums(&self, t: &mut Task<'_>, piece: Value) -> Value {
        let ones = clif::splat(&mut t.b, types::I16X8, 1);
        if self.shape.weight_bytes == 2 {
            let i16s = clif::cast(&mut t.b, types::I16X8, piece);
            return clif::dot_pairs(&mut t.b, i16s, ones);
        }
        let (low, high) = (t.b.ins().swiden_low(piece), t.b.ins().swiden_high(piece));
        let pairs = t.b.ins().iadd_pairwise(low, high);
        clif::dot_pairs(&mut t.b, pairs, ones)
    }

    /// `c * sum a` of up to [`TERM_ROWS`] rows.
    fn row_terms(&self, t: &mut Task<'_>, unit: Value, a: Value, terms: Value) {
        let (p, [m, _]) = (self.product, self.product.matrix());
        let (outer, depth) = (p.rank() - 2, p.depth());
        let (matrix, part) = t.divide(unit, m.div_ceil(TERM_ROWS));
        let strides = [&p.a.strides[..outer], &self.terms.strides];
        let [a, terms] = t.element(matrix, &self.terms.dims, [a, terms], strides);
        let first = t.b.ins().imul_imm_s(part, TERM_ROWS as i64);
        let (end, all) = (t.b.ins().iadd_imm_s(first, TERM_ROWS as i64), t.iconst_ptr(m));
        let end = t.b.ins().umin(end, all);
        let factor = clif::splat(&mut t.b, types::I16X8, p.row_factor());
        t.range(first, end, &mut |t, row| {
            let (from, to) = (t.at(a, row, p.a.strides[outer]), t.at(terms, row, SUM));
            let sum = t.b.declare_var(types::I32X4);
            let zero = clif::splat(&mut t.b, types::I32X4, 0);
            t.b.def_var(sum, zero);
            let add = |t: &mut Task<'_>, at: Value, lanes: usize| {
                let bytes = clif::load_bytes(&mut t.b, at, 0, lanes);
                for i16s in [t.b.ins().uwiden_low(bytes), t.b.ins().uwiden_high(bytes)] {
                    let products = clif::dot_pairs(&mut t.b, i16s, factor);
                    let old = t.b.use_var(sum);
                    let new = t.b.ins().iadd(old, products);
                    t.b.def_var(sum, new);
                }
            };
            t.count(depth / VECTOR, &mut |t, i| {
                let at = t.at(from, i, VECTOR);
                add(t, at, VECTOR);
            });
            if !depth.is_multiple_of(VECTOR) {
                let at = t.plus(from, depth - depth % VECTOR);
                add(t, at, depth % VECTOR);
            }
            let sum = t.b.use_var(sum);
            let total = clif::sum_lanes(&mut t.b, sum);
            t.b.ins().store(clif::memory(), total, to, 0);
        });
    }

    /// Emits the task that multiplies: a unit is a matrix, a block of columns and a part of the rows.
    fn emit(&self, t: &mut Task<'_>, kernels: &[Kernel]) {
        let (p, outer) = (self.product, self.product.rank() - 2);
        let rows = p.matrix()[0] / self.parts;
        let bases = [t.address(&p.a), t.address(&self.packed), t.address(&self.terms), t.address(&p.result)];
        let dims = &p.result.dims[..outer];
        let [packed, terms] = [&self.packed, &self.terms].map(|view| view.broadcast(dims));
        let matrices: usize = dims.iter().product();
        let mut first_unit = 0;
        for (section, kernel) in self.sections.iter().zip(kernels) {
            let units = matrices * section.blocks * self.parts;
            t.units_in(first_unit, first_unit + units, &mut |t, unit| {
                let (matrix, in_matrix) = t.divide(unit, section.blocks * self.parts);
                let (block, part) = t.divide(in_matrix, self.parts);
                let strides = [&p.a.strides[..outer], &packed.strides, &terms.strides, &p.result.strides[..outer]];
                let [a, packed, terms, result] = t.element(matrix, dims, bases, strides);
                let a = t.at(a, part, rows * p.a.strides[outer]);
                let terms = t.at(terms, part, rows * SUM);
                let weights = t.plus(packed, section.at);
                let weights = t.at(weights, block, section.bytes);
                let biases = t.plus(weights, section.weights);
                let result = t.at(result, part, rows * p.result.strides[outer]);
                let result = t.plus(result, section.first_column * p.result.element);
                let result = t.at(result, block, MAX_CHANNELS * p.result.element);
                let (mult, one) = (t.data(kernel.mult), t.iconst_ptr(1));
                t.call(kernel.function, &[a, weights, biases, mult, result, result, one, weights, terms]);
            });
            first_unit += units;
        }
    }
}

/// The function of a section, and its multipliers.
struct Kernel {
    function: FuncId,
    mult: DataId,
}

impl Builder<'_> {
    /// Two tasks: packing, then the calls.
    pub(super) fn packed_matmul(
        &mut self,
        o: &Operation<'_>,
        packed: &Packed<'_>,
        cost: TaskCost,
    ) -> Result<(), Diags> {
        let mut kernels = Vec::new();
        for (i, section) in packed.sections.iter().enumerate() {
            let channels = section.kernel.spec().channels;
            let mult = vec![packed.product.requant.map_or(0, |(mult, _)| mult as i32); channels];
            let mult = section.kernel.pack_multipliers(&mult);
            let bytes = mult.into_iter().flat_map(i32::to_le_bytes).collect();
            let mult = self.data(&format!("mult_{}_{i}", o.name), Linkage::Local, bytes)?;
            kernels.push(Kernel { function: self.microkernel(&section.kernel)?, mult });
        }
        let (name, units) = (format!("{}_pack", o.name), packed.packing_units());
        self.task(&name, o.value, units, packed.packed_bytes(), TaskCost::of("pack"), |t| packed.emit_packing(t))?;
        let units = packed.product.outer() * packed.blocks() * packed.parts;
        self.task_of(o, units, cost, |t| packed.emit(t, &kernels))
    }
}

/// A view with an element of so many bytes for each distinct matrix of an operand, and where it ends.
fn outer_view(operand: &BufferView, buffer: BufferId, offset: usize, bytes: usize) -> (BufferView, usize) {
    let outer = operand.dims.len() - 2;
    let distinct = |d: usize| if operand.strides[d] == 0 { 1 } else { operand.dims[d] };
    let dims: Vec<usize> = (0..outer).map(distinct).collect();
    let mut strides = vec![bytes; outer];
    for d in (1..outer).rev() {
        strides[d - 1] = strides[d] * dims[d];
    }
    let end = offset + bytes * dims.iter().product::<usize>();
    (BufferView { buffer, offset, dims, strides, element: bytes }, end)
}

/// The bytes of two or four rows, those of a column side by side, as four vectors of four columns; those of two as 16-bit numbers.
fn interleaved(t: &mut Task<'_>, rows: Vec<Value>) -> Vec<Value> {
    let b = &mut t.b;
    let pairs: Vec<[Value; 2]> = rows.chunks(2).map(|pair| clif::interleave_bytes(b, pair[0], pair[1])).collect();
    match pairs[..] {
        [[low, high]] => {
            let i16s = [
                b.ins().swiden_low(low),
                b.ins().swiden_high(low),
                b.ins().swiden_low(high),
                b.ins().swiden_high(high),
            ];
            i16s.map(|w| clif::cast(b, types::I8X16, w)).to_vec()
        }
        _ => {
            let halves = pairs[0].into_iter().zip(pairs[1]);
            halves.flat_map(|(first, second)| clif::interleave_i16(b, first, second)).collect()
        }
    }
}
