//! CLIF on lanes of 16 and 32 bits.

use cranelift_codegen::ir::{InstBuilder, Type, Value, types};
use cranelift_frontend::Variable;

use super::function::Clif;
use crate::clif::{cast, memory};
use crate::machine::tiles::{Lanes, TileMachine};
use crate::machine::vector_machine::At;

impl Clif<'_> {
    /// A vector in lanes of that width.
    fn in_lanes(&mut self, lanes: Lanes, vector: Variable) -> Value {
        let value = self.b.use_var(vector);
        cast(&mut self.b, lane_type(lanes), value)
    }

    /// A vector of any lanes.
    fn of_lanes(&mut self, value: Value) -> Variable {
        let value = cast(&mut self.b, types::I32X4, value);
        self.vector(value)
    }
}

fn lane_type(lanes: Lanes) -> Type {
    match lanes {
        Lanes::I16 => types::I16X8,
        Lanes::I32 => types::I32X4,
    }
}

impl TileMachine for Clif<'_> {
    fn widened_bytes(&mut self, at: At<Variable>) -> Variable {
        let base = self.b.use_var(at.base);
        let value = self.b.ins().uload8x8(memory(), base, at.disp);
        self.of_lanes(value)
    }

    fn reload(&mut self, at: At<Variable>) -> Variable {
        let base = self.b.use_var(at.base);
        let value = self.b.ins().load(types::I32X4, memory(), base, at.disp);
        self.vector(value)
    }

    fn sum(&mut self, lanes: Lanes, a: Variable, b: Variable) -> Variable {
        let (a, b) = (self.in_lanes(lanes, a), self.in_lanes(lanes, b));
        let sum = self.b.ins().iadd(a, b);
        self.of_lanes(sum)
    }

    fn difference(&mut self, lanes: Lanes, a: Variable, b: Variable) -> Variable {
        let (a, b) = (self.in_lanes(lanes, a), self.in_lanes(lanes, b));
        let difference = self.b.ins().isub(a, b);
        self.of_lanes(difference)
    }

    fn shifted_left(&mut self, lanes: Lanes, a: Variable, bits: u32) -> Variable {
        let a = self.in_lanes(lanes, a);
        let shifted = self.b.ins().ishl_imm_s(a, i64::from(bits));
        self.of_lanes(shifted)
    }

    fn multiply(&mut self, x: Variable, factor: Variable) {
        let (a, b) = (self.b.use_var(x), self.b.use_var(factor));
        let product = self.b.ins().imul(a, b);
        self.b.def_var(x, product);
    }

    fn shift_right(&mut self, x: Variable, bits: u32) {
        let value = self.b.use_var(x);
        let shifted = self.b.ins().sshr_imm_s(value, i64::from(bits));
        self.b.def_var(x, shifted);
    }

    fn dot_i16(&mut self, acc: Variable, activations: Variable, weights: Variable) {
        let (x, y) = (self.in_lanes(Lanes::I16, activations), self.in_lanes(Lanes::I16, weights));
        let (a, b) = (self.b.ins().swiden_low(x), self.b.ins().swiden_low(y));
        let low = self.b.ins().imul(a, b);
        let (a, b) = (self.b.ins().swiden_high(x), self.b.ins().swiden_high(y));
        let high = self.b.ins().imul(a, b);
        let pairs = self.b.ins().iadd_pairwise(low, high);
        let sum = self.b.use_var(acc);
        let sum = self.b.ins().iadd(sum, pairs);
        self.b.def_var(acc, sum);
    }
}
