//! Number formats: which integers stand for real numbers, `r = scale * (q - zero_point)`.
//!
//! A [`Format`] is a storage and a grid, the integers of that storage that are used. [`FORMATS`] has a row for every format that qcc chooses
//! by itself or a user can name (`--precision NAME=i16`); a model that is quantized already may bring others ([`Format::linear`]).
//! Whatever quantizes, rounds, lowers or packs asks the format, so that another one of at most 8 bits is a row of this table:
//!
//! ```text
//! Row { name: "i6", alias: Some("6"), role: Role::Weights, format: &I6, scales: ScaleRule::Greatest, summary: "weights of 6 bits" }
//! ```
//!
//! How scales follow from weights ([`ScaleRule`]) is a part of the row; a real number goes to the nearest integer of the grid. For powers of
//! two that is the rule of INQ (Zhou et al., ICLR 2017, equation 4): `beta` for `(alpha + beta) / 2 <= |w| < 3 beta / 2`, where `alpha`
//! is the level below `beta`.
//!
//! Constants of a graph hold the integers `q` themselves, also where the grid is a list of levels: an operator multiplies what it
//! finds. [`Format::encode`] gives the code of `ceil(log2(levels))` bits in which a file can store one, [`Format::decode`] the integer of a code.

use std::borrow::Cow;
use std::fmt;
use std::ops::RangeInclusive;

use crate::edge;
use crate::fixed::{sat32, to_f32, whole};
pub use crate::storage::Int;

/// Integers that stand for real numbers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Grid {
    /// All from `min` to `max`.
    Linear {
        /// Least.
        min: i64,
        /// Greatest.
        max: i64,
    },
    /// These, in ascending order; two at least.
    Levels(Cow<'static, [i64]>),
}

/// A storage and the integers of it that are used.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Format {
    storage: Int,
    grid: Grid,
}

/// What numbers of a format are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Values of run time: any zero point of the grid.
    Values,
    /// Constant weights of a layer: symmetric, zero point 0, a scale for each output channel.
    Weights,
    /// The bias of a layer, in units of its accumulators.
    Bias,
}

/// How the scales of weights, one for each output channel, follow from the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScaleRule {
    /// The greatest magnitude of a channel gets the greatest integer.
    Greatest,
    /// All channels of a layer have one power of two: `2^n1` is the greatest level, `n1 = floor(log2(4 max|w| / 3))` (INQ, section 2.1).
    PowerOfTwo,
    /// The levels are chosen for each layer, and with them the scales: those of the row are where the search begins.
    Fitted,
}

/// A format with a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Spelling after `--precision NAME=`; unique within a role.
    pub name: &'static str,
    /// Another spelling: bits.
    pub alias: Option<&'static str>,
    /// What has this format.
    pub role: Role,
    /// The format.
    pub format: &'static Format,
    /// How scales of weights are chosen.
    pub scales: ScaleRule,
    /// What it is, in one line.
    pub summary: &'static str,
}

/// Values of 8 bits.
pub static U8: Format = Format::all(Int::U8);
/// Values of 24 bits, which are inside of a model only.
pub static I24: Format = Format::linear(Int::I32, -(1 << 23), (1 << 23) - 1);
/// Weights of 8 bits.
pub static I8: Format = Format::symmetric(Int::I8, 127);
/// Weights of 7 bits: two products with bytes fit 16 bits.
pub static I7: Format = Format::symmetric(Int::I8, 63);
/// Weights of 6 bits.
pub static I6: Format = Format::symmetric(Int::I8, 31);
/// Weights of 5 bits.
pub static I5: Format = Format::symmetric(Int::I8, 15);
/// Weights of 4 bits.
pub static I4: Format = Format::symmetric(Int::I8, 7);
/// Weights of 3 bits.
pub static I3: Format = Format::symmetric(Int::I8, 3);
/// Weights that are 0 or powers of two whose exponents span what a byte holds.
pub static POT4: Format = Format::of_levels(Int::I8, &[-64, -32, -16, -8, -4, -2, -1, 0, 1, 2, 4, 8, 16, 32, 64]);
/// Weights of 16 bytes: where the search for those of a layer begins, denser near 0, as weights are.
pub static TABLE4: Format =
    Format::of_levels(Int::I8, &[-127, -94, -72, -54, -39, -25, -12, 0, 6, 12, 25, 39, 54, 72, 94, 127]);
