//! Merges chains of requantizations, rescalings, clamps and tables.
//!
//! ```text
//! %conv = int.requant(%acc, @mult) {offset = 32}
//! %relu = int.clamp(%conv) {lo = 7}
//! %f    = int.lut(%relu, @f)
//! %g    = int.lut(%f, @g)
//! // becomes
//! %relu = int.requant(%acc, @mult) {offset = 32, lo = 7}
//! %g    = int.lut(%relu, @g.merged)
//! ```
//!
//! | rule | exact |
//! |---|---|
//! | a clamp behind an operation with bounds narrows these, also through maxima and data movement | yes |
//! | tables, clamps and rescalings before a table, and tables before these, are one table | yes |
//! | a rescaling of a clamped value clamps its result | yes: it is monotone |
//! | a rescaling of a requantized or rescaled value scales its multipliers | no: one rounding less; left out with `exact` |
//! | what changes no code goes away | yes |

use qcc_ir::{Data, Diags, Edit, Graph, NodeId, Opcode, Tensor, ValueId, attr};
use qcc_num::{affine, requant};

use crate::rewrite::{bypass, can_bypass, is_live, produced_by, produced_once, substitute};
use crate::{Context, Options, Pass};

/// The pass `merge-requant`.
pub struct MergeRequant {
    exact: bool,
}

impl MergeRequant {
    /// The pass with its options.
    pub fn new(options: &Options) -> MergeRequant {
        MergeRequant { exact: options.exact() }
    }
}

/// Changes the graph at a node and says whether it did.
type Rule = fn(&mut Edit, NodeId) -> bool;

/// Rules that change no result.
const RULES: &[Rule] = &[drop_identity, clamp_into_bounds, compose_tables, rescale_clamped];

impl Pass for MergeRequant {
    fn run(&self, edit: &mut Edit, _cx: &mut Context) -> Result<(), Diags> {
        loop {
            let before = edit.labels().len();
            for n in edit.graph().order() {
                if is_live(edit.graph(), n) {
                    let done = RULES.iter().any(|rule| rule(edit, n));
                    let _ = done || !self.exact && rescale_into_multipliers(edit, n);
                }
            }
            edit.remove_dead();
            if edit.labels().len() == before {
                return Ok(());
            }
        }
    }
}

fn label(edit: &Edit, n: NodeId, what: &str) -> String {
    let g = edit.graph();
    format!("merge-requant: %{} = {} {what}", g.name_of(g.result(n)), g.op(n).name())
}

/// The code that each code becomes, for operations on single elements.
pub(crate) fn table_of(g: &Graph, n: NodeId) -> Option<Vec<u8>> {
    let attrs = &g.node(n).attrs;
    let bound = |key| u8::try_from(attrs.get(key)).ok();
    match g.op(n) {
        Opcode::Lut => {
            let table = g.constant(*g.operands(n).get(1)?)?.as_u8()?;
            (table.len() == 256).then(|| table.to_vec())
        }
        Opcode::Clamp => {
            let (lo, hi) = (bound(attr::LO)?, bound(attr::HI)?);
            (lo <= hi).then(|| (0..=255u8).map(|q| q.clamp(lo, hi)).collect())
        }
        Opcode::Rescale => {
            let rule = rescale_rule(g, n)?;
            let mult = i32::from(i16::try_from(attrs.get(attr::MULT)).ok()?);
            Some((0..=255).map(|q| rule.apply(q * mult)).collect())
        }
        _ => None,
    }
}

fn rescale_rule(g: &Graph, n: NodeId) -> Option<affine::Affine> {
    let attrs = &g.node(n).attrs;
    let byte = |key| u8::try_from(attrs.get(key)).ok();
    Some(affine::Affine {
        shift: u32::try_from(attrs.get(attr::SHIFT)).ok()?,
        offset: i32::try_from(attrs.get(attr::OFFSET)).ok()?,
        lo: byte(attr::LO)?,
        hi: byte(attr::HI)?,
    })
    .filter(|r| r.lo <= r.hi)
}

