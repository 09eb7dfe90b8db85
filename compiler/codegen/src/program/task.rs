//! The function of one step: `fn(frame, begin, end)` does units `begin..end` of it.
//!
//! The frame starts with a header that the entry point fills: the arrays of input and output pointers; the arena follows.
//! Units can be done in any order and on any thread; two steps are separated by a barrier.

use cranelift_codegen::ir::{Function, InstBuilder, Type, Value, condcodes::IntCC};
use cranelift_codegen::isa::TargetFrontendConfig;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use cranelift_module::{DataId, FuncId, Module};

use super::collapse::{Level, Loops};
use crate::clif::{VECTOR, memory};
use crate::plan::{BufferView, Plan, Storage};

/// Offsets in the frame.
pub mod frame {
    /// `const void *const *`: the inputs.
    pub const INPUTS: i32 = 8;
    /// `void *const *`: the outputs.
    pub const OUTPUTS: i32 = 16;
    /// `const float *const *`: the inputs of `run_f32`.
    pub const REAL_INPUTS: i32 = 24;
    /// `float *const *`: the outputs of `run_f32`.
    pub const REAL_OUTPUTS: i32 = 32;
    /// First byte of the arena.
    pub const ARENA: usize = 64;
}

/// A step's function in the making.
pub struct Task<'a> {
    /// The function's builder.
    pub b: FunctionBuilder<'a>,
    /// What the function refers to.
    pub module: &'a mut dyn Module,
    /// Type of addresses.
    pub pointer: Type,
    plan: &'a Plan,
    constant: &'a dyn Fn(qcc_ir::ValueId) -> Option<DataId>,
    config: TargetFrontendConfig,
    frame: Value,
    begin: Value,
    end: Value,
}

