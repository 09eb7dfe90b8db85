//! Whole networks through every engine: the interpreter, the JIT of every target that runs here and the shared object give the
//! same bytes; a shared object for another architecture is written and holds no float instruction.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use qcc::codegen::{check, target::Level};
use qcc::engine::{Engine, Io};
use qcc::ir::{Data, Tensor};
use qcc::{Mode, Model, Options, Pool, Target, compile};

/// Random inputs for each network and engine.
const INPUTS: u64 = 5;

fn networks() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = vec![root.join("examples/models/resnet_cifar10.onnx")];
    for name in ["cifar10_resnet20", "mlperftiny_resnet8_cifar10", "mlperftiny_vww_mobilenetv1_025_96"] {
        let path = root.join(format!("../shared/data/models/{name}.onnx"));
        if path.is_file() {
            all.push(path);
        } else {
            // Written past the harness, which shows nothing of a test that passes.
            let _ = writeln!(std::io::stderr(), "skipped: no ../shared ({name})");
        }
    }
    all
}

/// Bytes from a linear congruential generator (Knuth's MMIX constants).
fn bytes(seed: u64, n: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..n).map(|_| next()).collect()
}

fn outputs(model: &Model, dims: &[usize], input: &[u8]) -> Vec<Vec<u8>> {
    let outputs = model.run(&[qcc::TensorRef::new(dims, input)]).expect("the model runs");
    outputs.iter().map(|t| t.bytes().to_vec()).collect()
}

#[test]
fn engines_agree_on_whole_networks() {
    let folder = tempfile::tempdir().expect("temporary folder");
    for path in networks() {
        for target in Target::all_runnable() {
            let what = format!("{} for {target}", path.display());
            let options = Options { target, ..Options::default() };
            let compiled = compile(path.as_path(), &options).unwrap_or_else(|e| panic!("{what}: {e}"));
            let jit = compiled.jit().unwrap_or_else(|e| panic!("{what}: {e}"));
            let file = folder.path().join("network.so");
            compiled.write_so(&file).unwrap_or_else(|e| panic!("{what}: {e}"));
            let report =
                check::certify(&std::fs::read(&file).expect("just written")).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert!(report.is_float_free(), "{what}: {:?}", report.integer.findings);
            let loaded = Model::load(&file).unwrap_or_else(|e| panic!("{what}: {e}"));
            let dims = jit.inputs()[0].dims.clone();
            let oracle = compiled.interpreter();
            for seed in 0..INPUTS {
                let input = bytes(seed, dims.iter().product());
                let wanted = oracle
                    .run(&[Tensor::new(&dims, Data::U8(input.clone()))])
                    .unwrap_or_else(|e| panic!("{what}: {e}"));
                let wanted: Vec<Vec<u8>> = wanted.iter().map(|t| t.as_u8().expect("bytes").to_vec()).collect();
                assert_eq!(outputs(&jit, &dims, &input), wanted, "JIT, {what}, seed {seed}");
                assert_eq!(outputs(&loaded, &dims, &input), wanted, "shared object, {what}, seed {seed}");
            }
        }
    }
}

