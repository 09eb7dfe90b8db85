//! Gives scales to what a quantized model leaves real, and brings its weights and biases into the form of integer layers.
//!
//! ```text
//! %y = nn.linear(%x.dq, %w, @b) : !quant.calibrated<f32<-2.0:3.0>>      // an output that the model does not quantize
//! // becomes
//! %y    = nn.linear(%x.dq, %w, %b.dq) : f32                             // b.dq: quant.dcast of i32
//! %y.q  = quant.qcast(%y)             : !quant.uniform<u8:f32, 0.019607844:102>
//! %y.dq = quant.dcast(%y.q)           : f32
//! ```
//!
//! A real value that the model quantizes for one reader has that type for all; the rest has its range (from `calibrate` or
//! `propagate-ranges`). Weights become `i8` with zero point 0: exact where every code less its zero point fits, else the
//! layer reads the channels concerned twice and the weights are a sum of two (`parameters`). A bias becomes `i32` in units
//! of the accumulators.

mod parameters;

use std::sync::Arc;

use qcc_ir::diag::Code;
use qcc_ir::{Def, Diag, Diags, Edit, Elem, Opcode, Uniform, ValueId};

use crate::adopt_qdq::{add_cast, chains};
use crate::assign_scales::{natural_range, workable};
use crate::{Context, Pass, diag_at};

/// The pass `scale-rest`.
pub struct ScaleRest;

impl Pass for ScaleRest {
    fn run(&self, edit: &mut Edit, _cx: &mut Context) -> Result<(), Diags> {
        let mut faults = Diags::default();
        let computed = edit.graph().order().into_iter().rev().map(|n| edit.graph().result(n));
        let values: Vec<ValueId> = computed.chain(edit.graph().inputs().to_vec()).collect();
        for v in values {
            if let Err(diag) = value(edit, v) {
                faults.0.push(diag);
            }
        }
        faults.into_result()?;
        let mut faults = Diags::default();
        for n in edit.graph().order() {
            if matches!(edit.graph().op(n), Opcode::Conv2d | Opcode::Linear)
                && let Err(message) = parameters::settle(edit, n)
            {
                faults.0.push(diag_at(edit.graph(), n, Code::NO_INTEGER_FORM, message));
            }
        }
        faults.into_result()?;
        for v in edit.graph().values().collect::<Vec<_>>() {
            if matches!(edit.graph().ty(v).elem, Elem::Calibrated(_)) {
                edit.set_elem(v, Elem::F32);
            }
        }
        edit.remove_dead();
        Ok(())
    }
}

/// Casts a real value there and back for all readers that do not quantize it themselves.
fn value(edit: &mut Edit, v: ValueId) -> Result<(), Diag> {
    let g = edit.graph();
    let is_cast = g.producer(v).is_some_and(|n| g.op(n) == Opcode::DCast);
    if !g.ty(v).is_float() || is_cast || matches!(g.def(v), Def::Const(_)) {
        return Ok(());
    }
    let (casts, readers): (Vec<_>, Vec<_>) = g.uses(v).into_iter().partition(|&(n, _)| g.op(n) == Opcode::QCast);
    if readers.is_empty() && !g.is_output(v) {
        return Ok(());
    }
    let known = casts.first().map(|&(n, _)| g.result(n));
    let observed = if let Elem::Calibrated(range) = g.ty(v).elem { Some(workable(range)) } else { None };
    let natural = g.producer(v).and_then(|n| natural_range(g.op(n)));
    let uniform = match known {
        Some(q) => g.ty(q).uniform().cloned(),
        None => natural.or(observed).map(|range| Arc::new(Uniform::u8_for(range))),
    };
    let uniform = uniform.ok_or_else(|| Diag::new(Code::RANGE, format!("%{} has no range", g.name_of(v))))?;
    if !edit.begin(format!("scale-rest: %{}", edit.graph().name_of(v))) {
        return Ok(());
    }
    edit.set_elem(v, Elem::F32);
    let q = known.unwrap_or_else(|| add_cast(edit, Opcode::QCast, v, Elem::Uniform(uniform)));
    let real = add_cast(edit, Opcode::DCast, q, Elem::F32);
    for (n, i) in readers {
        edit.set_operand(n, i, real);
    }
    if edit.graph().is_output(v) {
        let outputs = edit.graph().outputs().iter().map(|&o| if o == v { real } else { o }).collect();
        edit.set_outputs(outputs);
        let name = edit.graph().name_of(v).to_string();
        edit.rename(v, &format!("{name}.real"));
        edit.rename(q, &name);
    }
    chains::cast_operands(edit, q);
    Ok(())
}
