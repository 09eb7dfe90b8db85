//! What samples showed of a model's values: their histograms, in the form in which a range table carries them.
//!
//! Histograms add up exactly, so that samples can be divided among machines: the tables of all shards, merged, are the table of
//! one run over all samples, byte for byte. A histogram is one line of text: the exponent `e` of the width of its bins, `2^e`,
//! the index `i` of the first bin that is not empty, bin `i` holding values in `[i, i + 1) * 2^e`, and the counts from there on.
//! `0*7` stands for seven empty bins.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use qcc_ir::Diag;
use qcc_ir::diag::Code;
use serde::{Deserialize, Serialize};

use crate::Method;
use crate::context::{RangeEntry, RangeTable};
use crate::histogram::{HALF, Histogram};

/// Version of the form.
const VERSION: u32 = 1;

/// What samples showed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Observations {
    version: u32,
    /// How ranges were chosen.
    method: String,
    /// Number of samples.
    samples: u64,
    /// Digest of the model, its passes and the preprocessing, so that tables that do not belong together are told apart.
    model: String,
    /// Which share of the samples of a greater run these are, if they are one: `i/n`, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shard: Option<String>,
    /// One histogram a value.
    values: BTreeMap<String, Record>,
}

/// A histogram as text and numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    min: f32,
    max: f32,
    zeros: u64,
    exponent: i32,
    first: i64,
    counts: String,
}

/// What is observed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// Digest of the model and of how samples get into it.
    pub model: String,
    /// The share of the samples, if not all.
    pub shard: Option<Shard>,
}

/// A share of samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// From 1.
    pub index: usize,
    /// Number of shares.
    pub count: usize,
}

impl std::str::FromStr for Shard {
    type Err = String;

    fn from_str(s: &str) -> Result<Shard, String> {
        let parts = s.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match parts {
            Some((index, count)) if 1 <= index && index <= count => Ok(Shard { index, count }),
            _ => Err(format!("`{s}` is not of the form i/n with i from 1 to n")),
        }
    }
}

impl std::fmt::Display for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

fn fault(message: impl Into<String>) -> Diag {
    Diag::new(Code::RANGE, message)
}

impl Observations {
    pub(crate) fn new(method: Method, samples: usize, origin: Origin) -> Observations {
        Observations {
            version: VERSION,
            method: method.to_string(),
            samples: samples as u64,
            model: origin.model,
            shard: origin.shard.map(|s| s.to_string()),
            values: BTreeMap::new(),
        }
    }

    pub(crate) fn add(&mut self, name: &str, histogram: &Histogram) {
        self.values.insert(name.to_string(), Record::new(histogram));
    }

    fn method(&self) -> Result<Method, Diag> {
        self.method.parse().map_err(|e| fault(format!("the method of the observations: {e}")))
    }

    /// Merges the tables of shards; `method` chooses ranges in another way than theirs.
    pub fn merge(tables: &[RangeTable], method: Option<Method>) -> Result<RangeTable, Diag> {
        let mut parts = Vec::new();
        for (i, table) in tables.iter().enumerate() {
            let part = table.observations.as_ref().ok_or_else(|| {
                fault(format!("table {} has no observations to merge", i + 1)).help("write it with `qcc calibrate`")
            })?;
            if part.version != VERSION {
                return Err(fault(format!("table {}: observations of version {} are not known", i + 1, part.version)));
            }
            let same = |p: &&Observations| *p == part || part.shard.is_some() && p.shard == part.shard;
            if let Some(again) = parts.iter().position(same) {
                let what = part.shard.as_ref().map_or("the same samples".to_string(), |s| format!("shard {s}"));
                return Err(fault(format!("tables {} and {} are both of {what}", again + 1, i + 1)));
            }
            parts.push(part);
        }
        let Some((first, rest)) = parts.split_first() else { return Err(fault("there are no tables to merge")) };
        if let Some(i) = parts.iter().position(|p| p.model != first.model) {
            return Err(fault(format!("tables 1 and {} are of different models, passes or preprocessing", i + 1)));
        }
        all_shards(&parts)?;
        let mut all = Observations { shard: None, ..(*first).clone() };
        if let Some(method) = method {
            all.method = method.to_string();
        }
        let mut histograms: BTreeMap<&String, Histogram> = BTreeMap::new();
        for (name, record) in &first.values {
            histograms.insert(name, record.histogram(name)?);
        }
        for (i, part) in rest.iter().enumerate() {
            if method.is_none() && part.method != first.method {
                let what = format!("ranges by {} in table 1 and by {} in table {}", first.method, part.method, i + 2);
                return Err(fault(what).help("say which with --method"));
            }
            let mut alone = part.values.keys().filter(|n| !first.values.contains_key(*n));
            let mut missing = first.values.keys().filter(|n| !part.values.contains_key(*n));
            if let Some(name) = alone.next().or_else(|| missing.next()) {
                let what = format!("`{name}` is in only one of tables 1 and {}", i + 2);
                return Err(fault(what).help("calibrate all shards with the same flags"));
            }
            for (name, record) in &part.values {
                let other = record.histogram(name)?;
                if let Some(h) = histograms.get_mut(name) {
                    h.merge(other);
                }
            }
            all.samples = all.samples.saturating_add(part.samples);
        }
        all.values = histograms.iter().map(|(name, h)| ((*name).clone(), Record::new(h))).collect();
        all.into_table()
    }

