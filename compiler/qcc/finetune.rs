//! Fine-tuning: from a model and samples to an integer model whose parameters were trained.
//!
//! The model is compiled as without training; its graph on quantized types is what training begins with, and the passes behind it make integers of
//! that graph in every step. The float model is the teacher.

use std::path::Path;

use qcc_ir::diag::Code;
use qcc_ir::{Diag, Graph};
use qcc_passes::Samples as _;
use qcc_train::{Material, Network, Outcome, Plan, Sample, Settings, Teacher, Trainer, Watch, Weights};
use sha2::{Digest as _, Sha256};

use crate::compare::classes;
use crate::compile::{Compiled, compile, model_digest};
use crate::data::{Dataset, Layout};
use crate::{Error, Options, Source};

pub use qcc_train as train;

/// Who teaches.
#[derive(Clone, Default)]
pub enum Teaches {
    /// The float model itself.
    #[default]
    Itself,
    /// Another float model, with the same inputs and outputs.
    Other(Source),
    /// The same, and it learns too, with 8 bits, from labels.
    Jointly(Source),
}

/// A training that can begin.
pub struct Finetune {
    compiled: Compiled,
    data: Dataset,
    teacher: Teacher,
    teacher_graph: Graph,
    trainer: Trainer,
    /// The network before training, where several begin with it.
    start: Option<Network>,
    plan: Plan,
    settings: Settings,
    digest: [u8; 32],
}

impl Finetune {
    /// Compiles the model and makes it ready to be trained with the samples of a dataset.
    pub fn new(
        source: impl Into<Source>,
        options: &Options,
        data: Dataset,
        plan: Plan,
        settings: Settings,
        teaches: Teaches,
    ) -> Result<Finetune, Error> {
        let source = source.into();
        qcc_train::check_count(data.len())?;
        let compiled = compile(&source, options)?;
        let (Some(quantized), false) = (&compiled.quantized, compiled.source_is_quantized()) else {
            let diag = Diag::new(Code::UNSUPPORTED, "only float models with static scales can be fine-tuned");
            return Err(diag.help("give the float model, and leave --mode and --passes out").into());
        };
        if data.labels().is_some() && data.batch() > 1 {
            let message = format!("labels for a model that takes {} samples at once", data.batch());
            return Err(Error::new(Code::DATA, message).help("give a model that takes one sample: --shape or --dim"));
        }
        let network = Network::new(quantized, &lowering(&compiled))?;
        let teacher = match &teaches {
            Teaches::Other(source) | Teaches::Jointly(source) => other_teacher(source, options, &compiled.source)?,
            Teaches::Itself => compiled.source.clone(),
        };
        let joint_too = matches!(teaches, Teaches::Jointly(_));
        if joint_too && data.labels().is_none() {
            let error = Error::new(Code::FLAGS, "scheme a: the teacher learns from labels, and there are none");
            return Err(error.help("add labels, or take scheme b"));
        }
        let digest = digest(&compiled, (&teacher, joint_too), &data, &plan, &settings)?;
        let (teacher_graph, trainer) = (teacher, Trainer::new(network, settings)?);
        check_labels(data.labels(), trainer.classes())?;
        let start = plan.measures.then(|| trainer.network().clone());
        let mut teacher = Teacher::new(&teacher_graph);
        if let Teaches::Jointly(source) = teaches {
            teacher = teacher.joined(joint(&source, options, settings)?);
        }
        Ok(Finetune { compiled, data, teacher, teacher_graph, trainer, start, plan, settings, digest })
    }

    /// The training before it begins: how much memory it takes, and what it gives now.
    pub fn trainer(&self) -> &Trainer {
        &self.trainer
    }

    /// Bytes that a step takes: see [`Trainer::memory`].
    pub fn memory(&self) -> usize {
        self.trainer.memory() + self.teacher.memory()
    }

    /// The model as it was compiled before training.
    pub fn compiled(&self) -> &Compiled {
        &self.compiled
    }

    /// Writes the files from which PyTorch trains into a folder: `train.py`, and what it reads.
    pub fn write_external(self, folder: &Path) -> Result<(), Error> {
        let (plan, settings) = (&self.plan, &self.settings);
        if plan.from_scratch {
            let message =
                "--emit-trainer: train.py begins with the calibrated weights and a teacher that stays as it is";
            return Err(Error::new(Code::FLAGS, message).help("use --scheme c, or train here"));
        }
        let files = qcc_train::external::files(&self.trainer, &self.teacher_graph, &self.images(), plan, settings)?;
        let compiled = self.compiled.trained(self.trainer.network())?;
        std::fs::create_dir_all(folder).map_err(|e| Error::file(folder, "make the folder", e))?;
        // First what may be refused.
        compiled.write_onnx_qdq(folder.join("model.onnx"), false)?;
        files.iter().try_for_each(|(name, bytes)| crate::files::write(&folder.join(name), bytes))
    }

    /// For each input whether its channels come last; `None` if it is no image.
    fn images(&self) -> Vec<Option<bool>> {
        let layout = |ty| self.data.preprocessing().layout_of(ty).map(|layout| layout == Layout::Nhwc);
        let inputs = self.compiled.source.inputs();
        inputs.iter().map(|&v| layout(self.compiled.source.ty(v))).collect()
    }

