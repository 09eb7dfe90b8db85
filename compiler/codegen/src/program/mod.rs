//! From a plan to functions: one task a step, leaf kernels that tasks call, and the entry points.

mod collapse;
pub mod conv;
mod cpu_check;
mod dynamic;
mod edge;
mod elementwise;
mod entry;
mod lookup;
mod matmul;
mod moves;
mod norm;
mod product;
mod reduce;
mod select;
mod softmax;
mod step;
mod task;
mod transpose;
pub mod tuning;
mod wide;
mod wide_lanes;
mod wide_window;
mod window;

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use cranelift_codegen::ir::{AbiParam, Function, Signature, types};
use cranelift_frontend::FunctionBuilderContext;
use cranelift_module::{DataDescription, DataId, FuncId, Linkage, Module, ModuleError};
use qcc_ir::{Diag, Diags, Elem, Graph, ValueId, diag::Code};
use qcc_runtime::manifest::{ArenaPlan, Manifest, Step as ManifestStep};
use qcc_runtime::{DType, ModelInfo, Quant, TensorInfo};

use crate::Options;
use crate::kernel::conv::ConvSpec;
use crate::kernel::dynamic::DynamicSpec;
use crate::kernel::lanes::LanesSpec;
use crate::kernel::window::WindowSpec;
use crate::machine::Shape;
use crate::plan::{self, Plan, StepKind, Storage};
use dynamic::extrema::Parts;
pub use edge::refusal as no_float_edge;
pub use entry::{Entries, name as entry_name};
pub use tuning::{Choice, Outer, Tuning};

/// Everything that was defined in the module.
#[derive(Debug)]
pub struct Program {
    /// Entry points.
    pub entries: Entries,
    /// Names of the functions that contain float instructions.
    pub edge: HashSet<String>,
    /// Description for hosts.
    pub info: ModelInfo,
    /// How the model was made.
    pub manifest: Manifest,
    /// What runs, in order.
    pub tasks: Vec<TaskInfo>,
}

/// One task of the finished program.
#[derive(Debug, Clone)]
pub struct TaskInfo {
    /// Name of the value that it computes.
    pub name: String,
    /// Kernel with its parameters.
    pub kernel: String,
    /// The function.
    pub function: FuncId,
    /// Number of units.
    pub units: usize,
    /// Multiply-accumulates.
    pub macs: u64,
    /// Bytes of activations read, each once.
    pub input_bytes: u64,
    /// Bytes written.
    pub output_bytes: u64,
    /// Bytes of constants read.
    pub weight_bytes: u64,
    /// What could have been chosen otherwise, the likeliest first.
    pub choices: Vec<Choice>,
}

/// Builds the program of an integer graph in `module`. The graph has passed `prove-accumulators` and `check-integer-only`.
pub fn build(graph: &Graph, options: &Options, module: &mut dyn Module) -> Result<Program, Diags> {
    build_listed(graph, options, module, None)
}

/// The same, with every function in Cranelift IR as text.
pub fn build_listed(
    graph: &Graph,
    options: &Options,
    module: &mut dyn Module,
    listing: Option<&mut String>,
) -> Result<Program, Diags> {
    let plan = plan::plan(graph)?;
    let computes = |name: &String| plan.steps.iter().any(|step| step.name == *name);
    if let Some(name) = options.tuning.keys().find(|name| !computes(name)) {
        let message = format!("the tuning speaks of `{name}`, which no step of this model computes");
        return Err(Diag::new(Code::FLAGS, message).help("tune this model anew: --tune").into());
    }
    let mut b = Builder {
        graph,
        options,
        plan: &plan,
        module,
        context: FunctionBuilderContext::new(),
        constants: HashMap::new(),
        leaves: HashMap::new(),
        window_leaves: HashMap::new(),
        lanes_leaves: HashMap::new(),
        dynamic_leaves: HashMap::new(),
        tasks: Vec::new(),
        part_extrema: HashMap::new(),
        step: 0,
        borders: Vec::new(),
        data_bytes: 0,
        next_bytes: 0,
        listing,
    };
    b.define_constants()?;
    for (index, step) in plan.steps.iter().enumerate() {
        b.next_bytes = plan.steps[index + 1..].iter().find_map(|next| b.first_weights(next)).unwrap_or(0);
        b.step(index, step)?;
    }
    let calls: Vec<edge::Call> = b.tasks.iter().map(entry::call).collect();
    let edge = options.float_edge.then(|| edge::emit(&mut b, &calls)).transpose()?;
    let integer_bytes = (task::frame::ARENA + plan.arena_bytes).next_multiple_of(plan::ALIGN);
    let info = b.describe(edge.as_ref().map_or(integer_bytes, |edge| edge.scratch_bytes))?;
    let manifest = b.manifest(&info);
    let (entries, edge) = entry::emit(&mut b, &calls, edge, &info, &manifest)?;
    Ok(Program { entries, edge, info, manifest, tasks: b.tasks })
}