/// INQ's weights of 5 bits: eight powers of two. A byte does not hold 128: passes halve the levels of channels that have it.
pub static INQ5: Format =
    Format::of_levels(Int::I16, &[-128, -64, -32, -16, -8, -4, -2, -1, 0, 1, 2, 4, 8, 16, 32, 64, 128]);
/// INQ's weights of 4 bits: four powers of two.
pub static INQ4: Format = Format::of_levels(Int::I8, &[-8, -4, -2, -1, 0, 1, 2, 4, 8]);
/// INQ's weights of 3 bits: two powers of two.
pub static INQ3: Format = Format::of_levels(Int::I8, &[-2, -1, 0, 1, 2]);
/// Values of 4 bits, each in a byte.
pub static U4: Format = Format::linear(Int::U8, 0, 15);
/// Values of 16 bits.
pub static I16: Format = Format::all(Int::I16);
/// Weights of 16 bits: the high byte is signed, and so is what remains for the low one.
pub static I16_WEIGHTS: Format = Format::symmetric(Int::I16, 127 * 256);
/// Biases beside accumulators of 32 bits.
pub static I32: Format = Format::all(Int::I32);
/// Biases beside sums of 64 bits.
pub static I64: Format = Format::all(Int::I64);

/// The formats that qcc chooses and a user can name. The first of a role is what it has where nothing else is said.
pub static FORMATS: &[Row] = &[
    Row::linear("u8", Some("8"), Role::Values, &U8, "values of 8 bits"),
    Row::linear("i16", Some("16"), Role::Values, &I16, "values of 16 bits"),
    Row::linear("u4", Some("4"), Role::Values, &U4, "values of 4 bits, each in a byte"),
    Row::linear("i8", Some("8"), Role::Weights, &I8, "weights of 8 bits"),
    Row::linear("i7", Some("7"), Role::Weights, &I7, "weights of 7 bits, for runtimes that add products in 16 bits"),
    Row::linear("i6", Some("6"), Role::Weights, &I6, "weights of 6 bits"),
    Row::linear("i5", Some("5"), Role::Weights, &I5, "weights of 5 bits"),
    Row::linear("i4", Some("4"), Role::Weights, &I4, "weights of 4 bits"),
    Row::linear("i3", Some("3"), Role::Weights, &I3, "weights of 3 bits"),
    Row::levels("pot4", &POT4, ScaleRule::Greatest, "weights that are 0 or a power of two of seven"),
    Row::levels("table4", &TABLE4, ScaleRule::Fitted, "weights of 16 bytes that are chosen for each layer"),
    Row::levels("inq5", &INQ5, ScaleRule::PowerOfTwo, "INQ's weights of 5 bits: 0 or a power of two of eight"),
    Row::levels("inq4", &INQ4, ScaleRule::PowerOfTwo, "INQ's weights of 4 bits: 0 or a power of two of four"),
    Row::levels("inq3", &INQ3, ScaleRule::PowerOfTwo, "INQ's weights of 3 bits: 0 or a power of two of two"),
    Row::linear("i16", Some("16"), Role::Weights, &I16_WEIGHTS, "weights of 16 bits"),
    Row::linear("i32", None, Role::Bias, &I32, "biases in units of 32-bit accumulators"),
    Row::linear("i64", None, Role::Bias, &I64, "biases in units of sums of 64 bits"),
];

impl Row {
    const fn linear(
        name: &'static str,
        alias: Option<&'static str>,
        role: Role,
        format: &'static Format,
        summary: &'static str,
    ) -> Row {
        Row { name, alias, role, format, scales: ScaleRule::Greatest, summary }
    }

    const fn levels(name: &'static str, format: &'static Format, scales: ScaleRule, summary: &'static str) -> Row {
        Row { name, alias: None, role: Role::Weights, format, scales, summary }
    }
}