impl<'a> Task<'a> {
    /// Begins the body of `function`, whose signature is already there.
    pub fn new(
        function: &'a mut Function,
        context: &'a mut FunctionBuilderContext,
        module: &'a mut dyn Module,
        plan: &'a Plan,
        constant: &'a dyn Fn(qcc_ir::ValueId) -> Option<DataId>,
    ) -> Task<'a> {
        let config = module.target_config();
        let mut b = FunctionBuilder::new(function, context);
        let entry = b.create_block();
        b.append_block_params_for_function_params(entry);
        b.switch_to_block(entry);
        b.seal_block(entry);
        let [frame, begin, end] = b.block_params(entry) else { unreachable!("a task has three parameters") };
        let (frame, begin, end) = (*frame, *begin, *end);
        Task { b, module, pointer: config.pointer_type(), plan, constant, config, frame, begin, end }
    }

    /// Returns, and ends the function.
    pub fn finish(mut self) {
        self.b.ins().return_(&[]);
        self.b.finalize(self.config);
    }

    /// An address-sized constant.
    pub fn iconst_ptr(&mut self, value: usize) -> Value {
        self.b.ins().iconst(self.pointer, value as i64)
    }

    /// `base + bytes`.
    pub fn plus(&mut self, base: Value, bytes: usize) -> Value {
        if bytes == 0 { base } else { self.b.ins().iadd_imm_s(base, bytes as i64) }
    }

    /// `base + index * step`.
    pub fn at(&mut self, base: Value, index: Value, step: usize) -> Value {
        if step == 0 {
            return base;
        }
        let distance = self.b.ins().imul_imm_s(index, step as i64);
        self.b.ins().iadd(base, distance)
    }

    /// Addresses, in views of the given strides, of the element with this number in row-major order of `dims`.
    pub fn element<const N: usize>(
        &mut self,
        number: Value,
        dims: &[usize],
        bases: [Value; N],
        strides: [&[usize]; N],
    ) -> [Value; N] {
        let (mut here, mut rest) = (bases, number);
        for (d, &extent) in dims.iter().enumerate().rev().filter(|(_, extent)| **extent != 1) {
            let is_last = dims[..d].iter().all(|&outer| outer == 1);
            let (outer, index) = if is_last { (rest, rest) } else { self.divide(rest, extent) };
            for (here, strides) in here.iter_mut().zip(strides) {
                *here = self.at(*here, index, strides[d]);
            }
            rest = outer;
        }
        here
    }

    /// Quotient and remainder by a constant.
    pub fn divide(&mut self, value: Value, by: usize) -> (Value, Value) {
        match by {
            1 => {
                let zero = self.iconst_ptr(0);
                (value, zero)
            }
            _ => {
                let by = self.iconst_ptr(by);
                (self.b.ins().udiv(value, by), self.b.ins().urem(value, by))
            }
        }
    }

    /// Address of a data object.
    pub fn data(&mut self, data: DataId) -> Value {
        let global = self.module.declare_data_in_func(data, self.b.func);
        self.b.ins().symbol_value(self.pointer, global)
    }

    /// Address of the first element of a view.
    pub fn address(&mut self, view: &BufferView) -> Value {
        let base = match self.plan.buffers[view.buffer].storage {
            Storage::Arena(offset) => self.plus(self.frame, frame::ARENA + offset),
            Storage::Input(i) => self.pointer_in(frame::INPUTS, i),
            Storage::Output(i) => self.pointer_in(frame::OUTPUTS, i),
            Storage::Const(v) => match (self.constant)(v) {
                Some(data) => self.data(data),
                None => unreachable!("constants that tasks read are defined before them"),
            },
        };
        self.plus(base, view.offset)
    }

    /// Address of a byte of the scratch.
    pub fn scratch(&mut self, offset: usize) -> Value {
        self.plus(self.frame, offset)
    }

    /// An element of an array of pointers that the frame's header names.
    pub fn pointer_in(&mut self, array: i32, index: usize) -> Value {
        let array = self.b.ins().load(self.pointer, memory(), self.frame, array);
        self.b.ins().load(self.pointer, memory(), array, 8 * index as i32)
    }

    /// Calls a function with address-sized arguments.
    pub fn call(&mut self, function: FuncId, arguments: &[Value]) {
        let function = self.module.declare_func_in_func(function, self.b.func);
        self.b.ins().call(function, arguments);
    }

    /// `for i in begin..end { body(i) }` with a run-time range.
    pub fn range(&mut self, begin: Value, end: Value, body: &mut dyn FnMut(&mut Task<'a>, Value)) {
        let any = self.b.ins().icmp(IntCC::UnsignedLessThan, begin, end);
        self.when(any, &mut |t| t.rounds(begin, end, body));
    }

    /// The same where the range is not empty. The loop is tested at its end, so that what does not change in it is moved in front of
    /// it: the optimizer does not do that for a loop whose head leads out of it.
    fn rounds(&mut self, begin: Value, end: Value, body: &mut dyn FnMut(&mut Task<'a>, Value)) {
        let index = self.b.declare_var(self.pointer);
        self.b.def_var(index, begin);
        let (inside, exit) = (self.b.create_block(), self.b.create_block());
        self.b.ins().jump(inside, &[]);
        self.b.switch_to_block(inside);
        let i = self.b.use_var(index);
        body(self, i);
        let next = self.b.ins().iadd_imm_s(i, 1);
        self.b.def_var(index, next);
        let more = self.b.ins().icmp(IntCC::UnsignedLessThan, next, end);
        self.b.ins().brif(more, inside, &[], exit, &[]);
        self.b.seal_block(inside);
        self.b.switch_to_block(exit);
        self.b.seal_block(exit);
    }

    /// `for i in 0..count { body(i) }`; no loop where there is one round.
    pub fn count(&mut self, count: usize, body: &mut dyn FnMut(&mut Task<'a>, Value)) {
        let zero = self.iconst_ptr(0);
        match count {
            0 => {}
            1 => body(self, zero),
            _ => {
                let end = self.iconst_ptr(count);
                self.rounds(zero, end, body);
            }
        }
    }

    /// First unit of the call and the number of its units.
    pub fn share(&mut self) -> (Value, Value) {
        let count = self.b.ins().isub(self.end, self.begin);
        (self.begin, count)
    }

    /// Whether the last unit of the call is the last of `units`.
    pub fn ends_at(&mut self, units: usize) -> Value {
        let units = self.iconst_ptr(units);
        self.b.ins().icmp(IntCC::Equal, self.end, units)
    }

    /// The task's units.
    pub fn units(&mut self, body: &mut dyn FnMut(&mut Task<'a>, Value)) {
        let (begin, end) = (self.begin, self.end);
        self.range(begin, end, body);
    }

    /// The task's units that lie in `lo..hi`, counted from `lo`.
    pub fn units_in(&mut self, lo: usize, hi: usize, body: &mut dyn FnMut(&mut Task<'a>, Value)) {
        let (lo_value, hi_value) = (self.iconst_ptr(lo), self.iconst_ptr(hi));
        let begin = self.b.ins().umax(self.begin, lo_value);
        let end = self.b.ins().umin(self.end, hi_value);
        self.range(begin, end, &mut |t, i| {
            let from_lo = t.b.ins().iadd_imm_s(i, -(lo as i64));
            body(t, from_lo);
        });
    }

    /// `if condition { body() }`.
    pub fn when(&mut self, condition: Value, body: &mut dyn FnMut(&mut Task<'a>)) {
        let (inside, exit) = (self.b.create_block(), self.b.create_block());
        self.b.ins().brif(condition, inside, &[], exit, &[]);
        self.b.switch_to_block(inside);
        self.b.seal_block(inside);
        body(self);
        self.b.ins().jump(exit, &[]);
        self.b.switch_to_block(exit);
        self.b.seal_block(exit);
    }

    /// Goes through the loops `1..` of a collapsed iteration space inside a unit of loop 0: `body` gets an address for each
    /// operand and the number of lanes, at most 16, that it has to do there.
    pub fn lanes(&mut self, loops: &Loops, bases: &[Value], body: &mut dyn FnMut(&mut Task<'a>, &[Value], usize)) {
        let run = loops.run;
        if loops.outer.is_empty() {
            // One dense run: units are chunks of it.
            let (chunk, tail) = (Loops::CHUNK, run % VECTOR);
            let vectors_per_chunk = chunk / VECTOR;
            let vectors = self.iconst_ptr(run / VECTOR);
            let last = self.iconst_ptr(run.div_ceil(chunk) - 1);
            self.units(&mut |t, unit| {
                let first = t.b.ins().imul_imm_s(unit, vectors_per_chunk as i64);
                let end = t.b.ins().iadd_imm_s(first, vectors_per_chunk as i64);
                let end = t.b.ins().umin(end, vectors);
                t.range(first, end, &mut |t, i| t.vector(&loops.inner, bases, i, VECTOR, body));
                if tail > 0 {
                    let is_last = t.b.ins().icmp(IntCC::Equal, unit, last);
                    t.when(is_last, &mut |t| t.vector(&loops.inner, bases, vectors, tail, body));
                }
            });
            return;
        }
        self.units(&mut |t, unit| {
            let here = t.moved(bases, unit, &loops.outer[0].strides);
            t.nest(&loops.outer[1..], &here, &mut |t, here| {
                t.vectors(loops.run, here, &loops.inner, body);
            });
        });
    }

    /// Goes through a run of elements: `body` gets an address for each operand and the number of lanes, at most 16, that it has to
    /// do there.
    pub fn vectors(
        &mut self,
        run: usize,
        bases: &[Value],
        strides: &[usize],
        body: &mut dyn FnMut(&mut Task<'a>, &[Value], usize),
    ) {
        self.count(run / VECTOR, &mut |t, i| t.vector(strides, bases, i, VECTOR, body));
        if !run.is_multiple_of(VECTOR) {
            let full = self.iconst_ptr(run / VECTOR);
            self.vector(strides, bases, full, run % VECTOR, body);
        }
    }

    /// Goes through loops inside of each other: `body` gets an address for each operand.
    pub fn nest(&mut self, levels: &[Level], bases: &[Value], body: &mut dyn FnMut(&mut Task<'a>, &[Value])) {
        match levels {
            [] => body(self, bases),
            [level, rest @ ..] => self.count(level.extent, &mut |t, i| {
                let here = t.moved(bases, i, &level.strides);
                t.nest(rest, &here, body);
            }),
        }
    }

    /// Addresses `index` strides further on.
    pub fn moved(&mut self, bases: &[Value], index: Value, strides: &[usize]) -> Vec<Value> {
        bases.iter().zip(strides).map(|(&base, &stride)| self.at(base, index, stride)).collect()
    }

    fn vector(
        &mut self,
        strides: &[usize],
        bases: &[Value],
        index: Value,
        lanes: usize,
        body: &mut dyn FnMut(&mut Task<'a>, &[Value], usize),
    ) {
        let here: Vec<Value> = bases.iter().zip(strides).map(|(&b, &s)| self.at(b, index, s * VECTOR)).collect();
        body(self, &here, lanes);
    }
}
