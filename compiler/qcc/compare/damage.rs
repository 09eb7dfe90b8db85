//! What each part of the network does to the final output, why, and what helps.
//!
//! Each part has a share of the noise of all (`account`). For the parts with the greatest shares it is also measured how the quantized
//! network does with that part alone left real: that is what 16 bits would give.

use std::collections::{BTreeMap, HashMap};

use qcc_ir::Graph;

use super::account::{Account, free, measure};
use super::cause::{of_value, of_weights};
use super::mixed::{Mixed, Part, Side};
use super::remedy::Remedy;
use super::report::{Damage, LayerReport};
use super::seen::WeightFacts;
use super::subject::Subject;
use super::trials::Trials;
use crate::Error;
use crate::cost::multiply_accumulates;

/// Parts for which it is measured what 16 bits would give.
const FREED: usize = 8;

/// Shares of the noise below which nothing is said of a part.
const NOTABLE: f64 = 0.02;

/// Multiply-accumulates of all substitutions up to which more than one call is looked at unasked: minutes, for the largest networks.
const WORK: u64 = 1 << 40;

/// Calls, `most` at most, on which the damage of the layers of `graph` is measured in reasonable time. A part is substituted once for
/// its value and once for its weights, and all that follows it is evaluated again.
pub fn affordable_calls(graph: &Graph, most: usize) -> usize {
    let (mut behind, mut all) = (0u64, 0u64);
    for n in graph.order().into_iter().rev() {
        let macs = multiply_accumulates(graph, n);
        behind = behind.saturating_add(macs);
        all = all.saturating_add(if macs > 0 { behind.saturating_mul(2) } else { behind });
    }
    let calls = WORK.checked_div(all).map_or(most, |calls| usize::try_from(calls).unwrap_or(most));
    calls.min(most).max(1)
}

/// Adds to each layer what it does to the output, and layers that the integer model has merged with others; the greatest damage
/// comes first. Leaves the layers as they are if the pipeline has no stages that could be compared.
pub fn damage(subject: &Subject, mut layers: Vec<LayerReport>) -> Result<Vec<LayerReport>, Error> {
    let Some(mixed) = Mixed::new(subject.stages, subject.compiled.graph())? else { return Ok(layers) };
    let (data, path) = subject.data;
    let accounts = measure(&mixed, data, subject.calls, subject.options.progress.as_ref())?;
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
        let remedy = match freed_db {
            Some(freed_db) => {
                tried.choose(&cause, Remedy::Precision(part.name.clone(), side), (plain, freed_db), path)?
            }
            None => None,
        };
        let weights_share = account.power(Side::Weights) / power(p).max(f64::MIN_POSITIVE);
        let (alone_db, share) = (account.alone(), share(p));
        damages.insert(p, Damage { alone_db, share, weights_share, freed_db: freed_db.flatten(), cause, remedy });
    }
    attach(&mixed, &accounts, damages, &mut layers);
    let key = |l: &LayerReport| l.damage.as_ref().map_or(-1.0, |d| d.share);
    layers.sort_by(|a, b| {
        let loss = || b.loss_db.total_cmp(&a.loss_db).then_with(|| a.name.cmp(&b.name));
        key(b).total_cmp(&key(a)).then_with(loss)
    });
    Ok(layers)
}

/// Gives each layer of the integer model the damage of its part; parts that have none become layers of their own.
fn attach(mixed: &Mixed, accounts: &[Account], mut damages: BTreeMap<usize, Damage>, layers: &mut Vec<LayerReport>) {
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
        layers.push(LayerReport {
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
