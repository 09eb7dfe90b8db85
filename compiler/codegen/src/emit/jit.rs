//! The program in this process.

use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::{FuncId, default_libcall_names};
use qcc_ir::{Diag, Diags, Graph, Opcode, Tensor, ValueId, attr, diag::Code};
use qcc_runtime::abi::{RunF32Fn, RunF32MtFn, RunFn, RunMtFn};
use qcc_runtime::{EntryPoints, Model};

use crate::Options;
use crate::program::{self, TaskInfo, bug};

mod memory;

/// Address space for code. Only what is used becomes memory.
const CODE_BYTES: usize = 64 << 20;

/// The same for tables, the description and the manifest.
const DATA_BYTES: usize = 16 << 20;

/// The memory of a finished program.
pub(super) struct Memory(Option<JITModule>);

impl Memory {
    /// Takes a module whose definitions are final.
    pub(super) fn new(module: JITModule) -> Memory {
        Memory(Some(module))
    }
}

// SAFETY: after `finalize_definitions` the module is only kept for its memory, which holds code and constants that nobody
// writes.
unsafe impl Send for Memory {}
// SAFETY: as above; no method of the module is called through a shared reference.
unsafe impl Sync for Memory {}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Some(module) = self.0.take() {
            // SAFETY: code is dropped together with what calls it: the runtime drops the owner of a model's code last.
            unsafe { module.free_memory() };
        }
    }
}

/// A model compiled in memory, and what its program consists of.
pub struct Jit {
    /// The model.
    pub model: Model,
    /// The tasks, in order.
    pub tasks: Vec<TaskInfo>,
    /// Addresses of the tasks' functions.
    pub(super) addresses: Vec<usize>,
    pub(super) run: RunFn,
}

impl Jit {
    /// Runs one task alone on a frame that the whole model has run on before: `fn(frame, 0, units)`.
    ///
    /// # Safety
    /// `frame` is the scratch of a finished call of [`Jit::model`], and the inputs and outputs of that call are still there.
    pub unsafe fn run_task(&self, index: usize, frame: *mut u8) {
        // SAFETY: the address is that of a task function of this model, which `self` keeps in memory.
        let task = unsafe { std::mem::transmute::<usize, extern "C" fn(*mut u8, usize, usize)>(self.addresses[index]) };
        task(frame, 0, self.tasks[index].units);
    }
}

/// At most so many bytes a constant takes when it is packed: lanes are filled up, and other operands of a channel stand beside
/// its weights.
fn packed_bytes(graph: &Graph, v: ValueId, constant: &Tensor) -> usize {
    const PAGE: usize = 4096;
    let plain = PAGE + 8 * constant.data.len();
    let [outputs, middle @ .., inputs] = &constant.dims[..] else { return plain };
    if constant.as_i8().is_none() {
        return plain;
    }
    let has_groups = |node| matches!(graph.op(node), Opcode::QConv2d | Opcode::IConv2d);
    let node = graph.uses(v).into_iter().map(|(node, _)| node).find(|&node| has_groups(node));
    let groups = node.map_or(1, |node| graph.node(node).attrs.get(attr::GROUPS).max(1) as usize);
    let taps: usize = middle.iter().product();
    let per_group = outputs / groups;
    let packed = if groups > 1 && per_group == 1 && *inputs == 1 {
        // A row of pixels as one sequence of bytes repeats channels up to 64 times.
        64 * outputs * (taps.next_multiple_of(4) + 3 * 4)
    } else {
        groups * per_group.next_multiple_of(16) * (taps * inputs.next_multiple_of(4) + 3 * 4)
    };
    PAGE + 2 * packed
}

/// Compiles an integer graph into this process's memory. Fails if the target does not run here.
pub fn compile(graph: &Graph, options: &Options) -> Result<Jit, Diags> {
    if !options.target.runs_here() {
        let missing = options.target.features().minus(qcc_runtime::CpuFeatures::detect());
        let message = format!("target `{}` cannot run here: this CPU lacks {missing}", options.target.name());
        return Err(Diag::new(Code::TARGET, message).help("use --target native").into());
    }
    let mut builder = JITBuilder::with_isa(options.target.isa()?, default_libcall_names());
    let plan = program::plan(graph, options)?;
    let packed: usize = graph.constants().map(|(v, t)| packed_bytes(graph, v, t)).sum();
    let constants = packed + plan.transformed_bytes();
    // Code refers to constants by 32-bit distances, so all of it lies in one reservation.
    let memory = memory::Separate::new(CODE_BYTES, DATA_BYTES + constants).map_err(bug)?;
    builder.memory_provider(Box::new(memory));
    let mut module = JITModule::new(builder);
    let program = program::build_planned(graph, options, &plan, &mut module, None)?;
    module.finalize_definitions().map_err(bug)?;
    let entries = program.entries;
    let address = |id: FuncId| module.get_finalized_function(id);
    // SAFETY: the functions were compiled with exactly these signatures (`program::entry`).
    let entry = unsafe {
        EntryPoints {
            run: std::mem::transmute::<*const u8, RunFn>(address(entries.run)),
            run_mt: Some(std::mem::transmute::<*const u8, RunMtFn>(address(entries.run_mt))),
            run_f32: entries.run_f32.map(|f| std::mem::transmute::<*const u8, RunF32Fn>(address(f))),
            run_f32_mt: entries.run_f32_mt.map(|f| std::mem::transmute::<*const u8, RunF32MtFn>(address(f))),
        }
    };
    let addresses = program.tasks.iter().map(|t| address(t.function) as usize).collect();
    let owner = Box::new(Memory::new(module));
    // SAFETY: the entry points follow the ABI for the tensors of `info`, touch nothing but their arguments and constants,
    // and live as long as `owner`.
    let model = unsafe { Model::from_parts(entry, program.info, Some(program.manifest), owner) }.map_err(bug)?;
    Ok(Jit { model, tasks: program.tasks, addresses, run: entry.run })
}
