//! What `propagate-ranges` knows of a value: bounds that hold for certain, and for each channel the mean, the variance and
//! an interval that practically all elements lie in; and how each operator changes that.
//!
//! Channels are axis 1 of values of rank 2 and more. Elements are taken as independent and as normally distributed before
//! an activation, which batch normalization makes a fair assumption:
//!
//! ```text
//! layer     mean = w * mean + b          var = w^2 * var          interval = mean +- k sqrt(var)
//! bn        mean = beta                  var = gamma^2            interval = mean +- k |gamma|
//! f(x)      mean, var of f over the normal distribution           interval = f(interval)
//! a + b     sums                         sums                     half widths add as deviations do
//! mean of n mean                         var                      interval: in deep layers neighbours are alike
//! ```

use qcc_ir::{Attrs, Range};
use qcc_num::convert::nearest_f32;

/// Grid points of a normal distribution, for the moments of a function of it.
const GRID: i32 = 32;

/// A real interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Interval {
    pub(crate) lo: f64,
    pub(crate) hi: f64,
}

impl Interval {
    pub(crate) const ALL: Interval = Interval { lo: f64::NEG_INFINITY, hi: f64::INFINITY };

    pub(crate) fn new(lo: f64, hi: f64) -> Interval {
        Interval { lo, hi }
    }

    pub(crate) fn union(self, o: Interval) -> Interval {
        Interval { lo: self.lo.min(o.lo), hi: self.hi.max(o.hi) }
    }

    /// The part inside `o`; if there is none, the nearest end of `o`.
    pub(crate) fn clamp_to(self, o: Interval) -> Interval {
        Interval { lo: self.lo.max(o.lo).min(o.hi), hi: self.hi.min(o.hi).max(o.lo) }
    }

    pub(crate) fn add(self, o: Interval) -> Interval {
        Interval { lo: self.lo + o.lo, hi: self.hi + o.hi }
    }

    /// Times a number; zero times infinity is zero.
    pub(crate) fn scale(self, s: f64) -> Interval {
        match s {
            0.0 => Interval { lo: 0.0, hi: 0.0 },
            s if s > 0.0 => Interval { lo: self.lo * s, hi: self.hi * s },
            s => Interval { lo: self.hi * s, hi: self.lo * s },
        }
    }

    pub(crate) fn mul(self, o: Interval) -> Interval {
        let product = |a: f64, b: f64| if a == 0.0 || b == 0.0 { 0.0 } else { a * b };
        let all = [product(self.lo, o.lo), product(self.lo, o.hi), product(self.hi, o.lo), product(self.hi, o.hi)];
        all.iter().fold(Interval::new(all[0], all[0]), |i, &x| i.union(Interval::new(x, x)))
    }
}

impl From<Range> for Interval {
    fn from(r: Range) -> Interval {
        Interval { lo: f64::from(r.min), hi: f64::from(r.max) }
    }
}

/// What is known of one channel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Channel {
    pub(crate) mean: f64,
    pub(crate) var: f64,
    /// Practically all elements lie here.
    pub(crate) soft: Interval,
}

impl Channel {
    /// Normal, with `k` deviations on either side.
    pub(crate) fn normal(mean: f64, var: f64, k: f64) -> Channel {
        let var = var.max(0.0);
        let half = k * var.sqrt();
        Channel { mean, var, soft: Interval::new(mean - half, mean + half) }
    }

    /// One number.
    pub(crate) fn constant(x: f64) -> Channel {
        Channel { mean: x, var: 0.0, soft: Interval::new(x, x) }
    }

    /// Sum of independent values, each times a number.
    pub(crate) fn sum(a: &Channel, sa: f64, b: &Channel, sb: f64) -> Channel {
        let (ia, ib) = (a.soft.scale(sa), b.soft.scale(sb));
        let mean = a.mean * sa + b.mean * sb;
        let below = (a.mean * sa - ia.lo).hypot(b.mean * sb - ib.lo);
        let above = (ia.hi - a.mean * sa).hypot(ib.hi - b.mean * sb);
        let var = a.var * sa * sa + b.var * sb * sb;
        Channel { mean, var, soft: Interval::new(mean - below, mean + above) }
    }

    /// Product of independent values.
    pub(crate) fn product(a: &Channel, b: &Channel) -> Channel {
        let var = a.var * b.var + a.var * b.mean * b.mean + b.var * a.mean * a.mean;
        Channel { mean: a.mean * b.mean, var, soft: a.soft.mul(b.soft) }
    }

    /// A function of the value.
    pub(crate) fn map(&self, f: &dyn Fn(f64) -> f64) -> Channel {
        let deviation = self.var.sqrt();
        let (mut weight, mut mean, mut square) = (0.0, 0.0, 0.0);
        for i in -GRID..=GRID {
            let z = 4.0 * f64::from(i) / f64::from(GRID);
            let y = f(self.mean + deviation * z);
            let w = (-z * z / 2.0).exp();
            if y.is_finite() {
                (weight, mean, square) = (weight + w, mean + w * y, square + w * y * y);
            }
        }
        let weight = f64::max(weight, f64::MIN_POSITIVE);
        let mean = mean / weight;
        Channel { mean, var: (square / weight - mean * mean).max(0.0), soft: image(self.soft, f) }
    }
}

