//! Entry points of a compiled model: see [`qcc_runtime::abi`].
//!
//! ```text
//! run, run_mt            prepare, then every task
//! run_f32, run_f32_mt    prepare, then the tasks among those of the float interface: see [`super::float_interface`]
//! info                   address of the description
//! ```
//! `prepare` checks pointers and calls `open`, which once per scratch asks for the CPU and sets the scratch to 0: asking takes microseconds on a virtual
//! machine, so the answer is remembered at the start of the scratch.

use std::collections::HashSet;

use cranelift_codegen::ir::{AbiParam, Function, InstBuilder, SigRef, Signature, Type, Value, condcodes::IntCC, types};
use cranelift_frontend::FunctionBuilder;
use cranelift_module::{DataId, FuncId, Linkage, Module};
use qcc_ir::Diags;
use qcc_runtime::abi::{code, symbol};
use qcc_runtime::manifest::Manifest;
use qcc_runtime::{CpuFeatures, ModelInfo};

use super::builder::{Builder, bug};
use super::call::Call;
use super::cpu_check;
use super::float_interface::FloatInterface;
use super::task::frame;
use crate::clif::memory;
use crate::plan;

/// The functions that a host calls, and the manifest.
#[derive(Debug, Clone, Copy)]
pub struct Entries {
    /// Integers in, integers out.
    pub run: FuncId,
    /// The same over a pool.
    pub run_mt: FuncId,
    /// Float in, float out.
    pub run_f32: Option<FuncId>,
    /// The same over a pool.
    pub run_f32_mt: Option<FuncId>,
    /// The description.
    pub info: FuncId,
    /// The manifest.
    pub manifest: DataId,
}

/// Names of the entry points inside the module.
pub mod name {
    /// Integers in, integers out.
    pub const RUN: &str = "run";
    /// The same over a pool.
    pub const RUN_MT: &str = "run_mt";
    /// Float in, float out.
    pub const RUN_F32: &str = "run_f32";
    /// The same over a pool.
    pub const RUN_F32_MT: &str = "run_f32_mt";
    /// The description.
    pub const INFO: &str = "info";
    /// The manifest.
    pub const MANIFEST: &str = "manifest";
}

/// Emits all entry points; also returns the names of those with float instructions.
pub(super) fn emit(
    b: &mut Builder<'_>,
    calls: &[Call],
    interface: Option<FloatInterface>,
    info: &ModelInfo,
    manifest: &Manifest,
) -> Result<(Entries, HashSet<String>), Diags> {
    let description = b.data(symbol::DESCRIPTION, Linkage::Local, info.encode().map_err(bug)?)?;
    let manifest = b.data(name::MANIFEST, Linkage::Export, manifest.to_section())?;
    let open = open(b, info)?;
    let prepare = prepare(b, info, open)?;
    let run = run(b, calls, prepare)?;
    let run_mt = run_mt(b, calls, prepare, run)?;
    let info = b.info(description)?;
    let mut entries = Entries { run, run_mt, run_f32: None, run_f32_mt: None, info, manifest };
    let mut float_functions = HashSet::new();
    if let Some(interface) = interface {
        let alone = run_f32(b, name::RUN_F32, &interface, [open, prepare], None)?;
        entries.run_f32 = Some(alone);
        entries.run_f32_mt = Some(run_f32(b, name::RUN_F32_MT, &interface, [open, prepare], Some(alone))?);
        float_functions.extend([name::RUN_F32.to_string(), name::RUN_F32_MT.to_string()]);
        float_functions.extend(interface.names);
    }
    Ok((entries, float_functions))
}

/// A function body with its builder, and the few shapes of control flow that entry points have.
struct Body<'f> {
    b: FunctionBuilder<'f>,
    pointer: Type,
}

impl Body<'_> {
    /// Returns `code` from the function if the condition holds.
    fn fail_if(&mut self, condition: Value, code: i32) {
        let (fail, next) = (self.b.create_block(), self.b.create_block());
        self.b.ins().brif(condition, fail, &[], next, &[]);
        self.b.seal_block(fail);
        self.b.seal_block(next);
        self.b.switch_to_block(fail);
        self.return_code(code);
        self.b.switch_to_block(next);
    }

    fn fail_if_null(&mut self, pointer: Value) {
        let null = self.b.ins().icmp_imm_s(IntCC::Equal, pointer, 0);
        self.fail_if(null, code::ERR_NULL);
    }

    fn return_code(&mut self, code: i32) {
        let code = self.b.ins().iconst(types::I32, i64::from(code));
        self.b.ins().return_(&[code]);
    }

    /// Calls a function that returns a code, and returns that code unless it is 0.
    fn call_or_fail(&mut self, module: &mut dyn Module, function: FuncId, arguments: &[Value]) {
        let callee = module.declare_func_in_func(function, self.b.func);
        let call = self.b.ins().call(callee, arguments);
        let code = self.b.inst_results(call)[0];
        let (fail, next) = (self.b.create_block(), self.b.create_block());
        self.b.ins().brif(code, fail, &[], next, &[]);
        self.b.seal_block(fail);
        self.b.seal_block(next);
        self.b.switch_to_block(fail);
        self.b.ins().return_(&[code]);
        self.b.switch_to_block(next);
    }
}

