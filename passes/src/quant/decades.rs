//! Values whose small magnitudes count as much as their great ones: operands of logarithms, roots, powers and denominators.
//!
//! ```text
//! %power = nn.mul(%spectrum, %spectrum)      // 1e-8 to 1
//! %mel   = nn.linear(%power, @filters)       // 1e-8 to 1
//! %y     = nn.log(%mel)
//! ```
//!
//! A step of 8 bits of `%mel` is 0.004: its logarithm is one of 256 numbers, and the first of them is far from the second. Such
//! operands have 16 bits, and with them what they are computed from, through simple arithmetic and two layers with their weights: a
//! spectrum is no finer than the signal it is taken of. Where a step of 16 bits is too coarse as well, sums and products that lead to
//! the operand have 24: seven decades, as the power of a signal of 16 bits has.
//!
//! Arguments of a softmax are logarithms: a step is a ratio of shares, and must not be great.

use std::collections::HashSet;

use qcc_ir::format::Role;
use qcc_ir::ops::{Binary, Class, Contract, Norm, Reduce};
use qcc_ir::{Attrs, Elem, Format, Graph, NodeId, Opcode, ValueId, attr, format};

use crate::layer::QuantLayer;
use crate::op_traits::clamps;
use crate::quant::forms::{Side, form, is_square};
use crate::ranges::extent::span_of;
use crate::rewrite::scalar;

/// By how much of its extent a result may differ from one code of an operand of 8 bits to the next.
const COARSE: f32 = 1.0 / 32.0;

/// The same where scales are found in each run, beyond which there is no sense in the results.
const GUARDED: f32 = 1.0 / 4.0;

/// The greatest step of a softmax's argument: shares that differ by less are told apart to 8 %.
const SOFTMAX_STEP: f32 = 1.0 / 12.0;

/// Layers behind which values are still followed.
const LAYERS: usize = 2;

/// Points at which a function is looked at.
const POINTS: u16 = 255;

/// Steps of 8 and of 16 bits.
const STEPS: [f32; 2] = [255.0, 65535.0];

/// What is to have 16 bits.
#[derive(Default)]
pub(crate) struct Decades {
    pub(crate) values: HashSet<ValueId>,
    /// Of these, what is to have 24 bits.
    pub(crate) fine: HashSet<ValueId>,
    /// Layers whose weights are to have 16 bits.
    pub(crate) layers: HashSet<NodeId>,
    /// The operands that are the reason.
    pub(crate) operands: Vec<(ValueId, Opcode)>,
}

/// Finds operands that 8 bits are too coarse for, and what they are computed from.
pub(crate) fn decades(g: &Graph) -> Decades {
    let mut found = Decades::default();
    for n in g.order() {
        for (i, v) in g.operands(n).into_iter().enumerate() {
            if let (Opcode::Softmax, Elem::Calibrated(range)) = (g.op(n), &g.ty(v).elem)
                && span_of(*range) > STEPS[0] * SOFTMAX_STEP
            {
                found.operands.push((v, Opcode::Softmax));
                found.follow(g, v, 0, false);
            }
            let Some(f) = function(g, n, i) else { continue };
            if g.constant(v).is_none() && is_coarse(g, n, v, STEPS[0], &f) {
                found.operands.push((v, g.op(n)));
                let fine = is_coarse(g, n, v, STEPS[1], &f) && g.only_user(v) == Some(n);
                found.follow(g, v, LAYERS, fine);
                // What grows without bound towards 0 is as uneven as its operand.
                if f(1e-20).abs() > 1e6 {
                    found.values.insert(g.result(n));
                }
            }
        }
    }
    found
}

/// The function of operand `i`, if small operands can count as much as great ones.
fn function(g: &Graph, n: NodeId, i: usize) -> Option<Box<dyn Fn(f32) -> f32>> {
    let node = g.node(n);
    let other = || scalar(g, *g.operands(n).get(1 - i.min(1))?);
    match node.op.info().class {
        Class::Unary(f) if bends_at_zero(&node.attrs) => {
            let attrs = node.attrs.clone();
            Some(Box::new(move |x| f(&attrs, x)))
        }
        Class::Binary(Binary::Pow) if i == 0 => {
            let exponent = other()?;
            Some(Box::new(move |x| x.powf(exponent)))
        }
        Class::Binary(Binary::Div) if i == 1 => Some(Box::new(|x| 1.0 / x)),
        _ => None,
    }
}

/// Whether small values of an operand that is computed count as much as great ones, or small rows as much as great ones.
pub(crate) fn is_uneven(g: &Graph, n: NodeId) -> bool {
    if g.op(n) == Opcode::LayerNorm {
        return true;
    }
    let operands = g.operands(n).into_iter().enumerate();
    operands.filter(|&(_, v)| g.constant(v).is_none() && g.ty(v).is_float()).any(|(i, _)| function(g, n, i).is_some())
}

