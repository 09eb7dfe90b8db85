//! What a compiled model's manifest says of its sums and requantizations, so that the file alone can be checked: see
//! [`qcc_codegen::check::claims`].

use qcc_ir::ops::Sums;
use qcc_ir::{Class, Graph, NodeId, Opcode, ValueId, attr};
use qcc_passes::accumulator_bounds;
use qcc_runtime::Manifest;
use qcc_runtime::manifest::{Accumulator, Requantization, Term};

/// Adds them for all operations of an integer graph.
pub(crate) fn record(g: &Graph, manifest: &mut Manifest) {
    for n in g.order() {
        manifest.accumulators.extend(accumulator(g, n));
        manifest.requantizations.extend(requantization(g, n));
    }
}

fn accumulator(g: &Graph, n: NodeId) -> Option<Accumulator> {
    let Class::Int(op) = g.op(n).info().class else { return None };
    let bounds = accumulator_bounds(g, n)?;
    let (operands, attrs) = (g.operands(n), &g.node(n).attrs);
    let dims = |i: usize| g.ty(operands[i]).dims.clone();
    let (term, terms): (Term, usize) = match op.form().sums {
        Sums::Weights => (Term::WeightedCode, dims(1).get(1..)?.iter().product()),
        Sums::Products => (Term::Product, *dims(0).last()?),
        Sums::Window => (Term::Code, attrs.sizes(attr::KERNEL).iter().product()),
        Sums::Axes => (Term::Code, attrs.sizes(attr::AXES).iter().filter_map(|&a| dims(0).get(a).copied()).product()),
        Sums::None => return None,
    };
    let bias = operands
        .get(2)
        .filter(|_| term == Term::WeightedCode)
        .and_then(|&v| least_and_greatest(g, v))
        .unwrap_or((0, 0));
    Some(Accumulator {
        name: g.name_of(g.result(n)).to_string(),
        terms: terms as u64,
        term: term.into(),
        bias_low: bias.0,
        bias_high: bias.1,
        low: bounds.iter().map(|b| b.0).min()?,
        high: bounds.iter().map(|b| b.1).max()?,
    })
}

fn requantization(g: &Graph, n: NodeId) -> Option<Requantization> {
    let (operands, attrs) = (g.operands(n), &g.node(n).attrs);
    let factors = match g.op(n) {
        Opcode::QConv2d | Opcode::QLinear => least_and_greatest(g, *operands.get(3)?)?,
        Opcode::Requant | Opcode::IAveragePool => least_and_greatest(g, *operands.get(1)?)?,
        Opcode::QMatMul | Opcode::IMul | Opcode::IMean => (attrs.get(attr::MULT), attrs.get(attr::MULT)),
        _ => return None,
    };
    Some(Requantization {
        name: g.name_of(g.result(n)).to_string(),
        mult_low: factors.0,
        mult_high: factors.1,
        shl: u32::try_from(attrs.get(attr::SHL)).unwrap_or(u32::MAX),
        offset: attrs.get(attr::OFFSET),
        least: attrs.get(attr::LO),
        greatest: attrs.get(attr::HI),
    })
}

/// The least and the greatest number of a constant.
fn least_and_greatest(g: &Graph, v: ValueId) -> Option<(i64, i64)> {
    let numbers = g.constant(v)?.as_i32()?;
    Some((i64::from(*numbers.iter().min()?), i64::from(*numbers.iter().max()?)))
}