/// Scales are found in each run, from inputs of every magnitude: the same integers, and the same reals at the float interface, on every
/// engine and any number of threads, near those of the float model.
#[test]
fn engines_agree_on_dynamic_scales() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/models/resnet_cifar10.onnx");
    let pool = Pool::new(3).expect("threads");
    for target in Target::all_runnable() {
        let what = target.to_string();
        let options = Options { target, mode: Mode::Int8Dynamic, ..Options::default() };
        let compiled = compile(path.as_path(), &options).unwrap_or_else(|e| panic!("{what}: {e}"));
        let jit = compiled.jit().unwrap_or_else(|e| panic!("{what}: {e}"));
        let names: Vec<&str> = jit.inputs().iter().chain(jit.outputs()).map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["input", "input.scale", "logits", "logits.scale"]);
        let dims = jit.inputs()[0].dims.clone();
        let oracle = compiled.interpreter();
        for (seed, exponent) in [(1, -30), (2, -90), (3, 20)] {
            let input = bytes(seed, dims.iter().product());
            let scale = [(1 << 30) + 12_345_678 * seed as i32, exponent];
            let stored = [Tensor::new(&dims, Data::U8(input.clone())), Tensor::new(&[2], Data::I32(scale.to_vec()))];
            let wanted = oracle.run(&stored).unwrap_or_else(|e| panic!("{what}: {e}"));
            let views = [qcc::TensorRef::new(&dims, &input), qcc::TensorRef::new(&[2], &scale)];
            for threads in [1, 3] {
                let session = jit.session();
                let mut session = if threads > 1 { session.with_pool(&pool) } else { session };
                let found = session.run(&views).unwrap_or_else(|e| panic!("{what}: {e}"));
                let what = format!("{what}, seed {seed}, {threads} threads");
                assert_eq!(found[0].as_slice::<u8>(), wanted[0].as_u8(), "{what}");
                assert_eq!(found[1].as_slice::<i32>(), wanted[1].as_i32(), "{what}");
            }
        }
        let (code, meaning) = (Engine::of_model(jit), Engine::of_graph(compiled.graph()));
        let float = qcc::Evaluator::new(compiled.source());
        for size in [1e-3f32, 1.0, 50.0] {
            let values =
                bytes(9, dims.iter().product()).iter().map(|&b| (f32::from(b) - 100.0) / 70.0 * size).collect();
            let image = [Tensor::f32(&dims, values)];
            let run =
                |engine: &Engine| engine.runner().run(&image, Io::Float).unwrap_or_else(|e| panic!("{what}: {e}"));
            let (found, real) = (run(&code), float.run(&image).unwrap_or_else(|e| panic!("{what}: {e}")));
            assert_eq!(found, run(&meaning), "{what}, inputs of size {size}");
            let (found, real) = (found[0].as_f32().expect("floats"), real[0].as_f32().expect("floats"));
            let power = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x) * f64::from(x)).sum::<f64>();
            let noise = power(&mut real.iter().zip(found).map(|(a, b)| a - b));
            let decibels = 10.0 * (power(&mut real.iter().copied()) / noise).log10();
            assert!(decibels > 20.0, "{what}, inputs of size {size}: {decibels:.1} dB");
        }
    }
}

/// Constants of a layer, as text: weights of a variance that keeps values alive, from a sequence.
fn weights(name: &str, dims: &[usize], seed: u64) -> String {
    let n = dims.iter().product();
    let fan = dims[1..].iter().product::<usize>().max(1) as f32;
    let values: Vec<String> =
        bytes(seed, n).iter().map(|&b| format!("{:?}", (f32::from(b) - 127.0) / 60.0 / fan.sqrt())).collect();
    let dims: Vec<String> = dims.iter().map(usize::to_string).collect();
    format!("  const @{name} : tensor<{}xf32> = dense<[{}]>\n", dims.join("x"), values.join(", "))
}

