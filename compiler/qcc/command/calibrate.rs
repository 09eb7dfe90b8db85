//! `qcc calibrate` and `qcc ranges`: ranges by themselves, to be merged, read, edited and given to `--ranges`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use qcc::{Calibration, Error, Method, Mode, Observations, RangeTable, Shard, calibrate, check_places, save_ranges};

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
    /// Take every n-th sample, from the i-th on: tables of all shards merge into that of one run
    #[arg(long, value_name = "i/n")]
    shard: Option<Shard>,
    /// File to write
    #[arg(short, long, value_name = "FILE.json")]
    output: PathBuf,
    /// Threads; 0 for one a core
    #[arg(long, default_value_t = 0, value_parser = super::flags::threads)]
    threads: usize,
    #[command(flatten)]
    flags: ModelFlags,
}

impl Calibrate {
    /// Does it.
    pub fn execute(&self) -> Result<(), Error> {
        let mut read = self.flags.files();
        read.push(("the model", self.model.as_path()));
        read.extend(self.data.as_deref().map(|path| ("the samples", path)));
        check_places(&read, &[("--output", &self.output)])?;
        self.flags.warn_not_ranges();
        let mut options = self.flags.options(self.threads)?;
        if options.ranges.is_some() {
            return Err(usage("--ranges and `qcc calibrate` exclude each other: ranges are what it finds"));
        }
        if options.mode == Mode::Int8Dynamic {
            return Err(usage("ranges are found in each run with --mode int8_dynamic: there is nothing to calibrate"));
        }
        if options.corrections.equalize {
            let error = usage("--equalize on needs all samples at once, and a shard has a part of them");
            return Err(error.help("qcc MODEL --calibrate SAMPLES --equalize on --save-ranges FILE.json"));
        }
        match (&self.data, &options.calibration) {
            (Some(_), Some(_)) => {
                return Err(usage("--data and --calibrate both name the samples").help("leave one out"));
            }
            (Some(data), None) => options.calibration = Some(Calibration::Path(data.clone())),
            (None, _) => {}
        }
        let table = calibrate(self.model.as_path(), &options, self.shard)?;
        save_ranges(&table, &self.output)?;
        terminal::note(&format!("ranges: {}", table.source));
        Ok(())
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
    /// Tables of all shards
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
                let read: Vec<_> = merge.tables.iter().map(|path| ("a table to merge", path.as_path())).collect();
                check_places(&read, &[("--output", &merge.output)])?;
                let read = |path: &PathBuf| Ok((path.display().to_string(), RangeTable::load(path)?));
                let tables = merge.tables.iter().map(read).collect::<Result<Vec<_>, Error>>()?;
                let merged = Observations::merge(&tables, merge.method)?;
                save_ranges(&merged, &merge.output)?;
                terminal::note(&format!("ranges: {}", merged.source));
                Ok(())
            }
        }
    }
}
