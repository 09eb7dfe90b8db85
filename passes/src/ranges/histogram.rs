//! Histogram whose bins grow by powers of two, so that it needs no range beforehand, takes constant memory, and two of
//! them merge exactly: the result does not depend on the order of observations nor on how they are split among threads.

use qcc_ir::Range;
use qcc_num::convert::{count_i64, nearest_f32, nearest_i64};

use crate::ranges::method::Method;

/// Bins on each side of zero.
pub(crate) const HALF: usize = 2048;

/// Exponent of the finest bins, and of bins that hold any f32.
const EXPONENTS: (i32, i32) = (-60, 118);

/// Candidates of `Method::Auto` are judged by the mean square error with this weight on what is cut off: errors of rounding are
/// independent and average out in the sums of the next layer, those of clipping have one sign and come together.
const CLIPPING: f64 = 4.0;

/// Steps of 8 bits over a range.
const BYTE_STEPS: f64 = 255.0;

/// Counts of values, their extremes and moments.
#[derive(Debug, Clone)]
pub(crate) struct Histogram {
    /// A bin is `2^exponent` wide; bin `HALF + i` holds values in `[i, i + 1) * 2^exponent`.
    pub(crate) exponent: i32,
    pub(crate) counts: Vec<u64>,
    pub(crate) min: f32,
    pub(crate) max: f32,
    /// Values that are zero.
    pub(crate) zeros: u64,
    count: u64,
    /// Values that are not finite.
    pub(crate) strange: u64,
}

impl Histogram {
    pub(crate) fn new() -> Histogram {
        Histogram {
            exponent: EXPONENTS.0,
            counts: vec![0; 2 * HALF],
            min: f32::INFINITY,
            max: f32::NEG_INFINITY,
            zeros: 0,
            count: 0,
            strange: 0,
        }
    }

    /// A histogram from its parts, if they fit together.
    pub(crate) fn restore(
        exponent: i32,
        counts: Vec<u64>,
        (min, max): (f32, f32),
        zeros: u64,
        count: u64,
    ) -> Option<Histogram> {
        let bins = counts.len() == 2 * HALF && (EXPONENTS.0..=EXPONENTS.1).contains(&exponent);
        // Below 2^52 neither sums nor conversions to f64 lose anything.
        let ordered =
            count < 1 << 52 && min.is_finite() && max.is_finite() && min <= max && zeros <= count && count > 0;
        let all = Histogram { exponent, counts, min, max, zeros, count, strange: 0 };
        let mut alone = Histogram::new();
        alone.observe(&[min, max]);
        let ends = |h: &Histogram| (h.nonempty().next().map(|b| b.0), h.nonempty().last().map(|b| b.0));
        (bins && ordered && alone.exponent == exponent && ends(&all) == ends(&alone)).then_some(all)
    }

