//! Every operator against ONNX Runtime, and models from outside the repository.
//!
//! In `operators_N.onnx` an output `y.CASE` is computed and must equal the constant output `want.CASE`; the constants
//! `in.NAME` are the inputs. `tests/fixtures/make_fixtures.py` writes them.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use qcc_interp::Evaluator;
use qcc_ir::parse::no_files;
use qcc_ir::{Data, Graph, Tensor, parse, print, verify};
use qcc_onnx::{ImportOptions, import};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn constant(graph: &Graph, name: &str) -> Option<Tensor> {
    graph.find(name).and_then(|v| graph.constant(v)).map(|t| t.as_ref().clone())
}

fn numbers(data: &Data) -> Vec<f64> {
    match data {
        Data::F32(v) => v.iter().map(|&x| x.into()).collect(),
        Data::I8(v) => v.iter().map(|&x| x.into()).collect(),
        Data::U8(v) => v.iter().map(|&x| x.into()).collect(),
        Data::I16(v) => v.iter().map(|&x| x.into()).collect(),
        Data::I32(v) => v.iter().map(|&x| x.into()).collect(),
        Data::I64(v) => v.iter().map(|&x| x as f64).collect(),
    }
}

/// What differs between two tensors, if anything does beyond rounding.
fn difference(found: &Tensor, wanted: &Tensor) -> Option<String> {
    if found.dims != wanted.dims {
        return Some(format!("shape {:?}, not {:?}", found.dims, wanted.dims));
    }
    let pairs = numbers(&found.data).into_iter().zip(numbers(&wanted.data));
    let worst = pairs.map(|(a, b)| ((a - b).abs() / (1e-5 + 1e-4 * b.abs()), a, b));
    let (ratio, a, b) = worst.max_by(|x, y| x.0.total_cmp(&y.0))?;
    (ratio > 1.0).then(|| format!("{a} and not {b}"))
}

/// What every graph has to be: valid, and the same after printing and parsing.
fn lawful(graph: &Graph) {
    verify(graph).unwrap_or_else(|d| panic!("{}: {d}", graph.name));
    let again = parse(&print(graph), &no_files).unwrap_or_else(|d| panic!("{}: {d}", graph.name));
    assert!(again == *graph, "{} differs after printing and parsing", graph.name);
}

/// Runs a file of cases: how many there are, and which are wrong.
fn run(path: &Path) -> (usize, Vec<String>) {
    let graph = import(path, &ImportOptions::default()).unwrap_or_else(|d| panic!("{d}"));
    lawful(&graph);
    let inputs: Vec<_> = graph.inputs().iter().map(|&v| format!("in.{}", graph.name_of(v))).collect();
    let inputs: Vec<_> = inputs.iter().map(|n| constant(&graph, n).unwrap_or_else(|| panic!("no {n}"))).collect();
    let results = Evaluator::new(&graph).run(&inputs).unwrap_or_else(|d| panic!("{d}"));
    let mut faults = Vec::new();
    let mut cases = 0;
    for (&v, found) in graph.outputs().iter().zip(&results) {
        let Some(case) = graph.name_of(v).strip_prefix("y.") else { continue };
        cases += 1;
        match constant(&graph, &format!("want.{case}")) {
            None => faults.push(format!("{case}: nothing to compare with")),
            Some(wanted) => faults.extend(difference(found, &wanted).map(|what| format!("{case}: {what}"))),
        }
    }
    (cases, faults)
}

#[test]
fn operators_agree_with_onnx_runtime() {
    for (set, least) in [
        ("9", 80),
        ("13", 130),
        ("18", 130),
        ("microsoft", 12),
        ("attention", 20),
        ("contrib", 30),
        ("whole", 20),
        ("run_time", 18),
        ("resize_10", 10),
        ("resize_19", 40),
    ] {
        let (cases, faults) = run(&root().join(format!("tests/fixtures/operators_{set}.onnx")));
        assert!(cases >= least, "only {cases} cases in operator set {set}");
        assert!(faults.is_empty(), "operator set {set}:\n{}", faults.join("\n"));
    }
}

/// Real models are imported, or refused for the reason that is known.
#[test]
fn models_of_the_shared_folder() {
    let folder = root().join("../shared/data");
    if !folder.is_dir() {
        // Written past the harness, which shows nothing of a test that passes.
        let _ = writeln!(std::io::stderr(), "skipped: no ../shared");
        return;
    }
    let mut options = ImportOptions::default();
    for dim in ["M1=24", "M2=24"] {
        options.dim_flag(dim).unwrap();
    }
    let mut shape = ImportOptions::default();
    shape.shape_flag("x=1x3x48x192").unwrap();
    let mut frame = ImportOptions::default();
    frame.dim_flag("sequence=576").unwrap();
    let none = ImportOptions::default();
    for (name, options, refused) in [
        ("models/cifar10_resnet20", &none, None),
        ("models/cifar10_resnet44", &none, None),
        ("models/mlperftiny_resnet8_cifar10", &none, None),
        ("models/efficientnet_lite0", &none, None),
        ("models/mobilenet_v1_0.75_224", &none, None),
        ("models/mlperftiny_vww_mobilenetv1_025_96", &none, None),
        ("models/ultraface_version-RFB-320", &none, None),
        ("models/ch_ppocr_mobile_v2.0_cls_infer", &none, Some("--shape x=")),
        ("models/ch_ppocr_mobile_v2.0_cls_infer", &shape, None),
        ("models/mtcnn_pnet", &none, Some("--dim M1=NUMBER")),
        ("models/mtcnn_pnet", &options, None),
        ("models/mtcnn_rnet", &none, None),
        ("models/magika_standard_v3_3", &none, None),
        ("models/silero_vad_16k_op15", &none, Some("--dim sequence=NUMBER")),
        ("models/silero_vad_16k_op15", &frame, None),
        ("quantized/coral_mobilenet_v2_1.0_224_quant_qdq", &none, None),
        ("quantized/mlperftiny_resnet8_int8_qdq", &none, None),
    ] {
        let path = folder.join(format!("{name}.onnx"));
        if !path.is_file() {
            let _ = writeln!(std::io::stderr(), "skipped: no {}", path.display());
            continue;
        }
        match (import(&path, options), refused) {
            (Ok(graph), None) => {
                assert!(graph.node_count() > 10, "{name}");
                // Text of large models takes seconds.
                if graph.constants().map(|(_, t)| t.data.len()).sum::<usize>() < 200_000 {
                    lawful(&graph);
                }
                verify(&graph).unwrap_or_else(|d| panic!("{name}: {d}"));
            }
            (Err(diags), Some(text)) => assert!(diags.to_string().contains(text), "{name}: {diags}"),
            (Ok(_), Some(text)) => panic!("{name} is imported and not refused for {text:?}"),
            (Err(diags), None) => panic!("{name}: {diags}"),
        }
    }
}