/// Interval that contains `f` of the interval, as far as a grid tells.
pub(crate) fn image(i: Interval, f: &dyn Fn(f64) -> f64) -> Interval {
    let far = 1e30;
    let (lo, hi) = (i.lo.clamp(-far, far), i.hi.clamp(-far, far));
    let steps = 256;
    let points = (0..=steps).map(|s| lo + (hi - lo) * f64::from(s) / f64::from(steps));
    // Functions have their bends at zero.
    let zero = (lo < 0.0 && hi > 0.0).then_some(0.0);
    let values: Vec<f64> = points.chain(zero).map(f).collect();
    if values.iter().any(|y| y.is_nan()) {
        return Interval::ALL;
    }
    values.iter().fold(Interval::new(f64::INFINITY, f64::NEG_INFINITY), |r, &y| r.union(Interval::new(y, y)))
}

/// What is known of a value.
#[derive(Debug, Clone)]
pub(crate) struct Stats {
    /// Holds for certain.
    pub(crate) hard: Interval,
    /// One for each channel, or one for all.
    pub(crate) channels: Vec<Channel>,
}

impl Stats {
    /// All channels alike.
    pub(crate) fn uniform(hard: Interval, channel: Channel) -> Stats {
        Stats { hard, channels: vec![channel] }
    }

    /// Of an interval of which no more is known.
    pub(crate) fn of_interval(i: Interval) -> Stats {
        let (mean, quarter) = ((i.lo + i.hi) / 2.0, (i.hi - i.lo) / 4.0);
        Stats::uniform(i, Channel { mean, var: quarter * quarter, soft: i })
    }

    /// Channel `c`.
    pub(crate) fn channel(&self, c: usize) -> &Channel {
        self.channels.get(c).unwrap_or(&self.channels[0])
    }

    /// One channel that stands for all.
    pub(crate) fn collapsed(&self) -> Stats {
        let n = self.channels.len() as f64;
        let mean = self.channels.iter().map(|c| c.mean).sum::<f64>() / n;
        let square = self.channels.iter().map(|c| c.var + c.mean * c.mean).sum::<f64>() / n;
        Stats::uniform(self.hard, Channel { mean, var: (square - mean * mean).max(0.0), soft: self.soft() })
    }

    /// Union of the channels' intervals, within the certain bounds.
    pub(crate) fn soft(&self) -> Interval {
        let first = self.channels[0].soft;
        self.channels.iter().fold(first, |r, c| r.union(c.soft)).clamp_to(self.hard)
    }

    /// A function of each channel, and of the certain bounds.
    pub(crate) fn map(&self, hard: Interval, f: impl Fn(&Channel) -> Channel) -> Stats {
        Stats { hard, channels: self.channels.iter().map(f).collect() }.bounded()
    }

    /// A real function of each element.
    pub(crate) fn apply(&self, attrs: &Attrs, f: fn(&Attrs, f32) -> f32) -> Stats {
        let f = |x: f64| f64::from(f(attrs, nearest_f32(x)));
        let channels: Vec<Channel> = self.channels.iter().map(|c| c.map(&f)).collect();
        let certain = channels.iter().fold(image(self.hard, &f), |r, c| r.union(c.soft));
        Stats { hard: certain, channels }.bounded()
    }

    /// The channels' intervals within the certain bounds.
    pub(crate) fn bounded(mut self) -> Stats {
        for c in &mut self.channels {
            c.soft = c.soft.clamp_to(self.hard);
        }
        self
    }

    /// Channels of both, one after the other.
    pub(crate) fn combine(a: &Stats, b: &Stats, hard: Interval, f: impl Fn(&Channel, &Channel) -> Channel) -> Stats {
        let n = a.channels.len().max(b.channels.len());
        Stats { hard, channels: (0..n).map(|c| f(a.channel(c), b.channel(c))).collect() }.bounded()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qcc_ir::{Class, Opcode};

    /// Mean and variance of a rectified standard normal: `1 / sqrt(2 pi)` and `1/2 - 1 / (2 pi)`.
    #[test]
    fn rectified_normal() {
        let Class::Unary(relu) = Opcode::Relu.info().class else { unreachable!() };
        let x = Stats::uniform(Interval::ALL, Channel::normal(0.0, 1.0, 5.0));
        let y = x.apply(&Attrs::new(Opcode::Relu), relu);
        let c = y.channels[0];
        assert!((c.mean - 0.3989).abs() < 1e-3 && (c.var - 0.3408).abs() < 1e-3, "{c:?}");
        assert_eq!(y.soft(), Interval::new(0.0, 5.0));
    }

    #[test]
    fn intervals() {
        let i = Interval::new(-1.0, 2.0);
        assert_eq!(i.mul(Interval::new(-3.0, 1.0)), Interval::new(-6.0, 3.0));
        assert_eq!(Interval::ALL.scale(0.0), Interval::new(0.0, 0.0));
        assert_eq!(Interval::new(5.0, 6.0).clamp_to(i), Interval::new(2.0, 2.0));
    }
}
