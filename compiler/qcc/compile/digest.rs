//! Digests: what makes one compiled model another.

use qcc_ir::Graph;
use qcc_passes::RangeTable;
use sha2::{Digest, Sha256};

/// Digest of everything that shapes the result: model, options, ranges, passes and the compiler's version.
pub(crate) fn digest(
    graph: &Graph,
    record: &std::collections::BTreeMap<String, String>,
    ranges: Option<&RangeTable>,
    pipeline: &str,
) -> [u8; 32] {
    let mut hash = Sha256::new();
    put(&mut hash, env!("CARGO_PKG_VERSION").as_bytes());
    put_model(&mut hash, graph);
    let mut put = |bytes: &[u8]| put(&mut hash, bytes);
    for (name, value) in record {
        put(name.as_bytes());
        put(value.as_bytes());
    }
    put(ranges.map(RangeTable::to_json).unwrap_or_default().as_bytes());
    put(pipeline.as_bytes());
    hash.finalize().into()
}

fn put(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

/// Adds a model and its constants to a digest.
fn put_model(hash: &mut Sha256, graph: &Graph) {
    put(hash, graph.to_string().as_bytes());
    for (_, tensor) in graph.constants() {
        qcc_ir::for_data!(&tensor.data, v => for part in v.chunks(1 << 14) {
            let bytes: Vec<u8> = part.iter().flat_map(|x| x.to_le_bytes()).collect();
            put(hash, &bytes);
        });
    }
}

/// Digest of a model and of the passes that it goes through, in hexadecimal.
pub(crate) fn model_digest(graph: &Graph, pipeline: &str) -> String {
    let mut hash = Sha256::new();
    put_model(&mut hash, graph);
    put(&mut hash, pipeline.as_bytes());
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
