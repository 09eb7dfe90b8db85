//! From a plan to functions: one task a step, kernels that tasks call, and the entry points.

mod builder;
mod call;
mod collapse;
mod conv;
mod cpu_check;
mod dynamic;
mod elementwise;
mod entry;
mod float_interface;
mod greatest_bytes;
mod int16;
mod lookup;
mod matmul;
mod mean;
mod model_weights;
mod moves;
mod norm;
mod select;
mod softmax;
mod step;
mod task;
mod transpose;
pub mod tuning;
mod vector_elementwise;
mod vector_window;
mod window;

use std::collections::HashSet;

use cranelift_module::{Linkage, Module};
use qcc_ir::{Diag, Diags, Elem, Graph, ValueId, diag::Code};
use qcc_runtime::manifest::{ArenaPlan, BufferSpan, Manifest, Step as ManifestStep};
use qcc_runtime::{DType, ModelInfo, Quant, TensorInfo};

use crate::Options;
use crate::plan::{self, Plan, StepKind, Storage};
pub use builder::TaskInfo;
pub(crate) use builder::bug;
use builder::{Builder, symbol};
use call::Call;
pub use entry::{Entries, name as entry_name};
pub use float_interface::refusal as float_interface_refusal;
pub use tuning::{Choice, Method, Outer, Tuning};

/// Everything that was defined in the module.
#[derive(Debug)]
pub struct Program {
    /// Entry points.
    pub entries: Entries,
    /// Names of the functions that contain float instructions.
    pub float_functions: HashSet<String>,
    /// Description for hosts.
    pub info: ModelInfo,
    /// How the model was made.
    pub manifest: Manifest,
    /// What runs, in order.
    pub tasks: Vec<TaskInfo>,
}

/// Plans the memory of an integer graph's program.
pub fn plan(graph: &Graph, options: &Options) -> Result<Plan, Diags> {
    let mut storages = conv::storage::storages(graph, options);
    conv::winograd::choose(graph, options, &mut storages);
    conv::fast_inner::choose(graph, options, &mut storages);
    plan::plan(graph, &storages)
}

/// Builds the program of an integer graph in `module`. The graph has passed `prove-accumulators` and `check-integer-only`.
pub fn build(graph: &Graph, options: &Options, module: &mut dyn Module) -> Result<Program, Diags> {
    build_planned(graph, options, &plan(graph, options)?, module, None)
}

/// The same, with every function in Cranelift IR as text.
pub fn build_listed(
    graph: &Graph,
    options: &Options,
    module: &mut dyn Module,
    listing: Option<&mut String>,
) -> Result<Program, Diags> {
    build_planned(graph, options, &plan(graph, options)?, module, listing)
}

/// The same of a graph that has been planned already.
pub fn build_planned(
    graph: &Graph,
    options: &Options,
    plan: &Plan,
    module: &mut dyn Module,
    listing: Option<&mut String>,
) -> Result<Program, Diags> {
    options.budget.check_memory("the memory for values of a call", plan.arena_bytes as u64)?;
    let computes = |name: &String| plan.steps.iter().any(|step| step.name == *name);
    if let Some(name) = options.tuning.keys().find(|name| !computes(name)) {
        let message = format!("the tuning speaks of `{name}`, which no step of this model computes");
        return Err(Diag::new(Code::FLAGS, message).help("tune this model anew: --tune").into());
    }
    let mut b = Builder::new(graph, options, plan, module, listing);
    b.define_constants()?;
    let mut behind: Vec<usize> = Vec::with_capacity(plan.steps.len());
    for step in plan.steps.iter().rev() {
        let next = behind.last().copied().unwrap_or(0);
        behind.push(b.first_weights(step).unwrap_or(next));
    }
    for (index, step) in plan.steps.iter().enumerate() {
        behind.pop();
        options.budget.check_time()?;
        b.next_bytes = behind.last().copied().unwrap_or(0);
        b.step(index, step)?;
    }
    let calls: Vec<Call> = b.tasks.iter().map(Call::of).collect();
    let interface = options.float_interface.then(|| float_interface::emit(&mut b, &calls)).transpose()?;
    let integer_bytes = (task::frame::ARENA + plan.arena_bytes).next_multiple_of(plan::ALIGN);
    let info = b.describe(interface.as_ref().map_or(integer_bytes, |interface| interface.scratch_bytes))?;
    let manifest = b.manifest(&info);
    let (entries, float_functions) = entry::emit(&mut b, &calls, interface, &info, &manifest)?;
    Ok(Program { entries, float_functions, info, manifest, tasks: b.tasks })
}

