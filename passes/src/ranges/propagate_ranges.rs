//! Derives the ranges that are not known yet, without any data: a forward analysis over intervals that hold for certain and
//! over the mean and deviation of each channel.
//!
//! ```text
//! %bn   = nn.batch_norm(%conv, @gamma, @beta, @mean, @var) : tensor<1x8x4x4xf32>
//! %relu = nn.relu(%bn)                                     : tensor<1x8x4x4xf32>
//! // with beta = 0.5, |gamma| = 1 and k = 6
//! %bn   = ..  : tensor<1x8x4x4x!quant.calibrated<f32<-5.5:6.5>>>
//! %relu = ..  : tensor<1x8x4x4x!quant.calibrated<f32<0.0:6.5>>>
//! ```
//!
//! A batch normalization tells twice: its `mean` and `var` are the statistics of its operand, `beta` and `|gamma|` those
//! of its result. So the pass runs before `fold-bn` where there are no samples. A range is the union over the channels of
//! `mean +- k` deviations, within the certain interval; how operators change both is said in `moments`. Inputs have
//! their declared range; without one they are taken as standard normal, from -4 to 4.

mod synthesized;
mod transfer;

use std::collections::{HashMap, HashSet};

use qcc_ir::diag::Code;
use qcc_ir::{Diag, Diags, Edit, Elem, Fact, Graph, Opcode, Range, ValueId};
use qcc_num::convert::nearest_f32;

use crate::options::{OptionInfo, OptionKind};
use crate::ranges::activations::activations;
use crate::ranges::moments::{Channel, Interval, Stats};
use crate::ranges::observed::{Sentinel, sentinels};
use crate::ranges::synthesize_samples::Synthesized;
use crate::ranges::table::{RangeEntry, RangeTable};
use crate::rewrite::floats;
use crate::{Context, Options, Pass};

/// Options of `propagate-ranges`.
pub const OPTIONS: &[OptionInfo] = &[OptionInfo {
    name: "k",
    default: "6",
    doc: "deviations on either side of the mean that a range covers",
    kind: OptionKind::Number(1.0, 100.0),
}];

/// Range of an input that is taken as standard normal.
const NORMAL_INPUT: Interval = Interval { lo: -4.0, hi: 4.0 };

/// The pass `propagate-ranges`.
pub struct PropagateRanges {
    k: f64,
}

impl PropagateRanges {
    /// The pass with its options.
    pub fn new(options: &Options) -> PropagateRanges {
        PropagateRanges { k: options.number("k").unwrap_or(6.0) }
    }
}

impl Pass for PropagateRanges {
    fn run(&self, edit: &mut Edit, cx: &mut Context) -> Result<(), Diags> {
        let unknown: Vec<ValueId> =
            activations(edit.graph()).into_iter().filter(|&v| edit.graph().ty(v).elem == Elem::F32).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let synthesized = Synthesized::left(edit.graph());
        let mut analysis = Analysis {
            g: edit.graph(),
            k: self.k,
            synthesized: &synthesized,
            leading: synthesized::leading(edit.graph()),
            sentinels: sentinels(edit.graph()),
            stats: HashMap::new(),
            assumed: 0,
            declared: 0,
            norms: 0,
            seen: 0,
        };
        analysis.run(cx);
        let mut faults = Diags::default();
        let mut found = Vec::new();
        for v in unknown {
            let soft = analysis.stats.get(&v).map_or(Interval::ALL, Stats::soft);
            let range = Range { min: nearest_f32(soft.lo), max: nearest_f32(soft.hi) };
            if range.is_valid() {
                found.push((v, range));
            } else {
                faults.0.push(unbounded(analysis.g, v));
            }
        }
        let source = analysis.source(found.len());
        let means = analysis.channel_means();
        faults.into_result()?;
        let Some(mut change) = edit.begin(format!("propagate-ranges: {} values", found.len())) else {
            return Ok(());
        };
        change.clear_metadata(Fact::Synthesized);
        for (name, means) in means {
            change.set_metadata(Fact::ChannelMeans, &name, means);
        }
        let mut table =
            cx.ranges.take().unwrap_or_else(|| RangeTable { source: source.clone(), ..RangeTable::default() });
        for (v, range) in found {
            let name = change.graph().name_of(v).to_string();
            change.set_metadata(Fact::Seen, &name, Vec::new());
            table.values.insert(name, RangeEntry::new(range));
            change.set_elem(v, Elem::Calibrated(range));
        }
        cx.ranges = Some(table);
        cx.note_source(&source);
        cx.derived_ranges = true;
        Ok(())
    }
}

