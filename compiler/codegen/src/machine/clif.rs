//! Cranelift IR: vectors of four lanes, for every target Cranelift knows.
//!
//! Vectors, pointers and counters are frontend variables, so loops carry them without block parameters by hand. The dot
//! is one expression that Cranelift turns into `vpdpbusd` where the target has it and into widening multiplications and
//! pairwise additions elsewhere.

use cranelift_codegen::ir::{
    Block, Function, InstBuilder, StackSlotData, StackSlotKind, Type, Value, condcodes::IntCC, types,
};
use cranelift_codegen::isa::TargetFrontendConfig;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext, Variable};

use super::{At, Body, Machine, Pixels, Requantize, Shape};
use crate::clif::{cast, memory, splat};

/// A CLIF function in the making.
pub struct Clif<'a> {
    pub(super) b: FunctionBuilder<'a>,
    entry: Block,
    config: TargetFrontendConfig,
    /// Variables that ended their life, to be used again.
    free: Vec<Variable>,
}

impl<'a> Clif<'a> {
    /// Begins the body of `function`, whose signature is already there.
    pub fn new(
        function: &'a mut Function,
        context: &'a mut FunctionBuilderContext,
        config: TargetFrontendConfig,
    ) -> Self {
        let mut b = FunctionBuilder::new(function, context);
        let entry = b.create_block();
        b.append_block_params_for_function_params(entry);
        b.switch_to_block(entry);
        b.seal_block(entry);
        Clif { b, entry, config, free: Vec::new() }
    }

    /// Returns, and ends the function.
    pub fn finish(mut self) {
        self.b.ins().return_(&[]);
        self.b.finalize(self.config);
    }

    /// A variable that holds `value`, a vector of 32-bit lanes.
    fn vector(&mut self, value: Value) -> Variable {
        let variable = self.free.pop().unwrap_or_else(|| self.b.declare_var(types::I32X4));
        self.b.def_var(variable, value);
        variable
    }

    fn pointer_type(&self) -> Type {
        self.config.pointer_type()
    }

    /// `kind` loaded from `at`, memory that nobody writes while the function runs: the load may stand where it is wanted.
    pub(super) fn load_constant(&mut self, kind: Type, at: At<Variable>) -> Value {
        let base = self.b.use_var(at.base);
        self.b.ins().load(kind, memory().with_readonly().with_can_move(), base, at.disp)
    }

    /// The present value of a vector, which is released.
    pub(super) fn consume(&mut self, vector: Variable) -> Value {
        let value = self.b.use_var(vector);
        self.release(vector);
        value
    }

    /// Runs `body` as long as a counter, at least 1 now, has not come down to 0.
    fn count_down(&mut self, count: Value, body: Body<'_, Self>) {
        let kind = self.pointer_type();
        let counter = self.b.declare_var(kind);
        self.b.def_var(counter, count);
        let (head, exit) = (self.b.create_block(), self.b.create_block());
        self.b.ins().jump(head, &[]);
        self.b.switch_to_block(head);
        body(self);
        let count = self.b.use_var(counter);
        let count = self.b.ins().iadd_imm_s(count, -1);
        self.b.def_var(counter, count);
        self.b.ins().brif(count, head, &[], exit, &[]);
        self.b.seal_block(head);
        self.b.switch_to_block(exit);
        self.b.seal_block(exit);
    }

    fn dot_value(&mut self, acc: Value, activations: Value, weights: Value) -> Value {
        let (u, s) = (cast(&mut self.b, types::I8X16, activations), cast(&mut self.b, types::I8X16, weights));
        let ins = |this: &mut Self, low: bool| {
            let (s, u) = match low {
                true => (this.b.ins().swiden_low(s), this.b.ins().uwiden_low(u)),
                false => (this.b.ins().swiden_high(s), this.b.ins().uwiden_high(u)),
            };
            let products = this.b.ins().imul(s, u);
            let (low, high) = (this.b.ins().swiden_low(products), this.b.ins().swiden_high(products));
            this.b.ins().iadd_pairwise(low, high)
        };
        let (low, high) = (ins(self, true), ins(self, false));
        let sums = self.b.ins().iadd_pairwise(low, high);
        self.b.ins().iadd(sums, acc)
    }
}

impl Machine for Clif<'_> {
    type Vector = Variable;
    type Pointer = Variable;

    fn shape(&self) -> Shape {
        Shape::CLIF
    }

    fn argument(&mut self, index: usize) -> Variable {
        let kind = self.pointer_type();
        let variable = self.b.declare_var(kind);
        let value = self.b.block_params(self.entry)[index];
        self.b.def_var(variable, value);
        variable
    }

    fn prefetch(&mut self, _at: At<Variable>) {}

    fn step(&mut self, pointer: Variable, bytes: i64) {
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
        super::clif_epilogue::requantize(self, tile, operands);
    }

    fn extrema(&mut self, tile: &[Vec<Variable>], least: At<Variable>, greatest: At<Variable>) {
        super::clif_epilogue::extrema(self, tile, least, greatest);
    }

    fn store_raw(&mut self, tile: &[Vec<Variable>], output: Pixels<'_, Variable>, channels: usize) {
        super::clif_epilogue::store_raw(self, tile, output, channels);
    }
}
