//! What loads models in statically linked programs, here beside the system's loader: the same description, the same results; and what asks for
//! more than it does is refused.

#[path = "../runtime/src/image.rs"]
mod image;

use std::path::Path;

use image::Image;
use qcc::runtime::abi::{InfoFn, RunFn, symbol};
use qcc::runtime::{EntryPoints, ModelInfo, TensorRef};
use qcc::{Model, Options, compile};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/models/resnet_cifar10.onnx");

fn compiled(folder: &Path) -> std::path::PathBuf {
    let so = folder.join("model.so");
    compile(EXAMPLE, &Options::default()).expect("the example compiles").write_so(&so).expect("the folder is there");
    so
}

#[test]
fn a_mapped_model_is_the_loaded_one() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let so = compiled(folder.path());
    let image = Image::map(&so, &std::fs::read(&so).unwrap()).expect("it can be mapped");
    assert!(image.symbol("model").is_none());
    let (info, run) = (image.symbol(symbol::INFO).unwrap(), image.symbol(symbol::RUN).unwrap());
    // SAFETY: the symbols of a model have these types, and the image lives as long as the model.
    let mapped = unsafe {
        let info: InfoFn = std::mem::transmute(info);
        let run: RunFn = std::mem::transmute(run);
        let entry = EntryPoints { run, run_mt: None, run_f32: None, run_f32_mt: None };
        let info = ModelInfo { has_float_interface: false, ..ModelInfo::read(info()).unwrap() };
        Model::from_parts(entry, info, None, Box::new(image)).unwrap()
    };
    let loaded = Model::load(&so).unwrap();
    assert_eq!(mapped.inputs(), loaded.inputs());
    let dims = &loaded.inputs()[0].dims;
    let input: Vec<u8> = (0..loaded.inputs()[0].elements()).map(|i| (i * 37 % 251) as u8).collect();
    let input = [TensorRef::new(dims, &input)];
    let (found, expected) = (mapped.run(&input).unwrap(), loaded.run(&input).unwrap());
    assert_eq!(found[0].bytes(), expected[0].bytes());
    assert!(expected[0].bytes().iter().any(|&b| b != expected[0].bytes()[0]));
}

#[test]
fn what_needs_a_loader_is_refused() {
    // Tests are linked with the C library.
    let own = std::env::current_exe().unwrap();
    let refused = Image::map(&own, &std::fs::read(&own).unwrap()).err().expect("it is refused");
    assert!(refused.contains("dynamic section") || refused.contains("mapped elsewhere"), "{refused}");
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    assert!(Image::map(&text, &std::fs::read(&text).unwrap()).is_err());
}

/// Whatever headers and tables say: refused, or mapped within the file.
#[test]
fn damaged_headers_end_in_an_error() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let so = compiled(folder.path());
    let whole = std::fs::read(&so).unwrap();
    let mut refused = 0;
    // Headers of the file, its segments and, behind these, its symbols.
    for at in 0..1024 {
        for bits in [0x01, 0x80, 0xff] {
            let mut damaged = whole.clone();
            damaged[at] ^= bits;
            refused += usize::from(Image::map(&so, &damaged).is_err());
        }
    }
    for length in [0, 3, 63, 64, 200, 4096, whole.len() / 2] {
        assert!(Image::map(&so, &whole[..length]).is_err(), "{length} bytes");
    }
    assert!(refused > 100, "{refused} files are refused");
}
