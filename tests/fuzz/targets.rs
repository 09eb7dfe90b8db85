//! The kinds of input: where they come from, how they are changed, and what may become of them.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use qcc::data::{Dataset, Preprocess};
use qcc::engine::{Engine, Io};
use qcc::ir::{Budget, Builder, Data, Graph, Opcode, Tensor, parse};
use qcc::passes::{Context, Pipeline};
use qcc::runtime::{Manifest, ModelInfo, Seal};
use qcc::{Compiled, Diag, Error, Kind, Mode, Options, RangeTable, Samples as _, compile};
use qcc_num::random::Random;

use super::mutate::Mutator;
use super::structured;

/// A kind of input.
pub struct Target {
    pub name: &'static str,
    /// Of files in the corpus.
    pub extension: &'static str,
    /// Share of the time.
    pub share: u64,
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Changes the first input, perhaps with pieces of the second.
    pub mutate: fn(&mut Mutator, &[u8], &[u8]) -> Vec<u8>,
    /// What is answered to an input; panics if that is a fault of qcc.
    pub run: fn(&[u8]) -> String,
}

pub const TARGETS: &[Target] = &[
    Target { name: "onnx", extension: "onnx", share: 8, seeds: models, mutate: structured::model, run: onnx },
    Target { name: "bytes", extension: "onnx", share: 2, seeds: models, mutate: Mutator::bytes, run: onnx },
    Target { name: "qir", extension: "qir", share: 6, seeds: texts, mutate: Mutator::text, run: qir },
    Target { name: "pipeline", extension: "txt", share: 3, seeds: pipelines, mutate: Mutator::text, run: pipeline },
    Target { name: "ranges", extension: "json", share: 2, seeds: tables, mutate: Mutator::text, run: ranges },
    Target { name: "npy", extension: "npy", share: 1, seeds: arrays, mutate: Mutator::bytes, run: npy },
    Target { name: "npz", extension: "npz", share: 1, seeds: archives, mutate: Mutator::bytes, run: npz },
    Target { name: "image", extension: "png", share: 1, seeds: images, mutate: Mutator::bytes, run: image },
    Target { name: "loader", extension: "so", share: 2, seeds: compiled, mutate: Mutator::bytes, run: loader },
];

fn tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .find(|p| p.join("ARCHITECTURE.md").exists())
        .unwrap_or(Path::new("."))
        .join(path)
}

/// Files below a folder with an ending, the same ones in the same order everywhere.
fn files(folder: &str, ending: &str, longest: u64) -> Vec<Vec<u8>> {
    let (mut folders, mut found) = (vec![tree(folder)], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let (path, length) = (entry.path(), entry.metadata().map_or(0, |m| m.len()));
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(ending) && length <= longest {
                found.push(path);
            }
        }
    }
    found.sort();
    found.into_iter().filter_map(|path| std::fs::read(path).ok()).collect()
}

fn models() -> Vec<Vec<u8>> {
    files("tests/fixtures", ".onnx", 20_000)
}

fn texts() -> Vec<Vec<u8>> {
    files("tests/filetests", ".qir", 20_000)
}

fn pipelines() -> Vec<Vec<u8>> {
    let presets = qcc::passes::PRESETS.iter().map(|p| p.text.as_bytes().to_vec());
    let all: Vec<&str> = qcc::passes::PASSES.iter().map(|p| p.name).collect();
    presets.chain([all.join(", ").into_bytes(), b"fixpoint(canonicalize, fold-constants)".to_vec()]).collect()
}

