//! Fixed-point primitives that are one vector instruction each: saturating shift, high half of a product, saturation.

/// `acc * 2^shl`, saturated to 32 bits.
#[expect(clippy::cast_possible_truncation, reason = "clamped")]
#[inline]
pub fn shl_sat(acc: i32, shl: u32) -> i32 {
    (i64::from(acc) << shl).clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32
}

/// High half of the signed 64-bit product.
#[inline]
pub fn mul_high(a: i32, b: i32) -> i32 {
    ((i64::from(a) * i64::from(b)) >> 32) as i32
}

/// Saturation to 16 bits.
#[expect(clippy::cast_possible_truncation, reason = "clamped")]
#[inline]
pub fn sat16(x: i32) -> i16 {
    x.clamp(i32::from(i16::MIN), i32::from(i16::MAX)) as i16
}

/// Saturation to 32 bits.
#[expect(clippy::cast_possible_truncation, reason = "clamped")]
pub fn sat32(x: i64) -> i32 {
    x.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32
}

/// A whole number as an integer; it saturates, and what is not a number is 0.
#[expect(clippy::cast_possible_truncation, reason = "the saturation of `as` is what it is for")]
pub fn whole(x: f64) -> i64 {
    x as i64
}

/// The nearest number of single precision; beyond its range it is infinite.
#[expect(clippy::cast_possible_truncation, reason = "the rounding of `as` is what it is for")]
pub fn to_f32(x: f64) -> f32 {
    x as f32
}