fn drop_identity(edit: &mut Edit, n: NodeId) -> bool {
    let g = edit.graph();
    let Some(table) = table_of(g, n) else { return false };
    let (x, y) = (g.operands(n)[0], g.result(n));
    let identity = table.iter().enumerate().all(|(q, &t)| q == usize::from(t));
    if !identity || g.ty(x).elem != g.ty(y).elem || !can_bypass(g, y, x) {
        return false;
    }
    let Some(mut change) = edit.begin(label(edit, n, "changes nothing")) else { return false };
    bypass(&mut change, y, x);
    true
}

/// The operation with bounds behind `v`, reached through operations that keep the order of codes, if nothing else reads
/// any of these values.
fn bounded(g: &Graph, v: ValueId) -> Option<NodeId> {
    let mut v = v;
    loop {
        g.only_user(v)?;
        let n = g.producer(v)?;
        match g.op(n) {
            Opcode::Reshape | Opcode::Transpose | Opcode::Slice | Opcode::IMaxPool => v = g.operands(n)[0],
            _ => return g.node(n).attrs.has(attr::LO).then_some(n),
        }
    }
}

fn clamp_into_bounds(edit: &mut Edit, n: NodeId) -> bool {
    let g = edit.graph();
    if g.op(n) != Opcode::Clamp {
        return false;
    }
    let (x, y) = (g.operands(n)[0], g.result(n));
    let Some(source) = bounded(g, x).filter(|_| can_bypass(g, y, x)) else { return false };
    let (lo, hi) = (g.node(n).attrs.get(attr::LO), g.node(n).attrs.get(attr::HI));
    let (node, elem) = (g.node(source).clone(), g.ty(y).elem.clone());
    let narrowed = |key: attr::Key<i64>| node.attrs.get(key).clamp(lo, hi.max(lo));
    let attrs = node.attrs.clone().with(attr::LO, narrowed(attr::LO)).with(attr::HI, narrowed(attr::HI));
    let same_type = g.ty(x).elem == elem;
    // In another type the codes on the way would stand for something else.
    if !same_type {
        return false;
    }
    let Some(mut change) = edit.begin(label(edit, n, "into the bounds before it")) else {
        return false;
    };
    let name = change.graph().name_of(y).to_string();
    change.set_op(source, node.op, attrs);
    bypass(&mut change, y, x);
    // The clamped value is what the ONNX model calls by the name of the clamp's result.
    if change.graph().name_of(x) != name {
        change.rename(y, &format!("{name}.dead"));
        change.rename(x, &name);
    }
    true
}

fn compose_tables(edit: &mut Edit, n: NodeId) -> bool {
    let g = edit.graph();
    let Some(outer) = table_of(g, n) else { return false };
    let (x, y) = (g.operands(n)[0], g.result(n));
    let Some(inner_node) = g.producer(x) else { return false };
    let Some(inner) = table_of(g, inner_node) else { return false };
    let (is_table, of_table) = (g.op(n) == Opcode::Lut, g.op(inner_node) == Opcode::Lut);
    // Without a table among the two, a clamp and a rescaling stay what they are: other rules merge them.
    if !(is_table || of_table && g.only_user(x).is_some()) {
        return false;
    }
    let source = g.operands(inner_node)[0];
    let table = inner.iter().map(|&q| outer[usize::from(q)]).collect();
    let name = format!("{}.table", g.name_of(y));
    let Some(mut change) = edit.begin(label(edit, n, "with what is before it in one table")) else {
        return false;
    };
    let table = change.add_const(&name, Tensor::new(&[256], Data::U8(table)));
    substitute(&mut change, y, Opcode::Lut, &[source, table], qcc_ir::Attrs::new(Opcode::Lut));
    true
}

/// `rescale(clamp(x))`: the bounds, rescaled, bound the result.
fn rescale_clamped(edit: &mut Edit, n: NodeId) -> bool {
    let g = edit.graph();
    if g.op(n) != Opcode::Rescale {
        return false;
    }
    let Some(clamp) = produced_by(g, g.operands(n)[0], Opcode::Clamp) else { return false };
    let (Some(table), Some(_)) = (table_of(g, n), table_of(g, clamp)) else { return false };
    let bound = |key| g.node(clamp).attrs.get(key);
    let at = |q: i64| i64::from(table[usize::try_from(q).unwrap_or(0).min(255)]);
    let (lo, hi) = (at(bound(attr::LO)), at(bound(attr::HI)));
    let attrs = g.node(n).attrs.clone();
    let source = g.operands(clamp)[0];
    if attrs.get(attr::MULT) < 0 {
        return false;
    }
    let Some(mut change) = edit.begin(label(edit, n, "takes in the clamp before it")) else {
        return false;
    };
    change.set_op(n, Opcode::Rescale, attrs.with(attr::LO, lo).with(attr::HI, hi));
    change.set_operand(n, 0, source);
    true
}

