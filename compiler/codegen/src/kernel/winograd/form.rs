//! Transforms along rows and along columns together, and the bounds within which they are exact.

use std::fmt;

use super::axis::{Axis, Matrix};

/// What is done along rows and along columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Form {
    /// From row to row.
    pub rows: Axis,
    /// From column to column.
    pub columns: Axis,
}

impl Form {
    /// The forms for a kernel of so many rows and columns, the one with the fewest multiplications first.
    pub fn of_kernel(kernel: [usize; 2]) -> Vec<Form> {
        let axes = |taps: usize| Axis::ALL.into_iter().rev().filter(move |axis| axis.taps() == taps);
        let forms = axes(kernel[0]).flat_map(|rows| axes(kernel[1]).map(move |columns| Form { rows, columns }));
        forms.filter(|form| form.points() < form.outputs() * kernel[0] * kernel[1]).collect()
    }

    /// The form for a kernel whose tiles have so many rows and columns of results.
    pub fn of_tiles(kernel: [usize; 2], outputs: [usize; 2]) -> Option<Form> {
        Form::of_kernel(kernel).into_iter().find(|form| form.tile() == outputs)
    }

    /// Rows and columns of results of a tile.
    pub const fn tile(&self) -> [usize; 2] {
        [self.rows.outputs(), self.columns.outputs()]
    }

    /// Results of a tile.
    pub const fn outputs(&self) -> usize {
        self.rows.outputs() * self.columns.outputs()
    }

    /// Activations of a tile, and products.
    pub const fn points(&self) -> usize {
        self.rows.points() * self.columns.points()
    }

    /// How many times 2 divides the factor by which transformed results are too large.
    pub const fn shift(&self) -> u32 {
        self.rows.shift() + self.columns.shift()
    }

    /// The number whose product with the odd part of that factor is 1 modulo 2^32.
    pub const fn inverse(&self) -> u32 {
        let odd = self.rows.odd() * self.columns.odd();
        // Newton's iteration doubles the correct bits, of which there are three at first (odd^2 = 1 modulo 8).
        let (mut inverse, mut step) = (odd, 0);
        while step < 4 {
            inverse = inverse.wrapping_mul(2u32.wrapping_sub(odd.wrapping_mul(inverse)));
            step += 1;
        }
        inverse
    }

    /// Whether transformed results of a channel are what they are modulo 2^32: the least and the greatest sum times 2^shift have 32 bits. (The odd part of
    /// the factor is taken out before, where no bit is lost.)
    pub fn is_exact(&self, weights: &[i8], greatest: u8) -> bool {
        let sum = |sign: i64| weights.iter().map(|&w| (sign * i64::from(w)).max(0)).sum::<i64>();
        let limit = 1i64 << (31 - self.shift());
        sum(1) * i64::from(greatest) < limit && sum(-1) * i64::from(greatest) <= limit
    }

    /// Whether fast inner products are exact: every sum of a transformed activation and a transformed weight of one position has 16 bits, and is not -2^15, so that a
    /// pair of products has 32. `weights` are `[channels][taps][inputs]`.
    pub fn fast_inner_is_exact(&self, weights: &[i8], inputs: usize) -> bool {
        let Some(limit) = self.most_of_taps() else { return true };
        let taps = self.rows.taps() * self.columns.taps();
        let mut sums = vec![0u32; inputs];
        weights.chunks(taps * inputs).all(|channel| {
            sums.fill(0);
            for tap in channel.chunks(inputs) {
                sums.iter_mut().zip(tap).for_each(|(sum, weight)| *sum += u32::from(weight.unsigned_abs()));
            }
            sums.iter().all(|&sum| sum <= limit)
        })
    }

    /// The greatest sum of the magnitudes of the weights of an input and an output channel for that; nothing if any will do.
    fn most_of_taps(&self) -> Option<u32> {
        let (rows, columns) = (self.rows.points(), self.columns.points());
        let positions = (0..rows).flat_map(|i| (0..columns).map(move |j| (i, j)));
        let limits = positions.filter_map(|(i, j)| {
            let of = |rows: Matrix, columns: Matrix, range| extremes((&rows[i..=i], &columns[j..=j]), range);
            let (least, greatest) = of(self.rows.input_matrix(), self.columns.input_matrix(), (0, 255));
            let weights = of(self.rows.weight_matrix(), self.columns.weight_matrix(), (-128, 127));
            let room = (I16 + least).min(I16 - greatest);
            let most = |row: &[i32]| row.iter().map(|e| i64::from(e.abs())).max().unwrap_or(1);
            let factor = most(self.rows.weight_matrix()[i]) * most(self.columns.weight_matrix()[j]);
            (weights.1.max(-weights.0) > room).then_some(room / factor)
        });
        limits.min().map(|limit| limit.max(0) as u32)
    }
}

/// The greatest number of 16 bits.
const I16: i64 = i16::MAX as i64;

