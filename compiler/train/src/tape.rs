//! Samples through a program, and back.

use qcc_ir::diag::Code;
use qcc_ir::{Data, Diag};
use qcc_num::requant::FRACTION_BITS;

use crate::kernel::{ABOVE, BELOW, Backward, Call, Codes, ParameterGradient, Rounded, Workspace, vectorized};
use crate::program::{Program, Source};

/// Derivatives of the loss by parameters.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gradients {
    /// By the integers of each layer, and its bias in units of its accumulators.
    pub(crate) layers: Vec<ParameterGradient>,
    /// By the logarithm of each scale.
    pub(crate) scales: Vec<f64>,
}

impl Gradients {
    /// Zeros for the parameters that a program has.
    pub(crate) fn zeros(program: &Program, layers: usize, scales: usize) -> Gradients {
        let mut all = vec![ParameterGradient::default(); layers];
        for (layer, [weights, outputs]) in program.steps.iter().filter_map(|s| s.layer) {
            all[layer] = ParameterGradient { weights: vec![0.0; weights], bias: vec![0.0; outputs] };
        }
        Gradients { layers: all, scales: vec![0.0; scales] }
    }

    /// Adds others.
    pub(crate) fn add(&mut self, others: &Gradients) {
        let add = |a: &mut [f32], b: &[f32]| a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
        for (own, other) in self.layers.iter_mut().zip(&others.layers) {
            add(&mut own.weights, &other.weights);
            add(&mut own.bias, &other.bias);
        }
        self.scales.iter_mut().zip(&others.scales).for_each(|(a, b)| *a += b);
    }

    /// Multiplies all by a number.
    pub(crate) fn scale(&mut self, factor: f32) {
        for layer in &mut self.layers {
            layer.weights.iter_mut().chain(&mut layer.bias).for_each(|g| *g *= factor);
        }
        self.scales.iter_mut().for_each(|g| *g *= f64::from(factor));
    }
}

/// What `batch` samples become in each slot.
pub(crate) struct Tape {
    batch: usize,
    values: Vec<Option<Rounded>>,
}

impl Tape {
    /// Takes samples through the program: for each input the codes of all, one behind the other. With `keep`, all values stay for
    /// the way back, else the outputs and what is `wanted` only.
    pub(crate) fn run(
        program: &Program,
        inputs: Vec<Data>,
        batch: usize,
        keep: bool,
        wanted: &[usize],
        space: &Workspace,
    ) -> Result<Tape, Diag> {
        let schedule = &program.schedule;
        let mut values: Vec<Option<Rounded>> = inputs.into_iter().map(|data| Some(Rounded::exact(data))).collect();
        values.resize_with(schedule.slots(), || None);
        for (i, step) in program.steps.iter().enumerate() {
            let operands = operands(program, i, &values).ok_or_else(absent)?;
            let call = Call { batch, operands: &operands, workspace: space };
            let result = step.kernel.forward(&call).map_err(|d| d.at(schedule.name(i)))?;
            values[schedule.result(i)] = Some(result);
            for &slot in schedule.last_used(i).iter().filter(|s| !keep && !wanted.contains(s)) {
                values[slot] = None;
            }
        }
        Ok(Tape { batch, values })
    }

    /// The codes of a slot.
    pub(crate) fn codes(&self, slot: usize) -> Result<&Data, Diag> {
        self.values.get(slot).and_then(Option::as_ref).map(|v| &v.codes).ok_or_else(absent)
    }

