//! Proves from the weights that no accumulator leaves 32 bits, and says how many bits are left.
//!
//! For output channel `c` of a layer on inputs `x` in `[0, 255]`, padding included:
//!
//! ```text
//! b[c] + 255 * sum(min(w[c], 0))  <=  acc[c]  <=  b[c] + 255 * sum(max(w[c], 0))
//! ```
//!
//! A product of two computed matrices has the extremes of `(a - Za) (b - Zb)` times its depth. Intermediate sums may leave the
//! range in any order of summation and come back: additions wrap. Sums of pooling and means are bounded by the number of their
//! elements times 255.

use qcc_ir::diag::Code;
use qcc_ir::ops::Sums;
use qcc_ir::{Class, Diags, Edit, Graph, Int, NodeId, attr};

use crate::layer::QuantLayer;
use crate::{Context, Pass, diag_at};

/// The pass `prove-accumulators`.
pub struct ProveAccumulators;

/// What shortens a sum.
const HELP: &str = "make the weights or the bias smaller, or split the layer into two, whose results are added";

impl Pass for ProveAccumulators {
    fn run(&self, edit: &mut Edit, _cx: &mut Context) -> Result<(), Diags> {
        let mut faults = Diags::default();
        let mut least: Option<(u32, String)> = None;
        for n in edit.graph().order() {
            let g = edit.graph();
            let Some(bounds) = accumulator_bounds(g, n) else {
                if has_weights(g, n) {
                    faults.0.push(
                        diag_at(g, n, Code::OVERFLOW, "the weights are not constant: nothing is known of the sums")
                            .help("make them a constant of the graph"),
                    );
                }
                continue;
            };
            for (c, &(lo, hi)) in bounds.iter().enumerate() {
                match margin(lo, hi) {
                    Some(bits) if least.as_ref().is_none_or(|(b, _)| bits < *b) => {
                        least = Some((bits, g.name_of(g.result(n)).to_string()));
                    }
                    Some(_) => {}
                    None => {
                        let message =
                            format!("the accumulator of output channel {c} may reach {lo} to {hi}: more than 32 bits");
                        faults.0.push(diag_at(g, n, Code::OVERFLOW, message).help(HELP));
                        break;
                    }
                }
            }
        }
        if let Some((bits, name)) = least {
            edit.remark(format!("every accumulator fits 32 bits; the least margin is {bits} bits, at %{name}"));
        }
        faults.into_result()
    }
}

/// Bits by which both ends could grow within 32 bits; `None` if they do not fit.
fn margin(lo: i64, hi: i64) -> Option<u32> {
    i32::try_from(lo).and(i32::try_from(hi)).ok()?;
    let magnitude = hi.max(-(lo + 1)).max(0).unsigned_abs();
    Some(magnitude.leading_zeros() - 33)
}

fn has_weights(g: &Graph, n: NodeId) -> bool {
    matches!(g.op(n).info().class, Class::Int(op) if op.has_weights())
}

/// Bounds within which the accumulators of each output channel lie, for any input; one pair for sums without weights.
/// `None` for operations that have no accumulators or whose weights are not constant.
pub fn accumulator_bounds(g: &Graph, n: NodeId) -> Option<Vec<(i64, i64)>> {
    let operands = g.operands(n);
    let attrs = &g.node(n).attrs;
    let Class::Int(op) = g.op(n).info().class else { return None };
    match op.form().sums {
        Sums::Weights => QuantLayer::read(g, n).ok()?.accumulator_bounds(),
        Sums::Products => {
            let zeros = attrs.get(attr::ZEROS);
            let depth = i64::try_from(*g.ty(operands[0]).dims.last()?).ok()?;
            let [a, b] = [zeros[0], zeros[1]].map(|z| [-z, Int::U8.max() - z]);
            let products = a.iter().flat_map(|x| b.iter().map(move |y| x * y));
            let (lo, hi) = products.fold((0, 0), |(lo, hi), p| (p.min(lo), p.max(hi)));
            Some(vec![(lo.saturating_mul(depth), hi.saturating_mul(depth))])
        }
        Sums::Window => {
            let count: i64 = attrs.get(attr::KERNEL).iter().product();
            Some(vec![around(attrs.get(attr::ZERO), count)])
        }
        Sums::Axes => {
            let dims = &g.ty(operands[0]).dims;
            let count: usize = attrs.sizes(attr::AXES).iter().filter_map(|&a| dims.get(a)).product();
            Some(vec![around(attrs.get(attr::ZERO), i64::try_from(count).ok()?)])
        }
        // What of these grows with an extent has 64 bits; what has 32 is bounded by the rule of the operator.
        Sums::None => None,
    }
}

/// Bounds of a sum of `count` codes less the zero point.
fn around(zero: i64, count: i64) -> (i64, i64) {
    ((-zero).saturating_mul(count), (Int::U8.max() - zero).saturating_mul(count))
}

#[cfg(test)]
mod tests {
    use super::margin;

    #[test]
    fn margins() {
        assert_eq!(margin(0, i64::from(i32::MAX)), Some(0));
        assert_eq!(margin(i64::from(i32::MIN), 0), Some(0));
        assert_eq!(margin(-256, 255), Some(23));
        assert_eq!(margin(0, 0), Some(31));
        assert_eq!(margin(0, 1 << 31), None);
    }
}