/// The row of a role with this name or alias.
pub fn named(name: &str, role: Role) -> Option<&'static Row> {
    rows(role).find(|row| row.name == name || row.alias == Some(name))
}

/// What a role has where nothing else is said.
pub fn usual(role: Role) -> &'static Format {
    rows(role).next().map_or(&U8, |row| row.format)
}

/// The rows of a role.
pub fn rows(role: Role) -> impl Iterator<Item = &'static Row> {
    FORMATS.iter().filter(move |row| row.role == role)
}

impl Format {
    /// The integers from `min` to `max`. The verifier of a graph refuses those that `storage` does not hold.
    pub const fn linear(storage: Int, min: i64, max: i64) -> Format {
        Format { storage, grid: Grid::Linear { min, max } }
    }

    /// The integers of a magnitude up to `greatest`.
    pub const fn symmetric(storage: Int, greatest: i64) -> Format {
        Format::linear(storage, -greatest, greatest)
    }

    /// All that the storage holds.
    pub const fn all(storage: Int) -> Format {
        Format::linear(storage, storage.min(), storage.max())
    }

    /// These integers alone, which ascend.
    const fn of_levels(storage: Int, levels: &'static [i64]) -> Format {
        Format { storage, grid: Grid::Levels(Cow::Borrowed(levels)) }
    }

    /// These integers alone; `None` if there are fewer than two or they do not ascend.
    pub fn levels(storage: Int, levels: Vec<i64>) -> Option<Format> {
        let ascends = levels.len() > 1 && levels.windows(2).all(|pair| pair[0] < pair[1]);
        ascends.then_some(Format { storage, grid: Grid::Levels(Cow::Owned(levels)) })
    }

    /// How an integer is stored.
    pub fn storage(&self) -> Int {
        self.storage
    }

    /// Which integers are used.
    pub fn grid(&self) -> &Grid {
        &self.grid
    }

