//! Equations (1) to (4) of `qcc_num::requant` over many accumulators, with what is left over by each rounding.

use qcc_num::requant::{Epilogue, FRACTION_BITS, residual_term};

use super::{ABOVE, BELOW};

/// Accumulators of some positions, which lack what they begin with, to be requantized: equations (1) to (4).
pub(super) struct Requantize<'a> {
    pub(super) rule: &'a Epilogue,
    /// What the sums of each output begin with.
    pub(super) start: &'a [i32],
    /// Multipliers of the outputs.
    pub(super) mult: &'a [i32],
    pub(super) sums: &'a [i32],
    /// Residuals, and their multiplier.
    pub(super) residual: Option<(&'a [u8], u16)>,
    pub(super) codes: &'a mut [u8],
    pub(super) errors: &'a mut [i8],
}

impl pulp::NullaryFnOnce for Requantize<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let (rule, start, mult) = (self.rule, self.start, self.mult);
        let n = start.len();
        let (residual, by) = self.residual.unwrap_or((&[], 0));
        let rows = self.sums.chunks_exact(n).zip(self.codes.chunks_exact_mut(n)).zip(self.errors.chunks_exact_mut(n));
        for (row, ((sums, codes), errors)) in rows.enumerate() {
            let residual = if residual.is_empty() { residual } else { &residual[row * n..(row + 1) * n] };
            let line = Line { sums, start, mult, residual, by, codes, errors };
            // What most layers have is known where the loop is compiled.
            match (rule.shl, rule.f32_fraction_bits) {
                (0, 0) => line.requantize(&Epilogue { shl: 0, f32_fraction_bits: 0, ..*rule }),
                _ => line.requantize(rule),
            }
        }
    }
}

/// Accumulators of a position, and what becomes of them.
struct Line<'a> {
    sums: &'a [i32],
    start: &'a [i32],
    mult: &'a [i32],
    residual: &'a [u8],
    by: u16,
    codes: &'a mut [u8],
    errors: &'a mut [i8],
}

impl Line<'_> {
    #[inline(always)]
    fn requantize(mut self, rule: &Epilogue) {
        let (mut at, all) = (0, self.sums.len());
        while at + LANES <= all {
            self.lanes::<LANES>(at, rule);
            at += LANES;
        }
        while at < all {
            self.lanes::<1>(at, rule);
            at += 1;
        }
    }

    /// So many channels, by loops over arrays that lie nowhere else.
    #[inline(always)]
    fn lanes<const N: usize>(&mut self, at: usize, rule: &Epilogue) {
        let (sums, start, mult) =
            (lanes::<_, N>(self.sums, at), lanes::<_, N>(self.start, at), lanes::<_, N>(self.mult, at));
        let residual = if self.residual.is_empty() { [0; N] } else { lanes(self.residual, at) };
        let (lo, hi) = (i32::from(rule.lo), i32::from(rule.hi));
        let (mut codes, mut errors) = ([0u8; N], [0i8; N]);
        for i in 0..N {
            let term = residual_term(residual[i], self.by);
            let u = i32::from(rule.before_rounding(start[i].wrapping_add(sums[i]), mult[i], term));
            (codes[i], errors[i]) = clamped(u >> FRACTION_BITS, u & ((1 << FRACTION_BITS) - 1), lo, hi);
        }
        self.codes[at..at + N].copy_from_slice(&codes);
        self.errors[at..at + N].copy_from_slice(&errors);
    }
}

/// Channels that are rounded side by side.
const LANES: usize = 16;

#[inline(always)]
fn lanes<T: Copy + Default, const N: usize>(of: &[T], at: usize) -> [T; N] {
    let mut own = [T::default(); N];
    own.copy_from_slice(&of[at..at + N]);
    own
}

/// The real factor that a multiplier stands for.
pub(super) fn factor(rule: &Epilogue, mult: i32) -> f32 {
    let bits = if rule.f32_fraction_bits == 0 { 38.0 } else { f64::from(rule.f32_fraction_bits) };
    (f64::from(mult) * (f64::from(rule.shl) - bits).exp2()) as f32
}

/// A code within its bounds, and how far the unrounded number is from it: `fraction` has half a unit more.
#[inline(always)]
pub(super) fn clamped(code: i32, fraction: i32, lo: i32, hi: i32) -> (u8, i8) {
    let inside = fraction - (1 << (FRACTION_BITS - 1));
    let error = if code < lo { i32::from(BELOW) } else { inside };
    let error = if code > hi { i32::from(ABOVE) } else { error };
    (code.max(lo).min(hi) as u8, error as i8)
}
