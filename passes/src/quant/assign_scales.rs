//! Turns ranges into scales and zero points: `u8`, asymmetric, per tensor (Jacob et al. 2018, section 2.1), or another format for what is
//! to have it (`precision`).
//!
//! ```text
//! %conv = nn.conv2d(%x, @w, @b) : tensor<1x8x4x4x!quant.calibrated<f32<-2.0:3.0>>>
//! %relu = nn.relu(%conv)        : tensor<1x8x4x4x!quant.calibrated<f32<0.0:3.0>>>
//! // becomes
//! %conv = nn.conv2d(%x, @w, @b) : tensor<1x8x4x4x!quant.uniform<u8:f32, 0.0117647061>>
//! %relu = nn.relu(%conv)        : tensor<1x8x4x4x!quant.uniform<u8:f32, 0.0117647061>>
//! ```
//!
//! Values share one type where that saves work:
//! - the result of data movement or of a maximum has its operand's type: nothing is computed;
//! - what only a rectifier or clip reads takes the type of its result: saturation then does the clamping;
//! - operands of a concat take the type of its result, so that they are written where they belong, if only concats read
//!   them or they lose one bit at most;
//! - an input and the output that a host feeds back into it have one (`states`).
//!
//! A shared type covers the ranges of all its values, except of those that are clamped anyway. A concat operand that keeps
//! its own type gets a `quant.scast`. Functions with a natural range (logistic, softmax, tanh) keep to it, and what only functions
//! of one value read reaches no further than they depend on it: to -3 for `nn.hard_swish`, whose results are 0 below.
//!
//! An output that mixes magnitudes, as a detector's boxes beside its scores, has 16 bits as well, and the arithmetic that ends
//! in it (`mixed`), and so have operands of logarithms, roots, powers and quotients that span decades (`decades`), and the
//! residual streams of transformers (`residual`), operands of rectifiers with slopes (`slopes`), and long sums without samples
//! (`long_sums`), unless precisions are given for these values or for all.
//!
//! In a network with a state, whose errors add up from call to call, everything has 16 bits, unless precisions are given. Magnitudes of
//! 16 bits are computed in two ways, one for small ones (`magnitudes`).
//!
//! Values share 16 bits as they share a type; into a concat of another precision, or an operator that knows 8 bits only, a value
//! goes through a `quant.scast`. A type of 16 bits covers twice what was seen: it has codes to spare, and a method that clips for
//! the sake of finer codes (`mse`, `percentile`), or an input beyond all samples, would lose more. Weights of 16 bits are quantized here, to `i16` in [-32512, 32512];
//! another format of at most 8 bits becomes the attribute `weights` of its layer, for those passes that fit and quantize weights.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use qcc_ir::diag::Code;
use qcc_ir::format::Role;
use qcc_ir::{
    Attrs, Change, Class, Diags, Edit, Elem, Fact, Format, Graph, NodeId, Opcode, Range, Tensor, Uniform, ValueId,
    attr, format,
};

use crate::layer::{QuantLayer, is_layer, quantized_weights, scales_for_64_bit_sums};
use crate::op_traits::{clamps, selects};
use crate::quant::decades::{Decades, decades};
use crate::quant::demand::{Extent, is_free, is_seen, needed};
use crate::quant::forms::{Side, form, moves_any, refused};
use crate::quant::long_sums::long_sums;
use crate::quant::low_bits;
use crate::quant::magnitudes;
use crate::quant::mixed::mixed;
use crate::quant::precision::{self, Wanted};
use crate::quant::quantize;
use crate::quant::residual::streams;
use crate::quant::slopes::slopes;
use crate::quant::states;
use crate::quant::whole;
use crate::ranges::activations::activations;
use crate::ranges::extent::{span, workable};
use crate::ranges::observed::{Sentinel, sentinels};
use crate::rewrite::{floats, origin_of};
use crate::{Context, Pass, diag_at};

/// The pass `assign-scales`.
pub struct AssignScales;

