use super::*;
use cranelift_codegen::ir::{AbiParam, InstBuilder, MemFlagsData as MemFlags, types};
use cranelift_codegen::isa;
use cranelift_codegen::settings::{self, Configurable};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use cranelift_module::{DataDescription, FuncId, Linkage, Module, default_libcall_names};
use cranelift_object::{ObjectBuilder, ObjectModule};
use object::read::elf::ElfFile64;
use object::{Endianness, Object, ObjectSection, ObjectSymbol};
use std::io::Write as _;
use std::process::Command;

const X86_64: &str = "x86_64-unknown-linux-gnu";
const AARCH64: &str = "aarch64-unknown-linux-gnu";

/// `lookup(i) = twice(table[i]) + raw()`, where `table[i] = 3 * i`, `raw() = 42` is foreign code, and a function of floats `scale`.
fn sample(triple: &str, sections: bool) -> Vec<u8> {
    let mut flags = settings::builder();
    flags.set("is_pic", "false").unwrap();
    flags.set("opt_level", "speed").unwrap();
    let isa = isa::lookup_by_name(triple).unwrap().finish(settings::Flags::new(flags)).unwrap();
    let mut builder = ObjectBuilder::new(isa, "sample", default_libcall_names()).unwrap();
    builder.per_function_section(sections);
    let mut module = ObjectModule::new(builder);

    let table = module.declare_data("table", Linkage::Local, false, false).unwrap();
    let mut content = DataDescription::new();
    content.define((0..=255u32).flat_map(|i| (3 * i).to_le_bytes()).collect());
    content.set_align(64);
    module.define_data(table, &content).unwrap();

    let mut signature = module.make_signature();
    signature.returns.push(AbiParam::new(types::I32));
    let raw = module.declare_function("raw", Linkage::Local, &signature).unwrap();
    let bytes: &[u8] = match triple {
        X86_64 => &[0xb8, 42, 0, 0, 0, 0xc3],
        _ => &[0x40, 0x05, 0x80, 0x52, 0xc0, 0x03, 0x5f, 0xd6],
    };
    module.define_function_bytes(raw, 64, bytes, &[]).unwrap();

    signature.params.push(AbiParam::new(types::I32));
    let twice = define(&mut module, "twice", &signature, |b, _, x| b.ins().ishl_imm_u(x, 1));
    define(&mut module, "lookup", &signature, |b, module, x| {
        let table = module.declare_data_in_func(table, b.func);
        let table = b.ins().symbol_value(types::I64, table);
        let index = b.ins().uextend(types::I64, x);
        let offset = b.ins().ishl_imm_u(index, 2);
        let address = b.ins().iadd(table, offset);
        let value = b.ins().load(types::I32, MemFlags::trusted(), address, 0);
        let (twice, raw) = (module.declare_func_in_func(twice, b.func), module.declare_func_in_func(raw, b.func));
        let call = b.ins().call(twice, &[value]);
        let doubled = b.inst_results(call)[0];
        let call = b.ins().call(raw, &[]);
        let answer = b.inst_results(call)[0];
        b.ins().iadd(doubled, answer)
    });
    define(&mut module, "scale", &signature, |b, _, x| {
        let real = b.ins().fcvt_from_sint(types::F32, x);
        let factor = b.ins().f32const(2.5);
        let product = b.ins().fmul(real, factor);
        b.ins().fcvt_to_sint_sat(types::I32, product)
    });
    module.finish().emit().unwrap()
}

fn define(
    module: &mut ObjectModule,
    name: &str,
    signature: &cranelift_codegen::ir::Signature,
    body: impl FnOnce(
        &mut FunctionBuilder<'_>,
        &mut ObjectModule,
        cranelift_codegen::ir::Value,
    ) -> cranelift_codegen::ir::Value,
) -> FuncId {
    let id = module.declare_function(name, Linkage::Local, signature).unwrap();
    let mut context = module.make_context();
    context.func.signature = signature.clone();
    let mut builder_context = FunctionBuilderContext::new();
    let mut b = FunctionBuilder::new(&mut context.func, &mut builder_context);
    let block = b.create_block();
    b.append_block_params_for_function_params(block);
    b.switch_to_block(block);
    b.seal_all_blocks();
    let x = b.block_params(block)[0];
    let result = body(&mut b, module, x);
    b.ins().return_(&[result]);
    b.finalize(module.isa().frontend_config());
    module.define_function(id, &mut context).unwrap();
    id
}

