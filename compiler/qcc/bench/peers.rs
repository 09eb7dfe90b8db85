//! What other engines reached on the same networks: results of `examples/bench_peers.py --json`, one object a line.

use std::path::Path;

use qcc_ir::Diag;
use qcc_ir::diag::Code;
use serde::Deserialize;

use crate::{Error, reading};

/// A network on an engine.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct PeerResult {
    /// Name of the model's file, without its extension.
    pub net: String,
    /// Engine, as the script calls it.
    pub engine: String,
    /// Threads used.
    pub threads: usize,
    /// Median time of a run in milliseconds.
    pub median_ms: f64,
    /// Signal-to-noise ratio of the output against float32, in decibels, where it was measured.
    pub sqnr_db: Option<f64>,
    /// Share of right classes in percent, where there were labels.
    pub top1: Option<f64>,
}

/// Reads the results of one network; an error if there are none.
pub fn peers(path: &Path, net: &str) -> Result<Vec<PeerResult>, Error> {
    let text = reading::text(path, "read the results")?;
    let mut all = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let result: PeerResult = serde_json::from_str(line).map_err(|e| {
            let diag = Diag::new(Code::DATA, format!("line {} is no result: {e}", number + 1));
            Error::from(diag.in_file(path.display().to_string()).help("give what bench_peers.py --json writes"))
        })?;
        if result.net == net && result.median_ms.is_finite() && result.median_ms > 0.0 {
            all.push(result);
        }
    }
    if all.is_empty() {
        let diag = Diag::new(Code::DATA, format!("there are no results of `{net}`"));
        return Err(diag.in_file(path.display().to_string()).help("measure it: bench_peers.py --json").into());
    }
    // Of a network that was measured again the last result counts.
    all.reverse();
    let mut seen = Vec::new();
    all.retain(|r| {
        let key = (r.engine.clone(), r.threads);
        let is_new = !seen.contains(&key);
        seen.push(key);
        is_new
    });
    all.reverse();
    Ok(all)
}
