//! The program in the making: the module that functions and data go into, and the tasks so far.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::ops::Range;

use cranelift_codegen::ir::{AbiParam, Function, Signature, types};
use cranelift_frontend::FunctionBuilderContext;
use cranelift_module::{DataDescription, DataId, FuncId, Linkage, Module, ModuleError};
use qcc_ir::{Attrs, Diag, Diags, Graph, NodeId, Tensor, ValueId, diag::Code};

use super::greatest_bytes::greatest_bytes;
use super::model_weights::weights_of_model;
use super::moves::Copy;
use super::task::Task;
use super::tuning::Choice;
use crate::Options;
use crate::kernel::decode::DecodeSpec;
use crate::kernel::dynamic::DynamicSpec;
use crate::kernel::elementwise::ElementwiseSpec;
use crate::kernel::microkernel::{self, Microkernel, MicrokernelSpec};
use crate::kernel::widen::WidenSpec;
use crate::kernel::window::WindowSpec;
use crate::kernel::winograd;
use crate::machine::VectorShape;
use crate::plan::{self, BufferId, BufferView, Plan};

/// One task of the finished program.
#[derive(Debug, Clone)]
pub struct TaskInfo {
    /// Name of the value that it computes.
    pub name: String,
    /// Kernel with its parameters.
    pub kernel: String,
    /// The function.
    pub function: FuncId,
    /// Its symbol.
    pub symbol: String,
    /// Number of units.
    pub units: usize,
    /// Multiply-accumulates.
    pub macs: u64,
    /// The multiplications that it does for them: fewer in a form of fewer ([`crate::kernel::winograd`]).
    pub products: u64,
    /// Bytes of activations read, each once.
    pub input_bytes: u64,
    /// Bytes written.
    pub output_bytes: u64,
    /// Bytes of constants read, as they are stored.
    pub weight_bytes: u64,
    /// Bits of a stored weight, of a product; else 0.
    pub weight_bits: usize,
    /// Name of the constant that a product multiplies by.
    pub weights: Option<String>,
    /// Steps whose products it sums in 16 bits; 0 where sums have 32.
    pub i16_steps: u32,
    /// The planner's estimate of its time on one thread, in a unit common to all products of a target; 0 where it has none.
    pub estimate: u64,
    /// What could have been chosen otherwise, the likeliest first.
    pub choices: Vec<Choice>,
}

/// What is known of a task beside its code.
pub(super) struct TaskCost {
    pub kernel: String,
    pub macs: u64,
    /// Where they are not as many as multiply-accumulates.
    pub products: Option<u64>,
    pub input_bytes: u64,
    pub weight_bytes: u64,
    pub weight_bits: usize,
    pub weights: Option<String>,
    pub i16_steps: u32,
    pub estimate: u64,
    pub choices: Vec<Choice>,
}

impl TaskCost {
    /// A task without multiplications.
    pub fn of(kernel: impl Into<String>) -> TaskCost {
        TaskCost {
            kernel: kernel.into(),
            macs: 0,
            products: None,
            input_bytes: 0,
            weight_bytes: 0,
            weight_bits: 0,
            weights: None,
            i16_steps: 0,
            estimate: 0,
            choices: Vec::new(),
        }
    }
}

/// An operation of the graph with the views of its operands and its result.
#[derive(Clone, Copy)]
pub(super) struct Operation<'s> {
    /// What its functions and data are named after.
    pub name: &'s str,
    /// Name of the value that it computes.
    pub value: &'s str,
    pub node: NodeId,
    pub attrs: &'s Attrs,
    pub operands: &'s [BufferView],
    pub result: &'s BufferView,
}

/// A copy between the caller's memory and other memory, as a task of the integer model.
pub(super) struct Border {
    /// Index of the step.
    pub step: usize,
    /// Index of the task.
    pub task: usize,
    /// What is copied.
    pub copy: Copy,
}

/// Extrema that a product has taken of parts of its accumulators.
#[derive(Debug, Clone)]
pub(super) struct ExtremaParts {
    /// Parts of each block of channels, [`plan::PART_EXTREMA`] bytes each, behind each other.
    pub parts: usize,
    /// The channels of the blocks, in order.
    pub blocks: Vec<Range<usize>>,
}