    /// The ranges that the observations give, with the observations beside them.
    fn into_table(self) -> Result<RangeTable, Diag> {
        let method = self.method()?;
        let source = source(self.samples, method);
        let mut values = BTreeMap::new();
        for (name, record) in &self.values {
            let nothing = || fault(format!("nothing finite was seen of `{name}`"));
            values.insert(name.clone(), entry(&record.histogram(name)?, method).ok_or_else(nothing)?);
        }
        Ok(RangeTable { source, values, observations: Some(self), ..RangeTable::default() })
    }
}

/// How ranges were obtained, for the user.
pub(crate) fn source(samples: u64, method: Method) -> String {
    format!("calibrated with {samples} sample{} ({method})", if samples == 1 { "" } else { "s" })
}

/// The row of a value, if anything finite was seen of it.
pub(crate) fn entry(h: &Histogram, method: Method) -> Option<RangeEntry> {
    let range = h.range(method).filter(|r| r.is_valid())?;
    let (mean, deviation) = h.moments().unzip();
    Some(RangeEntry { seen_min: Some(h.min), seen_max: Some(h.max), mean, deviation, ..RangeEntry::new(range) })
}

/// Sees that tables of shards are of all shards of one run.
fn all_shards(parts: &[&Observations]) -> Result<(), Diag> {
    let shards =
        parts.iter().filter_map(|p| p.shard.as_deref()).map(str::parse).collect::<Result<Vec<Shard>, String>>();
    let shards = shards.map_err(|e| fault(format!("the shard of a table: {e}")))?;
    let Some(&first) = shards.first() else { return Ok(()) };
    if let Some(i) = parts.iter().position(|p| p.shard.is_none()) {
        return Err(fault(format!("table {} is of a whole run, others are of shards", i + 1)));
    }
    if let Some(other) = shards.iter().find(|s| s.count != first.count) {
        return Err(fault(format!("shards {first} and {other} are not of one run")));
    }
    match (1..=first.count).find(|&i| shards.iter().all(|s| s.index != i)) {
        Some(index) => {
            Err(fault(format!("shard {index}/{} is missing", first.count)).help("give the tables of all shards"))
        }
        None => Ok(()),
    }
}

impl Record {
    fn new(h: &Histogram) -> Record {
        let filled = || h.counts.iter().enumerate().filter(|(_, n)| **n > 0).map(|(i, _)| i);
        let (first, end) = filled().next().zip(filled().next_back()).map_or((HALF, HALF), |(a, b)| (a, b + 1));
        let mut counts = String::new();
        let mut empty = 0;
        for &n in &h.counts[first..end] {
            if n == 0 {
                empty += 1;
                continue;
            }
            // Writing to a string cannot fail.
            let _ = match empty {
                0 => Ok(()),
                1 => write!(counts, "0 "),
                more => write!(counts, "0*{more} "),
            };
            let _ = write!(counts, "{n} ");
            empty = 0;
        }
        let counts = counts.trim_end().to_string();
        let first = first as i64 - HALF as i64;
        Record { min: h.min, max: h.max, zeros: h.zeros, exponent: h.exponent, first, counts }
    }

    fn histogram(&self, name: &str) -> Result<Histogram, Diag> {
        let wrong = || fault(format!("the histogram of `{name}` is not in the form that qcc writes"));
        let mut counts = vec![0u64; 2 * HALF];
        let mut at = self.first.checked_add(HALF as i64).and_then(|i| usize::try_from(i).ok()).ok_or_else(wrong)?;
        for word in self.counts.split_ascii_whitespace() {
            if let Some(empty) = word.strip_prefix("0*") {
                at = at.checked_add(empty.parse().map_err(|_| wrong())?).ok_or_else(wrong)?;
                continue;
            }
            *counts.get_mut(at).ok_or_else(wrong)? = word.parse().map_err(|_| wrong())?;
            at += 1;
        }
        // Far from the greatest u64, so that sums over tables cannot overflow.
        let count = counts.iter().try_fold(0u64, |sum, &n| sum.checked_add(n)).filter(|n| n >> 48 == 0);
        let count = count.ok_or_else(wrong)?;
        Histogram::restore(self.exponent, counts, (self.min, self.max), self.zeros, count).ok_or_else(wrong)
    }
}
