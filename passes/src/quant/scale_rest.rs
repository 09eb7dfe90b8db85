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
//! of the accumulators. Weights that the model leaves real, or with scales along another axis, get the format that flags say.
//! Layers whose operand, result or weights have 16 bits take weights of 16 (`lower-to-int` knows how) and a
//! bias of 64. What an operator has no form of 16 bits for is rounded to 8 before or behind it.

mod parameters;

use std::sync::Arc;

use qcc_ir::diag::Code;
use qcc_ir::ops::{Dialect, Move};
use qcc_ir::{Change, Class, Def, Diag, Diags, Edit, Elem, Format, Graph, NodeId, Opcode, Uniform, ValueId, format};

use crate::layer::is_layer;
use crate::op_traits::{clamps, natural_range, selects};
use crate::quant::adopt_qdq::chains;
use crate::quant::forms::{Side, refused};
use crate::quant::precision::{Overall, Wanted};
use crate::quant::whole;
use crate::ranges::extent::workable;
use crate::rewrite::add_cast;
use crate::{Context, Pass, diag_at};

/// The pass `scale-rest`.
pub struct ScaleRest;

impl Pass for ScaleRest {
    fn run(&self, edit: &mut Edit, cx: &mut Context) -> Result<(), Diags> {
        let mut faults = Diags::default();
        for n in edit.graph().order() {
            moved(edit, n);
        }
        let computed = edit.graph().order().into_iter().rev().map(|n| edit.graph().result(n));
        let values: Vec<ValueId> = computed.chain(edit.graph().inputs().to_vec()).collect();
        let wanted = Wanted::find(edit.graph(), &cx.precision, cx.overall, &[])?;
        if cx.overall != Overall::default() {
            cx.notes.push(
                "the model brings its own scales and formats: --weights and --activations are for what it leaves real"
                    .to_string(),
            );
        }
        for v in values {
            if let Err(diag) = value(edit, v, wanted.value(v)) {
                faults.0.push(diag);
            }
        }
        faults.into_result()?;
        let mut faults = Diags::default();
        for n in edit.graph().order() {
            if is_layer(edit.graph().op(n))
                && let Err(message) = parameters::settle(edit, n, wanted.said_of_weights(n))
            {
                faults.0.push(diag_at(edit.graph(), n, Code::NO_INTEGER_FORM, message));
            }
        }
        faults.into_result()?;
        forget_ranges(edit);
        edit.remove_dead();
        for n in edit.graph().order() {
            narrow(edit, n);
        }
        Ok(())
    }
}

/// Values that stay real need their ranges no more.
fn forget_ranges(edit: &mut Edit) {
    let g = edit.graph();
    let ranged: Vec<ValueId> = g.values().filter(|&v| matches!(g.ty(v).elem, Elem::Calibrated(_))).collect();
    if ranged.is_empty() {
        return;
    }
    let Some(mut change) = edit.begin(format!("scale-rest: ranges of {} values are used", ranged.len())) else {
        return;
    };
    ranged.into_iter().for_each(|v| change.set_elem(v, Elem::F32));
}

/// What has more bits than an operation can read or give it reads or gives in 8 of the same range.
fn narrow(edit: &mut Edit, n: NodeId) {
    let g = edit.graph();
    if g.op(n).info().dialect() == Dialect::Quant {
        return;
    }
    for (i, v) in g.operands(n).into_iter().enumerate() {
        let g = edit.graph();
        let cast = g.producer(v).filter(|&p| g.op(p) == Opcode::DCast).map(|p| g.operands(p)[0]);
        if let Some(q) = cast.filter(|&q| refused(g, q, n, Side::Reads(i)).is_some()) {
            let label = format!("scale-rest: %{} in 8 bits before %{}", g.name_of(v), g.name_of(g.result(n)));
            let Some(mut change) = edit.begin(label) else { return };
            let in_8_bits = rounded(&mut change, n, v, q);
            change.set_operand(n, i, in_8_bits);
        }
    }
    let g = edit.graph();
    let y = g.result(n);
    for (caster, _) in g.uses(y) {
        let g = edit.graph();
        let q = g.result(caster);
        if g.op(caster) == Opcode::QCast && refused(g, q, n, Side::Gives).is_some() {
            let Some(mut change) = edit.begin(format!("scale-rest: %{} in 8 bits", g.name_of(y))) else { return };
            let in_8_bits = rounded(&mut change, n, y, q);
            change.set_operand(caster, 0, in_8_bits);
        }
    }
}