fn link(object: &[u8]) -> Result<Vec<u8>, LinkError> {
    let exports = [
        ("lookup".to_owned(), vec!["qcc_sample_lookup".to_owned(), "qcc_lookup".to_owned()]),
        ("table".to_owned(), vec!["qcc_table".to_owned()]),
        ("scale".to_owned(), vec!["qcc_scale".to_owned()]),
    ];
    let float_functions = HashSet::from(["scale".to_owned()]);
    link_shared(object, &LinkOptions { soname: "sample.so", exports: &exports, float_functions: &float_functions })
}

/// Runs a program; `None` with a visible note if this machine does not have it.
fn run(program: &str, arguments: &[&str], folder: &std::path::Path) -> Option<String> {
    match Command::new(program).args(arguments).current_dir(folder).output() {
        Ok(out) => {
            assert!(out.status.success(), "{program}: {}", String::from_utf8_lossy(&out.stderr));
            Some(String::from_utf8_lossy(&out.stdout).into_owned())
        }
        Err(error) => {
            // Written past the harness, which shows nothing of a test that passes.
            let _ = writeln!(std::io::stderr(), "skipped: no {program}: {error}");
            None
        }
    }
}

#[test]
fn bytes_are_the_same_every_time_and_sections_make_no_difference_to_what_is_in_them() {
    for triple in [X86_64, AARCH64] {
        assert_eq!(link(&sample(triple, false)).unwrap(), link(&sample(triple, false)).unwrap());
        let names = |bytes: &[u8]| {
            let file = ElfFile64::<Endianness>::parse(bytes).unwrap();
            let mut names: Vec<String> = file.symbols().map(|s| s.name().unwrap().to_owned()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&link(&sample(triple, true)).unwrap()), names(&link(&sample(triple, false)).unwrap()));
    }
}

