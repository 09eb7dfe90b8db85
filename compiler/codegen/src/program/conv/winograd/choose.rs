//! Which convolutions take which form.
//!
//! Every layer takes what is estimated to be fastest, as far as memory reaches: transformed weights may make a model's constants larger by [`MORE_PERCENT`], or
//! by [`MORE_BYTES`] if that is more; those of layers whose weights would be codes, up to [`OF_BYTES`]. What saves most time for a byte
//! comes first. What a tuning asks for is not limited.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};

use qcc_ir::{Graph, NodeId, Opcode};

use super::plan::WinogradPlan;
use super::problem::Problem;
use crate::Options;
use crate::kernel::microkernel::codes;
use crate::kernel::winograd::Form;
use crate::plan::{Decoding, Storages};
use crate::program::conv::plan::ProductPlan;
use crate::program::conv::product::Product;
use crate::program::conv::shapes::Shapes;
use crate::program::greatest_bytes::greatest_bytes;
use crate::program::model_weights::weights_of_model;
use crate::program::tuning::{Choice, Method, Storage};

/// Percent by which constants may grow.
const MORE_PERCENT: usize = 35;
/// Bytes by which they may grow in any case.
const MORE_BYTES: usize = 20 << 20;
/// Percent of the bytes of a model whose weights are bytes, in forms too, that those of one whose weights are codes may reach: codes alone are about half of bytes.
const OF_BYTES: usize = 51;
/// A form is taken if its time is at most so many hundredths of that of the direct way: estimates are not exact.
const WORTH: usize = 92;
/// The same where weights would be codes, for the bytes that it takes.
const WORTH_OF_CODES: usize = 86;
/// Input channels from which on a form is considered: with fewer, transforms take more than they save.
const LEAST_INPUTS: usize = 8;

/// A layer that may take a form.
struct Convolution {
    node: NodeId,
    /// Whether its weights are codes, multiplied directly.
    is_coded: bool,
    direct: Alternative,
    forms: Vec<(Form, Alternative)>,
}

/// What a way of computing costs.
#[derive(Clone, Copy)]
struct Alternative {
    time: usize,
    bytes: usize,
    scratch: usize,
}

/// A step from what a layer has to what is faster.
struct Upgrade {
    layer: usize,
    form: usize,
    /// What the layer has before.
    from: Option<usize>,
    saved: usize,
    more: usize,
}

impl Ord for Upgrade {
    /// By time saved for a byte; both are far below 2^64. Of equals the layer in front comes first.
    fn cmp(&self, other: &Upgrade) -> Ordering {
        let left = self.saved as u128 * (other.more as u128 + 1);
        let right = other.saved as u128 * (self.more as u128 + 1);
        left.cmp(&right).then(other.layer.cmp(&self.layer)).then(self.form.cmp(&other.form))
    }
}

