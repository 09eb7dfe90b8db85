//! Ranges by value name, in a form that people can read, edit and give back.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use qcc_ir::diag::Code;
use qcc_ir::{Diag, Range};
use serde::{Deserialize, Serialize};

use crate::ranges::observations::Observations;

/// Longest table that is read.
const MAX_BYTES: u64 = 256 << 20;

/// Ranges by value name: people can read it, edit it and pass it back.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RangeTable {
    /// How the ranges were obtained.
    #[serde(default)]
    pub source: String,
    /// The ranges, by value name.
    pub values: BTreeMap<String, RangeEntry>,
    /// Factors by which `equalize` scaled the channels of values, by name: the ranges are those of the scaled values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub channel_factors: BTreeMap<String, Vec<f32>>,
    /// What the ranges follow from, to be merged with that of other shards; nothing else reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observations: Option<Observations>,
}

/// One row of a [`RangeTable`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RangeEntry {
    /// Least value to represent.
    pub min: f32,
    /// Greatest value to represent.
    pub max: f32,
    /// Least value seen, where samples were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen_min: Option<f32>,
    /// Greatest value seen, where samples were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen_max: Option<f32>,
    /// Mean of all values seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean: Option<f32>,
    /// Standard deviation of all values seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deviation: Option<f32>,
}

impl RangeEntry {
    /// A row without anything seen.
    pub fn new(range: Range) -> RangeEntry {
        RangeEntry { min: range.min, max: range.max, seen_min: None, seen_max: None, mean: None, deviation: None }
    }

    /// The range to represent.
    pub fn range(&self) -> Range {
        Range { min: self.min, max: self.max }
    }
}

impl RangeTable {
    /// The table as JSON, one value a line group, in the order of names.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// Reads JSON and checks every range.
    pub fn from_json(text: &str) -> Result<RangeTable, Diag> {
        let table: RangeTable = serde_json::from_str(text).map_err(|e| {
            Diag::new(Code::RANGE, format!("the range table cannot be read: {e}")).on_line(e.line(), e.column())
        })?;
        let positive = |x: &f32| x.is_finite() && *x > 0.0;
        if let Some((name, _)) = table.channel_factors.iter().find(|(_, f)| !f.iter().all(positive)) {
            return Err(Diag::new(Code::RANGE, format!("the channel factors of `{name}` are not all positive")));
        }
        match table.values.iter().find(|(_, e)| !e.range().is_valid()) {
            Some((name, e)) => Err(Diag::new(
                Code::RANGE,
                format!("the range of `{name}` needs finite ends in order, and has {:?} to {:?}", e.min, e.max),
            )),
            None => Ok(table),
        }
    }

    /// Reads a table from a file.
    pub fn load(path: &Path) -> Result<RangeTable, Diag> {
        let fail = |e: &dyn std::fmt::Display| {
            Diag::new(Code::FILE, format!("cannot read the ranges: {e}")).in_file(path.to_string_lossy())
        };
        let mut text = String::new();
        let read = File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text));
        read.map_err(|e| match e.kind() {
            std::io::ErrorKind::InvalidData => {
                fail(&"it is no text").help("give a table that --save-ranges or qcc calibrate wrote")
            }
            _ => fail(&e),
        })?;
        if text.len() as u64 > MAX_BYTES {
            return Err(fail(&format!("there are more than {} MB", MAX_BYTES >> 20)));
        }
        RangeTable::from_json(&text).map_err(|d| d.in_file(path.to_string_lossy()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range_tables_survive_json() {
        let mut table = RangeTable { source: "test".into(), ..RangeTable::default() };
        table.values.insert("x".into(), RangeEntry::new(Range { min: -0.1, max: 2.5e-7 }));
        assert_eq!(RangeTable::from_json(&table.to_json()).unwrap(), table);
    }

    #[test]
    fn wrong_tables_are_refused() {
        let bad = r#"{ "values": { "x": { "min": 2, "max": 1 } } }"#;
        assert!(RangeTable::from_json(bad).unwrap_err().message.contains("`x`"));
        assert_eq!(RangeTable::from_json("{").unwrap_err().code, Code::RANGE);
    }
}
