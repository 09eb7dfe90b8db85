//! The residual streams of transformers: sums that layer normalizations read, and what is added to them.
//!
//! ```text
//! %h = nn.linear(%n, @w1, @b1)
//! %a = nn.gelu(%h)
//! %d = nn.linear(%a, @w2, @b2)
//! %s = nn.add(%n, %d)                  // one channel of 384 reaches 190, the others 1
//! %n2 = nn.layer_norm(%s, ..)
//! ```
//!
//! A few channels of such a stream are hundreds of times as great as the others, on purpose: what the normalization makes of the others
//! lies within one step of 8 bits. Where samples show that, the stream has 16 bits, what is normalized, and what its branches activate: all else stays in 8.

use std::collections::HashSet;

use qcc_ir::ops::{Class, Contract, Norm};
use qcc_ir::{Fact, Graph, Opcode, ValueId};

use crate::op_traits::clamps;
use crate::quant::forms::moves_any;

/// Values of residual streams.
#[derive(Default)]
pub(crate) struct Streams {
    /// All that is to have 16 bits.
    pub(crate) values: HashSet<ValueId>,
    /// The sums and what layers add to them: where more than 8 bits are wanted anyway, they have 24.
    pub(crate) sums: HashSet<ValueId>,
}

/// Range of a value in its standard deviations from which on a few numbers take the codes of all others. That of a million normal
/// numbers is 10.
const LONG_TAILS: f64 = 14.0;

/// Finds the streams, and what else is normalized though samples showed that a few numbers of it are far from all others.
pub(crate) fn streams(g: &Graph) -> Streams {
    let (mut all, mut found) = (Streams::default(), Streams::default());
    for n in g.order() {
        let Class::Norm(Norm::Layer) = g.op(n).info().class else { continue };
        let x = g.operands(n)[0];
        all.sum(g, x);
        if has_long_tails(g, x) {
            if found.sum(g, x) {
                found.values.insert(g.result(n));
            } else {
                found.values.insert(x);
            }
        }
    }
    Streams { values: found.values, sums: all.sums }
}

/// Whether samples showed so.
fn has_long_tails(g: &Graph, v: ValueId) -> bool {
    let seen = g.metadata().get(Fact::Seen, g.name_of(v)).unwrap_or_default();
    matches!(*seen, [min, max, deviation] if max - min > LONG_TAILS * deviation)
}

impl Streams {
    /// Adds a sum and its terms; false if the value is none.
    fn sum(&mut self, g: &Graph, v: ValueId) -> bool {
        let Some(mut open) = self.own(g, v) else { return false };
        while let Some(t) = open.pop() {
            match self.own(g, t) {
                Some(terms) => open.extend(terms),
                None => self.term(g, t),
            }
        }
        true
    }

    /// Adds a sum, behind what moves it, and gives its terms, none if it is known; `None` if the value is no sum.
    fn own(&mut self, g: &Graph, v: ValueId) -> Option<Vec<ValueId>> {
        let (mut moved, mut v) = (Vec::new(), v);
        let terms = loop {
            if self.sums.contains(&v) {
                break Vec::new();
            }
            moved.push(v);
            let n = g.producer(v).filter(|_| !g.is_output(v))?;
            match g.operands(n)[..] {
                [x] if moves_any(g, n) => v = x,
                // Positions are constants.
                _ if g.op(n) == Opcode::Add => {
                    break g.operands(n).into_iter().filter(|&t| g.constant(t).is_none()).collect();
                }
                _ => return None,
            }
        };
        self.values.extend(&moved);
        self.sums.extend(moved);
        Some(terms)
    }

    /// A term that is no sum: what a branch gives, or a value that was normalized.
    fn term(&mut self, g: &Graph, v: ValueId) {
        let Some(n) = g.producer(v).filter(|_| !g.is_output(v)) else { return };
        self.values.insert(v);
        if let Class::Contract(Contract::Linear | Contract::Conv2d) = g.op(n).info().class {
            self.sums.insert(v);
            let activated = g.operands(n)[0];
            let by = g.producer(activated).filter(|&a| {
                matches!(g.op(a).info().class, Class::Unary(_)) && !clamps(g.op(a)) && g.only_user(activated) == Some(n)
            });
            if let Some(a) = by {
                self.values.extend([activated, g.operands(a)[0]]);
            }
        }
    }
}
