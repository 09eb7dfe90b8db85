//! Real networks, trained for some steps at several precisions: the codes of the trainer's last forward pass are those of the interpreter, of the JIT of every
//! target that runs here, and of the shared object.

mod optional;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use optional::Missing;
use qcc::data::{Dataset, Preprocess};
use qcc::finetune::train::{
    Augment, Checkpoint, Event, Plan, Rates, Rule, Sample, Scheme, Settings, Trainer, Watch, Weights,
};
use qcc::finetune::{Finetune, Teaches};
use qcc::ir::{Data, Diag, Tensor};
use qcc::{
    Calibration, Compiled, Corrections, Model, Options, Overall, Precision, Samples as _, Source, Target, TensorRef,
};

/// Samples that calibrate, and are learned from.
const SAMPLES: usize = 12;

/// A network of `../shared`, samples for it, and how they become inputs.
struct Subject {
    model: &'static str,
    samples: &'static str,
    preprocess: fn(&mut Preprocess),
}

const SUBJECTS: &[Subject] = &[
    Subject { model: "cifar10_resnet20", samples: "cifar10/calib512.png", preprocess: imagenet },
    Subject { model: "mlperftiny_resnet8_cifar10", samples: "cifar10/calib512.png", preprocess: |p| p.scale = 1.0 },
    Subject {
        model: "mlperftiny_vww_mobilenetv1_025_96",
        samples: "imagenet/calib",
        preprocess: |p| p.resize = qcc::data::Resize::Exact((96, 96)),
    },
    Subject {
        model: "mobilenet_v1_0.75_224",
        samples: "imagenet/calib",
        preprocess: |p| {
            (p.scale, p.mean, p.crop) = (127.5, vec![1.0], Some((224, 224)));
        },
    },
];

fn imagenet(p: &mut Preprocess) {
    (p.mean, p.std) = (vec![0.485, 0.456, 0.406], vec![0.229, 0.224, 0.225]);
}

struct Nobody;

impl Watch for Nobody {
    fn event(&mut self, _event: &Event) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn checkpoint(&mut self, _state: &dyn Fn() -> Checkpoint, _ends: bool) -> Result<(), Diag> {
        Ok(())
    }
}

/// A model's integer outputs.
fn integers(model: &Model, inputs: &[Tensor]) -> Vec<Vec<u8>> {
    let inputs: Vec<TensorRef> = inputs.iter().map(|t| TensorRef::new(&t.dims, t.as_u8().expect("bytes"))).collect();
    let mut session = model.session();
    session.run(&inputs).expect("the model runs").iter().map(|t| t.bytes().to_vec()).collect()
}

fn check(subject: &Subject, root: &Path, bits: [&str; 2]) {
    let what = format!("{}, w{}a{}", subject.model, bits[0], bits[1]);
    let model = root.join(format!("models/{}.onnx", subject.model));
    let mut preprocess = Preprocess::default();
    (subject.preprocess)(&mut preprocess);
    let samples: PathBuf = root.join(subject.samples);
    let options = Options {
        calibration: Some(Calibration::Path(samples.clone())),
        samples: Some(SAMPLES),
        overall: Overall { weights: Precision::named(bits[0]), activations: Precision::named(bits[1]) },
        corrections: Corrections { round_weights: false, ..Corrections::default() },
        preprocess: Some(preprocess.clone()),
        ..Options::default()
    };
    let float = Source::from(model.as_path()).load(&options).unwrap_or_else(|e| panic!("{what}: {e}"));
    let data = || {
        let all = Dataset::open(&samples, &float, Some(&preprocess)).unwrap_or_else(|e| panic!("{what}: {e}"));
        all.only((0..SAMPLES).collect())
    };
    let plan = Plan {
        epochs: 1,
        batch: 4,
        seed: 1,
        augment: Augment::default(),
        patience: 0,
        scheme: Scheme::Rounding,
        halvings: 0,
        measures: false,
        from_scratch: false,
    };
    let settings = Settings {
        rule: Rule::Adam,
        rates: Rates { weights: 5e-3, scales: 5e-3 },
        weights: Weights::default(),
        reals: false,
        threads: 0,
    };
    let mut training = Finetune::new(model.as_path(), &options, data(), plan, settings, Teaches::Itself)
        .unwrap_or_else(|e| panic!("{what}: {e}"));
    let outcome = training.run(None, &mut Nobody).unwrap_or_else(|e| panic!("{what}: {e}"));
    let compiled = training.finish(&outcome.last).unwrap_or_else(|e| panic!("{what}: {e}"));
    let trainer = Trainer::new(outcome.last, settings).unwrap_or_else(|e| panic!("{what}: {e}"));
    let samples: Vec<Sample> =
        (0..4).map(|i| Sample { inputs: data().get(i).expect("a sample"), label: None }).collect();
    compare(&compiled, &trainer, &samples, &what);
    println!("{what}: {} outputs agree", samples.len());
}

fn compare(compiled: &Compiled, trainer: &Trainer, samples: &[Sample], what: &str) {
    let graph = compiled.graph();
    let found = trainer.outputs(samples).unwrap_or_else(|e| panic!("{what}: {e}"));
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("model.so");
    compiled.write_so(&path).unwrap_or_else(|e| panic!("{what}: {e}"));
    let mut engines = vec![("shared object".to_string(), Model::load(&path).expect("it was just written"))];
    for target in Target::all_runnable() {
        let options = qcc::codegen::Options { target, ..compiled.codegen_options().clone() };
        let jit = qcc::codegen::emit::jit::compile(graph, &options).unwrap_or_else(|e| panic!("{what}, {target}: {e}"));
        engines.push((format!("JIT {target}"), jit.model));
    }
    for (sample, found) in samples.iter().zip(&found) {
        let codes = |(&v, t): (&qcc::ir::ValueId, &Tensor)| {
            let u = graph.ty(v).uniform().expect("inputs are quantized");
            let codes = t.as_f32().expect("floats").iter().map(|&x| u.format.quantize(x, u.scale(), u.zero_point()));
            Tensor::new(&t.dims, Data::integers(u.storage(), codes))
        };
        let inputs: Vec<Tensor> = graph.inputs().iter().zip(&sample.inputs).map(codes).collect();
        let found: Vec<Vec<u8>> = found.iter().map(Data::to_bytes).collect();
        let interpreted = compiled.interpreter().run(&inputs).unwrap_or_else(|e| panic!("{what}: {e}"));
        let interpreted: Vec<Vec<u8>> = interpreted.iter().map(|t| t.data.to_bytes()).collect();
        assert!(found == interpreted, "{what}: the interpreter has other codes than the trainer");
        for (name, model) in &engines {
            assert!(found == integers(model, &inputs), "{what}: {name} has other codes than the trainer");
        }
    }
}

fn training_computes_what_is_deployed() -> Result<(), Missing> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    if !root.join("models").is_dir() {
        return Err(Missing("no ../shared".into()));
    }
    for subject in SUBJECTS {
        for bits in [["8", "8"], ["4", "8"], ["4", "4"]] {
            check(subject, &root, bits);
        }
    }
    Ok(())
}

fn training_elsewhere_computes_what_is_deployed() -> Result<(), Missing> {
    optional::python("external_training.py", &[])
}

fn main() -> std::process::ExitCode {
    optional::main(&[
        ("training_computes_what_is_deployed", training_computes_what_is_deployed),
        ("training_elsewhere_computes_what_is_deployed", training_elsewhere_computes_what_is_deployed),
    ])
}
