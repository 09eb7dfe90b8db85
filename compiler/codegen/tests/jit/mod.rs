//! Functions made executable, and the back ends that run on this CPU.

use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::ir::Function;
use cranelift_codegen::isa::OwnedTargetIsa;
use cranelift_codegen::settings::{self, Configurable};
use cranelift_codegen::{Context, ir::AbiParam};
use cranelift_frontend::FunctionBuilderContext;
use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::{Module, default_libcall_names};
use qcc_codegen::Target;
use qcc_codegen::machine::Dot;
use qcc_codegen::target::Backend;

/// Functions made executable; they live as long as the module.
pub struct Jit {
    pub module: JITModule,
    pub context: FunctionBuilderContext,
}

impl Jit {
    pub fn new(isa: OwnedTargetIsa) -> Jit {
        let module = JITModule::new(JITBuilder::with_isa(isa, default_libcall_names()));
        Jit { module, context: FunctionBuilderContext::new() }
    }

    pub fn clif(&mut self, function: Function) -> *const u8 {
        let mut context = Context::for_function(function);
        let id = self.module.declare_anonymous_function(&context.func.signature).unwrap();
        self.module
            .define_function_with_control_plane(id, &mut context, &mut ControlPlane::default())
            .unwrap_or_else(|fault| panic!("{fault:?}"));
        self.module.finalize_definitions().unwrap();
        self.module.get_finalized_function(id)
    }

    pub fn bytes(&mut self, code: &[u8]) -> *const u8 {
        let mut signature = self.module.make_signature();
        signature.params = vec![AbiParam::new(self.module.target_config().pointer_type()); 8];
        let id = self.module.declare_anonymous_function(&signature).unwrap();
        self.module.define_function_bytes(id, 64, code, &[]).unwrap();
        self.module.finalize_definitions().unwrap();
        self.module.get_finalized_function(id)
    }
}

/// Back ends that make machine code which runs on this CPU.
pub fn coded() -> Vec<Backend> {
    let backends = Target::all_runnable().iter().map(Target::backend).collect::<Vec<_>>();
    let all = [Backend::Ymm(Dot::I16Pairs), Backend::Ymm(Dot::Vex), Backend::Ymm(Dot::Evex), Backend::Avx512];
    all.into_iter().filter(|backend| backends.contains(backend)).collect()
}

fn flags() -> settings::Flags {
    let mut flags = settings::builder();
    flags.set("opt_level", "speed").unwrap();
    settings::Flags::new(flags)
}

pub fn native() -> OwnedTargetIsa {
    cranelift_native::builder().unwrap().finish(flags()).unwrap()
}

/// The host without what is newer than SSE4.2: dots are then no single instruction.
#[cfg(target_arch = "x86_64")]
pub fn baseline() -> OwnedTargetIsa {
    let mut builder = cranelift_codegen::isa::lookup(cranelift_native::builder().unwrap().triple().clone()).unwrap();
    for feature in ["has_sse3", "has_ssse3", "has_sse41", "has_sse42"] {
        builder.enable(feature).unwrap();
    }
    builder.finish(flags()).unwrap()
}