/// A program in the making.
pub(crate) struct Builder<'a> {
    pub(super) graph: &'a Graph,
    pub(super) options: &'a Options,
    pub(super) plan: &'a Plan,
    pub(super) module: &'a mut dyn Module,
    pub(super) context: FunctionBuilderContext,
    /// Constants of the graph that tasks read as they are.
    pub(super) constants: HashMap<ValueId, DataId>,
    pub(super) microkernels: HashMap<MicrokernelSpec, FuncId>,
    pub(super) decode_kernels: HashMap<DecodeSpec, FuncId>,
    pub(super) winograd_kernels: HashMap<winograd::Kernel, FuncId>,
    pub(super) widen_kernels: HashMap<WidenSpec, FuncId>,
    pub(super) window_kernels: HashMap<WindowSpec, FuncId>,
    pub(super) elementwise_kernels: HashMap<ElementwiseSpec, FuncId>,
    pub(super) dynamic_kernels: HashMap<DynamicSpec, FuncId>,
    pub(super) tasks: Vec<TaskInfo>,
    /// See [`greatest_bytes`].
    pub(super) greatest: HashMap<ValueId, u8>,
    /// How products leave the extrema of their accumulators, by the buffers of these.
    pub(super) part_extrema: HashMap<BufferId, ExtremaParts>,
    /// Index of the step that is being emitted.
    pub(super) step: usize,
    /// Copies from inputs and to outputs.
    pub(super) borders: Vec<Border>,
    pub(super) data_bytes: u64,
    /// Bytes of weights that the next product after the present step reads first.
    pub(super) next_bytes: usize,
    /// Weights of the model, see [`weights_of_model`].
    pub(super) weights_of_model: usize,
    /// Where the functions' text goes, if anybody wants it.
    listing: Option<&'a mut String>,
}

/// A fault of the code generator: never the model's.
pub(crate) fn bug(what: impl std::fmt::Display) -> Diags {
    Diag::new(Code::CODEGEN, what.to_string()).help("this is a fault of qcc: please report it with the model").into()
}

impl From<ModuleErrorIn<'_>> for Diags {
    fn from(ModuleErrorIn(subject, e): ModuleErrorIn<'_>) -> Diags {
        bug(format!("{subject}: {e}"))
    }
}

/// A module's error and what it was about.
pub(crate) struct ModuleErrorIn<'a>(pub &'a str, pub ModuleError);

/// `text` as a symbol: letters, digits and underscores.
pub(super) fn symbol(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).take(80).collect()
}