    /// Takes values into account.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss,
        reason = "bins are fewer than 2^16, and what is clamped is an index; this loop sees every element of every sample"
    )]
    pub(crate) fn observe(&mut self, values: &[f32]) {
        let (mut min, mut max) = (f32::INFINITY, f32::NEG_INFINITY);
        let (mut zeros, mut strange) = (0u64, 0u64);
        for &x in values {
            if x.is_finite() {
                min = min.min(x);
                max = max.max(x);
                zeros += u64::from(x == 0.0);
            } else {
                strange += 1;
            }
        }
        self.strange += strange;
        if min > max {
            return;
        }
        // Zero has one sign: which of two zeros is the lesser is not defined.
        self.min = self.min.min(min + 0.0);
        self.max = self.max.max(max + 0.0);
        self.zeros += zeros;
        self.count += values.len() as u64 - strange;
        self.reach(min.abs().max(max.abs()));
        let inverse = nearest_f32(exp2(-self.exponent));
        for &x in values {
            if x.is_finite() {
                // A product with a power of two is exact unless it is too small; a floor by truncation needs no call where the CPU has none.
                let scaled = x * inverse;
                let truncated = scaled as i32;
                // What is too small for the product, and becomes -0, lies below zero whatever the width of bins was.
                let below = truncated as f32 > scaled || (scaled == 0.0 && x < 0.0);
                let bin = truncated - i32::from(below) + HALF as i32;
                // `reach` made room; the clamp only keeps an index from ever being out of bounds.
                self.counts[bin.clamp(0, 2 * HALF as i32 - 1) as usize] += 1;
            }
        }
    }

    /// True if nothing was observed.
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0 && self.strange == 0
    }

    /// Adds another histogram.
    pub(crate) fn merge(&mut self, mut other: Histogram) {
        while self.exponent < other.exponent {
            self.grow();
        }
        while other.exponent < self.exponent {
            other.grow();
        }
        for (a, b) in self.counts.iter_mut().zip(&other.counts) {
            *a += b;
        }
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.zeros += other.zeros;
        self.count += other.count;
        self.strange += other.strange;
    }

    /// Mean and standard deviation, from the middles of bins: sums of the values themselves would depend on their order.
    pub(crate) fn moments(&self) -> Option<(f32, f32)> {
        let n = self.count as f64;
        let (mut sum, mut squares) = (0.0, 0.0);
        for (i, k) in self.nonempty() {
            let k = if i == HALF { k.saturating_sub(self.zeros) } else { k } as f64;
            let x = self.middle(i);
            (sum, squares) = (sum + k * x, squares + k * x * x);
        }
        let mean = sum / n;
        // Three digits say all that a reader wants.
        let digits = |x: f64| format!("{x:.3e}").parse().unwrap_or(nearest_f32(x));
        (self.count > 0).then(|| (digits(mean), digits((squares / n - mean * mean).max(0.0).sqrt())))
    }

    fn reach(&mut self, magnitude: f32) {
        while f64::from(magnitude) >= HALF as f64 * exp2(self.exponent) {
            self.grow();
        }
    }

    fn grow(&mut self) {
        if self.count > 0 {
            let old = std::mem::replace(&mut self.counts, vec![0; 2 * HALF]);
            for (i, &n) in old.iter().enumerate().filter(|(_, n)| **n > 0) {
                let half = if i >= HALF { HALF + (i - HALF) / 2 } else { HALF - (HALF - i).div_ceil(2) };
                self.counts[half] += n;
            }
        }
        self.exponent += 1;
    }

    /// The range that the method chooses; `None` if nothing finite was observed.
    pub(crate) fn range(&self, method: Method) -> Option<Range> {
        if self.count == 0 {
            return None;
        }
        let full = Range { min: self.min, max: self.max };
        let chosen = match method {
            Method::MinMax => full,
            Method::Percentile => self.quantiles(1e-5),
            Method::Mse => self.best(full, |r| self.square_error(r, BYTE_STEPS, 1.0)),
            Method::Kl => self.best(full, |r| self.divergence(r)),
            Method::Auto => {
                let rest = [Method::Percentile, Method::Mse, Method::Kl].into_iter().filter_map(|m| self.range(m));
                let error = |r: &Range| self.square_error(r.with_zero(), BYTE_STEPS, CLIPPING);
                rest.fold((error(&full), full), |best, r| if error(&r) < best.0 { (error(&r), r) } else { best }).1
            }
        };
        Some(Range { min: chosen.min.max(full.min), max: chosen.max.min(full.max) })
    }

    fn middle(&self, bin: usize) -> f64 {
        self.edge(bin) + exp2(self.exponent) / 2.0
    }

    fn edge(&self, bin: usize) -> f64 {
        (bin as f64 - HALF as f64) * exp2(self.exponent)
    }

    /// The range without a share `tail` of the values at either end.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a count is less than the count"
    )]
    fn quantiles(&self, tail: f64) -> Range {
        let drop = (self.count as f64 * tail) as u64;
        let past_tail = |mut bins: Box<dyn Iterator<Item = usize>>| {
            let mut seen = 0;
            bins.find(|&i| {
                seen += self.counts[i];
                seen > drop
            })
        };
        let lo = past_tail(Box::new(0..2 * HALF)).unwrap_or(0);
        let hi = past_tail(Box::new((0..2 * HALF).rev())).unwrap_or(2 * HALF - 1);
        Range { min: nearest_f32(self.edge(lo)), max: nearest_f32(self.edge(hi + 1)) }
    }

    /// Shrinks either end in turn while that lowers the loss; a candidate is a 64th of the full span.
    fn best(&self, full: Range, loss: impl Fn(Range) -> f64) -> Range {
        let full = full.with_zero();
        let mut best = (loss(full), full);
        for _ in 0..2 {
            for keep in (8..64).rev().map(|i| i as f32 / 64.0) {
                for r in [Range { max: full.max * keep, ..best.1 }, Range { min: full.min * keep, ..best.1 }] {
                    let l = loss(r);
                    if l < best.0 {
                        best = (l, r);
                    }
                }
            }
        }
        best.1
    }

    /// The range that so few steps are to cover: the one with the least mean square error, whatever the method for 8 bits is.
    pub(crate) fn coarse(&self, steps: u64) -> Option<Range> {
        let full = Range { min: self.min, max: self.max };
        (self.count > 0).then(|| self.best(full, |r| self.square_error(r, steps as f64, 1.0)))
    }

    /// Mean square error of quantization over the range: clipping outside, uniform rounding inside.
    fn square_error(&self, r: Range, steps: f64, clipping: f64) -> f64 {
        let (lo, hi) = (f64::from(r.min), f64::from(r.max));
        let step = (hi - lo) / steps;
        let error = |i: usize| {
            let x = self.middle(i);
            let outside = (lo - x).max(x - hi).max(0.0);
            // What is nearer to zero than half a step becomes zero, which is exact for most.
            let rounding = if x.abs() < step / 2.0 { x * x } else { step * step / 12.0 };
            if outside > 0.0 { clipping * outside * outside } else { rounding }
        };
        self.nonempty().map(|(i, n)| n as f64 * error(i)).sum::<f64>() / self.count as f64
    }

    /// Kullback-Leibler divergence of the clipped distribution from the one that 256 levels can tell apart. Zero has a
    /// code of its own and takes no part: after a rectifier it would outweigh everything else.
    fn divergence(&self, r: Range) -> f64 {
        let below = |x: f32| nearest_i64((f64::from(x) / exp2(self.exponent)).floor()) + count_i64(HALF);
        let bin = |x: f32| usize::try_from(below(x)).unwrap_or(0).min(2 * HALF - 1);
        let (lo, hi) = (bin(r.min), bin(r.max));
        let mut inside: Vec<f64> = self.counts[lo..=hi].iter().map(|&n| n as f64).collect();
        if (lo..=hi).contains(&HALF) {
            inside[HALF - lo] = 0.0;
        }
        let mut p = inside.clone();
        let last = p.len() - 1;
        p[0] += self.counts[..lo].iter().sum::<u64>() as f64;
        p[last] += self.counts[hi + 1..].iter().sum::<u64>() as f64;
        let (total, kept): (f64, f64) = (p.iter().sum(), inside.iter().sum());
        let levels = 256.min(p.len());
        let mut divergence = 0.0;
        for level in 0..levels {
            let (a, b) = (level * p.len() / levels, (level + 1) * p.len() / levels);
            let mass: f64 = inside[a..b].iter().sum();
            let filled = inside[a..b].iter().filter(|&&x| x > 0.0).count().max(1) as f64;
            for &x in p[a..b].iter().filter(|&&x| x > 0.0) {
                let q = (mass / filled / kept.max(1.0)).max(1e-9);
                divergence += x / total * (x / total / q).ln();
            }
        }
        divergence
    }

    fn nonempty(&self) -> impl Iterator<Item = (usize, u64)> {
        self.counts.iter().copied().enumerate().filter(|(_, n)| *n > 0)
    }
}

