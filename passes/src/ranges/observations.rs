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
use qcc_num::convert::count_i64;
use serde::{Deserialize, Serialize};

use crate::ranges::histogram::{HALF, Histogram};
use crate::ranges::method::Method;

/// Version of the form.
pub(super) const VERSION: u32 = 1;

/// What samples showed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Observations {
    pub(super) version: u32,
    /// Digest of the model and of the passes in front.
    pub(super) model: String,
    /// How images become inputs, if something says it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) images: String,
    /// How ranges were chosen.
    pub(super) method: String,
    /// Number of samples.
    pub(super) samples: u64,
    /// Which share of the samples of a greater run these are, if they are one: `i/n`, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) shard: Option<String>,
    /// One histogram a value.
    pub(super) values: BTreeMap<String, Record>,
    /// Digest of all the above.
    pub(super) digest: String,
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
pub(super) struct Record {
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

pub(super) fn fault(message: impl Into<String>) -> Diag {
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

    pub(super) fn method(&self) -> Result<Method, Diag> {
        self.method.parse().map_err(|e| fault(format!("the method of the observations: {e}")))
    }

    /// FNV-1a of the text of everything else: it is to find damage, not malice.
    pub(super) fn digest(&self) -> String {
        let rest = Observations { digest: String::new(), ..self.clone() };
        // There are no keys but strings, and all numbers are finite.
        let text = serde_json::to_string(&rest).unwrap_or_default();
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        format!("{:016x}", text.bytes().fold(0xcbf2_9ce4_8422_2325, step))
    }
}

impl Record {
    pub(super) fn new(h: &Histogram) -> Record {
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
        let first = count_i64(first) - count_i64(HALF);
        Record { min: h.min, max: h.max, zeros: h.zeros, exponent: h.exponent, first, counts }
    }

    pub(super) fn histogram(&self, name: &str) -> Result<Histogram, Diag> {
        let wrong = || fault(format!("the histogram of `{name}` is not in the form that qcc writes"));
        let mut counts = vec![0u64; 2 * HALF];
        let first = self.first.checked_add(count_i64(HALF)).and_then(|at| usize::try_from(at).ok());
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
