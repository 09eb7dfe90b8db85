//! Range tables of shards, merged into that of one run: what their observations have to agree in, and what follows from them.

use std::collections::BTreeMap;

use qcc_ir::Diag;

use crate::ranges::histogram::Histogram;
use crate::ranges::method::Method;
use crate::ranges::observations::{Observations, Record, Shard, VERSION, fault};
use crate::ranges::table::{RangeEntry, RangeTable};

impl Observations {
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
