//! Copies between the caller's memory and the arena that conversions take the place of.

use super::inner_loop::{InnerLoop, inner_loop};
use super::values::{FLOAT, real_values};
use crate::kernel::float_conversion::{ConversionKind, ConversionSpec};
use crate::plan::{BufferView, Plan, StepKind, Storage};
use crate::program::builder::{Border, Builder};
use crate::program::collapse::Level;
use crate::target::Backend;

/// Whether a step touches a buffer.
fn touches(kind: &StepKind, buffer: usize) -> bool {
    match kind {
        StepKind::Node { operands, result, .. } => operands.iter().chain([result]).any(|p| p.buffer == buffer),
        StepKind::Fill { view, .. } => view.buffer == buffer,
        StepKind::Copy { from, to } => from.buffer == buffer || to.buffer == buffer,
    }
}

/// A border with the loops of the conversion that takes its place.
pub(super) type Fused = Vec<(usize, Vec<Level>, InnerLoop)>;

/// Whether the target has kernels for conversions, and whether their vectors are the wider ones.
pub(super) fn zmm(b: &Builder<'_>) -> Option<bool> {
    match b.options.target.backend() {
        Backend::Avx512 | Backend::Avx512I16Sums => Some(true),
        Backend::Ymm(_) => Some(false),
        Backend::Clif => None,
    }
}

/// The copies of a real input or to a real output that conversions take the place of: all that touch it, or none.
pub(super) fn fused(b: &Builder<'_>, quantize: bool, index: usize, borders: &[Border]) -> Fused {
    let Some(zmm) = zmm(b) else { return Vec::new() };
    let plan = b.plan;
    let storage = if quantize { Storage::Input(index) } else { Storage::Output(index) };
    let mut fused = Vec::new();
    for buffer in (0..plan.buffers.len()).filter(|&b| plan.buffers[b].storage == storage) {
        let ours = |border: &Border| {
            let view = if quantize { &border.copy.from } else { &border.copy.to };
            view.buffer == buffer
        };
        for (i, border) in borders.iter().enumerate().filter(|(_, border)| ours(border)) {
            // A copy from an input to an output has both conversions, which cannot both take its place.
            let other = if quantize { &border.copy.to } else { &border.copy.from };
            if !matches!(plan.buffers[other.buffer].storage, Storage::Arena(_)) {
                return Vec::new();
            }
            let block =
                |layout| ConversionSpec { kind: ConversionKind::Dequantize, layout, zero: 0, zmm, far: false }.block();
            match inner_loop(&border.copy, quantize, block) {
                Some((outer, inner)) => fused.push((i, outer, inner)),
                None => return Vec::new(),
            }
        }
        let copied = |step: usize| borders.iter().any(|border| border.step == step && ours(border));
        let others = plan.steps.iter().enumerate().any(|(i, step)| touches(&step.kind, buffer) && !copied(i));
        // An output must be written by one copy alone, and not be read.
        let whole = |(i, ..): &(usize, Vec<Level>, InnerLoop)| {
            let elements = borders[*i].copy.to.elements();
            elements == b.graph.ty(b.graph.outputs()[index]).elements()
        };
        let partial = !quantize && (fused.len() != 1 || !fused.iter().all(whole));
        let scale = match quantize {
            true => None,
            false => real_values(b.graph, b.graph.outputs())[index].1,
        };
        let early = scale.is_none_or(|s| fused.iter().all(|(i, ..)| early_scale(plan, s, borders[*i].step).is_some()));
        if others || partial || !early {
            return Vec::new();
        }
    }
    fused
}

/// Where the dynamic scale of an output is already before a step, from which it is copied to the output behind it.
pub(super) fn early_scale(plan: &Plan, output: usize, step: usize) -> Option<BufferView> {
    plan.steps[step..].iter().find_map(|s| {
        let (from, to) = match &s.kind {
            StepKind::Node { operands, result, .. } => (operands.first()?, result),
            StepKind::Copy { from, to } => (from, to),
            StepKind::Fill { .. } => return None,
        };
        let buffer = &plan.buffers[from.buffer];
        let known = buffer.life.0 < step && matches!(buffer.storage, Storage::Arena(_));
        let is_scale = plan.buffers[to.buffer].storage == Storage::Output(output) && from.element == FLOAT;
        (known && is_scale).then(|| from.clone())
    })
}
