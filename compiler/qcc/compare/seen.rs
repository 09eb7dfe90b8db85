//! What the samples show of a value and of a layer's parameters: the facts that tell a cause.

use qcc_ir::{Tensor, Type, Uniform};
use qcc_num::edge;

use super::mixed::Parameter;

/// Facts about a value, gathered over samples.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub count: u64,
    pub zeros: u64,
    /// Elements beyond the range.
    pub outside: u64,
    /// Elements greater than a quarter of the greatest magnitude in the range.
    pub large: u64,
    pub least: f32,
    pub greatest: f32,
    /// Sum of squares of what is cut off, and of what is rounded inside of the range.
    pub clipped: f64,
    pub rounded: f64,
    /// Greatest magnitude of each channel.
    pub channels: Vec<f32>,
}

impl Default for Seen {
    fn default() -> Seen {
        Seen {
            count: 0,
            zeros: 0,
            outside: 0,
            large: 0,
            least: f32::INFINITY,
            greatest: f32::NEG_INFINITY,
            clipped: 0.0,
            rounded: 0.0,
            channels: Vec::new(),
        }
    }
}

impl Seen {
    /// Takes the elements of one sample, which are to be stored in `ty`.
    pub fn observe(&mut self, x: &Tensor, ty: &Type) {
        let (Some(values), Some(u)) = (x.as_f32(), ty.uniform()) else { return };
        let (channels, inner) = channels(&x.dims);
        self.channels.resize(channels, 0.0);
        let (axis_extent, axis_inner) = match u.axis {
            Some(axis) => (x.dims[axis], x.dims[axis + 1..].iter().product::<usize>().max(1)),
            None => (1, values.len().max(1)),
        };
        let ends: Vec<(f32, f32)> = (0..u.scales.len()).map(|i| ends(u, i)).collect();
        let quarter: f32 = ends.iter().fold(0.0, |m: f32, e| m.max(e.0.abs()).max(e.1.abs())) / 4.0;
        for (i, &v) in values.iter().enumerate().filter(|(_, v)| v.is_finite()) {
            let k = i / axis_inner % axis_extent.max(1);
            let (lo, hi) = ends[k];
            let inside = v.clamp(lo, hi);
            let (scale, zero) = (u.scales[k], i32::try_from(u.zero_points[k]).unwrap_or(0));
            let (min, max) = (i32::try_from(u.min()).unwrap_or(i32::MIN), i32::try_from(u.max()).unwrap_or(i32::MAX));
            let q = edge::quantize(inside, scale, zero, min, max);
            let off = f64::from(edge::dequantize(q, scale, zero) - inside);
            let cut = f64::from(v - inside);
            self.count += 1;
            self.zeros += u64::from(v == 0.0);
            // Half a step beyond the range is a matter of rounding.
            self.outside += u64::from(cut.abs() > f64::from(scale) / 2.0);
            self.large += u64::from(v.abs() > quarter);
            self.least = self.least.min(v);
            self.greatest = self.greatest.max(v);
            self.clipped += cut * cut;
            self.rounded += off * off;
            let channel = &mut self.channels[i / inner % channels];
            *channel = channel.max(v.abs());
        }
    }

    /// Adds what other samples show.
    pub fn merge(&mut self, o: &Seen) {
        self.count += o.count;
        self.zeros += o.zeros;
        self.outside += o.outside;
        self.large += o.large;
        self.least = self.least.min(o.least);
        self.greatest = self.greatest.max(o.greatest);
        self.clipped += o.clipped;
        self.rounded += o.rounded;
        self.channels.resize(self.channels.len().max(o.channels.len()), 0.0);
        self.channels.iter_mut().zip(&o.channels).for_each(|(a, b)| *a = a.max(*b));
    }
}

/// Least and greatest real number, by scale `i`.
fn ends(u: &Uniform, i: usize) -> (f32, f32) {
    let (scale, zero) = (f64::from(u.scales[i]), u.zero_points[i]);
    let end = |code: i64| (scale * (code - zero) as f64) as f32;
    (end(u.min()), end(u.max()))
}

/// Number of channels, and elements behind one another in one: axis 1 of images and of rows, the last of everything else.
pub(crate) fn channels(dims: &[usize]) -> (usize, usize) {
    match dims {
        [_, c, h, w] => (*c, h * w),
        [.., c] => (*c, 1),
        [] => (1, 1),
    }
}

/// Facts about the error that rounded parameters make in the results of a layer: for each channel its sum, and the sum of
/// squares of all.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shift {
    sums: Vec<f64>,
    squares: f64,
    count: u64,
}

impl Shift {
    /// Takes the results of one sample with real and with rounded parameters.
    pub fn observe(&mut self, real: &Tensor, rounded: &Tensor) {
        let (Some(a), Some(b)) = (real.as_f32(), rounded.as_f32()) else { return };
        let (channels, inner) = channels(&real.dims);
        self.sums.resize(channels, 0.0);
        for (i, (a, b)) in a.iter().zip(b).enumerate() {
            let e = f64::from(b - a);
            self.sums[i / inner % channels] += e;
            self.squares += e * e;
        }
        self.count += a.len() as u64;
    }

    /// Adds what other samples show.
    pub fn merge(&mut self, o: &Shift) {
        self.sums.resize(self.sums.len().max(o.sums.len()), 0.0);
        self.sums.iter_mut().zip(&o.sums).for_each(|(a, b)| *a += b);
        self.squares += o.squares;
        self.count += o.count;
    }

    /// The share of the error's power that is a shift of the channels' means.
    pub fn share(&self) -> f64 {
        let each = self.count as f64 / self.sums.len().max(1) as f64;
        if self.squares > 0.0 { self.sums.iter().map(|s| s * s / each).sum::<f64>() / self.squares } else { 0.0 }
    }
}

/// Facts about the weights of a layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct WeightFacts {
    /// The channel with the most noise; how many times the root mean square of its weights the greatest of them is.
    pub peak: (usize, f64),
    /// Of the channels with at least the mean noise the one that uses the fewest codes, and how many times fewer than it could.
    pub coarse: (usize, f64),
}

impl WeightFacts {
    /// Of weights with one scale an output channel.
    pub fn of(parameter: &Parameter) -> Option<WeightFacts> {
        let (w, r, u) = (parameter.real.as_f32()?, parameter.rounded.as_f32()?, &parameter.uniform);
        let channels = parameter.real.dims.first().copied().filter(|&c| c == u.scales.len() && u.axis == Some(0))?;
        let row = (w.len() / channels.max(1)).max(1);
        let error = |w: &[f32], r: &[f32]| w.iter().zip(r).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
        let mean = error(w, r) / channels as f64;
        let mut worst = (0, 0.0, -1.0);
        let mut coarse = (0, 1.0);
        for (c, (w, r)) in w.chunks(row).zip(r.chunks(row)).enumerate() {
            let square = |x: &[f32]| x.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
            let noise = error(w, r);
            let greatest = w.iter().fold(0.0f64, |m, &x| m.max(f64::from(x.abs())));
            let rms = (square(w) / row as f64).sqrt();
            if noise > worst.2 && rms > 0.0 {
                worst = (c, greatest / rms, noise);
            }
            let times = f64::from(u.scales[c]) * u.max() as f64 / greatest.max(f64::MIN_POSITIVE);
            // A channel that all but vanishes has a scale that is too coarse for it, and does no harm.
            if greatest > 0.0 && times > coarse.1 && noise >= mean {
                coarse = (c, times);
            }
        }
        Some(WeightFacts { peak: (worst.0, worst.1), coarse })
    }
}
