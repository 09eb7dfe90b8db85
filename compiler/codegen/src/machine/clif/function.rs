//! A CLIF function in the making: its variables, its loops, and the dot.

use cranelift_codegen::ir::{Block, Function, InstBuilder, Type, Value, types};
use cranelift_codegen::isa::TargetFrontendConfig;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext, Variable};

use crate::clif::{cast, memory};
use crate::machine::vector_machine::{At, Body, Machine};

/// A CLIF function in the making.
pub struct Clif<'a> {
    pub(super) b: FunctionBuilder<'a>,
    pub(super) entry: Block,
    pub(super) config: TargetFrontendConfig,
    /// Variables that ended their life, to be used again.
    pub(super) free: Vec<Variable>,
    /// The table of codes and the mask of one.
    pub(super) codes: Option<[Value; 2]>,
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
        Clif { b, entry, config, free: Vec::new(), codes: None }
    }

    /// Returns, and ends the function.
    pub fn finish(mut self) {
        self.b.ins().return_(&[]);
        self.b.finalize(self.config);
    }

    /// A variable that holds `value`, a vector of 32-bit lanes.
    pub(super) fn vector(&mut self, value: Value) -> Variable {
        let variable = self.free.pop().unwrap_or_else(|| self.b.declare_var(types::I32X4));
        self.b.def_var(variable, value);
        variable
    }

    pub(super) fn pointer_type(&self) -> Type {
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
    pub(super) fn count_down(&mut self, count: Value, body: Body<'_, Self>) {
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

    pub(super) fn dot_value(&mut self, acc: Value, activations: Value, weights: Value) -> Value {
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
