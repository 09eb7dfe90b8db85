//! Kernels of the float interface that write past the caches against those that do not, bit for bit.

#![cfg(target_arch = "x86_64")]

use std::io::Write as _;
use std::mem;

use cranelift_codegen::settings;
use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::{Linkage, Module, default_libcall_names};
use qcc_codegen::Target;
use qcc_codegen::kernel::float_conversion::{ConversionKind, ConversionSpec, Layout, emit};
use qcc_codegen::target::Backend;

/// From, to, the bits of a factor, blocks.
type Kernel = unsafe extern "C" fn(*const u8, *mut f32, u64, usize);

/// Memory with a known alignment.
#[repr(align(64))]
#[derive(Clone)]
struct Line([f32; 16]);

/// Channels, pixels, and floats in front of the first one of a plane that is written.
const CHANNELS: usize = 16;
const PIXELS: usize = 64;

/// What a kernel makes of some bytes, `skip` floats behind the start of a cache line.
fn written(spec: &ConversionSpec, bytes: &[u8], floats: usize, skip: usize) -> Vec<f32> {
    let isa = cranelift_native::builder().unwrap().finish(settings::Flags::new(settings::builder())).unwrap();
    let mut module = JITModule::new(JITBuilder::with_isa(isa, default_libcall_names()));
    let signature = module.make_signature();
    let id = module.declare_function("kernel", Linkage::Local, &signature).unwrap();
    module.define_function_bytes(id, 16, &emit(spec).unwrap(), &[]).unwrap();
    module.finalize_definitions().unwrap();
    let mut to = vec![Line([-1.0; 16]); floats.div_ceil(16) + 1];
    let blocks = match spec.layout {
        Layout::Run => bytes.len() / spec.block(),
        Layout::Planes { .. } => PIXELS / spec.block(),
    };
    // SAFETY: the kernel has this signature, reads `bytes` and writes `floats` numbers, for which there is room.
    unsafe {
        let kernel = mem::transmute::<*const u8, Kernel>(module.get_finalized_function(id));
        kernel(bytes.as_ptr(), to.as_mut_ptr().cast::<f32>().add(skip), u64::from(0.25f32.to_bits()), blocks);
        module.free_memory();
    }
    to.iter().flat_map(|line| line.0).collect()
}

#[test]
fn far_kernels_equal_near_ones_wherever_floats_lie() {
    let bytes: Vec<u8> = (0..CHANNELS * PIXELS).map(|i| (i * 37 + i / 256) as u8).collect();
    let floats = |plane: usize| (CHANNELS - 1) * plane / 4 + PIXELS;
    let layouts = [
        (Layout::Run, bytes.len()),
        // Lines of the cache, and planes that do not begin with one.
        (Layout::Planes { channels: CHANNELS, plane: 4 * PIXELS, pixel: CHANNELS }, floats(4 * PIXELS)),
        (Layout::Planes { channels: CHANNELS, plane: 4 * PIXELS + 32, pixel: CHANNELS }, floats(4 * PIXELS + 32)),
    ];
    let runnable: Vec<Backend> = Target::all_runnable().iter().map(Target::backend).collect();
    for zmm in [false, true] {
        let runs = |b: &Backend| if zmm { *b == Backend::Avx512 } else { matches!(b, Backend::Ymm(_)) };
        if !runnable.iter().any(runs) {
            // Written past the harness, which shows nothing of a test that passes.
            let bits = if zmm { 512 } else { 256 };
            let _ = writeln!(std::io::stderr(), "skipped: no vectors of {bits} bits here");
            continue;
        }
        for (layout, floats) in layouts {
            let near = ConversionSpec { kind: ConversionKind::Dequantize, layout, zero: 3, zmm, far: false };
            let expected = written(&near, &bytes, floats, 0);
            for skip in [0, 8, 16, 5] {
                let found = written(&ConversionSpec { far: true, ..near }, &bytes, floats + skip, skip);
                let what = format!("{layout:?}, zmm: {zmm}, {skip} floats behind a line");
                assert_eq!(found[skip..skip + floats], expected[..floats], "{what}");
                assert!(found[..skip].iter().chain(&found[skip + floats..]).all(|&x| x == -1.0), "{what}");
            }
        }
    }
}
