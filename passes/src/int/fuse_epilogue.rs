//! Takes the requantization, and then a residual addition, into the convolution or linear layer before it, where they
//! happen on accumulators in registers.
//!
//! ```text
//! %a.acc = int.conv2d(%x, @w, @b)
//! %a     = int.requant(%a.acc, @a.mult)
//! %y     = int.add(%a, %r) {mults = [..], ..}
//! // becomes
//! %y     = int.qconv2d(%x, @w, @b, @y.mult, %r) {residual_mult = .., ..}
//! ```
//!
//! The addition multiplies `a` by `f = mults[0] / 2^shift` and `r` by `g = mults[1] / 2^shift`. With `qcc_num::requant`
//! equations (1) to (4), the convolution's factors become `s f`, the residual multiplier `R = round(g 2^14)`, and the
//! offset follows from the zero points. Where types tell the scales, `f` and `g` are their ratios, which multipliers of 16 bits have rounded. `a` is no longer rounded to 8 bits and no longer saturates there: the result is
//! nearer to the real sum, and within `1 + f / 2` units of that of the two operations wherever `a` did not saturate. If both
//! operands come from a layer that nothing else reads, the one computed later takes in the addition. With `exact` additions
//! stay as they are.

use qcc_ir::{Attrs, Data, Diags, Edit, Graph, NodeId, Opcode, Tensor, ValueId, attr};
use qcc_num::convert::nearest_i64;
use qcc_num::requant;

use crate::int::merge_requant::{scale_ratio, zero_point};
use crate::rewrite::substitute;
use crate::{Context, Options, Pass};

/// The pass `fuse-epilogue`.
pub struct FuseEpilogue {
    exact: bool,
}

impl FuseEpilogue {
    /// The pass with its options.
    pub fn new(options: &Options) -> FuseEpilogue {
        FuseEpilogue { exact: options.exact() }
    }
}

impl Pass for FuseEpilogue {
    fn run(&self, edit: &mut Edit, _cx: &mut Context) -> Result<(), Diags> {
        for n in edit.graph().order() {
            if edit.graph().op(n) == Opcode::Requant {
                requantization(edit, n);
            }
        }
        edit.remove_dead();
        for n in edit.graph().order() {
            if edit.graph().op(n) == Opcode::IAdd && !self.exact {
                addition(edit, n);
            }
        }
        edit.remove_dead();
        Ok(())
    }
}

/// The fused form of a layer.
fn fused(op: Opcode) -> Option<Opcode> {
    match op {
        Opcode::IConv2d => Some(Opcode::QConv2d),
        Opcode::ILinear => Some(Opcode::QLinear),
        _ => None,
    }
}

fn requantization(edit: &mut Edit, n: NodeId) {
    let g = edit.graph();
    let operands = g.operands(n);
    let acc = operands[0];
    let y = g.result(n);
    let layer = g.producer(acc).filter(|_| g.only_user(acc).is_some());
    let Some((layer, op)) = layer.and_then(|l| Some((l, fused(g.op(l))?))) else {
        let remark = format!("not fused: the accumulators of %{} have other uses", g.name_of(y));
        edit.remark(remark);
        return;
    };
    let attrs = Attrs::new(op).with_shared(&g.node(layer).attrs).with_shared(&g.node(n).attrs);
    let mut all = g.operands(layer);
    all.push(operands[1]);
    let label = format!("fuse-epilogue: %{} into %{}", g.name_of(y), g.name_of(acc));
    if let Some(mut change) = edit.begin(label) {
        substitute(&mut change, y, op, &all, attrs);
    }
}

/// A layer that only the addition reads, and how it takes the addition in.
struct Candidate {
    layer: NodeId,
    residual: ValueId,
    mult: Vec<i32>,
    attrs: Attrs,
}