    /// The row that has this format.
    pub fn row(&self) -> Option<&'static Row> {
        FORMATS.iter().find(|row| *row.format == *self)
    }

    /// How scales of weights of this format are chosen.
    pub fn scale_rule(&self) -> ScaleRule {
        self.row().map_or(ScaleRule::Greatest, |row| row.scales)
    }

    /// Least integer.
    pub fn min(&self) -> i64 {
        match &self.grid {
            Grid::Linear { min, .. } => *min,
            Grid::Levels(levels) => levels.first().copied().unwrap_or(0),
        }
    }

    /// Greatest integer.
    pub fn max(&self) -> i64 {
        match &self.grid {
            Grid::Linear { max, .. } => *max,
            Grid::Levels(levels) => levels.last().copied().unwrap_or(0),
        }
    }

    /// Greatest magnitude of an integer.
    pub fn magnitude(&self) -> u64 {
        self.min().unsigned_abs().max(self.max().unsigned_abs())
    }

    /// Distance of the greatest from the least integer.
    pub fn extent(&self) -> u64 {
        self.max().abs_diff(self.min())
    }

    /// Bits of a code: the least number that tells all integers of the grid apart.
    pub fn bits(&self) -> u32 {
        let last = match &self.grid {
            Grid::Linear { .. } => self.extent(),
            Grid::Levels(levels) => levels.len() as u64 - 1,
        };
        u64::BITS - last.leading_zeros()
    }

    /// True if a byte stores an integer: one byte product multiplies it. What does not fit is taken apart into bytes.
    pub fn fits_byte(&self) -> bool {
        self.storage.bits() <= 8
    }

    /// True if the storage holds all integers and there are two at least.
    pub fn is_valid(&self) -> bool {
        self.storage.min() <= self.min() && self.min() < self.max() && self.max() <= self.storage.max()
    }

    /// True if `q` is one of the integers.
    pub fn contains(&self, q: i64) -> bool {
        match &self.grid {
            Grid::Linear { min, max } => (*min..=*max).contains(&q),
            Grid::Levels(levels) => levels.binary_search(&q).is_ok(),
        }
    }

    /// The integer of the grid that is nearest to `q`; of two the lesser.
    pub fn nearest(&self, q: i64) -> i64 {
        match &self.grid {
            Grid::Linear { min, max } => q.clamp(*min, *max),
            Grid::Levels(levels) => levels.iter().copied().min_by_key(|level| level.abs_diff(q)).unwrap_or(0),
        }
    }

    /// The integers that are at most `steps` away on the grid: their least and greatest.
    pub fn around(&self, q: i64, steps: usize) -> RangeInclusive<i64> {
        match &self.grid {
            Grid::Linear { min, max } => {
                let steps = i64::try_from(steps).unwrap_or(i64::MAX);
                q.saturating_sub(steps).max(*min)..=q.saturating_add(steps).min(*max)
            }
            Grid::Levels(levels) => {
                let at = levels.partition_point(|&level| level < q).min(levels.len() - 1);
                levels[at.saturating_sub(steps)]..=levels[(at + steps).min(levels.len() - 1)]
            }
        }
    }

    /// The integer for a real number: equation (6) of [`edge`], and the nearest level where there are levels, of two the one of the
    /// greater magnitude.
    pub fn quantize(&self, x: f32, scale: f32, zero_point: i64) -> i64 {
        match &self.grid {
            Grid::Linear { min, max } => {
                i64::from(edge::quantize(x, scale, sat32(zero_point), sat32(*min), sat32(*max)))
            }
            Grid::Levels(levels) => {
                let wanted = f64::from(x) / f64::from(scale) + zero_point as f64;
                let distance = |level: &i64| if wanted.is_nan() { 0.0 } else { (*level as f64 - wanted).abs() };
                let nearer = |a: &i64, b: &i64| {
                    let tie = (b - zero_point).unsigned_abs().cmp(&(a - zero_point).unsigned_abs());
                    distance(a).total_cmp(&distance(b)).then(tie)
                };
                levels.iter().copied().min_by(nearer).unwrap_or(0)
            }
        }
    }

    /// The real number for which an integer stands: equation (7) of [`edge`], with the difference in 64 bits, since a zero point may
    /// be far from a 32-bit integer, and a bias may have more bits.
    pub fn dequantize(q: i64, scale: f32, zero_point: i64) -> f32 {
        q.saturating_sub(zero_point) as f32 * scale
    }

    /// Fake quantization: the real number that takes the place of `x`.
    pub fn fake(&self, x: f32, scale: f32, zero_point: i64) -> f32 {
        Format::dequantize(self.quantize(x, scale, zero_point), scale, zero_point)
    }

    /// Scale and zero point with which the grid covers the reals from `min` to `max`, between which 0 lies: that is represented exactly
    /// (Jacob et al. 2018, section 2.1).
    pub fn cover(&self, min: f32, max: f32) -> (f32, i64) {
        // A value that is always zero still needs a positive scale.
        let (span, extent) = ((f64::from(max) - f64::from(min)).max(1e-30), self.extent() as f64);
        let scale = to_f32(span / extent).max(f32::MIN_POSITIVE);
        let zero = whole((-f64::from(min) / f64::from(scale)).round().clamp(0.0, extent));
        (scale, self.min() + zero)
    }

    /// The scale, with zero point 0, that gives `greatest` the greatest integer; at least `least`.
    pub fn symmetric_scale(&self, greatest: f64, least: f64) -> f32 {
        to_f32((greatest / self.magnitude() as f64).max(least)).max(f32::MIN_POSITIVE)
    }

    /// Scales of weights, with zero point 0, for channels of these greatest magnitudes; each is at least what `least` says, and where a rule
    /// wants a power of two, the next one.
    pub fn scales(&self, greatest: &[f64], least: &[f64]) -> Vec<f32> {
        let of_layer = greatest.iter().fold(0.0f64, |m, &x| m.max(x));
        let scale = |(&greatest, &least): (&f64, &f64)| match self.scale_rule() {
            ScaleRule::Greatest | ScaleRule::Fitted => self.symmetric_scale(greatest, least),
            ScaleRule::PowerOfTwo => {
                let own = power_of_two(4.0 * of_layer / 3.0) / self.magnitude() as f64;
                // What is rounded up is no power of two yet.
                let least = least.max(f64::from(f32::MIN_POSITIVE));
                let needed = power_of_two(least);
                to_f32(own.max(if needed < least { 2.0 * needed } else { needed }))
            }
        };
        greatest.iter().zip(least).map(scale).collect()
    }

    /// The code of an integer of the grid: its distance from the least, or its position among the levels.
    pub fn encode(&self, q: i64) -> Option<u64> {
        match &self.grid {
            Grid::Linear { min, .. } => self.contains(q).then(|| q.abs_diff(*min)),
            Grid::Levels(levels) => levels.binary_search(&q).ok().map(|at| at as u64),
        }
    }

    /// The integer of a code.
    pub fn decode(&self, code: u64) -> Option<i64> {
        match &self.grid {
            Grid::Linear { min, .. } => (code <= self.extent()).then(|| min.wrapping_add_unsigned(code)),
            Grid::Levels(levels) => levels.get(usize::try_from(code).ok()?).copied(),
        }
    }
}

