//! Flags that several commands share.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use qcc::codegen::target::Vectors;
use qcc::data::{ChannelOrder, Extent, Layout, Preprocess, Resize};
use qcc::engine;
use qcc::ir::Range;
use qcc::passes::quant::precision;
use qcc::{
    Calibration, Compiled, Corrections, Error, ImportOptions, Method, Mode, Options, RangeTable, Target, load_tuning,
    save_tuning,
};

use super::terminal;

/// How a model is compiled.
#[derive(Args)]
pub struct ModelFlags {
    /// Samples to find ranges with: .npy, .npz, image, list or folder
    #[arg(long, value_name = "SAMPLES")]
    calibrate: Option<PathBuf>,
    /// Ranges from an earlier run; samples then serve the corrections of weights and biases only
    #[arg(long, value_name = "FILE.json")]
    ranges: Option<PathBuf>,
    /// How ranges follow from samples: minmax, percentile, mse, kl, auto (of these the one with the least error, value by value)
    #[arg(long, default_value = "minmax")]
    method: Method,
    /// Without samples: synthesize inputs and see what values are like that no batch normalization tells of
    #[arg(long, alias = "draw-samples", value_enum, default_value = "on", value_name = "on|off")]
    synthesize_samples: Switch,
    /// Make the channels between two layers alike, so that one scale fits them all
    #[arg(long, value_enum, default_value = "off", value_name = "on|off")]
    equalize: Switch,
    /// Choose the integers of weights by least squares on the samples, and correct biases
    #[arg(long, value_enum, default_value = "on", value_name = "on|off")]
    round_weights: Switch,
    /// Without --round-weights or samples: correct biases by what quantization shifts the means of layers
    #[arg(long, value_enum, default_value = "on", value_name = "on|off")]
    correct_bias: Switch,
    /// Format of a value, of a layer's weights (NAME.weights), or of all: i16 for u8, i16 for weights of i8; 16 and 8 stand for both
    #[arg(long, value_name = "NAME=FORMAT[,NAME=FORMAT..]")]
    precision: Vec<String>,
    /// Declared range of an input, or of all of them
    #[arg(long, value_name = "[INPUT=]MIN:MAX", allow_hyphen_values = true)]
    input_range: Vec<String>,
    /// Where scales of activations come from: int8_static, int8_dynamic (each run's own ranges)
    #[arg(long, default_value = "int8_static")]
    mode: Mode,
    /// Passes to run instead of the usual ones, or a name: -O0, -O1, -O2, -Oq, -dynamic (list-presets says what they contain)
    #[arg(long, value_name = "PIPELINE")]
    passes: Option<String>,
    /// Choices for single layers from an earlier --tune
    #[arg(long, value_name = "FILE.json")]
    tuning: Option<PathBuf>,
    /// CPU to compile for: native, x86-64-v2, v3, v3-vnni (AVX-VNNI), v4, v4-vnni, aarch64
    #[arg(long, default_value = "native")]
    target: String,
    /// Bits of the vectors that kernels use: 128 (everything is Cranelift's), 256, widest
    #[arg(long, default_value = "widest")]
    vectors: Vectors,
    #[command(flatten)]
    shapes: ShapeFlags,
    #[command(flatten)]
    image: ImageFlags,
}

/// What of a model is read, and what it leaves open.
#[derive(Args)]
pub struct ShapeFlags {
    /// Shape of an input
    #[arg(long, value_name = "INPUT=1x3x224x224")]
    shape: Vec<String>,
    /// Extent of a symbolic dimension
    #[arg(long, value_name = "SYMBOL=NUMBER")]
    dim: Vec<String>,
    /// Values of an ONNX model at which to end, instead of its own outputs
    #[arg(long, value_name = "VALUE,..", value_delimiter = ',')]
    outputs: Vec<String>,
}

impl ShapeFlags {
    /// Tells the importer.
    pub fn apply(&self, options: &mut ImportOptions) -> Result<(), Error> {
        for text in &self.shape {
            options.shape_flag(text).map_err(|e| usage(format!("--shape: {e}")))?;
        }
        for text in &self.dim {
            options.dim_flag(text).map_err(|e| usage(format!("--dim: {e}")))?;
        }
        options.outputs.clone_from(&self.outputs);
        Ok(())
    }
}

/// Choices by measurement.
#[derive(Args)]
pub struct TuneFlags {
    /// Measure on this machine what the planner might have chosen otherwise in each layer, and keep what is faster
    #[arg(long)]
    tune: bool,
    /// Write the choices, to be given back with --tuning: they make the same model
    #[arg(long, value_name = "FILE.json")]
    save_tuning: Option<PathBuf>,
}

impl TuneFlags {
    /// Does what the flags say.
    pub fn apply(&self, compiled: &mut Compiled) -> Result<(), Error> {
        if self.tune {
            let layers = compiled.tune()?.len();
            terminal::note(&format!("tuning: {layers} layers differ from the estimates"));
        }
        match &self.save_tuning {
            Some(path) => save_tuning(&compiled.codegen_options().tuning, path),
            None => Ok(()),
        }
    }
}

