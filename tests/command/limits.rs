//! What a small file may ask of the compiler, and damaged compiled files.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Output;

use super::{EXAMPLE, done, models, qcc, refused, stderr, stdout};

fn folder(name: &str, text: impl AsRef<[u8]>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("temporary folder");
    std::fs::write(folder.path().join(name), text).expect("temporary file");
    folder
}

/// A graph whose one constant is computed with `operators`, each with the type of its result.
fn constant(operators: &[(&str, &str)]) -> String {
    let mut text =
        "graph @net(%x: tensor<1x4xf32>) -> (tensor<1x4xf32>) {\n  const @one : tensor<1x1xf32> = dense<[1.0]>\n"
            .to_string();
    for (i, (operator, ty)) in operators.iter().enumerate() {
        let _ = writeln!(text, "  %c{i} = {operator} : {ty}");
    }
    let last = operators.len() - 1;
    let _ = writeln!(text, "  %y = nn.add(%x, %c{last}) : tensor<1x4xf32>\n  return %y\n}}");
    text
}

/// A chain of so many operators.
fn chain(length: usize, operator: &str) -> Vec<u8> {
    let names: Vec<String> = (0..=length).map(|i| if i == length { "y".into() } else { format!("v{i}") }).collect();
    let nodes: Vec<(&str, &str, &str)> =
        (0..length).map(|i| (operator, if i == 0 { "x" } else { &*names[i] }, &*names[i + 1])).collect();
    models::model(&nodes, &[1, 4])
}

#[test]
fn a_constant_that_takes_too_much_memory_is_refused() {
    let sum = [
        ("tensor.expand(@one) {shape = [1048576, 4096]}", "tensor<1048576x4096xf32>"),
        ("nn.reduce_sum(%c0) {axes = [0, 1], keepdims = true}", "tensor<1x1xf32>"),
    ];
    let folder = folder("net.qir", constant(&sum));
    refused(folder.path(), &["net.qir", "-o", "out.so"], 1, "--max-memory 17180MB");
    refused(folder.path(), &["net.qir", "-o", "out.so", "--max-memory", "17GB"], 1, "more than 17.0 GB");
}

#[test]
fn a_constant_that_takes_too_much_work_is_refused() {
    let product = [
        ("tensor.expand(@one) {shape = [6000, 6000]}", "tensor<6000x6000xf32>"),
        ("nn.matmul(%c0, %c0)", "tensor<6000x6000xf32>"),
        ("nn.reduce_sum(%c1) {axes = [0, 1], keepdims = true}", "tensor<1x1xf32>"),
    ];
    let folder = folder("net.qir", constant(&product));
    refused(folder.path(), &["net.qir", "-o", "out.so"], 1, "--max-work 216000000000");
}

#[test]
fn many_nodes_are_refused_and_named_by_their_flag() {
    let folder = folder("net.onnx", chain(33_000, "Neg"));
    refused(folder.path(), &["net.onnx", "-o", "out.so"], 1, "--max-nodes 33000");
}

#[test]
fn time_is_limited() {
    let folder = folder("net.onnx", chain(3, "Neg"));
    refused(folder.path(), &["net.onnx", "-o", "out.so", "--max-time", "0"], 1, "--max-time");
    done(folder.path(), &["net.onnx", "-o", "out.so", "--max-time", "600"]);
}

/// Compiles in a thread with little stack, as hosts have them.
#[test]
fn long_chains_take_little_stack() {
    let models = [chain(2500, "Neg"), chain(2500, "LeakyRelu"), chain(1500, "Tanh")];
    let compile = move || {
        for model in models {
            let options = qcc::Options { threads: 1, ..qcc::Options::default() };
            qcc::compile(model, &options).expect("compiles");
        }
    };
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(compile).expect("a thread starts");
    thread.join().expect("it ends");
}

fn ended_well(output: &Output, what: &str) -> bool {
    let code = output.status.code();
    assert!(matches!(code, Some(0..=3)), "{what}: {code:?}, {}", stderr(output));
    code == Some(0)
}

#[test]
#[cfg(target_arch = "x86_64")]
fn a_damaged_model_is_refused_before_anything_of_it_runs() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path();
    done(path, &[EXAMPLE, "-o", "good.so", "--quality", "off"]);
    let good = std::fs::read(path.join("good.so")).expect("it was written");
    let damage = |at: usize, file: &[u8]| {
        let mut file = file.to_vec();
        file[at] ^= 0x10;
        file
    };
    let places = [7, 18, 0x28, 0x40, 0x60, 0x100, good.len() / 3, good.len() / 2, good.len() - 57, good.len() - 1];
    let cut = [10, 4096, good.len() - 56, good.len() - 1].map(|length| good[..length].to_vec());
    let all = places.iter().map(|&at| damage(at, &good)).chain(cut);
    for (i, file) in all.enumerate() {
        std::fs::write(path.join("bad.so"), file).expect("temporary file");
        for call in [&["inspect", "bad.so"][..], &["check", "bad.so"], &["bench", "bad.so", "--seconds", "0.01"]] {
            let output = qcc(path, call);
            assert!(!ended_well(&output, &format!("{call:?} {i}")), "{i}: {}", stdout(&output));
            assert!(output.stdout.is_empty(), "{i}: {}", stdout(&output));
        }
    }
}

