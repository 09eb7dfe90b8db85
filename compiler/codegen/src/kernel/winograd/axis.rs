//! The transforms along one dimension.
//!
//! F(m, 3) computes m neighbouring results of 3 taps with m + 2 products (Winograd, *Arithmetic Complexity of Computations*, 1980; the matrices for
//! convolutions are those of Lavin and Gray, *Fast Algorithms for Convolutional Neural Networks*, 2016, section 4, in other units). With `B` of the
//! activations `d`, `G` of the weights `g` and `A` of the products:
//! ```text
//! A^T ((G g) * (B^T d)) = odd * 2^shift * (direct results)
//! ```
//! All entries are integers: where the usual matrices have fractions, rows of `G` are multiplied by a common denominator, as far as transformed weights stay
//! in 16 bits, and else columns of `A^T`. The points of F(4, 3) are 0, 1, -1, 2, -2 and infinity, those of F(2, 3) the first three and infinity.

use crate::machine::tiles::{Lanes, TileMachine};

/// What is done along one dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Axis {
    /// Nothing, of one tap.
    One,
    /// F(2, 3).
    F2,
    /// F(4, 3).
    F4,
}

/// A matrix by rows.
pub type Matrix = &'static [&'static [i32]];

impl Axis {
    /// Every axis.
    pub const ALL: [Axis; 3] = [Axis::One, Axis::F2, Axis::F4];

    /// Results of a tile.
    pub const fn outputs(self) -> usize {
        match self {
            Axis::One => 1,
            Axis::F2 => 2,
            Axis::F4 => 4,
        }
    }

    /// Taps.
    pub const fn taps(self) -> usize {
        match self {
            Axis::One => 1,
            Axis::F2 | Axis::F4 => 3,
        }
    }

    /// Activations of a tile, and products.
    pub const fn points(self) -> usize {
        self.outputs() + self.taps() - 1
    }

    /// The odd part of the factor by which transformed results are too large.
    pub const fn odd(self) -> u32 {
        match self {
            Axis::One | Axis::F2 => 1,
            Axis::F4 => 3,
        }
    }

    /// How many times 2 divides that factor.
    pub const fn shift(self) -> u32 {
        match self {
            Axis::One => 0,
            Axis::F2 => 1,
            Axis::F4 => 3,
        }
    }

    /// `B^T`.
    pub const fn input_matrix(self) -> Matrix {
        match self {
            Axis::One => &[&[1]],
            Axis::F2 => &[&[1, 0, -1, 0], &[0, 1, 1, 0], &[0, -1, 1, 0], &[0, -1, 0, 1]],
            Axis::F4 => &[
                &[4, 0, -5, 0, 1, 0],
                &[0, -4, -4, 1, 1, 0],
                &[0, 4, -4, -1, 1, 0],
                &[0, -2, -1, 2, 1, 0],
                &[0, 2, -1, -2, 1, 0],
                &[0, 4, 0, -5, 0, 1],
            ],
        }
    }

    /// `G`.
    pub const fn weight_matrix(self) -> Matrix {
        match self {
            Axis::One => &[&[1]],
            Axis::F2 => &[&[2, 0, 0], &[1, 1, 1], &[1, -1, 1], &[0, 0, 2]],
            Axis::F4 => &[&[6, 0, 0], &[-4, -4, -4], &[-4, 4, -4], &[1, 2, 4], &[1, -2, 4], &[0, 0, 12]],
        }
    }

    /// `A^T`.
    pub const fn output_matrix(self) -> Matrix {
        match self {
            Axis::One => &[&[1]],
            Axis::F2 => &[&[1, 1, 1, 0], &[0, 1, -1, 1]],
            Axis::F4 => &[&[1, 1, 1, 1, 1, 0], &[0, 1, -1, 2, -2, 0], &[0, 1, 1, 4, 4, 0], &[0, 1, -1, 8, -8, 2]],
        }
    }

    /// `B^T d` on 16-bit lanes. Releases the operands.
    pub(super) fn transform_input<M: TileMachine>(self, m: &mut M, d: Vec<M::Vector>) -> Vec<M::Vector> {
        let l = Lanes::I16;
        match d[..] {
            [d0, d1, d2, d3] => {
                let (v0, v1) = (m.difference(l, d0, d2), m.sum(l, d1, d2));
                let (v2, v3) = (m.difference(l, d2, d1), m.difference(l, d3, d1));
                release(m, &d);
                vec![v0, v1, v2, v3]
            }
            [d0, d1, d2, d3, d4, d5] => {
                let (even, odd) = (less_fourfold(m, d4, d2), less_fourfold(m, d3, d1));
                let (v1, v2) = (m.sum(l, even, odd), m.difference(l, even, odd));
                release(m, &[even, odd]);
                let (even, once) = (m.difference(l, d4, d2), m.difference(l, d3, d1));
                let twice = m.sum(l, once, once);
                release(m, &[once, d1, d4]);
                let (v3, v4) = (m.sum(l, even, twice), m.difference(l, even, twice));
                let outer = m.difference(l, d0, d2);
                let fourfold = m.shifted_left(l, outer, 2);
                let v0 = m.sum(l, fourfold, even);
                release(m, &[d0, d2, outer, fourfold, even]);
                let outer = m.difference(l, d5, d3);
                let less = m.difference(l, outer, twice);
                let v5 = m.difference(l, less, twice);
                release(m, &[d3, d5, outer, less, twice]);
                vec![v0, v1, v2, v3, v4, v5]
            }
            _ => d,
        }
    }