/// A network in which all forms with dynamic scales meet: bounded rectifiers, concatenations of concatenations, gates,
/// functions, maxima, means; a map of 24 channels and some numbers come out of it.
fn meeting() -> String {
    let constants = [
        weights("w0", &[20, 3, 3, 3], 1),
        weights("w1", &[16, 20, 1, 1], 2),
        weights("w2", &[8, 20, 3, 3], 3),
        weights("wd", &[20, 1, 3, 3], 4),
        weights("ws", &[44, 44, 1, 1], 5),
        weights("w3", &[24, 44, 3, 3], 6),
        weights("wl", &[10, 24], 7),
    ];
    let body = "
  %c0 = nn.conv2d(%x, @w0) {pads = [1, 1, 1, 1]} : tensor<1x20x18x21xf32>
  %a = nn.clip(%c0) {min = 0.0, max = 1.5} : tensor<1x20x18x21xf32>
  %c1 = nn.conv2d(%a, @w1) : tensor<1x16x18x21xf32>
  %b = nn.hard_swish(%c1) : tensor<1x16x18x21xf32>
  %c2 = nn.conv2d(%a, @w2) {pads = [1, 1, 1, 1]} : tensor<1x8x18x21xf32>
  %d = nn.relu(%c2) : tensor<1x8x18x21xf32>
  %bd = tensor.concat(%b, %d) {axis = 1} : tensor<1x24x18x21xf32>
  %e = nn.conv2d(%a, @wd) {pads = [1, 1, 1, 1], groups = 20} : tensor<1x20x18x21xf32>
  %all = tensor.concat(%bd, %e) {axis = 1} : tensor<1x44x18x21xf32>
  %m = nn.reduce_mean(%all) {axes = [2, 3]} : tensor<1x44x1x1xf32>
  %s = nn.conv2d(%m, @ws) : tensor<1x44x1x1xf32>
  %gate = nn.sigmoid(%s) : tensor<1x44x1x1xf32>
  %gated = nn.mul(%all, %gate) : tensor<1x44x18x21xf32>
  %p = nn.max_pool(%gated) {kernel = [2, 2], strides = [1, 1]} : tensor<1x44x17x20xf32>
  %map = nn.conv2d(%p, @w3) {pads = [1, 1, 1, 1]} : tensor<1x24x17x20xf32>
  %flat = nn.reduce_mean(%map) {axes = [2, 3], keepdims = false} : tensor<1x24xf32>
  %l = nn.linear(%flat, @wl) : tensor<1x10xf32>
  %y = nn.softmax(%l) {axis = 1} : tensor<1x10xf32>
  return %y, %map
}
";
    let head = "graph @meeting(%x: tensor<1x3x18x21xf32>) -> (tensor<1x10xf32>, tensor<1x24x17x20xf32>) {\n";
    format!("{head}{}{body}", constants.concat())
}

/// Floats become bytes, and bytes floats, wherever channels of all numbers lie: by pixels, in planes that are longer or shorter than
/// blocks of a leaf, in several images.
#[test]
fn engines_agree_on_the_float_interface() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let pool = Pool::new(3).expect("threads");
    let shapes = [
        (1, 1, 33, 30, 70),
        (1, 2, 5, 9, 18),
        (2, 4, 70, 31, 40),
        (1, 20, 24, 16, 16),
        (1, 64, 17, 5, 300),
        (3, 3, 16, 7, 7),
    ];
    for (images, inputs, outputs, rows, columns) in shapes {
        let (x, y) = (format!("{images}x{inputs}x{rows}x{columns}"), format!("{images}x{outputs}x{rows}x{columns}"));
        let constant = weights("w", &[outputs, inputs, 3, 3], 5);
        let text = format!(
            "graph @edge(%x: tensor<{x}xf32>) -> (tensor<{y}xf32>) {{\n{constant}  %y = nn.conv2d(%x, @w) \
             {{pads = [1, 1, 1, 1]}} : tensor<{y}xf32>\n  return %y\n}}\n"
        );
        let path = folder.path().join(format!("{x}.qir"));
        std::fs::write(&path, text).expect("temporary folder");
        let dims = [images, inputs, rows, columns];
        let values: Vec<f32> = bytes(7, dims.iter().product()).iter().map(|&b| (f32::from(b) - 128.0) / 40.0).collect();
        let mut special = values.clone();
        for (i, x) in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -3e38, 0.5].into_iter().enumerate() {
            special.iter_mut().skip(i).step_by(13).for_each(|v| *v = x);
        }
        for target in Target::all_runnable() {
            let what = format!("{x} to {outputs} channels, {target:?}");
            let options = Options { target, ..Options::default() };
            let compiled = compile(path.as_path(), &options).unwrap_or_else(|e| panic!("{what}: {e}"));
            let jit = compiled.jit().unwrap_or_else(|e| panic!("{what}: {e}"));
            let meaning = Engine::of_graph(compiled.graph());
            for values in [&values, &special] {
                let input = [Tensor::f32(&dims, values.clone())];
                let wanted = meaning.runner().run(&input, Io::Float).unwrap_or_else(|e| panic!("{what}: {e}"));
                for threads in [1, 3] {
                    let session = jit.session();
                    let mut session = if threads > 1 { session.with_pool(&pool) } else { session };
                    let view = [qcc::TensorRef::new(&dims, values)];
                    let found = session.run_f32(&view).unwrap_or_else(|e| panic!("{what}: {e}"));
                    assert_eq!(found[0].as_slice::<f32>(), wanted[0].as_f32(), "{what}, {threads} threads");
                }
            }
        }
    }
}

