//! Brings a model that is quantized already into the form that the other passes work on: real numbers between
//! `quant.dcast` and `quant.qcast`, all activations as u8 or, where they have 16 bits, as i16, and a cast wherever the model's own
//! scales can stand. Scales and zero points are the model's.
//!
//! ```text
//! %x.dq = quant.dcast(%x)              : f32               // x: !quant.uniform<i8:f32, 0.5:-3>
//! %y    = nn.conv2d(%x.dq, %w, %b)     : f32
//! %r    = nn.relu(%y)                  : f32
//! %r.q  = quant.qcast(%r)              : !quant.uniform<i8:f32, 0.25:-128>
//! // becomes
//! %x.dq = quant.dcast(%x)              : f32               // x: !quant.uniform<u8:f32, 0.5:125>
//! %y    = nn.conv2d(%x.dq, %w, %b)     : f32
//! %y.q  = quant.qcast(%y)              : !quant.uniform<u8:f32, 0.25>
//! %y.dq = quant.dcast(%y.q)            : f32
//! %r    = nn.relu(%y.dq)               : f32
//! %r.q  = quant.qcast(%r)              : !quant.uniform<u8:f32, 0.25>
//! ```
//!
//! | step | exact | module |
//! |---|---|---|
//! | layers whose operand is quantized by scales of each run become layers of real numbers | one rounding less; reported as a remark | `dynamic` |
//! | casts and movement of constants are evaluated; a matrix product with constant weights becomes `nn.linear` | yes | `constants` |
//! | codes of 8 bits with a sign and of 16 without are shifted by half of their range, codes of 4 bits are stored in 8 | yes | here |
//! | equal casts of one value become one; of unequal ones, the others rescale the first | yes; one rounding more | here |
//! | a cast before a clamp or data movement: `q (f x) = q (f (dq (q x)))` where `f` keeps the order of numbers | yes | `chains` |

pub(crate) mod chains;
pub(crate) mod constants;
mod dynamic;
mod samples;

use std::sync::Arc;

use qcc_ir::diag::Code;
use qcc_ir::{
    Attrs, Change, Data, Def, Diag, Diags, Edit, Elem, Fact, Format, Graph, Int, NodeId, Opcode, Range, Tensor,
    Uniform, ValueId, attr, format,
};
use qcc_num::convert::nearest_i64;

use crate::{Context, Pass, Samples, diag_at};
use samples::{Shift, Shifted};

/// The pass `adopt-qdq`.
pub struct AdoptQdq;

impl Pass for AdoptQdq {
    fn run(&self, edit: &mut Edit, cx: &mut Context) -> Result<(), Diags> {
        dynamic::take_out(edit);
        edit.remove_dead();
        computed_scales(edit.graph())?;
        constants::evaluate(edit);
        edit.remove_dead();
        let before: Vec<_> = edit.graph().inputs().iter().map(|&x| edit.graph().ty(x).uniform().cloned()).collect();
        activations(edit)?;
        let shifts = before.into_iter().zip(edit.graph().inputs());
        let shifts: Vec<_> = shifts.map(|(u, &x)| Some((u?, edit.graph().ty(x).uniform()?))).map(shift_of).collect();
        if shifts.iter().any(Option::is_some) {
            cx.samples = cx.samples.take().map(|samples| Arc::new(Shifted::new(samples, shifts)) as Arc<dyn Samples>);
        }
        edit.remove_dead();
        let casts = merge_casts(edit);
        for q in casts {
            chains::cast_operands(edit, q);
        }
        edit.remove_dead();
        name_outputs(edit);
        let given = edit.graph().order().iter().filter(|&&n| edit.graph().op(n) == Opcode::QCast).count();
        cx.note_source(&format!("{given} scales given by the model"));
        Ok(())
    }
}

