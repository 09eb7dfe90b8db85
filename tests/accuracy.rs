//! What `qcc compare` says of networks that lose accuracy for a reason that is known, because they were made so.

use std::path::Path;
use std::sync::Arc;

use qcc::compare::{
    CompareOptions, Engine, LayerReport, Limit, Metric, Stages, Subject, compare, damage, layers, raise,
};
use qcc::data::Dataset;
use qcc::data::array::to_npy;
use qcc::ir::{Attrs, Builder, Graph, Opcode, Tensor, Type, ValueId};
use qcc::{Calibration, Compiled, Options, Source, compile_observed};
use tempfile::TempDir;

/// A generator of numbers that look random.
struct Random(u32);

impl Random {
    /// Between 0 and 1.
    fn unit(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 8) as f32 / (1 << 24) as f32
    }

    fn between(&mut self, lo: f32, hi: f32) -> f32 {
        lo + (hi - lo) * self.unit()
    }

    fn tensor(&mut self, dims: &[usize], lo: f32, hi: f32) -> Tensor {
        let count = dims.iter().product();
        Tensor::f32(dims, (0..count).map(|_| self.between(lo, hi)).collect())
    }
}

const CHANNELS: usize = 16;
const CLASSES: usize = 10;

/// A point-wise convolution, a rectifier, and a linear layer on the mean of each channel. Channel `c` of the rectifier is
/// `factor(c)` times as great as the others, and weighs as much less behind it.
fn network(factor: &dyn Fn(usize) -> f32) -> Graph {
    network_with(Opcode::Relu, factor)
}

/// The same with another activation.
fn network_with(activation: Opcode, factor: &dyn Fn(usize) -> f32) -> Graph {
    let mut random = Random(1);
    let mut w = random.tensor(&[CHANNELS, 3, 1, 1], -1.0, 1.0);
    let mut v = random.tensor(&[CLASSES, CHANNELS, 3, 3], -1.0, 1.0);
    let scale = |t: &mut Tensor, f: &dyn Fn(usize) -> f32| {
        let qcc::ir::Data::F32(data) = &mut t.data else { unreachable!() };
        data.iter_mut().enumerate().for_each(|(i, x)| *x *= f(i));
    };
    scale(&mut w, &|i| factor(i / 3));
    scale(&mut v, &|i| 1.0 / factor(i / 9 % CHANNELS));
    let mut graph = Graph::new("made");
    let mut builder = Builder::new(&mut graph);
    let x = builder.add_input("x", Type::f32(&[1, 3, 8, 8]));
    let (w, v) = (builder.add_const("w", w), builder.add_const("v", v));
    let mut add = |op: Opcode, operands: &[ValueId], name: &str| {
        builder.add_inferred(op, operands, Attrs::new(op), name, None).unwrap()
    };
    let conv = add(Opcode::Conv2d, &[x, w], "conv");
    let relu = add(activation, &[conv], "relu");
    let y = add(Opcode::Conv2d, &[relu, v], "y");
    builder.set_outputs(vec![y]);
    graph
}

/// Files of a test, and what is said about them.
struct Case {
    folder: TempDir,
    graph: Graph,
    options: Options,
}

impl Case {
    /// Calibrates with one set of samples, and compares with another.
    fn new(graph: Graph, calibration: &Tensor, data: &Tensor) -> Case {
        let folder = TempDir::new().unwrap();
        let file = |name: &str, t: &Tensor| std::fs::write(folder.path().join(name), to_npy(t)).unwrap();
        file("calibration.npy", calibration);
        file("data.npy", data);
        let calibration = Some(Calibration::Path(folder.path().join("calibration.npy")));
        Case { folder, graph, options: Options { calibration, threads: 2, ..Options::default() } }
    }

    fn data(&self) -> Dataset {
        Dataset::open(&self.folder.path().join("data.npy"), &self.graph, None).unwrap()
    }

    fn compile(&self) -> (Compiled, Stages) {
        let mut stages = Stages::default();
        let compiled = compile_observed(self.graph.clone(), &self.options, &mut |e| stages.observe(e)).unwrap();
        (compiled, stages)
    }

    fn report(&self) -> Vec<LayerReport> {
        let ((compiled, stages), data) = (self.compile(), self.data());
        let path = self.folder.path().join("data.npy");
        let source = Source::from(self.graph.clone());
        let subject = Subject {
            source: &source,
            options: &self.options,
            compiled: &compiled,
            stages: &stages,
            data: (&data, Path::new(&path)),
            calls: 4,
            verify: true,
        };
        damage(&subject, layers(&compiled, &data, 4).unwrap()).unwrap()
    }

    /// The ratio over all samples.
    fn ratio(&self) -> f64 {
        let (compiled, _) = self.compile();
        let engine = Engine::of_graph(compiled.graph());
        compare(&compiled, &engine, &self.data(), &CompareOptions::default()).unwrap().sqnr_db.unwrap()
    }
}

