//! Samples of a model whose inputs are codes: those of inputs that got another type are shifted as their zero points are.

use std::sync::Arc;

use qcc_ir::{Data, Diag, Int, Tensor};

use crate::Samples;

/// The type of an input's codes, and by how much they are greater than those of the model.
#[derive(Clone, Copy)]
pub(super) struct Shift {
    pub(super) storage: Int,
    pub(super) by: i64,
}

/// Samples in the types that inputs have in the graph.
pub(super) struct Shifted {
    inner: Arc<dyn Samples>,
    shifts: Vec<Option<Shift>>,
}

impl Shifted {
    /// The same samples, those of inputs with a shift in their new type.
    pub(super) fn new(inner: Arc<dyn Samples>, shifts: Vec<Option<Shift>>) -> Shifted {
        Shifted { inner, shifts }
    }
}

impl Samples for Shifted {
    fn len(&self) -> usize {
        self.inner.len()
    }

    fn get(&self, i: usize) -> Result<Vec<Tensor>, Diag> {
        let tensors = self.inner.get(i)?.into_iter().zip(&self.shifts);
        Ok(tensors.map(|(tensor, shift)| shift.map_or(tensor.clone(), |shift| shifted(&tensor, shift))).collect())
    }
}

/// Reals stay: whoever has them quantizes them by the type of the input.
fn shifted(tensor: &Tensor, Shift { storage, by }: Shift) -> Tensor {
    let Some(codes) = crate::constants::codes(tensor) else { return tensor.clone() };
    let codes = codes.into_iter().map(|q| (q + by).clamp(Int::min(storage), Int::max(storage)));
    Tensor::new(&tensor.dims, Data::integers(storage, codes))
}