impl Pass for AssignScales {
    fn run(&self, edit: &mut Edit, cx: &mut Context) -> Result<(), Diags> {
        let states = states::pairs(edit.graph(), &cx.states)?;
        let fine = (!states.is_empty() && cx.precision.is_empty() && cx.overall.activations.is_none())
            .then(|| precision::finer(cx.overall));
        let wanted = Wanted::find(edit.graph(), fine.as_ref().unwrap_or(&cx.precision), cx.overall, &states)?;
        cx.notes.extend(wanted.remarks(edit.graph()));
        cx.notes.iter().for_each(|note| edit.remark(note.clone()));
        magnitudes::split(edit, &wanted);
        let states = states::pairs(edit.graph(), &cx.states)?;
        let uneven = decades(edit.graph());
        let mut ties = Ties::new(edit.graph(), &wanted, &states, &uneven);
        let mut remarks = ties.refused();
        remarks.extend(ties.mixing_outputs());
        remarks.extend(ties.uneven_operands(&uneven));
        let of_state = |&(x, y): &(ValueId, ValueId)| {
            format!("%{} and %{} are one state: they have one type", edit.graph().name_of(x), edit.graph().name_of(y))
        };
        remarks.extend(states.iter().map(of_state));
        if fine.is_some() {
            remarks.push("errors of a state add up from call to call: all has 16 bits".to_string());
        }
        let types = ties.types(24);
        let narrow =
            Narrow { two_bytes: ties.types(16).into_iter().collect(), byte: ties.types(8).into_iter().collect() };
        let low = std::mem::take(&mut ties.low);
        let nibbles = if low.is_empty() { HashMap::new() } else { ties.types(4).into_iter().collect() };
        let mut masked: Vec<ValueId> = ties.sentinels.keys().copied().collect();
        masked.sort_unstable();
        remarks.into_iter().for_each(|r| edit.remark(r));
        let Some(mut change) = edit.begin(format!("assign-scales: {} values", types.len())) else {
            return Ok(());
        };
        change.clear_metadata(Fact::Seen);
        change.clear_metadata(Fact::Coarse);
        for (v, uniform) in types {
            change.set_elem(v, Elem::Uniform(uniform));
        }
        bound_masks(&mut change, &masked);
        for n in change.graph().order() {
            if let Class::Move(_) = change.graph().op(n).info().class {
                settle_operands(&mut change, n);
            }
        }
        let mut faults = Diags::default();
        for n in change.graph().order() {
            narrow_operands(&mut change, n, &narrow);
            low_bits::narrow(&mut change, n, &low, &nibbles);
            if is_layer(change.graph().op(n))
                && let Err(message) = weights(&mut change, n, wanted.weights_or(n, uneven.weights(n)))
            {
                faults.0.push(diag_at(change.graph(), n, Code::NO_INTEGER_FORM, message));
            }
        }
        faults.into_result()?;
        change.remove_dead();
        Ok(())
    }
}

/// Constant masks that are added reach no further below the type of the sum than it extends: the sum saturates there as well.
fn bound_masks(change: &mut Change, masked: &[ValueId]) {
    for &y in masked {
        let g = change.graph();
        let Some(n) = g.producer(y).filter(|&n| g.op(n) == Opcode::Add) else { continue };
        let Some(to) = g.ty(y).uniform() else { continue };
        let bound = 2.0 * to.scale() * to.format.extent() as f32;
        for (i, v) in g.operands(n).into_iter().enumerate() {
            let Some((tensor, data)) = floats(change.graph(), v) else { continue };
            let bounded = Tensor::f32(&tensor.dims, data.iter().map(|x| x.clamp(-bound, bound)).collect());
            let name = format!("{}.bounded", change.graph().name_of(v));
            let bounded = change.add_const(&name, bounded);
            change.set_operand(n, i, bounded);
        }
    }
}

/// The types that values would have if they were not to have more bits.
struct Narrow {
    two_bytes: HashMap<ValueId, Arc<Uniform>>,
    byte: HashMap<ValueId, Arc<Uniform>>,
}

/// What has more bits than an operation can read it gets in fewer, in the type that the value would have if it were not to have more.
fn narrow_operands(change: &mut Change, n: NodeId, types: &Narrow) {
    for (i, v) in change.graph().operands(n).into_iter().enumerate() {
        let g = change.graph();
        let Some(own) = refused(g, v, n, Side::Reads(i)) else { continue };
        let takes_16 = form(g, n, Side::Reads(i)).take(&format::I16);
        let Some(narrow) = (if takes_16 { &types.two_bytes } else { &types.byte }).get(&v) else { continue };
        let (op, bits) = (g.op(n).name(), own.bits());
        let remark =
            format!("%{} is read in {} bits: `{op}` has no form of {bits}", g.name_of(v), narrow.format.bits());
        let (name, ty, origin) =
            (format!("{}.s", g.name_of(v)), g.ty(v).with_elem(Elem::Uniform(narrow.clone())), origin_of(g, v));
        change.remark(remark);
        let narrow = change.add(Opcode::SCast, &[v], Attrs::new(Opcode::SCast), &name, ty, origin);
        change.set_operand(n, i, narrow);
    }
}