/// The layer with the greatest damage: its name, the kind of the cause, the text, and the flag that was tried.
fn first(layers: &[LayerReport]) -> (String, &'static str, String, Option<String>) {
    let damage = layers[0].damage.as_ref().expect("the stages were observed");
    assert!(damage.remedy.iter().all(|m| m.verified), "{damage:?}");
    (
        layers[0].name.clone(),
        damage.cause.kind,
        damage.cause.text.clone(),
        damage.remedy.as_ref().map(|m| m.flag.clone()),
    )
}

fn images(count: usize, greatest: f32) -> Tensor {
    Random(7).tensor(&[count, 3, 8, 8], 0.0, greatest)
}

#[test]
fn an_outlier_channel_is_named() {
    let case = Case::new(network(&|c| if c == 5 { 40.0 } else { 1.0 }), &images(16, 1.0), &images(8, 1.0));
    let layers = case.report();
    let (name, kind, text, flag) = first(&layers);
    assert!(name.starts_with("conv") || name.starts_with("relu"), "{name}");
    assert_eq!((kind, flag.as_deref()), ("outlier-channel", Some("--equalize on")), "{text}");
    assert!(text.contains("channel 5 "), "{text}");
    let remedy = layers[0].damage.as_ref().and_then(|d| d.remedy.clone()).unwrap();
    assert!(remedy.sqnr_db.unwrap() > case.ratio() + 6.0, "{remedy:?}");
}

#[test]
fn a_clipped_range_is_named() {
    let case = Case::new(network(&|_| 1.0), &images(16, 0.2), &images(8, 1.0));
    let (name, kind, text, flag) = first(&case.report());
    assert_eq!(kind, "clipped", "{name}: {text}");
    let wanted = format!("--calibrate {}", case.folder.path().join("data.npy").display());
    assert_eq!(flag, Some(wanted), "{text}");
}

/// A row of the range table that is edited to a quarter of what is seen cuts off three quarters of it.
#[test]
fn a_row_of_the_range_table_that_clips_is_named() {
    let mut case = Case::new(network(&|_| 1.0), &images(16, 1.0), &images(8, 1.0));
    let mut table = case.compile().0.ranges().expect("it was calibrated").clone();
    for name in ["conv", "relu"] {
        let row = table.values.get_mut(name).expect("it has a range");
        (row.min, row.max) = (row.min / 4.0, row.max / 4.0);
        (row.seen_min, row.seen_max) = (None, None);
    }
    case.options.ranges = Some(table);
    let layers = case.report();
    let (name, kind, text, flag) = first(&layers);
    assert!(kind == "clipped" && (name.starts_with("conv") || name.starts_with("relu")), "{name}: {text}");
    // Nothing but the table, which is given, says how far a value reaches: of all flags only 16 bits reach further.
    assert!(flag.is_none_or(|f| f == "--precision conv=16"), "{text}");
}

/// Nearly all of what a threshold lets through is zero. What is called a remedy is one on all samples.
#[test]
fn a_value_that_is_mostly_zero_is_named() {
    let case = Case::new(network_with(Opcode::ThresholdedRelu, &|_| 1.0), &images(16, 1.0), &images(8, 1.0));
    let layers = case.report();
    let damage = |name: &str| layers.iter().find(|l| l.name.starts_with(name)).and_then(|l| l.damage.as_ref()).unwrap();
    assert_eq!(damage("relu").cause.kind, "zero-heavy", "{:?}", damage("relu"));
    for remedy in layers.iter().filter_map(|l| l.damage.as_ref()).filter_map(|d| d.remedy.as_ref()) {
        assert!(remedy.verified && remedy.sqnr_db > remedy.instead_of_db, "{remedy:?}");
        assert!((remedy.instead_of_db.unwrap() - case.ratio()).abs() < 1e-6, "{remedy:?}");
    }
}

/// A hard swish is 0 for all that lies below -3: that the range ends there harms nobody.
#[test]
fn what_no_reader_depends_on_is_not_clipped() {
    let case = Case::new(network_with(Opcode::HardSwish, &|_| 8.0), &images(16, 1.0), &images(8, 1.0));
    let layers = case.report();
    let conv = layers.iter().find(|l| l.name == "conv").expect("the convolution is a layer");
    let damage = conv.damage.as_ref().expect("it is rounded");
    assert!(conv.float_range.0 < -6.0 && conv.int_range.0 > -3.1, "{conv:?}");
    assert_ne!(damage.cause.kind, "clipped", "{damage:?}");
}

#[test]
fn a_range_that_is_too_wide_is_named() {
    // One bright value among those that ranges are found with: one in 122 880, which is beyond the quantiles.
    let mut calibration = images(640, 1.0);
    let qcc::ir::Data::F32(values) = &mut calibration.data else { unreachable!() };
    values[0] = 60.0;
    let case = Case::new(network(&|_| 1.0), &calibration, &images(8, 1.0));
    let (name, kind, text, flag) = first(&case.report());
    assert_eq!((name.as_str(), kind), ("x", "few-codes"), "{text}");
    assert_eq!(flag.as_deref(), Some("--method percentile"), "{text}");
}

