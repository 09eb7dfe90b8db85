//! How much of a limit a model uses up, compared with the model of 8 bits on the same samples.

use std::sync::atomic::{AtomicUsize, Ordering};

use qcc_interp::{Evaluator, Threads};
use qcc_ir::{Graph, Tensor};
use qcc_passes::Samples as _;
use rayon::prelude::*;

use super::super::classes::Classes;
use super::super::comparison::{CompareOptions, Comparison, compare};
use super::super::metrics::{Difference, Metric};
use super::super::raise::Limit;
use super::scores::{Reference, Scored, rows};
use crate::data::Dataset;
use crate::engine::{Engine, Io, Runner};
use crate::float_interface::Boundary;
use crate::{Compiled, Error};

/// Samples, and what the float model says of them.
pub(super) struct Judge<'a> {
    limit: Limit,
    data: &'a Dataset,
    how: &'a CompareOptions,
    reference: Option<(Reference, usize)>,
}

/// What a model gives on the samples of a [`Judge`].
pub(super) enum Figures {
    Scored(Scored),
    Compared(Box<Comparison>),
}

/// A model beside that of 8 bits.
#[derive(Debug, Clone, Copy)]
pub struct Loss {
    /// What is lost, in the units of the limit: points below 8 bits, decibels that are kept, or a cosine's distance from 1.
    pub lost: f64,
    /// The counted difference of shares, if shares are compared.
    pub counted: Option<Difference>,
    /// The share of the limit that is used up; up to 1 it holds.
    pub used: f64,
}

impl<'a> Judge<'a> {
    /// Evaluates the float model on the samples, if shares of right samples are compared.
    pub(super) fn new(
        model: &Graph,
        limit: Limit,
        data: &'a Dataset,
        how: &'a CompareOptions,
    ) -> Result<Judge<'a>, Error> {
        let mut judge = Judge { limit, data, how, reference: None };
        let labels = match limit.metric {
            Metric::Top1 => data.labels().map(|labels| labels.iter().map(|l| l + how.label_offset).collect::<Vec<_>>()),
            Metric::Agreement => None,
            Metric::Top5 | Metric::Sqnr | Metric::Cosine => return Ok(judge),
        };
        if let Ok(Classes::Scores(output)) = Classes::of(model, data.batch()) {
            let meaning: Vec<Boundary> = model.outputs().iter().map(|&v| Boundary::of_type(model.ty(v))).collect();
            let float = Evaluator::new(model);
            let scores = |(): &mut (), inputs: &[Tensor]| Ok(meaning[output].real(&float.run(inputs)?[output]));
            let all = judge.each("float model", || (), scores)?;
            judge.reference = Some((Reference::new(all.into_iter(), labels.as_deref()), output));
        }
        Ok(judge)
    }

    /// One row of scores for each sample.
    fn each<S>(
        &self,
        what: &str,
        state: impl Fn() -> S + Sync + Send,
        one: impl Fn(&mut S, &[Tensor]) -> Result<Tensor, Error> + Sync + Send,
    ) -> Result<Vec<Vec<f64>>, Error> {
        let (calls, done) = (self.data.len(), AtomicUsize::new(0));
        let call = |state: &mut S, i: usize| -> Result<Vec<Vec<f64>>, Error> {
            let found = rows(&one(state, &self.data.get(i)?)?, self.data.batch());
            if let Some(progress) = &self.how.progress {
                progress(what, done.fetch_add(1, Ordering::Relaxed) + 1, calls);
            }
            Ok(found)
        };
        let all: Result<Vec<Vec<Vec<f64>>>, Error> = Threads::start(self.how.threads)?
            .run(|| (0..calls).into_par_iter().map_init(&state, |state, i| call(state, i)).collect());
        Ok(all?.into_iter().flatten().collect())
    }

    /// Runs a model.
    pub(super) fn figures(&self, compiled: &Compiled) -> Result<Figures, Error> {
        let engine = Engine::measuring(compiled)?;
        let Some((reference, output)) = &self.reference else {
            return Ok(Figures::Compared(Box::new(compare(compiled, &engine, self.data, self.how)?)));
        };
        let source = compiled.source();
        let meaning: Vec<Boundary> = source.inputs().iter().map(|&v| Boundary::of_type(source.ty(v))).collect();
        let run = |runner: &mut Runner<'_>, inputs: &[Tensor]| -> Result<Tensor, Error> {
            let inputs: Vec<Tensor> = inputs.iter().zip(&meaning).map(|(t, b)| b.real(t)).collect();
            Ok(runner.run(&inputs, Io::Float)?.swap_remove(*output))
        };
        let all = self.each("compare", || engine.runner(), run)?;
        Ok(Figures::Scored(reference.judge(&all)))
    }

    /// What a model loses beside that of 8 bits.
    pub(super) fn loss(&self, base: &Figures, model: &Figures) -> Result<Loss, Error> {
        let drop = self.limit.drop;
        let of_drop = |lost: f64| match (lost <= 0.0, drop > 0.0) {
            (true, _) => 0.0,
            (false, true) => lost / drop,
            (false, false) => f64::INFINITY,
        };
        Ok(match (base, model) {
            (Figures::Scored(base), Figures::Scored(model)) => {
                let lost = 100.0 * (base.expected - model.expected);
                let pairs = || base.right.iter().zip(&model.right);
                let counted = Difference::paired(
                    base.right.len(),
                    pairs().filter(|(b, m)| **b && !**m).count(),
                    pairs().filter(|(b, m)| !**b && **m).count(),
                );
                // What is counted has the last word where it leaves no doubt.
                let at_least = -100.0 * counted.high;
                Loss { lost, counted: Some(counted), used: of_drop(lost).max(of_drop(at_least)) }
            }
            (Figures::Compared(base), Figures::Compared(model)) => {
                let (before, lost) = (self.limit.lost(base)?, self.limit.lost(model)?);
                let used = match self.limit.metric {
                    // Noise against the noise that is allowed.
                    Metric::Sqnr => 10f64.powf((drop - lost) / 10.0),
                    Metric::Cosine => of_drop(lost),
                    Metric::Top1 | Metric::Top5 | Metric::Agreement => of_drop(lost - before),
                };
                let absolute = matches!(self.limit.metric, Metric::Sqnr | Metric::Cosine);
                Loss { lost: if absolute { lost } else { lost - before }, counted: None, used }
            }
            (Figures::Scored(_), Figures::Compared(_)) | (Figures::Compared(_), Figures::Scored(_)) => {
                unreachable!("a judge has one kind of figures")
            }
        })
    }
}
