//! Evaluation of the network between float and quantized, by two domains of the executor: one goes by switches, the other computes
//! what a change of switches changes in the values of a run. Both take one sample at a time, and keep what they are asked for.

use std::sync::Arc;

use qcc_interp::{Domain, SampleState, UNWATCHED, eval_node, execute};
use qcc_ir::{Attrs, Diag, Elem, Opcode, Tensor, Type};

use super::{Action, Mixed, Operand, Step, Switches};

/// Values of all slots.
pub(crate) type Values = Vec<Arc<Tensor>>;

impl Mixed {
    /// Evaluates all.
    pub fn run(&self, inputs: &[Tensor], on: &Switches) -> Result<Values, Diag> {
        let values: Values = inputs.iter().cloned().map(Arc::new).collect();
        let mut domain = Switched { mixed: self, on, values: values.clone() };
        execute(&self.schedule, &mut domain, vec![values], UNWATCHED)?;
        Ok(domain.values)
    }

    /// Outputs among the values.
    pub fn outputs(&self, values: &[Arc<Tensor>]) -> Vec<Tensor> {
        self.outputs.iter().map(|&o| values[o].as_ref().clone()).collect()
    }

    /// Evaluates what differs after a change of switches, given the values `base` of the run before; the outputs, and the value
    /// of slot `keep` if it differs.
    pub fn rerun(
        &self,
        base: &[Arc<Tensor>],
        (from, to): (&Switches, &Switches),
        keep: Option<usize>,
    ) -> Result<(Vec<Tensor>, Option<Arc<Tensor>>), Diag> {
        let mut domain = Changed { mixed: self, base, from, to, keep, kept: None };
        let ends = execute(&self.schedule, &mut domain, vec![vec![None; self.schedule.inputs()]], UNWATCHED)?;
        let mut outputs = Vec::with_capacity(self.outputs.len());
        for end in &ends {
            for &o in &self.outputs {
                outputs.push(end.get(o)?.as_ref().unwrap_or(&base[o]).as_ref().clone());
            }
        }
        Ok((outputs, domain.kept))
    }

    fn evaluate<'a>(
        &'a self,
        step: &'a Step,
        on: &Switches,
        value: &dyn Fn(usize) -> Result<&'a Arc<Tensor>, Diag>,
    ) -> Result<Arc<Tensor>, Diag> {
        match &step.action {
            Action::Round { of, to } => {
                let x = value(*of)?;
                let is_on = step.part.is_none_or(|p| on.values[p] && self.parts[p].is_rounded);
                if is_on { Ok(Arc::new(rounded(x, to)?)) } else { Ok(x.clone()) }
            }
            Action::Compute { op, attrs, operands, ty } => {
                let is_on = step.part.is_none_or(|p| on.weights[p]);
                let mut tensors: Vec<&Tensor> = Vec::with_capacity(operands.len());
                for operand in operands {
                    tensors.push(match operand {
                        Operand::Slot(s) => value(*s)?,
                        Operand::Constant(t) => t,
                        Operand::Parameter(p) if is_on => &p.rounded,
                        Operand::Parameter(p) => &p.real,
                    });
                }
                let types: Vec<Type> = tensors.iter().map(|t| t.plain_type()).collect();
                let operands: Vec<(&Tensor, &Type)> = tensors.into_iter().zip(&types).collect();
                eval_node(*op, attrs, &operands, ty).map(Arc::new)
            }
        }
    }
}

/// Goes by switches, and records the value of every slot.
struct Switched<'a> {
    mixed: &'a Mixed,
    on: &'a Switches,
    values: Values,
}

impl Domain for Switched<'_> {
    type Value = Arc<Tensor>;

    fn step(&mut self, step: usize, samples: &[SampleState<Arc<Tensor>>]) -> Result<Vec<Arc<Tensor>>, Diag> {
        let of_sample = |sample: &SampleState<Arc<Tensor>>| {
            let value = self.mixed.evaluate(&self.mixed.steps[step], self.on, &|slot| sample.get(slot))?;
            self.values.push(value.clone());
            Ok(value)
        };
        samples.iter().map(of_sample).collect()
    }
}

/// What differs from the values `base`, which were evaluated with other switches; no value where nothing does.
struct Changed<'a> {
    mixed: &'a Mixed,
    base: &'a [Arc<Tensor>],
    from: &'a Switches,
    to: &'a Switches,
    /// The slot whose value is kept.
    keep: Option<usize>,
    kept: Option<Arc<Tensor>>,
}

impl Domain for Changed<'_> {
    type Value = Option<Arc<Tensor>>;

    fn step(&mut self, step: usize, samples: &[SampleState<Self::Value>]) -> Result<Vec<Self::Value>, Diag> {
        let mut results = Vec::with_capacity(samples.len());
        for sample in samples {
            let changed = self.changed(step, sample)?;
            if self.keep == Some(self.mixed.schedule.result(step)) {
                self.kept.clone_from(&changed);
            }
            results.push(changed);
        }
        Ok(results)
    }
}

impl Changed<'_> {
    fn changed(&self, step: usize, sample: &SampleState<Option<Arc<Tensor>>>) -> Result<Option<Arc<Tensor>>, Diag> {
        let (mixed, from, to) = (self.mixed, self.from, self.to);
        let step = &mixed.steps[step];
        let is_switched = step.part.is_some_and(|p| match step.action {
            Action::Round { .. } => from.values[p] != to.values[p],
            Action::Compute { .. } => from.weights[p] != to.weights[p],
        });
        let mut differs = is_switched;
        for slot in step.reads() {
            differs |= sample.get(slot)?.is_some();
        }
        if !differs {
            return Ok(None);
        }
        let value = |slot: usize| Ok(sample.get(slot)?.as_ref().unwrap_or(&self.base[slot]));
        mixed.evaluate(step, to, &value).map(Some)
    }
}

/// Real numbers to the nearest that a quantized type stands for.
fn rounded(x: &Tensor, to: &Type) -> Result<Tensor, Diag> {
    let (real, plain) = (to.with_elem(Elem::F32), Attrs::new(Opcode::QCast));
    if let (Some(values), Some(u)) = (x.as_f32(), to.uniform().filter(|u| u.axis.is_none())) {
        let one = |&x: &f32| u.format.fake(x, u.scale(), u.zero_point());
        return Ok(Tensor::f32(&x.dims, values.iter().map(one).collect()));
    }
    let codes = eval_node(Opcode::QCast, &plain, &[(x, &real)], to)?;
    dequantized(&codes, to)
}

pub(super) fn dequantized(codes: &Tensor, ty: &Type) -> Result<Tensor, Diag> {
    let real = ty.with_elem(Elem::F32);
    eval_node(Opcode::DCast, &Attrs::new(Opcode::DCast), &[(codes, ty)], &real)
}
