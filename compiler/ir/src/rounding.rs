//! Views of the attributes that say together how an integer operator rounds: each is a rule of [`qcc_num`]. Windows are views, too:
//! see [`crate::window`].

use qcc_num::affine::Affine;
use qcc_num::requant::Epilogue;

use crate::attr;
use crate::ops::Attrs;

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the verifier has seen the ranges")]
impl Attrs {
    /// Bounds `lo` and `hi` of bytes; the verifier has seen that they are.
    pub fn byte_bounds(&self) -> (u8, u8) {
        let byte = |key: attr::Key<i64>| self.get(key).clamp(0, 255) as u8;
        (byte(attr::LO), byte(attr::HI))
    }

    /// The constants of equations (1) to (4), or (15).
    pub fn epilogue(&self) -> Epilogue {
        let (lo, hi) = self.byte_bounds();
        Epilogue {
            shl: self.get(attr::SHL) as u32,
            offset: self.get(attr::OFFSET) as i16,
            f32_fraction_bits: self.try_get(attr::F32_FRACTION_BITS).unwrap_or(0) as u32,
            lo,
            hi,
        }
    }

    /// The constants of equation (5), with an offset that may come from elsewhere.
    pub fn affine(&self, offset: i32) -> Affine {
        let (lo, hi) = self.byte_bounds();
        Affine { shift: self.get(attr::SHIFT) as u32, offset, lo, hi }
    }
}