/// Weights of more than 8 bits are quantized here: nothing is gained by fitting them. For others the layer says the format.
fn weights(change: &mut Change, n: NodeId, format: &Format) -> Result<(), String> {
    if format.bits() <= 8 {
        let attrs = change.graph().node(n).attrs.clone();
        if attrs.get(attr::WEIGHTS) != *format {
            change.set_op(n, attrs.op(), attrs.with(attr::WEIGHTS, format.clone()));
        }
        return Ok(());
    }
    let Ok(layer) = QuantLayer::read(change.graph(), n) else { return Ok(()) };
    let Some(w) = layer.weights.reals() else { return Ok(()) };
    let tensor = &layer.weights.tensor;
    let scales = scales_for_64_bit_sums(tensor, w, layer.input.scale(), layer.output.scale(), format)?;
    let weights = quantized_weights(tensor, w, scales, format);
    layer.write(change, Some(weights.named(layer.weights_name(".q"))), None);
    Ok(())
}

/// Operands of data movement get the type of the result: constants are quantized, others rescaled.
fn settle_operands(change: &mut Change, n: NodeId) {
    let y = change.graph().result(n);
    let Elem::Uniform(to) = change.graph().ty(y).elem.clone() else { return };
    for (i, v) in change.graph().operands(n).into_iter().enumerate() {
        let g = change.graph();
        let name = g.name_of(v).to_string();
        let settled = match (floats(g, v), &g.ty(v).elem) {
            (Some((tensor, data)), _) => {
                let tensor = quantize::tensor(&tensor.dims, data, &to);
                change.add_typed_const(&format!("{name}.q"), tensor, Elem::Uniform(to.clone()))
            }
            (None, Elem::Uniform(from)) if *from != to => {
                // Readers that want the same type share one cast.
                let known = g.uses(v).into_iter().find_map(|(n, _)| {
                    let y = g.result(n);
                    (g.op(n) == Opcode::SCast && g.ty(y).elem == Elem::Uniform(to.clone())).then_some(y)
                });
                if let Some(known) = known {
                    change.set_operand(n, i, known);
                    continue;
                }
                let ty = g.ty(v).with_elem(Elem::Uniform(to.clone()));
                let origin = g.node(n).origin.clone();
                change.add(Opcode::SCast, &[v], Attrs::new(Opcode::SCast), &format!("{name}.s"), ty, origin)
            }
            _ => continue,
        };
        change.set_operand(n, i, settled);
    }
}

/// Which values share a type: a forest of sets.
struct Ties<'g> {
    g: &'g Graph,
    values: Vec<ValueId>,
    index: HashMap<ValueId, usize>,
    parent: Vec<usize>,
    /// Of the values: the format that each is to have, as far as can be seen from it alone, if not the usual one.
    wanted: Vec<Option<&'static Format>>,
    /// Of the values: which are to have more bits only because they span magnitudes. They have no codes to spare.
    unasked: Vec<bool>,
    /// Of the roots: what its set has.
    formats: Vec<&'static Format>,
    sentinels: HashMap<ValueId, Sentinel>,
    /// Layers whose operands are to have 4 bits.
    low: HashSet<NodeId>,
}

