//! `qcc calibrate` and `qcc ranges`: ranges by themselves, to be merged, read, edited and given to `--ranges`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use qcc::{Calibration, Error, Method, Observations, RangeTable, Shard, calibrate};

use super::flags::{ModelFlags, usage};
use super::terminal;

/// Find the ranges of a model's values from samples.
#[derive(Args)]
pub struct Calibrate {
    /// Model: .onnx, or float .qir
    model: PathBuf,
    /// Samples: .npy, .npz, image, list or folder
    #[arg(long, value_name = "SAMPLES", conflicts_with = "calibrate")]
    data: Option<PathBuf>,
    /// Take every n-th sample, from the i-th on: tables of all shares merge into that of one run
    #[arg(long, value_name = "i/n")]
    shard: Option<Shard>,
    /// File to write
    #[arg(short, long, value_name = "FILE.json")]
    output: PathBuf,
    /// Threads; 0 for one a core
    #[arg(long, default_value_t = 0)]
    threads: usize,
    #[command(flatten)]
    flags: ModelFlags,
}

impl Calibrate {
    /// Does it.
    pub fn execute(&self) -> Result<(), Error> {
        let mut options = self.flags.options(self.threads)?;
        if options.ranges.is_some() {
            return Err(usage("--ranges and `qcc calibrate` exclude each other: ranges are what it finds"));
        }
        if let Some(data) = &self.data {
            options.calibration = Some(Calibration::Path(data.clone()));
        }
        let table = calibrate(self.model.as_path(), &options, self.shard)?;
        terminal::note(&format!("ranges: {}", table.source));
        Ok(table.save(&self.output)?)
    }
}

/// Work on tables of ranges.
#[derive(Args)]
pub struct Ranges {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Merge what shards of the samples showed into one table
    Merge(Merge),
}

/// Merge tables that `qcc calibrate` wrote.
#[derive(Args)]
struct Merge {
    /// Tables of shards
    #[arg(required = true, value_name = "FILE.json")]
    tables: Vec<PathBuf>,
    /// File to write
    #[arg(short, long, value_name = "FILE.json")]
    output: PathBuf,
    /// How ranges follow from what was seen [default: as in the tables]
    #[arg(long)]
    method: Option<Method>,
}

impl Ranges {
    /// Does it.
    pub fn execute(&self) -> Result<(), Error> {
        match &self.action {
            Action::Merge(merge) => {
                let tables: Vec<RangeTable> =
                    merge.tables.iter().map(|path| RangeTable::load(path)).collect::<Result<_, _>>()?;
                let names: Vec<String> = merge.tables.iter().map(|p| p.display().to_string()).collect();
                let merged = Observations::merge(&tables, merge.method).map_err(|d| d.in_file(names.join(", ")))?;
                terminal::note(&format!("ranges: {}", merged.source));
                Ok(merged.save(&merge.output)?)
            }
        }
    }
}
