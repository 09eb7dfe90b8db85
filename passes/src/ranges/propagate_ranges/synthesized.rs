//! What synthesized samples showed, in place of what follows from the operands.

use std::collections::{HashMap, HashSet};

use qcc_ir::ops::Norm;
use qcc_ir::{Class, Graph, NodeId, ValueId};
use qcc_num::convert::nearest_f32;

use super::Analysis;
use crate::layer::is_layer;
use crate::ranges::moments::{Channel, Interval, Stats, image};

/// What was seen on a few synthesized samples is widened by this factor about its mean.
const WIDER: f64 = 1.4;

/// The same behind the last layer. Networks hardly answer to noise: their scores for what they were trained with lie further out,
/// and where two are clipped nothing tells which is greater.
const WIDER_SCORES: f64 = 3.0;

/// A function whose results are less than this has a bound: `moments` takes 1e30 for infinity.
const BOUNDED: f64 = 1e20;

impl Analysis<'_> {
    /// What was seen of the result of `n` on synthesized samples takes the place of what follows from the operands.
    pub(super) fn observe_synthesized(&mut self, n: NodeId, stats: &mut Stats) {
        let Some(channels) = self.synthesized.values.get(self.g.name_of(self.g.result(n))) else { return };
        self.seen += 1;
        let seen = Stats { hard: stats.hard, channels: channels.clone() };
        let all = *seen.collapsed().channel(0);
        let wider = if self.leading.contains(&self.g.result(n)) { WIDER } else { WIDER_SCORES };
        let further = |end: f64| all.mean + wider * (end - all.mean);
        let soft = Interval::new(further(all.soft.lo), further(all.soft.hi));
        // What bounds its results does so whatever was seen.
        let bounded = if let Class::Unary(f) = self.g.op(n).info().class {
            let attrs = &self.g.node(n).attrs;
            let certain = image(Interval::ALL, &|x| f64::from(f(attrs, nearest_f32(x))));
            certain.lo > -BOUNDED && certain.hi < BOUNDED
        } else {
            false
        };
        let soft = if bounded { stats.soft() } else { soft };
        let channels = channels.iter().map(|c| Channel { soft, ..*c }).collect();
        *stats = Stats { hard: stats.hard, channels }.bounded();
    }

    /// Means of the channels of what layers read.
    pub(super) fn channel_means(&self) -> HashMap<String, Vec<f64>> {
        let layers = self.g.order().into_iter().filter(|&n| is_layer(self.g.op(n)));
        let read = layers.map(|n| self.g.operands(n)[0]);
        let means = |v: ValueId| Some(self.stats.get(&v)?.channels.iter().map(|c| c.mean).collect());
        read.filter_map(|v| Some((self.g.name_of(v).to_string(), means(v)?))).collect()
    }
}

/// Values that a layer or a normalization reads, or what is made of them.
pub(super) fn leading(g: &Graph) -> HashSet<ValueId> {
    let mut found = HashSet::new();
    for n in g.order().into_iter().rev() {
        let leads = match g.op(n).info().class {
            Class::Contract(_) | Class::Norm(Norm::Batch | Norm::Layer) => true,
            Class::Unary(_)
            | Class::Binary(_)
            | Class::Norm(Norm::Softmax)
            | Class::Pool(_)
            | Class::Reduce(_)
            | Class::Move(_)
            | Class::Cast(_)
            | Class::Int(_) => found.contains(&g.result(n)),
        };
        if leads {
            found.extend(g.operands(n).iter().copied());
        }
    }
    found
}