impl<'g> Ties<'g> {
    fn new(g: &'g Graph, wanted: &Wanted, states: &[(ValueId, ValueId)], uneven: &Decades) -> Ties<'g> {
        let values = activations(g);
        let index = values.iter().enumerate().map(|(i, &v)| (v, i)).collect();
        let parent = (0..values.len()).collect();
        // What spans magnitudes needs all its codes; what only is to be finer has room for what samples did not show.
        let of_streams = streams(g);
        let mut spanning = mixed(g);
        spanning.extend(long_sums(g, |v| is_seen(g, v)));
        spanning.extend(&uneven.values);
        let mut finer = slopes(g);
        finer.extend(&of_streams.values);
        let unasked: Vec<bool> = values.iter().map(|v| spanning.contains(v) && !wanted.is_named(*v)).collect();
        let own = |v: ValueId| if uneven.fine.contains(&v) { &format::I24 } else { &format::I16 };
        let asked = |v: ValueId| {
            let format = wanted.value(v)?;
            let more = !format.fits_byte()
                && !wanted.is_named(v)
                && (uneven.fine.contains(&v) || of_streams.sums.contains(&v));
            Some(if more { &format::I24 } else { format })
        };
        let low = wanted.low_operands(g, |n| uneven.layers.contains(&n));
        let nibbles = low.as_ref().map_or(HashSet::new(), |(_, layers)| low_bits::operands_of(g, layers));
        let others = low.as_ref().map(|_| format::usual(Role::Values));
        let few = |v: &ValueId| low.as_ref().filter(|_| nibbles.contains(v)).map(|(format, _)| *format).or(others);
        let of = |v: &ValueId| {
            asked(*v).or((spanning.contains(v) || finer.contains(v)).then_some(own(*v))).or_else(|| few(v))
        };
        let wanted = values.iter().map(of).collect();
        let (formats, sentinels) = (Vec::new(), sentinels(g));
        let low = low.map_or(HashSet::new(), |(_, layers)| layers);
        let mut ties = Ties { g, values, index, parent, wanted, unasked, formats, sentinels, low };
        // What would bring different precisions together comes when they are known.
        let mut loose = Vec::new();
        for n in g.order() {
            ties.tie_node(n, &mut loose);
        }
        states.iter().for_each(|&(x, y)| ties.tie(x, y));
        ties.choose();
        for (a, b) in loose {
            let [i, j] = [a, b].map(|v| ties.index.get(&v).copied().map(|i| ties.root(i)));
            if i.zip(j).is_some_and(|(i, j)| ties.formats[i] == ties.formats[j]) {
                ties.tie(a, b);
            }
        }
        ties
    }

    /// What each set has: the finest format that one of its values is to have, if all can.
    fn choose(&mut self) {
        let mut found: Vec<Option<&'static Format>> = vec![None; self.values.len()];
        for i in 0..self.values.len() {
            let root = self.root(i);
            found[root] = found[root].into_iter().chain(self.wanted[i]).max_by_key(|format| format.bits());
        }
        let usual = format::usual(Role::Values);
        self.formats = found.into_iter().map(|format| format.unwrap_or(usual)).collect();
        // The next format below, where one of them cannot.
        for _ in 0..2 {
            for i in 0..self.values.len() {
                let root = self.root(i);
                if self.cannot(i, self.formats[root]) {
                    self.formats[root] = if self.formats[root].bits() > 16 { &format::I16 } else { usual };
                }
            }
        }
    }

    /// True if value `i` comes from an operation that has no result of this format.
    fn cannot(&self, i: usize, format: &Format) -> bool {
        self.g.producer(self.values[i]).is_some_and(|n| !form(self.g, n, Side::Gives).take(format))
    }

    /// Remarks on what was to have more bits and has 8.
    fn refused(&mut self) -> Vec<String> {
        let mut remarks = Vec::new();
        for i in 0..self.values.len() {
            let root = self.root(i);
            let own = self.formats[root];
            if let Some(wanted) = self.wanted[i].filter(|wanted| wanted.bits() > own.bits()) {
                let because = (0..self.values.len()).find(|&j| self.cannot(j, wanted) && self.root(j) == root);
                let op = because.and_then(|j| self.g.producer(self.values[j])).map_or("", |n| self.g.op(n).name());
                let name = self.g.name_of(self.values[i]);
                let (bits, own) = (wanted.bits(), own.bits());
                remarks.push(format!("%{name} keeps {own} bits: `{op}` has no result of {bits}"));
            }
        }
        remarks
    }

    /// Remarks on outputs that have 16 bits without being asked to.
    fn mixing_outputs(&mut self) -> Vec<String> {
        let mut remarks = Vec::new();
        for &y in self.g.outputs() {
            let Some(&i) = self.index.get(&y) else { continue };
            let root = self.root(i);
            let concat = self.g.producer(y).is_some_and(|n| moves_any(self.g, n));
            if self.unasked[i] && !self.formats[root].fits_byte() && concat {
                let name = self.g.name_of(y);
                remarks.push(format!("%{name} has 16 bits: the extents of its parts differ too much for 8"));
            }
        }
        remarks
    }

    /// Remarks on operands that have 16 bits because they span decades.
    fn uneven_operands(&mut self, uneven: &Decades) -> Vec<String> {
        let mut remarks = Vec::new();
        for (v, op) in &uneven.operands {
            let Some(&i) = self.index.get(v) else { continue };
            let root = self.root(i);
            if self.unasked[i] && !self.formats[root].fits_byte() {
                let name = self.g.name_of(*v);
                let bits = self.formats[root].bits();
                remarks.push(format!("%{name} has {bits} bits: a step of fewer is too coarse for `{}`", op.name()));
            }
        }
        remarks
    }

    fn root(&mut self, mut i: usize) -> usize {
        while self.parent[i] != i {
            self.parent[i] = self.parent[self.parent[i]];
            i = self.parent[i];
        }
        i
    }

    fn tie(&mut self, a: ValueId, b: ValueId) {
        if let (Some(&a), Some(&b)) = (self.index.get(&a), self.index.get(&b)) {
            let (a, b) = (self.root(a), self.root(b));
            self.parent[a.max(b)] = a.min(b);
        }
    }

    fn tie_node(&mut self, n: NodeId, loose: &mut Vec<(ValueId, ValueId)>) {
        let g = self.g;
        let y = g.result(n);
        let operands = g.operands(n);
        if selects(g.op(n)) {
            match g.op(n) {
                Opcode::Concat => loose.extend(operands.into_iter().filter(|&v| into_concat(g, v, y)).map(|v| (v, y))),
                // What is chosen from may be a constant, which takes any type.
                Opcode::Where => loose.extend(operands[..2].iter().map(|&v| (v, y))),
                _ if !form(g, n, Side::Gives).take(&format::I16) => loose.push((operands[0], y)),
                _ => self.tie(operands[0], y),
            }
        } else if clamps(g.op(n)) && operands.iter().all(|&v| g.only_user(v).is_some() && is_free(g, v)) {
            self.tie(operands[0], y);
        }
    }

    /// The type of each value, in a format of no more than so many bits: 4, 8, 16 or 24.
    fn types(&mut self, most: u32) -> Vec<(ValueId, Arc<Uniform>)> {
        let mut ranges: HashMap<usize, Range> = HashMap::new();
        let mut whole: HashSet<usize> = HashSet::new();
        for (i, v) in self.values.clone().into_iter().enumerate() {
            let root = self.root(i);
            let own = self.formats[root];
            let (above_8_bits, narrow) = match most {
                4 => (false, &format::U4),
                _ => (most > 8 && !own.fits_byte(), if own.fits_byte() { own } else { &format::U8 }),
            };
            let codes = narrow.extent() as f64;
            let room = above_8_bits && !self.unasked[i];
            let wanted = Extent::new(above_8_bits, codes, room, &self.sentinels);
            if whole::is_whole(self.g, v) {
                whole.insert(root);
            }
            let declared = whole::declared(self.g, v);
            // All integers that were seen: a table has a place for each.
            let seen = || if let Elem::Calibrated(range) = self.g.ty(v).elem { Some(range) } else { None };
            let range = if whole::is_from_integers(self.g, v) { seen() } else { needed(self.g, v, wanted) };
            if let Some(range) = range.map(|range| declared.map_or(range, |d| d.union(range))) {
                ranges.entry(root).and_modify(|r| *r = r.union(range)).or_insert(range);
            }
        }
        let uniform = |root: usize, range: Range| {
            let own = self.formats[root];
            let format = match most {
                _ if own.bits() <= most => own,
                16 => &format::I16,
                4 => &format::U4,
                _ => &format::U8,
            };
            match whole.contains(&root) {
                true => whole::covering(format, range),
                false => Uniform::covering(format, workable(range)),
            }
        };
        let types: HashMap<usize, Arc<Uniform>> =
            ranges.into_iter().map(|(root, range)| (root, Arc::new(uniform(root, range)))).collect();
        let values = self.values.clone().into_iter().enumerate();
        values.filter_map(|(i, v)| Some((v, types.get(&self.root(i))?.clone()))).collect()
    }
}

/// True if operand `v` of a concat with result `y` is to take its type: it can have any type, and goes into concats only or
/// loses no more than one bit to the greater range.
fn into_concat(g: &Graph, v: ValueId, y: ValueId) -> bool {
    let only_concats = g.uses(v).iter().all(|&(n, _)| g.op(n) == Opcode::Concat);
    let of_concat = g.producer(v).is_some_and(|n| g.op(n) == Opcode::Concat) && !g.is_output(v);
    (only_concats || span(g, v) * 2.0 >= span(g, y)) && (is_free(g, v) || of_concat)
}
