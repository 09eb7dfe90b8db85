//! Sums of so many products that without samples nothing tells how far they reach.
//!
//! Of 70 000 elements with weights of one sign the sum is 265 times an element where these are independent of each other, and 70 000
//! times where they are alike, as the pixels of an image are. A range for the one leaves no step of 8 bits for the other: such a result
//! has 16.

use std::collections::HashSet;

use qcc_ir::{Graph, ValueId};

use crate::layer::{QuantLayer, is_layer};
use crate::ranges::extent::span;

/// Fewest products.
const LONG: usize = 1024;

/// How many standard deviations of a sum of independent elements its range may span in 8 bits.
const MOST_DEVIATIONS: f64 = 64.0;

/// Standard deviations that the range of an element spans: six on either side.
const OF_ELEMENT: f64 = 12.0;

/// Results whose ranges do not come from samples and leave too little for independent elements.
pub(crate) fn long_sums(g: &Graph, is_seen: impl Fn(ValueId) -> bool) -> HashSet<ValueId> {
    let wide = |v: &ValueId| {
        let n = g.producer(*v).filter(|&n| is_layer(g.op(n)))?;
        let layer = QuantLayer::read(g, n).ok().filter(|layer| layer.depth() >= LONG)?;
        let squares = |w: &[f32]| w.iter().map(|&w| f64::from(w) * f64::from(w)).sum::<f64>();
        let rows = layer.weights.reals()?.chunks(layer.depth()).map(squares);
        let element = f64::from(span(g, g.operands(n)[0])) / OF_ELEMENT;
        let deviation = rows.fold(0.0f64, f64::max).sqrt() * element;
        Some(f64::from(span(g, *v)) > MOST_DEVIATIONS * deviation)
    };
    g.values().filter(|&v| !is_seen(v) && wide(&v) == Some(true)).collect()
}