/// Scales that the model computes from each input have no place in a network of integers.
fn computed_scales(g: &Graph) -> Result<(), Diags> {
    let origin = |n: &NodeId| g.node(*n).origin.as_ref().filter(|o| o.op == dynamic::ORIGIN).is_some();
    let Some(n) = g.order().into_iter().find(|n| origin(n)) else { return Ok(()) };
    let message = "the scales of DynamicQuantizeLinear are computed from each input and used by more than a layer";
    let diag = diag_at(g, n, Code::NO_INTEGER_FORM, message);
    Err(diag.help("give the float model that it was made from, or one that is quantized statically").into())
}

/// By how much codes of 8 bits without a sign are greater than those with one.
const SIGN: i64 = 128;

/// The type in which an activation is computed, and by how much its codes are greater there.
fn computed_in(u: &Uniform) -> Result<(Uniform, i64), String> {
    let alike = u.scales.iter().all(|&s| s == u.scale()) && u.zero_points.iter().all(|&z| z == u.zero_point());
    if !alike {
        return Err(format!("an activation of {} scales has no integer form", u.scales.len()));
    }
    let (storage, shift) = match (u.storage(), u.max() - u.min()) {
        (Int::U8 | Int::U4, _) => (Int::U8, 0),
        (Int::I8, _) => (Int::U8, SIGN),
        (Int::I4, _) => (Int::U8, 8),
        (Int::I16, _) => (Int::I16, 0),
        (Int::I32, 65535) => (Int::I16, -32768),
        (Int::I32 | Int::I64, _) => {
            return Err(format!("an activation of {} bits has no integer form", u.storage().bits()));
        }
    };
    let format = Format::linear(storage, u.min() + shift, u.max() + shift);
    Ok((Uniform::per_tensor(format, u.scale(), u.zero_point() + shift), shift))
}

/// A type of 16 bits for what is quantized by a scale for each channel, as NNCF does before depthwise convolutions: its steps are finer
/// than those of any channel but far smaller ones.
fn one_scale(g: &Graph, v: ValueId, u: &Uniform) -> Option<Uniform> {
    let is_cast = g.producer(v).is_some_and(|n| g.op(n) == Opcode::QCast);
    let is_real = g.uses(v).iter().all(|&(n, _)| g.op(n) == Opcode::DCast) && !g.is_output(v);
    let ends = |(&s, &z): (&f32, &i64)| Range { min: s * (u.min() - z) as f32, max: s * (u.max() - z) as f32 };
    let range = u.scales.iter().zip(&u.zero_points).map(ends).reduce(Range::union)?;
    (is_cast && is_real && computed_in(u).is_err() && u.axis.is_some()).then(|| Uniform::covering(&format::I16, range))
}

/// How the codes of an input changed.
fn shift_of(types: Option<(Arc<Uniform>, &Arc<Uniform>)>) -> Option<Shift> {
    let (before, now) = types.filter(|(before, now)| before != *now)?;
    Some(Shift { storage: now.storage(), by: now.zero_point() - before.zero_point() })
}

/// Gives every activation the type in which it is computed.
fn activations(edit: &mut Edit) -> Result<(), Diags> {
    let mut faults = Diags::default();
    for v in edit.graph().values().collect::<Vec<_>>() {
        let g = edit.graph();
        let Some(uniform) = g.ty(v).uniform().cloned() else { continue };
        if matches!(g.def(v), Def::Const(_)) && is_parameter(g, v) {
            continue;
        }
        if let Some(to) = one_scale(g, v, &uniform) {
            let name = g.name_of(v).to_string();
            if let Some(mut change) = edit.begin(format!("adopt-qdq: %{name} with one scale of 16 bits")) {
                change.remark(format!("%{name} has a scale for each channel: computed with one for all, of 16 bits"));
                change.set_elem(v, Elem::Uniform(to.into()));
            }
            continue;
        }
        let (to, shift) = match computed_in(&uniform) {
            Ok(found) => found,
            Err(message) => {
                let diag = Diag::new(Code::NO_INTEGER_FORM, format!("%{}: {message}", g.name_of(v)));
                faults.0.push(g.producer(v).map_or(diag.clone(), |n| diag.at(g.describe(n))));
                continue;
            }
        };
        if *uniform == to {
            continue;
        }
        let Some(mut change) =
            edit.begin(format!("adopt-qdq: %{} as {}", edit.graph().name_of(v), to.storage().name()))
        else {
            continue;
        };
        let at_interface = change.graph().is_output(v) || matches!(change.graph().def(v), Def::Input(_));
        if shift == SIGN && at_interface {
            let name = change.graph().name_of(v).to_string();
            change.set_metadata(Fact::SignedCodes, &name, Vec::new());
        }
        retype(&mut change, v, &to, shift);
    }
    faults.into_result()
}