/// Zero point of an 8-bit value, from its type.
pub(crate) fn zero_point(g: &Graph, v: ValueId) -> Option<u8> {
    g.ty(v).uniform().filter(|u| u.axis.is_none()).and_then(|u| u8::try_from(u.zero_point()).ok())
}

/// The ratio of the scales of `x` and `y` by their types, of which `found` is what a multiplier made: `found` where types have no
/// scales, or others.
pub(crate) fn scale_ratio(g: &Graph, x: ValueId, y: ValueId, found: f64) -> f64 {
    let scale = |v| g.ty(v).uniform().filter(|u| u.axis.is_none()).map(|u| f64::from(u.scale()));
    let (Some(sx), Some(sy)) = (scale(x), scale(y)) else { return found };
    let ratio = sx / sy;
    if (ratio - found).abs() <= ratio * (-12f64).exp2() { ratio } else { found }
}

/// A requantization or rescaling whose only reader is a rescaling.
fn rescale_into_multipliers(edit: &mut Edit, n: NodeId) -> bool {
    let g = edit.graph();
    if g.op(n) != Opcode::Rescale {
        return false;
    }
    let (x, y) = (g.operands(n)[0], g.result(n));
    let (Some(table), Some(to)) = (table_of(g, n), zero_point(g, y)) else { return false };
    let attrs = &g.node(n).attrs;
    let factor = attrs.get(attr::MULT) as f64 / (attrs.get(attr::SHIFT) as f64).exp2();
    if factor <= 0.0 {
        return false;
    }
    let factor = scale_ratio(g, x, y, factor);
    let Some(inner) = produced_once(g, x, Opcode::Requant).or_else(|| produced_once(g, x, Opcode::Rescale)) else {
        return false;
    };
    // What the first operation clamps, the merged one clamps.
    let before = g.node(inner).attrs.clone();
    let bound = |key| i64::from(table[usize::try_from(before.get(key)).unwrap_or(0).min(255)]);
    let bounded = before.clone().with(attr::LO, bound(attr::LO)).with(attr::HI, bound(attr::HI));
    let operands = g.operands(inner);
    let merged = if g.op(inner) == Opcode::Requant {
        let Some(mult) = g.constant(operands[1]).and_then(|t| t.as_i32()) else { return false };
        let unit = (before.get(attr::SHL) as f64 - 38.0).exp2();
        let factors: Vec<f64> = mult.iter().map(|&m| f64::from(m) * unit * factor).collect();
        let Ok((shl, mult)) = requant::multipliers(&factors) else { return false };
        let attrs = bounded.with(attr::SHL, i64::from(shl)).with(attr::OFFSET, i64::from(requant::offset(to, None)));
        (attrs, Some(mult))
    } else {
        let Some(from) = zero_point(g, operands[0]) else { return false };
        let first = before.get(attr::MULT) as f64 / (before.get(attr::SHIFT) as f64).exp2();
        let Ok((shift, mult)) = affine::multipliers(&[first * factor]) else { return false };
        let offset = affine::offset(shift, to, &[(from, mult[0])]);
        let attrs = bounded.with(attr::SHIFT, i64::from(shift)).with(attr::OFFSET, i64::from(offset));
        (attrs.with(attr::MULT, i64::from(mult[0])), None)
    };
    let (op, name) = (g.op(inner), format!("{}.mult", g.name_of(y)));
    let Some(mut change) = edit.begin(label(edit, n, "into the multipliers before it")) else {
        return false;
    };
    let (attrs, mult) = merged;
    let mut operands = operands;
    if let Some(mult) = mult {
        operands[1] = change.add_const(&name, Tensor::new(&[mult.len()], Data::I32(mult)));
    }
    substitute(&mut change, y, op, &operands, attrs);
    true
}
