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
use crate::ranges::histogram::{HALF, Histogram};

/// Version of the form.
const VERSION: u32 = 1;

/// What samples showed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Observations {
    version: u32,
    /// Digest of the model and of the passes in front.
    model: String,
    /// How images become inputs, if something says it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    images: String,
    /// How ranges were chosen.
    method: String,
    /// Number of samples.
    samples: u64,
    /// Which share of the samples of a greater run these are, if they are one: `i/n`, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shard: Option<String>,
    /// One histogram a value.
    values: BTreeMap<String, Record>,
    /// Digest of all the above.
    digest: String,
}

/// What is observed, and in which way: only what agrees in this can be merged.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Observing {
    /// Digest of the model and of the passes in front.
    pub model: String,
    /// How images become inputs; empty if nothing says it.
    pub images: String,
    /// The share of the samples that is seen.
    pub shard: Option<Shard>,
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

/// A share of samples: of each `count` the one with this index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// From 1.
    pub index: usize,
    /// Number of shares.
    pub count: usize,
}

impl Shard {
    /// How many of `samples` it has.
    pub fn share(self, samples: usize) -> usize {
        samples.saturating_sub(self.index.saturating_sub(1)).div_ceil(self.count.max(1))
    }
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
    pub(crate) fn new(method: Method, samples: usize, of: Option<&Observing>) -> Observations {
        let Observing { model, images, shard } = of.cloned().unwrap_or_default();
        Observations {
            version: VERSION,
            model,
            images,
            method: method.to_string(),
            samples: samples as u64,
            shard: shard.map(|s| s.to_string()),
            values: BTreeMap::new(),
            digest: String::new(),
        }
    }

    pub(crate) fn add(&mut self, name: &str, histogram: &Histogram) {
        self.values.insert(name.to_string(), Record::new(histogram));
    }

    fn method(&self) -> Result<Method, Diag> {
        self.method.parse().map_err(|e| fault(format!("the method of the observations: {e}")))
    }

    /// Merges tables, each with the name of its file: either all shards of one run, or runs on samples of their own. `method`
    /// chooses ranges in another way than theirs.
    pub fn merge(tables: &[(String, RangeTable)], method: Option<Method>) -> Result<RangeTable, Diag> {
        let mut parts: Vec<(&str, &Observations)> = Vec::new();
        for (file, table) in tables {
            let part = table.observations.as_ref().ok_or_else(|| {
                fault("the table has no observations to merge").help("write it with `qcc calibrate`").in_file(file)
            })?;
            part.check(table).map_err(|d| d.in_file(file))?;
            parts.push((file, part));
        }
        let Some((&first, rest)) = parts.split_first() else { return Err(fault("there are no tables to merge")) };
        for &other in rest {
            belong(first, other, method.is_some())?;
        }
        whole(&parts)?;
        let mut all = Observations { shard: None, samples: 0, ..first.1.clone() };
        if let Some(method) = method {
            all.method = method.to_string();
        }
        let mut histograms: BTreeMap<&String, Histogram> = BTreeMap::new();
        for (file, part) in &parts {
            all.samples = all.samples.saturating_add(part.samples);
            for (name, record) in &part.values {
                let histogram = record.histogram(name).map_err(|d| d.in_file(*file))?;
                match histograms.get_mut(name) {
                    Some(h) => h.merge(histogram),
                    None => drop(histograms.insert(name, histogram)),
                }
            }
        }
        all.values = histograms.iter().map(|(name, h)| ((*name).clone(), Record::new(h))).collect();
        all.into_table()
    }

    /// What the table says must follow from the observations in it.
    fn check(&self, table: &RangeTable) -> Result<(), Diag> {
        if self.version != VERSION {
            return Err(fault(format!("observations of version {} are not known", self.version)));
        }
        if self.digest != self.digest() {
            return Err(fault("the observations are damaged: their digest is another").help("calibrate again"));
        }
        let derived = self.clone().into_table()?;
        let names = table.values.keys().chain(derived.values.keys());
        match names.into_iter().find(|&name| table.values.get(name) != derived.values.get(name)) {
            Some(name) => {
                let diag = fault(format!("the range of `{name}` does not follow from what was observed"));
                Err(diag.help("a range that was edited would be lost: merge first and edit then"))
            }
            None => Ok(()),
        }
    }

    /// The ranges that the observations give, with these beside them.
    pub(crate) fn into_table(mut self) -> Result<RangeTable, Diag> {
        let method = self.method()?;
        let plural = if self.samples == 1 { "" } else { "s" };
        let source = format!("calibrated with {} sample{plural} ({method})", self.samples);
        let mut values = BTreeMap::new();
        for (name, record) in &self.values {
            let entry = entry(&record.histogram(name)?, method);
            let entry = entry.ok_or_else(|| fault(format!("nothing finite was seen of `{name}`")))?;
            values.insert(name.clone(), entry);
        }
        self.digest = self.digest();
        Ok(RangeTable { source, values, observations: Some(self), ..RangeTable::default() })
    }