/// A real value behind casts to 8 bits and back, of the range of a type of more.
fn rounded(change: &mut Change, n: NodeId, v: ValueId, like: ValueId) -> ValueId {
    let g = change.graph();
    let Some(of) = g.ty(like).uniform().cloned() else { return v };
    let (name, op, bits) = (g.name_of(v), g.op(n).name(), of.format.bits());
    let narrow = Elem::Uniform(Uniform::covering(&format::U8, of.range()).into());
    let remark = format!("%{name} is rounded to 8 bits: `{op}` has no form of {bits}");
    change.remark(remark);
    let q = add_cast(change, Opcode::QCast, v, narrow);
    add_cast(change, Opcode::DCast, q, Elem::F32)
}

/// True if all that becomes of a sum of products are results of functions that the model quantizes: with 8 bits for the argument too,
/// they would be off by several of its units where a function is steep.
fn is_argument(g: &Graph, v: ValueId, readers: &[(NodeId, usize)]) -> bool {
    let is_layer = g.producer(v).is_some_and(|n| is_layer(g.op(n)));
    let is_function = |&(n, _): &(NodeId, usize)| {
        let uses = g.uses(g.result(n));
        let is_cast = |&(user, _): &(NodeId, usize)| g.op(user) == Opcode::QCast;
        matches!(g.op(n).info().class, Class::Unary(_)) && !clamps(g.op(n)) && uses.iter().all(is_cast)
    };
    is_layer && !g.is_output(v) && readers.iter().all(is_function)
}

/// Casts a real value there and back for all readers that do not quantize it themselves.
fn value(edit: &mut Edit, v: ValueId, wanted: Option<&Format>) -> Result<(), Diag> {
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
    let format = match wanted {
        Some(format) if !format.fits_byte() => format,
        _ if is_argument(g, v, &readers) => &format::I16,
        _ => wanted.unwrap_or(&format::U8),
    };
    let uniform = match known {
        Some(q) => g.ty(q).uniform().cloned(),
        None if whole::is_whole(g, v) => observed.map(|range| Arc::new(whole::covering(format, range))),
        None => natural.or(observed).map(|range| Arc::new(Uniform::covering(format, range))),
    };
    let uniform = uniform.ok_or_else(|| Diag::new(Code::RANGE, format!("%{} has no range", g.name_of(v))))?;
    if let Some(q) = settle(edit, v, known, uniform, readers) {
        chains::cast_operands(edit, q);
    }
    Ok(())
}

/// What is moved from a quantized value has its type: nothing is computed.
fn moved(edit: &mut Edit, n: NodeId) {
    let g = edit.graph();
    let is_moved = match g.op(n).info().class {
        Class::Move(Move::Concat | Move::Where) => false,
        _ => selects(g.op(n)),
    };
    let (x, y) = (g.operands(n).first().copied(), g.result(n));
    let cast = x.and_then(|x| g.producer(x)).filter(|&p| is_moved && g.op(p) == Opcode::DCast);
    let Some(q) = cast.map(|p| g.operands(p)[0]) else { return };
    let readers = g.uses(y);
    let quantized = readers.iter().any(|&(n, _)| g.op(n) == Opcode::QCast);
    let Some(uniform) = g.ty(q).uniform().cloned().filter(|u| u.axis.is_none()) else { return };
    if g.constant(q).is_none() && g.ty(y).is_float() && !quantized && chains::is_representable(edit, n, q) {
        settle(edit, y, None, uniform, readers);
    }
}

/// Casts a real value to a type and back for its readers; gives the result of the `quant.qcast`.
fn settle(
    edit: &mut Edit,
    v: ValueId,
    known: Option<ValueId>,
    uniform: Arc<Uniform>,
    readers: Vec<(NodeId, usize)>,
) -> Option<ValueId> {
    let mut change = edit.begin(format!("scale-rest: %{}", edit.graph().name_of(v)))?;
    change.set_elem(v, Elem::F32);
    let q = known.unwrap_or_else(|| add_cast(&mut change, Opcode::QCast, v, Elem::Uniform(uniform)));
    let real = add_cast(&mut change, Opcode::DCast, q, Elem::F32);
    for (n, i) in readers {
        change.set_operand(n, i, real);
    }
    if change.graph().is_output(v) {
        let outputs = change.graph().outputs().iter().map(|&o| if o == v { real } else { o }).collect();
        change.set_outputs(outputs);
        let name = change.graph().name_of(v).to_string();
        change.rename(v, &format!("{name}.real"));
        change.rename(q, &name);
    }
    Some(q)
}
