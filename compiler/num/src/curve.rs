//! Functions of codes of 24 bits: samples of every octave of the distance from the zero point, between which they are linear.
//!
//! ```text
//! (31)  d = min(|x - Zx|, 2^24 - 1),  n = max(bits(d) - 9, 0),  j = floor(d / 2^n)
//!       v = F[n, j] + floor((F[n, j + 1] - F[n, j]) (d mod 2^n) / 2^n)        F[0, d] for n = 0
//!       q = min(max(floor((v + 2^11) / 2^12), lo), hi)
//! ```
//!
//! `F` are results with 12 fraction bits: what lies within a 256th of an octave is a line.

/// Fraction bits of samples.
pub const FRACTION: u32 = 12;

/// Distances that have samples of their own.
pub const DIRECT: usize = 512;

/// Samples of a longer octave, the first of the next one included.
pub const OCTAVE: usize = 257;

/// Samples for distances of one sign: those of their own, then 15 octaves.
pub const SIDE: usize = DIRECT + 15 * OCTAVE;

/// Greatest distance.
pub const FARTHEST: i64 = (1 << 24) - 1;

/// Greatest magnitude of a sample.
pub const GREATEST: i32 = 1 << 29;

/// `v` of (31); `samples` are those for positive distances, then for negative ones.
#[expect(
    clippy::cast_sign_loss,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "a distance has 24 bits"
)]
pub fn at(samples: &[i32], distance: i64) -> i64 {
    let side = if distance < 0 { &samples[SIDE..] } else { samples };
    let d = distance.abs().min(FARTHEST);
    if d < DIRECT as i64 {
        return i64::from(side[d as usize]);
    }
    let n = 64 - d.leading_zeros() - 9;
    let j = (d >> n) as usize + 1 - OCTAVE;
    let row = &side[DIRECT + (n as usize - 1) * OCTAVE..][..OCTAVE];
    let (first, next) = (i64::from(row[j]), i64::from(row[j + 1]));
    first + (((next - first) * (d & ((1 << n) - 1))) >> n)
}

/// Equation (31).
pub fn apply(samples: &[i32], distance: i64, [lo, hi]: [i64; 2]) -> i64 {
    ((at(samples, distance) + (1 << (FRACTION - 1))) >> FRACTION).clamp(lo, hi)
}

/// The samples of a function from distances to units of the result.
#[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "clamped to samples; few distances")]
pub fn samples(f: impl Fn(i64) -> f64) -> Vec<i32> {
    let side = |sign: i64| {
        let direct = 0..DIRECT as i64;
        let octaves = (1..=15i64).flat_map(|n| (256..=512i64).map(move |j| j << n));
        direct.chain(octaves).map(move |d| sign * d)
    };
    let most = f64::from(GREATEST);
    let sample = |d: i64| (f(d) * f64::from(1 << FRACTION)).round().clamp(-most, most) as i32;
    [1, -1].into_iter().flat_map(side).map(sample).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logarithm_over_seven_decades() {
        let f = |d: i64| if d > 0 { 1000.0 * (d as f64).ln() } else { -5.0 };
        let table = samples(f);
        assert_eq!(table.len(), 2 * SIDE);
        for d in (-3..600).chain((0..4000).map(|i| i * i)).chain([FARTHEST - 1, FARTHEST]) {
            let d = d.min(FARTHEST);
            let got = apply(&table, d, [-32768, 32767]) as f64;
            assert!((got - f(d)).abs() <= 0.51 + 0.01, "{d}: {got} for {}", f(d));
        }
        apply(&table, -(1 << 40), [0, 255]);
    }
}
