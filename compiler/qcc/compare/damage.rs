//! What each part of the network does to the final output, why, and what mends it.
//!
//! The effect of a part is measured by substitution: the float network is evaluated with that part alone quantized, its value
//! and its weights in turn. Such noises are small and nearly independent, so that their powers add up to that of the whole;
//! each part has a share of it. For the parts with the greatest shares it is also measured how the quantized network does with
//! that part alone left real: that is what 16 bits would give.

use std::collections::{BTreeMap, HashMap};

use qcc_ir::{Diag, Tensor};
use qcc_passes::Samples;
use rayon::prelude::*;
use serde::Serialize;

use super::cause::{Cause, Mend, of_value, of_weights};
use super::layers::Layer;
use super::mixed::{Mixed, Part, Side, Stages, Switches};
use super::noise::{Noise, worst};
use super::seen::{Seen, Shift, WeightFacts};
use super::trials::{Advice, Trials};
use crate::data::Dataset;
use crate::{Compiled, Error, Options, Source};

/// Parts for which it is measured what 16 bits would give.
const FREED: usize = 8;

/// Calls from which the facts about values are taken, however few of them are measured: a few show too little of a range.
const FACTS: usize = 32;

/// Shares of the noise below which nothing is said of a part.
const NOTABLE: f64 = 0.02;

/// What a part does to the final output.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Damage {
    /// Signal-to-noise ratio of the outputs if this part alone is quantized; `None` if that makes no noise.
    pub alone_db: Option<f64>,
    /// Its share of the noise of all parts.
    pub share: f64,
    /// The share of that which its layer's weights have.
    pub weights_share: f64,
    /// Signal-to-noise ratio of the outputs if this part alone is not quantized, on the side that does more damage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub freed_db: Option<f64>,
    /// The likely cause.
    pub cause: Cause,
    /// What mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<Advice>,
}

/// What was gathered of a part.
#[derive(Default, Clone)]
pub(crate) struct Account {
    /// Noise of the outputs with the value or the weights alone quantized.
    pub value: Vec<Noise>,
    pub weights: Vec<Noise>,
    seen: Seen,
    shift: Shift,
    /// The value itself in the quantized network.
    own: Noise,
    least_and_greatest: Option<(f32, f32)>,
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
    fn side(&self) -> Side {
        if self.power(Side::Weights) > self.power(Side::Value) { Side::Weights } else { Side::Value }
    }

    fn alone(&self) -> Option<f64> {
        let both = self.value.iter().zip(&self.weights).map(|(&a, b)| Noise { noise: a.noise + b.noise, ..a });
        worst(&both.collect::<Vec<_>>())
    }
}

/// Noise of each output of one call.
fn noises(expected: &[Tensor], found: &[Tensor]) -> Vec<Noise> {
    expected.iter().zip(found).map(|(e, f)| Noise::of(e, f)).collect()
}

/// Measures every part over the first `calls` calls.
pub(crate) fn measure(mixed: &Mixed, data: &dyn Samples, calls: usize) -> Result<Vec<Account>, Diag> {
    let none = Switches::all(mixed.parts.len(), false);
    let all = Switches::all(mixed.parts.len(), true);
    let mut accounts = vec![Account::default(); mixed.parts.len()];
    let look = |float: &[std::sync::Arc<Tensor>], p: usize, account: &mut Account| {
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
            Ok(account)
        };
        let found: Vec<Account> = (0..mixed.parts.len()).into_par_iter().map(one).collect::<Result<_, _>>()?;
        accounts.iter_mut().zip(found).for_each(|(all, one)| all.merge(one));
    }
    Ok(accounts)
}

/// Signal-to-noise ratio of the outputs of the quantized network, with each of `freed` in turn left real, and as it is.
fn free(
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
        let mut found: Vec<Vec<Noise>> = freed.par_iter().map(one).collect::<Result<_, _>>()?;
        found.push(noises(&expected, &mixed.outputs(&full)));
        for (sum, one) in sums.iter_mut().zip(found) {
            sum.resize(one.len(), Noise::default());
            sum.iter_mut().zip(one).for_each(|(a, b)| a.merge(b));
        }
    }
    let plain = sums.pop().and_then(|s| worst(&s));
    Ok((sums.iter().map(|s| worst(s)).collect(), plain))
}

/// What a report is made of.
pub struct Subject<'a> {
    /// The model, to be compiled again where mends are tried.
    pub source: &'a Source,
    /// How it was compiled.
    pub options: &'a Options,
    /// What it became.
    pub compiled: &'a Compiled,
    /// The stages on the way.
    pub stages: &'a Stages,
    /// The samples, and where they are.
    pub data: (&'a Dataset, &'a std::path::Path),
    /// Calls that are looked at.
    pub calls: usize,
    /// Whether mends are tried; by default where that takes little time.
    pub verify: bool,
}