fn addition(edit: &mut Edit, n: NodeId) {
    let g = edit.graph();
    let y = g.result(n);
    let operands = g.operands(n);
    let mut candidates = Vec::new();
    let mut reasons = Vec::new();
    for i in [0, 1] {
        match candidate(g, n, &operands, i) {
            Ok(c) => candidates.push(c),
            Err(reason) => reasons.push(format!("%{}: {reason}", g.name_of(operands[i]))),
        }
    }
    let order = if candidates.len() > 1 { g.order() } else { Vec::new() };
    let rank = |c: &Candidate| order.iter().position(|&m| m == c.layer);
    let Some(chosen) = candidates.into_iter().max_by_key(rank) else {
        let remark = format!("not fused: addition %{}: {}", g.name_of(y), reasons.join("; "));
        edit.remark(remark);
        return;
    };
    let label = format!("fuse-epilogue: %{} into %{}", g.name_of(y), g.name_of(g.result(chosen.layer)));
    let mult_name = format!("{}.mult", g.name_of(y));
    let (op, mut all) = (g.op(chosen.layer), g.operands(chosen.layer));
    let Some(mut change) = edit.begin(label) else {
        return;
    };
    all.truncate(3);
    all.push(change.add_const(&mult_name, Tensor::new(&[chosen.mult.len()], Data::I32(chosen.mult))));
    all.push(chosen.residual);
    substitute(&mut change, y, op, &all, chosen.attrs);
}

/// Operand `i` of the addition as the layer that takes it in, or why it cannot.
///
/// The new layer reads the other operand. That makes no cycle: whatever the other operand is computed from, it is not the
/// layer, which the addition alone reads.
fn candidate(g: &Graph, n: NodeId, operands: &[ValueId], i: usize) -> Result<Candidate, String> {
    let (x, residual) = (operands[i], operands[1 - i]);
    let layer = g.producer(x).filter(|&l| matches!(g.op(l), Opcode::QConv2d | Opcode::QLinear));
    let layer = layer.ok_or("it is not the result of a layer")?;
    if g.only_user(x).is_none() || x == residual {
        return Err("it has other uses".into());
    }
    let before = &g.node(layer).attrs;
    let own = g.operands(layer);
    if own.len() > 4 {
        return Err("it has a residual already".into());
    }
    let y = g.result(n);
    if g.ty(residual).dims != g.ty(y).dims || g.ty(x).dims != g.ty(y).dims {
        return Err("the operands are broadcast".into());
    }
    let sum = &g.node(n).attrs;
    let unit = (-(sum.get(attr::SHIFT) as f64)).exp2();
    let mults = sum.get(attr::MULTS);
    let ratio = |v: ValueId, mult: i64| scale_ratio(g, v, y, mult as f64 * unit);
    let (f, r) = (ratio(x, mults[i]), ratio(residual, mults[1 - i]));
    if f > 2.0 {
        return Err("its scale is more than twice that of the sum".into());
    }
    let residual_mult =
        requant::residual_multiplier(r).map_err(|_| "the residual's scale is not below twice that of the sum")?;
    let mult = g.constant(own[3]).and_then(|t| t.as_i32()).ok_or("its multipliers are not constant")?;
    let scale = (before.get(attr::SHL) as f64 - 38.0).exp2() * f;
    let factors: Vec<f64> = mult.iter().map(|&m| f64::from(m) * scale).collect();
    let (shl, mult) = requant::multipliers(&factors).map_err(|e| e.to_string())?;
    // What the layer clamped by itself was a limit of its 8 bits only: a narrower clamp does not commute with the sum.
    if before.get(attr::LO) != 0 || before.get(attr::HI) != 255 {
        return Err("it clamps its result".into());
    }
    let offset = match (zero_point(g, y), zero_point(g, residual)) {
        (Some(zy), Some(zr)) => requant::offset(zy, Some((zr, residual_mult))),
        _ => offset_from_sum(sum, before, mults[i])?,
    };
    let attrs = before
        .clone()
        .with(attr::SHL, i64::from(shl))
        .with(attr::OFFSET, i64::from(offset))
        .with(attr::LO, sum.get(attr::LO))
        .with(attr::HI, sum.get(attr::HI))
        .with(attr::RESIDUAL_MULT, i64::from(residual_mult));
    Ok(Candidate { layer, residual, mult, attrs })
}

/// The offset where the types do not say the zero points: what the sum adds beside the two products, in units of the
/// result.
fn offset_from_sum(sum: &Attrs, layer: &Attrs, mult: i64) -> Result<i16, String> {
    let one = 1i64 << requant::FRACTION_BITS;
    let zero = (layer.get(attr::OFFSET) - one / 2) / one;
    let shift = sum.get(attr::SHIFT);
    let rest = sum.get(attr::OFFSET) - ((1i64 << shift) >> 1) + zero * mult;
    let units = rest as f64 / (shift as f64).exp2();
    let offset = nearest_i64(units * one as f64) + one / 2;
    i16::try_from(offset).map_err(|_| "the offset of the sum does not fit 16 bits".into())
}
