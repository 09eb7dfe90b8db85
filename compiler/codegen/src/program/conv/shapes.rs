//! The vector machines that products of a target may be computed on.

use super::product::Product;
use crate::machine::VectorShape;
use crate::target::{Backend, Target};

/// The machines that can compute products on a target.
#[derive(Clone, Copy)]
pub struct Shapes {
    /// For any weights.
    pub dots: &'static VectorShape,
    /// For weights whose products may be summed in 16 bits.
    pub i16_sums: Option<&'static VectorShape>,
    /// For activations that are widened.
    pub fast_inner: Option<&'static VectorShape>,
}

impl Shapes {
    /// Those of a target.
    pub fn of(target: &Target) -> Shapes {
        Shapes {
            dots: target.backend().shape(),
            i16_sums: target.i16_sums_backend().map(Backend::shape),
            fast_inner: target.fast_inner_shape(),
        }
    }

    /// Those for a product: one machine where activations are widened for it.
    pub fn for_product(self, product: &Product<'_>) -> Shapes {
        match (&product.terms, self.fast_inner) {
            (Some(_), Some(shape)) => Shapes { dots: shape, i16_sums: None, ..self },
            _ => self,
        }
    }
}