fn unbounded(g: &Graph, v: ValueId) -> Diag {
    let diag = Diag::new(Code::RANGE, format!("the range of %{} cannot be derived", g.name_of(v)))
        .help("give samples (`--calibrate`) or a range table (`--ranges`)");
    match g.producer(v) {
        Some(n) => diag.at(g.describe(n)),
        None => diag,
    }
}

struct Analysis<'g> {
    g: &'g Graph,
    k: f64,
    synthesized: &'g Synthesized,
    leading: HashSet<ValueId>,
    /// Values whose sentinels take no part in their ranges.
    sentinels: HashMap<ValueId, Sentinel>,
    stats: HashMap<ValueId, Stats>,
    assumed: usize,
    declared: usize,
    norms: usize,
    seen: usize,
}

impl Analysis<'_> {
    fn source(&self, derived: usize) -> String {
        let inputs = match (self.declared, self.assumed) {
            (_, 0) => "declared input ranges",
            (0, _) => "inputs taken as standard normal",
            _ => "declared input ranges, other inputs taken as standard normal",
        };
        let norms = match self.norms {
            0 => String::new(),
            n => format!(" and the parameters of {n} batch normalization{}", if n == 1 { "" } else { "s" }),
        };
        let synthesized = match self.seen {
            0 => String::new(),
            n => format!(", {n} of them seen on {} synthesized samples", self.synthesized.samples),
        };
        format!("{derived} ranges derived without data from {inputs}{norms} (k = {}){synthesized}", self.k)
    }

    fn run(&mut self, cx: &Context) {
        for &x in self.g.inputs() {
            let stats = match (&self.g.ty(x).elem, cx.input_ranges.get(self.g.name_of(x))) {
                (Elem::Calibrated(r), _) | (Elem::F32, Some(r)) => {
                    self.declared += 1;
                    Stats::of_interval((*r).into())
                }
                (Elem::F32, None) => {
                    self.assumed += 1;
                    Stats::uniform(NORMAL_INPUT, Channel { soft: NORMAL_INPUT, ..Channel::normal(0.0, 1.0, self.k) })
                }
                _ => continue,
            };
            self.stats.insert(x, stats);
        }
        for n in self.g.order() {
            let y = self.g.result(n);
            if !self.g.ty(y).is_float() {
                continue;
            }
            let mut stats = self.transfer(n).unwrap_or_else(|| Stats::of_interval(Interval::ALL));
            self.observe_norm(y, &mut stats);
            self.observe_synthesized(n, &mut stats);
            if let Elem::Calibrated(r) = self.g.ty(y).elem {
                stats.hard = stats.hard.clamp_to(r.into());
                stats.channels.iter_mut().for_each(|c| c.soft = c.soft.clamp_to(r.into()));
            }
            self.stats.insert(y, stats);
        }
    }

    /// A batch normalization that reads `y` says what its statistics are.
    fn observe_norm(&self, y: ValueId, stats: &mut Stats) {
        let norm = self.g.uses(y).into_iter().find(|&(n, i)| i == 0 && self.g.op(n) == Opcode::BatchNorm);
        let Some((n, _)) = norm else { return };
        let operands = self.g.operands(n);
        if let (Some((_, mean)), Some((_, var))) = (floats(self.g, operands[3]), floats(self.g, operands[4])) {
            let channel = |(&m, &v): (&f32, &f32)| Channel::normal(f64::from(m), f64::from(v), self.k);
            stats.channels = mean.iter().zip(var).map(channel).collect();
            *stats = stats.clone().bounded();
        }
    }
}