impl Builder<'_> {
    /// Defines a function of address-sized parameters that returns a code.
    fn function(
        &mut self,
        name: &str,
        linkage: Linkage,
        params: usize,
        emit: impl FnOnce(&mut Body<'_>, &mut dyn Module, &[Value]),
    ) -> Result<FuncId, Diags> {
        let signature = self.signature(params, true);
        let id = self.declare(name, linkage, &signature)?;
        let mut function = Function::with_name_signature(Default::default(), signature);
        let pointer = self.pointer();
        let config = self.module.target_config();
        let mut body = Body { b: FunctionBuilder::new(&mut function, &mut self.context), pointer };
        let entry = body.b.create_block();
        body.b.append_block_params_for_function_params(entry);
        body.b.switch_to_block(entry);
        body.b.seal_block(entry);
        let params = body.b.block_params(entry).to_vec();
        emit(&mut body, &mut *self.module, &params);
        body.b.finalize(config);
        self.define(id, name, function)?;
        Ok(id)
    }

    fn info(&mut self, description: DataId) -> Result<FuncId, Diags> {
        let pointer = self.pointer();
        let mut signature = self.signature(0, false);
        signature.returns = vec![AbiParam::new(pointer)];
        let id = self.declare(name::INFO, Linkage::Export, &signature)?;
        let mut function = Function::with_name_signature(Default::default(), signature);
        let mut b = FunctionBuilder::new(&mut function, &mut self.context);
        let entry = b.create_block();
        b.switch_to_block(entry);
        b.seal_block(entry);
        let data = self.module.declare_data_in_func(description, b.func);
        let address = b.ins().symbol_value(pointer, data);
        b.ins().return_(&[address]);
        b.finalize(self.module.target_config());
        self.define(id, name::INFO, function)?;
        Ok(id)
    }
}

/// `open(scratch) -> code`: checks alignment and, if the scratch is new, the CPU; a new scratch is set to 0. The code for aarch64, of which every CPU has
/// NEON, leaves a new scratch as it is.
fn open(builder: &mut Builder<'_>, info: &ModelInfo) -> Result<FuncId, Diags> {
    let check = match info.cpu_features.minus(CpuFeatures::NEON) {
        CpuFeatures::NONE => None,
        features => {
            let signature = builder.signature(2, true);
            let id = builder.declare("cpu_check", Linkage::Local, &signature)?;
            let code = cpu_check::emit(features, info.scratch_bytes).map_err(bug)?;
            builder.define_bytes(id, "cpu_check", &code)?;
            Some(id)
        }
    };
    let mut mark = [0; 8];
    mark.copy_from_slice(&info.model_hash[..8]);
    // Never 0, which fresh memory holds.
    let mark = (u64::from_le_bytes(mark) | 1) as i64;
    builder.function("open", Linkage::Local, 1, |f, module, params| {
        let scratch = params[0];
        let low = f.b.ins().band_imm_s(scratch, plan::ALIGN as i64 - 1);
        f.fail_if(low, code::ERR_ALIGN);
        if let Some(check) = check {
            let mark = f.b.ins().iconst(f.pointer, mark);
            let callee = module.declare_func_in_func(check, f.b.func);
            let call = f.b.ins().call(callee, &[scratch, mark]);
            let supported = f.b.inst_results(call)[0];
            let missing = f.b.ins().icmp_imm_s(IntCC::Equal, supported, 0);
            f.fail_if(missing, code::ERR_CPU);
        }
        f.return_code(code::OK);
    })
}

/// `prepare(in, out, scratch) -> code`: checks the arguments, opens the scratch, and fills the frame's header.
fn prepare(builder: &mut Builder<'_>, info: &ModelInfo, open: FuncId) -> Result<FuncId, Diags> {
    let (inputs, outputs) = (info.inputs.len(), info.outputs.len());
    builder.function("prepare", Linkage::Local, 3, |f, module, params| {
        let [input, output, scratch] = params[..] else { unreachable!("three parameters") };
        for pointer in [input, output, scratch] {
            f.fail_if_null(pointer);
        }
        for (array, n) in [(input, inputs), (output, outputs)] {
            for i in 0..n {
                let pointer = f.pointer_at(array, i);
                f.fail_if_null(pointer);
            }
        }
        f.call_or_fail(module, open, &[scratch]);
        f.b.ins().store(memory(), input, scratch, frame::INPUTS);
        f.b.ins().store(memory(), output, scratch, frame::OUTPUTS);
        f.return_code(code::OK);
    })
}

/// The host's `parallel_for` and its first argument.
struct Pool {
    function: Value,
    context: Value,
    signature: SigRef,
    /// Calls of a shorter estimate are made at once.
    shared_from: u64,
}

