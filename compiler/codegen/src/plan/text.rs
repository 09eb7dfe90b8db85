//! A plan as text for people: buffers over steps, and what shares memory.

use std::fmt;

use super::buffer::{Buffer, Storage};
use super::steps::{Plan, StepKind};
use super::storage::Decoding;

/// Most columns of the chart; longer plans are shown in steps of several.
const COLUMNS: usize = 100;

impl Plan {
    /// Bytes of all arena buffers together, as if none shared memory.
    pub fn unshared_bytes(&self) -> usize {
        self.arena_buffers().map(|b| b.bytes).sum()
    }

    /// Most bytes that are alive at one step: no arena can be smaller.
    pub fn peak_bytes(&self) -> usize {
        let alive =
            |step: usize| self.arena_buffers().filter(|b| b.life.0 <= step && step <= b.life.1).map(|b| b.bytes).sum();
        (0..self.steps.len()).map(alive).max().unwrap_or(0)
    }

    /// Bytes of transformed weights.
    pub fn transformed_bytes(&self) -> usize {
        let of = |decoding: &Decoding| match *decoding {
            Decoding::Transformed { weights, .. } => weights,
            Decoding::Inside | Decoding::Scratch(_) | Decoding::Widened { .. } => 0,
        };
        self.storages.values().map(of).sum()
    }

    /// The buffers of the arena.
    pub fn arena_buffers(&self) -> impl Iterator<Item = &Buffer> {
        self.buffers.iter().filter(|b| matches!(b.storage, Storage::Arena(_)))
    }
}

/// Steps by number, then a row for each arena buffer: its memory and, over the steps, its life.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "arena {} bytes; {} without sharing; {} alive at once at most; {} steps\n",
            self.arena_bytes,
            self.unshared_bytes(),
            self.peak_bytes(),
            self.steps.len()
        )?;
        for (i, step) in self.steps.iter().enumerate() {
            let kind = match &step.kind {
                StepKind::Node { node, .. } => {
                    self.storages.get(node).map_or(String::new(), |decoding| format!("  (weights: {decoding})"))
                }
                StepKind::Fill { .. } => "  (fills the halo)".to_string(),
                StepKind::Copy { .. } => "  (copies)".to_string(),
            };
            writeln!(f, "{i:4}  %{}{kind}", step.name)?;
        }
        let each = self.steps.len().div_ceil(COLUMNS).max(1);
        let columns = self.steps.len().div_ceil(each);
        writeln!(f, "\n{:>10} {:>10}  one column: {each} step(s)", "offset", "bytes")?;
        let mut rows: Vec<&Buffer> = self.arena_buffers().collect();
        rows.sort_by_key(|b| b.life);
        for b in rows {
            let Storage::Arena(offset) = b.storage else { continue };
            let alive = |c: usize| b.life.0 < (c + 1) * each && c * each <= b.life.1;
            let chart: String = (0..columns).map(|c| if alive(c) { '#' } else { '.' }).collect();
            writeln!(f, "{offset:10} {:10}  {chart}  %{}", b.bytes, b.name)?;
        }
        Ok(())
    }
}