    /// FNV-1a of the text of everything else: it is to find damage, not malice.
    fn digest(&self) -> String {
        let rest = Observations { digest: String::new(), ..self.clone() };
        // There are no keys but strings, and all numbers are finite.
        let text = serde_json::to_string(&rest).unwrap_or_default();
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        format!("{:016x}", text.bytes().fold(0xcbf2_9ce4_8422_2325, step))
    }
}

/// The row of a value, if anything finite was seen of it.
pub(crate) fn entry(h: &Histogram, method: Method) -> Option<RangeEntry> {
    let range = h.range(method).filter(|r| r.is_valid())?;
    let (mean, deviation) = h.moments().unzip();
    Some(RangeEntry { seen_min: Some(h.min), seen_max: Some(h.max), mean, deviation, ..RangeEntry::new(range) })
}

/// Whether two observations are of the same model and were made alike.
fn belong((a, first): (&str, &Observations), (b, other): (&str, &Observations), any_method: bool) -> Result<(), Diag> {
    let same_names = first.values.keys().eq(other.values.keys());
    let differ = |what: String, help: &str| Err(fault(format!("`{a}` and `{b}` {what}")).help(help));
    if first.model != other.model || !same_names {
        let help = "shards are made from one file, with the same shapes and passes";
        return differ("are not of the same model".into(), help);
    }
    if first.images != other.images {
        let flags = |o: &Observations| if o.images.is_empty() { "no images".to_string() } else { o.images.clone() };
        return differ(
            format!("saw images prepared otherwise: {}; {}", flags(first), flags(other)),
            "use the same flags",
        );
    }
    if first.method != other.method && !any_method {
        let what = format!("choose ranges by {} and by {}", first.method, other.method);
        return differ(what, "say which with --method");
    }
    Ok(())
}

/// Whether the parts are all shards of one run, each once, or none is a shard and none is there twice.
fn whole(parts: &[(&str, &Observations)]) -> Result<(), Diag> {
    let mut shards: Vec<(Shard, &str, u64)> = Vec::new();
    for (i, (file, part)) in parts.iter().enumerate() {
        if let Some(again) = parts[..i].iter().find(|p| p.1 == *part) {
            return Err(fault(format!("`{}` and `{file}` are the same", again.0)));
        }
        if let Some(text) = &part.shard {
            let shard = text.parse().map_err(|e: String| fault(format!("the shard: {e}")).in_file(*file))?;
            shards.push((shard, file, part.samples));
        }
    }
    shards.sort_by_key(|s| (s.0.count, s.0.index));
    let Some(&(Shard { count, .. }, ..)) = shards.first() else { return Ok(()) };
    let alone = parts.iter().find(|p| p.1.shard.is_none()).map(|p| p.0);
    if let Some(file) = alone {
        return Err(fault("a run over all samples beside shards of one").in_file(file));
    }
    for pair in shards.windows(2) {
        let ((a, file_a, _), (b, file_b, _)) = (pair[0], pair[1]);
        if a == b {
            return Err(fault(format!("`{file_a}` and `{file_b}` are both shard {a}")));
        }
        if a.count != b.count {
            return Err(fault(format!("`{file_a}` is shard {a} and `{file_b}` is shard {b}: they are not of one run")));
        }
    }
    let missing = (1..=count).find(|&i| shards.get(i - 1).is_none_or(|s| s.0.index != i));
    if let Some(index) = missing {
        let missing = Shard { index, count };
        return Err(
            fault(format!("shard {missing} is missing")).help(format!("make it: qcc calibrate --shard {missing}"))
        );
    }
    let all = usize::try_from(shards.iter().fold(0u64, |n, s| n.saturating_add(s.2))).unwrap_or(usize::MAX);
    match shards.iter().find(|(shard, _, samples)| shard.share(all) as u64 != *samples) {
        Some((shard, file, samples)) => {
            let what = format!("shard {shard} has {samples} of {all} samples, and {} are its share", shard.share(all));
            Err(fault(what).in_file(*file).help("shards are made with the same --data"))
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
        let first = self.first.checked_add(HALF as i64).and_then(|at| usize::try_from(at).ok());
        let mut at = first.ok_or_else(wrong)?;
        for word in self.counts.split_ascii_whitespace() {
            if let Some(empty) = word.strip_prefix("0*") {
                at = at.checked_add(empty.parse().map_err(|_| wrong())?).ok_or_else(wrong)?;
                continue;
            }
            *counts.get_mut(at).ok_or_else(wrong)? = word.parse().map_err(|_| wrong())?;
            at += 1;
        }
        let count = counts.iter().try_fold(0u64, |sum, &n| sum.checked_add(n)).ok_or_else(wrong)?;
        Histogram::restore(self.exponent, counts, (self.min, self.max), self.zeros, count).ok_or_else(wrong)
    }
}