fn tables() -> Vec<Vec<u8>> {
    let options = Options { ranges: None, ..options() };
    let compiled = compile(small(), &options).expect("the small network compiles");
    let table = compiled.ranges().expect("it has ranges").to_json();
    vec![table.into_bytes(), br#"{"values": {"x": {"min": -1, "max": 1}}}"#.to_vec()]
}

fn arrays() -> Vec<Vec<u8>> {
    let data = [Data::F32(vec![0.5; 96]), Data::I8(vec![3; 96]), Data::I64(vec![7; 96]), Data::U8(vec![1; 96])];
    data.into_iter().map(|data| qcc::data::array::to_npy(&Tensor::new(&[2, 3, 4, 4], data))).collect()
}

fn archives() -> Vec<Vec<u8>> {
    let methods = [zip::CompressionMethod::Stored, zip::CompressionMethod::Deflated];
    let archive = |method: zip::CompressionMethod| {
        let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        for (name, array) in ["x.npy", "labels.npy"].iter().zip(arrays()) {
            let options = zip::write::SimpleFileOptions::default().compression_method(method);
            archive.start_file(*name, options).expect("in memory");
            archive.write_all(&array).expect("in memory");
        }
        archive.finish().expect("in memory").into_inner()
    };
    methods.into_iter().map(archive).collect()
}

fn images() -> Vec<Vec<u8>> {
    let colours = [(png::ColorType::Rgb, 3), (png::ColorType::Grayscale, 1), (png::ColorType::Rgba, 4)];
    let image = |(colour, channels): (png::ColorType, usize)| {
        let mut out = Vec::new();
        let mut encoder = png::Encoder::new(&mut out, 8, 8);
        encoder.set_color(colour);
        let pixels: Vec<u8> = (0..64 * channels).map(|i| (i * 37 % 251) as u8).collect();
        encoder.write_header().and_then(|mut w| w.write_image_data(&pixels)).expect("in memory");
        out
    };
    // A JPEG of 8 x 8 grey pixels, baseline: quantization by ones, one code of Huffman each for DC and AC, one block.
    let mut jpeg = vec![0xff, 0xd8, 0xff, 0xdb, 0, 67, 0];
    jpeg.extend([1; 64]);
    jpeg.extend([0xff, 0xc0, 0, 11, 8, 0, 8, 0, 8, 1, 1, 0x11, 0]);
    for class in [0x00, 0x10] {
        jpeg.extend([0xff, 0xc4, 0, 20, class, 1]);
        jpeg.extend([0; 16]);
    }
    jpeg.extend([0xff, 0xda, 0, 8, 1, 1, 0, 0, 63, 0, 0x3f, 0xff, 0xd9]);
    colours.into_iter().map(image).chain([jpeg]).collect()
}

fn compiled() -> Vec<Vec<u8>> {
    let file = |io: bool| {
        let options = Options { float_interface: io, ..options() };
        let compiled = compile(small(), &options).expect("the small network compiles");
        compiled.object().and_then(|o| o.link("small.so").map_err(Error::from)).expect("it is linked")
    };
    vec![file(true), file(false)]
}

/// A network of a few layers, whose input takes images of three channels.
fn small() -> Graph {
    static SMALL: OnceLock<Graph> = OnceLock::new();
    let make = || {
        let mut graph = Graph::new("small");
        let mut b = Builder::new(&mut graph);
        let x = b.add_input("x", qcc::ir::Type::f32(&[1, 3, 4, 4]));
        let w = b.add_const("w", Tensor::f32(&[2, 3, 3, 3], (0..54).map(|i| (i % 11) as f32 / 8.0 - 0.6).collect()));
        let attrs = qcc::ir::Attrs::new(Opcode::Conv2d).with(qcc::ir::attr::PADS, vec![1, 1, 1, 1]);
        let conv = b.add_inferred(Opcode::Conv2d, &[x, w], attrs, "conv", None).expect("a convolution");
        let relu = b
            .add_inferred(Opcode::Relu, &[conv], qcc::ir::Attrs::new(Opcode::Relu), "relu", None)
            .expect("a rectifier");
        let sum =
            b.add_inferred(Opcode::Add, &[relu, conv], qcc::ir::Attrs::new(Opcode::Add), "sum", None).expect("a sum");
        b.set_outputs(vec![sum]);
        graph
    };
    SMALL.get_or_init(make).clone()
}

/// Limits of one input.
fn budget() -> Budget {
    let deadline = Instant::now().checked_add(Duration::from_secs(20));
    Budget { memory: Some(64 << 20), nodes: 2000, work: 20_000_000, deadline }
}

fn options() -> Options {
    let mut options = Options { threads: 1, ..Options::default() };
    options.shapes.budget = budget();
    options
}

/// What was answered; a panic if qcc takes the fault on itself.
fn judge<T>(result: Result<T, Error>) -> Result<T, String> {
    result.map_err(|error| {
        assert!(error.kind() != Kind::Bug, "a fault of qcc: {error}");
        error.to_string()
    })
}

/// A number of the input's bytes, which chooses what they say nothing of.
fn choice(input: &[u8], of: u32) -> u32 {
    input.iter().fold(0u32, |hash, &byte| hash.wrapping_mul(31).wrapping_add(byte.into())) % of
}

/// Compiles; what comes out is run, and equals the interpreter.
fn compile_and_run(graph: Graph, how: u32) -> String {
    let mode = if how % 4 == 1 { Mode::Int8Dynamic } else { Mode::Int8Static };
    match judge(compile(graph, &Options { mode, ..options() })) {
        Ok(compiled) => agree(&compiled),
        Err(answer) => answer,
    }
}

fn agree(compiled: &Compiled) -> String {
    let graph = compiled.source();
    let jit = match judge(Engine::jit(compiled)) {
        Ok(jit) => jit,
        Err(answer) => return answer,
    };
    let reference = Engine::of_graph(compiled.graph());
    let mut random = Random::new(7);
    let mut input = |(_, dims): &(String, Vec<usize>)| {
        let count = dims.iter().product();
        Tensor::f32(dims, (0..count).map(|_| random.normal() as f32).collect())
    };
    let inputs: Vec<Tensor> = reference.inputs(Io::Float).iter().map(&mut input).collect();
    let wanted = reference.runner().run(&inputs, Io::Float).expect("the interpreter runs what was compiled");
    let found = jit.runner().run(&inputs, Io::Float).expect("the code runs");
    assert_eq!(found.len(), wanted.len());
    for (found, wanted) in found.iter().zip(&wanted) {
        let same = match (found.as_f32(), wanted.as_f32()) {
            (Some(a), Some(b)) => a.iter().map(|x| x.to_bits()).eq(b.iter().map(|x| x.to_bits())),
            _ => found == wanted,
        };
        assert!(same, "the code of `{}` gives {found:?}, the interpreter {wanted:?}", graph.name);
    }
    format!("compiled: {} steps", compiled.graph().node_count())
}

fn onnx(input: &[u8]) -> String {
    let import = qcc_onnx::import_bytes(input, None, &options().shapes);
    match judge(import.map_err(Error::from)) {
        Ok(graph) => compile_and_run(graph, choice(input, 8)),
        Err(answer) => answer,
    }
}

fn qir(input: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(input) else { return "no text".into() };
    let located = match judge(parse::parse_located(text, &parse::no_files).map_err(Error::from)) {
        Ok(located) => located,
        Err(answer) => return answer,
    };
    // What is wrong with a text is the text's fault.
    if let Err(faults) = located.verify() {
        return faults.to_string();
    }
    let graph = located.graph;
    if let Err(diag) = budget().check_graph(&graph) {
        return diag.to_string();
    }
    let printed = qcc::ir::print(&graph);
    let again = parse::parse(&printed, &parse::no_files)
        .unwrap_or_else(|e| panic!("what was printed does not parse: {e}\n{printed}"));
    assert_eq!(qcc::ir::print(&again), printed, "what was printed reads otherwise");
    compile_and_run(graph, choice(input, 8))
}

fn pipeline(input: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(input) else { return "no text".into() };
    let pipeline = match judge(Pipeline::parse(text).map_err(Error::from)) {
        Ok(pipeline) => pipeline,
        Err(answer) => return answer,
    };
    assert_eq!(Pipeline::parse(&pipeline.to_string()).map(|p| p.to_string()).ok(), Some(pipeline.to_string()));
    let mut cx = Context { budget: budget(), ..Context::default() };
    match judge(pipeline.run(&mut small(), &mut cx).map_err(Error::from)) {
        Ok(()) => format!("ran {}", pipeline.to_string().len()),
        Err(answer) => answer,
    }
}

fn ranges(input: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(input) else { return "no text".into() };
    let table = match judge(RangeTable::from_json(text).map_err(Error::from)) {
        Ok(table) => table,
        Err(answer) => return answer,
    };
    match judge(compile(small(), &Options { ranges: Some(table), ..options() })) {
        Ok(compiled) => agree(&compiled),
        Err(answer) => answer,
    }
}

/// Reads samples from a file with this ending.
fn samples(input: &[u8], ending: &str, preprocess: Option<&Preprocess>) -> String {
    let file = tempfile::Builder::new().suffix(ending).tempfile().expect("temporary file");
    std::fs::write(file.path(), input).expect("temporary file");
    let dataset = match judge(Dataset::open(file.path(), &small(), preprocess)) {
        Ok(dataset) => dataset,
        Err(answer) => return answer,
    };
    let sample = |i: usize| -> Result<Vec<Tensor>, Diag> { dataset.get(i) };
    match judge(sample(dataset.len() - 1).map_err(Error::from)) {
        Ok(sample) => {
            assert!(sample.iter().flat_map(|t| t.as_f32().unwrap_or_default()).all(|x| x.is_finite()));
            format!("{} samples", dataset.len())
        }
        Err(answer) => answer,
    }
}

fn npy(input: &[u8]) -> String {
    samples(input, ".npy", None)
}

fn npz(input: &[u8]) -> String {
    samples(input, ".npz", None)
}

fn image(input: &[u8]) -> String {
    let resized =
        Preprocess { resize: qcc::data::Resize::Exact((4, 4)), ..Preprocess::preset("unit").unwrap_or_default() };
    samples(input, ".png", Some(&resized))
}

/// A file is refused before anything of it is loaded unless it is what was written; its certificate and its description are read from any
/// bytes, also with a seal that fits them.
fn loader(input: &[u8]) -> String {
    let seal = Seal::check(input);
    let file = tempfile::Builder::new().suffix(".so").tempfile().expect("temporary file");
    std::fs::write(file.path(), input).expect("temporary file");
    let checked = qcc::runtime::check_file(file.path());
    assert_eq!(checked.is_ok(), seal.is_ok(), "a file and its bytes are judged otherwise");
    if seal.is_err() {
        assert!(qcc::Model::load(file.path()).is_err(), "a damaged file was loaded");
    }
    let mut resealed = input.to_vec();
    Seal::append(&mut resealed);
    let report = qcc::codegen::check::certify(&resealed);
    let _ = qcc::codegen::check::inspect(input);
    for start in (0..input.len()).step_by(4096) {
        let _ = (ModelInfo::decode(&input[start..]), Manifest::from_section(&input[start..]));
    }
    match (seal, report) {
        (Ok(_), Ok(report)) => format!("sealed, float-free: {}", report.is_float_free()),
        (Ok(_), Err(e)) => format!("sealed: {e}"),
        (Err(seal), Ok(report)) => format!("{seal}; float-free: {}", report.is_float_free()),
        (Err(seal), Err(e)) => format!("{seal}; {e}"),
    }
}

/// The target of this name.
pub fn find(name: &str) -> &'static Target {
    TARGETS.iter().find(|t| t.name == name).expect("a target")
}
