//! Products of two computed matrices.

use qcc_interp::{Matrix, multiply_add_alone};
use qcc_ir::{Data, Diag, attr};
use qcc_num::requant::{Epilogue, FRACTION_BITS};

use super::rounding::{clamped, factor};
use super::sum::{Broadcast, bytes_of};
use super::{Backward, Call, Kernel, Rounded, Site};

/// Products of two codes of which so many sum up below `2^24`.
const EXACT_TERMS: usize = (1 << 24) / (255 * 255);

/// `int.qmatmul`.
pub(super) struct Matrices {
    zeros: [u8; 2],
    mult: i32,
    rule: Epilogue,
    /// Rows, columns and terms of a product.
    sizes: [usize; 3],
    /// For each product the numbers of its matrices.
    pairs: [Broadcast; 2],
    products: usize,
    /// Elements of each operand of one sample.
    lengths: [usize; 2],
}

impl Matrices {
    pub(super) fn new(site: &Site) -> Option<Matrices> {
        let [a, b] = [0, 1].map(|i| &site.operands[i].1);
        let (outer_a, &[m, k]) = a.dims.split_last_chunk()?;
        let (outer_b, &[_, n]) = b.dims.split_last_chunk()?;
        let outer = &site.result.dims[..site.result.dims.len() - 2];
        let zeros = site.attrs.get(attr::ZEROS);
        let zero = |i: usize| u8::try_from(*zeros.get(i)?).ok();
        let constants_are_bytes = site.operands.iter().all(|(c, _)| c.as_ref().is_none_or(|t| t.as_u8().is_some()));
        let found = Matrices {
            zeros: [zero(0)?, zero(1)?],
            mult: i32::try_from(site.attrs.get(attr::MULT)).ok()?,
            rule: site.attrs.epilogue(),
            sizes: [m, n, k],
            pairs: [Broadcast::new(outer_a, outer)?, Broadcast::new(outer_b, outer)?],
            products: outer.iter().product(),
            lengths: [a.elements(), b.elements()],
        };
        constants_are_bytes.then_some(found)
    }

    /// Both matrices of product `p` of sample `s`, less their zero points.
    fn matrices(&self, call: &Call, s: usize, p: usize) -> [Vec<f32>; 2] {
        let [m, n, k] = self.sizes;
        [(0, m * k), (1, k * n)].map(|(i, size)| {
            let (data, step) = bytes_of(call.operands[i], self.lengths[i]);
            let start = s * step + self.pairs[i].of(p) * size;
            let zero = f32::from(self.zeros[i]);
            data[start..start + size].iter().map(|&q| f32::from(q) - zero).collect()
        })
    }
}

impl Kernel for Matrices {
    fn forward(&self, call: &Call) -> Result<Rounded, Diag> {
        let [m, n, k] = self.sizes;
        let (lo, hi) = (i32::from(self.rule.lo), i32::from(self.rule.hi));
        let (mut codes, mut errors) = (Vec::new(), Vec::new());
        for (s, p) in (0..call.batch).flat_map(|s| (0..self.products).map(move |p| (s, p))) {
            let [a, b] = self.matrices(call, s, p);
            let mut sums = vec![0i32; m * n];
            for first in (0..k).step_by(EXACT_TERMS) {
                let terms = EXACT_TERMS.min(k - first);
                let mut part = vec![0.0f32; m * n];
                let (a, b) = (
                    Matrix { data: &a[first..], row: k, column: 1 },
                    Matrix { data: &b[first * n..], row: n, column: 1 },
                );
                multiply_add_alone((m, n, terms), a, b, &mut part, n);
                // Integers below 2^24.
                sums.iter_mut().zip(part).for_each(|(s, p)| *s = s.wrapping_add(p as i32));
            }
            for sum in sums {
                let u = i32::from(self.rule.before_rounding(sum, self.mult, 0));
                let (code, error) = clamped(u >> FRACTION_BITS, u & ((1 << FRACTION_BITS) - 1), lo, hi);
                codes.push(code);
                errors.push(error);
            }
        }
        Ok(Rounded { codes: Data::U8(codes), errors: Some(errors) })
    }

    fn backward(&self, call: &Call, back: Backward) -> Vec<Option<Vec<f32>>> {
        let [m, n, k] = self.sizes;
        let factor = factor(&self.rule, self.mult);
        let mut by_a = back.wanted[0].then(|| vec![0.0f32; call.batch * self.lengths[0]]);
        let mut by_b = back.wanted[1].then(|| vec![0.0f32; call.batch * self.lengths[1]]);
        for (s, p) in (0..call.batch).flat_map(|s| (0..self.products).map(move |p| (s, p))) {
            let [a, b] = self.matrices(call, s, p);
            let place = (s * self.products + p) * m * n;
            let g: Vec<f32> = back.gradient[place..place + m * n].iter().map(|g| g * factor).collect();
            let gradient = Matrix { data: &g, row: n, column: 1 };
            if let Some(by_a) = &mut by_a {
                let start = s * self.lengths[0] + self.pairs[0].of(p) * m * k;
                let b = Matrix { data: &b, row: 1, column: n };
                multiply_add_alone((m, k, n), gradient, b, &mut by_a[start..start + m * k], k);
            }
            if let Some(by_b) = &mut by_b {
                let start = s * self.lengths[1] + self.pairs[1].of(p) * k * n;
                let a = Matrix { data: &a, row: 1, column: k };
                multiply_add_alone((k, n, m), a, gradient, &mut by_b[start..start + k * n], n);
            }
        }
        vec![by_a, by_b]
    }
}
