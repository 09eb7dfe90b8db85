//! Calibration by itself: the ranges of a model's values, without compiling it.

use std::path::Path;
use std::sync::Arc;

use qcc_ir::diag::Code;
use qcc_ir::{Diag, Tensor};
use qcc_passes::{Corrections, Observing, Pipeline, RangeTable, Samples, Shard, default_pipeline};

use crate::compile::{context, model_digest};
use crate::{Error, Options, Source, files};

/// Finds the ranges of a model's values from the samples in `options`, or from one share of them. The table carries what was
/// observed, so that the tables of all shards can be merged. Channels are not equalized: their factors are those of all samples.
pub fn calibrate(source: impl Into<Source>, options: &Options, shard: Option<Shard>) -> Result<RangeTable, Error> {
    let mut graph = source.into().load(options)?;
    let options = Options { ranges: None, ..options.clone() };
    let mut cx = context(&graph, &options)?;
    let Some(samples) = cx.samples.take() else {
        return Err(Error::new(Code::FLAGS, "there are no samples to calibrate with").help("give them with --data"));
    };
    let samples: Arc<dyn Samples> = match shard {
        Some(shard) if shard.share(samples.len()) == 0 => {
            let message = format!("shard {shard} of {} samples has none", samples.len());
            return Err(Error::new(Code::DATA, message).help("divide them among fewer shards"));
        }
        Some(shard) => Arc::new(Share { all: samples, shard }),
        None => samples,
    };
    cx.samples = Some(samples);
    cx.corrections = Corrections { equalize: false, ..cx.corrections };
    let passes = match &options.pipeline {
        Some(text) => text.clone(),
        None => up_to_ranges(&default_pipeline(&graph, &cx)),
    };
    let images = options.preprocess.as_ref().map_or(String::new(), ToString::to_string);
    cx.observing = Some(Observing { model: model_digest(&graph, &passes), images, shard });
    Pipeline::parse_with(&passes, options.own_passes)?.run(&mut graph, &mut cx)?;
    cx.ranges.ok_or_else(|| Error::new(Code::DATA, "the model has no values whose range is to be found"))
}

/// Writes a table of ranges as JSON, to be read, edited and given back.
pub fn save_ranges(table: &RangeTable, path: &Path) -> Result<(), Error> {
    files::write(path, table.to_json().as_bytes())
}

/// The passes of a pipeline up to the one that finds ranges.
fn up_to_ranges(pipeline: &str) -> String {
    let mut passes = pipeline.split(", ");
    let before: Vec<&str> = passes.by_ref().take_while(|&p| p != "calibrate").collect();
    before.into_iter().chain(["calibrate"]).collect::<Vec<_>>().join(", ")
}

/// The samples of a shard: one of each `count`.
struct Share {
    all: Arc<dyn Samples>,
    shard: Shard,
}

impl Samples for Share {
    fn len(&self) -> usize {
        self.shard.share(self.all.len())
    }

    fn get(&self, i: usize) -> Result<Vec<Tensor>, Diag> {
        self.all.get(i * self.shard.count + self.shard.index - 1)
    }
}
