//! How a model is compiled.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use qcc_codegen::Target;
use qcc_codegen::program::tuning::Tuning;
use qcc_ir::Range;
use qcc_onnx::ImportOptions;
use qcc_passes::context::Progress;
use qcc_passes::{Corrections, Method, Overall, PassInfo, Precisions, RangeTable, Samples};

use crate::data::{Dataset, Preprocess, spread};

/// Calls of which none is held out.
const FEW: usize = 64;

/// Of more than these each of so many calls is held out, or fewer, so that no more than [`HELD_OUT`] are.
const HELD_OUT_STEP: usize = 16;

/// Calls that are held out at most.
const HELD_OUT: usize = 64;

/// Samples to calibrate with.
#[derive(Clone)]
pub enum Calibration {
    /// A file or folder in one of the forms that [`crate::data::Dataset::open`] takes.
    Path(PathBuf),
    /// Samples from elsewhere.
    Samples(Arc<dyn Samples>),
}

/// Where the scales of activations come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// From ranges that are known when the model is compiled.
    #[default]
    Int8Static,
    /// From the accumulators of each run, by integer arithmetic.
    Int8Dynamic,
}

impl Mode {
    /// All modes.
    pub const ALL: [Mode; 2] = [Mode::Int8Static, Mode::Int8Dynamic];

    /// Spelling in options.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Int8Static => "int8_static",
            Mode::Int8Dynamic => "int8_dynamic",
        }
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(s: &str) -> Result<Mode, String> {
        let known = Mode::ALL.map(Mode::name).join(", ");
        Mode::ALL.into_iter().find(|m| m.name() == s).ok_or_else(|| format!("`{s}` is none of {known}"))
    }
}

/// How a model is compiled. The default needs no data: it targets this CPU and derives ranges from the model.
#[derive(Clone)]
pub struct Options {
    /// CPU to compile for.
    pub target: Target,
    /// Name of the model, from which C functions are named; by default that of the source file.
    pub name: Option<String>,
    /// Whether the model also takes and gives floats; one that takes or gives plain integers, such as the numbers of words or of
    /// classes, takes and gives integers only.
    pub float_interface: bool,
    /// Extents that the model leaves open.
    pub shapes: ImportOptions,
    /// Samples from which ranges are found.
    pub calibration: Option<Calibration>,
    /// Most samples that are taken of them, spread evenly over all. Unless this says how many, of 64 calls or more from a path each
    /// sixteenth is held out, and [`Options::held_out`] has them.
    pub samples: Option<usize>,
    /// Where scales come from. Ranges and samples are for static scales only.
    pub mode: Mode,
    /// Ranges found earlier: samples then serve the corrections of weights and biases only.
    pub ranges: Option<RangeTable>,
    /// How a range is chosen from what was observed.
    pub method: Method,
    /// What samples correct besides ranges.
    pub corrections: Corrections,
    /// Formats of values and weights by name: see [`qcc_passes::quant::precision`].
    pub precision: Precisions,
    /// Formats of what has no other by name.
    pub overall: Overall,
    /// Inputs and outputs that are the same state, before and after a call, beside those that are known by their names.
    pub states: Vec<(String, String)>,
    /// Declared ranges of inputs, by name; under an empty name, of all inputs that are not named.
    pub input_ranges: HashMap<String, Range>,
    /// How images become inputs; also declares the inputs' range where nothing else does.
    pub preprocess: Option<Preprocess>,
    /// Passes to run instead of the usual ones.
    pub pipeline: Option<String>,
    /// Passes of one's own, which `pipeline` may name.
    pub own_passes: &'static [PassInfo],
    /// Number of the change from which on passes change nothing any more, to find the one that does wrong. Such a graph is rarely one
    /// of integers.
    pub edit_limit: Option<usize>,
    /// Whether it is measured what every pass does to the outputs, if there are samples.
    pub measure_passes: bool,
    /// Samples on which that is measured, where there are none to calibrate with.
    pub watched: Option<Arc<dyn Samples>>,
    /// Threads of the compiler; 0 for one a core. The result does not depend on it.
    pub threads: usize,
    /// What measurements chose for single layers: see [`crate::Compiled::tune`].
    pub tuning: Tuning,
    /// Told how far calibration is.
    pub progress: Option<Progress>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            target: Target::native(),
            name: None,
            float_interface: true,
            shapes: ImportOptions::default(),
            calibration: None,
            samples: None,
            mode: Mode::default(),
            ranges: None,
            method: Method::default(),
            corrections: Corrections::default(),
            precision: Precisions::new(),
            overall: Overall::default(),
            states: Vec::new(),
            input_ranges: HashMap::new(),
            preprocess: None,
            pipeline: None,
            own_passes: &[],
            edit_limit: None,
            measure_passes: false,
            watched: None,
            threads: 0,
            tuning: Tuning::new(),
            progress: None,
        }
    }
}

