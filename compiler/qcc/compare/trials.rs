//! A remedy is tried before it is called one.
//!
//! The model is compiled again with the flag and compared on the same samples. Corrections fit every layer anew, so that any
//! change moves the output a little, for the better or the worse: a remedy must lower the noise by [`GAIN`] decibels, and by more than the
//! samples leave in doubt.

use std::collections::HashMap;
use std::path::Path;

use qcc_passes::Samples as _;

use super::cause::Cause;
use super::comparison::{CompareOptions, least, noises};
use super::interval;
use super::metrics::Difference;
use super::noise::Noise;
use super::remedy::{Remedy, remedies};
use super::report::Advice;
use super::subject::Subject;
use crate::engine::Engine;
use crate::{Compiled, Error, Options, compile};

/// Remedies that are tried at most.
const TRIED: usize = 8;

/// Calls on which they are, if there are so many: more than layers are looked at, since a few do not tell a gain from chance. Small
/// models are compared on more, as many as take [`WORK`] multiply-accumulates.
const CALLS: usize = 64;

/// See [`CALLS`].
const WORK: u64 = 16_000_000_000;

/// Decibels that a remedy must gain to be called one.
const GAIN: f64 = 0.1;

/// Multiply-accumulates of a calibration up to which remedies are tried unasked.
pub const VERIFIED_UNASKED: u64 = 4_000_000_000;

/// Remedies that have been tried: the ratio that each reached, if it gains.
pub(super) struct Trials<'a> {
    subject: &'a Subject<'a>,
    enabled: bool,
    calls: usize,
    reached: HashMap<String, Option<f64>>,
    /// The noise without any, once it is known.
    plain: Option<Vec<Vec<Noise>>>,
}

impl<'a> Trials<'a> {
    /// For a model that takes so many multiply-accumulates a call.
    pub(super) fn new(subject: &'a Subject<'a>, macs: u64) -> Trials<'a> {
        let samples = match &subject.options.calibration {
            Some(crate::Calibration::Samples(samples)) => samples.len(),
            // Where ranges come from the model, the remedy is to calibrate with the samples compared.
            Some(crate::Calibration::Path(_)) | None => subject.data.0.len(),
        };
        let small = macs.saturating_mul(samples as u64) <= VERIFIED_UNASKED;
        let calls = usize::try_from(WORK / macs.max(1)).unwrap_or(usize::MAX).max(CALLS).max(subject.calls);
        Trials { subject, enabled: subject.verify || small, calls, reached: HashMap::new(), plain: None }
    }

    /// The best of what may help against a cause; `precise` is expected to bring the ratio from the first to the second of `expected`.
    pub(super) fn choose(
        &mut self,
        cause: &Cause,
        precise: Remedy,
        expected: (Option<f64>, Option<f64>),
        path: &Path,
    ) -> Result<Option<Advice>, Error> {
        let candidates = remedies(cause, self.subject.options, path);
        let ratio = |r: Option<f64>| r.unwrap_or(f64::INFINITY);
        if !self.enabled {
            let untried =
                |remedy: &Remedy| Advice { flag: remedy.flag(), sqnr_db: None, instead_of_db: None, verified: false };
            let (from, to) = (ratio(expected.0), ratio(expected.1));
            // Where real numbers would bring nothing, nothing else will.
            let gains = to >= from + GAIN;
            return Ok(gains.then(|| match candidates.first() {
                Some(remedy) => untried(remedy),
                None => Advice { sqnr_db: Some(to), instead_of_db: Some(from), ..untried(&precise) },
            }));
        }
        if self.plain.is_none() {
            self.plain = Some(self.noises(self.subject.options)?);
        }
        let mut best: Option<(Remedy, f64)> = None;
        for remedy in candidates.into_iter().chain([precise]) {
            // What costs no time when the model runs comes before what does.
            let costly = matches!(remedy, Remedy::Precision(..));
            if costly && best.is_some() {
                break;
            }
            let Some(reached) = self.reach(&remedy) else { continue };
            if best.as_ref().is_none_or(|b| reached > b.1) {
                best = Some((remedy, reached));
            }
        }
        let instead_of_db = self.plain.as_deref().and_then(least).map(|(_, db)| db);
        let advice = |(remedy, db): (Remedy, f64)| Advice {
            flag: remedy.flag(),
            sqnr_db: Some(db),
            instead_of_db,
            verified: true,
        };
        Ok(best.map(advice))
    }

    /// The ratio with a remedy; `None` if it gains nothing, if the model does not compile with it, or if enough were tried.
    fn reach(&mut self, remedy: &Remedy) -> Option<f64> {
        let flag = remedy.flag();
        if let Some(known) = self.reached.get(&flag) {
            return *known;
        }
        if self.reached.len() >= TRIED {
            return None;
        }
        let found = self.noises(&remedy.apply(self.subject.options)).ok();
        let reached = found.as_deref().zip(self.plain.as_deref()).and_then(|(found, plain)| gained(plain, found));
        self.reached.insert(flag, reached);
        reached
    }

    fn noises(&self, options: &Options) -> Result<Vec<Vec<Noise>>, Error> {
        // Its own stages would say nothing of what it is for.
        if let Some(progress) = &options.progress {
            progress("remedies", self.reached.len(), TRIED);
        }
        let options = &Options { progress: None, measure_passes: false, watched: None, ..options.clone() };
        let compiled: Compiled = compile(self.subject.source.clone(), options)?;
        let engine = Engine::measuring(&compiled)?;
        let limits = CompareOptions { threads: options.threads, calls: Some(self.calls), ..Default::default() };
        noises(&compiled, &engine, self.subject.data.0, &limits)
    }
}

/// The ratio of `found` if that is better than `plain` by more than chance.
fn gained(plain: &[Vec<Noise>], found: &[Vec<Noise>]) -> Option<f64> {
    let ((worst, from), (_, to)) = (least(plain)?, least(found)?);
    let (before, after) = (&plain[worst], found.get(worst)?);
    // Where a few calls have most of the noise, that they have less of it tells little of others: more calls must win than lose.
    let count = |which: fn(f64, f64) -> bool| before.iter().zip(after).filter(|(a, b)| which(a.noise, b.noise)).count();
    let (lost, won) = (count(|a, b| b > a), count(|a, b| b < a));
    let beyond_doubt = match interval::gain(before, after) {
        Some(gain) => gain.low > 0.0 && Difference::paired(before.len(), lost, won).low > 0.0,
        // Of a single call, or of no noise, nothing more is known.
        None => true,
    };
    (to >= from + GAIN && beyond_doubt).then_some(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gain_by_chance_is_none() {
        let calls = |noise: &[f64]| -> Vec<Vec<Noise>> {
            vec![noise.iter().map(|&noise| Noise { signal: 1.0, noise, power: 1.0 }).collect()]
        };
        let plain = calls(&[0.01, 0.02, 0.03, 0.02]);
        // Half of the noise in every call; half of it by one call alone; here less and there more; and a hundredth less.
        assert!(gained(&plain, &calls(&[0.005, 0.01, 0.015, 0.01])).is_some());
        assert_eq!(gained(&calls(&[0.01, 0.01, 0.01, 1.0]), &calls(&[0.011, 0.011, 0.011, 0.1])), None);
        assert_eq!(gained(&plain, &calls(&[0.02, 0.01, 0.005, 0.035])), None);
        assert_eq!(gained(&plain, &calls(&[0.0099, 0.0198, 0.0297, 0.0198])), None);
        assert_eq!(gained(&plain, &plain), None);
    }
}