/// A shared object of another compiler, whose constructor leaves a trace.
#[test]
#[cfg(target_arch = "x86_64")]
fn nothing_of_a_foreign_file_runs() {
    let folder = folder(
        "foreign.c",
        "#include <stdio.h>\n__attribute__((constructor)) static void c(void) { fclose(fopen(\"ran\", \"w\")); }\n",
    );
    let path = folder.path();
    let built = std::process::Command::new("gcc")
        .current_dir(path)
        .args(["-shared", "-fPIC", "foreign.c", "-o", "foreign.so"])
        .status();
    assert!(built.unwrap().success());
    for call in [
        &["inspect", "foreign.so"][..],
        &["bench", "foreign.so"],
        &["check", "foreign.so"],
        &["run", "foreign.so", "--input", "x.npy"],
    ] {
        assert!(!ended_well(&qcc(path, call), "foreign"), "{call:?}");
    }
    assert!(!Path::new(path).join("ran").exists());
}

/// Many small messages: some bytes of the file become hundreds in memory.
#[test]
fn messages_are_counted_before_they_are_parsed() {
    // Tensors without fields.
    let folder = folder("net.onnx", models::field(7, &models::field(5, b"").repeat(1_100_000)));
    refused(folder.path(), &["net.onnx", "-o", "out.so"], 1, "--max-nodes 34375");
}

/// A file of some megabytes can have a million faults.
#[test]
fn faults_are_listed_up_to_a_number() {
    let names: Vec<String> = (0..500).map(|i| format!("v{i}")).collect();
    let nodes: Vec<(&str, &str, &str)> = names.iter().map(|name| ("Neg", "nowhere", &**name)).collect();
    let undefined = nodes.iter().enumerate().map(|(i, n)| (n.0, &*names[(i * 7 + 3) % 500], "y")).collect::<Vec<_>>();
    let folder = folder("net.onnx", models::model(&undefined, &[1, 4]));
    let output = qcc(folder.path(), &["net.onnx", "-o", "out.so"]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.lines().filter(|l| l.starts_with("error")).count(), 101, "{said}");
    assert!(said.contains("there may be more: 100 are listed"), "{said}");
}

#[test]
#[cfg(target_os = "linux")]
fn files_without_end_are_refused() {
    let folder = folder("list.txt", "/dev/zero 1\n");
    std::os::unix::fs::symlink("/dev/zero", folder.path().join("zero.qir")).expect("a link");
    for (call, text) in [
        (&["/dev/zero", "-o", "out.so"][..], "no regular file"),
        (&["zero.qir", "-o", "out.so"], "more than 256 MB"),
        (&[EXAMPLE, "-o", "out.so", "--calibrate", "/dev/zero"], "more than 256 MB"),
        (&[EXAMPLE, "-o", "out.so", "--calibrate", "list.txt"], "no file `/dev/zero`"),
        (&[EXAMPLE, "-o", "out.so", "--ranges", "/dev/zero"], "more than 256 MB"),
        (&["run", EXAMPLE, "--input", "/dev/zero"], "more than 256 MB"),
        (&["check", "/dev/zero"], "more than 2048 MB"),
        (&["inspect", "zero.qir"], "more than 256 MB"),
    ] {
        refused(folder.path(), call, 1, text);
    }
    std::os::unix::fs::symlink("/dev/zero", folder.path().join("zero.so")).expect("a link");
    refused(folder.path(), &["run", "zero.so", "--input", "x.npy"], 1, "no regular file");
    let hole = std::fs::File::create(folder.path().join("hole.onnx")).expect("a file");
    hole.set_len(1 << 40).expect("a hole takes no room");
    refused(folder.path(), &["hole.onnx", "-o", "out.so"], 1, "the model's file would take 1099.5 GB");
}

/// A `.npz` archive with one array whose header announces `rows` and which has `written` bytes of zeros.
fn archive(rows: u64, written: u64, method: zip::CompressionMethod) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(method);
    archive.start_file("x.npy", options).expect("memory");
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, 3, 32, 32), }}\n");
    header.insert_str(0, &" ".repeat(118 - header.len()));
    std::io::Write::write_all(&mut archive, b"\x93NUMPY\x01\x00\x76\x00").expect("memory");
    std::io::Write::write_all(&mut archive, header.as_bytes()).expect("memory");
    std::io::copy(&mut std::io::Read::take(std::io::repeat(0), written), &mut archive).expect("memory");
    archive.finish().expect("memory").into_inner()
}

