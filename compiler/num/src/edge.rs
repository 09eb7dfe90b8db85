//! Between float and 8 bits: the float edge of a compiled model, and the float side of the compiler.
//!
//! ```text
//! (6)  q = min(max(round_half_even(x * (1 / S)) + Z, lo), hi)        NaN counts as 0
//! (7)  x = (q - Z) * S
//! ```
//!
//! `1 / S` is rounded to f32 once, so that the product is one f32 multiplication on every machine.

/// Equation (6). `inverse_scale` is `1.0 / scale` in f32.
pub fn quantize(x: f32, inverse_scale: f32, zero_point: i32, lo: i32, hi: i32) -> i32 {
    // Rust's `as` saturates and sends NaN to 0; the sum below then cannot overflow 64 bits.
    let rounded = (x * inverse_scale).round_ties_even() as i32;
    (i64::from(rounded) + i64::from(zero_point)).clamp(i64::from(lo), i64::from(hi)) as i32
}

/// Equation (7).
pub fn dequantize(q: i32, scale: f32, zero_point: i32) -> f32 {
    (q - zero_point) as f32 * scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_the_round_trip() {
        for scale in [0.0039f32, 0.1, 3.7] {
            for zero_point in [0, 3, 128, 255] {
                for q in 0..=255 {
                    assert_eq!(quantize(dequantize(q, scale, zero_point), 1.0 / scale, zero_point, 0, 255), q);
                }
            }
        }
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