impl PartialOrd for Upgrade {
    fn partial_cmp(&self, other: &Upgrade) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Upgrade {
    fn eq(&self, other: &Upgrade) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Upgrade {}

/// Adds to the storages of a graph's products the transformed weights of those that take a form.
pub fn choose(graph: &Graph, options: &Options, storages: &mut Storages) {
    let (greatest, shapes) = (greatest_bytes(graph), Shapes::of(&options.target));
    let (mut layers, mut tuned) = (Layers { of_model: weights_of_model(graph), ..Layers::default() }, Vec::new());
    for node in graph.order() {
        let Some(weights) = graph.operands(node).get(1).and_then(|&w| graph.constant(w)).and_then(|w| w.as_i8()) else {
            continue;
        };
        // Rows of a matrix product are mostly few, and weights that are read once are stored as bytes.
        let is_conv = matches!(graph.op(node), Opcode::IConv2d | Opcode::QConv2d);
        let decoding = storages.get(&node).copied();
        layers.count(weights.len(), if is_conv { shapes.dots.weight_bytes } else { 1 }, decoding.is_some());
        let Some(problem) = Problem::of(graph, node) else { continue };
        let most = greatest.get(&graph.operands(node)[0]).copied();
        let most = most.map_or(u8::MAX, |most| most.max(pad_value(graph, node)));
        let choice = options.tuning.get(graph.name_of(graph.result(node))).copied().unwrap_or_default();
        tuned.extend(choice.chosen_method().map(|method| (node, method, problem, (weights, most))));
        if choice.storage != Some(Storage::Codes) && problem.inputs >= LEAST_INPUTS {
            layers.add(graph, (node, decoding), options, &problem, (weights, most));
        }
    }
    for (node, decoding) in layers.chosen() {
        storages.insert(node, decoding);
    }
    // What a tuning says of one layer changes no other.
    for (node, method, problem, weights) in tuned {
        let plans = match method {
            Method::Direct | Method::FastInner => Vec::new(),
            Method::Winograd(_) => WinogradPlan::all(&problem, shapes, weights),
        };
        let plan = plans.iter().find(|plan| method == Method::Winograd(plan.form.tile()));
        if let Some(plan) = plan {
            let (bytes, weights) = (plan.scratch_bytes(), plan.weight_bytes());
            storages.insert(node, Decoding::Transformed { tile: plan.form.tile(), bytes, weights });
        } else if let Some(Decoding::Transformed { .. }) = storages.get(&node) {
            storages.remove(&node);
        }
    }
}

fn pad_value(graph: &Graph, node: NodeId) -> u8 {
    u8::try_from(graph.node(node).attrs.get(qcc_ir::attr::PAD_VALUE)).unwrap_or(u8::MAX)
}

/// The convolutions of a graph that may take a form, and the bytes of all constants.
#[derive(Default)]
struct Layers {
    /// With the weights as they are stored, bytes or codes.
    stored: Vec<Convolution>,
    /// Those whose weights are codes, as if these were bytes.
    as_bytes: Vec<Convolution>,
    /// Weights of the model.
    of_model: usize,
    /// Bytes of weights that are not codes.
    constants: usize,
    codes: usize,
    /// What the codes would take as bytes.
    codes_as_bytes: usize,
}

impl Layers {
    fn count(&mut self, weights: usize, weight_bytes: usize, are_codes: bool) {
        if are_codes {
            self.codes += weights / codes::PER_BYTE;
            self.codes_as_bytes += weights * weight_bytes;
        } else {
            self.constants += weights * weight_bytes;
        }
    }

    /// Adds a layer with those of its forms that pay.
    fn add(
        &mut self,
        graph: &Graph,
        (node, decoding): (NodeId, Option<Decoding>),
        options: &Options,
        problem: &Problem,
        (weights, greatest): (&[i8], u8),
    ) {
        let (shapes, of_model) = (Shapes::of(&options.target), self.of_model);
        let Some(product) = Product::sketch(graph, node, greatest) else { return };
        let plans = WinogradPlan::all(problem, shapes, (weights, greatest));
        let of_plan = |plan: &WinogradPlan| {
            let way = Alternative {
                time: plan.estimate(of_model),
                bytes: plan.weight_bytes(),
                scratch: plan.scratch_bytes(),
            };
            (plan.form, way)
        };
        let layer = |decoding: Option<Decoding>| {
            let bytes = match decoding {
                Some(_) => weights.len() / codes::PER_BYTE,
                None => weights.len() * shapes.dots.weight_bytes,
            };
            let plan = ProductPlan::new(&product, shapes, Choice::default(), 0, decoding).ok()?;
            let direct = Alternative { time: plan.estimate(bytes, of_model), bytes, scratch: 0 };
            let worth = if decoding.is_some() { WORTH_OF_CODES } else { WORTH };
            let forms = plans.iter().map(of_plan);
            let forms: Vec<_> = forms.filter(|(_, way)| way.time * 100 <= direct.time * worth).collect();
            (!forms.is_empty()).then_some(Convolution { node, is_coded: decoding.is_some(), direct, forms })
        };
        self.stored.extend(layer(decoding));
        if decoding.is_some() {
            self.as_bytes.extend(layer(None));
        }
    }

    /// The transformed weights of those that take a form.
    fn chosen(&self) -> impl Iterator<Item = (NodeId, Decoding)> + '_ {
        let more = |constants: usize| (constants * MORE_PERCENT / 100).max(MORE_BYTES);
        let in_place_of_codes = match self.codes {
            0 => 0,
            codes => {
                let bytes = Allowed { bytes: more(self.codes_as_bytes), in_place_of_codes: 0 };
                let (_, transformed) = within(&self.as_bytes, bytes);
                ((self.codes_as_bytes + transformed) * OF_BYTES / 100).saturating_sub(codes)
            }
        };
        let (forms, _) = within(&self.stored, Allowed { bytes: more(self.constants), in_place_of_codes });
        forms.into_iter().map(|(layer, form)| {
            let (form, Alternative { scratch, bytes: weights, .. }) = self.stored[layer].forms[form];
            (self.stored[layer].node, Decoding::Transformed { tile: form.tile(), bytes: scratch, weights })
        })
    }
}

impl Convolution {
    /// What is faster than the form that the layer has.
    fn upgrades(&self, layer: usize, from: Option<usize>) -> impl Iterator<Item = Upgrade> + '_ {
        let now = from.map_or(self.direct, |form| self.forms[form].1);
        let faster = self.forms.iter().enumerate().filter(move |(_, (_, way))| way.time < now.time);
        faster.map(move |(form, (_, way))| {
            let (saved, more) = (now.time - way.time, way.bytes.saturating_sub(now.bytes));
            Upgrade { layer, form, from, saved, more }
        })
    }
}