/// Every engine and any number of threads give the interpreter's floats, also of inputs that are no numbers, and these are near
/// those of the float model.
#[test]
fn engines_agree_where_dynamic_scales_meet() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("meeting.qir");
    std::fs::write(&path, meeting()).expect("temporary folder");
    let pool = Pool::new(3).expect("threads");
    let dims = [1, 3, 18, 21];
    let image = |size: f32| -> Vec<f32> {
        bytes(11, dims.iter().product()).iter().map(|&b| (f32::from(b) - 120.0) / 70.0 * size).collect()
    };
    let mut special = image(1.0);
    for (i, x) in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30, -0.0].into_iter().enumerate() {
        special.iter_mut().skip(i).step_by(31).for_each(|v| *v = x);
    }
    for target in Target::all_runnable() {
        for mode in [Mode::Int8Dynamic, Mode::Int8Static] {
            let what = format!("{} (vector kernels: {}), {mode:?}", target.name(), target.has_vector_kernels());
            let options = Options { target, mode, ..Options::default() };
            let compiled = compile(path.as_path(), &options).unwrap_or_else(|e| panic!("{what}: {e}"));
            let jit = compiled.jit().unwrap_or_else(|e| panic!("{what}: {e}"));
            let meaning = Engine::of_graph(compiled.graph());
            let float = qcc::Evaluator::new(compiled.source());
            for values in [image(1.0), image(1e-4), image(300.0), special.clone()] {
                let finite = values.iter().all(|x| x.abs() < 1e6);
                let input = [Tensor::f32(&dims, values.clone())];
                let wanted = meaning.runner().run(&input, Io::Float).unwrap_or_else(|e| panic!("{what}: {e}"));
                for threads in [1, 3] {
                    let session = jit.session();
                    let mut session = if threads > 1 { session.with_pool(&pool) } else { session };
                    let view = [qcc::TensorRef::new(&dims, &values)];
                    let found = session.run_f32(&view).unwrap_or_else(|e| panic!("{what}: {e}"));
                    for (found, wanted) in found.iter().zip(&wanted) {
                        assert_eq!(found.as_slice::<f32>(), wanted.as_f32(), "{what}, {threads} threads");
                    }
                }
                if finite && mode == Mode::Int8Dynamic {
                    let real = float.run(&input).unwrap_or_else(|e| panic!("{what}: {e}"));
                    let (map, real) = (wanted[1].as_f32().expect("floats"), real[1].as_f32().expect("floats"));
                    let power = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x) * f64::from(x)).sum::<f64>();
                    let noise = power(&mut real.iter().zip(map).map(|(a, b)| a - b));
                    let decibels = 10.0 * (power(&mut real.iter().copied()) / noise).log10();
                    assert!(decibels > 25.0, "{what}: {decibels:.1} dB");
                }
            }
        }
    }
}