    /// `A^T p` on 32-bit lanes, modulo 2^32. Releases the operands.
    pub(super) fn transform_output<M: TileMachine>(self, m: &mut M, p: Vec<M::Vector>) -> Vec<M::Vector> {
        let l = Lanes::I32;
        match p[..] {
            [p0, p1, p2, p3] => {
                let (both, apart) = (m.sum(l, p1, p2), m.difference(l, p1, p2));
                let results = vec![m.sum(l, p0, both), m.sum(l, apart, p3)];
                release(m, &[both, apart]);
                release(m, &p);
                results
            }
            [p0, p1, p2, p3, p4, p5] => {
                let (one, one_apart) = (m.sum(l, p1, p2), m.difference(l, p1, p2));
                let (two, two_apart) = (m.sum(l, p3, p4), m.difference(l, p3, p4));
                release(m, &p[1..5]);
                let inner = m.sum(l, one, two);
                let y0 = m.sum(l, p0, inner);
                release(m, &[inner, p0]);
                let y1 = plus_shifted(m, one_apart, two_apart, 1);
                let y2 = plus_shifted(m, one, two, 2);
                release(m, &[one, two]);
                let most = plus_shifted(m, one_apart, two_apart, 3);
                let y3 = plus_shifted(m, most, p5, 1);
                release(m, &[one_apart, two_apart, most, p5]);
                vec![y0, y1, y2, y3]
            }
            _ => p,
        }
    }

    /// `G g`.
    pub(super) fn transform_weights(self, g: &[i32], to: &mut [i32]) {
        match (self, g) {
            (Axis::F2, &[a, b, c]) => to.copy_from_slice(&[2 * a, a + b + c, a - b + c, 2 * c]),
            (Axis::F4, &[a, b, c]) => {
                let (even, odd) = (a + c, a + 4 * c);
                to.copy_from_slice(&[6 * a, -4 * (even + b), -4 * (even - b), odd + 2 * b, odd - 2 * b, 12 * c]);
            }
            _ => to.copy_from_slice(g),
        }
    }
}

fn release<M: TileMachine>(m: &mut M, vectors: &[M::Vector]) {
    vectors.iter().for_each(|&vector| m.release(vector));
}

/// `a - 4 b` on 16-bit lanes.
fn less_fourfold<M: TileMachine>(m: &mut M, a: M::Vector, b: M::Vector) -> M::Vector {
    let fourfold = m.shifted_left(Lanes::I16, b, 2);
    let less = m.difference(Lanes::I16, a, fourfold);
    m.release(fourfold);
    less
}

/// `a + 2^bits b` on 32-bit lanes.
fn plus_shifted<M: TileMachine>(m: &mut M, a: M::Vector, b: M::Vector, bits: u32) -> M::Vector {
    let shifted = m.shifted_left(Lanes::I32, b, bits);
    let sum = m.sum(Lanes::I32, a, shifted);
    m.release(shifted);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By linearity, on all pairs of unit vectors.
    #[test]
    fn the_matrices_compute_convolutions() {
        for axis in Axis::ALL {
            let factor = (axis.odd() << axis.shift()) as i32;
            for tap in 0..axis.taps() {
                for point in 0..axis.points() {
                    for (output, row) in axis.output_matrix().iter().enumerate() {
                        let product = |p: usize| axis.weight_matrix()[p][tap] * axis.input_matrix()[p][point];
                        let sum: i32 = row.iter().enumerate().map(|(p, a)| a * product(p)).sum();
                        let direct = if output + tap == point { factor } else { 0 };
                        assert_eq!(sum, direct, "{axis:?}: tap {tap}, activation {point}, result {output}");
                    }
                }
            }
        }
    }

    #[test]
    fn weights_are_transformed_by_the_matrix() {
        for axis in Axis::ALL {
            let mut transformed = vec![0; axis.points()];
            for tap in 0..axis.taps() {
                let unit: Vec<i32> = (0..axis.taps()).map(|t| i32::from(t == tap)).collect();
                axis.transform_weights(&unit, &mut transformed);
                let column: Vec<i32> = axis.weight_matrix().iter().map(|row| row[tap]).collect();
                assert_eq!(transformed, column, "{axis:?}");
            }
        }
    }
}
