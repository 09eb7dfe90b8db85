//! Copies between the caller's memory and the arena that conversions take the place of.

use super::super::collapse::Level;
use super::conversion::{Line, line};
use super::{Border, FLOAT, Maker, real_values};
use crate::kernel::edge::{EdgeSpec, Way};
use crate::plan::{Place, StepKind, Storage};

/// Whether a step touches a buffer.
fn touches(kind: &StepKind, buffer: usize) -> bool {
    match kind {
        StepKind::Node { operands, result, .. } => operands.iter().chain([result]).any(|p| p.buffer == buffer),
        StepKind::Fill { place, .. } => place.buffer == buffer,
        StepKind::Copy { from, to } => from.buffer == buffer || to.buffer == buffer,
    }
}

/// A border with the loops of the conversion that takes its place.
pub(super) type Fused = Vec<(usize, Vec<Level>, Line)>;

impl Maker<'_, '_> {
    /// The copies of a real input or to a real output that conversions take the place of: all that touch it, or none.
    pub fn fused(&self, quantize: bool, index: usize, borders: &[Border]) -> Fused {
        let Some(wide) = self.wide() else { return Vec::new() };
        let plan = self.builder.plan;
        let storage = if quantize { Storage::Input(index) } else { Storage::Output(index) };
        let mut fused = Vec::new();
        for buffer in (0..plan.buffers.len()).filter(|&b| plan.buffers[b].storage == storage) {
            let ours = |border: &Border| {
                let place = if quantize { &border.copy.from } else { &border.copy.to };
                place.buffer == buffer
            };
            for (i, border) in borders.iter().enumerate().filter(|(_, border)| ours(border)) {
                // A copy from an input to an output has both conversions, which cannot both take its place.
                let other = if quantize { &border.copy.to } else { &border.copy.from };
                if !matches!(plan.buffers[other.buffer].storage, Storage::Arena(_)) {
                    return Vec::new();
                }
                let block = |layout| EdgeSpec { way: Way::Dequantize, layout, zero: 0, wide, far: false }.block();
                match line(&border.copy, quantize, block) {
                    Some((outer, line)) => fused.push((i, outer, line)),
                    None => return Vec::new(),
                }
            }
            let copied = |step: usize| borders.iter().any(|border| border.step == step && ours(border));
            let others = plan.steps.iter().enumerate().any(|(i, step)| touches(&step.kind, buffer) && !copied(i));
            // An output must be written by one copy alone, and not be read.
            let whole = |(i, ..): &(usize, Vec<Level>, Line)| {
                let elements = borders[*i].copy.to.elements();
                elements == self.builder.graph.ty(self.builder.graph.outputs()[index]).elements()
            };
            let partial = !quantize && (fused.len() != 1 || !fused.iter().all(whole));
            let scale = match quantize {
                true => None,
                false => real_values(self.builder.graph, self.builder.graph.outputs())[index].1,
            };
            let early =
                scale.is_none_or(|s| fused.iter().all(|(i, ..)| self.early_scale(s, borders[*i].step).is_some()));
            if others || partial || !early {
                return Vec::new();
            }
        }
        fused
    }

    /// Where the run-time scale of an output is already before a step, from which it is copied to the output behind it.
    pub fn early_scale(&self, output: usize, step: usize) -> Option<Place> {
        let plan = self.builder.plan;
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
}