/// Least and greatest of a row's products with another row's, on numbers within `least..=greatest`.
fn extremes((a, b): (Matrix, Matrix), (least, greatest): (i64, i64)) -> (i64, i64) {
    let products = a.iter().flat_map(|a| b.iter().map(move |b| (a, b)));
    let of_pair = |(a, b): (&&[i32], &&[i32])| {
        let entries: Vec<i64> = a.iter().flat_map(|x| b.iter().map(move |y| i64::from(x * y))).collect();
        let sum = |low: bool| {
            let of = |&e: &i64| if low { (e * least).min(e * greatest) } else { (e * least).max(e * greatest) };
            entries.iter().map(of).sum::<i64>()
        };
        (sum(true), sum(false))
    };
    products.map(of_pair).fold((0, 0), |all, one| (all.0.min(one.0), all.1.max(one.1)))
}

/// As papers write it: F(results, taps).
impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [m, n] = self.tile();
        write!(f, "F({m}x{n}, {}x{})", self.rows.taps(), self.columns.taps())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Form> {
        [[3, 3], [1, 3], [3, 1]].into_iter().flat_map(Form::of_kernel).collect()
    }

    #[test]
    fn transformed_numbers_have_16_bits() {
        let i16s = i64::from(i16::MIN)..=i64::from(i16::MAX);
        for form in all() {
            let inputs = extremes((form.rows.input_matrix(), form.columns.input_matrix()), (0, 255));
            let weights = extremes((form.rows.weight_matrix(), form.columns.weight_matrix()), (-128, 127));
            for bound in [inputs.0, inputs.1, weights.0, weights.1] {
                assert!(i16s.contains(&bound), "{form}: {bound}");
            }
            // A pair of products has 32 bits.
            assert!(2 * inputs.0.abs().max(inputs.1) * weights.0.abs().max(weights.1) < 1 << 31, "{form}");
        }
        let f44 = Form { rows: Axis::F4, columns: Axis::F4 };
        assert_eq!(extremes((f44.rows.input_matrix(), f44.columns.input_matrix()), (0, 255)), (-12750, 17340));
    }

    #[test]
    fn forms_of_kernels() {
        let text = |kernel| Form::of_kernel(kernel).iter().map(Form::to_string).collect::<Vec<_>>();
        assert_eq!(text([3, 3]), ["F(4x4, 3x3)", "F(4x2, 3x3)", "F(2x4, 3x3)", "F(2x2, 3x3)"]);
        assert_eq!(text([1, 3]), ["F(1x4, 1x3)", "F(1x2, 1x3)"]);
        assert_eq!(text([1, 1]), Vec::<String>::new());
        assert_eq!(text([5, 3]), Vec::<String>::new());
        for form in all() {
            assert_eq!(form.inverse().wrapping_mul(form.rows.odd() * form.columns.odd()), 1, "{form}");
        }
    }

    #[test]
    fn sums_that_leave_32_bits_are_not_exact() {
        let f44 = Form { rows: Axis::F4, columns: Axis::F4 };
        // 2^25 = 131 586 * 255 + 2.
        let weights = |count: usize, w: i8| vec![w; count];
        assert!(f44.is_exact(&[weights(1036, 127), weights(14, 1)].concat(), 255));
        assert!(f44.is_exact(&[weights(1036, 127), weights(14, 1), weights(5000, 0)].concat(), 255));
        assert!(!f44.is_exact(&[weights(1036, 127), weights(15, 1)].concat(), 255));
        assert!(!f44.is_exact(&weights(1037, -127), 255));
        assert!(f44.is_exact(&weights(1037, -127), 254));
        assert!(Form { rows: Axis::F2, columns: Axis::F2 }.is_exact(&weights(16_000, 127), 255));
    }

    #[test]
    fn sums_of_activations_and_weights_have_16_bits() {
        let of = |rows, columns| Form { rows, columns }.most_of_taps();
        // 964 * 16 + 17 340 = 32 764, at the points 1 and -1.
        assert_eq!(of(Axis::F4, Axis::F4), Some(964));
        for (rows, columns) in [(Axis::F4, Axis::F2), (Axis::F2, Axis::F4), (Axis::F2, Axis::F2), (Axis::One, Axis::F4)]
        {
            assert_eq!(of(rows, columns), None);
        }
        let f44 = Form { rows: Axis::F4, columns: Axis::F4 };
        // Two inputs, a channel of nine taps for each: 7 * 127 + 75 = 964.
        let taps = |last: i8| [[127, 1]; 7].into_iter().chain([[last, 1], [0, -128]]).flatten().collect::<Vec<i8>>();
        assert!(f44.fast_inner_is_exact(&taps(75), 2) && f44.fast_inner_is_exact(&taps(-75), 2));
        assert!(!f44.fast_inner_is_exact(&[taps(75), taps(76)].concat(), 2));
    }
}
