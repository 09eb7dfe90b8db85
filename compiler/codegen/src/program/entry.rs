//! Entry points of a compiled model: see [`qcc_runtime::abi`].
//!
//! ```text
//! run, run_mt            prepare, then every task
//! run_f32, run_f32_mt    quantize, run_mt, dequantize
//! info                   address of the description
//! ```
//! `prepare` checks pointers and, once per scratch, the CPU: asking the CPU takes microseconds on a virtual machine, so the
//! answer is remembered by a word at the start of the scratch.

use std::collections::HashSet;

use cranelift_codegen::ir::{AbiParam, Function, InstBuilder, Signature, Type, Value, condcodes::IntCC, types};
use cranelift_frontend::FunctionBuilder;
use cranelift_module::{DataId, FuncId, Linkage, Module};
use qcc_ir::{Diag, Diags, Int, Uniform, ValueId, diag::Code};
use qcc_runtime::abi::code;
use qcc_runtime::manifest::Manifest;
use qcc_runtime::{CpuFeatures, ModelInfo};

use super::task::frame;
use super::{Builder, TaskInfo, bug, cpu_check, edge};
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
    info: &ModelInfo,
    manifest: &Manifest,
) -> Result<(Entries, HashSet<String>), Diags> {
    let description = b.data("model_description", Linkage::Local, info.encode().map_err(bug)?)?;
    let manifest = b.data(name::MANIFEST, Linkage::Export, manifest.to_section())?;
    let prepare = prepare(b, info)?;
    let run = run(b, prepare)?;
    let run_mt = run_mt(b, prepare)?;
    let info = b.info(description)?;
    let mut entries = Entries { run, run_mt, run_f32: None, run_f32_mt: None, info, manifest };
    let mut edge_names = HashSet::new();
    if b.options.float_edge {
        entries.run_f32 = Some(run_f32(b, name::RUN_F32, run, false)?);
        entries.run_f32_mt = Some(run_f32(b, name::RUN_F32_MT, run_mt, true)?);
        edge_names.extend([name::RUN_F32.to_string(), name::RUN_F32_MT.to_string()]);
    }
    Ok((entries, edge_names))
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

/// `prepare(in, out, scratch) -> code`: checks the arguments and the CPU, and fills the frame's header.
fn prepare(builder: &mut Builder<'_>, info: &ModelInfo) -> Result<FuncId, Diags> {
    let check = match info.cpu_features.minus(CpuFeatures::NEON) {
        // Every aarch64 CPU has NEON.
        CpuFeatures::NONE => None,
        features => {
            let mut signature = builder.signature(0, false);
            signature.returns = vec![AbiParam::new(types::I32)];
            let id = builder.declare("cpu_check", Linkage::Local, &signature)?;
            let code = cpu_check::emit(features).map_err(bug)?;
            builder.define_bytes(id, "cpu_check", &code)?;
            Some(id)
        }
    };
    let (inputs, outputs) = (info.inputs.len(), info.outputs.len());
    let mut seal = [0; 8];
    seal.copy_from_slice(&info.model_hash[..8]);
    // Never 0, which fresh memory holds.
    let seal = (u64::from_le_bytes(seal) | 1) as i64;
    builder.function("prepare", Linkage::Local, 3, |f, module, params| {
        let [input, output, scratch] = params[..] else { unreachable!("three parameters") };
        for pointer in [input, output, scratch] {
            f.fail_if_null(pointer);
        }
        let low = f.b.ins().band_imm_s(scratch, plan::ALIGN as i64 - 1);
        f.fail_if(low, code::ERR_ALIGN);
        for (array, n) in [(input, inputs), (output, outputs)] {
            for i in 0..n {
                let pointer = edge::pointer_at(&mut f.b, f.pointer, array, i);
                f.fail_if_null(pointer);
            }
        }
        if let Some(check) = check {
            let seen = f.b.ins().load(types::I64, memory(), scratch, 0);
            let wanted = f.b.ins().iconst(types::I64, seal);
            let differs = f.b.ins().icmp(IntCC::NotEqual, seen, wanted);
            let (ask, next) = (f.b.create_block(), f.b.create_block());
            f.b.ins().brif(differs, ask, &[], next, &[]);
            f.b.switch_to_block(ask);
            f.b.seal_block(ask);
            let callee = module.declare_func_in_func(check, f.b.func);
            let call = f.b.ins().call(callee, &[]);
            let supported = f.b.inst_results(call)[0];
            let missing = f.b.ins().icmp_imm_s(IntCC::Equal, supported, 0);
            f.fail_if(missing, code::ERR_CPU);
            f.b.ins().store(memory(), wanted, scratch, 0);
            f.b.ins().jump(next, &[]);
            f.b.seal_block(next);
            f.b.switch_to_block(next);
        }
        f.b.ins().store(memory(), input, scratch, frame::INPUTS);
        f.b.ins().store(memory(), output, scratch, frame::OUTPUTS);
        f.return_code(code::OK);
    })
}

fn run(builder: &mut Builder<'_>, prepare: FuncId) -> Result<FuncId, Diags> {
    let tasks: Vec<(FuncId, usize)> = builder.tasks.iter().map(|t| (t.function, t.units)).collect();
    builder.function(name::RUN, Linkage::Export, 3, |f, module, params| {
        f.call_or_fail(module, prepare, params);
        let zero = f.b.ins().iconst(f.pointer, 0);
        for &(task, units) in &tasks {
            let callee = module.declare_func_in_func(task, f.b.func);
            let end = f.b.ins().iconst(f.pointer, units as i64);
            f.b.ins().call(callee, &[params[2], zero, end]);
        }
        f.return_code(code::OK);
    })
}

/// A rough estimate of a task's time in nanoseconds: so many multiply-accumulates or bytes in each.
fn estimate(task: &TaskInfo) -> u64 {
    const MACS: u64 = 150;
    const BYTES: u64 = 8;
    task.macs / MACS + task.output_bytes / BYTES
}

/// Tasks of one unit, and small ones, are called at once; the others go through the pool's `parallel_for`.
fn run_mt(builder: &mut Builder<'_>, prepare: FuncId) -> Result<FuncId, Diags> {
    let alone = |t: &TaskInfo| t.units == 1 || estimate(t) < builder.options.shared_from;
    let tasks: Vec<_> = builder.tasks.iter().map(|t| (t.function, t.units, alone(t))).collect();
    let run = builder.module.get_name(name::RUN);
    let Some(cranelift_module::FuncOrDataId::Func(run)) = run else {
        return Err(bug("run is not defined before run_mt"));
    };
    let pointer = builder.pointer();
    let mut parallel_for = Signature::new(builder.module.target_config().default_call_conv);
    parallel_for.params = vec![AbiParam::new(pointer); 4];
    builder.function(name::RUN_MT, Linkage::Export, 4, |f, module, params| {
        let [_, _, scratch, pool] = params[..] else { unreachable!("four parameters") };
        let (alone, pooled) = (f.b.create_block(), f.b.create_block());
        f.b.ins().brif(pool, pooled, &[], alone, &[]);
        f.b.seal_block(alone);
        f.b.seal_block(pooled);
        f.b.switch_to_block(alone);
        let callee = module.declare_func_in_func(run, f.b.func);
        let call = f.b.ins().call(callee, &params[..3]);
        let result = f.b.inst_results(call)[0];
        f.b.ins().return_(&[result]);
        f.b.switch_to_block(pooled);
        let threads = f.b.ins().load(types::I32, memory(), pool, 8);
        let none = f.b.ins().icmp_imm_s(IntCC::Equal, threads, 0);
        f.fail_if(none, code::ERR_POOL);
        let function = f.b.ins().load(f.pointer, memory(), pool, 16);
        let none = f.b.ins().icmp_imm_s(IntCC::Equal, function, 0);
        f.fail_if(none, code::ERR_POOL);
        f.call_or_fail(module, prepare, &params[..3]);
        let context = f.b.ins().load(f.pointer, memory(), pool, 0);
        let signature = f.b.import_signature(parallel_for);
        let zero = f.b.ins().iconst(f.pointer, 0);
        for &(task, units, alone) in &tasks {
            let callee = module.declare_func_in_func(task, f.b.func);
            let end = f.b.ins().iconst(f.pointer, units as i64);
            if alone {
                f.b.ins().call(callee, &[scratch, zero, end]);
            } else {
                let address = f.b.ins().func_addr(f.pointer, callee);
                f.b.ins().call_indirect(signature, function, &[context, address, scratch, end]);
            }
        }
        f.return_code(code::OK);
    })
}

/// The quantization of a value at the boundary, as the float edge needs it.
fn boundary(b: &Builder<'_>, v: ValueId) -> Result<std::sync::Arc<Uniform>, Diags> {
    let value = b.graph.value(v);
    match value.ty.uniform() {
        Some(u) if matches!(u.storage, Int::U8 | Int::I16) && u.axis.is_none() => Ok(u.clone()),
        _ => Err(Diag::new(Code::TARGET, format!("%{} of type {} has no float edge", value.name, value.ty))
            .help("compile with --io int")
            .into()),
    }
}

fn run_f32(builder: &mut Builder<'_>, name: &str, run: FuncId, pooled: bool) -> Result<FuncId, Diags> {
    let graph = builder.graph;
    let quant = |values: &[ValueId]| {
        let one = |(v, scale): (ValueId, Option<usize>)| Ok((boundary(builder, v)?, graph.ty(v).elements(), scale));
        edge::real_values(graph, values).into_iter().map(one).collect::<Result<Vec<_>, Diags>>()
    };
    let (inputs, outputs) = (quant(graph.inputs())?, quant(graph.outputs())?);
    let staging = edge::staging(graph);
    let start = (frame::ARENA + builder.plan.arena_bytes).next_multiple_of(plan::ALIGN) as i64;
    builder.function(name, Linkage::Export, if pooled { 4 } else { 3 }, |f, module, params| {
        let [input, output, scratch] = params[..3] else { unreachable!("three parameters and perhaps a pool") };
        for pointer in [input, output, scratch] {
            f.fail_if_null(pointer);
        }
        let base = f.b.ins().iadd_imm_s(scratch, start);
        let staged_inputs = f.b.ins().iadd_imm_s(base, staging.pointers as i64);
        let staged_outputs = f.b.ins().iadd_imm_s(staged_inputs, 8 * staging.inputs.len() as i64);
        for (array, n) in [(input, inputs.len()), (output, outputs.len())] {
            for i in 0..n {
                let pointer = edge::pointer_at(&mut f.b, f.pointer, array, i);
                f.fail_if_null(pointer);
            }
        }
        for (i, (u, elements, scale)) in inputs.iter().enumerate() {
            let floats = edge::pointer_at(&mut f.b, f.pointer, input, i);
            let bytes = f.b.ins().iadd_imm_s(base, staging.inputs[i] as i64);
            let scale = match scale {
                None => edge::static_scale(&mut f.b, u),
                Some(s) => {
                    let to = f.b.ins().iadd_imm_s(base, staging.inputs[*s] as i64);
                    edge::run_time_scale(&mut f.b, f.pointer, floats, to, *elements)
                }
            };
            let one = f.b.ins().f32const(1.0);
            let inverse = f.b.ins().fdiv(one, scale);
            edge::quantize(&mut f.b, f.pointer, (floats, bytes), *elements, u, inverse);
        }
        for (array, offsets) in [(staged_inputs, &staging.inputs), (staged_outputs, &staging.outputs)] {
            for (i, offset) in offsets.iter().enumerate() {
                let bytes = f.b.ins().iadd_imm_s(base, *offset as i64);
                f.b.ins().store(memory(), bytes, array, 8 * i as i32);
            }
        }
        let mut arguments = vec![staged_inputs, staged_outputs, scratch];
        arguments.extend(&params[3..]);
        f.call_or_fail(module, run, &arguments);
        for (i, (u, elements, scale)) in outputs.iter().enumerate() {
            let floats = edge::pointer_at(&mut f.b, f.pointer, output, i);
            let bytes = f.b.ins().iadd_imm_s(base, staging.outputs[i] as i64);
            let scale = match scale {
                None => edge::static_scale(&mut f.b, u),
                Some(s) => {
                    let from = f.b.ins().iadd_imm_s(base, staging.outputs[*s] as i64);
                    edge::real_scale(&mut f.b, from)
                }
            };
            edge::dequantize(&mut f.b, f.pointer, bytes, floats, *elements, u, scale);
        }
        f.return_code(code::OK);
    })
}
