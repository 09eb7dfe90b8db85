//! What of a value those depend on that read it: beyond that nothing is lost, whatever is cut off.

use qcc_ir::{Class, Opcode, Range, Tensor, attr};
use qcc_passes::quant::sensitive_range::sensitive_range;

use super::{Action, Mixed, Step};

/// How far below the greatest argument of its row a softmax of 8 bits still tells arguments apart: `exp(-7)` is less than a quarter
/// of a 255th.
const SOFTMAX: f32 = 7.0;

impl Mixed {
    /// The value `x` of a part without what nothing depends on, brought to where it begins; `None` if that is nothing.
    pub fn told(&self, part: usize, x: &Tensor) -> Option<Tensor> {
        let slot = self.parts[part].rounded_slot;
        if self.outputs.contains(&slot) {
            return None;
        }
        let values = x.as_f32()?;
        let (min, max) = values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |e, &x| (e.0.min(x), e.1.max(x)));
        let range = Some(Range { min, max }).filter(|r| r.is_valid())?;
        let readers: Vec<(usize, &Step)> =
            self.steps.iter().enumerate().filter(|(_, s)| s.reads().contains(&slot)).collect();
        if !readers.is_empty() && readers.iter().all(|(_, s)| is_softmax_of_rows(s, x.dims.len())) {
            let row = x.dims.last().copied().filter(|&row| row > 0)?;
            let told = values.chunks(row).flat_map(|row| {
                let least = row.iter().fold(f32::NEG_INFINITY, |m, &x| m.max(x)) - SOFTMAX;
                row.iter().map(move |x| x.max(least))
            });
            return Some(Tensor::f32(&x.dims, told.collect()));
        }
        let mut needed: Option<Range> = None;
        for (i, step) in readers {
            let result = self.schedule.result(i);
            let scale = self.steps.iter().find_map(|s| match &s.action {
                Action::Round { of, to } if *of == result => to.uniform().map(|u| f64::from(u.scale())),
                Action::Round { .. } | Action::Compute { .. } => None,
            })?;
            let Action::Compute { op, attrs, .. } = &step.action else { return None };
            let Class::Unary(f) = op.info().class else { return None };
            let one = sensitive_range(range, scale, &|x| f(attrs, x));
            needed = Some(needed.map_or(one, |all| all.union(one)));
        }
        let needed = needed.filter(|needed| *needed != range)?;
        Some(Tensor::f32(&x.dims, values.iter().map(|x| x.clamp(needed.min, needed.max)).collect()))
    }
}

/// Whether a step is a softmax along the last of `rank` axes.
fn is_softmax_of_rows(step: &Step, rank: usize) -> bool {
    let Action::Compute { op: Opcode::Softmax, attrs, .. } = &step.action else { return false };
    let axis = attrs.get(attr::AXIS);
    axis == -1 || usize::try_from(axis).is_ok_and(|axis| axis + 1 == rank)
}
