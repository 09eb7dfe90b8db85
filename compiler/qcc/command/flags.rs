//! Flags that several commands share.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Args, ValueEnum};
use qcc::codegen::target::Vectors;
use qcc::data::{ChannelOrder, Extent, Layout, Preprocess, Resize};
use qcc::engine;
use qcc::ir::Range;
use qcc::ir::format::{self, Role};
use qcc::passes::Precision;
use qcc::passes::quant::precision;
use qcc::{
    Calibration, Compiled, Corrections, Error, ImportOptions, Method, Mode, Options, Overall, RangeTable, Target,
    load_tuning, save_tuning,
};

use super::budget::BudgetFlags;
use super::{progress, terminal};

/// How a model is compiled.
#[derive(Args)]
pub struct ModelFlags {
    #[command(flatten)]
    ranges: RangeFlags,
    #[command(flatten)]
    precision: PrecisionFlags,
    #[command(flatten)]
    read: ShapeFlags,
    #[command(flatten)]
    code: CodeFlags,
    #[command(flatten)]
    image: ImageFlags,
}

/// Where ranges of values come from.
#[derive(Args)]
#[command(next_help_heading = "Samples and ranges")]
struct RangeFlags {
    /// Samples to find ranges with: .npy, .npz, image, list or folder
    #[arg(long, value_name = "SAMPLES")]
    calibrate: Option<PathBuf>,
    /// Take at most so many of these samples, spread evenly over all [default: of 64 and more all but each sixteenth, which serves to
    /// judge the result]
    #[arg(long, value_name = "N")]
    samples: Option<usize>,
    /// Ranges from an earlier run; samples then serve the corrections of weights and biases only
    #[arg(long, value_name = "FILE.json")]
    ranges: Option<PathBuf>,
    /// How ranges follow from samples: minmax, percentile, mse, kl, auto (of these the one with the least error, value by value)
    /// [default: minmax]
    #[arg(long)]
    method: Option<Method>,
    /// Declared range of an input, or of all of them
    #[arg(long, value_name = "[INPUT=]MIN:MAX", allow_hyphen_values = true)]
    input_range: Vec<String>,
    /// Without samples: synthesize inputs and see what values are like that no batch normalization tells of [default: on]
    #[arg(long, alias = "draw-samples", value_enum, value_name = "on|off")]
    synthesize_samples: Option<Switch>,
}

/// How integers stand for real numbers.
#[derive(Args)]
#[command(next_help_heading = "Precision")]
struct PrecisionFlags {
    #[arg(long, value_name = "FORMAT", help = weights_help())]
    weights: Option<String>,
    /// Format of all values: 4 (operands of layers, but for those above; sums and functions keep 8), 8, 16 [default: 8, and 16 where 8
    /// are known to be too few]
    #[arg(long, value_name = "4|8|16")]
    activations: Option<String>,
    /// Format of a value (u8, i16, u4), of a layer's weights (NAME.weights: i8, i16, i7 to i3), or of all (all, all.weights); numbers of
    /// bits stand for them
    #[arg(long, value_name = "NAME=FORMAT[,NAME=FORMAT..]")]
    precision: Vec<String>,
    /// An output that is fed back as an input of the next call: both have one scale. Pairs such as state and stateN, or h0 and hn, are
    /// known by their names
    #[arg(long, value_name = "INPUT=OUTPUT")]
    state: Vec<String>,
    /// Where scales of activations come from: int8_static, int8_dynamic (each run's own ranges)
    #[arg(long, default_value = "int8_static")]
    mode: Mode,
    /// Make the channels between two layers alike, so that one scale fits them all [default: off]
    #[arg(long, value_enum, value_name = "on|off")]
    equalize: Option<Switch>,
    /// Choose the integers of weights by least squares on the samples, and correct biases [default: on]
    #[arg(long, value_enum, value_name = "on|off")]
    round_weights: Option<Switch>,
    /// Without --round-weights or samples: correct biases by what quantization shifts the means of layers [default: on]
    #[arg(long, value_enum, value_name = "on|off")]
    correct_bias: Option<Switch>,
    /// Passes to run instead of the usual ones, or a name: -O0, -O1, -O2, -Oq, -dynamic (list-presets says what they contain)
    #[arg(long, value_name = "PIPELINE")]
    passes: Option<String>,
}