/// Adds to each layer what it does to the output, and layers that the integer model has merged with others; the greatest damage
/// comes first. Leaves the layers as they are if the pipeline has no stages that could be compared.
pub fn damage(subject: &Subject, mut layers: Vec<Layer>) -> Result<Vec<Layer>, Error> {
    let Some(mixed) = Mixed::new(subject.stages, subject.compiled.graph())? else { return Ok(layers) };
    let (data, path) = subject.data;
    let accounts = measure(&mixed, data, subject.calls)?;
    let power = |p: usize| accounts[p].power(Side::Value) + accounts[p].power(Side::Weights);
    let total: f64 = (0..accounts.len()).map(power).sum();
    let share = |p: usize| if total > 0.0 { power(p) / total } else { 0.0 };
    let mut order: Vec<usize> = (0..accounts.len()).collect();
    order.sort_by(|&a, &b| power(b).total_cmp(&power(a)).then_with(|| mixed.parts[a].name.cmp(&mixed.parts[b].name)));
    let top: Vec<(usize, Side)> =
        order.iter().filter(|&&p| share(p) >= NOTABLE).take(FREED).map(|&p| (p, accounts[p].side())).collect();
    let (ratios, plain) = free(&mixed, data, subject.calls, &top)?;
    let freed: HashMap<usize, Option<f64>> = top.iter().map(|t| t.0).zip(ratios).collect();
    let mut tried = Trials::new(subject, mixed.work(&[]).1);
    let mut damages: BTreeMap<usize, Damage> = BTreeMap::new();
    for &p in &order {
        let (part, account) = (&mixed.parts[p], &accounts[p]);
        let side = account.side();
        let cause = match side {
            Side::Value => of_value(&account.seen, &part.ty),
            Side::Weights => {
                let parameters = mixed.layer(p).map(|l| l.1).unwrap_or_default();
                of_weights(parameters.first().and_then(|w| WeightFacts::of(w)), &account.shift)
            }
        };
        let freed_db = freed.get(&p).copied();
        let mend = match freed_db {
            Some(freed_db) => {
                tried.choose(&cause, Mend::Precision(part.name.clone(), side), (plain, freed_db), path)?
            }
            None => None,
        };
        let weights_share = account.power(Side::Weights) / power(p).max(f64::MIN_POSITIVE);
        let (alone_db, share) = (account.alone(), share(p));
        damages.insert(p, Damage { alone_db, share, weights_share, freed_db: freed_db.flatten(), cause, mend });
    }
    attach(&mixed, &accounts, damages, &mut layers);
    let key = |l: &Layer| l.damage.as_ref().map_or(-1.0, |d| d.share);
    layers.sort_by(|a, b| {
        let loss = || b.loss_db.total_cmp(&a.loss_db).then_with(|| a.name.cmp(&b.name));
        key(b).total_cmp(&key(a)).then_with(loss)
    });
    Ok(layers)
}

/// Gives each layer of the integer model the damage of its part; parts that have none become layers of their own.
fn attach(mixed: &Mixed, accounts: &[Account], mut damages: BTreeMap<usize, Damage>, layers: &mut Vec<Layer>) {
    // Of several values that stand for the same thing, what is computed first and not only moved has the damage.
    let mut homes: BTreeMap<usize, ((bool, usize), usize)> = BTreeMap::new();
    for (i, layer) in layers.iter().enumerate() {
        let Some(p) = mixed.part_of(&layer.name) else { continue };
        let names = |v: &String| {
            layer.name.strip_prefix(v.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let place = mixed.parts[p].values.iter().rposition(names).unwrap_or(0);
        let key = (layer.op.starts_with("tensor."), place);
        if homes.get(&p).is_none_or(|known| key < known.0) {
            homes.insert(p, (key, i));
        }
    }
    for (p, (_, i)) in homes {
        layers[i].damage = damages.remove(&p);
    }
    let own = |p: usize| accounts[p].own.decibels();
    for (p, damage) in damages {
        let Part { name, op, sources, ty, .. } = &mixed.parts[p];
        let before = sources.iter().filter_map(|&q| own(q)).reduce(f64::min);
        let ends = accounts[p].least_and_greatest.unwrap_or_default();
        let range = ty.uniform().map_or((f64::NEG_INFINITY, f64::INFINITY), |u| {
            let range = u.range();
            (range.min.into(), range.max.into())
        });
        layers.push(Layer {
            name: name.clone(),
            op: op.to_string(),
            sqnr_db: own(p),
            loss_db: before.zip(own(p)).map_or(0.0, |(before, own)| before - own),
            cosine: accounts[p].own.cosine(),
            float_range: (ends.0.into(), ends.1.into()),
            int_range: range,
            damage: Some(damage),
        });
    }
}
