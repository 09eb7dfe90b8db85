//! Cranelift IR: vectors of four lanes, for every target Cranelift knows.
//!
//! Vectors, pointers and counters are frontend variables, so loops carry them without block parameters by hand. The dot
//! is one expression that Cranelift turns into `vpdpbusd` where the target has it and into widening multiplications and
//! pairwise additions elsewhere.

mod epilogue;
mod function;
mod tiles;

use cranelift_codegen::ir::{InstBuilder, StackSlotData, StackSlotKind, condcodes::IntCC, types};
use cranelift_frontend::Variable;

use super::shape::VectorShape;
use super::vector_machine::{At, Body, Machine, Pixels, Requantize};
use crate::clif::{cast, memory, splat};
pub use function::Clif;

impl Machine for Clif<'_> {
    type Vector = Variable;
    type Pointer = Variable;

    fn shape(&self) -> VectorShape {
        VectorShape::CLIF
    }

    fn argument(&mut self, index: usize) -> Variable {
        let kind = self.pointer_type();
        let variable = self.b.declare_var(kind);
        let value = self.b.block_params(self.entry)[index];
        self.b.def_var(variable, value);
        variable
    }

    fn prefetch(&mut self, _at: At<Variable>) {}

    fn advance(&mut self, pointer: Variable, bytes: i64) {
        if bytes != 0 {
            let value = self.b.use_var(pointer);
            let value = self.b.ins().iadd_imm_s(value, bytes);
            self.b.def_var(pointer, value);
        }
    }

    fn repeat(&mut self, count: usize, body: Body<'_, Self>) {
        if count == 1 {
            return body(self);
        }
        let kind = self.pointer_type();
        let count = self.b.ins().iconst(kind, count as i64);
        self.count_down(count, body);
    }

    fn repeat_argument(&mut self, index: usize, body: Body<'_, Self>) {
        let count = self.b.block_params(self.entry)[index];
        let (some, end) = (self.b.create_block(), self.b.create_block());
        let any = self.b.ins().icmp_imm_s(IntCC::NotEqual, count, 0);
        self.b.ins().brif(any, some, &[], end, &[]);
        self.b.switch_to_block(some);
        self.b.seal_block(some);
        self.count_down(count, body);
        self.b.ins().jump(end, &[]);
        self.b.switch_to_block(end);
        self.b.seal_block(end);
    }

    fn load(&mut self, at: At<Variable>) -> Variable {
        let value = self.load_constant(types::I32X4, at);
        self.vector(value)
    }

    fn broadcast(&mut self, at: At<Variable>) -> Variable {
        self.splat_at(at)
    }

    fn begin_codes(&mut self, table: At<Variable>) {
        let table = self.load_constant(types::I8X16, table);
        self.codes = Some([table, splat(&mut self.b, types::I8X16, 0x0F)]);
    }

    fn end_codes(&mut self) {
        self.codes = None;
    }

    fn decoded_bytes(&mut self, at: At<Variable>) -> [Variable; 2] {
        let [table, mask] = self.codes.expect("decoding has begun");
        let codes = self.load_constant(types::I8X16, at);
        let halves = [self.b.ins().band(codes, mask), self.b.ins().ushr_imm_s(codes, 4)];
        halves.map(|codes| {
            let bytes = self.b.ins().swizzle(table, codes);
            let lanes = cast(&mut self.b, types::I32X4, bytes);
            self.vector(lanes)
        })
    }

    fn splat(&mut self, value: i32) -> Variable {
        let value = splat(&mut self.b, types::I32X4, i64::from(value));
        self.vector(value)
    }

    fn splat_at(&mut self, at: At<Variable>) -> Variable {
        let value = self.load_constant(types::I32, at);
        let value = self.b.ins().splat(types::I32X4, value);
        self.vector(value)
    }

    fn dot(&mut self, acc: Variable, activations: Variable, weights: Variable) {
        let operands = (self.b.use_var(acc), self.b.use_var(activations), self.b.use_var(weights));
        let sum = self.dot_value(operands.0, operands.1, operands.2);
        self.b.def_var(acc, sum);
    }

    fn add(&mut self, acc: Variable, term: Variable) {
        let (a, b) = (self.b.use_var(acc), self.b.use_var(term));
        let sum = self.b.ins().iadd(a, b);
        self.b.def_var(acc, sum);
    }

    fn store(&mut self, vector: Variable, at: At<Variable>) {
        let (value, base) = (self.b.use_var(vector), self.b.use_var(at.base));
        self.b.ins().store(memory(), value, base, at.disp);
    }

    fn release(&mut self, vector: Variable) {
        self.free.push(vector);
    }

    fn keep(&mut self, vector: Variable) {
        let slot = self.b.create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, 16, 4));
        let (kind, value) = (self.pointer_type(), self.consume(vector));
        self.b.ins().stack_store(kind, value, slot, 0);
    }

    fn requantize(&mut self, tile: &[Vec<Variable>], operands: &Requantize<'_, Variable>) {
        epilogue::requantize(self, tile, operands);
    }

    fn extrema(&mut self, tile: &[Vec<Variable>], least: At<Variable>, greatest: At<Variable>) {
        epilogue::extrema(self, tile, least, greatest);
    }

    fn store_raw(&mut self, tile: &[Vec<Variable>], output: Pixels<'_, Variable>, channels: usize) {
        epilogue::store_raw(self, tile, output, channels);
    }
}