/// How a model is read.
#[derive(Args)]
#[command(next_help_heading = "Reading the model")]
pub struct ShapeFlags {
    /// Shape of an input
    #[arg(long, value_name = "INPUT=1x3x224x224")]
    shape: Vec<String>,
    /// Extent of a symbolic dimension
    #[arg(long, value_name = "SYMBOL=NUMBER")]
    dim: Vec<String>,
    /// Value of an input that is always the same; the model has no such input then
    #[arg(long, value_name = "INPUT=NUMBER[,NUMBER..]", allow_hyphen_values = true)]
    bind: Vec<String>,
    /// Values of an ONNX model at which to end, instead of its own outputs
    #[arg(long, value_name = "VALUE,..", value_delimiter = ',')]
    outputs: Vec<String>,
    #[command(flatten)]
    budget: BudgetFlags,
}

/// What machine code is made for.
#[derive(Args)]
#[command(next_help_heading = "Machine code")]
struct CodeFlags {
    /// CPU to compile for: native, x86-64-v2, v3, v3-vnni (AVX-VNNI), v4, v4-vnni, aarch64 [default: native]
    #[arg(long)]
    target: Option<String>,
    /// Bits of the vectors that kernels use: 128 (everything is Cranelift's), 256, widest [default: widest]
    #[arg(long)]
    vectors: Option<Vectors>,
    /// Choices for single layers from an earlier --tune
    #[arg(long, value_name = "FILE.json")]
    tuning: Option<PathBuf>,
}

/// Choices by measurement.
#[derive(Args)]
#[command(next_help_heading = "Machine code")]
pub struct TuneFlags {
    /// Measure on this machine what the planner might have chosen otherwise in each layer, and keep what is faster
    #[arg(long)]
    tune: bool,
    /// Write the choices, to be given back with --tuning: they make the same model
    #[arg(long, value_name = "FILE.json")]
    save_tuning: Option<PathBuf>,
}

impl TuneFlags {
    /// Whether choices are measured.
    pub fn is_on(&self) -> bool {
        self.tune
    }

    /// The file that is written.
    pub fn file(&self) -> Option<&Path> {
        self.save_tuning.as_deref()
    }

