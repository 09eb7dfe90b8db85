//! Whole models: good ones, faulty ones, and what random damage makes of them.

use std::path::PathBuf;

use qcc_ir::diag::Code;
use qcc_ir::{Diags, Graph, ValueId, attr};

use crate::{ImportOptions, import, import_bytes};

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name)
}

fn imported(name: &str) -> Graph {
    import(&fixture(name), &ImportOptions::default()).unwrap_or_else(|d| panic!("{name}: {d}"))
}

fn refused(name: &str) -> Diags {
    match import(&fixture(name), &ImportOptions::default()) {
        Ok(_) => panic!("{name} must be refused"),
        Err(diags) => diags,
    }
}

/// The one diagnostic of a faulty model: its code, and that it says `text`.
fn single(name: &str, code: Code, text: &str) {
    let diags = refused(name);
    assert_eq!(diags.0.len(), 1, "{name}: {diags}");
    assert_eq!(diags.0[0].code, code, "{name}: {diags}");
    assert!(diags.to_string().contains(text), "{name}: {diags}");
    assert!(diags.0[0].place.file.is_some(), "{name}: {diags}");
}

#[test]
fn shapes_are_computed_away() {
    let graph = imported("cnn.onnx");
    let ops: Vec<_> = graph.order().into_iter().map(|n| graph.op(n).name()).collect();
    let expected = ["nn.conv2d", "nn.batch_norm", "nn.relu", "nn.average_pool", "tensor.reshape", "nn.linear"];
    assert_eq!(ops, expected);
    let names: Vec<_> = graph.order().into_iter().map(|n| graph.name_of(graph.result(n)).to_string()).collect();
    assert_eq!(names, ["conv.out", "bn.out", "relu.out", "pool.out", "flat", "logits"]);
    assert_eq!(graph.name_of(graph.inputs()[0]), "/in/x");
    assert_eq!(graph.describe(graph.order()[0]), r#"node "/conv/Conv" (Conv, opset 17)"#);
    assert_eq!(graph.describe(graph.order()[2]), r#"node "/relu/out" (Relu, opset 17)"#);
}

#[test]
fn open_dimensions_are_asked_for() {
    single("dynamic.onnx", Code::DYNAMIC_SHAPE, "--dim width=NUMBER");
    let with = |shapes: &[&str], dims: &[&str]| {
        let mut options = ImportOptions::default();
        shapes.iter().for_each(|s| options.shape_flag(s).unwrap());
        dims.iter().for_each(|s| options.dim_flag(s).unwrap());
        import(&fixture("dynamic.onnx"), &options).map(|g| g.ty(g.outputs()[0]).dims.clone())
    };
    assert_eq!(with(&[], &["width=7"]), Ok(vec![1, 7]));
    assert_eq!(with(&[], &["width=7", "N=3"]), Ok(vec![3, 7]));
    assert_eq!(with(&["x=2x9"], &[]), Ok(vec![2, 9]));
    let text = |result: Result<_, Diags>| result.expect_err("must be refused").to_string();
    assert!(text(with(&["x=2x9x1"], &[])).contains("which is Nxwidth"));
    assert!(text(with(&["x=2x9", "z=1"], &[])).contains("`z`, which is no input"));
    assert!(text(with(&["x=2x9"], &["height=1"])).contains("`height`, which is no dimension"));
}

/// What comes behind need not be supported, and an input that only it needs is none.
#[test]
fn models_end_where_it_is_said() {
    let ending = |name: &str, outputs: &[&str]| {
        let outputs = outputs.iter().map(ToString::to_string).collect();
        import(&fixture(name), &ImportOptions { outputs, ..ImportOptions::default() })
    };
    let names = |g: &Graph, values: &[ValueId]| values.iter().map(|&v| g.name_of(v).to_string()).collect::<Vec<_>>();
    let graph = ending("cnn.onnx", &["/relu/out", "/conv/out"]).expect("both are there");
    assert_eq!(names(&graph, graph.outputs()), ["/relu/out", "/conv/out"]);
    assert_eq!(graph.node_count(), 3);
    let graph = ending("control_flow.onnx", &["x"]).expect("the branch is behind");
    assert_eq!(names(&graph, graph.inputs()), ["x"]);
    let text = |result: Result<Graph, Diags>| result.expect_err("must be refused").to_string();
    let graph = ending("cnn.onnx", &["relu.out"]).expect("the name that graphs have for it");
    assert_eq!(names(&graph, graph.outputs()), ["/relu/out"]);
    assert!(text(ending("cnn.onnx", &["relu.in"])).contains("nothing defines output `relu.in`"));
    assert!(text(ending("cnn.onnx", &["/relu/out", "/relu/out"])).contains("two outputs"));
}

#[test]
fn faults_of_the_graph() {
    single("cyclic.onnx", Code::BAD_GRAPH, r#""first" -> "second" -> "third" -> "first""#);
    single("duplicate.onnx", Code::BAD_GRAPH, "`y` is defined twice");
    single("missing.onnx", Code::BAD_GRAPH, "`weights` is used, but nothing defines it");
    single("bad_shape.onnx", Code::BAD_SHAPE, r#"(operands [1, 4], [3])"#);
    single("attribute.onnx", Code::UNSUPPORTED, "attribute `slope` is not supported");
    single("control_flow.onnx", Code::UNSUPPORTED, "operator If is not supported");
    single("old.onnx", Code::UNSUPPORTED, "operator set 6 is older than 7");
}

/// Every operator that is not supported is named, each once, and what depends on it is not.
#[test]
fn unsupported_operators_are_reported_together() {
    let diags = refused("unknown.onnx");
    let nodes: Vec<_> = diags.0.iter().filter_map(|d| d.place.node.as_deref()).collect();
    let expected =
        [r#"node "one" (Frobnicate, opset 17)"#, r#"node "two" (MoE, opset 1)"#, r#"node "three" (Det, opset 17)"#];
    assert_eq!(nodes, expected, "{diags}");
    assert!(diags.0.iter().all(|d| d.code == Code::UNSUPPORTED && d.help.is_some()));
    assert!(diags.0[0].message.contains("[1, 4]"), "{diags}");
}

#[test]
fn external_data_stays_in_the_folder() {
    let graph = imported("external.onnx");
    assert_eq!(graph.constants().count(), 1);
    single("escape.onnx", Code::EXTERNAL_DATA, "is not a path inside the model's folder");
    single("absent.onnx", Code::EXTERNAL_DATA, "`absent.bin` cannot be opened");
    let bytes = std::fs::read(fixture("external.onnx")).unwrap();
    let diags = import_bytes(&bytes, None, &ImportOptions::default()).unwrap_err();
    assert_eq!(diags.0[0].code, Code::EXTERNAL_DATA);
}

#[test]
fn local_functions_are_replaced_by_their_bodies() {
    let graph = imported("function.onnx");
    let ops: Vec<_> = graph.order().into_iter().map(|n| graph.op(n).name()).collect();
    assert_eq!(ops, ["nn.mul", "nn.leaky_relu", "nn.mul", "nn.leaky_relu"]);
    let slopes: Vec<_> = [1, 3].map(|i| graph.node(graph.order()[i]).attrs.get(attr::ALPHA)).into();
    assert_eq!(slopes, [0.25, 0.5]);
}

/// The condition is about a shape; the branch takes a value and has a constant of its own.
#[test]
fn known_branches_are_taken() {
    let graph = imported("branch.onnx");
    let ops: Vec<_> = graph.order().into_iter().map(|n| graph.op(n).name()).collect();
    assert_eq!(ops, ["tensor.reshape", "nn.add"]);
    assert_eq!(graph.ty(graph.outputs()[0]).dims, [4]);
}

/// A comparison of real numbers that are computed from constants, and more than are computed at once.
#[test]
fn masks_are_computed_away() {
    let graph = imported("mask.onnx");
    let ops: Vec<_> = graph.order().into_iter().map(|n| graph.op(n).name()).collect();
    assert_eq!(ops, ["nn.add"]);
    let mask = graph.constant(graph.operands(graph.order()[0])[1]).and_then(|t| t.as_f32()).expect("a constant");
    assert_eq!(mask.iter().filter(|&&m| m == 0.0).count(), 4 * 20 * 20);
    assert!(mask.iter().all(|&m| m == 0.0 || m == -100.0));
}

#[test]
fn files_that_are_no_models() {
    let folder = import(&fixture("."), &ImportOptions::default()).unwrap_err();
    assert_eq!((folder.0.len(), folder.0[0].code), (1, Code::FILE));
    let absent = import(&fixture("nothing.onnx"), &ImportOptions::default()).unwrap_err();
    assert_eq!((absent.0.len(), absent.0[0].code), (1, Code::FILE));
    single("make_fixtures.py", Code::NOT_ONNX, "this is no ONNX model, but text");
    let lite = import_bytes(b"\x1c\0\0\0TFL3\x14", None, &ImportOptions::default()).unwrap_err();
    assert!(lite.0[0].message.contains("a TensorFlow Lite model"), "{lite}");
    for bytes in [&b""[..], b"hello", &[0; 64], &[0x08, 0x08]] {
        let diags = import_bytes(bytes, None, &ImportOptions::default()).unwrap_err();
        assert_eq!((diags.0.len(), diags.0[0].code), (1, Code::NOT_ONNX), "{bytes:?}: {diags}");
    }
}

/// No beginning of a file passes for the whole.
#[test]
fn truncations_are_refused() {
    for name in ["cnn.onnx", "function.onnx"] {
        let bytes = std::fs::read(fixture(name)).unwrap();
        let of = |n: usize| import_bytes(&bytes[..n], None, &ImportOptions::default());
        assert!(of(bytes.len()).is_ok());
        for n in 0..bytes.len() {
            let diags = of(n).expect_err("a part of a model");
            // What is cut off before the functions is a whole file that calls what is not there.
            if name == "cnn.onnx" {
                assert_eq!((diags.0.len(), diags.0[0].code), (1, Code::NOT_ONNX), "{n} bytes: {diags}");
            }
        }
    }
}

/// Damaged models are refused or imported, and nothing else.
#[test]
fn mutations_never_panic() {
    let mut state = 0x1234_5678_9abc_def1_u64;
    let mut next = |n: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap_or(0) % n
    };
    for name in ["cnn.onnx", "function.onnx", "unknown.onnx", "operators_13.onnx", "operators_9.onnx"] {
        let whole = std::fs::read(fixture(name)).unwrap();
        for _ in 0..if whole.len() < 4096 { 3000 } else { 300 } {
            let mut bytes = whole.clone();
            for _ in 0..1 + next(4) {
                let at = next(bytes.len());
                match next(4) {
                    0 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][next(5)],
                    1 => bytes[at] ^= 1 << next(8),
                    2 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, u8::try_from(next(256)).unwrap_or(0)),
                }
            }
            let _ = import_bytes(&bytes, None, &ImportOptions::default());
        }
    }
}

/// What is written reads back: a normalization, and a product with its factor.
#[test]
fn exports_read_back() {
    let text = "graph @g(%x: tensor<1x2x2x!quant.uniform<u8:f32, 0.5:128>>) -> (tensor<1x2x2x!quant.uniform<u8:f32, 0.25:128>>) {
  const @scale : tensor<2xf32> = dense<[1.5, 2.0]>
  const @bias : tensor<2xf32> = dense<[0.5, -1.0]>
  %n = nn.layer_norm(%x, @scale, @bias) {axis = 2, epsilon = 0.001} : tensor<1x2x2x!quant.uniform<u8:f32, 0.5:128>>
  %m = nn.matmul(%n, %x) {alpha = 0.375} : tensor<1x2x2x!quant.uniform<u8:f32, 0.25:128>>
  return %m
}
";
    let graph = qcc_ir::parse::parse(text, &qcc_ir::parse::no_files).expect("legal text");
    let bytes = crate::export(&graph, &crate::ExportOptions::default()).expect("an ONNX model");
    let again = crate::import_bytes(&bytes, None, &crate::ImportOptions::default()).expect("it reads back");
    let printed = qcc_ir::print(&again);
    for part in ["nn.layer_norm(", "epsilon = 0.001", "nn.matmul(", "dense<[0.375]>"] {
        assert!(printed.contains(part), "{part} in\n{printed}");
    }
}