impl Builder<'_> {
    /// Defines the constants that tasks read as they are; those of products are packed instead.
    fn define_constants(&mut self) -> Result<(), Diags> {
        for step in &self.plan.steps {
            let views = match &step.kind {
                StepKind::Node { node, operands, .. } => {
                    let packed = step::packed(self.graph.op(*node));
                    operands.iter().enumerate().filter(|(i, _)| !packed.contains(i)).map(|(_, p)| p.clone()).collect()
                }
                StepKind::Copy { from, .. } => vec![from.clone()],
                StepKind::Fill { .. } => continue,
            };
            for view in views {
                let Storage::Const(v) = self.plan.buffers[view.buffer].storage else { continue };
                if self.constants.contains_key(&v) {
                    continue;
                }
                let Some(tensor) = self.graph.constant(v) else { continue };
                let name = format!("const_{}_{}", self.constants.len(), symbol(self.graph.name_of(v)));
                let id = self.data(&name, Linkage::Local, tensor.data.to_bytes())?;
                self.constants.insert(v, id);
            }
        }
        Ok(())
    }

    fn describe(&self, scratch_bytes: usize) -> Result<ModelInfo, Diags> {
        let tensors = |values: &[ValueId]| values.iter().map(|&v| self.tensor_info(v)).collect::<Result<Vec<_>, _>>();
        Ok(ModelInfo {
            name: self.options.name.clone(),
            compiler: env!("CARGO_PKG_VERSION").to_string(),
            model_hash: self.options.hash,
            inputs: tensors(self.graph.inputs())?,
            outputs: tensors(self.graph.outputs())?,
            scratch_bytes: scratch_bytes as u64,
            scratch_align: plan::ALIGN as u64,
            cpu_features: self.options.target.features(),
            macs: self.tasks.iter().map(|t| t.macs).sum(),
            has_float_interface: self.options.float_interface,
        })
    }

    fn tensor_info(&self, v: ValueId) -> Result<TensorInfo, Diags> {
        let value = self.graph.value(v);
        let quant = value.ty.uniform().map(|u| Quant { scale: u.scale(), zero_point: u.zero_point() as i32 });
        let dtype = match value.ty.elem.storage() {
            Some(qcc_ir::Int::U8) => DType::U8,
            // One byte.
            None if value.ty.elem == Elem::Bool => DType::U8,
            Some(qcc_ir::Int::I8) => DType::I8,
            Some(qcc_ir::Int::I16) => DType::I16,
            Some(qcc_ir::Int::I32) => DType::I32,
            Some(qcc_ir::Int::I64) => DType::I64,
            Some(qcc_ir::Int::I4 | qcc_ir::Int::U4) | None => {
                return Err(bug(format!("%{} of type {} is at the boundary of the model", value.name, value.ty)));
            }
        };
        Ok(TensorInfo { name: value.name.clone(), dtype, dims: value.ty.dims.clone(), quant })
    }

    fn manifest(&self, info: &ModelInfo) -> Manifest {
        let steps = self.tasks.iter().map(|t| ManifestStep {
            name: t.name.clone(),
            kernel: t.kernel.clone(),
            macs: t.macs,
            output_bytes: t.output_bytes,
            weight_bytes: t.weight_bytes,
            weight_bits: t.weight_bits as u32,
            i16_steps: t.i16_steps,
            products: t.products,
            symbol: t.symbol.clone(),
        });
        let buffers = self.plan.buffers.iter().filter_map(|b| match b.storage {
            Storage::Arena(offset) => Some(BufferSpan {
                name: b.name.clone(),
                offset: (task::frame::ARENA + offset) as u64,
                bytes: b.bytes as u64,
                first: b.life.0 as u32,
                last: b.life.1 as u32,
            }),
            Storage::Input(_) | Storage::Output(_) | Storage::Const(_) => None,
        });
        Manifest {
            compiler: info.compiler.clone(),
            target: self.options.target.name().to_string(),
            steps: steps.collect(),
            buffers: buffers.collect(),
            arena: Some(ArenaPlan {
                scratch_bytes: info.scratch_bytes,
                unshared_bytes: self.plan.unshared_bytes() as u64,
                peak_live_bytes: self.plan.peak_bytes() as u64,
                constant_bytes: self.data_bytes,
                buffers: self.plan.arena_buffers().count() as u32,
            }),
            ..self.options.manifest.clone()
        }
    }
}