    /// Does what the flags say.
    pub fn apply(&self, compiled: &mut Compiled) -> Result<(), Error> {
        if self.tune {
            progress::report("tune", 0, 0);
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
    #[arg(long, value_name = "NAME", help = presets())]
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

/// What `--weights` does.
fn weights_help() -> String {
    let formats: Vec<&str> = format::rows(Role::Weights).map(|row| row.alias.unwrap_or(row.name)).collect();
    format!(
        "Format of all weights: {}. Below 7 bits the first and the last layers, depthwise and small ones keep 8, unless they are named \
         (--precision NAME.weights=..) [default: 8]",
        formats.join(", ")
    )
}

/// What a flag says of all values or weights.
fn overall(flag: &str, text: Option<&str>, role: Role) -> Result<Option<Precision>, Error> {
    let known = |text: &str| {
        let found = Precision::named(text).filter(|precision| precision.format(role).is_some());
        found.ok_or_else(|| usage(format!("{flag}: `{text}` is none of {}", precision::names(role))))
    };
    text.map(known).transpose()
}

/// The presets and what they contain.
fn presets() -> String {
    let known: Vec<String> = Preprocess::PRESETS.iter().map(|(name, text)| format!("{name} ({text})")).collect();
    format!("Preprocessing by name, of which other flags override a part: {}", known.join("; "))
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
    /// The preprocessing of images: what a model records, with what flags say in its place. `None` if neither speaks of it.
    pub fn preprocess(&self, recorded: Option<Preprocess>) -> Result<Option<Preprocess>, Error> {
        self.image.preprocess(recorded)
    }

    /// Whether scales are found in each run.
    pub fn is_dynamic(&self) -> bool {
        self.precision.mode == Mode::Int8Dynamic
    }

    /// The files that are read, each with what it is.
    pub fn files(&self) -> Vec<(&'static str, &Path)> {
        let all = [
            ("the samples", &self.ranges.calibrate),
            ("the table of ranges", &self.ranges.ranges),
            ("the choices for layers", &self.code.tuning),
        ];
        all.into_iter().filter_map(|(what, path)| Some((what, path.as_deref()?))).collect()
    }

    /// Warns of flags that change nothing, since the model has its machine code already.
    pub fn warn_compiled(&self) {
        warn_idle(&self.given(&Group::ALL), "the model is compiled already");
    }

    /// Warns of flags that change nothing where no machine code is made.
    pub fn warn_no_code(&self, what: &str) {
        warn_idle(&self.given(&[Group::Code]), &format!("{what} holds no machine code"));
    }

    /// Warns of flags that change nothing where a model is only read.
    pub fn warn_not_compiled(&self) {
        warn_idle(&self.given(&[Group::Ranges, Group::Precision, Group::Code]), "nothing is compiled");
    }

    /// Warns of flags that change nothing where ranges are found.
    pub fn warn_not_ranges(&self) {
        let none = "only ranges are found here";
        let idle = self.given(&[Group::Precision, Group::Code]);
        warn_idle(
            &idle.into_iter().filter(|f| !["--passes", "--mode", "--equalize"].contains(f)).collect::<Vec<_>>(),
            none,
        );
    }

    /// Warns of flags that change nothing for a graph in text form.
    pub fn warn_text(&self) {
        warn_idle(&self.given(&[Group::Read]), "a .qir file says these itself");
    }

    /// Warns of flags that change nothing beside the others.
    pub fn warn(&self) {
        let (r, p) = (&self.ranges, &self.precision);
        if self.is_dynamic() {
            let mut idle = self.given(&[Group::Ranges]);
            idle.extend(self.corrections());
            return warn_idle(&idle, "--mode int8_dynamic finds scales in each run");
        }
        if p.passes.is_some() {
            warn_idle(&self.corrections(), "--passes says which passes run");
        }
        match (&r.calibrate, &r.ranges) {
            (Some(_), None) => {
                let idle: Vec<_> = r.synthesize_samples.map(|_| "--synthesize-samples").into_iter().collect();
                warn_idle(&idle, "there are samples");
            }
            (_, Some(_)) => {
                let all = [r.method.map(|_| "--method"), r.synthesize_samples.map(|_| "--synthesize-samples")];
                warn_idle(&all.into_iter().flatten().collect::<Vec<_>>(), "--ranges has the ranges");
            }
            (None, None) => {
                let all = [
                    r.samples.map(|_| "--samples"),
                    r.method.map(|_| "--method"),
                    p.equalize.filter(|&on| on == Switch::On).map(|_| "--equalize"),
                    p.round_weights.map(|_| "--round-weights"),
                ];
                warn_idle(&all.into_iter().flatten().collect::<Vec<_>>(), "there are no samples (--calibrate)");
            }
        }
    }

    /// Flags of corrections that are given.
    fn corrections(&self) -> Vec<&'static str> {
        let (r, p) = (&self.ranges, &self.precision);
        let all = [
            ("--synthesize-samples", r.synthesize_samples),
            ("--equalize", p.equalize),
            ("--round-weights", p.round_weights),
            ("--correct-bias", p.correct_bias),
        ];
        all.into_iter().filter(|(_, given)| given.is_some()).map(|(name, _)| name).collect()
    }

    /// Flags of some groups that are given.
    fn given(&self, groups: &[Group]) -> Vec<&'static str> {
        let (r, p, m, c) = (&self.ranges, &self.precision, &self.read, &self.code);
        let all = [
            (Group::Ranges, "--calibrate", r.calibrate.is_some()),
            (Group::Ranges, "--ranges", r.ranges.is_some()),
            (Group::Ranges, "--method", r.method.is_some()),
            (Group::Ranges, "--input-range", !r.input_range.is_empty()),
            (Group::Precision, "--synthesize-samples", r.synthesize_samples.is_some()),
            (Group::Precision, "--precision", !p.precision.is_empty()),
            (Group::Precision, "--weights", p.weights.is_some()),
            (Group::Precision, "--activations", p.activations.is_some()),
            (Group::Precision, "--state", !p.state.is_empty()),
            (Group::Precision, "--mode", p.mode != Mode::default()),
            (Group::Precision, "--equalize", p.equalize.is_some()),
            (Group::Precision, "--round-weights", p.round_weights.is_some()),
            (Group::Precision, "--correct-bias", p.correct_bias.is_some()),
            (Group::Precision, "--passes", p.passes.is_some()),
            (Group::Read, "--shape", !m.shape.is_empty()),
            (Group::Read, "--dim", !m.dim.is_empty()),
            (Group::Read, "--bind", !m.bind.is_empty()),
            (Group::Read, "--outputs", !m.outputs.is_empty()),
            (Group::Code, "--target", c.target.is_some()),
            (Group::Code, "--vectors", c.vectors.is_some()),
            (Group::Code, "--tuning", c.tuning.is_some()),
        ];
        all.into_iter().filter(|(group, _, given)| *given && groups.contains(group)).map(|(_, name, _)| name).collect()
    }

    /// The options that the flags stand for.
    pub fn options(&self, threads: usize) -> Result<Options, Error> {
        let (r, p, c) = (&self.ranges, &self.precision, &self.code);
        let on = |switch: Option<Switch>, default: bool| switch.map_or(default, |s| s == Switch::On);
        let usual = Corrections::default();
        let mut options = Options {
            target: c.target.as_deref().map_or_else(|| Ok(Target::native()), Target::from_str)?,
            calibration: r.calibrate.clone().map(Calibration::Path),
            samples: r.samples,
            ranges: r.ranges.as_deref().map(RangeTable::load).transpose()?,
            method: r.method.unwrap_or_default(),
            mode: p.mode,
            corrections: Corrections {
                synthesize_samples: on(r.synthesize_samples, usual.synthesize_samples),
                equalize: on(p.equalize, usual.equalize),
                round_weights: on(p.round_weights, usual.round_weights),
                correct_bias: on(p.correct_bias, usual.correct_bias),
            },
            preprocess: self.image.preprocess(None)?,
            pipeline: p.passes.clone(),
            threads,
            tuning: c.tuning.as_deref().map(load_tuning).transpose()?.unwrap_or_default(),
            progress: progress::progress(),
            ..Options::default()
        };
        options.target.vectors = c.vectors.unwrap_or(options.target.vectors);
        self.read.apply(&mut options.shapes)?;
        for text in &p.precision {
            precision::parse(text, &mut options.precision).map_err(|e| usage(format!("--precision: {e}")))?;
        }
        options.overall = Overall {
            weights: overall("--weights", p.weights.as_deref(), Role::Weights)?,
            activations: overall("--activations", p.activations.as_deref(), Role::Values)?,
        };
        let flags = self.given(&[Group::Precision]).into_iter();
        let flag = flags.into_iter().find(|f| ["--precision", "--weights", "--activations"].contains(f));
        if let Some(flag) = flag.filter(|_| self.is_dynamic()) {
            let message = format!("{flag}: where scales are found in each run, values and weights have 8 bits");
            return Err(usage(message).help("leave `--mode` out"));
        }
        for text in &p.state {
            let expected = || usage(format!("--state: expected INPUT=OUTPUT, found `{text}`"));
            let (input, output) = text.split_once('=').ok_or_else(expected)?;
            options.states.push((input.to_string(), output.to_string()));
        }
        for text in &r.input_range {
            let (name, range) = input_range(text)?;
            options.input_ranges.insert(name, range);
        }
        if r.samples == Some(0) {
            return Err(usage("--samples: 0 samples are none").help("leave --calibrate out"));
        }
        Ok(options)
    }
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
        for text in &self.bind {
            options.bind_flag(text).map_err(|e| usage(format!("--bind: {e}")))?;
        }
        options.outputs.clone_from(&self.outputs);
        options.budget = self.budget.budget();
        Ok(())
    }
}

