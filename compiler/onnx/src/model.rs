//! A model as read: whole, parsed, and of versions that are known.

use onnx_protobuf::{GraphProto, Message, ModelProto};
use qcc_ir::Budget;
use qcc_ir::diag::Code;

use crate::fault::{Fault, Outcome};
use crate::wire;

/// Versions of the IR of ONNX that are known; newer ones may change what older fields mean.
const IR_VERSIONS: std::ops::RangeInclusive<i64> = 3..=14;
/// Oldest operator set: from here on broadcasting is NumPy's.
const OLDEST_OPSET: i64 = 7;

/// Messages of a file, attributes and shapes among them, for each node that the budget allows.
const MESSAGES: u64 = 32;

/// A parsed model.
#[derive(Debug)]
pub(crate) struct Model {
    /// The graph.
    pub(crate) graph: GraphProto,
    /// Version of the operator set of the default domain.
    pub(crate) opset: i64,
    /// Domains and versions, the default domain spelled "".
    pub(crate) domains: Vec<(String, i64)>,
    /// Functions of the model's own.
    pub(crate) functions: Vec<onnx_protobuf::FunctionProto>,
}

/// The default domain has two spellings.
pub(crate) fn domain(name: &str) -> &str {
    if name == "ai.onnx" { "" } else { name }
}

/// What a file is that is taken for a model by mistake, and what to do.
fn kind(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    const KINDS: [(usize, &[u8], &str, &str); 8] = [
        (0, b"version https://git-lfs", "a pointer of Git LFS to one", "fetch the file itself: git lfs pull"),
        (0, b"\x7fELF", "machine code", "give the ONNX file; a compiled model goes to run, bench, check and inspect"),
        (0, b"\x93NUMPY", "an array of numpy", "give the ONNX file first, and arrays with a flag"),
        (0, b"\x89PNG", "an image", "give the ONNX file first, and images with a flag"),
        (0, b"\xff\xd8\xff", "an image", "give the ONNX file first, and images with a flag"),
        (0, b"PK\x03\x04", "an archive, as of numpy or PyTorch", "export the model: torch.onnx.export"),
        (0, b"\x89HDF", "an HDF5 file, as of Keras", "export the model as ONNX: tf2onnx"),
        (4, b"TFL3", "a TensorFlow Lite model", "export the model as ONNX: tf2onnx"),
    ];
    let begins = |(at, magic, ..): &&(usize, &[u8], &str, &str)| bytes.get(*at..).is_some_and(|b| b.starts_with(magic));
    if let Some(&(.., kind, help)) = KINDS.iter().find(begins) {
        return Some((kind, help));
    }
    let start = &bytes[..bytes.len().min(512)];
    let is_text = start.iter().all(|b| matches!(b, b'\t' | b'\n' | b'\r' | 0x20..=0x7e | 0x80..));
    is_text.then_some(("text", "give the ONNX file; a graph of qcc's own as text ends with .qir"))
}

/// Reads a model from the bytes of a file.
pub(crate) fn read(bytes: &[u8], budget: &Budget) -> Outcome<Model> {
    let broken = |what: String| Fault::new(Code::NOT_ONNX, format!("not a whole ONNX model: {what}"));
    if bytes.is_empty() {
        return Err(broken("the file is empty".into()));
    }
    let parsed = wire::check(bytes).map_err(|what| match kind(bytes) {
        Some((kind, help)) => Fault::new(Code::NOT_ONNX, format!("this is no ONNX model, but {kind}")).help(help),
        None => broken(what),
    })?;
    budget.check_memory("the model, parsed,", parsed.bytes).map_err(Fault::from)?;
    // A node comes with attributes, weights, and the types and extents of its results.
    if parsed.messages / MESSAGES > budget.nodes as u64 {
        let message = format!("the file has {} nodes, attributes, tensors and shapes", parsed.messages);
        let help = format!("if it is meant so: --max-nodes {}", parsed.messages / MESSAGES);
        return Err(Fault::new(
            Code::BUDGET,
            format!("{message}, more than {MESSAGES} for each of {} nodes", budget.nodes),
        )
        .help(help));
    }
    let mut proto = ModelProto::parse_from_bytes(bytes).map_err(|e| broken(e.to_string()))?;
    let Some(graph) = proto.graph.take() else {
        return Err(broken("there is no graph in it".into()));
    };
    if !IR_VERSIONS.contains(&proto.ir_version) {
        if proto.ir_version == 0 {
            return Err(broken("the IR version is not given".into()));
        }
        let (oldest, newest) = (IR_VERSIONS.start(), IR_VERSIONS.end());
        let message = format!("IR version {} is not between {oldest} and {newest}", proto.ir_version);
        return Err(Fault::unsupported(message).help("convert the model, for example with onnx.version_converter"));
    }
    let domains: Vec<_> = proto.opset_import.iter().map(|o| (domain(&o.domain).to_string(), o.version)).collect();
    if domains.is_empty() {
        return Err(broken("no operator set is named".into()));
    }
    let opset = domains.iter().find(|(d, _)| d.is_empty()).map_or(OLDEST_OPSET, |(_, version)| *version);
    if opset < OLDEST_OPSET {
        let fault = Fault::unsupported(format!("operator set {opset} is older than {OLDEST_OPSET}"));
        return Err(fault.help("convert the model, for example with onnx.version_converter"));
    }
    if !graph.sparse_initializer.is_empty() {
        return Err(Fault::unsupported("sparse initializers are not supported"));
    }
    Ok(Model { graph, opset, domains, functions: proto.functions })
}
