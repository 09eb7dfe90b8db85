//! The program as files: relocatable object, shared object, C header.

use std::collections::HashSet;

use cranelift_module::default_libcall_names;
use cranelift_object::{ObjectBuilder, ObjectModule};
use qcc_ir::{Diags, Graph};
use qcc_runtime::abi::symbol;
use qcc_runtime::{Manifest, ModelInfo, Seal};

use super::header;
use super::link::{LinkOptions, link_relocatable, link_shared};
use crate::Options;
use crate::program::{self, Program, TaskInfo, bug, entry_name};

/// What was compiled ahead of time.
pub struct Object {
    /// The compiler's ELF object, whose names are the program's own: [`Object::link`] and [`Object::relocatable`] make of it what
    /// hosts can use.
    pub object: Vec<u8>,
    /// Description.
    pub info: ModelInfo,
    /// How it was made.
    pub manifest: Manifest,
    /// What runs, in order.
    pub tasks: Vec<TaskInfo>,
    float_functions: HashSet<String>,
}

/// Compiles an integer graph into a relocatable object.
pub fn compile(graph: &Graph, options: &Options) -> Result<Object, Diags> {
    let builder =
        ObjectBuilder::new(options.target.isa()?, options.name.clone(), default_libcall_names()).map_err(bug)?;
    let mut module = ObjectModule::new(builder);
    let program = program::build(graph, options, &mut module)?;
    let object = module.finish().emit().map_err(bug)?;
    let Program { info, manifest, tasks, float_functions, .. } = program;
    Ok(Object { object, info, manifest, tasks, float_functions })
}

/// The program in Cranelift IR as text; kernels that are machine code from the start are named only.
pub fn clif(graph: &Graph, options: &Options) -> Result<String, Diags> {
    let builder =
        ObjectBuilder::new(options.target.isa()?, options.name.clone(), default_libcall_names()).map_err(bug)?;
    let mut text = String::new();
    program::build_listed(graph, options, &mut ObjectModule::new(builder), Some(&mut text))?;
    Ok(text)
}

impl Object {
    /// The shared object, to be stored under the file name `soname`.
    pub fn link(&self, soname: &str) -> Result<Vec<u8>, Diags> {
        let exports = self.exports();
        let options = LinkOptions { soname, exports: &exports, float_functions: &self.float_functions };
        let mut file = link_shared(&self.object, &options).map_err(bug)?;
        Seal::append(&mut file);
        Ok(file)
    }

    /// A relocatable object for a linker, with the names that the header declares.
    pub fn relocatable(&self) -> Result<Vec<u8>, Diags> {
        let exports = self.exports();
        let own = format!("qcc_{}_", header::identifier(&self.info.name));
        let options = LinkOptions { soname: "", exports: &exports, float_functions: &self.float_functions };
        link_relocatable(&self.object, &options, |name| !name.starts_with(&own)).map_err(bug)
    }

    /// The symbols of the object with the names that hosts know them by.
    fn exports(&self) -> Vec<(String, Vec<String>)> {
        let name = header::identifier(&self.info.name);
        let mut exports = vec![
            (entry_name::INFO, symbol::INFO),
            (entry_name::RUN, symbol::RUN),
            (entry_name::RUN_MT, symbol::RUN_MT),
            (entry_name::MANIFEST, symbol::MANIFEST),
        ];
        if self.info.has_float_interface {
            exports.extend([(entry_name::RUN_F32, symbol::RUN_F32), (entry_name::RUN_F32_MT, symbol::RUN_F32_MT)]);
        }
        let both = |(inside, fixed): (&str, &str)| {
            let mut names = vec![fixed.to_string(), symbol::of_model(&name, fixed)];
            // One name does for a model that is called `model`.
            names.dedup();
            (inside.to_string(), names)
        };
        exports.into_iter().map(both).collect()
    }

    /// The C header that belongs to it.
    pub fn header(&self) -> String {
        header::model_header(&self.info)
    }
}