/// Bytes that constants may grow by.
#[derive(Clone, Copy)]
struct Allowed {
    bytes: usize,
    /// Those of layers whose weights would be codes.
    in_place_of_codes: usize,
}

/// The forms, by layer and number, that save most time with so many bytes more, and how many they take.
fn within(layers: &[Convolution], mut allowed: Allowed) -> (BTreeMap<usize, usize>, usize) {
    let (mut chosen, mut taken): (BTreeMap<usize, usize>, usize) = (BTreeMap::new(), 0);
    let mut upgrades: BinaryHeap<Upgrade> =
        layers.iter().enumerate().flat_map(|(index, layer)| layer.upgrades(index, None)).collect();
    while let Some(best) = upgrades.pop() {
        let is_stale = chosen.get(&best.layer).copied() != best.from;
        let left = match layers[best.layer].is_coded {
            true => &mut allowed.in_place_of_codes,
            false => &mut allowed.bytes,
        };
        if is_stale || best.more > *left {
            continue;
        }
        *left -= best.more;
        taken += best.more;
        chosen.insert(best.layer, best.form);
        upgrades.extend(layers[best.layer].upgrades(best.layer, Some(best.form)));
    }
    (chosen, taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_goes_where_it_saves_most() {
        let mut graph = Graph::new("g");
        let mut builder = qcc_ir::Builder::new(&mut graph);
        let x = builder.add_input("x", qcc_ir::Type::int(qcc_ir::Int::U8, &[1]));
        let y = builder.add_inferred(Opcode::Clamp, &[x], qcc_ir::Attrs::new(Opcode::Clamp), "y", None);
        builder.set_outputs(vec![y.expect("legal")]);
        let node = graph.order()[0];
        let way = |time, bytes| Alternative { time, bytes, scratch: 0 };
        let forms = Form::of_kernel([3, 3]);
        let layer = |direct, slow, fast, is_coded| Convolution {
            node,
            is_coded,
            direct,
            forms: vec![(forms[0], fast), (forms[3], slow)],
        };
        let two = |is_coded| {
            let first = layer(way(100, 10), way(60, 20), way(40, 80), false);
            [first, layer(way(100, 100), way(60, 200), way(50, 800), is_coded)]
        };
        let of = |layers: &[Convolution], bytes, in_place_of_codes| {
            within(layers, Allowed { bytes, in_place_of_codes }).0.into_iter().collect::<Vec<_>>()
        };
        let sorted = |allowed| of(&two(false), allowed, 0);
        assert_eq!(sorted(0), []);
        assert_eq!(sorted(10), [(0, 1)]);
        assert_eq!(sorted(70), [(0, 0)]);
        assert_eq!(sorted(170), [(0, 0), (1, 1)]);
        assert_eq!(sorted(10_000), [(0, 0), (1, 0)]);
        assert_eq!(of(&two(true), 10_000, 0), [(0, 0)]);
        assert_eq!(of(&two(true), 0, 100), [(1, 1)]);
    }
}