#[test]
fn structure_is_as_promised_on_both_machines() {
    for triple in [X86_64, AARCH64] {
        let bytes = link(&sample(triple, false)).unwrap();
        let file = ElfFile64::<Endianness>::parse(bytes.as_slice()).unwrap();
        assert_eq!(file.kind(), object::ObjectKind::Dynamic);
        assert!(file.dynamic_relocations().is_none_or(|mut r| r.next().is_none()));
        assert_eq!(file.imports().unwrap().count(), 0);
        let mut exports: Vec<_> = file.dynamic_symbols().map(|s| s.name().unwrap()).collect();
        exports.sort_unstable();
        assert_eq!(exports, ["qcc_lookup", "qcc_sample_lookup", "qcc_scale", "qcc_table"]);
        let home = |name: &str| {
            let symbol = file.symbols().find(|s| s.name() == Ok(name)).unwrap();
            let section = file.section_by_index(symbol.section_index().unwrap()).unwrap();
            section.name().unwrap().to_owned()
        };
        assert_eq!([home("lookup"), home("scale"), home("table")], [TEXT, FLOAT_TEXT, ".rodata"]);
        assert_eq!(file.section_by_name(".rodata").unwrap().address() % 64, 0);
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[test]
fn the_result_loads_and_runs() {
    let folder = tempfile::tempdir().unwrap();
    for sections in [false, true] {
        let path = folder.path().join(format!("sample{sections}.so"));
        std::fs::write(&path, link(&sample(X86_64, sections)).unwrap()).unwrap();
        // SAFETY: the file has no initialization code, and the signatures are those of `sample`.
        unsafe {
            let library = libloading::Library::new(&path).unwrap();
            for name in ["qcc_sample_lookup", "qcc_lookup"] {
                let lookup = library.get::<extern "C" fn(i32) -> i32>(name).unwrap();
                assert!((0..256).all(|i| lookup(i) == 6 * i + 42));
            }
            let scale = library.get::<extern "C" fn(i32) -> i32>("qcc_scale").unwrap();
            assert_eq!(scale(5), 12);
            let table = library.get::<*const u32>("qcc_table").unwrap();
            assert_eq!((table.addr() % 64, *table.add(7)), (0, 21));
            assert!(library.get::<*const u8>("twice").is_err());
        }
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[test]
fn other_programs_load_and_link_the_result() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    std::fs::write(path.join("sample.so"), link(&sample(X86_64, false)).unwrap()).unwrap();
    if let Some(dynamic) = run("readelf", &["-d", "-W", "sample.so"], path) {
        assert!(
            dynamic.contains("sample.so") && !dynamic.contains("NEEDED") && !dynamic.contains("TEXTREL"),
            "{dynamic}"
        );
        let all = run("readelf", &["-a", "-W", "sample.so"], path).unwrap_or_default();
        assert!(all.contains("There are no relocations in this file"), "{all}");
    }
    let script = "import ctypes; print(ctypes.CDLL('./sample.so').qcc_lookup(10))";
    if let Some(answer) = run("python3", &["-c", script], path) {
        assert_eq!(answer.trim(), "102");
    }
    let program = "int qcc_lookup(int); int main(void) { return qcc_lookup(10) != 102; }";
    std::fs::write(path.join("main.c"), program).unwrap();
    if run("gcc", &["main.c", "./sample.so", "-Wl,-rpath,.", "-o", "main"], path).is_some() {
        run("./main", &[], path);
    }
}

/// Only where a cross compiler and the emulator are installed.
#[test]
fn aarch64_runs_under_emulation() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    std::fs::write(path.join("sample.so"), link(&sample(AARCH64, false)).unwrap()).unwrap();
    let program = "int qcc_lookup(int); int main(void) { return qcc_lookup(10) != 102; }";
    std::fs::write(path.join("main.c"), program).unwrap();
    if run("aarch64-linux-gnu-gcc", &["main.c", "./sample.so", "-Wl,-rpath,.", "-o", "main"], path).is_some() {
        run("qemu-aarch64-static", &["-L", "/usr/aarch64-linux-gnu", "./main"], path);
    }
}

/// References that only a dynamic loader could settle are named; so are writable data and undefined symbols.
#[test]
fn what_cannot_be_linked_is_named() {
    let build = |define: &dyn Fn(&mut ObjectModule)| {
        let mut flags = settings::builder();
        flags.set("is_pic", "false").unwrap();
        let isa = isa::lookup_by_name(X86_64).unwrap().finish(settings::Flags::new(flags)).unwrap();
        let builder = ObjectBuilder::new(isa, "bad", default_libcall_names()).unwrap();
        let mut module = ObjectModule::new(builder);
        let mut signature = module.make_signature();
        signature.params.push(AbiParam::new(types::I32));
        signature.returns.push(AbiParam::new(types::I32));
        for name in ["lookup", "scale"] {
            self::define(&mut module, name, &signature, |_, _, x| x);
        }
        define(&mut module);
        link(&module.finish().emit().unwrap()).unwrap_err().to_string()
    };
    let missing = build(&|_| ());
    assert_eq!(missing, "symbol `table` is exported but not defined");

    let writable = build(&|module| {
        let data = module.declare_data("table", Linkage::Local, true, false).unwrap();
        let mut content = DataDescription::new();
        content.define(vec![1].into());
        module.define_data(data, &content).unwrap();
    });
    assert_eq!(writable, "section `.data` holds writable data; a compiled model has no global state");

    let pointer = build(&|module| {
        let data = module.declare_data("table", Linkage::Local, false, false).unwrap();
        let mut content = DataDescription::new();
        content.define(vec![0; 8].into());
        let own = module.declare_data_in_data(data, &mut content);
        content.write_data_addr(0, own, 0);
        module.define_data(data, &content).unwrap();
    });
    assert!(pointer.starts_with("relocation R_X86_64_64 against `table` in `.data.rel.ro"), "{pointer}");

    let import = build(&|module| {
        let signature = module.make_signature();
        let outside = module.declare_function("memcpy", Linkage::Import, &signature).unwrap();
        let mut signature = module.make_signature();
        signature.params.push(AbiParam::new(types::I32));
        signature.returns.push(AbiParam::new(types::I32));
        define(module, "caller", &signature, |b, module, x| {
            let outside = module.declare_func_in_func(outside, b.func);
            b.ins().call(outside, &[]);
            x
        });
    });
    assert_eq!(import, "symbol `memcpy` is not defined; a compiled model calls nothing outside itself");
    assert!(matches!(link(b"not an object"), Err(LinkError::Object(_))));
}
