//! The classes that a classifier finds most likely, by name.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use qcc::Error;
use qcc::ir::Tensor;

use super::flags::usage;

/// How classes are printed.
#[derive(Args)]
#[command(next_help_heading = "Classes")]
pub struct TopFlags {
    /// Print the K classes with the greatest scores of each sample
    #[arg(long, value_name = "K", num_args = 0..=1, default_missing_value = "5")]
    top: Option<usize>,
    /// Names of the classes, one a line; prints them as --top does
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// Class of the first name, for models whose first class is something else
    #[arg(long, default_value_t = 0, value_name = "N", requires = "labels")]
    label_offset: usize,
}

/// What is to be printed.
pub struct Top {
    count: usize,
    names: Vec<String>,
    offset: usize,
}

impl TopFlags {
    /// Whether classes are printed.
    pub fn is_on(&self) -> bool {
        self.top.is_some() || self.labels.is_some()
    }

    /// Reads the names, if classes are to be printed.
    pub fn read(&self) -> Result<Option<Top>, Error> {
        if !self.is_on() {
            return Ok(None);
        }
        let count = self.top.unwrap_or(5);
        if count == 0 {
            return Err(usage("--top: 0 classes are none").help("leave --top out to see all numbers"));
        }
        let names = match &self.labels {
            None => Vec::new(),
            Some(path) => {
                let text = qcc::reading::text(path, "read the names")?;
                text.lines().map(|line| line.trim().to_string()).collect()
            }
        };
        Ok(Some(Top { count, names, offset: self.label_offset }))
    }
}

impl Top {
    /// The classes of all samples: rank, class, score and name, best first, the first of several that are equal.
    pub fn text(&self, outputs: &[(String, Vec<usize>)], results: &[Tensor], calls: usize) -> Result<String, Error> {
        let rows: Vec<usize> = (0..outputs.len()).filter(|&i| classes(&outputs[i].1).is_some()).collect();
        let &[i] = rows.as_slice() else {
            let names: Vec<&str> = outputs.iter().map(|(name, _)| name.as_str()).collect();
            let message = match rows.len() {
                0 => "--top: no output is a row of scores".to_string(),
                n => format!("--top: {n} outputs are rows of numbers, any of which may be scores"),
            };
            return Err(usage(message).help(format!("outputs are {}; --outputs takes one of them", names.join(", "))));
        };
        let classes = classes(&outputs[i].1).unwrap_or(1);
        if !self.names.is_empty() && self.names.iter().filter(|n| !n.is_empty()).count() + self.offset != classes {
            let message = format!("--labels: {} names for {classes} classes", self.names.len());
            let more = classes.checked_sub(self.names.len()).filter(|&n| n == 1);
            let help = more.map_or("give one name a line".to_string(), |n| format!("add --label-offset {n}"));
            return Err(usage(message).help(help));
        }
        let scores: Vec<f64> = qcc::ir::for_data!(&results[i].data, v => v.iter().map(|&x| x as f64).collect());
        let mut out = String::new();
        let samples = scores.len() / classes.max(1);
        for (sample, row) in scores.chunks(classes.max(1)).enumerate() {
            if samples > 1 || calls > 1 {
                // Writing to a string cannot fail.
                let _ = writeln!(out, "sample {sample}");
            }
            let mut order: Vec<usize> = (0..row.len()).collect();
            order.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
            for (rank, &class) in order.iter().take(self.count).enumerate() {
                let name = class.checked_sub(self.offset).and_then(|c| self.names.get(c)).map_or("", String::as_str);
                let line = format!("{:>3} {class:>6} {:>12.6}  {name}", rank + 1, row[class]);
                let _ = writeln!(out, "{}", line.trim_end());
            }
        }
        Ok(out)
    }
}

/// Number of classes, if an output is a row of at least two numbers, perhaps one for each sample of a batch.
fn classes(dims: &[usize]) -> Option<usize> {
    let long: Vec<usize> = dims.iter().copied().filter(|&d| d != 1).collect();
    match long[..] {
        [classes] => Some(classes),
        [_, classes] if dims.len() == 2 => Some(classes),
        _ => None,
    }
}
