//! The two conversions in which a number may change: everything else is converted with a check.

/// The nearest f32.
#[expect(clippy::cast_possible_truncation, reason = "rounds to the nearest number, an infinity beyond the greatest")]
pub(crate) fn nearest(x: f64) -> f32 {
    x as f32
}

/// A real number without its fraction. What no integer of 64 bits is near becomes the least or the greatest of them, and what is
/// not a number becomes 0.
#[expect(clippy::cast_possible_truncation, reason = "saturates, as callers expect of it")]
pub(crate) fn towards_zero(x: f64) -> i64 {
    x as i64
}
