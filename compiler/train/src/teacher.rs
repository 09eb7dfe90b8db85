//! What a training learns from beside labels: another network's scores.

use qcc_interp::Evaluator;
use qcc_ir::diag::Code;
use qcc_ir::{Builder, Data, Diag, Graph, Tensor};

use crate::loss::Target;
use crate::network::Network;
use crate::scores::scores_of;
use crate::trainer::{Sample, Trainer};

/// The network that is learned from.
pub struct Teacher {
    fixed: Evaluator,
    joint: Option<Joint>,
}

/// A teacher in integers, which is trained too.
struct Joint {
    trainer: Trainer,
    start: Network,
}

impl Teacher {
    /// A network of real numbers; of classifiers the scores before the softmax are taken.
    pub fn new(graph: &Graph) -> Teacher {
        let mut graph = graph.clone();
        end_before_softmax(&mut graph);
        Teacher { fixed: Evaluator::new(&graph), joint: None }
    }

    /// The same network learns too, from labels: each step of the student has the scores that it gives then. Held-out samples are
    /// compared with it as it was.
    #[must_use]
    pub fn joined(self, trainer: Trainer) -> Teacher {
        let start = trainer.network().clone();
        Teacher { joint: Some(Joint { trainer, start }), ..self }
    }

    /// What it says of a sample, as it was at first.
    pub fn target(&self, inputs: &[Tensor]) -> Result<Target, Diag> {
        let numbers = |t: Tensor| match t.data {
            Data::F32(v) => Ok(v),
            _ => Err(Diag::new(
                Code::UNSUPPORTED,
                "the network has an output of integers, from which nothing can be learned",
            )),
        };
        self.fixed.run(inputs)?.into_iter().map(numbers).collect()
    }

    /// Whether it says the same of a sample at every step.
    pub(crate) fn is_fixed(&self) -> bool {
        self.joint.is_none()
    }

    /// The trainer of one that learns too.
    pub(crate) fn trainer(&self) -> Option<&Trainer> {
        self.joint.as_ref().map(|j| &j.trainer)
    }

    /// See [`Teacher::trainer`].
    pub(crate) fn trainer_mut(&mut self) -> Option<&mut Trainer> {
        self.joint.as_mut().map(|j| &mut j.trainer)
    }

    /// Bytes that a step of its own takes.
    pub fn memory(&self) -> usize {
        self.trainer().map_or(0, Trainer::memory)
    }

    /// Begins anew, as if it had learned nothing.
    pub fn begin(&mut self) -> Result<(), Diag> {
        match &mut self.joint {
            Some(joint) => joint.trainer.begin(joint.start.clone()),
            None => Ok(()),
        }
    }

    /// Gives the samples of a step the scores that it has of them, and makes a step itself.
    pub(crate) fn learn(&mut self, batch: &mut [(Sample, Target)]) -> Result<(), Diag> {
        let Some(trainer) = self.trainer_mut() else { return Ok(()) };
        let scores = trainer.scores(batch)?;
        batch.iter_mut().zip(scores).for_each(|((_, target), scores)| *target = scores);
        trainer.train(batch).map(|_| ())
    }
}

/// Makes scores of outputs that are their softmax.
pub(crate) fn end_before_softmax(graph: &mut Graph) {
    let outputs = graph.outputs().iter().map(|&v| scores_of(graph, v)).collect();
    let mut builder = Builder::new(graph);
    builder.set_outputs(outputs);
    builder.remove_dead();
}