fn exp2(e: i32) -> f64 {
    f64::from(e).exp2()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 / n as f32 - 0.25) * scale).collect()
    }

    #[test]
    fn merging_is_the_same_as_observing_together() {
        let (a, b) = (ramp(1000, 1.0), ramp(500, 300.0));
        let mut together = Histogram::new();
        together.observe(&a);
        together.observe(&b);
        let (mut left, mut right) = (Histogram::new(), Histogram::new());
        left.observe(&b);
        right.observe(&a);
        left.merge(right);
        assert_eq!((together.exponent, &together.counts), (left.exponent, &left.counts));
        assert_eq!(together.range(Method::MinMax), left.range(Method::MinMax));
        assert_eq!(together.counts.iter().sum::<u64>(), 1500);
    }

    #[test]
    fn the_least_numbers_do_not_depend_on_the_order() {
        let (small, great) = ([-1e-45, 1e-45, -0.0], [1e4]);
        let (mut up, mut down) = (Histogram::new(), Histogram::new());
        up.observe(&small);
        up.observe(&great);
        down.observe(&great);
        down.observe(&small);
        assert_eq!((up.exponent, &up.counts, up.zeros), (down.exponent, &down.counts, down.zeros));
        let mut zero = Histogram::new();
        zero.observe(&[-0.0]);
        assert!(zero.min.is_sign_positive() && zero.max.is_sign_positive());
    }

    #[test]
    fn outliers_are_clipped_by_all_but_minmax() {
        let mut h = Histogram::new();
        for _ in 0..400 {
            h.observe(&ramp(1000, 2.0));
        }
        h.observe(&[40.0]);
        assert_eq!(h.range(Method::MinMax).unwrap().max, 40.0);
        for method in [Method::Percentile, Method::Mse, Method::Kl] {
            let r = h.range(method).unwrap();
            // One value in 400 000 at 40 and the others below 1.5: the square error is least at 26.4.
            let greatest = if method == Method::Mse { 27.0 } else { 15.0 };
            assert!(r.max < greatest && r.max > 1.4 && r.min < -0.4, "{method}: {r:?}");
        }
    }

    /// Of one value beyond all others the cut costs more than coarser codes, of values that are noise around zero it does not.
    #[test]
    fn auto_has_the_least_error() {
        let (mut one, mut many) = (Histogram::new(), Histogram::new());
        for _ in 0..400 {
            one.observe(&ramp(1000, 2.0));
            many.observe(&ramp(20_000, 0.02));
        }
        one.observe(&[40.0]);
        many.observe(&[1.5]);
        for (h, clips) in [(one, false), (many, true)] {
            let error = |m: Method| h.square_error(h.range(m).unwrap().with_zero(), BYTE_STEPS, CLIPPING);
            for method in [Method::MinMax, Method::Percentile, Method::Mse, Method::Kl] {
                assert!(error(Method::Auto) <= error(method), "{method}");
            }
            assert_eq!(h.range(Method::Auto).unwrap().max < h.range(Method::MinMax).unwrap().max, clips);
        }
    }

    /// Of exponentially distributed numbers 15 steps cut more off than 255.
    #[test]
    fn few_steps_cover_less() {
        let mut h = Histogram::new();
        h.observe(&(1..200_000).map(|i| nearest_f32(-(f64::from(i) / 200_000.0).ln())).collect::<Vec<_>>());
        let (few, many) = (h.coarse(15).unwrap(), h.range(Method::Mse).unwrap());
        assert!(few.max < 0.8 * many.max && few.min == 0.0, "{few:?} {many:?}");
    }

    #[test]
    fn strange_values_are_counted_apart() {
        let mut h = Histogram::new();
        h.observe(&[f32::NAN, 1.0, f32::INFINITY]);
        assert_eq!((h.strange, h.range(Method::MinMax)), (2, Some(Range { min: 1.0, max: 1.0 })));
        assert_eq!(Histogram::new().range(Method::MinMax), None);
    }
}