#[test]
fn archives_are_unpacked_as_far_as_their_headers_say() {
    let sample = 4 * 3 * 32 * 32;
    for method in [zip::CompressionMethod::Deflated, zip::CompressionMethod::Stored] {
        let folder = folder("more.npz", archive(2, 40_000_000, method));
        let call = |file: &'static str| [EXAMPLE, "-o", "out.so", "--calibrate", file];
        refused(folder.path(), &call("more.npz"), 1, "there is more than the 24576 bytes");
        std::fs::write(folder.path().join("less.npz"), archive(3, 2 * sample, method)).expect("temporary file");
        refused(folder.path(), &call("less.npz"), 1, "truncated");
        std::fs::write(folder.path().join("bomb.npz"), archive(100_000, 1, method)).expect("temporary file");
        refused(folder.path(), &call("bomb.npz"), 1, "more than 1024 MB when they are unpacked");
        std::fs::write(folder.path().join("good.npz"), archive(2, 2 * sample, method)).expect("temporary file");
        done(folder.path(), &[EXAMPLE, "-o", "good.so", "--calibrate", "good.npz", "--quality", "off"]);
    }
}

#[test]
fn numbers_of_flags_are_limited() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let threads = [EXAMPLE, "-o", "out.so", "--threads", "100000"];
    refused(folder.path(), &threads, 2, "up to 1024");
    refused(folder.path(), &["bench", EXAMPLE, "--seconds", "1e19"], 2, "--seconds: expected 0 to 86400");
    let image = folder.path().join("grey.png");
    let mut encoder = png::Encoder::new(std::fs::File::create(&image).expect("temporary file"), 8, 8);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.write_header().and_then(|mut w| w.write_image_data(&[128; 64])).expect("an image is written");
    for size in ["65536x65536", "20000x20000", "65536"] {
        let call =
            [EXAMPLE, "-o", "out.so", "--calibrate", "grey.png", "--preset", "unit", "--resize", size, "--crop", "32"];
        refused(folder.path(), &call, 1, "pixels are too many");
    }
}

/// What one node reads and calls within calls, in a thread with little stack.
#[test]
fn wide_graphs_take_little_stack() {
    let mut text = "graph @net(%x: tensor<1x4xf32>) -> (tensor<1x4xf32>) {\n".to_string();
    let mut sum = "%x".to_string();
    for i in 0..2000 {
        let _ = writeln!(text, "  %s{i} = nn.add({sum}, %x) : tensor<1x4xf32>");
        sum = format!("%s{i}");
    }
    let _ = writeln!(text, "  return {sum}\n}}");
    let operands = vec!["%x"; 4000].join(", ");
    let wide = format!(
        "graph @net(%x: tensor<1x4xf32>) -> (tensor<1x16000xf32>) {{\n  %y = tensor.concat({operands}) {{axis = 1}} : tensor<1x16000xf32>\n  return %y\n}}\n"
    );
    let compile = move || {
        for text in [text, wide] {
            let graph = qcc::ir::parse::parse(&text, &|_| Err(std::io::Error::other("none"))).expect("parses");
            let options = qcc::Options { threads: 1, ..qcc::Options::default() };
            qcc::compile(graph, &options).expect("compiles");
        }
    };
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(compile).expect("a thread starts");
    thread.join().expect("it ends");
}

/// A pass whose turn it is not is a fault of the pipeline, which names what the pass needs, and no bug of qcc.
#[test]
fn no_pass_is_a_bug_for_coming_too_early_or_late() {
    let folder = tempfile::tempdir().expect("temporary folder");
    done(folder.path(), &[EXAMPLE, "-o", "m.so", "--weights", "4", "--dump-dir", "dumps", "--quality", "off"]);
    let dumps = std::fs::read_dir(folder.path().join("dumps")).expect("dumps");
    let dumps = dumps.map(|entry| entry.expect("an entry").path().to_string_lossy().into_owned());
    let graphs: Vec<String> = dumps.filter(|path| path.ends_with(".qir")).chain([EXAMPLE.to_string()]).collect();
    assert!(graphs.len() > 10, "{graphs:?}");
    for graph in &graphs {
        for pass in qcc::passes::PASSES {
            let output = qcc(folder.path(), &["opt", graph, "--passes", pass.name]);
            let said = stderr(&output);
            assert!(output.status.code().is_some_and(|code| code <= 2), "{} of {graph}: {said}", pass.name);
        }
    }
    refused(folder.path(), &["opt", EXAMPLE, "--passes", "check-integer-only"], 2, "lower-to-int");
    refused(folder.path(), &["opt", EXAMPLE, "--passes", "fuse"], 2, "nothing in the graph is quantized");
}