#[test]
fn a_shift_of_the_bias_is_named() {
    // Inputs that are nearly constant: the errors of the weights add up to a constant.
    let bright = |count| Random(3).tensor(&[count, 3, 8, 8], 0.95, 1.0);
    let mut case = Case::new(network(&|_| 1.0), &bright(16), &bright(8));
    case.options.corrections.round_weights = false;
    case.options.corrections.correct_bias = false;
    let layers = case.report();
    let weights =
        layers.iter().filter_map(|l| l.damage.as_ref()).find(|d| d.weights_share > 0.5).expect("weights do damage");
    assert_eq!(weights.cause.kind, "bias-shift", "{weights:?}");
    assert_eq!(weights.remedy.as_ref().map(|m| m.flag.as_str()), Some("--round-weights on"), "{weights:?}");
}

/// The noises of the parts, measured one at a time, add up to that of the whole.
#[test]
fn shares_add_up_to_the_noise_of_the_output() {
    let case = Case::new(network(&|c| 1.0 + c as f32 / 4.0), &images(16, 1.0), &images(8, 1.0));
    let layers = case.report();
    let parts: Vec<_> = layers.iter().filter_map(|l| l.damage.as_ref()).collect();
    assert!((parts.iter().map(|d| d.share).sum::<f64>() - 1.0).abs() < 1e-9);
    let power: f64 = parts.iter().filter_map(|d| d.alone_db).map(|db| 10f64.powf(-db / 10.0)).sum();
    let (sum, whole) = (-10.0 * power.log10(), case.ratio());
    assert!((sum - whole).abs() < 2.0, "{sum} dB of the parts, {whole} dB of the whole");
}

/// Precision is raised until the limit holds, for no more than it takes; and what is out of reach is refused.
#[test]
fn precision_is_raised_up_to_the_limit() {
    let case = Case::new(network(&|c| if c == 5 { 40.0 } else { 1.0 }), &images(16, 1.0), &images(8, 1.0));
    let source = Source::from(case.graph.clone());
    let (plain, data) = (case.ratio(), case.data());
    let search =
        |metric, drop| raise(&source, &case.options, Limit { metric, drop }, &data, &CompareOptions::default());
    let found = search(Metric::Sqnr, plain + 6.0).unwrap();
    let names: Vec<&str> = found.raised.iter().map(|r| r.name.as_str()).collect();
    assert!(names.iter().any(|n| *n == "conv" || *n == "relu"), "{names:?}");
    assert!(found.result.sqnr_db.unwrap() >= plain + 6.0 && found.work > 0.0 && found.work <= 1.0, "{names:?}");
    // The flags that are printed give the same model.
    let again = Case { options: found.options.clone(), ..case };
    assert!((again.ratio() - found.result.sqnr_db.unwrap()).abs() < 1e-9);
    assert!(qcc::ir::print(again.compile().0.graph()) == qcc::ir::print(found.compiled.graph()));
    let case = again;
    let search =
        |metric, drop| raise(&source, &case.options, Limit { metric, drop }, &data, &CompareOptions::default());
    assert!(search(Metric::Sqnr, 1.0).unwrap().raised.is_empty());
    let fault = search(Metric::Sqnr, 300.0).err().unwrap();
    assert!(fault.to_string().contains("the best is SQNR"), "{fault}");
    // Convolutions have no row of scores: nothing to agree upon.
    let fault = search(Metric::Agreement, 0.5).err().unwrap();
    assert!(fault.to_string().contains("no output is a row of scores"), "{fault}");
}

/// Samples from memory serve as those from files do.
#[test]
fn samples_in_memory_are_measured_too() {
    let mut case = Case::new(network(&|_| 1.0), &images(4, 1.0), &images(4, 1.0));
    let samples: Vec<Vec<Tensor>> = (0..4).map(|_| vec![images(1, 1.0)]).collect();
    case.options.calibration = Some(Calibration::Samples(Arc::new(samples)));
    case.options.measure_passes = true;
    let mut effects = Vec::new();
    compile_observed(case.graph.clone(), &case.options, &mut |event| {
        if let qcc::Event::Pass { step, effect } = event {
            effects.push((step.info.name, effect.expect("there are samples").against_model));
        }
    })
    .unwrap();
    let of = |name: &str| effects.iter().find(|e| e.0 == name).and_then(|e| e.1);
    assert_eq!(of("calibrate"), None);
    assert!(of("assign-scales").is_some_and(|r| (20.0..70.0).contains(&r)), "{effects:?}");
    assert!(of("check-integer-only").is_some_and(|r| (20.0..70.0).contains(&r)), "{effects:?}");
}