impl<'a> Builder<'a> {
    /// A program without functions.
    pub(super) fn new(
        graph: &'a Graph,
        options: &'a Options,
        plan: &'a Plan,
        module: &'a mut dyn Module,
        listing: Option<&'a mut String>,
    ) -> Builder<'a> {
        Builder {
            graph,
            options,
            plan,
            module,
            context: FunctionBuilderContext::new(),
            constants: HashMap::new(),
            microkernels: HashMap::new(),
            decode_kernels: HashMap::new(),
            winograd_kernels: HashMap::new(),
            widen_kernels: HashMap::new(),
            window_kernels: HashMap::new(),
            elementwise_kernels: HashMap::new(),
            dynamic_kernels: HashMap::new(),
            tasks: Vec::new(),
            greatest: greatest_bytes(graph),
            part_extrema: HashMap::new(),
            step: 0,
            borders: Vec::new(),
            data_bytes: 0,
            next_bytes: 0,
            weights_of_model: weights_of_model(graph),
            listing,
        }
    }

    /// A constant that a node needs at compile time.
    pub(super) fn constant(&self, v: ValueId, node: NodeId) -> Result<&'a Tensor, Diags> {
        let computed = || bug(format!("{}: weights that are not constant", self.graph.describe(node)));
        self.graph.constant(v).map(|tensor| &**tensor).ok_or_else(computed)
    }

    /// The register shape that weights are packed for.
    pub(super) fn shape(&self) -> &'static VectorShape {
        self.options.target.backend().shape()
    }

    pub(super) fn pointer(&self) -> cranelift_codegen::ir::Type {
        self.module.target_config().pointer_type()
    }

    pub(super) fn signature(&self, params: usize, returns_code: bool) -> Signature {
        let mut s = self.module.make_signature();
        s.params = vec![AbiParam::new(self.pointer()); params];
        s.returns = if returns_code { vec![AbiParam::new(types::I32)] } else { Vec::new() };
        s
    }

    pub(super) fn declare(&mut self, name: &str, linkage: Linkage, signature: &Signature) -> Result<FuncId, Diags> {
        Ok(self.module.declare_function(name, linkage, signature).map_err(|e| ModuleErrorIn(name, e))?)
    }

    pub(super) fn define(&mut self, id: FuncId, name: &str, function: Function) -> Result<(), Diags> {
        self.list(name, |out| write!(out, "{}", function.display()));
        let mut context = self.module.make_context();
        context.func = function;
        self.module.define_function(id, &mut context).map_err(|e| ModuleErrorIn(name, e))?;
        Ok(())
    }

    pub(super) fn define_bytes(&mut self, id: FuncId, name: &str, code: &[u8]) -> Result<(), Diags> {
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
    pub(super) fn data(&mut self, name: &str, linkage: Linkage, bytes: Vec<u8>) -> Result<DataId, Diags> {
        self.data_bytes += bytes.len() as u64;
        let id = self.module.declare_data(name, linkage, false, false).map_err(|e| ModuleErrorIn(name, e))?;
        let mut description = DataDescription::new();
        description.set_align(plan::ALIGN as u64);
        description.define(bytes.into_boxed_slice());
        self.module.define_data(id, &description).map_err(|e| ModuleErrorIn(name, e))?;
        Ok(id)
    }

    /// The function of a microkernel; equal descriptions share it.
    pub(super) fn microkernel(&mut self, kernel: &Microkernel) -> Result<FuncId, Diags> {
        let spec = kernel.spec();
        if let Some(&id) = self.microkernels.get(spec) {
            return Ok(id);
        }
        let config = self.module.target_config();
        let name = format!(
            "microkernel_{:03}_{}x{}_k{}",
            self.microkernels.len(),
            spec.width,
            spec.channels,
            spec.k_rows * spec.segments * spec.run
        );
        let id = self.declare(&name, Linkage::Local, &microkernel::signature(config))?;
        let target = &self.options.target;
        let backend = target.i16_sums_backend().filter(|_| spec.i16_steps > 0).unwrap_or(target.backend());
        if let Some(code) = microkernel::machine_code(kernel, backend).map_err(bug)? {
            self.define_bytes(id, &name, &code)?;
        } else {
            let function = microkernel::emit_clif(kernel, config, &mut self.context).map_err(bug)?;
            self.define(id, &name, function)?;
        }
        self.microkernels.insert(spec.clone(), id);
        Ok(id)
    }

    /// Declares, emits and records a task that computes the result of an operation.
    pub(super) fn task_of(
        &mut self,
        o: &Operation<'_>,
        units: usize,
        cost: TaskCost,
        emit: impl FnOnce(&mut Task<'_>),
    ) -> Result<(), Diags> {
        self.task(o.name, o.value, units, o.result.elements() * o.result.element, cost, emit)
    }

    /// Declares and emits the function of a task.
    pub(super) fn task_function(&mut self, name: &str, emit: impl FnOnce(&mut Task<'_>)) -> Result<FuncId, Diags> {
        let signature = self.signature(3, false);
        let function = self.declare(name, Linkage::Local, &signature)?;
        let mut code = Function::with_name_signature(Default::default(), signature);
        let constants = &self.constants;
        let constant = |v| constants.get(&v).copied();
        let mut t = Task::new(&mut code, &mut self.context, &mut *self.module, self.plan, &constant);
        emit(&mut t);
        t.finish();
        self.define(function, name, code)?;
        Ok(function)
    }

    /// Declares, emits and records a task.
    pub(super) fn task(
        &mut self,
        name: &str,
        value: &str,
        units: usize,
        output_bytes: usize,
        cost: TaskCost,
        emit: impl FnOnce(&mut Task<'_>),
    ) -> Result<(), Diags> {
        let function = self.task_function(name, emit)?;
        self.tasks.push(TaskInfo {
            name: value.to_string(),
            kernel: cost.kernel,
            function,
            symbol: name.to_string(),
            units,
            macs: cost.macs,
            products: cost.products.unwrap_or(cost.macs),
            input_bytes: cost.input_bytes,
            output_bytes: output_bytes as u64,
            weight_bytes: cost.weight_bytes,
            weight_bits: cost.weight_bits,
            weights: cost.weights,
            i16_steps: cost.i16_steps,
            estimate: cost.estimate,
            choices: cost.choices,
        });
        Ok(())
    }
}
