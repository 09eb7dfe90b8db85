//! The order in which a leaf reads its weights, biases and multipliers.
//!
//! ```text
//! weights      [panel][kernel row][segment][step of 4][vector][lane][4]      i8, or
//!              [panel][kernel row][segment][step of 2][vector][lane][2]      i16 ([`Shape::step`]), in some panels i8
//!                                                                              ([`Panel::stored_weight`])
//! biases       [panel][vector][lane]                                         i32
//! multipliers  [panel][vector][copy][lane]                                   i32
//! ```
//! Panels are those of [`super::tiling`]; lane `l` of vector `v` is channel [`Shape::channel`] of its panel. What does
//! not exist is zero: lanes beyond the channels, bytes beyond the run. The second copy of multipliers, where the machine
//! wants one ([`Shape::multiplier_copies`]), holds those of lanes 1, 3, 5... in lanes 0, 2, 4...

use super::conv::ConvSpec;
use super::tiling::{self, Panel};
use crate::machine::Shape;

/// Channels in packed order: of each panel, vector and lane, the channel of the block or nothing.
fn order<'a>(
    spec: &'a ConvSpec,
    shape: &'a Shape,
    panels: &'a [Panel],
) -> impl Iterator<Item = Vec<Vec<Option<usize>>>> {
    let mut first = 0;
    panels.iter().flat_map(|panel| (0..panel.count).map(move |_| panel)).map(move |panel| {
        let start = first;
        first += panel.channels;
        let channel = |vector, lane| shape.channel(panel.vectors, vector, lane, spec.narrowed());
        let lane = |vector, lane| Some(channel(vector, lane)).filter(|&c| c < panel.channels).map(|c| start + c);
        (0..panel.vectors).map(|vector| (0..shape.lanes).map(|l| lane(vector, l)).collect()).collect()
    })
}

/// Packs `weights`, `[channels][kernel rows][segments][run]`; the rows are those of the leaf and those that it leaves out.
///
/// # Panics
/// If `weights` has another length.
pub fn pack_weights(spec: &ConvSpec, shape: &Shape, weights: &[i8]) -> Vec<u8> {
    let runs = spec.packed_rows() * spec.segments;
    assert_eq!(weights.len(), spec.channels * runs * spec.run, "weights are [channels][kernel rows][segments][run]");
    let mut packed = Vec::with_capacity(packed_weights(spec, shape));
    let panels = tiling::choose(spec, shape);
    let stored = panels.iter().flat_map(|panel| std::iter::repeat_n(panel.stored_weight(shape), panel.count));
    for (vectors, bytes) in order(spec, shape, &panels).zip(stored) {
        for run in 0..runs {
            for step in 0..spec.run_steps(shape) {
                let at = |lane: Option<usize>, i: usize| {
                    let weight = |channel: usize| weights[(channel * runs + run) * spec.run + i];
                    lane.filter(|_| i < spec.run).map_or(0, weight)
                };
                let taken = shape.step() * step..shape.step() * (step + 1);
                for weight in vectors.iter().flatten().flat_map(|&lane| taken.clone().map(move |i| at(lane, i))) {
                    match bytes {
                        1 => packed.push(weight as u8),
                        _ => packed.extend(i16::from(weight).to_le_bytes()),
                    }
                }
            }
        }
    }
    packed
}

/// Bytes of packed weights.
pub fn packed_weights(spec: &ConvSpec, shape: &Shape) -> usize {
    let vectors = |panel: &Panel| panel.count * panel.vectors * panel.weight_vector(shape);
    let step: usize = tiling::choose(spec, shape).iter().map(vectors).sum();
    spec.packed_rows() * spec.segments * spec.run_steps(shape) * step
}

/// Packs one value per channel in the order of the weights: biases.
///
/// # Panics
/// If there is not one value per channel.
pub fn pack_channels(spec: &ConvSpec, shape: &Shape, values: &[i32]) -> Vec<i32> {
    assert_eq!(values.len(), spec.channels, "one value per channel");
    let value = |lane: Option<usize>| lane.map_or(0, |channel| values[channel]);
    order(spec, shape, &tiling::choose(spec, shape)).flatten().flatten().map(value).collect()
}

/// Packs multipliers: as [`pack_channels`], and a second time for the odd lanes where the machine wants it.
///
/// # Panics
/// If there is not one multiplier per channel.
pub fn pack_multipliers(spec: &ConvSpec, shape: &Shape, values: &[i32]) -> Vec<i32> {
    let packed = pack_channels(spec, shape, values);
    if !shape.paired_multipliers {
        return packed;
    }
    let odd = |pair: &[i32]| [pair[1], 0];
    packed.chunks(shape.lanes).flat_map(|vector| vector.iter().copied().chain(vector.chunks(2).flat_map(odd))).collect()
}
