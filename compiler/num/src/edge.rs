//! Between float and 8 bits: the float edge of a compiled model, and the float side of the compiler.
//!
//! ```text
//! (6)  q = min(max(round_half_even(x / S) + Z, lo), hi)        NaN counts as 0
//! (7)  x = (q - Z) * S
//! ```
//!
//! The quotient is one f32 division, as ONNX's `QuantizeLinear` has it: a product with `1 / S` would differ next to ties.

/// The scale of an input whose range is found at run time: its greatest magnitude is code 127.
///
/// ```text
/// (14)  S = max(max|x| / 127, 2^-100) in f32,  m = its significand as 31 bits, e = its exponent - 30
/// ```
///
/// What is not finite counts as the greatest finite number.
#[expect(clippy::cast_possible_wrap, reason = "31 bits, and the exponent of an f32")]
pub fn run_time_scale(values: &[f32]) -> [i32; 2] {
    let magnitude = |x: &f32| (x.to_bits() & 0x7fff_ffff).min(f32::MAX.to_bits());
    let greatest = values.iter().map(magnitude).max().unwrap_or(0);
    let bits = (f32::from_bits(greatest) / 127.0).to_bits().max(LEAST_SCALE);
    [((bits & 0x7f_ffff | 0x80_0000) << 7) as i32, (bits >> 23) as i32 - 157]
}

/// Bits of `2^-100`, the least scale of (14).
pub const LEAST_SCALE: u32 = (127 - 100) << 23;

/// Mantissa and exponent as a real number.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the exponent is clamped to that of a normal number; the result is rounded to f32"
)]
pub fn real_scale([mantissa, exponent]: [i32; 2]) -> f32 {
    (f64::from(mantissa) * f64::from_bits(((exponent.clamp(-1000, 900) + 1023) as u64) << 52)) as f32
}

/// Equation (6).
#[expect(
    clippy::cast_possible_truncation,
    reason = "`as` saturates and sends NaN to 0, as the equation wants it; the result is clamped to two i32"
)]
pub fn quantize(x: f32, scale: f32, zero_point: i32, lo: i32, hi: i32) -> i32 {
    // Rust's `as` saturates and sends NaN to 0; the sum below then cannot overflow 64 bits.
    let rounded = nearest(x / scale) as i32;
    (i64::from(rounded) + i64::from(zero_point)).clamp(i64::from(lo), i64::from(hi)) as i32
}

/// The nearest integer, ties to even. Without an instruction for it, which the first x86-64 lacks, a sum does it: between `2^23`
/// and `2^24` floats are the integers.
fn nearest(x: f32) -> f32 {
    const INTEGERS: f32 = 12_582_912.0;
    if x.abs() < 4_194_304.0 { (x + INTEGERS) - INTEGERS } else { x.round_ties_even() }
}

/// Equation (7).
pub fn dequantize(q: i32, scale: f32, zero_point: i32) -> f32 {
    (q - zero_point) as f32 * scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_is_the_nearest() {
        let ends = [0.0f32, 0.5, 1.5, 2.5, 4_194_303.5, 4_194_304.0, 4_194_304.5, 8_388_607.5, 1e30, f32::INFINITY];
        let near = |x: f32| [x.next_down(), x, x.next_up()];
        let many = (0..1_000_000u32).map(|i| f32::from_bits(i.wrapping_mul(4294))).filter(|x| !x.is_nan());
        for x in ends.into_iter().flat_map(near).chain(many) {
            assert_eq!(nearest(x), x.round_ties_even(), "{x}");
            assert_eq!(nearest(-x), -x.round_ties_even(), "-{x}");
        }
        assert!(nearest(f32::NAN).is_nan());
    }

    #[test]
    fn every_code_survives_the_round_trip() {
        for scale in [0.0039f32, 0.1, 3.7] {
            for zero_point in [0, 3, 128, 255] {
                for q in 0..=255 {
                    assert_eq!(quantize(dequantize(q, scale, zero_point), scale, zero_point, 0, 255), q);
                }
            }
        }
    }

    #[test]
    fn scales_of_run_time_are_exact() {
        for greatest in [1.0f32, 0.3, 127.0, 1e-20, 3e38, 1.999] {
            let scale = run_time_scale(&[0.0, -greatest, greatest / 2.0]);
            assert!((1 << 30..=i32::MAX).contains(&scale[0]));
            assert_eq!(real_scale(scale), greatest / 127.0);
        }
        assert_eq!(real_scale(run_time_scale(&[])), f32::from_bits(LEAST_SCALE));
        assert_eq!(run_time_scale(&[f32::INFINITY]), run_time_scale(&[f32::MAX]));
    }

    /// A quotient that is a tie, and whose product with the inverse is not.
    #[test]
    fn quotients_are_divisions() {
        let scale = 0.1f32;
        let next_to_ties = (0..255u16).flat_map(|k| {
            let tie = (f32::from(k) + 0.5) * scale;
            [tie.next_down(), tie, tie.next_up()]
        });
        let differs = |x: &f32| (x / scale).round_ties_even() != (x * (1.0 / scale)).round_ties_even();
        let x = next_to_ties.into_iter().find(differs).expect("a number whose product rounds otherwise");
        assert_eq!(quantize(x, scale, 0, 0, 255), (x / scale).round_ties_even() as i32);
    }

    #[test]
    fn ties_go_to_even_and_odd_values_saturate() {
        assert_eq!(quantize(2.5, 1.0, 0, 0, 255), 2);
        assert_eq!(quantize(3.5, 1.0, 0, 0, 255), 4);
        assert_eq!(quantize(f32::NAN, 1.0, 9, 0, 255), 9);
        assert_eq!(quantize(f32::INFINITY, 1.0, 9, 0, 255), 255);
        assert_eq!(quantize(f32::NEG_INFINITY, 1.0, 9, 0, 255), 0);
    }
}