impl Body<'_> {
    /// Makes all calls. Those of one unit, and short ones, are made at once; the others go through the pool, if there is one.
    fn sequence(&mut self, module: &mut dyn Module, calls: &[Call], scratch: Value, pool: Option<&Pool>) {
        let zero = self.b.ins().iconst(self.pointer, 0);
        for call in calls {
            let callee = module.declare_func_in_func(call.function, self.b.func);
            let end = self.b.ins().iconst(self.pointer, call.units as i64);
            match pool {
                Some(pool) if call.units > 1 && call.estimate >= pool.shared_from => {
                    let address = self.b.ins().func_addr(self.pointer, callee);
                    let arguments = [pool.context, address, scratch, end];
                    self.b.ins().call_indirect(pool.signature, pool.function, &arguments);
                }
                _ => {
                    self.b.ins().call(callee, &[scratch, zero, end]);
                }
            }
        }
    }

    /// The pool of the last parameter; without one `alone` is called with the others, and its code returned.
    fn pool(&mut self, module: &mut dyn Module, params: &[Value], alone: FuncId, shared_from: u64) -> Pool {
        let (&pool, others) = params.split_last().expect("the pool is the last parameter");
        let (none, some) = (self.b.create_block(), self.b.create_block());
        self.b.ins().brif(pool, some, &[], none, &[]);
        self.b.seal_block(none);
        self.b.seal_block(some);
        self.b.switch_to_block(none);
        let callee = module.declare_func_in_func(alone, self.b.func);
        let call = self.b.ins().call(callee, others);
        let result = self.b.inst_results(call)[0];
        self.b.ins().return_(&[result]);
        self.b.switch_to_block(some);
        let threads = self.b.ins().load(types::I32, memory(), pool, 8);
        let none = self.b.ins().icmp_imm_s(IntCC::Equal, threads, 0);
        self.fail_if(none, code::ERR_POOL);
        let function = self.b.ins().load(self.pointer, memory(), pool, 16);
        let none = self.b.ins().icmp_imm_s(IntCC::Equal, function, 0);
        self.fail_if(none, code::ERR_POOL);
        let context = self.b.ins().load(self.pointer, memory(), pool, 0);
        let mut signature = Signature::new(module.target_config().default_call_conv);
        signature.params = vec![AbiParam::new(self.pointer); 4];
        let signature = self.b.import_signature(signature);
        Pool { function, context, signature, shared_from }
    }

    /// `array[index]` of an array of pointers.
    fn pointer_at(&mut self, array: Value, index: usize) -> Value {
        self.b.ins().load(self.pointer, memory(), array, 8 * index as i32)
    }
}

fn run(builder: &mut Builder<'_>, calls: &[Call], prepare: FuncId) -> Result<FuncId, Diags> {
    builder.function(name::RUN, Linkage::Export, 3, |f, module, params| {
        f.call_or_fail(module, prepare, params);
        f.sequence(module, calls, params[2], None);
        f.return_code(code::OK);
    })
}

fn run_mt(builder: &mut Builder<'_>, calls: &[Call], prepare: FuncId, run: FuncId) -> Result<FuncId, Diags> {
    let shared_from = builder.options.shared_from;
    builder.function(name::RUN_MT, Linkage::Export, 4, |f, module, params| {
        let pool = f.pool(module, params, run, shared_from);
        f.call_or_fail(module, prepare, &params[..3]);
        f.sequence(module, calls, params[2], Some(&pool));
        f.return_code(code::OK);
    })
}

/// `run_f32`; over a pool if there is a function to be called without one.
fn run_f32(
    builder: &mut Builder<'_>,
    name: &str,
    interface: &FloatInterface,
    [open, prepare]: [FuncId; 2],
    alone: Option<FuncId>,
) -> Result<FuncId, Diags> {
    let shared_from = builder.options.shared_from;
    builder.function(name, Linkage::Export, if alone.is_some() { 4 } else { 3 }, |f, module, params| {
        let pool = alone.map(|alone| f.pool(module, params, alone, shared_from));
        let [input, output, scratch] = params[..3] else { unreachable!("three parameters and perhaps a pool") };
        for pointer in [input, output, scratch] {
            f.fail_if_null(pointer);
        }
        for (array, n) in [input, output].into_iter().zip(interface.reals) {
            for i in 0..n {
                let pointer = f.pointer_at(array, i);
                f.fail_if_null(pointer);
            }
        }
        // Before anything is stored in it.
        f.call_or_fail(module, open, &[scratch]);
        let staged_inputs = f.b.ins().iadd_imm_s(scratch, interface.pointers as i64);
        let staged_outputs = f.b.ins().iadd_imm_s(staged_inputs, 8 * interface.inputs.len() as i64);
        for (array, offsets) in [(staged_inputs, &interface.inputs), (staged_outputs, &interface.outputs)] {
            for (i, offset) in offsets.iter().enumerate() {
                let staged = f.b.ins().iadd_imm_s(scratch, *offset as i64);
                f.b.ins().store(memory(), staged, array, 8 * i as i32);
            }
        }
        f.call_or_fail(module, prepare, &[staged_inputs, staged_outputs, scratch]);
        f.b.ins().store(memory(), input, scratch, frame::REAL_INPUTS);
        f.b.ins().store(memory(), output, scratch, frame::REAL_OUTPUTS);
        f.sequence(module, &interface.calls, scratch, pool.as_ref());
        f.return_code(code::OK);
    })
}
