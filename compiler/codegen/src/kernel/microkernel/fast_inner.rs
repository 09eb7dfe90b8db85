//! Fast inner products: half of the multiplications for additions of 16 bits, exactly, on machines whose dots are of 16-bit pairs.
//!
//! ```text
//! a w + a' w' = (a + w') (a' + w) - a a' - w w'
//! ```
//! S. Winograd, *A New Algorithm for Inner Product*, IEEE Transactions on Computers C-17, 1968; equations (44) and (45) of `docs/math.md`. Four neighbouring activations
//! are two pairs, `[a0, a1]` and `[a2, a3]`, of which the first takes the place of `a` and the second that of `a'`. What the activations of a pixel add is its term, what weights add
//! is in the bias: both wrap, as all sums do. A sum of an activation of 8 bits and a weight of 8 bits is far from 16.

use super::emit::LoopNest;
use super::tiling::Panel;
use crate::machine::{At, Machine};

/// Bytes of a pair of activations.
const PAIR: usize = 4;
/// Activations of two pairs.
pub const STEP: usize = 4;

/// What a channel's weights add to each sum too much, whole steps of them: `w0 w2 + w1 w3` of every step.
pub fn weight_term(weights: &[i8]) -> i32 {
    let product = |a: i8, b: i8| i32::from(a) * i32::from(b);
    weights.chunks_exact(STEP).map(|w| product(w[0], w[2]) + product(w[1], w[3])).fold(0, i32::wrapping_add)
}

impl<P: Copy> LoopNest<'_, P> {
    /// So many steps: both pairs of activations of each pixel against both pairs of weights of each vector, which are read once.
    pub(super) fn fast_steps<M: Machine<Pointer = P>>(
        &self,
        m: &mut M,
        panel: &Panel,
        chains: &[Vec<Vec<M::Vector>>],
        steps: usize,
        offsets: &[usize],
    ) {
        let (weights, input) = (At::new(self.pointers.weights), At::new(self.pointers.input));
        let factor = panel.vector_bytes / 2;
        for step in 0..steps {
            let of_vector = |m: &mut M, vector: usize| {
                let at = weights.plus((step * panel.vectors + vector) * panel.vector_bytes);
                [at, at.plus(factor)].map(|at| m.load(at))
            };
            let weights: Vec<[M::Vector; 2]> = (0..panel.vectors).map(|vector| of_vector(m, vector)).collect();
            for (pixel, &offset) in chains[step % chains.len()].iter().zip(offsets) {
                let at = input.plus(offset + 2 * PAIR * step);
                let activations = [at, at.plus(PAIR)].map(|at| m.splat_at(at));
                pixel.iter().zip(&weights).for_each(|(&acc, &weights)| m.fast_dot(acc, activations, weights));
                activations.into_iter().for_each(|pair| m.release(pair));
            }
            weights.into_iter().flatten().for_each(|weights| m.release(weights));
        }
    }
}
