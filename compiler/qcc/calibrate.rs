//! Calibration by itself: the ranges of a model's values, without compiling it.

use std::collections::BTreeMap;
use std::sync::Arc;

use qcc_ir::diag::Code;
use qcc_ir::{Diag, Tensor};
use qcc_passes::{Corrections, Origin, Pipeline, RangeTable, Samples, Shard, default_pipeline};

use crate::compile::{context, digest};
use crate::{Error, Options, Source};

/// Finds the ranges of a model's values from the samples in `options`, or from one share of them. The table carries what was
/// observed, so that the tables of all shares can be merged.
pub fn calibrate(source: impl Into<Source>, options: &Options, shard: Option<Shard>) -> Result<RangeTable, Error> {
    let mut graph = source.into().load(options)?;
    let mut cx = context(&graph, options)?;
    let Some(samples) = cx.samples.take() else {
        return Err(Error::new(Code::FLAGS, "there are no samples to calibrate with").help("give them with --data"));
    };
    let samples: Arc<dyn Samples> = match shard {
        Some(shard) => Arc::new(Share { all: samples, shard }),
        None => samples,
    };
    if samples.is_empty() {
        let message = format!("share {} has no samples", shard.map(|s| s.to_string()).unwrap_or_default());
        return Err(Error::new(Code::DATA, message).help("divide them among fewer shards"));
    }
    cx.samples = Some(samples);
    // Factors of channels would differ from share to share.
    cx.corrections = Corrections { equalize: false, ..cx.corrections };
    let passes = match &options.pipeline {
        Some(text) => text.clone(),
        None => {
            let text = default_pipeline(&graph, &cx);
            let end = text.find("calibrate").map_or(text.len(), |at| at + "calibrate".len());
            text[..end].to_string()
        }
    };
    // What all shards must have in common.
    let record = BTreeMap::from([("preprocess".to_string(), format!("{:?}", options.preprocess))]);
    let model: String = digest(&graph, &record, None, &passes).iter().map(|byte| format!("{byte:02x}")).collect();
    cx.observing = Some(Origin { model, shard });
    Pipeline::parse(&passes)?.run(&mut graph, &mut cx)?;
    cx.ranges.ok_or_else(|| Error::new(Code::DATA, "the model has no values whose range is to be found"))
}

/// Every `count`-th sample.
struct Share {
    all: Arc<dyn Samples>,
    shard: Shard,
}

impl Samples for Share {
    fn len(&self) -> usize {
        (self.all.len() + self.shard.count - self.shard.index) / self.shard.count
    }

    fn get(&self, i: usize) -> Result<Vec<Tensor>, Diag> {
        self.all.get(i * self.shard.count + self.shard.index - 1)
    }
}