/// A program in the making.
pub(crate) struct Builder<'a> {
    graph: &'a Graph,
    options: &'a Options,
    plan: &'a Plan,
    module: &'a mut dyn Module,
    context: FunctionBuilderContext,
    /// Constants of the graph that tasks read as they are.
    constants: HashMap<ValueId, DataId>,
    leaves: HashMap<ConvSpec, FuncId>,
    window_leaves: HashMap<WindowSpec, FuncId>,
    lanes_leaves: HashMap<LanesSpec, FuncId>,
    dynamic_leaves: HashMap<DynamicSpec, FuncId>,
    tasks: Vec<TaskInfo>,
    /// How products leave the extrema of their accumulators, by the buffers of these.
    part_extrema: HashMap<plan::BufferId, Parts>,
    /// Index of the step that is being emitted.
    step: usize,
    /// Copies from inputs and to outputs.
    borders: Vec<edge::Border>,
    data_bytes: u64,
    /// Bytes of weights that the next product after the present step reads first.
    next_bytes: usize,
    /// Where the functions' text goes, if anybody wants it.
    listing: Option<&'a mut String>,
}

/// A fault of the code generator: never the model's.
pub(crate) fn bug(what: impl std::fmt::Display) -> Diags {
    Diag::new(Code::CODEGEN, what.to_string()).help("this is a fault of qcc: please report it with the model").into()
}

impl From<ModuleErrorIn<'_>> for Diags {
    fn from(ModuleErrorIn(place, e): ModuleErrorIn<'_>) -> Diags {
        bug(format!("{place}: {e}"))
    }
}

/// A module's error and what it was about.
pub(crate) struct ModuleErrorIn<'a>(pub &'a str, pub ModuleError);

/// `text` as a symbol: letters, digits and underscores.
fn symbol(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).take(80).collect()
}

impl Builder<'_> {
    /// The register shape that weights are packed for.
    fn shape(&self) -> &'static Shape {
        self.options.target.backend().shape()
    }

    fn pointer(&self) -> cranelift_codegen::ir::Type {
        self.module.target_config().pointer_type()
    }

    fn signature(&self, params: usize, returns_code: bool) -> Signature {
        let mut s = self.module.make_signature();
        s.params = vec![AbiParam::new(self.pointer()); params];
        s.returns = if returns_code { vec![AbiParam::new(types::I32)] } else { Vec::new() };
        s
    }

    fn declare(&mut self, name: &str, linkage: Linkage, signature: &Signature) -> Result<FuncId, Diags> {
        Ok(self.module.declare_function(name, linkage, signature).map_err(|e| ModuleErrorIn(name, e))?)
    }

    fn define(&mut self, id: FuncId, name: &str, function: Function) -> Result<(), Diags> {
        self.list(name, |out| write!(out, "{}", function.display()));
        let mut context = self.module.make_context();
        context.func = function;
        self.module.define_function(id, &mut context).map_err(|e| ModuleErrorIn(name, e))?;
        Ok(())
    }

    fn define_bytes(&mut self, id: FuncId, name: &str, code: &[u8]) -> Result<(), Diags> {
        self.list(name, |out| writeln!(out, "; {} bytes of machine code of their own", code.len()));
        self.module.define_function_bytes(id, 64, code, &[]).map_err(|e| ModuleErrorIn(name, e))?;
        Ok(())
    }

    fn list(&mut self, name: &str, write: impl FnOnce(&mut String) -> std::fmt::Result) {
        if let Some(out) = &mut self.listing {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "; {name}").and_then(|()| write(out)).and_then(|()| writeln!(out));
        }
    }

    /// Puts bytes into `.rodata` at a multiple of 64.
    fn data(&mut self, name: &str, linkage: Linkage, bytes: Vec<u8>) -> Result<DataId, Diags> {
        self.data_bytes += bytes.len() as u64;
        let id = self.module.declare_data(name, linkage, false, false).map_err(|e| ModuleErrorIn(name, e))?;
        let mut description = DataDescription::new();
        description.set_align(plan::ALIGN as u64);
        description.define(bytes.into_boxed_slice());
        self.module.define_data(id, &description).map_err(|e| ModuleErrorIn(name, e))?;
        Ok(id)
    }

    /// Defines the constants that tasks read as they are; those of products are packed instead.
    fn define_constants(&mut self) -> Result<(), Diags> {
        for step in &self.plan.steps {
            let places = match &step.kind {
                StepKind::Node { node, operands, .. } => {
                    let packed = step::packed(self.graph.op(*node));
                    operands.iter().enumerate().filter(|(i, _)| !packed.contains(i)).map(|(_, p)| p.clone()).collect()
                }
                StepKind::Copy { from, .. } => vec![from.clone()],
                StepKind::Fill { .. } => continue,
            };
            for place in places {
                let Storage::Const(v) = self.plan.buffers[place.buffer].storage else { continue };
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
            has_float_edge: self.options.float_edge,
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
        });
        Manifest {
            compiler: info.compiler.clone(),
            target: self.options.target.name().to_string(),
            steps: steps.collect(),
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