impl Options {
    /// The calls that a model is calibrated with, of those over `dataset`: as many as `samples` says, or all but some that are held
    /// out, if there are more than a few.
    pub(crate) fn calibration_calls(&self, dataset: &Dataset) -> Vec<usize> {
        let all = dataset.len();
        match self.samples {
            Some(samples) => spread(all, samples.div_ceil(dataset.batch().max(1))),
            None if all < FEW => (0..all).collect(),
            None => {
                let step = HELD_OUT_STEP.max(all.div_ceil(HELD_OUT));
                (0..all).filter(|call| call % step != step - 1).collect()
            }
        }
    }

    /// The calls of a model over `dataset` that it is not calibrated with.
    pub fn held_out(&self, dataset: &Dataset) -> Vec<usize> {
        let used: HashSet<usize> = self.calibration_calls(dataset).into_iter().collect();
        (0..dataset.len()).filter(|call| !used.contains(call)).collect()
    }

    /// Everything that shapes the result, by the name of its flag: recorded in the model and part of its hash.
    pub(crate) fn record(&self) -> BTreeMap<String, String> {
        let mut record = BTreeMap::new();
        let mut put = |name: &str, value: String| record.insert(name.to_string(), value);
        put("target", self.target.name().to_string());
        put("vectors", self.target.vectors.to_string());
        put("io", if self.float_interface { "float" } else { "int" }.to_string());
        put("method", self.method.to_string());
        if self.mode != Mode::default() {
            put("mode", self.mode.name().to_string());
        }
        for (name, precision) in [("weights", self.overall.weights), ("activations", self.overall.activations)] {
            if let Some(precision) = precision {
                put(name, precision.name().to_string());
            }
        }
        if !self.tuning.is_empty() {
            put("tuning", tuning_record(&self.tuning));
        }
        if let Some(pipeline) = &self.pipeline {
            put("passes", pipeline.clone());
        }
        let mut list = |name: &str, mut items: Vec<String>| {
            items.sort();
            if !items.is_empty() {
                record.insert(name.to_string(), items.join(" "));
            }
        };
        let dims = |d: &[usize]| d.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
        list("shape", self.shapes.shapes.iter().map(|(n, d)| format!("{n}={}", dims(d))).collect());
        let numbers = |v: &[f64]| v.iter().map(f64::to_string).collect::<Vec<_>>().join(",");
        list("bind", self.shapes.binds.iter().map(|(n, v)| format!("{n}={}", numbers(v))).collect());
        list("dim", self.shapes.dims.iter().map(|(n, d)| format!("{n}={d}")).collect());
        list("precision", self.precision.iter().map(|(n, p)| format!("{n}={}", p.name())).collect());
        list("state", self.states.iter().map(|(x, y)| format!("{x}={y}")).collect());
        list("input-range", self.input_ranges.iter().map(|(n, r)| format!("{n}={:?}:{:?}", r.min, r.max)).collect());
        record
    }
}

/// Choices for layers in one line; the same choices give the same text.
pub(crate) fn tuning_record(tuning: &Tuning) -> String {
    serde_json::to_string(tuning).unwrap_or_default()
}