/// The greatest power of two that is not above `x`; 0 if `x` has none.
fn power_of_two(x: f64) -> f64 {
    // The fraction of a normal number is what is not its exponent.
    if x.is_normal() && x > 0.0 { f64::from_bits(x.to_bits() & (0x7ff << 52)) } else { 0.0 }
}

/// As MLIR's Quant dialect spells the integers of a type; levels, which it does not know, as a list.
impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.storage.name())?;
        match &self.grid {
            Grid::Linear { min, max } if (*min, *max) == (self.storage.min(), self.storage.max()) => Ok(()),
            Grid::Linear { min, max } => write!(f, "<{min}:{max}>"),
            Grid::Levels(levels) => write!(f, "<{levels:?}>"),
        }
    }
}

impl From<&Format> for Format {
    fn from(format: &Format) -> Format {
        format.clone()
    }
}

impl From<Int> for Format {
    fn from(storage: Int) -> Format {
        Format::all(storage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels() -> Format {
        Format::levels(Int::I8, vec![-8, -4, -2, -1, 0, 1, 2, 4, 8]).expect("levels ascend")
    }

    #[test]
    fn rows_are_valid_and_names_unique() {
        for row in FORMATS {
            assert!(row.format.is_valid() && row.format.contains(0), "{}", row.name);
            assert_eq!(named(row.name, row.role), Some(row), "{}", row.name);
            assert!(row.alias.is_none_or(|a| a.parse() == Ok(row.format.bits())), "{}", row.name);
            assert_eq!(row.format.row().map(|r| r.format), Some(row.format), "{}", row.name);
            let symmetric = row.format.min() == -row.format.max();
            assert!(row.role != Role::Weights || symmetric, "{}", row.name);
        }
        for role in [Role::Values, Role::Weights, Role::Bias] {
            let names: Vec<_> = rows(role).flat_map(|row| std::iter::once(row.name).chain(row.alias)).collect();
            assert!(names.iter().all(|n| names.iter().filter(|m| m == &n).count() == 1), "{names:?}");
        }
        assert!(named("i32", Role::Values).is_none() && named("", Role::Values).is_none());
    }

    #[test]
    fn every_integer_survives_quantization_and_coding() {
        let grids = FORMATS.iter().map(|row| row.format.clone()).filter(|f| f.bits() <= 16);
        for format in grids.chain([levels(), Format::symmetric(Int::I8, 31), Format::linear(Int::U8, 1, 15)]) {
            let integers: Vec<i64> = (format.min()..=format.max()).filter(|&q| format.contains(q)).collect();
            assert!(1 << format.bits() >= integers.len() && 1 << (format.bits() - 1) < integers.len(), "{format:?}");
            for (scale, zero) in [(0.0039f32, format.min()), (3.7, format.max()), (0.1, integers[integers.len() / 2])] {
                for &q in &integers {
                    let real = Format::dequantize(q, scale, zero);
                    assert_eq!(format.quantize(real, scale, zero), q, "{format:?}");
                    assert_eq!(format.fake(real, scale, zero), real);
                }
            }
            for (code, &q) in (0u64..).zip(&integers) {
                assert_eq!((format.encode(q), format.decode(code)), (Some(code), Some(q)), "{format:?}");
                assert_eq!(format.nearest(q), q);
            }
            let behind = integers.len() as u64;
            assert_eq!((format.encode(format.max() + 1), format.decode(behind)), (None, None), "{format:?}");
        }
    }

    #[test]
    fn what_is_between_goes_to_the_nearest() {
        let format = levels();
        let found = [-9.0f32, -6.1, -3.1, 0.4, 2.9, 3.1, 100.0].map(|x| format.quantize(x, 1.0, 0));
        assert_eq!(found, [-8, -8, -4, 0, 2, 4, 8]);
        assert_eq!((format.bits(), format.magnitude(), format.nearest(6), format.nearest(-100)), (4, 8, 4, -8));
        assert_eq!((format.around(1, 2), format.around(8, 1)), (-1..=4, 4..=8));
        assert_eq!((I8.around(126, 2), I8.around(-127, 2)), (124..=127, -127..=-125));
        assert!(Format::levels(Int::I8, vec![1, 1]).is_none() && Format::levels(Int::I8, vec![0]).is_none());
        assert_eq!(I16.quantize(1e9, 1.0, 5), 32767);
    }

    /// The levels and thresholds of the paper, section 2.1 and equation 4.
    #[test]
    fn powers_of_two_are_those_of_inq() {
        for (bits, format) in [(5, &INQ5), (4, &INQ4), (3, &INQ3)] {
            for greatest in [0.75f64, 1.0, 1.4999, 0.3, 6.0, 5.9999] {
                let n1 = (4.0 * greatest / 3.0).log2().floor();
                let n2 = n1 + 1.0 - f64::from(1 << (bits - 2));
                let scale = format.scales(&[0.01, greatest], &[0.0; 2]);
                assert_eq!(scale, [to_f32(n2.exp2()); 2], "{bits} {greatest}");
                let levels: Vec<f64> =
                    (0..).map(|i| (n2 + f64::from(i)).exp2()).take_while(|&l| l <= n1.exp2()).collect();
                assert_eq!(levels.len() as u64, 1 << (bits - 2));
                let level = |x: f64| f64::from(format.fake(to_f32(x), scale[1], 0));
                let mut alpha = 0.0;
                for beta in levels {
                    for sign in [1.0, -1.0] {
                        assert_eq!(level(sign * (alpha + beta) / 2.0), sign * beta, "{bits} {alpha} {beta}");
                        assert_eq!(level(sign * 0.99 * (alpha + beta) / 2.0), sign * alpha);
                        assert_eq!(level(sign * 1.49 * beta), sign * beta);
                    }
                    alpha = beta;
                }
            }
        }
        assert_eq!(INQ4.scales(&[1.0], &[0.3]), [0.5]);
        assert_eq!(INQ4.scales(&[0.0, 0.0], &[0.0, 0.25]), [f32::MIN_POSITIVE, 0.25]);
        assert_eq!(POT4.scales(&[1.0, 32.0], &[0.0, 0.0]), [1.0 / 64.0, 0.5]);
    }

    #[test]
    fn zero_is_exact_whatever_the_range() {
        for row in rows(Role::Values) {
            let format = row.format;
            for (min, max) in [(-1.0, 1.0), (0.0, 3.0), (-7.0, 0.0), (0.0, 0.0), (-1e30, 1e30)] {
                let (scale, zero) = format.cover(min, max);
                assert!(scale > 0.0 && scale.is_finite() && format.contains(zero), "{} {min} {max}", row.name);
                let reach =
                    Format::dequantize(format.max(), scale, zero) - Format::dequantize(format.min(), scale, zero);
                assert!((f64::from(reach) / (f64::from(max) - f64::from(min)).max(1e-30) - 1.0).abs() < 1e-5);
            }
            assert_eq!(format.cover(0.0, 3.0).1, format.min());
            assert_eq!(format.cover(-3.0, 0.0).1, format.max());
        }
        assert_eq!(I8.symmetric_scale(254.0, 0.0), 2.0);
        assert_eq!(I8.symmetric_scale(0.0, 0.5), 0.5);
    }
}
