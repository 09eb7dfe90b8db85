//! The machine's limit as something that can be called: the loop of [`crate::kernel::peak`] in this process.

use cranelift_codegen::Context;
use cranelift_codegen::ir::AbiParam;
use cranelift_frontend::FunctionBuilderContext;
use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::{Linkage, Module, default_libcall_names};
use qcc_ir::{Diag, Diags, diag::Code};
use qcc_runtime::CpuFeatures;

use super::jit::Memory;
use crate::Target;
use crate::kernel::peak;
use crate::program::bug;
use crate::target::Backend;

/// A loop that does nothing but multiply and add 8-bit integers in registers.
pub struct Peak {
    code: unsafe extern "C" fn(usize),
    macs: u64,
    _memory: Memory,
}

impl Peak {
    /// The loop with the best kernels of a target that runs here; refused for any other.
    pub fn new(target: Target) -> Result<Peak, Diags> {
        Peak::of(target, target.backend())
    }

    /// The same for kernels that sum products in 16 bits, if the target has them.
    pub fn of_i16_sums(target: Target) -> Result<Option<Peak>, Diags> {
        target.i16_sums_backend().map(|backend| Peak::of(target, backend)).transpose()
    }

    fn of(target: Target, backend: Backend) -> Result<Peak, Diags> {
        if !target.runs_here() {
            let missing = target.features().minus(CpuFeatures::detect());
            return Err(Diag::new(Code::TARGET, format!("target `{target}`: this CPU lacks {missing}")).into());
        }
        let mut module = JITModule::new(JITBuilder::with_isa(target.isa()?, default_libcall_names()));
        let mut signature = module.make_signature();
        signature.params = vec![AbiParam::new(module.target_config().pointer_type())];
        let id = module.declare_function("peak", Linkage::Local, &signature).map_err(bug)?;
        if let Some(code) = peak::machine_code(backend).map_err(bug)? {
            module.define_function_bytes(id, 64, &code, &[]).map_err(bug)?;
        } else {
            let function = peak::emit_clif(module.target_config(), &mut FunctionBuilderContext::new());
            module.define_function(id, &mut Context::for_function(function)).map_err(bug)?;
        }
        module.finalize_definitions().map_err(bug)?;
        let address = module.get_finalized_function(id);
        // SAFETY: the function was defined with this signature.
        let code = unsafe { std::mem::transmute::<*const u8, unsafe extern "C" fn(usize)>(address) };
        Ok(Peak { code, macs: peak::macs_per_iteration(backend.shape()), _memory: Memory::new(module) })
    }

    /// Runs the loop and returns how many multiply-accumulates that were.
    pub fn run(&self, iterations: usize) -> u64 {
        // SAFETY: the code lives as long as `self`, works on registers only, and needs no CPU feature beyond the target's, which
        // `Peak::new` saw on this CPU.
        unsafe { (self.code)(iterations) };
        self.macs * iterations as u64
    }
}