/// What flags are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Group {
    Ranges,
    Precision,
    Read,
    Code,
}

impl Group {
    const ALL: [Group; 4] = [Group::Ranges, Group::Precision, Group::Read, Group::Code];
}

/// Says which flags change nothing, and why.
pub fn warn_idle(flags: &[&str], why: &str) {
    if !flags.is_empty() {
        terminal::warn(&format!("{} changes nothing here: {why}", flags.join(", ")));
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
    /// The preprocessing, if any flag speaks of it or a model records one. A preset takes the place of all that is recorded, other
    /// flags that of a part.
    pub fn preprocess(&self, recorded: Option<Preprocess>) -> Result<Option<Preprocess>, Error> {
        let mut p = match &self.preset {
            Some(name) => Preprocess::preset(name).ok_or_else(|| {
                let known: Vec<_> = Preprocess::PRESETS.iter().map(|p| p.0).collect();
                usage(format!("--preset: `{name}` is none of {}", known.join(", ")))
            })?,
            None => recorded.clone().unwrap_or_default(),
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
        let speaks = recorded.is_some() || self.preset.is_some() || self.scale.is_some() || p != untouched;
        Ok(speaks.then_some(p))
    }
}

/// A number of threads. Each takes memory and time of its own, before it does anything.
pub fn threads(text: &str) -> Result<usize, String> {
    const MOST: usize = 1024;
    let number: Option<usize> = text.parse().ok();
    number
        .filter(|&n| n <= MOST)
        .ok_or_else(|| format!("expected a number of threads up to {MOST}, or 0 for one a core"))
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
