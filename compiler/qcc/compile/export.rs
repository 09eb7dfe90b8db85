//! How the integer model differs from what the types of the quantized graph say, for an ONNX file that is to give its results.
//!
//! A layer that takes an addition in rounds once, and adds the residual in 64ths of a unit; a sum on its own has multipliers of 16 bits.
//! Both are right to within a rounding beside ties, but a code that differs in an early layer changes many behind it, so that files
//! say what is added: [`qcc_onnx::Addend`].

use std::collections::{HashMap, HashSet};

use qcc_ir::{Graph, NodeId, Opcode, ValueId, attr};
use qcc_num::requant::{FRACTION_BITS, residual_term};
use qcc_onnx::Addend;

/// What the integer form of a value may be called after it.
const SUFFIXES: [&str; 4] = ["", ".nhwc", ".t", ".acc"];

/// How far the ratio of a multiplier may be from that of the scales, as a part of it, to be taken for it.
const NEAR: f64 = 1.0 / 4096.0;

/// Values of the quantized graph that an addition or a change of scale reads and that the integer graph does not have any more.
pub(super) fn unrounded(quantized: &Graph, integer: &Graph) -> HashSet<String> {
    let names: HashSet<&str> = integer.values().map(|v| integer.name_of(v)).collect();
    let gone = |name: &str| !SUFFIXES.iter().any(|suffix| names.contains(&*format!("{name}{suffix}")));
    let added =
        |v: ValueId| quantized.only_user(v).is_some_and(|n| matches!(quantized.op(n), Opcode::Add | Opcode::SCast));
    let read = quantized.values().filter(|&v| added(v)).map(|v| quantized.name_of(v));
    read.filter(|name| gone(name)).map(str::to_string).collect()
}

/// What the operands of additions add, where the integers have rounded it.
pub(super) fn addends(
    quantized: &Graph,
    integer: &Graph,
    unrounded: &HashSet<String>,
) -> HashMap<(String, usize), Addend> {
    let mut all = HashMap::new();
    for n in quantized.order() {
        if !matches!(quantized.op(n), Opcode::Add | Opcode::Sub) {
            continue;
        }
        let name = quantized.name_of(quantized.result(n));
        let sum = SUFFIXES.iter().find_map(|suffix| integer.producer(integer.find(&format!("{name}{suffix}"))?));
        let found = match sum.map(|m| (m, integer.op(m))) {
            Some((m, Opcode::IAdd)) => sum_of_two(quantized, n, integer, m),
            Some((m, Opcode::QConv2d | Opcode::QLinear)) => residual(quantized, n, integer, m, unrounded),
            _ => Vec::new(),
        };
        all.extend(found.into_iter().map(|(i, addend)| ((name.to_string(), i), addend)));
    }
    all
}

/// Scale and zero point of a value of bytes.
fn bytes(g: &Graph, v: ValueId) -> Option<(f64, u8)> {
    let u = g.ty(v).uniform().filter(|u| u.axis.is_none())?;
    Some((f64::from(u.scale()), u8::try_from(u.zero_point()).ok()?))
}

/// The scales that multipliers of 16 bits stand for.
fn sum_of_two(quantized: &Graph, n: NodeId, integer: &Graph, m: NodeId) -> Vec<(usize, Addend)> {
    let attrs = &integer.node(m).attrs;
    let mults = attrs.get(attr::MULTS);
    let operands = quantized.operands(n);
    let Some((unit, _)) = bytes(quantized, quantized.result(n)) else { return Vec::new() };
    let unit = unit / (attrs.get(attr::SHIFT) as f64).exp2();
    if mults.iter().any(|m| m.abs() > i64::from(i16::MAX)) {
        return Vec::new();
    }
    let scale = |order: [usize; 2], i: usize| {
        let scale = mults[order[i]].unsigned_abs() as f64 * unit;
        let (own, _) = bytes(quantized, operands[i])?;
        ((scale - own).abs() <= own * NEAR).then_some((i, Addend::Scale(scale as f32)))
    };
    let both = |order| Some(vec![scale(order, 0)?, scale(order, 1)?]);
    both([0, 1]).or_else(|| both([1, 0])).unwrap_or_default()
}

/// The terms of a residual.
fn residual(
    quantized: &Graph,
    n: NodeId,
    integer: &Graph,
    m: NodeId,
    unrounded: &HashSet<String>,
) -> Vec<(usize, Addend)> {
    let mult = integer.node(m).attrs.get(attr::RESIDUAL_MULT);
    let operands = quantized.operands(n);
    let kept = |&i: &usize| !unrounded.contains(quantized.name_of(operands[i]));
    let rest: Vec<usize> = (0..operands.len()).filter(kept).collect();
    let ([i], Ok(mult)) = (rest.as_slice(), u16::try_from(mult)) else { return Vec::new() };
    let (Some((unit, _)), Some((scale, zero))) =
        (bytes(quantized, quantized.result(n)), bytes(quantized, operands[*i]))
    else {
        return Vec::new();
    };
    if mult == 0 || quantized.constant(operands[*i]).is_some() {
        return Vec::new();
    }
    let unit = (unit / f64::from(1u32 << FRACTION_BITS)) as f32;
    // Codes times `R / 2^8` are multiples of 1/256: half of that keeps single precision on the right side of whole numbers.
    let factor = f64::from(mult) / 256.0;
    let term = (factor * f64::from(zero) + 1.0 / 512.0) as f32;
    let addend =
        Addend::Floor { factor: (factor / scale) as f32, term, zero: f32::from(residual_term(zero, mult)), unit };
    vec![(*i, addend)]
}
