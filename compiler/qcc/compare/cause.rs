//! Why a part of a network loses accuracy.
//!
//! | cause | is named where | remedies, in the order in which they are tried |
//! |---|---|---|
//! | `clipped` | what is cut off has more power than what is rounded | samples that reach so far; `--method minmax` |
//! | `few-codes` | the samples use less than half of the range | `--method percentile`, `mse` |
//! | `outlier-channel` | a channel reaches 4 times the median channel, and no more than a tenth of all reach half of that | `--equalize on`, `--method mse` |
//! | `rare-values` | less than one value in a thousand is above a quarter of the range | `--method percentile`, `mse` |
//! | `zero-heavy` | 9 of 10 values are zero | `--method mse`, `kl` |
//! | `bias-shift` | half of the error's power is a shift of the channels' means | `--round-weights on` |
//! | `coarse-weights` | a channel's weights use less than half of their codes | `--equalize on`, `--round-weights on` |
//! | `weight-outlier` | a weight is 8 times the root mean square of its channel | `--round-weights on` |
//! | `rounding` | nothing stands out: 8 bits are few | 16 bits |
//!
//! The first five are about the value, the others about the weights of the layer that computes it; those of the side that does
//! more damage are asked. Behind all others comes `--precision`, which gives that side 16 bits.

use qcc_ir::Type;
use serde::Serialize;

use super::seen::{Seen, Shift, WeightFacts};

/// How many times the median channel an outlier reaches.
const OUTLIER: f64 = 4.0;

/// Most channels that reach half of the greatest, as a share of all, for the greatest to be called an outlier.
const FEW: f64 = 0.1;

/// Share of values above a quarter of the range below which they are called rare.
const RARE: f64 = 1e-3;

/// Share of zeros from which on a value is called zero-heavy.
const ZEROS: f64 = 0.9;

/// Share of the range below which few codes are used.
const USED: f64 = 0.5;

/// Share of the error that is called a shift.
const SHIFTED: f64 = 0.5;

/// How many times its channel's root mean square a weight that stands out is.
const PEAK: f64 = 8.0;

/// Why a part loses accuracy.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cause {
    /// The cause's name in the table above.
    pub kind: &'static str,
    /// The facts, for people.
    pub text: String,
}

fn cause(kind: &'static str, text: String) -> Cause {
    Cause { kind, text }
}

/// The cause of the damage that a value does which is stored in `ty`.
pub(crate) fn of_value(seen: &Seen, ty: &Type) -> Cause {
    let Some(u) = ty.uniform() else { return cause("rounding", "it is not rounded".into()) };
    let count = seen.count.max(1) as f64;
    let range = u.range();
    let share = |n: u64| 100.0 * n as f64 / count;
    if seen.clipped > seen.rounded && seen.outside > 0 {
        let text = format!(
            "clipped: {} of the values are beyond {:.4} .. {:.4}, up to {:.4} .. {:.4}",
            percent(share(seen.outside)),
            range.min,
            range.max,
            seen.least,
            seen.greatest
        );
        return cause("clipped", text);
    }
    let span = |lo: f32, hi: f32| f64::from(hi.max(0.0)) - f64::from(lo.min(0.0));
    let used = span(seen.least, seen.greatest) / span(range.min, range.max).max(f64::MIN_POSITIVE);
    let codes = (u.max() - u.min() + 1) as f64;
    if used < USED {
        let text = format!(
            "range too wide: {:.4} .. {:.4} of {:.4} .. {:.4} is used, {:.0} of {codes:.0} codes",
            seen.least,
            seen.greatest,
            range.min,
            range.max,
            (used * (codes - 1.0)).round() + 1.0
        );
        return cause("few-codes", text);
    }
    if let Some((channel, greatest, times)) = outlier(&seen.channels) {
        let text =
            format!("outlier channel: channel {channel} reaches {greatest:.4}, {times:.1} times the median channel");
        return cause("outlier-channel", text);
    }
    let magnitude = range.min.abs().max(range.max.abs());
    if (seen.large as f64) < RARE * count {
        let text = format!(
            "rare values: {} of the values are above {:.4}, a quarter of the range",
            percent(share(seen.large)),
            magnitude / 4.0
        );
        return cause("rare-values", text);
    }
    if seen.zeros as f64 >= ZEROS * count {
        return cause("zero-heavy", format!("zero-heavy: {} of the values are zero", percent(share(seen.zeros))));
    }
    cause("rounding", format!("rounding to {codes:.0} codes; no channel or value stands out"))
}