/// How images become inputs: value = (pixel / SCALE - MEAN) / STD.
#[derive(Args)]
#[command(next_help_heading = "Images")]
pub struct ImageFlags {
    /// Preprocessing by name: imagenet, cifar10, tensorflow, unit, raw (list-presets says what they do); other flags override it
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// Length of the shorter side, or height x width; 0 for none
    #[arg(long, value_name = "S|HxW")]
    resize: Option<String>,
    /// Centre crop; 0 for none
    #[arg(long, value_name = "S|HxW")]
    crop: Option<String>,
    /// Divides the pixel [default: 255]
    #[arg(long, value_name = "D")]
    scale: Option<f32>,
    /// Subtracted next, one number or one for each channel [default: 0]
    #[arg(long, value_name = "A,B,C", value_delimiter = ',', allow_hyphen_values = true)]
    mean: Vec<f32>,
    /// Divides what is left [default: 1]
    #[arg(long, value_name = "A,B,C", value_delimiter = ',')]
    std: Vec<f32>,
    /// Order of the axes: nchw, nhwc [default: as the input's shape says]
    #[arg(long)]
    layout: Option<Layout>,
    /// Order of the channels: rgb, bgr [default: rgb]
    #[arg(long)]
    channel_order: Option<ChannelOrder>,
}

/// Whether something is done. Help shows the values in the name of the flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    On,
    Off,
}

/// What goes in and comes out of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Io {
    /// Real numbers
    Float,
    /// Stored integers
    Int,
}

impl From<Io> for engine::Io {
    fn from(io: Io) -> engine::Io {
        match io {
            Io::Float => engine::Io::Float,
            Io::Int => engine::Io::Int,
        }
    }
}

/// A flag that cannot be meant as it is written.
pub fn usage(message: impl Into<String>) -> Error {
    Error::new(qcc::ir::diag::Code::FLAGS, message)
}

impl ModelFlags {
    /// The options that the flags stand for.
    pub fn options(&self, threads: usize) -> Result<Options, Error> {
        let mut options = Options {
            target: Target::from_str(&self.target)?,
            calibration: self.calibrate.clone().map(Calibration::Path),
            ranges: self.ranges.as_deref().map(RangeTable::load).transpose()?,
            method: self.method,
            mode: self.mode,
            corrections: Corrections {
                synthesize_samples: self.synthesize_samples == Switch::On,
                equalize: self.equalize == Switch::On,
                round_weights: self.round_weights == Switch::On,
                correct_bias: self.correct_bias == Switch::On,
            },
            preprocess: self.image.preprocess()?,
            pipeline: self.passes.clone(),
            threads,
            tuning: self.tuning.as_deref().map(load_tuning).transpose()?.unwrap_or_default(),
            progress: terminal::progress("calibrating"),
            ..Options::default()
        };
        options.target.vectors = self.vectors;
        self.shapes.apply(&mut options.shapes)?;
        for text in &self.precision {
            precision::parse(text, &mut options.precision).map_err(|e| usage(format!("--precision: {e}")))?;
        }
        if self.mode == Mode::Int8Dynamic && !options.precision.is_empty() {
            return Err(
                usage("--precision: values whose scales are found in each run have 8 bits").help("leave `--mode` out")
            );
        }
        for text in &self.input_range {
            let (name, range) = input_range(text)?;
            options.input_ranges.insert(name, range);
        }
        Ok(options)
    }
}

/// `NAME=MIN:MAX`, or `MIN:MAX` under an empty name.
fn input_range(text: &str) -> Result<(String, Range), Error> {
    let expected = || usage(format!("--input-range: expected [INPUT=]MIN:MAX, found `{text}`"));
    let (name, ends) = text.rsplit_once('=').unwrap_or(("", text));
    let (min, max) = ends.split_once(':').ok_or_else(expected)?;
    let number = |s: &str| s.trim().parse::<f32>().map_err(|_| expected());
    let range = Range { min: number(min)?, max: number(max)? };
    if range.is_valid() { Ok((name.to_string(), range)) } else { Err(expected()) }
}

impl ImageFlags {
    /// The preprocessing, if any flag speaks of it.
    pub fn preprocess(&self) -> Result<Option<Preprocess>, Error> {
        let mut p = match &self.preset {
            Some(name) => Preprocess::preset(name).ok_or_else(|| {
                let known: Vec<_> = Preprocess::PRESETS.iter().map(|p| p.0).collect();
                usage(format!("--preset: `{name}` is none of {}", known.join(", ")))
            })?,
            None => Preprocess::default(),
        };
        let untouched = p.clone();
        if let Some(text) = &self.resize {
            p.resize = match extent("--resize", text)? {
                None => Resize::Keep,
                Some((s, t)) if text.contains('x') => Resize::Exact((s, t)),
                Some((s, _)) => Resize::Short(s),
            };
        }
        if let Some(text) = &self.crop {
            p.crop = extent("--crop", text)?;
        }
        p.scale = self.scale.unwrap_or(p.scale);
        for (given, place) in [(&self.mean, &mut p.mean), (&self.std, &mut p.std)] {
            if !given.is_empty() {
                place.clone_from(given);
            }
        }
        p.layout = self.layout.or(p.layout);
        p.order = self.channel_order.unwrap_or(p.order);
        p.check().map_err(usage)?;
        // `--scale 255` changes nothing and yet says that inputs are images.
        let speaks = self.preset.is_some() || self.scale.is_some() || p != untouched;
        Ok(speaks.then_some(p))
    }
}

/// A side or height x width; `None` for 0.
fn extent(flag: &str, text: &str) -> Result<Option<Extent>, Error> {
    let expected = || usage(format!("{flag}: expected a number of pixels or HEIGHTxWIDTH, found `{text}`"));
    let side = |s: &str| s.parse::<u32>().ok().filter(|&n| n <= 1 << 16).ok_or_else(expected);
    let (height, width) = match text.split_once('x') {
        Some((h, w)) => (side(h)?, side(w)?),
        None => (side(text)?, side(text)?),
    };
    match (height, width) {
        (0, 0) => Ok(None),
        (0, _) | (_, 0) => Err(expected()),
        both => Ok(Some(both)),
    }
}