/// Between an input and an output that are the same numbers in another place nothing is computed, and both are converted.
#[test]
fn what_is_only_moved_passes_the_float_interface() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let ty = "!quant.uniform<u8:f32, 0.5:3>";
    for (dims, node) in [
        ("2x60", "tensor.reshape(%x) {shape = [2, 60]}"),
        ("5x4x3x2", "tensor.transpose(%x) {perm = [3, 2, 1, 0]}"),
        ("2x3x4x3", "tensor.slice(%x) {starts = [0, 0, 0, 1], ends = [2, 3, 4, 4], steps = [1, 1, 1, 1]}"),
    ] {
        let path = folder.path().join("moved.qir");
        let text = format!(
            "graph @moved(%x: tensor<2x3x4x5x{ty}>) -> (tensor<{dims}x{ty}>) {{\n  %y = {node} : tensor<{dims}x{ty}>\n  return %y\n}}\n"
        );
        std::fs::write(&path, text).expect("temporary file");
        let image = [Tensor::f32(&[2, 3, 4, 5], bytes(5, 120).iter().map(|&b| f32::from(b) / 2.0 - 1.5).collect())];
        for target in Target::all_runnable() {
            let options = Options { target, ..Options::default() };
            let compiled = compile(path.as_path(), &options).unwrap_or_else(|e| panic!("{node}: {e}"));
            let jit = compiled.jit().unwrap_or_else(|e| panic!("{node}: {e}"));
            let (code, meaning) = (Engine::of_model(jit), Engine::of_graph(compiled.graph()));
            let run =
                |engine: &Engine| engine.runner().run(&image, Io::Float).unwrap_or_else(|e| panic!("{node}: {e}"));
            assert_eq!(
                run(&code),
                run(&meaning),
                "{node} for {} (vector kernels: {})",
                target.name(),
                target.has_vector_kernels()
            );
        }
    }
}

/// Parts of an input that are moved within a model begin behind its first number.
#[test]
fn parts_of_inputs_pass_the_float_interface() {
    let ty = "!quant.uniform<u8:f32, 0.5:3>";
    let text = format!(
        "graph @parts(%x: tensor<1x4x16x16x{ty}>) -> (tensor<1x4x16x16x{ty}>) {{
  %last = tensor.slice(%x) {{starts = [0, 1, 0, 0], ends = [1, 4, 16, 16], steps = [1, 1, 1, 1]}} : tensor<1x3x16x16x{ty}>
  %first = tensor.slice(%x) {{starts = [0, 0, 0, 0], ends = [1, 1, 16, 16], steps = [1, 1, 1, 1]}} : tensor<1x1x16x16x{ty}>
  %y = tensor.concat(%last, %first) {{axis = 1}} : tensor<1x4x16x16x{ty}>
  return %y
}}
"
    );
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("parts.qir");
    std::fs::write(&path, text).expect("temporary file");
    let numbers: Vec<f32> = bytes(5, 1024).iter().map(|&b| f32::from(b) / 2.0 - 1.5).collect();
    let swapped = [&numbers[256..], &numbers[..256]].concat();
    let image = [Tensor::f32(&[1, 4, 16, 16], numbers)];
    for target in Target::all_runnable() {
        let compiled = compile(path.as_path(), &Options { target, ..Options::default() }).expect("it compiles");
        let code = Engine::of_model(compiled.jit().expect("it loads"));
        let found = code.runner().run(&image, Io::Float).expect("it runs");
        assert_eq!(
            found[0].as_f32(),
            Some(&swapped[..]),
            "{} (vector kernels: {})",
            target.name(),
            target.has_vector_kernels()
        );
    }
}

#[test]
fn same_input_and_options_give_the_same_bytes_also_for_another_architecture() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/models/resnet_cifar10.onnx");
    let folder = tempfile::tempdir().expect("temporary folder");
    for level in [Level::Aarch64, Level::X86V2, Level::X86V4Vnni] {
        let options = Options { target: Target::of(level), ..Options::default() };
        let write = |name: &str| {
            let file = folder.path().join(name).join("network.so");
            std::fs::create_dir_all(file.parent().expect("a folder")).expect("temporary folder");
            compile(model.as_path(), &options)
                .and_then(|c| c.write_so(&file))
                .unwrap_or_else(|e| panic!("{level:?}: {e}"));
            std::fs::read(&file).expect("just written")
        };
        let (first, second) = (write("a"), write("b"));
        assert!(first == second, "{level:?}: two runs differ");
        let report = check::certify(&first).unwrap_or_else(|e| panic!("{level:?}: {e}"));
        assert!(report.is_float_free(), "{level:?}: {:?}", report.integer.findings);
    }
}