/// The cause of the damage that a layer's weights do.
pub(crate) fn of_weights(facts: Option<WeightFacts>, shift: &Shift) -> Cause {
    let shifted = shift.share();
    if shifted >= SHIFTED {
        let text =
            format!("bias shift: {:.0} % of the error of its weights shifts the means of channels", 100.0 * shifted);
        return cause("bias-shift", text);
    }
    if let Some(WeightFacts { coarse: (channel, times), .. }) = facts.filter(|f| f.coarse.1 > 2.0) {
        let text =
            format!("narrow weights: channel {channel} has a scale {times:.1} times as coarse as its weights need");
        return cause("coarse-weights", text);
    }
    if let Some(WeightFacts { peak: (channel, times), .. }) = facts.filter(|f| f.peak.1 >= PEAK) {
        let text = format!(
            "weight outlier: the greatest weight of channel {channel} is {times:.1} times their root mean square"
        );
        return cause("weight-outlier", text);
    }
    cause("rounding", "rounding of the weights; no channel or weight stands out".into())
}

/// A channel that reaches far beyond the others: its number, its greatest magnitude, and how many times that of the median.
fn outlier(channels: &[f32]) -> Option<(usize, f64, f64)> {
    let mut sorted: Vec<f32> = channels.to_vec();
    sorted.sort_by(f32::total_cmp);
    // With two channels there is no crowd to stand out from.
    let median = f64::from(*sorted.get(sorted.len() / 2).filter(|_| sorted.len() > 2)?);
    let (channel, &greatest) = channels.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1))?;
    let great = channels.iter().filter(|&&c| c > greatest / 2.0).count();
    let times = f64::from(greatest) / median;
    let few = great as f64 <= (FEW * channels.len() as f64).max(1.0);
    (median > 0.0 && times >= OUTLIER && few).then_some((channel, f64::from(greatest), times))
}

fn percent(share: f64) -> String {
    if share >= 0.1 || share == 0.0 { format!("{share:.1} %") } else { format!("{share:.4} %") }
}

#[cfg(test)]
mod tests {
    use qcc_ir::{Elem, Range, Tensor, Uniform, format};

    use super::*;

    fn seen(values: &[f32], dims: &[usize], range: (f32, f32)) -> Cause {
        let uniform = Uniform::covering(&format::U8, Range { min: range.0, max: range.1 });
        let ty = Type { dims: dims.to_vec(), elem: Elem::Uniform(uniform.into()) };
        let mut seen = Seen::default();
        seen.observe(&Tensor::f32(dims, values.to_vec()), &ty);
        of_value(&seen, &ty)
    }

    fn ramp(n: usize, greatest: f32) -> Vec<f32> {
        (0..n).map(|i| greatest * i as f32 / (n - 1) as f32).collect()
    }

    #[test]
    fn causes_follow_from_what_was_seen() {
        assert_eq!(seen(&ramp(100, 1.0), &[1, 100], (0.0, 1.0)).kind, "rounding");
        let clipped = seen(&ramp(100, 2.0), &[1, 100], (0.0, 1.0));
        assert_eq!((clipped.kind, clipped.text.contains("50.0 %")), ("clipped", true), "{clipped:?}");
        let wide = seen(&ramp(100, 0.25), &[1, 100], (0.0, 1.0));
        assert_eq!((wide.kind, wide.text.contains("65 of 256 codes")), ("few-codes", true), "{wide:?}");
        // Five channels of four pixels, the fourth ten times as great.
        let values: Vec<f32> = (0..20).map(|i| if i / 4 == 3 { 10.0 } else { 1.0 } * (1 + i % 4) as f32).collect();
        let outlier = seen(&values, &[1, 5, 2, 2], (0.0, 40.0));
        let says = outlier.text.contains("channel 3 reaches 40.0000, 10.0 times");
        assert_eq!((outlier.kind, says), ("outlier-channel", true), "{outlier:?}");
        let rare: Vec<f32> = ramp(5000, 0.2).into_iter().chain([1.0]).collect();
        assert_eq!(seen(&rare, &[1, 1, 1, 5001], (0.0, 1.0)).kind, "rare-values");
        let zeros: Vec<f32> = (0..100).map(|i| if i % 20 == 0 { 1.0 } else { 0.0 }).collect();
        assert_eq!(seen(&zeros, &[1, 1, 10, 10], (0.0, 1.0)).kind, "zero-heavy");
    }
}
