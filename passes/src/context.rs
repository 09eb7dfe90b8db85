//! What passes share besides the graph: samples, ranges, and how to report on long work.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use qcc_ir::diag::Code;
use qcc_ir::{Diag, Range, Tensor};
use serde::{Deserialize, Serialize};

use crate::Precisions;
use crate::ranges::moments::Channel;
use crate::ranges::observations::{Observations, Observing};

/// Told how much of a long piece of work is done, and of how much.
pub type Progress = Arc<dyn Fn(usize, usize) + Send + Sync>;

/// Samples to calibrate with. They are fetched one at a time, from several threads.
pub trait Samples: Send + Sync {
    /// Number of samples.
    fn len(&self) -> usize;

    /// True if there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One tensor for each graph input.
    fn get(&self, i: usize) -> Result<Vec<Tensor>, Diag>;
}

/// Samples that are all in memory.
impl Samples for Vec<Vec<Tensor>> {
    fn len(&self) -> usize {
        Vec::len(self)
    }

    fn get(&self, i: usize) -> Result<Vec<Tensor>, Diag> {
        <[_]>::get(self, i).cloned().ok_or_else(|| Diag::new(Code::DATA, format!("there is no sample {i}")))
    }
}

/// How a range is chosen from what was observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Method {
    /// Least and greatest value.
    #[default]
    MinMax,
    /// Quantiles 0.00001 and 0.99999.
    Percentile,
    /// The range with the least mean square error of quantization.
    Mse,
    /// The range with the least Kullback-Leibler divergence of the quantized distribution (Migacz, GTC 2017).
    Kl,
    /// Of the four, for each value, the one whose range has the least error measured, clipping counted fourfold.
    Auto,
}

impl Method {
    /// All methods.
    pub const ALL: [Method; 5] = [Method::MinMax, Method::Percentile, Method::Mse, Method::Kl, Method::Auto];

    /// Spelling in options.
    pub fn name(self) -> &'static str {
        match self {
            Method::MinMax => "minmax",
            Method::Percentile => "percentile",
            Method::Mse => "mse",
            Method::Kl => "kl",
            Method::Auto => "auto",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Method {
    type Err = String;

    fn from_str(s: &str) -> Result<Method, String> {
        let known = Method::ALL.map(Method::name).join(", ");
        Method::ALL.into_iter().find(|m| m.name() == s).ok_or_else(|| format!("`{s}` is none of {known}"))
    }
}

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

    /// Writes the table to a file.
    pub fn save(&self, path: &Path) -> Result<(), Diag> {
        std::fs::write(path, self.to_json())
            .map_err(|e| Diag::new(Code::FILE, format!("cannot write the ranges: {e}")).in_file(path.to_string_lossy()))
    }

    /// Reads a table from a file.
    pub fn load(path: &Path) -> Result<RangeTable, Diag> {
        let text = std::fs::read_to_string(path).map_err(|e| {
            Diag::new(Code::FILE, format!("cannot read the ranges: {e}")).in_file(path.to_string_lossy())
        })?;
        RangeTable::from_json(&text).map_err(|d| d.in_file(path.to_string_lossy()))
    }
}

/// Which of the passes that better the result belong to the usual pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Corrections {
    /// The pass `draw-samples`.
    pub draw_samples: bool,
    /// The pass `equalize`.
    pub equalize: bool,
    /// The pass `round-weights`.
    pub round_weights: bool,
    /// The pass `correct-bias`; with samples `round-weights` does its work too, so that it runs only without that.
    pub correct_bias: bool,
}

impl Default for Corrections {
    fn default() -> Corrections {
        Corrections { draw_samples: true, equalize: false, round_weights: true, correct_bias: true }
    }
}

impl Corrections {
    /// Names of the passes that are left out of a pipeline; `rounding` says that `round-weights` is in it.
    pub fn off(self, rounding: bool) -> Vec<&'static str> {
        let all = [
            ("draw-samples", self.draw_samples),
            ("equalize", self.equalize),
            ("round-weights", self.round_weights),
            ("correct-bias", self.correct_bias && !(rounding && self.round_weights)),
        ];
        all.into_iter().filter(|(_, on)| !on).map(|(name, _)| name).collect()
    }
}

/// What drawn inputs showed of the values that are far from any known distribution.
#[derive(Debug, Clone, Default)]
pub struct Drawn {
    /// Number of samples.
    pub(crate) samples: usize,
    /// Mean, variance and extremes of the channels of values, by name.
    pub(crate) values: HashMap<String, Vec<Channel>>,
}

/// What passes share besides the graph.
#[derive(Clone, Default)]
pub struct Context {
    /// Samples for `calibrate`.
    pub samples: Option<Arc<dyn Samples>>,
    /// Declared ranges of graph inputs, by name.
    pub input_ranges: HashMap<String, Range>,
    /// Ranges given by the user before, or found by `calibrate` or `propagate-ranges` after.
    pub ranges: Option<RangeTable>,
    /// Factors by which `equalize` has scaled the channels of values, by name.
    pub channel_factors: BTreeMap<String, Vec<f32>>,
    /// Names of the values of the model as it was read, which passes may have removed since.
    pub source_names: HashSet<String>,
    /// Lets `calibrate` keep its observations, to be merged with those of other shards.
    pub observing: Option<Observing>,
    /// Corrections that the usual pipeline makes.
    pub corrections: Corrections,
    /// What has 16 bits instead of 8, by name.
    pub precision: Precisions,
    /// How `calibrate` chooses a range, unless its options say otherwise.
    pub method: Method,
    /// What `draw-samples` saw.
    pub drawn: Option<Drawn>,
    /// Means of the channels of what layers read, by name, as far as `propagate-ranges` derived ranges.
    pub channel_means: HashMap<String, Vec<f64>>,
    /// Where to report progress.
    pub progress: Option<Progress>,
    /// Threads to use; 0 for as many as there are cores.
    pub threads: usize,
    /// How ranges were obtained, for the user.
    pub range_source: String,
    /// Whether some were derived from the model, without samples.
    pub derived_ranges: bool,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("samples", &self.samples.as_ref().map(|s| s.len()))
            .field("input_ranges", &self.input_ranges)
            .field("ranges", &self.ranges)
            .field("method", &self.method)
            .field("threads", &self.threads)
            .field("range_source", &self.range_source)
            .finish_non_exhaustive()
    }
}

impl Context {
    /// Adds to the account of how ranges were obtained.
    pub(crate) fn note_source(&mut self, source: &str) {
        if !self.range_source.is_empty() {
            self.range_source.push_str("; ");
        }
        self.range_source.push_str(source);
    }

    /// Reports progress, if anyone listens.
    pub(crate) fn report(&self, done: usize, total: usize) {
        if let Some(progress) = &self.progress {
            progress(done, total);
        }
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