    /// Trains, from the beginning or from the bytes of a checkpoint.
    pub fn run(&mut self, resumed: Option<&[u8]>, watch: &mut dyn Watch) -> Result<Outcome, Error> {
        self.run_part(0, resumed, watch)
    }

    /// The same with a part of the samples, which are halved so often: a point of a learning curve.
    pub fn run_part(&mut self, halvings: u32, resumed: Option<&[u8]>, watch: &mut dyn Watch) -> Result<Outcome, Error> {
        let images = self.images();
        let (data, labels) = (&self.data, self.data.labels());
        let get = |i: usize| Ok(Sample { inputs: data.get(i)?, label: labels.and_then(|l| l.get(i)).copied() });
        let material = Material { count: data.len(), get: &get, images };
        let plan = Plan { halvings, ..self.plan };
        let mut digest = self.digest;
        digest.iter_mut().zip(halvings.to_le_bytes()).for_each(|(d, h)| *d ^= h);
        if let Some(start) = &self.start {
            self.trainer.begin(start.clone())?;
            self.teacher.begin()?;
        }
        Ok(qcc_train::run(&mut self.trainer, &mut self.teacher, &material, plan, resumed, digest, watch)?)
    }

    /// The compiled model with the parameters of a network that came out.
    pub fn finish(self, network: &Network) -> Result<Compiled, Error> {
        self.compiled.trained(network)
    }
}

/// The passes that ran behind `fuse`.
fn lowering(compiled: &Compiled) -> String {
    let passes = compiled.report.passes.iter().map(|p| p.text.as_str());
    let behind: Vec<&str> = passes.skip_while(|p| !p.starts_with("fuse") || p.starts_with("fuse-")).skip(1).collect();
    behind.join(", ")
}

/// Another network that teaches one: it reads and gives the same.
fn other_teacher(source: &Source, options: &Options, student: &Graph) -> Result<Graph, Error> {
    let teacher = source.load(options)?;
    let types = |g: &Graph, values: &[qcc_ir::ValueId]| values.iter().map(|&v| g.ty(v).to_string()).collect::<Vec<_>>();
    let of = |g: &Graph| (types(g, g.inputs()), types(g, g.outputs()));
    let (found, wanted) = (of(&teacher), of(student));
    if found == wanted {
        return Ok(teacher);
    }
    let text = |(x, y): &(Vec<String>, Vec<String>)| format!("{} to {}", x.join(", "), y.join(", "));
    let message = format!("the teacher goes from {}, and the model from {}", text(&found), text(&wanted));
    let diag = Diag::new(Code::BAD_SHAPE, message).in_file(source.file_name());
    Err(diag.help("a teacher has the inputs and outputs of the model").into())
}

/// The trainer of a teacher that learns too: the model with 8 bits, which labels alone teach.
fn joint(source: &Source, options: &Options, settings: Settings) -> Result<Trainer, Error> {
    let (overall, precision) = Default::default();
    let options = Options { overall, precision, ranges: None, name: None, ..options.clone() };
    let compiled = compile(source, &options)?;
    let Some(quantized) = compiled.quantized.as_ref().filter(|_| !compiled.source_is_quantized()) else {
        let diag = Diag::new(Code::UNSUPPORTED, "only a float model can learn as the teacher does");
        return Err(diag.in_file(source.file_name()).help("give another teacher, or another scheme").into());
    };
    let weights = Weights { teacher: 0.0, labels: 1.0, ..settings.weights };
    let network = Network::new(quantized, &lowering(&compiled))?;
    Ok(Trainer::new(network, Settings { weights, ..settings })?)
}

/// Digest of what is trained, with what, and how.
fn digest(
    compiled: &Compiled,
    (teacher, learns): (&Graph, bool),
    data: &Dataset,
    plan: &Plan,
    settings: &Settings,
) -> Result<[u8; 32], Diag> {
    let mut hash = Sha256::new();
    hash.update(compiled.options.hash);
    hash.update(model_digest(teacher, ""));
    hash.update([u8::from(learns)]);
    // Threads change nothing, nor does what is measured.
    let (settings, plan) = (Settings { threads: 0, ..*settings }, Plan { measures: false, ..*plan });
    hash.update(format!("{plan:?} {settings:?} {} {:?}", data.len(), data.labels()).as_bytes());
    // Some of the samples stand for all: they may be too many to be read for this.
    for i in [0, data.len() / 2, data.len().saturating_sub(1)].into_iter().filter(|&i| i < data.len()) {
        data.get(i)?.iter().for_each(|tensor| hash.update(tensor.data.to_bytes()));
    }
    Ok(hash.finalize().into())
}

/// Refuses labels that name no class of the network.
fn check_labels(labels: Option<&[i64]>, classes: Option<usize>) -> Result<(), Error> {
    let Some(labels) = labels else { return Ok(()) };
    let Some(classes) = classes else {
        let message = "labels for a network without an output of scores, one for each class";
        return Err(Error::new(Code::DATA, message).help("leave labels out: the float network teaches"));
    };
    classes::check_labels(labels, 0, classes).map_err(|e| e.help("give labels that count as the network's outputs do"))
}

/// Writes a checkpoint.
pub fn write_checkpoint(path: &Path, state: &qcc_train::Checkpoint) -> Result<(), Error> {
    crate::files::write(path, &state.to_bytes())
}
