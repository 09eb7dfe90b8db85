//! What each part of the network does to the final output, measured by substitution: the float network is evaluated with that part
//! alone quantized, its value and its weights in turn. Such noises are small and nearly independent, so that their powers add
//! up to that of the whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use qcc_interp::in_order;
use qcc_ir::{Diag, Tensor};
use qcc_passes::Samples;
use qcc_passes::context::Progress;
use rayon::prelude::*;

use super::mixed::{Mixed, Side, Switches};
use super::noise::{Noise, worst};
use super::seen::{Seen, Shift};

/// Calls from which the facts about values are taken, however few of them are measured: a few show too little of a range.
const FACTS: usize = 32;

/// What was gathered of a part.
#[derive(Default, Clone)]
pub(crate) struct Account {
    /// Noise of the outputs with the value or the weights alone quantized.
    pub value: Vec<Noise>,
    pub weights: Vec<Noise>,
    pub seen: Seen,
    pub shift: Shift,
    /// The value itself in the quantized network.
    pub own: Noise,
    pub least_and_greatest: Option<(f32, f32)>,
}

impl Account {
    fn merge(&mut self, o: Account) {
        let add = |all: &mut Vec<Noise>, one: &[Noise]| {
            all.resize(all.len().max(one.len()), Noise::default());
            all.iter_mut().zip(one).for_each(|(a, &b)| a.merge(b));
        };
        add(&mut self.value, &o.value);
        add(&mut self.weights, &o.weights);
        self.seen.merge(&o.seen);
        self.shift.merge(&o.shift);
        self.own.merge(o.own);
        let union = |a: (f32, f32), b: (f32, f32)| (a.0.min(b.0), a.1.max(b.1));
        self.least_and_greatest = match (self.least_and_greatest, o.least_and_greatest) {
            (Some(a), Some(b)) => Some(union(a, b)),
            (a, b) => a.or(b),
        };
    }

    /// Noise in the outputs, relative to their power, on one side.
    pub fn power(&self, side: Side) -> f64 {
        let noise = match side {
            Side::Value => &self.value,
            Side::Weights => &self.weights,
        };
        noise.iter().filter(|n| n.signal > 0.0).map(|n| (n.noise / n.signal).min(1e30)).sum()
    }

    /// The side that does more damage.
    pub fn side(&self) -> Side {
        if self.power(Side::Weights) > self.power(Side::Value) { Side::Weights } else { Side::Value }
    }

    pub fn alone(&self) -> Option<f64> {
        let both = self.value.iter().zip(&self.weights).map(|(&a, b)| Noise { noise: a.noise + b.noise, ..a });
        worst(&both.collect::<Vec<_>>())
    }
}

/// Noise of each output of one call.
fn noises(expected: &[Tensor], found: &[Tensor]) -> Vec<Noise> {
    expected.iter().zip(found).map(|(e, f)| Noise::of(e, f)).collect()
}

/// Measures every part over the first `calls` calls.
pub(crate) fn measure(
    mixed: &Mixed,
    data: &dyn Samples,
    calls: usize,
    progress: Option<&Progress>,
) -> Result<Vec<Account>, Diag> {
    let (done, total) = (AtomicUsize::new(0), mixed.parts.len() * data.len().min(calls));
    let none = Switches::all(mixed.parts.len(), false);
    let all = Switches::all(mixed.parts.len(), true);
    let mut accounts = vec![Account::default(); mixed.parts.len()];
    let look = |float: &[Arc<Tensor>], p: usize, account: &mut Account| {
        let part = &mixed.parts[p];
        let values = float[part.slot].as_f32().unwrap_or_default();
        let ends = values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |e, &x| (e.0.min(x), e.1.max(x)));
        account.least_and_greatest = Some(ends).filter(|e| e.0 <= e.1);
        if part.is_rounded {
            // Nothing is lost where those that read it do not depend on it.
            let told = mixed.told(p, &float[part.slot]);
            account.seen.observe(told.as_ref().unwrap_or(&float[part.slot]), &part.ty);
        }
    };
    for i in 0..data.len().min(calls.max(FACTS)) {
        let inputs = data.get(i)?;
        let float = mixed.run(&inputs, &none)?;
        if i >= calls {
            accounts.par_iter_mut().enumerate().for_each(|(p, all)| {
                let mut account = Account::default();
                look(&float, p, &mut account);
                all.merge(account);
            });
            continue;
        }
        let full = mixed.run(&inputs, &all)?;
        let expected = mixed.outputs(&float);
        let one = |p: usize| -> Result<Account, Diag> {
            let part = &mixed.parts[p];
            let mut account = Account { value: noises(&expected, &expected), ..Account::default() };
            account.weights.clone_from(&account.value);
            if part.is_rounded {
                let (outputs, _) = mixed.rerun(&float, (&none, &none.clone().with(p, Side::Value, true)), None)?;
                account.value = noises(&expected, &outputs);
            }
            if let Some((slot, _)) = mixed.layer(p) {
                let on = none.clone().with(p, Side::Weights, true);
                let (outputs, rounded) = mixed.rerun(&float, (&none, &on), Some(slot))?;
                account.weights = noises(&expected, &outputs);
                rounded.iter().for_each(|r| account.shift.observe(&float[slot], r));
            }
            account.own = Noise::of(&float[part.slot], &full[part.rounded_slot]);
            look(&float, p, &mut account);
            if let Some(progress) = progress {
                progress("damage", done.fetch_add(1, Ordering::Relaxed) + 1, total);
            }
            Ok(account)
        };
        let found = in_order(0..mixed.parts.len(), one)?;
        accounts.iter_mut().zip(found).for_each(|(all, one)| all.merge(one));
    }
    Ok(accounts)
}

/// Signal-to-noise ratio of the outputs of the quantized network, with each of `freed` in turn left real, and as it is.
pub(crate) fn free(
    mixed: &Mixed,
    data: &dyn Samples,
    calls: usize,
    freed: &[(usize, Side)],
) -> Result<(Vec<Option<f64>>, Option<f64>), Diag> {
    let none = Switches::all(mixed.parts.len(), false);
    let all = Switches::all(mixed.parts.len(), true);
    // The last is that of the network as it is.
    let mut sums: Vec<Vec<Noise>> = vec![Vec::new(); freed.len() + 1];
    for i in 0..data.len().min(calls) {
        let inputs = data.get(i)?;
        let (expected, full) = (mixed.outputs(&mixed.run(&inputs, &none)?), mixed.run(&inputs, &all)?);
        let one = |&(p, side): &(usize, Side)| -> Result<Vec<Noise>, Diag> {
            let (outputs, _) = mixed.rerun(&full, (&all, &all.clone().with(p, side, false)), None)?;
            Ok(noises(&expected, &outputs))
        };
        let mut found = in_order(freed, one)?;
        found.push(noises(&expected, &mixed.outputs(&full)));
        for (sum, one) in sums.iter_mut().zip(found) {
            sum.resize(one.len(), Noise::default());
            sum.iter_mut().zip(one).for_each(|(a, b)| a.merge(b));
        }
    }
    let plain = sums.pop().and_then(|s| worst(&s));
    Ok((sums.iter().map(|s| worst(s)).collect(), plain))
}