/// True for constants of which only weights are made.
fn is_parameter(g: &Graph, c: ValueId) -> bool {
    g.uses(c).iter().all(|&(n, _)| {
        g.op(n) == Opcode::DCast
            && g.uses(g.result(n))
                .iter()
                .all(|&(n, i)| matches!((g.op(n), i), (Opcode::Conv2d | Opcode::Linear, 1 | 2)))
    })
}

fn retype(change: &mut Change, v: ValueId, to: &Uniform, shift: i64) {
    let g = change.graph();
    if let Some(tensor) = g.constant(v).cloned() {
        let Some(codes) = crate::constants::codes(&tensor) else { return };
        let codes = codes.into_iter().map(|q| (q + shift).clamp(to.min(), to.max()));
        let name = format!("{}.{}", g.name_of(v), to.storage().name());
        let data = Data::integers(to.storage(), codes);
        let tensor = Tensor::new(&tensor.dims, data);
        let new = change.add_typed_const(&name, tensor, Elem::Uniform(to.clone().into()));
        change.replace_uses(v, new);
        return;
    }
    if let Some(n) = g.producer(v).filter(|&n| g.op(n) == Opcode::Pad) {
        // On quantized types the value is a code.
        let attrs = g.node(n).attrs.clone();
        let value = nearest_i64(f64::from(attrs.get(attr::VALUE).trunc())) + shift;
        change.set_op(n, Opcode::Pad, attrs.with(attr::VALUE, value as f32));
    }
    change.set_elem(v, Elem::Uniform(to.clone().into()));
}

/// What an output is the `quant.dcast` of has the output's name: it becomes the output.
fn name_outputs(edit: &mut Edit) {
    let outputs = edit.graph().outputs().to_vec();
    for &o in &outputs {
        let g = edit.graph();
        let Some(n) = g.producer(o).filter(|&n| g.op(n) == Opcode::DCast) else { continue };
        let (q, name) = (g.operands(n)[0], g.name_of(o).to_string());
        let is_free = matches!(g.def(q), Def::Node(..)) && !outputs.contains(&q);
        if !is_free {
            continue;
        }
        let Some(mut change) = edit.begin(format!("adopt-qdq: output %{name} is quantized")) else {
            continue;
        };
        change.rename(o, &format!("{name}.dq"));
        change.rename(q, &name);
    }
}

/// One `quant.qcast` for each real value: the results of all that are left, users before what they use.
fn merge_casts(edit: &mut Edit) -> Vec<ValueId> {
    let mut casts = Vec::new();
    for v in edit.graph().values().collect::<Vec<_>>() {
        let g = edit.graph();
        let found: Vec<ValueId> =
            g.uses(v).into_iter().filter(|&(n, _)| g.op(n) == Opcode::QCast).map(|(n, _)| g.result(n)).collect();
        let Some((&first, others)) = found.split_first() else { continue };
        casts.push(first);
        for &q in others {
            let g = edit.graph();
            let (name, ty) = (g.name_of(q).to_string(), g.ty(q).clone());
            let Some(mut change) =
                edit.begin(format!("adopt-qdq: %{name} from the first cast of %{}", edit.graph().name_of(v)))
            else {
                return casts;
            };
            let same = change.graph().ty(first).elem == ty.elem;
            if same && !change.graph().is_output(q) {
                change.replace_uses(q, first);
            } else {
                let origin = crate::rewrite::origin_of(change.graph(), q);
                let s = change.add(Opcode::SCast, &[first], Attrs::new(Opcode::SCast), &name, ty, origin);
                change.replace(q, s);
            }
        }
    }
    casts.reverse();
    casts
}
