//! Conversions between number types that lose bits on purpose: what becomes of numbers that do not fit is said here, and nowhere
//! else by an `as`.

/// The nearest number of single precision; infinite beyond its range.
#[expect(clippy::cast_possible_truncation, reason = "rounds to the nearest")]
pub fn nearest_f32(x: f64) -> f32 {
    x as f32
}

/// The nearest integer, halves away from zero; the least or the greatest one beyond the range, and 0 for what is no number.
#[expect(clippy::cast_possible_truncation, reason = "saturates")]
pub fn nearest_i32(x: f64) -> i32 {
    x.round() as i32
}

/// The nearest integer, halves away from zero; the least or the greatest one beyond the range, and 0 for what is no number.
#[expect(clippy::cast_possible_truncation, reason = "saturates")]
pub fn nearest_i64(x: f64) -> i64 {
    x.round() as i64
}

/// A number of things as the integers of attributes and shapes are: there is no memory for more than these hold.
pub fn count_i64(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_saturates() {
        assert_eq!((nearest_i32(2.5), nearest_i32(-2.5), nearest_i32(1e10)), (3, -3, i32::MAX));
        assert_eq!((nearest_i64(-1e30), nearest_i64(f64::NAN)), (i64::MIN, 0));
        assert_eq!((nearest_f32(1e300), nearest_f32(0.1)), (f32::INFINITY, 0.1));
        assert_eq!(count_i64(7), 7);
    }
}