/// Whether a function that a guard such as `max(x, 1e-5)` keeps finite at 0 goes more than a quarter of its way between two of the 255
/// codes that a dynamic scale has up to 1: the guard says that such small numbers occur, and 8 bits tell nothing of them.
pub(crate) fn is_guarded(g: &Graph, n: NodeId) -> bool {
    let Class::Unary(_) = g.op(n).info().class else { return false };
    let Some(f) = function(g, n, 0).filter(|_| g.constant(g.operands(n)[0]).is_none()) else { return false };
    let results: Vec<f32> = (0..=POINTS).map(|i| f(f32::from(i) / f32::from(POINTS))).collect();
    let (least, greatest) = results.iter().fold((f32::MAX, f32::MIN), |(lo, hi), &y| (lo.min(y), hi.max(y)));
    let step = results.windows(2).map(|pair| (pair[1] - pair[0]).abs()).fold(0.0, f32::max);
    results.iter().all(|y| y.is_finite()) && step > (greatest - least) * GUARDED
}

fn bends_at_zero(attrs: &Attrs) -> bool {
    let parts = ["log(", "sqrt(", "reciprocal(", "pow(", "div("];
    match attrs.op() {
        Opcode::Log | Opcode::Sqrt | Opcode::Reciprocal => true,
        Opcode::Map => parts.into_iter().any(|part| attrs.get(attr::BODY).text().contains(part)),
        _ => false,
    }
}

/// True if one of so many steps of the operand moves the result by more than a share of its extent, somewhere in the range.
fn is_coarse(g: &Graph, n: NodeId, v: ValueId, steps: f32, f: &dyn Fn(f32) -> f32) -> bool {
    let Elem::Calibrated(range) = g.ty(v).elem else { return false };
    let step = span_of(range) / steps;
    let points: Vec<f32> =
        (0..=POINTS).map(|i| range.min + (range.max - range.min) * f32::from(i) / f32::from(POINTS)).collect();
    let results: Vec<f32> = points.iter().map(|&x| f(x)).collect();
    let greatest = || results.iter().filter(|y| y.is_finite()).fold(0.0f32, |m, y| m.max(y.abs()));
    let extent = match g.ty(g.result(n)).elem {
        Elem::Calibrated(range) if g.op(n) != Opcode::Div => range.max - range.min,
        _ => greatest(),
    };
    // Beyond the end of the range there is nothing. What is not finite is coarse.
    let mut inside = points.iter().zip(&results).filter(|(x, _)| *x + step <= range.max + step / 2.0);
    !inside.all(|(&x, &y)| (f(x + step) - y).abs() <= COARSE * extent)
}

impl Decades {
    /// The format of weights where nothing is said.
    pub(crate) fn weights(&self, layer: NodeId) -> &'static Format {
        if self.layers.contains(&layer) { &format::I16_WEIGHTS } else { format::usual(Role::Weights) }
    }

    /// Adds a value and what it is computed from; `fine`: with 24 bits, as far as sums and products give them.
    fn follow(&mut self, g: &Graph, v: ValueId, layers: usize, fine: bool) {
        let mut open = vec![(v, layers, fine)];
        while let Some((v, layers, fine)) = open.pop() {
            // The first operand is followed first.
            open.extend(self.add(g, v, layers, fine).into_iter().rev());
        }
    }

    /// Adds a value, and gives what it is computed from.
    fn add(&mut self, g: &Graph, v: ValueId, layers: usize, fine: bool) -> Vec<(ValueId, usize, bool)> {
        let producer = g.producer(v);
        let fine = fine && !g.is_output(v) && producer.is_some_and(|n| form(g, n, Side::Gives).take(&format::I24));
        if !(self.values.insert(v) || fine && self.fine.insert(v)) {
            return Vec::new();
        }
        if fine {
            self.fine.insert(v);
        }
        let Some(n) = producer else { return Vec::new() };
        let data = |i: usize| g.operands(n).get(i).copied().filter(|&x| g.constant(x).is_none() && g.ty(x).is_float());
        let operands = match g.op(n).info().class {
            Class::Contract(Contract::Conv2d | Contract::Linear) if layers > 0 && QuantLayer::read(g, n).is_ok() => {
                self.layers.insert(n);
                return data(0).map(|x| (x, layers - 1, fine)).into_iter().collect();
            }
            Class::Unary(_)
                if clamps(g.op(n))
                    || bends_at_zero(&g.node(n).attrs)
                    || is_square(g, n)
                    || matches!(g.op(n), Opcode::Abs | Opcode::Neg) =>
            {
                1
            }
            Class::Binary(Binary::Pow) => 1,
            Class::Binary(_) => 2,
            Class::Norm(Norm::Batch)
            | Class::Pool(_)
            | Class::Reduce(Reduce::Mean | Reduce::Sum | Reduce::Max | Reduce::Min) => 1,
            Class::Move(_) => g.operands(n).len(),
            Class::Contract(_) | Class::Unary(_) | Class::Norm(_) | Class::Cast(_) | Class::Int(_) => 0,
        };
        let reads = |i: usize| fine && form(g, n, Side::Reads(i)).take(&format::I24);
        (0..operands).filter_map(|i| Some((data(i)?, layers, reads(i)))).collect()
    }
}