    /// Derivatives by all parameters, from those by the codes of some slots.
    pub(crate) fn back(
        &self,
        program: &Program,
        from: Vec<(usize, Vec<f32>)>,
        into: &mut Gradients,
        space: &Workspace,
    ) -> Result<(), Diag> {
        let mut by_value: Vec<Option<Vec<f32>>> = vec![None; program.slots.len()];
        for (slot, gradient) in from {
            accumulate(&mut by_value[slot], gradient, space);
        }
        for (i, step) in program.steps.iter().enumerate().rev() {
            let slot = program.schedule.result(i);
            let Some(mut gradient) = by_value[slot].take() else { continue };
            let result = self.values[slot].as_ref().ok_or_else(absent)?;
            if let Some(errors) = &result.errors {
                let by_scale = cut(&mut gradient, errors, &result.codes, program, slot);
                if let Some(scale) = program.slots[slot].scale {
                    into.scales[scale] += by_scale;
                }
            }
            let wanted: Vec<bool> =
                step.operands.iter().map(|o| matches!(o, Source::Slot(s) if program.slots[*s].trained)).collect();
            let operands = operands(program, i, &self.values).ok_or_else(absent)?;
            let call = Call { batch: self.batch, operands: &operands, workspace: space };
            let back = Backward { gradient: &gradient, result, wanted: &wanted, parameters: &mut into.layers };
            let by_operands = step.kernel.backward(&call, back);
            space.give(gradient);
            for (by, operand) in by_operands.into_iter().zip(&step.operands) {
                if let (Some(by), Source::Slot(s)) = (by, operand) {
                    accumulate(&mut by_value[*s], by, space);
                }
            }
        }
        Ok(())
    }
}

fn operands<'a>(program: &'a Program, step: usize, values: &'a [Option<Rounded>]) -> Option<Vec<Codes<'a>>> {
    program.codes(step, |slot| values[slot].as_ref().map(|v| Codes::Samples(&v.codes)))
}

fn absent() -> Diag {
    Diag::new(Code::VERIFY, "a value is used before it is computed, or after it was dropped")
}

fn accumulate(place: &mut Option<Vec<f32>>, gradient: Vec<f32>, space: &Workspace) {
    match place {
        None => *place = Some(gradient),
        Some(sum) => {
            sum.iter_mut().zip(&gradient).for_each(|(s, g)| *s += g);
            space.give(gradient);
        }
    }
}

/// What was cut off has no derivative. Returns that by the logarithm of the scale (Esser et al., ICLR 2020, equation 3, times the scale): with `v`
/// the unrounded number, `q - v` inside, `q - Z` where it was cut off.
fn cut(gradient: &mut [f32], errors: &[i8], codes: &Data, program: &Program, slot: usize) -> f64 {
    let zero = program.slots[slot].ty.uniform().map_or(0, |u| u.zero_point()) as f32;
    let unit = 1.0 / (1u32 << FRACTION_BITS) as f32;
    vectorized(Pairs { gradient, errors, codes, zero, unit })
}

/// Sums that are taken side by side.
const LANES: usize = 16;

/// Derivatives by codes that were rounded.
struct Pairs<'a> {
    gradient: &'a mut [f32],
    errors: &'a [i8],
    codes: &'a Data,
    zero: f32,
    unit: f32,
}

impl pulp::NullaryFnOnce for Pairs<'_> {
    type Output = f64;

    #[inline(always)]
    fn call(self) -> f64 {
        match self.codes {
            Data::U8(v) => self.cut(v, f32::from),
            Data::I16(v) => self.cut(v, f32::from),
            Data::I32(v) => self.cut(v, |q| q as f32),
            _ => 0.0,
        }
    }
}

impl Pairs<'_> {
    /// See [`cut`]; of these codes. Sums are taken in lanes, so that vectors can take them.
    #[inline(always)]
    fn cut<Q: Copy>(self, codes: &[Q], real: impl Fn(Q) -> f32) -> f64 {
        let mut sums = [0.0f64; LANES];
        let (gradient, rest) = self.gradient.as_chunks_mut::<LANES>();
        let ((errors, last), (codes, final_codes)) = (self.errors.as_chunks::<LANES>(), codes.as_chunks::<LANES>());
        let one = |g: f32, error: i8, q: Q| {
            // 1 or 0, so that nothing branches.
            let cut = f32::from(u8::from((error == BELOW) | (error == ABOVE)));
            let by = cut * (real(q) - self.zero) - (1.0 - cut) * (f32::from(error) * self.unit);
            (f64::from(g * by), (1.0 - cut) * g)
        };
        for ((gradient, errors), codes) in gradient.iter_mut().zip(errors).zip(codes) {
            for i in 0..LANES {
                let (by_scale, g) = one(gradient[i], errors[i], codes[i]);
                sums[i] += by_scale;
                gradient[i] = g;
            }
        }
        for (i, (g, (&error, &q))) in rest.iter_mut().zip(last.iter().zip(final_codes)).enumerate() {
            let (by_scale, left) = one(*g, error, q);
            sums[i] += by_scale;
            *g = left;
        }
        sums.iter().sum()
    }
}
